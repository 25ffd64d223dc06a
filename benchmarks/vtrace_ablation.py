"""What correcting for the age of the acting policy is worth: IMPALA's ablation, on tasks that need memory.

    python -m benchmarks.vtrace_ablation --output benchmarks/results/vtrace_ablation.json
    python -m benchmarks.vtrace_ablation --short          # a minute, to see that all of it works

Four corrections (V-trace, 1-step importance sampling, ε-correction, none) learn from actors whose weights are exactly
0, 8 or 32 updates old, without a replay and with one that gives half of each batch, so that fresh data are the same.
Runs are added to the JSON file, and those in it are not run again. Two figures of each run: the mean return of all
episodes that ended in the second half of training, and the return of the trained agent over 100 episodes, likeliest
actions. A table, a JSON file and a plot come out.

Source: Espeholt et al. 2018 (IMPALA), arXiv 1802.01561, section 5.2.2 and figure 5, on five DMLab tasks, where V-trace
does best on most, and 1-step importance sampling comes near.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from itertools import product
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
from seqrl.algorithms import impala
from seqrl.config import make_environment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.recipes import RECIPES
from seqrl.run import read_metrics

CORRECTIONS = get_args(impala.Correction)
COLOURS = dict(zip(CORRECTIONS, ("#0072b2", "#e69f00", "#009e73", "#888888"), strict=True))
TASKS = {"masked_cartpole": "masked_cartpole_impala", "tmaze": "tmaze_impala"}
SHORT = {"num_steps": 4_096, "hidden_size": 16, "num_envs": 16}
Answer = dict[str, Any]


def settings(task: str, correction: str, lag: int, share: float, seed: int, run_dir: str) -> impala.Config:
    """The task's recipe; with a replay, batches are larger by what is replayed."""
    recipe = RECIPES[TASKS[task]]()
    assert isinstance(recipe, impala.Config)
    return dataclasses.replace(
        recipe,
        seed=seed,
        run_dir=run_dir,
        correction=correction,  # type: ignore[arg-type]
        forced_lag=lag,
        replay_share=share,
        batch_size=round(recipe.batch_size / (1 - share)),
    )


def measure(task: str, correction: str, lag: int, share: float, seed: int, short: bool) -> Answer:
    """One run: its curve of returns, and its two figures. A run whose loss is no longer finite has returned nothing."""
    torch.set_num_threads(1)
    row: Answer = {"task": task, "correction": correction, "lag": lag, "replay": share, "seed": seed, **machine()}
    with tempfile.TemporaryDirectory() as folder:
        config = settings(task, correction, lag, share, seed, f"{folder}/run")
        if short:
            config = dataclasses.replace(config, **SHORT)
        try:
            agent = seqrl.train(config)
        except UserError as error:
            return row | {"diverged": str(error)}
        with closing(make_environment(config, 50)) as environment:
            evaluation = evaluate(agent, environment, 100, seed=10_000 + seed)
        lines = list(read_metrics(Path(folder) / "run"))
    ended = [(line["step"], line["episode_return"], line["episodes"]) for line in lines if "episodes" in line]
    late = [(value, number) for step, value, number in ended if 2 * step > config.num_steps]
    means = {name: statistics.mean(line[name] for line in lines) for name in ("policy_lag", "clipped_rho", "clipped_c")}
    return {
        **row,
        "training_return": sum(v * n for v, n in late) / max(sum(n for _, n in late), 1),
        "return": evaluation.mean,
        **means,
        "curve": [(step, value) for step, value, _ in ended],
    }


def summarize(runs: list[Answer]) -> list[Answer]:
    """For each setting the mean over seeds of both figures, with the lowest and the highest seed's."""
    rows = []
    names = ("task", "replay", "lag", "correction")
    for key in dict.fromkeys(tuple(run[name] for name in names) for run in runs):
        mine = [run for run in runs if tuple(run[name] for name in names) == key]
        done = [run for run in mine if "diverged" not in run]
        row: Answer = dict(zip(names, key, strict=True)) | {"seeds": len(mine), "diverged": len(mine) - len(done)}
        for name in ("training_return", "return"):
            values = [run[name] for run in done] or [float("nan")]
            row[name] = {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
        for name in ("policy_lag", "clipped_rho", "clipped_c"):
            row[name] = statistics.mean([run[name] for run in done] or [float("nan")])
        rows.append(row)
    return rows


def show(rows: list[Answer]) -> None:
    """Lag by lag, the corrections beside each other: training return [lowest, highest seed] (trained agent)."""
    for task, replay in dict.fromkeys((row["task"], row["replay"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["replay"]) == (task, replay)]
        table = Table("lag", *dict.fromkeys(row["correction"] for row in mine), "clipped ρ (V-trace)")
        table.title = (
            f"{task}, {'half of each batch replayed' if replay else 'no replay'}: return while training (after)"
        )
        for lag in dict.fromkeys(row["lag"] for row in mine):
            here = [row for row in mine if row["lag"] == lag]
            clipped = next((f"{row['clipped_rho']:.0%}" for row in here if row["correction"] == "vtrace"), "–")
            table.add_row(str(lag), *map(_cell, here), clipped)
        Console(width=150).print(table)


def _cell(row: Answer) -> str:
    f = row["training_return"]
    lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return f"{f['mean']:.3g} [{f['lowest']:.3g}, {f['highest']:.3g}] ({row['return']['mean']:.3g}){lost}"


def plot(rows: list[Answer], path: Path) -> None:
    """Training return against the lag, a panel for each task, with and without a replay; bars from seed to seed."""
    panels = list(dict.fromkeys((row["task"], row["replay"]) for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), layout="constrained", squeeze=False)
    for axis, (task, replay) in zip(axes[0], panels, strict=True):
        lags = list(dict.fromkeys(row["lag"] for row in rows))
        for number, correction in enumerate(dict.fromkeys(row["correction"] for row in rows)):
            mine = [r for r in rows if (r["task"], r["replay"], r["correction"]) == (task, replay, correction)]
            figures = [row["training_return"] for row in mine]
            mean = [f["mean"] for f in figures]
            bars = [[f["mean"] - f["lowest"] for f in figures], [f["highest"] - f["mean"] for f in figures]]
            place = [lags.index(row["lag"]) + 0.06 * (number - 1.5) for row in mine]
            axis.errorbar(
                place, mean, bars, color=COLOURS[correction], marker="o", capsize=3, label=correction.replace("_", " ")
            )
        axis.set_xticks(range(len(lags)), [str(lag) for lag in lags])
        axis.set(title=f"{task.replace('_', ' ')}{', replay' if replay else ''}", xlabel="lag of the actors, updates")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("return in the second half of training")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run_all(jobs: list[tuple], workers: int) -> Iterator[Answer]:
    """The jobs' answers, in the order in which they end."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, future in enumerate(as_completed([pool.submit(measure, *job) for job in jobs]), 1):
            run = future.result()
            figure = run.get("training_return", float("nan"))
            print(f"{number}/{len(jobs)} {run['task']} {run['correction']} lag {run['lag']} replay {run['replay']} "
                  f"seed {run['seed']}: {figure:.3f}", flush=True)  # fmt: skip
            yield run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--corrections", nargs="+", choices=CORRECTIONS, default=CORRECTIONS)
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 8, 32])
    parser.add_argument("--replay-shares", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--short", action="store_true", help="a few updates of a small network, on one seed")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, and a PNG beside it")
    args = parser.parse_args()

    seeds = args.seeds[:1] if args.short else args.seeds
    order = list(product(args.tasks, args.replay_shares, args.lags, args.corrections))
    runs = json.loads(args.output.read_text())["runs"] if args.output and args.output.exists() else []
    there = {(run["task"], run["correction"], run["lag"], run["replay"], run["seed"]) for run in runs}
    jobs = [(task, c, lag, share, seed, args.short) for seed in seeds for task, share, lag, c in order]
    runs += run_all([job for job in jobs if job[:-1] not in there], args.jobs)
    runs.sort(key=lambda run: order.index((run["task"], run["replay"], run["lag"], run["correction"])))
    rows = summarize(runs)
    show(rows)
    if args.output:
        command = f"python -m benchmarks.vtrace_ablation {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"command": command, "summary": rows, "runs": runs}) + "\n")
        plot(rows, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
