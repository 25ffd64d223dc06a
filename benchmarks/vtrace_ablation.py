"""What correcting for the age of the acting policy is worth: IMPALA's ablation, on tasks that need memory.

    python -m benchmarks.vtrace_ablation --output benchmarks/results/vtrace_ablation.json
    python -m benchmarks.vtrace_ablation --tasks tmaze --lags 32 --replay-shares 0 --seeds 4 5 --output …   # one panel
    python -m benchmarks.vtrace_ablation --short          # a minute, to see that all of it works

Four corrections (V-trace, 1-step importance sampling, ε-correction, none) learn from actors whose weights are exactly
0, 8 or 32 updates old, without a replay and with one that gives half of each batch, so that fresh data are the same.
Runs are added to the JSON file, and those in it are not run again: panels may differ in their seeds, and each row says
how many it has. Two figures of each run: the mean return of all episodes that ended in the second half of training, and
the return of the trained agent over 100 episodes, likeliest actions. V-trace is also compared with each other
correction seed by seed, since a seed begins with the same weights and environments whatever corrects. Tables, a JSON
file and a plot come out.

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
from seqrl.run_folder import read_metrics
from seqrl.statistics import mean_and_half_width

CORRECTIONS = get_args(impala.Correction)
COLOURS = dict(zip(CORRECTIONS, ("#0072b2", "#e69f00", "#009e73", "#888888"), strict=True))
TASKS = {"masked_cartpole": "masked_cartpole_impala", "tmaze": "tmaze_impala"}
FIGURES = ("training_return", "return")
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
    for key, mine in _grouped(runs, *names):
        done = [run for run in mine if "diverged" not in run]
        row: Answer = dict(zip(names, key, strict=True)) | {"seeds": len(mine), "diverged": len(mine) - len(done)}
        for name in FIGURES:
            values = [run[name] for run in done] or [float("nan")]
            row[name] = {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
        for name in ("policy_lag", "clipped_rho", "clipped_c"):
            row[name] = statistics.mean([run[name] for run in done] or [float("nan")])
        rows.append(row)
    return rows


def _grouped(runs: list[Answer], *names: str) -> Iterator[tuple[tuple, list[Answer]]]:
    """Each combination of what `names` say, in the order of its first appearance, with all that have it."""
    for key in dict.fromkeys(tuple(run[name] for name in names) for run in runs):
        yield key, [run for run in runs if tuple(run[name] for name in names) == key]


def paired(runs: list[Answer], ours: str = "vtrace") -> list[Answer]:
    """`ours` minus each other correction, over the seeds that both have: mean, half its 95 % interval, seeds above 0.

    Seeds of which either run diverged are left out, and so is lag 0, where nothing is to be corrected.
    """
    rows = []
    for (task, replay, lag), here in _grouped(runs, "task", "replay", "lag"):
        done = {(run["correction"], run["seed"]): run for run in here if "diverged" not in run}
        for other in [name for name in CORRECTIONS if name != ours]:
            both = sorted(seed for name, seed in done if name == ours and (other, seed) in done)
            if not both or lag == 0:
                continue
            row: Answer = {"task": task, "replay": replay, "lag": lag, "minus": other, "seeds": len(both)}
            for name in FIGURES:
                differences = [done[ours, seed][name] - done[other, seed][name] for seed in both]
                mean, half_width = mean_and_half_width(differences)
                above = sum(difference > 0 for difference in differences)
                row[name] = {"mean": mean, "half_width": half_width if len(both) > 1 else None, "above": above}
            rows.append(row)
    return rows


def show_paired(pairs: list[Answer]) -> None:
    """One row a comparison: its differences of both figures, ± half a 95 % interval, and the seeds above."""
    table = Table("task", "replay", "lag", "V-trace −", "while training", "seeds above", "after", "seeds above")
    for row in pairs:
        cells = []
        for f in (row[name] for name in FIGURES):
            width = "–" if f["half_width"] is None else f"{f['half_width']:.3g}"
            cells += [f"{f['mean']:.3g} ± {width}", f"{f['above']} of {row['seeds']}"]
        table.add_row(row["task"], f"{row['replay']:.0%}", str(row["lag"]), row["minus"], *cells)
    Console(width=150).print(table)


def show(rows: list[Answer]) -> None:
    """Lag by lag, the corrections beside each other: training return [lowest, highest seed] (trained agent)."""
    for (task, replay), mine in _grouped(rows, "task", "replay"):
        table = Table("lag", "seeds", *dict.fromkeys(row["correction"] for row in mine), "clipped ρ (V-trace)")
        table.title = (
            f"{task}, {'half of each batch replayed' if replay else 'no replay'}: return while training (after)"
        )
        for lag in dict.fromkeys(row["lag"] for row in mine):
            here = [row for row in mine if row["lag"] == lag]
            clipped = next((f"{row['clipped_rho']:.0%}" for row in here if row["correction"] == "vtrace"), "–")
            seeds = sorted({row["seeds"] for row in here})
            table.add_row(
                str(lag), " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))), *map(_cell, here), clipped
            )
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
        lags = sorted({row["lag"] for row in rows})
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
    panels = list(product(args.tasks, args.replay_shares, args.lags, args.corrections))
    before = json.loads(args.output.read_text()) if args.output and args.output.exists() else {"runs": []}
    runs = before["runs"]
    there = {(run["task"], run["correction"], run["lag"], run["replay"], run["seed"]) for run in runs}
    jobs = [(task, c, lag, share, seed, args.short) for seed in seeds for task, share, lag, c in panels]
    for run in run_all([job for job in jobs if job[:-1] not in there], args.jobs):
        runs.append(run)
        if args.output:
            write(args.output, runs, before)  # after each, so that what is stopped loses one run
    runs.sort(key=_place)
    show(summarize(runs))
    show_paired(paired(runs))
    if args.output:
        write(args.output, runs, before)
        plot(summarize(runs), args.output.with_suffix(".png"))


def _place(run: Answer) -> tuple:
    return (list(TASKS).index(run["task"]), run["replay"], run["lag"], CORRECTIONS.index(run["correction"]))


def write(path: Path, runs: list[Answer], before: Answer) -> None:
    """All runs and what is made of them, by a rename. `commands` holds those that have added runs, oldest first."""
    command = " ".join(["python -m benchmarks.vtrace_ablation", *sys.argv[1:]])
    commands = [*before.get("commands", [before["command"]] if "command" in before else []), command]
    runs = sorted(runs, key=_place)
    result = {"command": "python -m benchmarks.vtrace_ablation", "commands": list(dict.fromkeys(commands))}
    result |= {"summary": summarize(runs), "paired": paired(runs), "runs": runs}
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_suffix(".partly")
    partly.write_text(json.dumps(result) + "\n")
    partly.replace(path)


if __name__ == "__main__":
    main()
