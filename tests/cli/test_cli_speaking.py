"""seqrl collect --task, train bc and ilql, and evaluate what speaks, by the command line."""

import json
from pathlib import Path

import pytest

from seqrl.cli import main
from seqrl.data.dialogues import read_dialogues

TASK = ["--task", "wordle", "--task-kwargs", "num_words=5"]
SMALL = ["--hidden-size", "8", "--batch-size", "4", "--num-steps", "2", "--max-tokens", "6"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_from_speakers_to_a_steered_one(capsys):
    assert main(["collect", "random", "optimal:0.5", *TASK, "--num-dialogues", "11", "--seed", "3"]) == 0
    assert "datasets/wordle.jsonl: 11 dialogues, mean return" in capsys.readouterr().out
    log = list(read_dialogues("datasets/wordle.jsonl"))
    assert [d.meta["speaker"] for d in log] == ["random"] * 6 + ["optimal:0.5"] * 5
    assert len({d.id for d in log}) == 11
    assert main(["train", "ilql", "--dialogues", "datasets/wordle.jsonl", *TASK, *SMALL]) == 0
    assert main(["train", "--resume", "runs/wordle_ilql_s0", "--num-steps", "3"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/wordle_ilql_s0", "--num-dialogues", "4", "--beta", "2", "--show", "1"]) == 0
    out = capsys.readouterr().out
    assert "β = 2" in out
    assert "return -" in out
    policy = ["evaluate", "runs/wordle_ilql_s0_policy", "--num-dialogues", "4", "--sample", "--output", "figures.json"]
    assert main(policy) == 0
    figures = json.loads(Path("figures.json").read_text())
    assert (figures["problem"], figures["beta"], figures["sample"]) == ("wordle num_words=5", None, True)
    assert len(figures["returns"]) == len(figures["lengths"]) == figures["num_dialogues"] == 4
    assert figures["mean"] == pytest.approx(sum(figures["returns"]) / 4)
    assert main(policy) == 2  # the file is there
    assert (
        main([*policy[:1], "runs/wordle_ilql_s0", "--num-dialogues", "1", "--beta", "2", "--output", "one.json"]) == 0
    )
    figures = json.loads(Path("one.json").read_text())
    assert (figures["beta"], figures["sample"], figures["half_width"]) == (2.0, False, None)
    assert main(["collect", "runs/wordle_ilql_s0", *TASK, "--num-dialogues", "3", "--output", "own.jsonl"]) == 0
    assert {d.meta["speaker"] for d in read_dialogues("own.jsonl")} == {"runs/wordle_ilql_s0"}
    assert json.loads(Path("runs/wordle_ilql_s0/config.json").read_text())["policy"] == "runs/wordle_ilql_s0_policy"


def test_two_tasks_of_one_run(capsys):
    main(["collect", "random", *TASK, "--num-dialogues", "4"])
    main(["train", "bc", "--dialogues", "datasets/wordle.jsonl", *TASK, *SMALL, "--run-dir", "run"])
    capsys.readouterr()
    assert main(["evaluate", "run", "--num-dialogues", "2", "--task-kwargs", "num_words=7"]) == 0
    assert "num_words=7" in capsys.readouterr().out
    assert main(["evaluate", "run", "--task", "text_maze"]) == 2
    assert "was trained in another vocabulary" in capsys.readouterr().err
    assert main(["evaluate", "run", "--beta", "nan"]) == 2
    assert "--beta is nan: it must be a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["collect", *TASK], "needs a speaker or a run folder"),
        (["collect", "random", "--task", "wordel"], "did you mean 'wordle'"),
        (["collect", "randon", *TASK], "did you mean 'random'"),
        (["collect", "random", "optimal", *TASK, "--num-dialogues", "1"], "it must be at least 2"),
        (["collect", "random", *TASK, "--output", "there.jsonl"], "there.jsonl exists already"),
        (["train", "bc"], "no dialogues given"),
        (["train", "bc", "--dialogues", "none.jsonl"], "cannot read none.jsonl"),
    ],
)
def test_what_goes_wrong_is_one_line(args, message, capsys, tmp_path):
    (tmp_path / "there.jsonl").write_text("")
    assert main(args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
