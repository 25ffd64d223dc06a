"""What stale states do to the values, by the strategy that makes a replayed sequence's start state.

    python -m benchmarks.staleness --output benchmarks/results/staleness.json

R2D2 trains on the passive T-maze, whose episodes are longer than what a sequence unrolls, so that a wrong start state
leaves the cue out. Every strategy learns from the same rows: sequences of 10, with 10 before them where it burns in.
ΔQ is how far the start state leads the values astray, at the first and at the last row learnt from
(`seqrl.data.replay.discrepancy`); its mean is over the second half of training. A JSON file and a plot come out.

Source: Kapturowski et al. 2019 (R2D2), section 3, which shows ΔQ largest for the zero start and smallest for the stored
state with a burn-in.
"""

import argparse
import json
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table

import seqrl
from benchmarks.learning import machine
from seqrl.algorithms import r2d2
from seqrl.data.replay import StartState
from seqrl.run import read_metrics

STRATEGIES = get_args(StartState)
COLOURS = dict(zip(STRATEGIES, ("#888888", "#e69f00", "#0072b2", "#009e73", "#cc79a7"), strict=True))
CURVES = ("delta_q_first", "delta_q_last")
Answer = dict[str, Any]


def settings(strategy: str, length: int, num_steps: int, seed: int, run_dir: str) -> r2d2.Config:
    return r2d2.Config(
        env="seqrl/TMaze-v0",
        env_kwargs=(f"length={length}",),
        num_steps=num_steps,
        seed=seed,
        run_dir=run_dir,
        start_state=strategy,  # type: ignore[arg-type]
        length=10,
        overlap=5,
        burn_in=10,
        batch_size=32,
        staleness_every=20,
        learning_rate_schedule="constant",
    )


def measure(strategy: str, length: int, num_steps: int, seed: int) -> Answer:
    """One run's curves: steps, ΔQ at the first and the last row, state age and return."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seqrl.train(settings(strategy, length, num_steps, seed, f"{folder}/run"))
        lines = list(read_metrics(Path(folder) / "run"))
    curves = {
        name: [(line["step"], line[name]) for line in lines if name in line]
        for name in (*CURVES, "state_age", "episode_return")
    }
    return {"strategy": strategy, "seed": seed, "curves": curves}


def late_mean(run: Answer, name: str) -> float:
    """The mean over the second half of a curve."""
    values = [value for _, value in run["curves"][name]]
    return statistics.mean(values[len(values) // 2 :])


def summarize(runs: list[Answer]) -> list[Answer]:
    """For each strategy the mean over seeds of the late ΔQs, with the lowest and the highest seed's, and the return."""
    rows = []
    for strategy in dict.fromkeys(run["strategy"] for run in runs):
        mine = [run for run in runs if run["strategy"] == strategy]
        row: Answer = {"strategy": strategy}
        for name in (*CURVES, "episode_return"):
            values = [late_mean(run, name) for run in mine]
            row[name] = {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
        rows.append(row)
    return rows


def show(rows: list[Answer]) -> None:
    table = Table("start state", "ΔQ at the first row", "at the last row", "training return")
    for row in rows:
        figures = (row[name] for name in (*CURVES, "episode_return"))
        table.add_row(row["strategy"], *(f"{f['mean']:.3f} ({f['lowest']:.3f} to {f['highest']:.3f})" for f in figures))
    Console().print(table)


def plot(runs: list[Answer], path: Path) -> None:
    """ΔQ over training, a thin line for each seed, smoothed over ten measurements."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, name, title in zip(axes, CURVES, ("first row learnt from", "last row learnt from"), strict=True):
        for run in runs:
            steps, values = zip(*run["curves"][name], strict=True)
            smooth = [statistics.mean(values[max(0, i - 9) : i + 1]) for i in range(len(values))]
            label = run["strategy"].replace("_", " ") if run["seed"] == runs[0]["seed"] else None
            axis.plot([s / 1000 for s in steps], smooth, color=COLOURS[run["strategy"]], lw=1.2, label=label)
        axis.set(title=f"ΔQ at the {title}", xlabel="thousand steps", yscale="log")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(title="start state", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--length", type=int, default=30, help="of the corridor")
    parser.add_argument("--num-steps", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, and a PNG beside it")
    args = parser.parse_args()

    jobs = [(s, args.length, args.num_steps, seed) for seed in args.seeds for s in args.strategies]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(measure, *zip(*jobs, strict=True)))
    rows = summarize(runs)
    show(rows)
    if args.output:
        command = f"python -m benchmarks.staleness {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": command, **machine(), "length": args.length, "summary": rows, "runs": runs}
        args.output.write_text(json.dumps(result) + "\n")
        plot(runs, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
