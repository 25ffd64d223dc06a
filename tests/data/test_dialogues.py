"""The schema of dialogues: every malformed line in one message, and exact round trips."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import refused

import seqrl.data.dialogues as module
from seqrl.data.dialogues import Dialogue, Turn, numbered_dialogues, read_dialogues, shown, write_dialogues
from seqrl.errors import UserError

SOUND = '{"id": "a", "agent": "bot", "turns": [{"speaker": "bot", "text": "hi"}]}'


def with_turn(more: str) -> str:
    return SOUND[:-3] + f", {more}}}]}}"


def with_part(more: str) -> str:
    return SOUND[:-1] + f", {more}}}"


def dialogue(**changes: Any) -> Dialogue:
    return Dialogue(**({"id": "a", "agent": "bot", "turns": (Turn(speaker="bot", text="hi"),)} | changes))


FULL = Dialogue(
    id="dialogue-1",
    turns=(
        Turn(speaker="person", text="<b>hello</b>\u2028\x85\x1b[31m & \\ \U0001f600", at=0.5),
        Turn(speaker="bot", text="", reward=-0.1, thumbs=-1, clicks=0, propensity=1.5, at=2.0),
        Turn(speaker="bot", text="\r\n\t", reward=0.0, thumbs=1, clicks=2**53, cut=True),
    ),
    agent="bot",
    outcome={"agreement": False, "points": 0, "share": 1e-300, "why": "ü"},
    meta={"": "an empty key", "large": -(2**53)},
)

BAD: list[tuple[str, str | bytes, str]] = [
    # What is no JSON, or sets traps for other readers of JSON.
    ("cut", SOUND[:-20], "is damaged JSON (unterminated string starting at column 51): write it again"),
    ("no JSON", "hello", "is damaged JSON (expecting value at column 1): write it again"),
    ("two", SOUND + SOUND, "is damaged JSON (extra data at column 73): write it again"),
    ("zeros", "\0\0", "is damaged JSON (expecting value at column 1): write it again"),
    ("raw control", SOUND.replace("hi", "h\x07"),
     "is damaged JSON (invalid control character at column 68): write it again"),
    ("single quotes", "{'id': 1}",
     "is damaged JSON (expecting property name enclosed in double quotes at column 2): write it again"),
    ("latin-1", SOUND.replace("hi", "h\xe9").encode("latin-1"),
     "is no text in UTF-8 (byte 0xe9 at 67): write it again as UTF-8"),
    ("utf-16", SOUND.encode("utf-16"), "is no text in UTF-8 (byte 0xff at 0): write it again as UTF-8"),
    ("packed", b"\x1f\x8b\x08", "is no text in UTF-8 (byte 0x8b at 1): it is packed by gzip, unpack it first"),
    ("surrogate bytes", SOUND.replace("hi", "\ud800").encode(errors="surrogatepass"),
     "is no text in UTF-8 (byte 0xed at 66): write it again as UTF-8"),
    ("second mark", "\ufeff" + SOUND, "begins with a byte-order mark: remove it, only a file may begin with one"),
    ("NaN", with_turn('"reward": NaN'), "holds NaN: numbers must be finite; leave out what is not known"),
    ("infinity", with_turn('"reward": -Infinity'),
     "holds -Infinity: numbers must be finite; leave out what is not known"),
    ("1e999", with_turn('"reward": 1e999'), "holds 1e999, which is infinite as a float: numbers must be finite"),
    ("huge", with_turn('"clicks": ' + "9" * 5000),
     "holds the integer 99999999999999999999…: beyond 2^53 it is not exact; write it as a string"),
    ("2^53 + 1", with_part('"outcome": {"points": 9007199254740993}'),
     "holds the integer 9007199254740993: beyond 2^53 it is not exact; write it as a string"),
    ("key twice", with_turn('"reward": 1, "reward": 2'), "has the key 'reward' twice in one object: keep one"),
    ("deep", "[" * 200_000, "is nested too deeply: give turns as a flat list"),
    # The dialogue.
    ("list", "[]", "is a list: give an object with id, agent and turns"),
    ("string", '"\\u001b[2J"', 'is "\\x1b[2J": give an object with id, agent and turns'),
    ("null", "null", "is null: give an object with id, agent and turns"),
    ("other form", '{"messages": []}', "is in another format (it has 'messages'): seqrl import makes dialogues of it"),
    ("episode", '{"observations": [], "actions": []}',
     "is in another format (it has 'observations'): seqrl import makes a dataset of episodes of it"),
    ("unknown key", with_part('"outcomes": {}'),
     "has the unknown key 'outcomes': did you mean 'outcome'?; what else is known belongs in meta"),
    ("unlike key", with_part('"x\\u001by": 1'),
     "has the unknown key 'x\\x1by': known: agent, id, meta, outcome, turns; what else is known belongs in meta"),
    ("no id", '{"agent": "a", "turns": []}', "has no 'id': give each dialogue a string of its own"),
    ("no agent", '{"id": "a", "turns": []}', "has no 'agent': name the speaker that is to be learnt"),
    ("no turns", '{"id": "a", "agent": "a"}', "has no 'turns': give a list of objects with speaker and text"),
    ("id", SOUND.replace('"a"', "7"), ": id is 7: give a string"),
    ("empty id", SOUND.replace('"a"', '" "'), ": id is empty: give it a name"),
    ("agent", SOUND.replace('"agent": "bot"', '"agent": null'), ": agent is null: give a string"),
    ("turns", '{"id": "a", "agent": "a", "turns": {}}',
     ": turns is an object: give a list of objects with speaker and text"),
    ("no turn", '{"id": "a", "agent": "a", "turns": []}', ": turns is empty: leave the dialogue out"),
    # A turn.
    ("turn", '{"id": "a", "agent": "a", "turns": ["hi"]}', ': turns[0] is "hi": give an object with speaker and text'),
    ("unknown turn key", with_turn('"rewrd": 1'), ": turns[0] has the unknown key 'rewrd': did you mean 'reward'?"),
    ("no text", '{"id": "a", "agent": "a", "turns": [{"speaker": "a"}]}',
     ": turns[0] has no 'text': give what is said, a string"),
    ("no speaker", '{"id": "a", "agent": "a", "turns": [{"text": "a"}]}',
     ": turns[0] has no 'speaker': name who says it"),
    ("text", SOUND.replace('"hi"', '["hi"]'), ": turns[0].text is a list: give a string"),
    ("speaker", SOUND.replace('"speaker": "bot"', '"speaker": true'), ": turns[0].speaker is true: give a string"),
    ("empty speaker", SOUND.replace('"speaker": "bot"', '"speaker": ""'),
     ": turns[0].speaker is empty: give it a name"),
    ("surrogate", SOUND.replace("hi", "h\\ud800"), ": turns[0].text has half of a surrogate pair (\\ud800 at 1): "
     "write the whole character, or leave it out"),
    ("reward", with_turn('"reward": "high"'), ': turns[0].reward is "high": give a number, or leave it out'),
    ("reward 1e16", with_turn('"reward": -1e16'),
     ": turns[0].reward is -1e+16: values are learnt of rewards up to 1e+15, scale them"),
    ("reward bool", with_turn('"reward": true'), ": turns[0].reward is true: give a number, or leave it out"),
    ("reward null", with_turn('"reward": null'), ": turns[0].reward is null: give a number, or leave it out"),
    ("thumbs", with_turn('"thumbs": 0'), ": turns[0].thumbs is 0: give 1 for up, -1 for down, or leave it out"),
    ("thumbs bool", with_turn('"thumbs": true'),
     ": turns[0].thumbs is true: give 1 for up, -1 for down, or leave it out"),
    ("clicks", with_turn('"clicks": -1'), ": turns[0].clicks is -1: give how many there were, 0 or more"),
    ("clicks float", with_turn('"clicks": 1.5'), ": turns[0].clicks is 1.5: give how many there were, 0 or more"),
    ("propensity", with_turn('"propensity": []'), ": turns[0].propensity is a list: give a number, or leave it out"),
    ("cut off", with_turn('"cut": 1'), ": turns[0].cut is 1: give true where the turn was cut off, or leave it out"),
    ("at", with_turn('"at": "2026-01-01T00:00:00Z"'),
     ': turns[0].at is "2026-01-01T00:00:00Z": give a number, or leave it out'),
    # Outcome and meta.
    ("outcome", with_part('"outcome": 5'), ": outcome is 5: give an object of strings, numbers and booleans"),
    ("outcome null", with_part('"outcome": {"points": null}'),
     ": outcome.points is null: give a string, a number or a boolean, or leave it out"),
    ("meta", with_part('"meta": {"a": {"b": 1}}'),
     ": meta.a is an object: give a string, a number or a boolean, or leave it out"),
    ("meta key", with_part('"meta": {"\\udc00": 1}'),
     ": meta: the key '\\udc00' has half of a surrogate pair (\\udc00 at 0): write the whole character, or leave it "
     "out"),
    ("meta text", with_part('"meta": {"a": "\\udc00"}'),
     ": meta.a has half of a surrogate pair (\\udc00 at 0): write the whole character, or leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_malformed_lines(tmp_path: Path, line: str | bytes, message: str) -> None:
    """File, line, what and the way out, in one line. Golden: blank lines count, so `number += 1` stands before `if`."""
    assert refused(tmp_path, read_dialogues, SOUND, line, message) == dialogue()


def test_at_least_thirty_kinds() -> None:
    assert len({message for _, _, message in BAD}) >= 30


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    for content in (b"", b"\n \n\r\n", b"\xef\xbb\xbf"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"log\.jsonl holds no dialogues: give a file with one a line$"):
            list(read_dialogues(path))
    with pytest.raises(UserError, match=r"cannot read .*nowhere \(No such file or directory\): give a file of"):
        list(read_dialogues(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        list(read_dialogues(tmp_path))
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 20)
    path.write_bytes(b" " * (1 << 20) + b" ")
    with pytest.raises(UserError, match="line 1 is longer than 1 MiB: give a dialogue a line"):
        list(read_dialogues(path))


def test_what_is_allowed(tmp_path: Path) -> None:
    """A mark at the beginning, CRLF, blank lines, no line end at the end, integers for floats, empty texts."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + SOUND.encode() + b"\r\n \r\n" + with_turn('"reward": 1, "thumbs": 1.0').encode())
    (one, first), (three, second) = numbered_dialogues(path)
    assert (one, three) == (1, 3)
    assert first == dialogue()
    assert second.turns[0].reward == 1.0
    assert isinstance(second.turns[0].reward, float)
    assert second.turns[0].thumbs == 1


def test_reading_is_a_stream(tmp_path: Path) -> None:
    """What comes before a damaged line is there before that line is looked at."""
    path = tmp_path / "log.jsonl"
    path.write_text(SOUND + "\nhello\n")
    assert next(read_dialogues(path)) == dialogue()


def test_round_trip(tmp_path: Path) -> None:
    """Golden: with `if (value := …)` instead of `is not None` in `_line`, rewards and clicks of 0 would be refused."""
    path, again = tmp_path / "log.jsonl", tmp_path / "again.jsonl"
    assert write_dialogues(path, [FULL, dialogue()]) == 2
    assert list(read_dialogues(path)) == [FULL, dialogue()]
    assert len(path.read_text().splitlines()) == 2  # Python's own line ends are many
    write_dialogues(again, read_dialogues(path))
    assert path.read_bytes() == again.read_bytes()
    write_dialogues(path, read_dialogues(path))  # onto itself
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dialogue(turns=(Turn(speaker="bot", text="hi", reward=float("nan")),)), "turns[0].reward is not finite"),
        (dialogue(turns=(Turn(speaker="bot", text="hi", reward=10**400),)), "turns[0].reward is not finite"),
        (dialogue(turns=(Turn(speaker="bot", text="\ud800"),)), "half of a surrogate pair"),
        (dialogue(turns=[Turn(speaker="bot", text="hi")]), "would not read back the same: give tuples"),
        (dialogue(outcome={"points": float("inf")}), "outcome.points is not finite"),
        (dialogue(outcome={"points": None}), "outcome.points is null"),
        (dialogue(meta={1: "a"}), "is named by 1: give a string"),
        (dialogue(id=""), "id is empty"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, bad: Dialogue, message: str) -> None:
    path = tmp_path / "log.jsonl"
    write_dialogues(path, [dialogue()])
    with pytest.raises(UserError) as error:
        write_dialogues(path, [FULL, bad])
    assert message in str(error.value)
    assert "dialogue 2 to write" in str(error.value)
    assert list(read_dialogues(path)) == [dialogue()]
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would hold no dialogues"):
        write_dialogues(tmp_path / "log.jsonl", [])
    with pytest.raises(UserError, match=r"cannot write .*No such file"):
        write_dialogues(tmp_path / "nowhere" / "log.jsonl", [dialogue()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>plain</b> [red]ü 😀", "<b>plain</b> [red]ü 😀"),
        ("\x1b[31m\r\n\t\x00\x7f\x9b", r"\x1b[31m\r\n\t\x00\x7f\x9b"),
        ("\u202eabc\u200b\ufeff\u2028\xa0", r"\u202eabc\u200b\ufeff\u2028\xa0"),
        ("\u034f\u115f\u17b4\u180b\u2800\u3164\ufe0f", r"\u034f\u115f\u17b4\u180b\u2800\u3164\ufe0f"),
        ("\\x1b \ud800", r"\\x1b \ud800"),
        ("a" * 61, "a" * 60 + "…"),
        (7, "7"),
    ],
)
def test_shown(text: object, expected: str) -> None:
    """Golden: without the test for the backslash, the fourth could not be told from an escape sequence."""
    assert shown(text) == expected


CHARACTERS = st.characters() | st.sampled_from('\x00\x1b\u2028\x85\ud800\\"[]{}')
TEXTS = st.text(CHARACTERS, max_size=8)
NUMBERS = st.integers() | st.floats() | st.booleans() | st.just(10**30)
JSON = st.recursive(
    st.none() | NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
KEYS = st.sampled_from([*module.TURN_KEYS, *module.DIALOGUE_KEYS, "rewrd"])
TURNS = st.lists(st.dictionaries(KEYS, JSON, max_size=5) | JSON, max_size=3)
NEARLY = st.fixed_dictionaries(
    {"id": TEXTS | JSON, "agent": TEXTS, "turns": TURNS}, optional={"outcome": JSON, "meta": JSON, "outcmoe": JSON}
)
FUZZ = settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "fsync", lambda _: None)  # a shared disk takes long for it


def reads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read = list(read_dialogues(path))
    except UserError as error:
        message = str(error)
    else:
        write_dialogues(path, read)
        assert list(read_dialogues(path)) == read
        return
    assert message.isprintable()
    assert message.startswith(str(path))


@pytest.mark.usefixtures("no_sync")
@FUZZ
@given(st.lists(NEARLY | JSON, min_size=1, max_size=3))
def test_fuzz_of_objects(tmp_path: Path, values: list[Any]) -> None:
    """Nothing but UserError, in one line that cannot steer a terminal, and what reads, reads again.

    Golden: without `except RecursionError`, or the surrogates' check, a test of this file fails.
    """
    reads_or_refuses(tmp_path / "log.jsonl", "\n".join(map(json.dumps, values)).encode())


@pytest.mark.usefixtures("no_sync")
@FUZZ
@given(st.data())
def test_fuzz_of_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """The same for a sound file with some bytes changed, and for any bytes."""
    write_dialogues(tmp_path / "sound.jsonl", [FULL, dialogue()])
    content = bytearray((tmp_path / "sound.jsonl").read_bytes())
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=3)
    ):
        content[place] = byte
    cut = data.draw(st.integers(0, len(content)))
    reads_or_refuses(tmp_path / "log.jsonl", bytes(content[:cut]) + data.draw(st.binary(max_size=8)))


@pytest.mark.usefixtures("no_sync")
@FUZZ
@given(
    st.builds(
        Dialogue,
        id=st.text(min_size=1).filter(str.strip),
        agent=st.just("bot"),
        turns=st.lists(
            st.builds(
                Turn,
                speaker=st.just("bot"),
                text=st.text(),
                reward=st.none() | st.floats(-1e15, 1e15),
                thumbs=st.sampled_from([None, -1, 1]),
                clicks=st.none() | st.integers(0, 2**53),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        outcome=st.dictionaries(st.text(), st.text() | st.booleans() | st.integers(-(2**53), 2**53)),
    )
)
def test_fuzz_of_round_trips(tmp_path: Path, value: Dialogue) -> None:
    path = tmp_path / "log.jsonl"
    write_dialogues(path, [value])
    assert list(read_dialogues(path)) == [value]
