"""A first log of episodes: what is said where it is given to a command that takes something else."""

import json
import re
import shutil

import numpy as np
import pytest

from seqrl.cli import main

TINY = ["--num-steps", "2", "--hidden-size", "8", "--num-layers", "1", "--context-length", "2", "--batch-size", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One log in two formats, the dataset that is made of it, and a run that learnt from that."""
    path = tmp_path_factory.mktemp("first")
    rng = np.random.default_rng(0)
    episodes = [rng.normal(size=(4, 2)).round(3).tolist() for _ in range(8)]
    content = [{"observations": e, "actions": [0, 1, 1], "rewards": [0.5, 0, 1], "terminated": True} for e in episodes]
    (path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in content))
    rows = [f"{k},{row[0]},{row[1]},{t % 2},1,{t == 2}" for k, e in enumerate(episodes) for t, row in enumerate(e[:3])]
    (path / "log.csv").write_text("\n".join(["episode,observation_0,observation_1,action,reward,terminated", *rows]))
    assert main(["import", str(path / "log.csv"), "--dataset-dir", str(path / "log")]) == 0
    trained = ["--dataset", str(path / "log"), "--run-dir", str(path / "run")]
    assert main(["train", "decision_transformer", *trained, *TINY]) == 0
    return path


def told(capsys):
    """The one line on standard error, where nothing is told besides."""
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error


# Broken where one of these looks no further than that there is no dataset, no environment and no dialogue.
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit", "log.csv"], r"log\.csv is of another program: seqrl import it, and audit what that writes"),
        (["audit", "log.jsonl"], r"\(it has 'observations'\): seqrl import makes a dataset of episodes of it"),
        (["compare", "log.csv"], r"log\.csv is a file: seqrl import \S+log\.csv makes a dataset of"),
        (
            ["train", "decision_transformer", "--dataset", "log.csv"],
            r"\(it is a file\): seqrl import \S+log\.csv makes a",
        ),
        (["train", "bc", "--dialogues", "log.jsonl"], r"seqrl import makes a dataset of episodes of it"),
        (["import", "log"], r"log is a dataset already: use it as it is"),
        (["calibrate", "run"], r"run does not say which environment it is for: calibrate it with --no-play"),
    ],
)
def test_a_log_that_is_given_where_something_else_is_taken(folder, capsys, words, message):
    *before, last = words
    assert main([*before, str(folder / last)]) == 2
    assert re.search(message, told(capsys))


# Break: `--env ENV` left out behind `seqrl evaluate`, which has nothing to play.
def test_training_says_what_can_be_done_without_an_environment(folder, capsys):
    assert main(["train", "--resume", str(folder / "run")]) == 0
    run = str(folder / "run")
    assert f"seqrl evaluate {run} --env ENV, or without an environment seqrl calibrate {run} --no-play" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["calibrate", run, "--no-play"]) == 0


# Break: "dataset" left out of `_check_logs`.
def test_a_dataset_that_is_not_found_was_named_from_elsewhere(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"dataset": "gone"}))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "learns from gone (--dataset), which is not found: start in the folder it was trained in" in told(capsys)
