"""Run folders that are damaged, or do not fit, are refused in one line."""

# ruff: noqa: F811  the fixture is imported, and tests take it by its name

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_cli import COPY, refuse, run  # noqa: F401


def copy_of(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in COPY:
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", ["config.json is damaged"]),
        ("[]", ["config.json is damaged"]),
        ({"type": "pqo"}, ["unknown algorithm 'pqo'", "did you mean 'ppo'?"]),
        ({"colour": "red"}, ["unknown settings ['colour']"]),
        ({"num_envs": "four"}, ["num_envs 'four'", "int"]),
        ({"squash": 1}, ["squash 1", "bool"]),
        ({"memory": "gruu"}, ["'gruu'"]),
    ],
)
def test_a_config_that_is_damaged(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], change: Any, words: list[str]
) -> None:
    folder = copy_of(run, tmp_path / "run")
    text = change if isinstance(change, str) else json.dumps(json.loads((run / "config.json").read_text()) | change)
    (folder / "config.json").write_text(text)
    refuse(capsys, tmp_path, ["evaluate", str(folder)], *words)
    refuse(capsys, tmp_path, ["train", "--resume", str(folder)], *words)


def write_pickle(path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(path.parent / "proof"),)

    path.write_bytes(pickle.dumps(Payload()))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"nonsense, and more of it"), ["damaged"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), ["damaged"]),
        (lambda path: path.write_bytes(b""), ["damaged"]),
        (lambda path: save_file({"x": torch.ones(1)}, path), ["not a checkpoint of this seqrl"]),
        (lambda path: torch.save({}, path), ["pickle", "never loaded"]),
        (lambda path: torch.save({}, path, _use_new_zipfile_serialization=False), ["pickle", "never loaded"]),
        (write_pickle, ["pickle", "never loaded"]),
    ],
    ids=["nonsense", "cut short", "empty", "foreign", "torch zip", "torch legacy", "payload"],
)
def test_a_checkpoint_that_is_damaged(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], damage: Any, words: list[str]
) -> None:
    folder = copy_of(run, tmp_path / "run")
    damage(folder / "checkpoint.safetensors")
    refuse(capsys, tmp_path, ["evaluate", str(folder)], "checkpoint.safetensors", *words)
    refuse(capsys, tmp_path, ["train", "--resume", str(folder)], "checkpoint.safetensors", *words)
    assert not (folder / "proof").exists()


def test_the_checkpoint_of_another_agent(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 16}))
    for command in (["evaluate", str(folder)], ["train", "--resume", str(folder)]):
        refuse(capsys, tmp_path, command, "does not fit")


def test_an_environment_that_does_not_fit(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(capsys, tmp_path, ["evaluate", str(run), "--env", "CartPole-v1"], "observation space does not fit", str(run))
    refuse(capsys, tmp_path, ["evaluate", str(run), "--env", "Nope-v0"], "unknown environment 'Nope-v0'")
    refuse(capsys, tmp_path, ["evaluate", str(run), "--env-kwargs", "lenght=5"], "lenght")


def test_a_run_before_its_first_checkpoint(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(run, tmp_path / "run")
    (folder / "checkpoint.safetensors").unlink()
    refuse(capsys, tmp_path, ["evaluate", str(folder)], "no checkpoint", "--resume")


def test_a_run_is_no_comparison(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(capsys, tmp_path, ["compare", "--resume", str(run)], "no comparison", f"seqrl train --resume {run}")
