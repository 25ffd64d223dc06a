"""What stale states do to the values, by the strategy that makes a replayed sequence's start state.

    python -m benchmarks.staleness --output benchmarks/results/staleness.json

R2D2 trains on the passive T-maze, whose episodes are longer than what a sequence unrolls, so that a wrong start state
leaves the cue out. Every strategy learns from the same rows: sequences of 10, with 10 before them where it burns in.
ΔQ is how far the start state leads the values astray, at the first and at the last row learnt from
(`seqrl.data.replay.discrepancy`).

Agents trained by different strategies differ in more than their start states, so all strategies are measured on each
of them, on the batches that it learns from. A stored state is as old as the replay is large: the runs are made with one
that forgets nothing and with one that forgets soon. Figures are of the second half of training. Sequences whose episode
began in the burn-in or in the rows learnt from are left out: a burn-in makes their state exactly, and in episodes as
long as R2D2's they are rare. The JSON file has the figures with them too, and those with ΔQ divided by one value for
all strategies.

Source: Kapturowski et al. 2019 (R2D2), section 3, which shows ΔQ largest for the zero start and smallest for the stored
state with a burn-in.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, product
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from torch import Tensor

import seqrl
from benchmarks.learning import machine
from seqrl.agent import Agent
from seqrl.algorithms import r2d2
from seqrl.data import ReplayBatch
from seqrl.data.replay import StartState
from seqrl.data.sharded_replay import ShardedReplay
from seqrl.run_folder import read_metrics
from seqrl.trajectory import Tree, tree_like, tree_map

STRATEGIES: tuple[str, ...] = get_args(StartState)
MEASURED = tuple(strategy for strategy in STRATEGIES if strategy != "refresh")
"""Where a refresh trains, the stored states are the refreshed ones."""
COLOURS = dict(zip(MEASURED, ("#777777", "#d98200", "#0072b2", "#008a63"), strict=True))
ROWS = ("first", "last")
DIVISORS = ("own", "exact")
"""ΔQ is divided by the largest value from the strategy's own start state, as in the paper, or from the exact one."""
SEQUENCES = ("within", "all")
"""Those that lie within an episode with their burn-in, or all of them."""
AGES = (0, 25, 50, 100, 200, 400, 800, inf)
BURN_IN = 10
Answer = dict[str, Any]


def settings(strategy: str, capacity: int, length: int, num_steps: int, seed: int, run_dir: str) -> r2d2.Config:
    return r2d2.Config(
        env="seqrl/TMaze-v0",
        env_kwargs=(f"length={length}",),
        num_steps=num_steps,
        seed=seed,
        run_dir=run_dir,
        start_state=strategy,  # type: ignore[arg-type]
        length=10,
        overlap=5,
        burn_in=BURN_IN,
        replay_capacity=capacity,
        batch_size=32,
        staleness_every=20,
        learning_rate_schedule="constant",
    )


class Measurement(NamedTuple):
    """One batch of N sequences, on the agent that was about to learn from it."""

    step: int
    age: Tensor
    """[N] updates since the state before the first row learnt from was made."""
    delta: Tensor
    """ΔQ [MEASURED, DIVISORS, ROWS, N]."""
    counts: Tensor
    """[SEQUENCES, ROWS, N]."""


class Comparison(list[Measurement]):
    """Takes the place of R2D2's `discrepancy`, and measures every strategy at the rows that `batch` learns from."""

    @torch.no_grad()
    def __call__(
        self, agent: Agent, replays: ShardedReplay, batch: ReplayBatch, strategy: StartState
    ) -> dict[str, Tensor]:
        (replay,) = replays.shards
        before, whole = replay.history(batch.slot)
        inputs = tree_map(lambda old, new: torch.cat([old, new[:-1]]), before, batch.inputs)
        zero = agent.initial_state(len(batch.slot))
        first = len(before.is_first) + replay.burn_in  # row learnt from
        warm = first - BURN_IN
        if warm < 0:  # all episodes began in the rows to burn in: nothing can be stale
            return {}

        def place(row: int) -> tuple[Tensor, Tensor]:
            sequence = batch.slot // replay.num_envs + (row - len(before.is_first)) // replay.stride
            return sequence % len(replay.version), batch.slot % replay.num_envs

        def stored(row: int) -> Tree:
            return tree_like(zero, tree_map(lambda leaf: leaf[place(row)], replay.states))

        def values(row: int, state: Tree) -> Tensor:
            output, _ = agent.unroll(tree_map(lambda leaf: leaf[row:], inputs), state)
            return output["policy"].values[first - row :]

        exact = values(0, zero)
        deltas = []
        for row, state in ((first, zero), (warm, zero), (first, stored(first)), (warm, stored(warm))):  # as MEASURED
            stale = values(row, state)
            distance = (stale - exact).norm(dim=-1)[[0, -1]]
            deltas.append(torch.stack([distance / q.abs().amax((0, 2)).clamp(min=1e-6) for q in (stale, exact)]))
        counts = (batch.mask[replay.burn_in :] & whole)[[0, -1]]
        reset = torch.stack([inputs.is_first[warm : first + 1].any(0), inputs.is_first[warm:].any(0)])
        now = batch.age + replay.version.view(-1)[batch.slot]
        self.append(
            Measurement(
                step=replay.rows * replay.num_envs,
                age=now - replay.version[place(first)],
                delta=torch.stack(deltas),
                counts=torch.stack([counts & ~reset, counts]),
            )
        )
        return {}


def always(config: r2d2.Config) -> bool:
    """Whether the states that acting had are kept: they are, whether or not `config` learns from them."""
    return True


def measure(strategy: str, capacity: int, length: int, num_steps: int, seed: int) -> Answer:
    """One run: curves of ΔQ, and its means over the second half of training, in all and by the states' age."""
    torch.set_num_threads(1)
    comparison = Comparison()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(r2d2, "discrepancy", comparison),
        patch.object(r2d2, "stores_states", always),
    ):
        seqrl.train(settings(strategy, capacity, length, num_steps, seed, f"{folder}/run"))
        lines = list(read_metrics(Path(folder) / "run"))
    returns = [line["episode_return"] for line in lines if "episode_return" in line]
    late = comparison[len(comparison) // 2 :]
    age = torch.cat([seen.age for seen in late])
    delta = torch.cat([seen.delta for seen in late], -1)
    counts = torch.cat([seen.counts for seen in late], -1)
    bands = [((age >= low) & (age < high), low) for low, high in pairwise(AGES)]
    return {
        "strategy": strategy,
        "capacity": capacity,
        "seed": seed,
        "state_age": round(float(age.float().mean()), 1),
        "episode_return": statistics.mean(returns[len(returns) // 2 :]),
        "delta_q": {
            divisor: {sequences: by_strategy(delta[:, d], counts[s]) for s, sequences in enumerate(SEQUENCES)}
            for d, divisor in enumerate(DIVISORS)
        },
        "by_age": [
            {
                "at_least": low,
                "sequences": int((counts[0, 0] & band).sum()),
                **by_strategy(delta[:, 0], counts[0] & band),
            }
            for band, low in bands
        ],
        "curves": [{"step": seen.step, **by_strategy(seen.delta[:, 0], seen.counts[0])} for seen in comparison],
    }


def by_strategy(delta: Tensor, counts: Tensor) -> dict[str, list[float | None]]:
    """The mean ΔQ at the ROWS, from [MEASURED, ROWS, N] where `counts` [ROWS, N]; None where there is none."""
    return {
        strategy: [round(float(d[c].mean()), 4) if c.any() else None for d, c in zip(mine, counts, strict=True)]
        for strategy, mine in zip(MEASURED, delta, strict=True)
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}


def summarize(runs: list[Answer]) -> list[Answer]:
    """For each replay and each strategy that trained, figures over seeds; ΔQ by DIVISORS, SEQUENCES, MEASURED, ROWS."""
    rows = []
    for capacity, strategy in dict.fromkeys((run["capacity"], run["strategy"]) for run in runs):
        mine = [run for run in runs if (run["capacity"], run["strategy"]) == (capacity, strategy)]
        rows.append(
            {
                "capacity": capacity,
                "strategy": strategy,
                **{name: spread(run[name] for run in mine) for name in ("state_age", "episode_return")},
                "delta_q": {
                    d: {
                        s: {m: [spread(run["delta_q"][d][s][m][r] for run in mine) for r in (0, 1)] for m in MEASURED}
                        for s in SEQUENCES
                    }
                    for d in DIVISORS
                },
            }
        )
    return rows


def show(rows: list[Answer], divisor: str, sequences: str) -> None:
    table = Table(
        "replay", "trained with", *MEASURED, "state age", "return",
        title=f"ΔQ at the first and at the last row; divided by: {divisor}; sequences: {sequences}",
    )  # fmt: skip
    for row in rows:
        delta_q = row["delta_q"][divisor][sequences]
        table.add_row(
            f"{row['capacity']:,}",
            row["strategy"],
            *(" ".join(f"{figure['mean']:.2f}" for figure in delta_q[measured]) for measured in MEASURED),
            f"{row['state_age']['mean']:.0f}",
            f"{row['episode_return']['mean']:.2f}",
        )
    Console(width=120).print(table)


def draw(axis: Axes, lines: list[list[Answer]], key: str, row: int) -> None:
    """For each strategy a thin line for each of `lines`, and their mean, labelled at its end."""
    ends = []
    for measured, colour in COLOURS.items():
        points: dict[float, list[float]] = {}
        for line in lines:
            found = [(point[key], point[measured][row]) for point in line if point[measured][row] is not None]
            axis.plot(*zip(*found, strict=True), color=colour, lw=0.7, alpha=0.4)
            for x, y in found:
                points.setdefault(x, []).append(y)
        mean = [(x, statistics.mean(ys)) for x, ys in sorted(points.items()) if len(ys) == len(lines)]
        axis.plot(*zip(*mean, strict=True), color=colour, lw=2.2, label=measured.replace("_", " "))
        ends.append((mean[-1], measured))
    height = 0.0
    for (x, y), measured in sorted(ends, key=lambda end: end[0][1]):
        height = max(y, height * 1.22)  # labels do not overlap
        axis.annotate(
            measured.replace("_", " "), (x, height), (6, 0), textcoords="offset points", color=COLOURS[measured],
            fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip
    axis.set(yscale="log", ylim=(0.02, 3))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def smoothed(curve: list[Answer], width: int = 10) -> list[Answer]:
    """The mean of each measurement and those before it, `width` in all; in thousand steps."""
    result = []
    for i, point in enumerate(curve):
        window = curve[max(0, i - width + 1) : i + 1]
        smooth: Answer = {"step": point["step"] / 1000}
        for measured in MEASURED:
            found = [[p[measured][row] for p in window if p[measured][row] is not None] for row in (0, 1)]
            smooth[measured] = [statistics.mean(values) if values else None for values in found]
        result.append(smooth)
    return result


def plot(runs: list[Answer], path: Path) -> None:
    """ΔQ over training, of one agent in replays of two sizes, and by the age of the stored states, on two agents."""
    capacities = list(dict.fromkeys(run["capacity"] for run in runs))
    ages = [f"{low}–{high - 1:.0f}" if high < inf else f"{low}–" for low, high in pairwise(AGES)]

    def chosen(strategy: str, capacity: int) -> list[Answer]:
        return [run for run in runs if (run["strategy"], run["capacity"]) == (strategy, capacity)]

    figure, axes = plt.subplots(3, 2, figsize=(12, 12), sharey=True, layout="constrained")
    figure.suptitle(
        "How far the start state leads one agent's values astray, by what makes the start state\n"
        "agent trained with stored burn in, but for the panel below on the right"
    )
    for (row, name), (column, capacity) in product(enumerate(ROWS), enumerate(capacities)):
        mine = chosen("stored_burn_in", capacity)
        age = statistics.mean(run["state_age"] for run in mine)
        draw(axes[row, column], [smoothed(run["curves"]) for run in mine], "step", row)
        axes[row, column].set(
            title=f"replay of {capacity:,} steps: stored states {age:.0f} updates old",
            xlabel="thousand steps",
            ylabel=f"ΔQ at the {name} row learnt from",
        )
    for axis, strategy in zip(axes[2], ("stored_burn_in", "zero"), strict=True):
        mine = chosen(strategy, max(capacities))
        draw(axis, [[{**band, "band": i} for i, band in enumerate(run["by_age"])] for run in mine], "band", 0)
        axis.set_xticks(range(len(ages)), ages)
        axis.set(
            title=f"by age, in the replay of {max(capacities):,} steps; trained with {strategy.replace('_', ' ')}",
            xlabel="updates since the stored state was made",
            ylabel="ΔQ at the first row learnt from",
        )
    axes[0, 0].legend(title="thin: a seed\nthick: their mean", frameon=False, fontsize=9, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacities", type=int, nargs=2, default=[200_000, 5_000], help="of the two replays")
    parser.add_argument("--length", type=int, default=30, help="of the corridor")
    parser.add_argument("--num-steps", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, and a PNG beside it")
    args = parser.parse_args()

    jobs = [
        (strategy, capacity, args.length, args.num_steps, seed)
        for seed, capacity, strategy in product(args.seeds, args.capacities, STRATEGIES)
    ]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        runs = []
        for run in pool.map(measure, *zip(*jobs, strict=True)):
            runs.append(run)
            print(f"{len(runs)} of {len(jobs)} runs", flush=True)
    rows = summarize(runs)
    for divisor, sequences in product(DIVISORS, SEQUENCES):
        show(rows, divisor, sequences)
    if args.output:
        command = f"python -m benchmarks.staleness {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": command, **machine(), "length": args.length, "summary": rows, "runs": runs}
        args.output.write_text(json.dumps(result) + "\n")
        plot(runs, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
