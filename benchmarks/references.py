"""The references against the figures that RL² published of them, and what was tuned for that.

    python -m benchmarks.references --search                                    # on seeds of its own; prints tables
    python -m benchmarks.references --output benchmarks/results/references.json # plays all of `references_for`
    python -m benchmarks.references --stored benchmarks/results/references.json # shows what a file holds

Figures are mean total rewards of a trial (Duan et al. 2016, arXiv 1611.02779, tables 1 and 2; theirs are means of 1,000
trials, whose standard errors we estimate from ours). The dark rooms' optima follow from their geometry. `--search`
plays the tuned references over a grid, as RL² did for each setting; its best go into `seqrl/references/tuned.py` by
hand. Nothing else is fitted to the figures but the definitions, which the classes' docstrings tell.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.adaptation import trial_returns
from seqrl.collect import Policy
from seqrl.envs import Environment, make
from seqrl.references import bandits, references_for, tabular
from seqrl.statistics import mean_and_half_width

BANDIT_NAMES = ("random", "Gittins", "Thompson", "optimistic Thompson", "UCB1")
BANDIT_ROWS = {  # pulls, arms
    (10, 5): (5.0, 6.6, 5.7, 6.5, 6.7),
    (100, 5): (49.9, 78.3, 74.7, 77.9, 78.0),
    (100, 10): (49.9, 82.8, 76.7, 81.4, 82.4),
    (100, 50): (49.8, 85.2, 64.5, 67.7, 84.3),
    (500, 5): (249.8, 405.8, 402.0, 406.7, 405.8),
    (500, 50): (249.6, 463.7, 427.2, 437.6, 457.6),
}
TABULAR_NAMES = ("random", "PSRL", "OPSRL", "UCRL2", "BEB, timed", "ε-greedy", "greedy")
TABULAR_ROWS = {  # inner episodes
    (10,): (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8),
    (25,): (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8),
    (50,): (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3),
    (75,): (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9),
}
DARK_ROOMS = {(9,): {"random": 0.24, "optimal": 16.5}, (5,): {"random": 0.78, "optimal": 18.5}}  # a mean inner episode

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "bandit": {
        "UCB1": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
        "ε-greedy": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
        "optimistic Thompson": (3, 10, 30),
    },
    "tabular": {
        "ε-greedy": (0.02, 0.05, 0.1, 0.2),
        "OPSRL": (2, 5, 10, 20),
        "UCRL2": (0.2, 0.25, 0.3, 0.35, 0.4),
        "BEB, timed": (1.0, 2.0, 3.0, 5.0, 10.0),
        "BEB": (0.5, 0.7, 1.0, 1.4, 2.0, 3.0),
    },
}
MAKE: dict[str, dict[str, Callable[[Environment, float], Policy]]] = {
    "bandit": {
        "UCB1": bandits.UCB1,
        "ε-greedy": bandits.EpsilonGreedy,
        "optimistic Thompson": lambda environment, draws: bandits.OptimisticThompson(environment, int(draws)),
    },
    "tabular": {
        "ε-greedy": lambda environment, epsilon: tabular.EpsilonGreedy(environment, epsilon, prior_weight=0.0),
        "OPSRL": lambda environment, draws: tabular.PSRL(environment, int(draws)),
        "UCRL2": tabular.UCRL2,
        "BEB, timed": tabular.TimedBEB,
        "BEB": tabular.BEB,
    },
}
SEARCH_SEED, PUBLISHED_TRIALS = 1000, 1000


def problem(family: str, setting: tuple[int, ...], num_envs: int) -> Environment:
    """The environment of one row of the tables."""
    if family == "bandit":
        return make("seqrl/Bandit-v0", num_envs, env_kwargs={"num_episodes": setting[0], "num_arms": setting[1]})
    if family == "tabular":
        return make("seqrl/TabularMDP-v0", num_envs, env_kwargs={"num_episodes": setting[0]})
    return make("seqrl/DarkRoom-v0", num_envs, env_kwargs={"size": setting[0]})


def number_of_trials(family: str, setting: tuple[int, ...], most: int) -> int:
    """`most` where trials are short, a tenth of it (1,000) elsewhere."""
    short = family == "dark room" or (family == "bandit" and math.prod(setting) <= 1000)
    return most if short else most // 10


def score(policy: Policy, environment: Environment, num_trials: int, seed: int) -> dict[str, float]:
    """Mean total reward of a trial, half its 95 % interval, and what it took."""
    begin = time.perf_counter()
    mean, half_width = mean_and_half_width(trial_returns(policy, environment, num_trials, seed).sum(1))
    return {"mean": mean, "half_width": half_width, "trials": num_trials, "seconds": time.perf_counter() - begin}


def search(family: str, rows: dict[tuple[int, ...], Any], num_trials: int) -> dict[str, dict[tuple[int, ...], float]]:
    """The best of each grid in each setting."""
    best: dict[str, dict[tuple[int, ...], float]] = {name: {} for name in GRIDS[family]}
    for setting in rows:
        trials = number_of_trials(family, setting, num_trials)
        environment = problem(family, setting, min(trials, 500))
        for name, grid in GRIDS[family].items():
            scores = {x: score(MAKE[family][name](environment, x), environment, trials, SEARCH_SEED) for x in grid}
            best[name][setting] = max(grid, key=lambda x: scores[x]["mean"])
            print(family, setting, name, {x: round(s["mean"], 2) for x, s in scores.items()}, flush=True)
    return best


def compare(
    family: str, published: dict[tuple[int, ...], dict[str, float]], most: int, only: list[str] | None
) -> list[dict[str, Any]]:
    """Every reference (or `only` some) in every setting, beside its published figure."""
    results = []
    for setting, figures in published.items():
        trials = number_of_trials(family, setting, most)
        environment = problem(family, setting, min(trials, 1000))
        for name, policy in references_for(environment).items():
            if only and name not in only:
                continue
            row = {"family": family, "setting": list(setting), "reference": name}
            row |= score(policy, environment, trials, seed=0)
            if family == "dark room":  # its figures are of a mean inner episode
                row["mean"], row["half_width"] = row["mean"] / 20, row["half_width"] / 20
            if name in figures:
                row |= {"published": figures[name], "difference": 100 * (row["mean"] / figures[name] - 1)}
            results.append(row)
            print(row, flush=True)
    return results


def standard_errors(row: dict[str, Any]) -> float:
    """How many standard errors ours is above the published figure: of both means, theirs over `PUBLISHED_TRIALS`."""
    ours = row["half_width"] / 1.96
    theirs = ours * (row["trials"] / PUBLISHED_TRIALS) ** 0.5
    return (row["mean"] - row["published"]) / math.hypot(ours, theirs)


def show(results: list[dict[str, Any]]) -> None:
    table = Table("family", "setting", "reference", "ours ± 95 %", "published", "difference, %", "errors", "s")
    for row in results:
        ours = f"{row['mean']:.2f} ± {row['half_width']:.2f}"
        published = ("", "", "")
        if "published" in row:
            published = (f"{row['published']}", f"{row['difference']:+.1f}", f"{standard_errors(row):+.1f}")
        setting = ", ".join(map(str, row["setting"]))
        table.add_row(row["family"], setting, row["reference"], ours, *published, f"{row['seconds']:.0f}")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--stored", type=Path, help="show this JSON file, and play nothing")
    parser.add_argument("--families", nargs="+", default=["bandit", "tabular", "dark room"])
    parser.add_argument("--settings", nargs="+", help="such as 10,5: only these")
    parser.add_argument("--references", nargs="+", help="such as UCRL2: only these")
    parser.add_argument("--trials", type=int, default=10_000, help="of the short settings; the long ones get a tenth")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    if args.stored:
        return show(json.loads(args.stored.read_text())["results"])
    torch.set_num_threads(1)
    published: dict[str, dict[tuple[int, ...], dict[str, float]]] = {
        "bandit": {key: dict(zip(BANDIT_NAMES, row, strict=True)) for key, row in BANDIT_ROWS.items()},
        "tabular": {key: dict(zip(TABULAR_NAMES, row, strict=True)) for key, row in TABULAR_ROWS.items()},
        "dark room": DARK_ROOMS,
    }
    if args.settings:
        chosen = {tuple(map(int, setting.split(","))) for setting in args.settings}
        published = {family: {k: v for k, v in rows.items() if k in chosen} for family, rows in published.items()}
    if args.search:
        for family in args.families:
            if family in GRIDS:
                print(search(family, published[family], args.trials))
        return
    results = [
        row for family in args.families for row in compare(family, published[family], args.trials, args.references)
    ]
    show(results)
    if args.output:
        write(args.output, f"python -m benchmarks.references {' '.join(sys.argv[1:])}", results)


def write(path: Path, command: str, results: list[dict[str, Any]]) -> None:
    """Put the results into the file, in the place of older ones of the same settings and references."""
    old = json.loads(path.read_text()) if path.exists() else {"commands": [], "results": []}
    new = [(row["family"], row["setting"], row["reference"]) for row in results]
    kept = [row for row in old["results"] if (row["family"], row["setting"], row["reference"]) not in new]
    commands = [*(known for known in old["commands"] if known != command), command]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"commands": commands, **machine(), "results": kept + results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
