"""Each finding of an audit of dialogues is provoked once, and a sound log has none."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import seqrl.audit.of_dialogues as module
from seqrl.audit import Audit, audit_dialogues
from seqrl.cli import main
from seqrl.cli.splitting import is_held_out
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues

Dialogues = list[Dialogue]


def sound(number: int = 120) -> Dialogues:
    """Deals whose points, 1 to 5 or 0 where it fails, come on the agent's last turn."""
    dialogues = []
    for k in range(number):
        points = k % 6
        turns = (
            Turn(speaker="person", text=f"what about {k} ?", at=10.0 * k),
            Turn(speaker="bot", text="well no", reward=0.0, propensity=0.5, at=10.0 * k + 1),
            Turn(speaker="person", text="please", at=10.0 * k + 2),
            Turn(speaker="bot", text="fine then , yes", reward=float(points), propensity=1.0, at=10.0 * k + 3),
        )
        outcome = {"agreement": points > 0, "points": points}
        dialogues.append(Dialogue(id=f"d{k}", turns=turns, agent="bot", outcome=outcome, meta={"budget": k % 7}))
    return dialogues


def with_turn(dialogue: Dialogue, index: int, **changes: object) -> Dialogue:
    turns = list(dialogue.turns)
    turns[index] = replace(turns[index], **changes)  # type: ignore[arg-type]
    return replace(dialogue, turns=tuple(turns))


def at(place: int, change: Callable[[Dialogue], Dialogue]) -> Callable[[Dialogues], Dialogues]:
    return lambda log: [change(each) if k == place else each for k, each in enumerate(log)]


def all_of(change: Callable[[Dialogue], Dialogue]) -> Callable[[Dialogues], Dialogues]:
    return lambda log: [change(each) for each in log]


def without_rewards(dialogue: Dialogue) -> Dialogue:
    return replace(dialogue, turns=tuple(replace(turn, reward=None) for turn in dialogue.turns))


def turn(index: int, **changes: object) -> Callable[[Dialogue], Dialogue]:
    return lambda dialogue: with_turn(dialogue, index, **changes)


def copied(dialogue: Dialogue) -> Dialogue:
    return with_turn(dialogue, 1, reward=float(dialogue.outcome["points"]))


CASES: dict[str, tuple[str, Callable[[Dialogues], Dialogues]]] = {
    "same_id": ("wrong", at(5, lambda each: replace(each, id="d4"))),
    "duplicates": ("look", lambda log: [*log, replace(log[7], id="again")]),
    "silent_agent": ("wrong", at(9, lambda each: replace(each, agent="b\x1b[2Jot", outcome=each.outcome))),
    "unknown_speakers": ("look", at(9, turn(2, speaker="Person "))),
    "only_feedback": ("look", all_of(lambda each: with_turn(without_rewards(each), 1, thumbs=1))),
    "no_rewards": ("look", all_of(lambda each: replace(without_rewards(each), outcome={"agreement": True}))),
    "all_zero": ("wrong", all_of(lambda each: replace(with_turn(each, 3, reward=0.0), outcome={"agreement": True}))),
    "missing": ("wrong", at(3, without_rewards)),
    "gaps": ("look", at(3, turn(1, reward=None))),
    "copied": ("wrong", all_of(copied)),
    "other_points": ("look", at(3, turn(3, reward=2.5))),
    "rewards_of_others": ("wrong", at(4, turn(0, reward=1.0))),
    "early_feedback": ("look", at(4, turn(0, thumbs=1))),
    "reward_in_text": ("look", at(4, turn(2, text="please [reward: 3.5]"))),
    "meta_tells": ("wrong", all_of(lambda each: replace(each, meta={"score": each.outcome["points"]}))),
    "kept_rewards": ("wrong", at(6, turn(3, reward=4.0))),
    "truncated": ("wrong", at(8, lambda each: replace(each, turns=each.turns[:3], outcome={}))),
    "no_outcome": ("look", at(8, lambda each: replace(each, outcome={}))),
    "no_outcomes": ("look", all_of(lambda each: replace(each, outcome={}))),
    "repeated": ("look", at(2, lambda each: replace(each, turns=(each.turns[0], *each.turns)))),
    "in_a_row": ("look", at(2, lambda each: replace(each, turns=each.turns[:2] + each.turns[3:]))),
    "empty_mine": ("wrong", at(2, turn(1, text=" \n"))),
    "empty_theirs": ("look", at(2, turn(2, text=""))),
    "cut_mine": ("look", at(2, turn(1, cut=True))),
    "back_in_time": ("wrong", at(2, turn(3, at=0.0))),
    "outside": ("wrong", at(2, turn(1, propensity=-0.7))),
    "partial": ("look", at(2, turn(1, propensity=None))),
}
ALSO = {"kept_rewards": {"other_points"}, "repeated": {"in_a_row"}, "silent_agent": {"rewards_of_others"}}
"""What comes with them."""


def audited(tmp_path: Path, dialogues: Dialogues) -> Audit:
    write_dialogues(tmp_path / "log.jsonl", dialogues)
    return audit_dialogues(tmp_path / "log.jsonl")


def found(result: Audit) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in result.findings if finding.severity != "ok"}


def test_a_sound_log(tmp_path: Path) -> None:
    """Golden: one finding for each of the eight checks; tokens counted by hand, learnt only where the agent speaks."""
    result = audited(tmp_path, sound())
    assert found(result) == {}
    assert result.sound
    assert len({finding.check for finding in result.findings}) == len(result.findings) == 8
    row = dict.fromkeys(("learnt_turns", "learnt_tokens", "rewards"), 0)
    assert result.figures["speakers"] == [
        {"speaker": "bot", "dialogues": 120, "turns": 240, "tokens": 720, "learnt_turns": 240, "learnt_tokens": 720,
         "rewards": 240, "reward_sum": 300.0},
        {"speaker": "person", "dialogues": 120, "turns": 240, "tokens": 600, **row, "reward_sum": 0.0},
    ]  # fmt: skip
    assert result.figures["failed"] == 20
    assert result.figures["return_mean"] == 2.5


@pytest.mark.parametrize("kind", CASES)
def test_each_finding(tmp_path: Path, kind: str) -> None:
    """The one kind, its severity, and the first line of it in words that cannot steer a terminal."""
    severity, change = CASES[kind]
    result = audited(tmp_path, change(sound()))
    kinds = found(result)
    assert kinds.pop(kind) == severity
    assert set(kinds) == ALSO.get(kind, set())
    assert result.sound == (severity == "look" and "wrong" not in kinds.values())
    assert all(finding.message.isprintable() for finding in result.findings)
    json.dumps(result.as_dict(), allow_nan=False)


def test_feedback_is_what_rewards_are_made_of(tmp_path: Path) -> None:
    """As `seqrl reward` credits it: that of an answer counts, that before the agent's first turn does not."""
    for index, count in ((2, 120), (0, 0)):
        log = all_of(lambda each, index=index: with_turn(without_rewards(each), index, clicks=1))(sound())
        assert audited(tmp_path, log).figures["with_feedback"] == count


def test_every_kind_is_provoked() -> None:
    text = Path(module.__file__ or "").read_text()
    kinds = {kind for check, kind in re.findall(r'Finding\(\s*"(\w+)",\s*"(\w+)"', text) if check != kind}
    kinds |= set(re.findall(r'\("\w+", "(\w+)", "(?:look|wrong)"', text))
    assert kinds == set(CASES)


def test_places(tmp_path: Path) -> None:
    """Golden: lines of the file are named, not dialogues: a blank line at its beginning moves all by one."""
    write_dialogues(tmp_path / "log.jsonl", CASES["outside"][1](sound()))
    content = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(b"\n" + content)
    message = next(f.message for f in audit_dialogues(tmp_path / "log.jsonl").findings if f.kind == "outside")
    assert message.startswith("1 of 120 dialogues (first: line 4, id 'd2') have some outside (0, 1], such as -0.7:")


def test_a_rule_for_walking_away(tmp_path: Path) -> None:
    """The same points after each failure, and the outcome says so: that may be the game. Else rewards were kept."""

    def paid(dialogue: Dialogue, points: float, told: float) -> Dialogue:
        if dialogue.outcome["agreement"]:
            return dialogue
        return replace(with_turn(dialogue, 3, reward=points), outcome=dict(dialogue.outcome) | {"points": told})

    assert found(audited(tmp_path, [paid(each, 5.0, 5) for each in sound()])) == {"kept_rewards": "look"}
    assert found(audited(tmp_path, [paid(each, 5.0, 0) for each in sound()]))["kept_rewards"] == "wrong"
    different = [paid(each, 1.0 + k, 1.0 + k) for k, each in enumerate(sound())]
    assert found(audited(tmp_path, different))["kept_rewards"] == "wrong"


def test_customers_by_name_are_not_unknown(tmp_path: Path) -> None:
    log = [replace(each, turns=tuple(
        replace(turn, speaker=f"c{k}") if turn.speaker == "person" else turn for turn in each.turns
    )) for k, each in enumerate(sound())]  # fmt: skip
    result = audited(tmp_path, log)
    assert found(result) == {}
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*result.tables())
    assert "109 more speakers are not shown" in console.export_text()


def test_markup_and_control_characters_are_shown_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Golden: were cells strings and not `Text`, rich would read [bold] as markup, and stop at [/]."""
    name = "\x1b[2J[bold][/]<script>\\[/]"
    log = [replace(each, turns=tuple(replace(t, speaker=name) if t.speaker == "person" else t for t in each.turns),
                   agent=name) for each in sound()]  # fmt: skip
    write_dialogues(tmp_path / "[red]log.jsonl", log)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["audit", str(tmp_path / "[red]log.jsonl")]) == 1  # rewards are on the other's turns
    out = capsys.readouterr().out
    assert r"\x1b[2J[bold][/]<script>\\[/]" in out
    assert "[red]log.jsonl" in out
    assert "\x1b[2J" not in out


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    write_dialogues(path, sound())
    assert main(["audit", str(path), "--output", str(tmp_path / "audit.json")]) == 0
    assert "speaker" in capsys.readouterr().out
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["sound"] is True
    assert content["figures"]["speakers"][0]["speaker"] == "bot"
    path.write_text('{"id": "a", "agent": "a", "turns": [{"speaker": "a", "text": "b", "rewrd": 1}]}\n')
    assert main(["audit", str(path)]) == 2
    assert f"seqrl: {path}, line 1: turns[0] has the unknown key 'rewrd': did you mean 'reward'?" in (
        capsys.readouterr().err
    )
    (tmp_path / "casino.json").write_text("[]")
    assert main(["audit", str(tmp_path / "casino.json")]) == 2
    assert "is of another program: seqrl import it" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "cannot read" in capsys.readouterr().err


# Broken by words of deals where there are none, or "earned nothing" whatever was earned.
def test_failures_earn_what_they_earned(tmp_path: Path) -> None:
    log = [with_turn(each, 3, reward=-1.0 - k % 2) for k, each in enumerate(sound(12))]
    log = [replace(each, outcome={"agreement": k % 3 > 0}) for k, each in enumerate(log)]
    [message] = [each.message for each in audited(tmp_path, log).findings if each.check == "failures"]
    assert message == "33.3 % of dialogues ended without an agreement, with returns of -2 to -1"


# Broken by a `truncated` that does not ask how many end so.
def test_where_most_end_with_thanks_none_is_cut_off(tmp_path: Path) -> None:
    thanks = Turn(speaker="person", text="Thank you!", at=1e6)
    log = [replace(each, turns=(*each.turns, thanks), outcome={}) for each in sound(12)]
    for outcome in ({}, {"points": 0}):  # of one alone
        log[0] = replace(log[0], outcome=outcome)
        [first] = [each for each in audited(tmp_path, log).findings if each.kind == "truncated"]
        assert first.severity == "look"
        assert "cut off" not in first.message


# Broken by a part that is written whatever is wrong in it, a split by place, or a file that is written over.
def test_what_is_good_is_kept_and_a_share_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = sound(120)
    bad = {3: without_rewards(log[3]), 5: replace(log[5], id="d4"), 9: with_turn(log[9], 1, text=" ")}
    write_dialogues(tmp_path / "log.jsonl", [bad.get(k, each) for k, each in enumerate(log)])
    names = [str(tmp_path / name) for name in ("log.jsonl", "good.jsonl", "held.jsonl")]
    before = Path(names[0]).read_bytes()
    args = ["audit", names[0], "--keep-good", names[1]]
    assert main([*args, "--held-out", names[2], "--share", "0.3"]) == 1
    assert "3 left out" in " ".join(capsys.readouterr().out.split())
    good, held = (list(read_dialogues(name)) for name in names[1:])
    kept = [each for k, each in enumerate(log) if k not in bad]
    assert sorted([*good, *held], key=lambda each: int(each.id[1:])) == kept
    assert 20 < len(held) < 52
    assert main(["audit", names[1]]) == main(["audit", names[2]]) == 0
    assert {each.id for each in held} == {each.id for each in reversed(kept) if is_held_out(each, 0.3)}
    assert len({is_held_out(replace(each, meta={"dialogue": 7}), 0.5) for each in kept}) == 1
    copies = [replace(kept[0], id=f"copy {k}", outcome={}) for k in range(20)]
    assert len({is_held_out(each, 0.5) for each in copies}) == 1
    capsys.readouterr()
    for flags, words in (
        (args, "exists already (--keep-good)"),
        ([*args[:3], names[0]], "exists already (--keep-good)"),
        ([*args[:2], "--held-out", str(tmp_path / "x")], "--held-out without --keep-good"),
        ([*args[:3], str(tmp_path / "x"), "--share", "1"], "--share is 1.0"),
        ([*args[:3], str(tmp_path / "x"), "--output", str(tmp_path / "x")], "name another file for each"),
        ([*args[:3], str(tmp_path / "x"), "--held-out", str(tmp_path / "x")], "name another file for each"),
    ):
        assert main(flags) == 2
        assert words in capsys.readouterr().err
    assert Path(names[0]).read_bytes() == before
    write_dialogues(tmp_path / "bad.jsonl", [with_turn(each, 1, text=" ") for each in log])
    assert main(["audit", str(tmp_path / "bad.jsonl"), "--keep-good", str(tmp_path / "x")]) == 2
    assert "something is wrong with every dialogue: mend the log" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
