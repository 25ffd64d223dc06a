"""Preferences and thumbs: every malformed line in one message, TRL's forms, exact round trips, lines added durably."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import refused

from seqrl.data.dialogues import Turn
from seqrl.data.preferences import (
    Preference,
    Thumb,
    append_preference,
    mend_end,
    numbered_preferences,
    read_preferences,
    read_thumbs,
    thumbs_of,
    write_preferences,
    write_thumbs,
)
from seqrl.errors import UserError

USER, AGENT = '{"role": "user", "content": "q"}', '{"role": "assistant", "content": "a"}'


def pair(prompt: str = '"q"', chosen: str = '"a"', rejected: str = '"b"', more: str = "") -> str:
    return f'{{"prompt": {prompt}, "chosen": {chosen}, "rejected": {rejected}{more}}}'


def thumb(prompt: str = '"q"', completion: str = '"a"', label: str = "true", more: str = "") -> str:
    return f'{{"prompt": {prompt}, "completion": {completion}, "label": {label}{more}}}'


def said(speaker: str, text: str) -> tuple[Turn, ...]:
    return (Turn(speaker=speaker, text=text),)


def preference(**changes: Any) -> Preference:
    parts = {"prompt": said("user", "q"), "chosen": said("assistant", "a"), "rejected": said("assistant", "b")}
    return Preference(**({"id": "log-1"} | parts | changes))


FULL = preference(
    id="p\u2028",
    prompt=(*said("system", "be kind"), *said("person", "<b>&\\\x1b[31m\U0001f600"), *said("bot", "")),
    chosen=(*said("bot", "one"), *said("person", "\x85"), *said("bot", "two")),
    rejected=said("bot", "\r\n\t"),
    labeller="ada",
    agent="bot",
    meta={"source": "ü", "score": -0.1, "sure": False, "count": 2**53},
)
AGAIN = preference(prompt=said("assistant", "a"), rejected=(*said("assistant", "a"), *said("assistant", "a")))
"""Answers that say their prompt again."""
SILENT = " after the prompt: check the roles, or name it with 'agent'"
MESSAGES = " is neither a string nor a list: give messages of role and content"
HALF = " has half of a surrogate pair (\\udc00 at 0): write the whole character, or leave it out"
NO_MESSAGE = " is no message: give an object of role and content"
NO_TEXT = " has a role or content that is no string: give text alone"
NESTED = " holds a list or an object: drop it, or write it as text"
PARTS = ": give an object with prompt, completion and label"
THUMB = "): seqrl train kto --thumbs learns from them"
RENAME = "'? If not, rename it"

BAD: list[tuple[str, str | bytes, str]] = [
    ("cut", pair()[:-5], "is damaged JSON (expecting value at column 43): write it again"),
    (
        "latin",
        pair().replace('"a"', '"\xe9"').encode("latin-1"),
        "is no text in UTF-8 (byte 0xe9 at 27): write it again as UTF-8",
    ),
    ("no JSON", "hello", "is damaged JSON (expecting value at column 1): write it again"),
    ("NaN", pair(more=', "score": NaN'), "holds NaN: numbers must be finite; leave out what is not known"),
    ("1e999", pair(more=', "score": 1e999'), "holds 1e999, which is infinite as a float: numbers must be finite"),
    (
        "2^53",
        pair(more=', "rank": 9007199254740993'),
        "holds the integer 9007199254740993: beyond 2^53 it is not exact; write it as a string",
    ),
    ("twice", pair(more=', "chosen": "c"'), "has the key 'chosen' twice in one object: keep one"),
    ("deep", "[" * 200000, "is nested too deeply: give turns as a flat list"),
    ("list", "[]", "is no object: give one with chosen and rejected"),
    ("string", '"a"', "is no object: give one with chosen and rejected"),
    ("null", "null", "is no object: give one with chosen and rejected"),
    (
        "dialogue",
        '{"id": "a", "agent": "b", "turns": []}',
        "is a dialogue (it has 'turns'): seqrl train bc learns from them",
    ),
    ("messages", f'{{"messages": [{USER}]}}', "is a dialogue (it has 'messages'): seqrl train bc learns from them"),
    ("thumbs", thumb(), "is a thumb (it has 'completion'" + THUMB),
    ("label besides", pair(more=', "label": true'), "is a thumb (it has 'label'" + THUMB),
    ("completion besides", pair(more=', "completion": "a"'), "is a thumb (it has 'completion'" + THUMB),
    ("no chosen", '{"prompt": "q", "rejected": "b"}', "has no 'chosen': give an object with chosen and rejected"),
    ("no rejected", '{"prompt": "q", "chosen": "b"}', "has no 'rejected': give an object with chosen and rejected"),
    ("null rejected", pair(rejected="null"), "has no 'rejected': give an object with chosen and rejected"),
    (
        "typo",
        '{"prompt": "q", "choosen": "a", "rejected": "b"}',
        "has the column 'choosen': did you mean 'chosen" + RENAME,
    ),
    ("typo2", pair(more=', "labeler": "x"'), "has the column 'labeler': did you mean 'labeller" + RENAME),
    ("typo3", pair(more=', "propmt": "x"'), "has the column 'propmt': did you mean 'prompt" + RENAME),
    (
        "typo4",
        '{"promt": "q", "chosen": "a", "rejected": "b"}',
        "has the column 'promt': did you mean 'prompt" + RENAME,
    ),
    ("column list", pair(more=', "tags": ["x"]'), ": column 'tags'" + NESTED),
    ("column object", pair(more=', "scores": {"a": 1}'), ": column 'scores'" + NESTED),
    ("id", pair(more=', "id": 1.5'), ": id is 1.5: give a string"),
    ("id bool", pair(more=', "id": true'), ": id is true: give a string"),
    ("id empty", pair(more=', "id": " "'), ": id is empty: give it a name"),
    ("labeller", pair(more=', "labeller": 7'), ": labeller is 7: give a string"),
    ("labeller empty", pair(more=', "labeller": ""'), ": labeller is empty: give it a name"),
    ("agent", pair(more=', "agent": []'), ": agent is a list: give a string"),
    ("agent empty", pair(more=', "agent": ""'), ": agent is empty: give it a name"),
    ("prompt", pair(prompt="5"), ": prompt" + MESSAGES),
    ("chosen", pair(chosen="{}"), ": chosen" + MESSAGES),
    ("rejected", pair(rejected="false"), ": rejected" + MESSAGES),
    ("empty list", pair(chosen="[]"), ": chosen: nothing is said by 'assistant'" + SILENT),
    ("message", pair(chosen='["a"]'), ": chosen[0]" + NO_MESSAGE),
    ("no content", pair(chosen='[{"role": "assistant"}]'), ": chosen[0]" + NO_MESSAGE),
    ("no role", pair(prompt='[{"content": "a"}]'), ": prompt[0]" + NO_MESSAGE),
    ("content null", pair(chosen='[{"role": "assistant", "content": null}]'), ": chosen[0]" + NO_TEXT),
    ("content list", pair(chosen='[{"role": "assistant", "content": [{"type": "text"}]}]'), ": chosen[0]" + NO_TEXT),
    ("role", pair(chosen='[{"role": 1, "content": "a"}]'), ": chosen[0]" + NO_TEXT),
    ("role empty", pair(prompt='[{"role": "", "content": "a"}]'), ": prompt[0].role is empty: give it a name"),
    (
        "name",
        pair(prompt='[{"role": "user", "content": "a", "name": "x"}]'),
        ": prompt[0] has 'name' besides role and content: drop it, or put it there",
    ),
    ("agent silent", pair(chosen=f"[{USER}]"), ": chosen: nothing is said by 'assistant'" + SILENT),
    (
        "agent silent rejected",
        pair(rejected='[{"role": "bot", "content": "a"}]'),
        ": rejected: nothing is said by 'assistant'" + SILENT,
    ),
    (
        "only the prompt",
        pair(prompt=f"[{USER}, {AGENT}]", chosen=f"[{USER}, {AGENT}]"),
        ": chosen: nothing is said by 'assistant'" + SILENT,
    ),
    ("other agent", pair(chosen=f"[{AGENT}]", more=', "agent": "bot"'), ": chosen: nothing is said by 'bot'" + SILENT),
    (
        "surrogate",
        pair(chosen='"\\ud800"'),
        ": chosen[0].content has half of a surrogate pair (\\ud800 at 0): write the whole character, or leave it out",
    ),
    (
        "surrogate prompt",
        pair(prompt='[{"role": "u\\udc00", "content": "a"}]'),
        ": prompt[0].role has half of a surrogate pair (\\udc00 at 1): write the whole character, or leave it out",
    ),
    ("surrogate labeller", pair(more=', "labeller": "\\udc00"'), ": labeller" + HALF),
    ("surrogate column", pair(more=', "source": "\\udc00"'), ": meta.source" + HALF),
    ("surrogate key", pair(more=', "\\udc00": "a"'), ": meta: the key '\\udc00'" + HALF),
    ("escape", pair(more=', "x\\u001by": []'), ": column 'x\\x1by'" + NESTED),
]

BAD_THUMBS: list[tuple[str, str | bytes, str]] = [
    ("pair", pair(), "is a preference (it has 'chosen'): seqrl train dpo, or kto --preferences, learns from them"),
    ("no label", '{"prompt": "q", "completion": "a"}', "has no 'label'" + PARTS),
    ("no completion", '{"prompt": "q", "label": true}', "has no 'completion'" + PARTS),
    ("no prompt", '{"completion": "a", "label": true}', "has no 'prompt'" + PARTS),
    ("label 1", thumb(label="1"), ": label is neither true nor false: give true for thumbs up, false for down"),
    ("label str", thumb(label='"true"'), ": label is neither true nor false: give true for thumbs up, false for down"),
    ("label null", thumb(label="null"), "has no 'label'" + PARTS),
    ("silent", thumb(completion=f"[{USER}]"), ": completion: nothing is said by 'assistant'" + SILENT),
    ("typo", thumb(more=', "lable": true'), "has the column 'lable': did you mean 'label" + RENAME),
    ("completion", thumb(completion="5"), ": completion" + MESSAGES),
    ("surrogate", thumb(completion='"\\udc00"'), ": completion[0].content" + HALF),
    ("list", "[]", "is no object: give one with prompt, completion and label"),
    ("dialogue", '{"turns": []}', "is a dialogue (it has 'turns'): seqrl train bc learns from them"),
]


@pytest.mark.parametrize(("line", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_malformed_preferences(tmp_path: Path, line: str | bytes, message: str) -> None:
    """Golden: without the check of other forms' columns, thumbs would be read as preferences that lack a column."""
    assert refused(tmp_path, read_preferences, pair(), line, message) == preference()


@pytest.mark.parametrize(("line", "message"), [case[1:] for case in BAD_THUMBS], ids=[case[0] for case in BAD_THUMBS])
def test_malformed_thumbs(tmp_path: Path, line: str | bytes, message: str) -> None:
    first = refused(tmp_path, read_thumbs, thumb(), line, message)
    assert first == Thumb(id="log-1", prompt=said("user", "q"), completion=said("assistant", "a"), label=True)


def test_at_least_thirty_kinds() -> None:
    assert len({message for _, _, message in BAD}) >= 30


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n")
    with pytest.raises(UserError, match=r"p\.jsonl holds no preferences: give a file with one a line$"):
        list(read_preferences(path))
    with pytest.raises(UserError, match=r"cannot read .*nowhere \(No such file or directory\): give a file of thumbs"):
        list(read_thumbs(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="would hold no preferences"):
        write_preferences(path, [])


def test_forms_of_trl(tmp_path: Path) -> None:
    """Golden: `most` without − 1 would leave identical answers nothing; a prompt is not said twice."""
    question, answer, other = json.loads(USER), json.loads(AGENT), {"role": "assistant", "content": "b"}
    lines = [
        {"prompt": [question], "chosen": [answer], "rejected": [other], "id": 7, "labeller": None, "score": 0.5},
        {"prompt": [question], "chosen": [question, answer], "rejected": [question, other]},
        {"chosen": [question, answer], "rejected": [question, other]},
        {"chosen": [question, answer], "rejected": [question, answer]},
        {"chosen": "a", "rejected": "b"},
        {"prompt": [], "chosen": "a", "rejected": [answer, question, answer]},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)))
    (_, first), (number, second), *rest = numbered_preferences(path)
    assert first == preference(id="7", meta={"score": 0.5})
    assert number == 3
    assert second == preference(id="log-3")
    assert rest[0][1] == preference(id="log-5")
    assert rest[1][1] == preference(id="log-7", rejected=said("assistant", "a"))
    assert rest[2][1] == preference(id="log-9", prompt=())
    answers = (*said("assistant", "a"), *said("user", "q"), *said("assistant", "a"))
    assert rest[3][1] == preference(id="log-11", prompt=(), rejected=answers)


def test_round_trips(tmp_path: Path) -> None:
    """Golden: `if judged.labeller` and the agent's column; lines end only where they should."""
    path, again = tmp_path / "{p}.jsonl", tmp_path / "again.jsonl"  # a name is no form to be filled in
    assert write_preferences(path, [FULL, preference(), AGAIN]) == 3
    assert list(read_preferences(path)) == [FULL, preference(), AGAIN]
    assert len(path.read_text().splitlines()) == 3
    write_preferences(again, read_preferences(path))
    assert path.read_bytes() == again.read_bytes()
    thumbs = list(thumbs_of([FULL]))
    assert [(each.id, each.label, each.completion) for each in thumbs] == [
        ("p\u2028-chosen", True, FULL.chosen), ("p\u2028-rejected", False, FULL.rejected),
    ]  # fmt: skip
    write_thumbs(path, thumbs)
    assert list(read_thumbs(path)) == thumbs


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (preference(chosen=(Turn(speaker="assistant", text="a", reward=1.0),)), "would not read back the same"),
        (preference(chosen=said("bot", "a")), "nothing is said by 'assistant'"),
        (preference(meta={"chosen": "x"}), "has 'chosen' in meta, which is a column of its own"),
        (preference(meta={"labeler": "x"}), "did you mean 'labeller'"),
        (preference(meta={"score": float("nan")}), "meta.score is not finite"),
        (preference(labeller=""), "labeller is empty"),
        (preference(prompt=list(said("user", "q"))), "would not read back the same"),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path: Path, bad: Preference, message: str) -> None:
    path = tmp_path / "p.jsonl"
    with pytest.raises(UserError, match=message):
        append_preference(path, bad)
    with pytest.raises(UserError, match=message):
        write_preferences(path, [preference(), bad])
    assert list(tmp_path.iterdir()) == []


def test_lines_are_added_durably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden: without os.fsync, or with the fsync before the write, what is on the disk lacks the line."""
    path, synced = tmp_path / "p.jsonl", []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", watched)
    for each in (preference(), FULL):
        append_preference(path, each)
        assert synced[-1] == path.read_bytes()
        assert synced[-1].endswith(b"\n")
    assert list(read_preferences(path)) == [preference(), FULL]
    with pytest.raises(UserError, match="cannot write"):
        append_preference(tmp_path / "no" / "p.jsonl", FULL)


def test_a_line_that_was_cut_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden: a whole line that lacks its end is kept; `startswith(BEGINNING)` alone would refuse the first bytes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the slowest part of it
    path = tmp_path / "p.jsonl"
    write_preferences(path, [preference()])
    line = path.read_bytes()
    for cut in (*range(12), *range(12, len(line) - 1, 11), len(line) - 1):
        path.write_bytes(line + line[:cut])
        assert mend_end(path) == (cut if cut < len(line) - 1 else 0)
        append_preference(path, FULL)
        whole = [preference()] * (1 + (cut == len(line) - 1))
        assert list(read_preferences(path)) == [*whole, FULL]
    path.write_bytes(b"some other text")
    with pytest.raises(UserError, match="ends in the middle of a line"):
        append_preference(path, FULL)
    assert path.read_bytes() == b"some other text"
    assert mend_end(tmp_path / "nowhere") == 0


FUZZ = settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
TEXT = st.sampled_from(["", "a"]) | st.text()
TURNS = st.lists(st.builds(Turn, speaker=st.sampled_from(["user", "assistant"]), text=TEXT), max_size=2).map(tuple)
LAST = st.builds(Turn, speaker=st.just("assistant"), text=TEXT)


@FUZZ
@given(
    prompt=TURNS,
    answers=st.lists(st.tuples(TURNS, LAST), min_size=2, max_size=2),
    labeller=st.none() | st.text(min_size=1).filter(str.strip),
    score=st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_fuzz_of_round_trips(tmp_path: Path, prompt: Any, answers: Any, labeller: Any, score: Any) -> None:
    """Whatever is written reads back the same. Golden: without `_said`, answers that say their prompt again do not."""
    chosen, rejected = ((*turns, last) for turns, last in answers)
    value = preference(prompt=prompt, chosen=chosen, rejected=rejected, labeller=labeller, meta={"score": score})
    path = tmp_path / "p.jsonl"
    write_preferences(path, [value])
    assert list(read_preferences(path)) == [value]


@FUZZ
@given(data=st.data())
def test_fuzz_of_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes are read, or refused in a message; nothing else is raised."""
    content = bytearray(pair(more=', "labeller": "ada", "score": 1.5').encode())
    places = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=3)
    for place, byte in data.draw(places):
        content[place] = byte
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    for read in (read_preferences, read_thumbs):
        with contextlib.suppress(UserError):
            list(read(path))


# Breaks if what its reader refuses counts as cut: a whole line would be deleted.
@pytest.mark.parametrize(
    "line", [b'{"id": "b", "score": NaN}', b'{"id": "b", "n": 1e400}', b'{"id": "b", "t": "\xff"}']
)
def test_a_whole_line_that_is_wrong_is_not_cut_off(tmp_path, line):
    path = tmp_path / "p.jsonl"
    path.write_bytes(line)
    assert mend_end(path) == 0
    assert path.read_bytes() == line + b"\n"
