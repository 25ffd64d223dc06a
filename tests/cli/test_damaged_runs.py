"""Run folders that are damaged, or do not fit, are refused in one line."""

# ruff: noqa: F811  the fixture is imported, and tests take it by its name

import json
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_cli import COPY, refuse, run  # noqa: F401

from seqrl.cli import main
from seqrl.errors import UserError
from seqrl.pages.run_page import run_page
from seqrl.run_folder import read_metrics


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
        # Break: `except json.JSONDecodeError` in `read_json`.
        ("[" * 100_000, ["config.json is damaged"]),
        ('{"seed": ' + "9" * 5_000 + "}", ["config.json is damaged"]),
        # Break: a list's elements not looked at in `_is_of`, or numbers of any size let through.
        ({"env_kwargs": [1]}, ["env_kwargs (1,)", "tuple[str, ...]"]),
        ({"hide": [[1]]}, ["hide ([1],)", "tuple[int | str, ...]"]),
        ({"num_steps": 2**64}, ["num_steps 18446744073709551616"]),
        ({"gamma": math.inf}, ["gamma inf"]),
        # Break: `_blaming` left out of `read_config` or `load`; `require_at_least_one` out of `make_agent`.
        ({"hidden_size": -1}, ["config.json: --hidden-size is -1"]),
        ({"num_frames": 0}, ["--num-frames is 0"]),
        ({"flicker": 9.0}, ["--flicker is 9.0"]),
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


def with_metadata(path: Path, **changes: str) -> None:
    """Change what a checkpoint says of itself, and leave its tensors."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


# Break: `counters` not looked at in `load_checkpoint` and `counter`, where {} is no checkpoint: it begins at step 0;
# `_rebuild` without its ValueError; `UNFIT` without TypeError.
@pytest.mark.parametrize(
    ("changes", "loads"),
    [
        ({"counters": "{}"}, True),
        ({"counters": "[]"}, False),
        ({"counters": "5"}, False),
        ({"counters": '{"step": 64}'}, True),
        ({"counters": '{"updates": 2}'}, True),
        ({"counters": '{"step": "x", "updates": 2}'}, True),
        ({"counters": '{"step": -64, "updates": 2}'}, True),
        ({"structure": "5"}, False),
        ({"structure": '"agent"'}, False),
        ({"structure": "[" * 100_000}, False),
        ({"structure": "[]"}, False),
        ({"structure": '{"agent": []}'}, False),
        ({"structure": '{"agent": {}}'}, False),
    ],
    ids=str,
)
def test_a_checkpoint_whose_metadata_is_damaged(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], loads: bool
) -> None:
    """What only resuming reads does not keep an agent from being loaded."""
    folder = copy_of(run, tmp_path / "run")
    with_metadata(folder / "checkpoint.safetensors", **changes)
    refuse(capsys, tmp_path, ["train", "--resume", str(folder)], "checkpoint.safetensors")
    if not loads:
        refuse(capsys, tmp_path, ["evaluate", str(folder)], "checkpoint.safetensors")


# Break: `_logged` that gives whatever JSON holds.
@pytest.mark.parametrize(
    "line",
    [
        "[1]", "5", "{}", '{"loss": 1}', '{"step": "1"}', '{"step": 1, "loss": "x"}', '{"step": 1, "loss": NaN}',
        '{"step": ' + "9" * 5_000 + "}", "[" * 100_000,
    ],
    ids=range(9),
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 2])
def test_a_log_that_is_damaged(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], line: str, place: int
) -> None:
    folder = copy_of(run, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines.insert(place, line)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for command in (["report", str(folder)], ["train", "--resume", str(folder), "--num-steps", "96"]):
        refuse(capsys, tmp_path, command, f"metrics.jsonl is damaged in line {place + 1}", "delete that line")


# Break: lines that are cut short dropped wherever they stand.
def test_a_log_with_a_cut_line_in_the_middle(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(run, tmp_path / "run")
    first, *others = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([first, first[:20] + "\n", *others]))
    refuse(capsys, tmp_path, ["report", str(folder)], "damaged in line 2")


# Break: `_drop_metrics_after` without its first branch: the log is emptied.
def test_a_lost_checkpoint_does_not_cost_the_log(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(run, tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    for name in ("metrics.lost.jsonl", "metrics.lost.2.jsonl"):
        (folder / "metrics.jsonl").write_bytes(before)
        (folder / "checkpoint.safetensors").unlink()
        assert main(["train", "--resume", str(folder)]) == 0
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert (
            f"has no checkpoint and begins at step 0: what it had logged, up to step 64, is kept in {folder / name}"
            in err
        )
        assert (folder / name).read_bytes() == before
        assert [line["step"] for line in read_metrics(folder)] == [32, 64]


# Break: the name not looked at in `_resume`.
@pytest.mark.parametrize("name", ["r2d2", "masked_pendulum_sac", "decision_transformer"])
def test_a_run_is_resumed_by_no_other_algorithm(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    refuse(capsys, tmp_path, ["train", name, "--resume", str(run)], f"is a run of ppo, not of {name}", "leave the name")
    refuse(capsys, tmp_path, ["train", "r2d3", "--resume", str(run)], "unknown recipe or algorithm 'r2d3'")
    assert main(["train", "ppo", "--resume", str(copy_of(run, tmp_path / "run"))]) == 0


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


# Break: a comparison's settings taken without a look whether they are there.
@pytest.mark.parametrize("kind", ["compare", "compare_offline"])
def test_a_comparison_without_settings(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"type": kind, "num_seeds": 2}))
    refuse(capsys, tmp_path, ["compare", "--resume", str(tmp_path)], "None for settings, which is no object")


# Break: `read_settings` that is `read_json` alone, or `_evaluated` without its `try`.
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", {"env_kwargs": 5}, "5 is no text"),
        ("config.json", {"env_kwargs": [1]}, "1 is no text"),
        ("config.json", {"env": ["x"]}, "['x'] is no text"),
        ("evaluation.json", {"returns": [[1]]}, "float"),
        ("evaluation.json", {"returns": 5}, "not iterable"),
        ("evaluation.json", {"num_parameters": "x"}, "int"),
        ("evaluation.json", None, "damaged"),
    ],
)
def test_a_page_of_a_run_that_is_damaged(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], name: str, change: Any, words: str
) -> None:
    folder = copy_of(run, tmp_path / "run")
    there = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text("[" if change is None else json.dumps(there | change))
    with pytest.raises(UserError, match=re.escape(name)) as error:
        run_page(folder)
    assert words in str(error.value)
