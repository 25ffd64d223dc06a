"""The comparison of memories, from the command line to the plot."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from test_advice import result, row

from seqrl.cli import main
from seqrl.comparison.online import Config
from seqrl.comparison.plot import plot_comparison
from seqrl.reports.common import smooth
from seqrl.run_folder import read_finished_step, read_metrics

FLAGS = ["--env-kwargs", "length=3", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8"]
FLAGS += ["--num-epochs", "1", "--num-minibatches", "2", "--num-episodes", "5", "--memories", "none,gru"]


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def assert_not_blank(path: Path) -> None:
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 600
    assert pixels[..., :3].std() > 0.05
    assert (pixels[0, :, :3] == 1).all()  # nothing is cut off at the edges
    assert (pixels[:, -1, :3] == 1).all()


def times(folder: Path) -> dict[Path, int]:
    """When each file of a run was written; but for the page, which shows what there is."""
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "report.html" and path != folder
    }


def check_results(results: Any, folder: Path) -> None:
    """Of two seeds of none and of gru, each row against what lies in their folders."""
    assert (results["optimal"], results["memoryless"], results["num_steps"]) == (1.0, 0.5, 96)
    assert [row["memory"] for row in results["rows"]] == ["none", "gru"]
    for each in results["rows"]:
        files = [folder / f"{each['memory']}_s{seed}" / "evaluation.json" for seed in (0, 1)]
        played = [json.loads(path.read_text()) for path in files]
        returns = [one["returns"] for one in played]
        assert np.shape(returns) == (2, 5)
        assert each["reach"]["episode"] == pytest.approx(np.mean([one["lengths"] for one in played]))
        assert each["seed_means"] == pytest.approx(np.mean(returns, axis=1))
        assert each["mean"] == pytest.approx(np.mean(returns))
        assert each["best_run"] == f"{each['memory']}_s{int(np.argmax(each['seed_means']))}"
        assert each["curves"][0][0][0] in (32, 64)
        assert each["num_parameters"] > 100
        logs = [list(read_metrics(folder / f"{each['memory']}_s{seed}")) for seed in (0, 1)]
        assert [sum("eval_return" in line for line in log) for log in logs] == [3, 3]  # at each of the three updates
        assert each["drawn"] == [log[-1]["draws"] == 1.0 for log in logs]
        ends = [log[-1]["eval_return"] for log in logs]
        ends = [own if draws else end for own, draws, end in zip(each["seed_means"], each["drawn"], ends, strict=True)]
        assert each["final_means"] == ends
        assert each["earlier_kept"] == [log[-1]["kept_return"] > log[-1]["eval_return"] for log in logs]


def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One comparison, and then its resumption after half of it was lost: what is done is kept."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    quicker = multiprocessing.get_context("forkserver")  # as "spawn", but each process need not import everything
    quicker.set_forkserver_preload(["seqrl.cli", "pytest", "torch._dynamo"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: quicker)
    folder = tmp_path / "comparison"
    args = ["compare", "seqrl/TMaze-v0", *FLAGS, "--num-seeds", "2", "--num-steps", "96", "--workers", "1"]
    assert main([*args, "--run-dir", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert not err
    runs = ["none_s0", "none_s1", "gru_s0", "gru_s1"]
    written = {"config.json", "results.json", "table.md", "compare.png", "report.html"}
    assert {path.name for path in folder.iterdir()} == {*runs, *written}
    assert_not_blank(folder / "compare.png")

    results = strict((folder / "results.json").read_text())
    check_results(results, folder)
    table = (folder / "table.md").read_text()
    for words in ("# seqrl/TMaze-v0 length=3", "| none |", "| gru |", "2 seeds", "optimal return 1"):
        assert words in table
    assert str(folder / "compare.png") in out
    assert table.strip().splitlines()[-1].split(". ")[0] in out.replace("\n", " ")

    kept, lost = folder / "none_s0", folder / "gru_s1"
    before = times(kept)
    (lost / "evaluation.json").unlink()
    weights = (lost / "checkpoint.safetensors").read_bytes()
    for path in ("results.json", "table.md", "compare.png"):
        (folder / path).unlink()
    shutil.rmtree(folder / "gru_s0")
    assert main(["compare", "--resume", str(folder)]) == 0
    assert times(kept) == before
    assert (lost / "checkpoint.safetensors").read_bytes() == weights
    again = strict((folder / "results.json").read_text())
    for each, other in zip(results["rows"], again["rows"], strict=True):
        assert each["seed_means"] == other["seed_means"]  # the run that was lost came back as it was
        assert each["curves"] == other["curves"]

    # Nothing is left to train, and a single seed has no interval: null, since NaN is not JSON.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_seeds": 1}))
    assert main(["compare", "--resume", str(folder)]) == 0
    single = strict((folder / "results.json").read_text())
    assert [row["half_width"] for row in single["rows"]] == [None, None]


def start(args: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "seqrl", "compare", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_ctrl_c_and_a_killed_comparison(tmp_path: Path) -> None:
    """Ctrl-C saves the runs that train and begins no other; workers end with a parent that was killed."""
    # Breaks when `stop` is not set (a run that waited begins), and without `end_with_parent`.
    folder = tmp_path / "comparison"
    flags = ["seqrl/TMaze-v0", *FLAGS, "--num-seeds", "1", "--num-steps", "3000000", "--workers", "1"]
    first, second = folder / "none_s0", folder / "gru_s0"
    process = start([*flags, "--run-dir", str(folder)])
    wait_for(lambda: read_finished_step(first) > 1000)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"seqrl: interrupted; continue with: seqrl compare --resume {folder}\n"
    assert out == ""
    step = read_finished_step(first)
    assert 1000 < step < 3_000_000
    assert not second.exists()

    process = start(["--resume", str(folder)])
    wait_for(lambda: read_finished_step(first) > step + 1000)
    process.kill()
    process.wait()

    def still() -> bool:
        before = (first / "metrics.jsonl").stat().st_size
        time.sleep(1)
        return (first / "metrics.jsonl").stat().st_size == before

    wait_for(still, seconds=20)


def test_the_best_is_kept_unless_said_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Config().settings
    assert (settings.num_evaluations, settings.keep) == (10, "best")
    config = Config(approaches=("ppo:gru", "r2d2:gru"), settings=replace(settings, num_evaluations=7))
    runs = [config.runs_of(approach)[0] for approach in config.named()[0]]
    chosen = [(run.num_evaluations, run.keep, run.actions) for run in runs]
    assert chosen == [(7, "best", "best")] * 2  # breaks where SHARED lacks them
    assert main(["compare", "seqrl/TMaze-v0", "--num-evaluations", "0", "--run-dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "seqrl: --keep best and --actions best need evaluations to choose by: give --num-evaluations 10, or "
        "--keep last --actions likeliest\n"
    )


def test_the_table() -> None:
    table = result(row("none", 0.5), row("gru", 0.75, 1.0)).markdown("Take gru.")
    assert "| none | 0.5 | 50 % | – | – | 9,000 | 1,234 | 12.5 |" in table  # one seed has no interval
    assert "| gru | 0.875 ± 1.59 | 88 % | 0.75 | 0.177 | 9,000 |" in table
    assert table.startswith("# seqrl/TMaze-v0\n\n100,000 steps; 1 seed; 100 episodes each; optimal return 1;")
    assert table.endswith("\n\nTake gru.\n")


def test_smooth() -> None:
    """Golden: the mean of five updates in the middle, fewer values repeated at the ends; a straight line stays one."""
    grid = np.array([0.0, 30.0, 55.0])
    spike = [(10.0 * k, 5.0 * (k == 3)) for k in range(1, 7)]
    assert smooth(spike, grid) == pytest.approx([1.0, 1.0, 0.5])
    line = [(10.0 * k, 2.0 * k) for k in range(1, 11)]
    assert smooth(line, np.array([30.0, 65.0, 80.0])) == pytest.approx([6.0, 13.0, 16.0])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_smooth_of_few_updates(length: int) -> None:
    curve = [(10.0 * k, 1.5) for k in range(1, length + 1)]
    assert smooth(curve, np.linspace(0, 100, 7)) == pytest.approx([1.5] * 7)


@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")  # others' garbage
def test_the_plot(tmp_path: Path) -> None:
    """All memories; a single update; curves missing; a long name: always whole, and without a warning."""
    memories = ("none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer")
    full = result(*(row(memory, k / 5, k / 6) for k, memory in enumerate(memories)))
    cases = {
        "all": full,
        "one update": result(row("gru", 1.0, curves=[[(100.0, 1.0)]]), optimal=None, memoryless=None),
        "some curves": result(row("gru", 1.0, 0.9, curves=[[], [(100.0, 1.0), (200.0, 2.0)]]), memoryless=1.0),
        "no curve": result(row("gru", 1.0, curves=[[]]), optimal=None, memoryless=None),
        "long name": replace(full, env="seqrl/TMaze-v0 " + "length=30 " * 12),
    }
    for name, case in cases.items():
        plot_comparison(case, tmp_path / f"{name}.png")
        if name != "no curve":
            assert_not_blank(tmp_path / f"{name}.png")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in cases}
