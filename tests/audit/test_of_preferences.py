"""Each finding of an audit of preferences is provoked once, and a sound file has none."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from judged_cases import at, found, said

import seqrl.audit.of_preferences as module
from seqrl.audit import Audit, audit_preferences
from seqrl.cli import main
from seqrl.data.preferences import Preference, write_preferences

Log = list[Preference]


def sound(number: int = 60) -> Log:
    """Two labellers choose in the same 30 questions; every third of them differently."""
    log = []
    for k in range(number):
        question, labeller = k // 2, ("ada", "bob")[k % 2]
        more = [("", ""), ("too", ""), ("", ""), ("", "too")][question % 4]
        answers = said(f"yes {question} {more[0]}"), said(f"no {question} {more[1]}")
        swap = labeller == "bob" and question % 3 == 0
        log.append(
            Preference(
                id=f"q{question}", prompt=said(f"really {question}?", "user"), chosen=answers[swap],
                rejected=answers[not swap], labeller=labeller,
                meta={"chosen_shown": ("first", "second")[question % 2]},
            )
        )  # fmt: skip
    return log


def audited(tmp_path: Path, log: Log) -> Audit:
    write_preferences(tmp_path / "p.jsonl", log)
    return audit_preferences(tmp_path / "p.jsonl")


CASES: dict[str, tuple[str, Callable[[Log], Log]]] = {
    "same_id": ("wrong", at(4, id="q0")),
    "duplicates": ("look", lambda log: [*log, replace(log[0], id="again")]),
    "identical": ("wrong", at(2, rejected=said("yes 1 too"))),
    "empty": ("look", at(6, rejected=said(" "))),
    "cut": ("look", at(7, meta={"chosen_shown": "second", "cut_in_rejected": "1"})),
    "no_prompt": ("look", at(8, prompt=())),
    "contradictions": ("look", lambda log: [
        *log, replace(log[4], id="again", chosen=log[4].rejected, rejected=log[4].chosen)
    ]),
    "length_bias": ("look", lambda log: [replace(each, rejected=said("no")) for each in log]),
    "place_bias": ("look", lambda log: [replace(each, meta={"chosen_shown": "second"}) for each in log]),
}  # fmt: skip


def test_a_sound_file(tmp_path: Path) -> None:
    """Golden: of 30 questions the labellers agree on 20; the longer of two is chosen in 17 of 30 pairs."""
    result = audited(tmp_path, sound())
    assert found(result) == {}
    assert result.sound
    assert [finding.check for finding in result.findings] == [
        "pairs",
        "answers",
        "prompts",
        "labels",
        "length",
        "place",
    ]
    figures = result.figures
    assert (figures["pairs"], figures["labellers"], figures["asked_several"]) == (60, 2, 30)
    assert figures["agreed"] == pytest.approx(20 / 30)
    assert figures["different_lengths"] == 30
    assert figures["longer_chosen"] == pytest.approx(17 / 30)
    assert figures["first_chosen"] == 0.5


@pytest.mark.parametrize("kind", CASES)
def test_each_finding(tmp_path: Path, kind: str) -> None:
    severity, change = CASES[kind]
    result = audited(tmp_path, change(sound()))
    assert found(result) == {kind: severity}
    assert result.sound == (severity == "look")
    assert all(finding.message.isprintable() for finding in result.findings)
    json.dumps(result.as_dict(), allow_nan=False)


def test_every_kind_is_provoked() -> None:
    text = Path(module.__file__ or "").read_text()
    kinds = {kind for check, kind in re.findall(r'Finding\(\s*"(\w+)",\s*"(\w+)"', text) if check != kind}
    assert kinds == set(CASES)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    write_preferences(path, sound())
    assert main(["audit", str(path)]) == 0
    assert "chosen in" in capsys.readouterr().out
    write_preferences(path, CASES["identical"][1](sound()))
    assert main(["audit", str(path)]) == 1
    path.write_text('{"chosen": "a", "rejected": 1}\n')
    assert main(["audit", str(path)]) == 2
    assert "line 1: rejected is neither a string nor a list" in capsys.readouterr().err
