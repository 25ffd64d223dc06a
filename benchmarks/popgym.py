"""Which memory do POPGym's problems need? `seqrl compare` on each of them, with the same settings and budget for all.

    python -m benchmarks.popgym --runs runs/popgym --output benchmarks/results/popgym.json
    python -m benchmarks.popgym RepeatFirst CountRecall --num-seeds 3 --num-steps 2e6 --runs … --output …

Runs that are done under `--runs` are kept, so an interrupted benchmark goes on. As in POPGym's protocol (Morad et al.
2023, arXiv 2303.01859) an agent reads its previous action, no return is above 1, and MMER is the highest mean return of
training episodes. Unlike there the budget is a small one, and what the kept agent brings is evaluated.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.comparison.advice import advice
from seqrl.comparison.online import Config, compare, default_settings
from seqrl.comparison.report import Comparison
from seqrl.reports.common import mean_and_interval, smooth

PROBLEMS = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "Concentration", "HigherLower", "Battleship",
            "MineSweeper", "MultiarmedBandit", "PositionOnlyCartPole", "NoisyPositionOnlyCartPole",
            "VelocityOnlyCartpole", "PositionOnlyPendulum", "NoisyPositionOnlyPendulum")  # fmt: skip
"""All but the two labyrinths, which need a package besides."""
MEMORIES = ("none", "gru", "linear")


def config_of(problem: str, options: argparse.Namespace) -> Config:
    """The comparison on the easy version of a problem."""
    env = f"popgym-{problem}Easy-v0"
    settings = dataclasses.replace(
        default_settings(env),
        previous_action=True,
        num_steps=int(options.num_steps),
        run_dir=str(options.runs / problem),
    )
    return Config(
        settings=settings, memories=tuple(options.memories), num_seeds=options.num_seeds, workers=options.workers
    )


def highest_in_training(curve: list[tuple[float, float]]) -> float:
    """MMER: the highest mean return of training episodes, each point the mean of five updates around it."""
    return float(smooth(curve, [step for step, _ in curve]).max())


def figures(result: Comparison) -> dict[str, Any]:
    """What is kept of a comparison."""
    rows = {
        row.memory: {
            "mean": row.mean,
            "episodes_half_width": row.episodes_half_width,
            "seed_means": row.seed_means,
            "mmer": [highest_in_training(curve) for curve in row.curves],
            "seconds": row.seconds,
            "drawn": row.drawn,
        }
        for row in result.rows
    }
    return {"random": result.random, "rows": rows, "advice": advice(result)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", default=list(PROBLEMS), help=", ".join(PROBLEMS))
    parser.add_argument("--memories", nargs="+", default=list(MEMORIES))
    parser.add_argument("--num-seeds", type=int, default=2)
    parser.add_argument("--num-steps", type=float, default=500_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    table = Table(title=f"mean return of 100 episodes, after {options.num_steps:,.0f} steps, {options.num_seeds} seeds")
    for column in ("problem", "random", *options.memories):
        table.add_column(column)
    found: dict[str, Any] = {}
    for problem in options.problems:
        config = config_of(problem, options)
        result = compare(config, resumed=config.folder.exists())
        found[problem] = figures(result)
        table.add_row(
            problem,
            "–" if result.random is None else f"{result.random:.2f}",
            *(mean_and_interval(row.mean, row.episodes_half_width) for row in result.rows),
        )
        command = (
            f"python -m benchmarks.popgym {' '.join(options.problems)} --memories {' '.join(options.memories)} "
            f"--num-seeds {options.num_seeds} --num-steps {options.num_steps:g} --runs {options.runs} "
            f"--output {options.output}"
        )
        options.output.write_text(json.dumps({"command": command, **machine(), "problems": found}, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
