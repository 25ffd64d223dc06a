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
                 "--num-episodes", "4", "--num-evaluations", "0", "--keep", "last", "--actions", "likeliest",
                 "--run-dir", "compared"])  # fmt: skip


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


# Breaks if a method's error is raised before what the others brought is written.
def test_the_other_methods_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    log = ["--env", "seqrl/Gamble-v0", "--episodes", "12", "--dataset-dir", "log"]
    assert main(["collect", "random", *log]) == 0
    assert main(["compare", "log", "--methods", "behaviour_cloning,qdt", "--num-seeds", "1", "--num-episodes", "4",
                 "--num-steps", "4", "--num-layers", "1", "--context-length", "4", "--batch-size", "8",
                 "--hidden-size", "8", "--target-episodes", "2", "--value-updates", "2", "--workers", "1",
                 "--run-dir", "compared"]) == 0  # fmt: skip
    lost = Path("compared/qdt_s0")
    (lost / "evaluation.json").unlink()
    (lost / "checkpoint.safetensors").write_bytes(b"damaged")
    capsys.readouterr()
    assert main(["compare", "--resume", "compared"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint.safetensors" in line
    results = json.loads(Path("compared/results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["behaviour_cloning"]
    assert len(results["failed"]) == 1
    assert "- A run failed, and what it belongs to is left out: " in Path("compared/table.md").read_text()
    (Path("compared/behaviour_cloning_s0") / "evaluation.json").unlink()
    (Path("compared/behaviour_cloning_s0") / "checkpoint.safetensors").write_bytes(b"damaged")
    assert main(["compare", "--resume", "compared"]) == 2  # none is left
    assert len(capsys.readouterr().err.splitlines()) == 1


# Breaks if `_compare` goes on where nothing else was trained.
def test_where_all_fail_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(MINE) == 2
    assert "seqrl compare --resume compared" in capsys.readouterr().err
    assert not Path("compared/results.json").exists()
