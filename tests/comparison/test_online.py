"""The comparison of memories, from the command line to the plot, and the advice it ends with."""

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

from seqrl.cli import main
from seqrl.comparison.advice import advice
from seqrl.comparison.online import Config
from seqrl.comparison.plot import plot_comparison
from seqrl.comparison.report import Comparison, Row
from seqrl.reports.common import smooth
from seqrl.run_folder import read_finished_step, read_metrics
from seqrl.statistics import mean_and_half_width

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
    for row in results["rows"]:
        files = [folder / f"{row['memory']}_s{seed}" / "evaluation.json" for seed in (0, 1)]
        played = [json.loads(path.read_text()) for path in files]
        returns = [one["returns"] for one in played]
        assert np.shape(returns) == (2, 5)
        assert row["reach"]["episode"] == pytest.approx(np.mean([one["lengths"] for one in played]))
        assert row["seed_means"] == pytest.approx(np.mean(returns, axis=1))
        assert row["mean"] == pytest.approx(np.mean(returns))
        assert row["best_run"] == f"{row['memory']}_s{int(np.argmax(row['seed_means']))}"
        assert row["curves"][0][0][0] in (32, 64)
        assert row["num_parameters"] > 100
        logs = [list(read_metrics(folder / f"{row['memory']}_s{seed}")) for seed in (0, 1)]
        assert [sum("eval_return" in line for line in log) for log in logs] == [3, 3]  # at each of the three updates
        assert row["final_means"] == [log[-1]["eval_return"] for log in logs]
        assert row["earlier_kept"] == [log[-1]["kept_return"] > log[-1]["eval_return"] for log in logs]


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
    for row, other in zip(results["rows"], again["rows"], strict=True):
        assert row["seed_means"] == other["seed_means"]  # the run that was lost came back as it was
        assert row["curves"] == other["curves"]

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


def row(memory: str, *means: float, **changes: object) -> Row:
    mean, half_width = mean_and_half_width(means)
    figures = {
        "approach": f"ppo:{memory}", "memory": memory, "mean": mean, "half_width": half_width,
        "seed_means": list(means), "steps_per_second": 9000.0,
        "num_parameters": 1234, "seconds": 12.5, "best_run": f"runs/{memory}_s0",
        "curves": [[(k * 1000.0, mean * k / 100) for k in range(1, 101)] for _ in means],
    }  # fmt: skip
    return Row(**{**figures, **changes})  # type: ignore[arg-type]


def result(*rows: Row, optimal: float | None = 1.0, memoryless: float | None = 0.5) -> Comparison:
    return Comparison(
        env="seqrl/TMaze-v0",
        num_steps=100_000,
        num_episodes=100,
        optimal=optimal,
        memoryless=memoryless,
        rows=list(rows),
    )


def test_advice_no_memory_needed() -> None:
    words = advice(result(row("none", 0.99, 1.0), row("gru", 1.0, 1.0)))
    assert words.startswith("No memory is needed here within this budget")
    assert words.endswith("Its best run is runs/none_s0.")


def test_advice_a_frame_stack_suffices() -> None:
    # Breaks when `advice` takes the best and not the simplest that is as good.
    words = advice(result(row("gru", 1.0, 0.99), row("none", 0.5, 0.49), row("frame_stack", 0.98, 1.0)))
    assert words.startswith("Take frame_stack: it reaches 0.99, while none reaches 0.495.")
    assert "Nothing is gained by gru." in words
    assert "optimum" not in words


def test_advice_only_a_gru_does() -> None:
    words = advice(result(row("none", 0.5, 0.5), row("frame_stack", 0.5, 0.48), row("gru", 1.0, 1.0)))
    assert words.startswith("Take gru: it reaches 1, while none reaches 0.5, frame_stack reaches 0.49.")
    assert "Nothing is gained" not in words


def test_advice_far_from_the_optimum() -> None:
    words = advice(result(row("none", 0.1, 0.1), row("gru", 0.7, 0.7)))
    assert words.startswith("Take gru")
    assert "The optimum, 1, is not reached: give more --num-steps" in words
    words = advice(result(row("none", 0.1, 0.1), row("gru", 0.1, 0.1), memoryless=None))
    assert words.startswith("Nothing shows a need for memory yet")
    assert "--num-steps" in words


def test_advice_where_returns_are_negative() -> None:
    # Breaks when the distance to the optimum is a quotient: 0.9 · (−20) is above −20.
    assert "optimum" not in advice(result(row("none", -90.0), row("gru", -20.5), optimal=-20.0))
    assert "The optimum, -20, is not" in advice(result(row("none", -90.0), row("gru", -40.0), optimal=-20.0))
    assert "optimum" not in advice(result(row("none", -90.0), row("gru", -40.0), optimal=None))
    assert "% of optimal" not in result(row("gru", -20.5), optimal=-20.0).columns()
    assert "% of optimal" not in result(row("gru", -0.5)).columns()


def test_advice_of_one_memory() -> None:
    words = advice(result(row("gru", 1.0, 0.9)))
    assert words == "Only gru was tried: compare others with --memories. Its best run is runs/gru_s0."


def test_advice_within_the_noise() -> None:
    """A difference that seeds alone could make is neither one nor none."""
    # Breaks when _noise returns 0.
    noisy = advice(result(row("none", 0.2, 1.0, 0.5), row("gru", 0.4, 1.0, 0.6), optimal=None))
    assert noisy.startswith("Take gru")
    assert "3 seeds do not settle whether none, which is simpler, would do: give more --num-seeds." in noisy
    clear = (row("none", 0.55, 0.56, 0.57), row("gru", 0.65, 0.66, 0.67))
    assert advice(result(*clear, optimal=None)).startswith("Take gru")
    assert "settle" not in advice(result(*clear, optimal=None))
    single = advice(result(row("none", 0.55), row("gru", 0.65), optimal=None))
    assert single.startswith("Take gru")
    assert "A single seed settles little" in single


def test_advice_where_theory_settles_what_seeds_do_not() -> None:
    """Breaks without `memoryless` in `_may_do`: an agent without memory has 0.5 at best, however few its seeds."""
    unlucky, good = row("none", -1.0, 0.5), row("gru", 1.0, 1.0)
    assert "settle" not in advice(result(unlucky, good))
    assert "settle whether none, which is simpler, would do" in advice(result(unlucky, good, memoryless=None))
    assert "settle whether frame_stack" in advice(result(row("frame_stack", -1.0, 0.5), good))


def test_advice_where_one_seed_of_the_simpler_memory_fails() -> None:
    # Breaks when a difference within the noise counts as none: one failure of n seeds is a standard error for every n.
    for n in (3, 5):
        words = advice(result(row("gru", *[1.0] * (n - 1), 0.3), row("lstm", *[1.0] * n), optimal=None))
        assert words.startswith("Take lstm")
        assert f"{n} seeds do not settle whether gru" in words


def test_advice_is_not_changed_by_an_approach_that_failed() -> None:
    # Breaks when the spread of all returns says what as good is: it reaches down to the one that failed.
    rows = row("none", 0.8, 0.8), row("gru", 1.0, 1.0)
    assert advice(result(*rows)).startswith("Take gru")
    assert advice(result(*rows, row("lstm", -4.0, -4.0))).startswith("Take gru")
    fewer = advice(result(row("gru", 1.0, 1.0, num_steps=900), row("lstm", 0.1, 0.1, num_steps=80)))
    assert "Nothing is gained by lstm (in 80 steps, not 900)." in fewer


# Break: `simplicity` of the whole name, which is then one of a user's own memories.
def test_advice_on_what_is_read_besides() -> None:
    rows = [
        row(name, *means) for name, means in {"none": (0.5, 0.5), "gru": (0.5, 0.5), "gru+reward": (1.0, 1.0)}.items()
    ]
    words = advice(result(*rows))
    assert words.startswith("Take gru+reward: it reaches 1, while none reaches 0.5, gru reaches 0.5.")
    assert advice(result(*rows[:1], row("gru", 1.0, 1.0), rows[2])).startswith("Take gru: it reaches 1")
    assert advice(result(row("none+reward", 1.0, 1.0), rows[0], row("gru", 1.0, 1.0))).startswith("Take none+reward:")


def test_advice_at_chance() -> None:
    # Breaks when what can be had without memory is not looked at.
    words = advice(result(row("none", 0.47, 0.5), row("gru", 0.55, 0.5)))
    assert words.startswith("None has learnt it yet: the best, gru, brings 0.525 ± 0.318, and 0.5 can be had without")
    assert "Take" not in words
    assert "is not reached: give more --num-steps" in words
    # Must break: `enough` kept, which is the simplest that brings as much: "its" is the best's.
    assert words.endswith("Its best run is runs/gru_s0.")
    words = advice(result(row("none", 0.49, 0.5), row("gru", 0.5, 0.5)))
    assert words.startswith("None has learnt it yet: the best, gru,")
    assert words.endswith("Its best run is runs/gru_s0.")
    # Must break: " over its episodes" left out: the table has ± 0.318 of the same mean, over the seeds.
    judged = replace(row("gru", 0.55, 0.5), episodes_half_width=0.04)
    assert "brings 0.525 ± 0.04 over its episodes, and 0.5" in advice(result(row("none", 0.47, 0.5), judged))


def test_advice_at_chance_of_the_best_of_several() -> None:
    """Seven agents flip a coin 300 times each: the best of them is beyond its interval of ½ in one of six such
    comparisons. Must break: `_nothing_learnt` by the interval that is meant for one."""
    lucky = 0.567  # of 300: half an interval is 0.0563
    flips = [row(name, 0.5, episodes_half_width=0.0563) for name in ("none", "frame_stack", "gru", "lstm", "linear")]
    best = row("transformer", lucky, episodes_half_width=0.0563)
    assert advice(result(*flips, best)).startswith(
        "None has learnt it yet: the best, transformer, brings 0.567 ± 0.0563"
    )
    assert advice(result(flips[0], best)).startswith("Take transformer")


def test_advice_where_no_memory_has_the_optimum_too() -> None:
    """Key to door. Must break: a tolerance of 5 % of nothing, by which one lost episode of 300 calls for a GRU."""
    rows = row("none", 1.0, 1.0, 0.99), row("gru", 1.0, 1.0, 1.0)
    assert advice(result(*rows, memoryless=1.0)).startswith("No memory is needed here within this budget")
    worse = row("none", 0.9, 0.9, 0.91), row("gru", 1.0, 1.0, 1.0)
    assert advice(result(*worse, memoryless=1.0)).startswith("Take gru")


def test_advice_where_episodes_do_not_tell_whether_the_optimum_is_reached() -> None:
    """Tiger: returns of the best policy spread by 41, so that 300 episodes miss 20.4 by a tenth one time in six.

    Must break: the mean alone, without its interval."""
    rows = row("none", -20.0), row("gru", 17.0, episodes_half_width=4.7)
    words = advice(result(*rows, optimal=20.4, memoryless=-20.0))
    assert "not reached" not in words
    assert "Whether the optimum, 20.4, is reached these episodes do not settle: compare anew with more" in words
    rows = row("none", -20.0), row("gru", 10.0, episodes_half_width=4.7)
    assert "The optimum, 20.4, is not reached" in advice(result(*rows, optimal=20.4, memoryless=-20.0))


def test_advice_where_training_lost_what_is_kept() -> None:
    """Breaks where seeds that never were there count as lost, or the last agent's figures are the kept one's."""
    kept = row("gru", 1.0, 1.0, 0.6, final_means=[0.5, 1.0, 0.55], reached=[True, True, False], earlier_kept=[True] * 3)
    compared = replace(result(row("none", 0.5, 0.5, 0.5), kept), threshold=0.9)
    assert "Training lost it again on 1 of 3 seeds; earlier agents are kept there." in advice(compared)
    assert compared.columns()["last agent"] == ["–", "0.6833"]
    assert "lost" not in advice(replace(compared, rows=[replace(kept, final_means=[1.0, 0.95, 0.5])]))
    # Breaks where a last agent that is kept counts as lost, as its few episodes while training brought less by chance.
    assert "lost" not in advice(replace(compared, rows=[replace(kept, earlier_kept=[False] * 3)]))


def test_advice_where_large_rewards_were_clipped() -> None:
    """Breaks without the sentence, or if it names what was clipped little, or PPO's flag for other algorithms."""
    rows = row("none", 0.5, rewards_clipped=0.05), row("gru", 1.0, rewards_clipped=0.25)
    said = (
        "Clipping moved up to 25 % of the rewards' sum from large to small ones with gru: if large ones must count in"
    )
    assert f"{said} full, compare with --no-normalize-rewards." in advice(result(*rows))
    late = row("gru", 0.9, approach="impala:gru", rewards_clipped=0.3)
    words = advice(result(*rows, late))
    assert "up to 30 % of the rewards' sum from large to small ones with ppo:gru and impala:gru: if" in words
    assert "compare with --no-normalize-rewards --override impala.normalize_rewards=false." in words
    assert "Clipping" not in advice(result(rows[0]))


def test_the_best_is_kept_unless_said_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Config().settings
    assert (settings.num_evaluations, settings.keep) == (10, "best")
    config = Config(approaches=("ppo:gru", "r2d2:gru"), settings=replace(settings, num_evaluations=7))
    runs = [config.runs_of(approach)[0] for approach in config.named()[0]]
    assert [(run.num_evaluations, run.keep) for run in runs] == [(7, "best")] * 2  # breaks where SHARED lacks them
    assert main(["compare", "seqrl/TMaze-v0", "--num-evaluations", "0", "--run-dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "seqrl: --keep best needs evaluations to choose by: give --num-evaluations 10, or --keep last\n"
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
