"""Runs that are cut off and go on: what they end with is compared with a run that was not."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from seqrl.algorithms import resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.trajectory import tree_flatten


class Crash(BaseException):
    """The end of the process, as far as the code under test can tell."""


def ends_the_same(config: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int = 8) -> list[dict[str, float]]:
    """Train in folder/whole, then in folder/part, which dies once it has logged step `at` and is resumed.

    Asserts that checkpoints and logs are the same, bit for bit, and returns the log's lines.
    """
    train(dataclasses.replace(config, run_dir=str(folder / "whole")))
    log_line = Run.log

    def crashing(self: Run, step: int, metrics: dict[str, float]) -> None:
        log_line(self, step, metrics)
        if step == at:
            raise Crash

    monkeypatch.setattr(Run, "log", crashing)
    with pytest.raises(Crash):
        train(dataclasses.replace(config, run_dir=str(folder / "part")))
    monkeypatch.undo()
    resume(folder / "part")
    one, other = (tree_flatten(load_checkpoint(folder / name / CHECKPOINT)[0]) for name in ("whole", "part"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    lines = [
        [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(folder / name)]
        for name in ("whole", "part")
    ]
    assert lines[0] == lines[1]
    return lines[0]
