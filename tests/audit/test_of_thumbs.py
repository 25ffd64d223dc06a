"""Each finding of an audit of thumbs is provoked once, and a sound file has none."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judged_cases import at, found, said

import seqrl.audit.of_thumbs as module
from seqrl.audit import Audit, audit_thumbs
from seqrl.audit.of_thumbs import Judged
from seqrl.cli import main
from seqrl.data.preferences import Thumb, write_thumbs

Log = list[Thumb]


def sound(number: int = 120) -> Log:
    """Two labellers judge the same 60 answers to 15 questions; every third answer differently."""
    log = []
    for k in range(number):
        answer, labeller = k // 2, ("ada", "bob")[k % 2]
        up = (answer % 4 < 2) != (labeller == "bob" and answer % 3 == 0)
        text = f"answer {answer} {'more' * (answer % 2)}"
        question = said(f"really {answer // 4}?", "user")
        log.append(Thumb(id=f"a{answer}", prompt=question, completion=said(text), label=up, labeller=labeller))
    return log


def audited(tmp_path: Path, log: Log) -> Audit:
    write_thumbs(tmp_path / "t.jsonl", log)
    return audit_thumbs(tmp_path / "t.jsonl")


CASES: dict[str, tuple[str, Callable[[Log], Log]]] = {
    "same_id": ("wrong", at(4, id="a0")),
    "duplicates": ("look", lambda log: [*log, replace(log[0], id="again")]),
    "empty": ("look", at(6, completion=said(" "))),
    "cut": ("look", at(7, meta={"cut": "1"})),
    "no_prompt": ("look", at(8, prompt=())),
    "one_kind": ("wrong", lambda log: [replace(each, label=True) for each in log if each.prompt != log[0].prompt][:8]),
    "rare": ("look", lambda log: [replace(each, label=k % 15 > 0) for k, each in enumerate(log[:60])]),
    "contradictions": ("look", lambda log: [*log, replace(log[4], id="again", label=not log[4].label)]),
    "one_sided": ("look", lambda log: [replace(each, label=k // 8 % 2 == 0) for k, each in enumerate(log)]),
    "length_bias": ("look", lambda log: [
        replace(each, completion=said(each.completion[0].text + " and so on" * each.label)) for each in log
    ]),
}  # fmt: skip


def test_a_sound_file(tmp_path: Path) -> None:
    """Golden: of 60 answers the labellers agree on 40; each question has four answers, of both kinds."""
    result = audited(tmp_path, sound())
    assert found(result) == {}
    assert result.sound
    assert [finding.check for finding in result.findings] == [
        "thumbs", "answers", "balance", "labels", "prompts", "length",
    ]  # fmt: skip
    figures = result.figures
    assert (figures["thumbs"], figures["labellers"], figures["judged_by_several"]) == (120, 2, 60)
    assert figures["agreed"] == pytest.approx(40 / 60)
    assert (figures["prompts"], figures["judged_twice"], figures["one_sided"]) == (15, 15, 0)
    assert figures["up"] == pytest.approx(sum(each.label for each in sound()) / 120)


@pytest.mark.parametrize("kind", CASES)
def test_each_finding(tmp_path: Path, kind: str) -> None:
    severity, change = CASES[kind]
    result = audited(tmp_path, change(sound()))
    assert found(result) == {kind: severity}
    assert result.sound == (severity == "look")
    assert all(finding.message.isprintable() for finding in result.findings)
    json.dumps(result.as_dict(), allow_nan=False)


# Must break: a spread of each kind by itself, which of one answer is 0 and of two much too small; and without `FEW`.
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 20), (10, 100)])
def test_lengths_of_few_thumbs_are_no_bias(up: int, down: int) -> None:
    """Lengths that tell nothing: seldom more often than 1 in 370 times, where it was 90, 16 and 4 in 100."""
    rng = np.random.default_rng(0)
    nothing = {"id": "", "labeller": None, "prompt": b"", "prompted": True, "answer": b"", "cut": False}
    labels = [True] * up + [False] * down

    def kind() -> str:
        lengths = rng.geometric(0.1, len(labels)).tolist()
        log = [Judged(line=1, length=n, label=each, **nothing) for n, each in zip(lengths, labels, strict=True)]
        return module.length(log)[1][0].kind

    assert [kind() for _ in range(500)].count("length_bias") <= 5


def test_every_kind_is_provoked() -> None:
    text = Path(module.__file__ or "").read_text()
    kinds = {kind for check, kind in re.findall(r'Finding\(\s*"(\w+)",\s*"(\w+)"', text) if check != kind}
    assert kinds == set(CASES)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    write_thumbs(path, sound())
    assert main(["audit", str(path)]) == 0
    assert "thumbs up are" in " ".join(capsys.readouterr().out.split())
    write_thumbs(path, [replace(each, label=True) for each in sound()])
    assert main(["audit", str(path)]) == 1
    path.write_text('{"prompt": "a", "completion": "b", "label": 1}\n')
    assert main(["audit", str(path)]) == 2
    assert "line 1: label is neither true nor false" in capsys.readouterr().err
