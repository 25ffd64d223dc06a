"""A run that fails while approaches are compared: the others are compared, and what failed is said."""

import json
import re
from pathlib import Path

import pytest

from seqrl.cli import main
from seqrl.progress import Bar

DIVERGES = """
import torch

from seqrl.memory import NoMemory


class Diverges(NoMemory):
    def unroll(self, x, state, is_first):
        y, state = super().unroll(x, state, is_first)
        return (y * torch.nan if torch.is_grad_enabled() else y), state
"""

pytestmark = pytest.mark.usefixtures("forked_comparisons")

MINE = "diverges_in_test:Diverges"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diverges_in_test.py").write_text(DIVERGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # the comparison's processes have it too


def compare(*memories: str) -> int:
    return main(["compare", "seqrl/TMaze-v0", "--env-kwargs", "length=3", "--memories", *memories, "--num-seeds", "1",
                 "--num-envs", "4", "--rollout-length", "8", "--num-minibatches", "1", "--num-steps", "64",
                 "--num-episodes", "4", "--num-evaluations", "0", "--keep", "last", "--run-dir",
                 "compared"])  # fmt: skip


# Breaks if a run's error is raised before the others are done, or if the approach is not left out of the rows; without
# `say` in the pool, nothing tells in a log file how far it is.
def test_the_others_are_compared(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bar, "QUIET", 0.0)
    assert compare(MINE, "none") == 2
    said = capsys.readouterr()
    told = "\n".join(sorted(line for line in said.err.splitlines() if not line.startswith("seqrl: ")))
    assert re.fullmatch(
        rf"{MINE} seed 0: begun, in compared/\S+_s0\n{MINE} seed 0: failed \(\d of 2 runs\)\n"
        r"none seed 0: begun, in compared/none_s0\nnone seed 0: done in \d s, return [-\d.]+ \(\d of 2 runs\)",
        told,
    )
    (line,) = [line for line in said.err.splitlines() if line.startswith("seqrl: ")]
    assert line.endswith("_s0; continue with seqrl compare --resume compared)")
    results = json.loads(Path("compared/results.json").read_text())
    assert [row["memory"] for row in results["rows"]] == ["none"]
    assert results["failed"] == [line.removeprefix("seqrl: ").replace("run compared/", "run ")]
    assert "A run failed, and what it belongs to is left out: " in Path("compared/table.md").read_text()
    assert Path("compared/report.html").is_file()

    assert main(["compare", "--resume", "compared"]) == 2  # what failed is tried again
    assert json.loads(Path("compared/results.json").read_text())["failed"] == results["failed"]


# Breaks if `run_all` returns the errors where nothing else was trained.
def test_where_all_fail_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(MINE) == 2
    assert "seqrl compare --resume compared" in capsys.readouterr().err
    assert not Path("compared/results.json").exists()
