"""seqrl label, train reward_model and evaluate of one, by the command line."""

import io
import json
from pathlib import Path

import pytest

from seqrl.cli import main
from seqrl.data.preferences import read_preferences
from seqrl.people import labelling

TASK = ["--task", "twenty_questions", "--task-kwargs", "max_turns=2"]
ask = labelling.question_of
SMALL = ["--hidden-size", "8", "--batch-size", "4", "--num-steps", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and a speaker cloned from it."""
    path = tmp_path_factory.mktemp("label")
    log, run = str(path / "log.jsonl"), str(path / "bc")
    assert main(["collect", "random", *TASK, "--num-dialogues", "6", "--output", log]) == 0
    assert main(["train", "bc", "--dialogues", log, *TASK, *SMALL, "--max-tokens", "4", "--run-dir", run]) == 0
    return path


def test_from_labels_to_a_reward_model(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label = ["label", str(folder / "bc"), "--output", "p.jsonl", "--num-questions", "20"]
    capsys.readouterr()
    for name in ("ada", "bo"):
        assert main([*label, "--simulate", "length", "--labeller", name]) == 0
    out = capsys.readouterr().out
    assert "p.jsonl: 20 of 20 questions labelled by ada\n" in out
    assert "Bayes rate of these pairs: " in out
    assert main(["label", "--agreement", "p.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "ada, bo" in out
    assert "Cohen's κ" in out
    train = ["train", "reward_model", "--preferences", "p.jsonl", "--policy", str(folder / "bc"), "--num-models", "2"]
    assert main([*train, *SMALL, "--run-dir", "rm"]) == 0
    told = capsys.readouterr().out
    assert "4 held-out pairs" in told
    assert "calibration error" in told
    assert main(["evaluate", "rm"]) == 0
    assert "Length: correlation with the score" in capsys.readouterr().out
    assert main(["evaluate", "rm", "--preferences", "p.jsonl", "--output", "figures.json"]) == 0
    assert " 40 " in capsys.readouterr().out
    figures = json.loads(Path("figures.json").read_text())
    assert (figures["run"], figures["preferences"], figures["pairs"]) == ("rm", "p.jsonl", 40)
    assert main(["evaluate", "rm", "--output", "figures.json"]) == 2
    assert "figures.json exists already (--output)" in capsys.readouterr().err
    assert main(["evaluate", "rm", "--output", "told.json"]) == 0
    figures = json.loads(Path("told.json").read_text())
    assert figures == {"run": "rm", "preferences": None, **json.loads(Path("rm/held_out.json").read_text())}
    assert json.loads(Path("rm/config.json").read_text())["policy"] == str(folder / "bc")


def test_a_person_labels_in_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = ["label", str(folder / "bc"), "--prompts", str(folder / "log.jsonl"), "--num-questions", "5"]
    label += ["--output", str(tmp_path / "p.jsonl"), "--labeller", "\x1b[31mme"]
    for keys, count in (("1\nwhat\n2\ns\nq\n", 2), ("1\n", 3), ("1\n2\n1\n", 5)):
        monkeypatch.setattr("sys.stdin", io.StringIO(keys))
        assert main(label) == 0
        out = capsys.readouterr().out
        assert f"{count} of 5 questions labelled" in out
        assert "\x1b[31m" not in out
    kept = list(read_preferences(tmp_path / "p.jsonl"))
    assert sorted(each.id for each in kept) == [f"log-0-{k}" for k in range(5)]
    assert {each.labeller for each in kept} == {"\x1b[31mme"}


# Broken by questions of equal draws that count as left, or a Bayes rate of no choices (a file that is not there).
def test_where_all_draws_are_alike_nothing_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.jsonl"
    label = ["label", str(folder / "bc"), "--prompts", str(folder / "log.jsonl"), "--num-questions", "4"]
    label += ["--output", str(path), "--simulate", "length"]
    assert main([*label, "--temperature", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("seqrl: nothing to choose in any of 4 questions, as all draws are alike: raise --temperature")
    assert err.count("\n") == 1
    assert not path.exists()
    monkeypatch.setattr(
        labelling, "question_of", lambda name, played: None if name.endswith("2") else ask(name, played)
    )
    for _ in range(2):
        assert main(label) == 0
        out = capsys.readouterr().out
        assert "3 of 4 questions labelled by labeller, 1 with nothing to choose, all draws alike\n" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label"], "needs a run folder"),
        (["label", "run"], "no file to write"),
        (["label", "run", "--output", "p", "--num-questions", "0"], "must be at least 1"),
        (["label", "run", "--output", "p", "--simulate", "point"], "did you mean 'points'?"),
        (["label", "run", "--output", "p", "--simulate", "length", "--flips", "1"], "from 0 to 0.5"),
        (["label", "run", "--output", "p", "--simulate", "length", "--web"], "needs no page"),
        (["label", "--agreement"], "needs files"),
        (["train", "reward_model"], "no preferences given"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
