"""A log of one's own, by the command line: no task that could be played, rewards on some turns."""

import json
from pathlib import Path

import pytest

from seqrl.cli import main
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues

SMALL = ["--hidden-size", "8", "--batch-size", "4", "--num-steps", "2", "--max-tokens", "6"]
ASKED, SAID = ("where is my parcel ?", "i cannot log in .", "the invoice is wrong ."), ("it comes tomorrow .", "read it .")


def support(number: int, first: int = 0, *, rewards: bool = True, propensity: float | None = None) -> list[Dialogue]:
    """Dialogues of a bot with customers, who thank it at the end."""
    return [
        Dialogue(
            id=f"chat-{k}",
            agent="bot",
            turns=(
                Turn(speaker="customer", text=ASKED[k % 3]),
                Turn(speaker="bot", text=SAID[k % 2], reward=4.0 - 5 * (k % 2) if rewards else None,
                     propensity=propensity),
                Turn(speaker="customer", text="thank you !"),
            ),
        )
        for k in range(first, first + number)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The logs log.jsonl, bare.jsonl (no rewards), held_out.jsonl; runs of bc and ilql on the first, without a task."""
    path = tmp_path_factory.mktemp("own")
    write_dialogues(path / "log.jsonl", support(20))
    write_dialogues(path / "bare.jsonl", support(20, rewards=False))
    write_dialogues(path / "held_out.jsonl", support(12, 100, propensity=0.5))
    flags = ["--dialogues", str(path / "log.jsonl"), *SMALL]
    assert main(["train", "ilql", *flags, "--run-dir", str(path / "ilql")]) == 0
    return path


@pytest.fixture(autouse=True)
def in_it(folder, monkeypatch):
    monkeypatch.chdir(folder)


def told(capsys) -> str:
    """The one line of an error."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


# Broken by `check_rewarded` left out of either `check`, or behind the cloning, which would leave a folder.
@pytest.mark.parametrize("algorithm", ["ilql", "chai"])
def test_values_are_not_learnt_of_nothing(algorithm, folder, capsys):
    assert main(["train", algorithm, "--dialogues", "bare.jsonl", *SMALL, "--run-dir", "new"]) == 2
    said = told(capsys)
    assert "bare.jsonl: no turn has a reward: nothing to learn values from; train bc, or" in said
    assert "seqrl reward bare.jsonl" in said
    assert not list(folder.glob("new*"))


# Broken by `check_reads` that is content with `reads_all`, as it was; the second half by MOST_SPELT of 0.
@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_a_task_of_other_words_is_not_played(command, capsys):
    for task in ("negotiation", "wordle"):
        assert main([command, "ilql", "--task", task]) == 2
        said = told(capsys)
        assert "ilql was trained in another vocabulary: of the words of this task" in said


def test_a_task_of_the_same_words_is_played(tmp_path, capsys):
    log, run = str(tmp_path / "log.jsonl"), str(tmp_path / "run")
    assert main(["collect", "random", "--task", "negotiation", "--num-dialogues", "60", "--output", log]) == 0
    assert main(["train", "bc", "--dialogues", log, *SMALL, "--run-dir", run]) == 0  # the log's own vocabulary
    assert main(["evaluate", run, "--task", "negotiation", "--num-dialogues", "2"]) == 0
    assert "on negotiation" in capsys.readouterr().out
