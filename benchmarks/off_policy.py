"""Off-policy estimates against the truth: how far off they are, how often intervals hold it, and who ships.

    python -m benchmarks.off_policy --output benchmarks/results/off_policy.json

The problem is a conversation of up to three utterances with a hidden coin; the logged policy is an untrained model, and
policies that differ from it by a liking for one token, more and more. Each is played for its true mean return (of
`--num-played` dialogues), and estimated from each of `--num-logs` logs of `--num-dialogues` dialogues.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from guessing import Guess, Sharper, random_voice

from seqrl.language.logging import logged_play
from seqrl.language.play import play
from seqrl.off_policy import FittedConfig, Requirements, checks, evaluate_logged, ships

TASK = Guess()
LOGGED = random_voice(TASK.tokenizer)
LIKINGS = (0.0, 0.5, 1.0, 2.0)


def truth(liking: float, number: int) -> float:
    played = play(TASK, Sharper(LOGGED, liking=liking), number, seed=99)
    return float(np.mean([each.total for each in played]))


def one_policy(liking: float, num_logs: int, num_dialogues: int, num_played: int, iterations: int) -> dict[str, Any]:
    """Errors of each estimator over logs, the share of intervals that hold the truth, and how many would ship."""
    expected, logged = truth(liking, num_played), truth(0.0, num_played)
    errors: dict[str, list[float]] = {}
    held: dict[str, list[bool]] = {}
    sizes, shipped = [], 0
    for k in range(num_logs):
        dialogues = list(logged_play(TASK, LOGGED, num_dialogues, seed=1000 + k))
        fitted = FittedConfig(num_iterations=iterations, seed=k)
        voice = Sharper(LOGGED, liking=liking)
        found = evaluate_logged(dialogues, TASK.tokenizer, voice, LOGGED, fitted=fitted, seed=k)
        shipped += ships(checks(found, Requirements()))
        sizes.append(found.effective_size)
        for name, interval in found.estimates.items():
            errors.setdefault(name, []).append(interval.value - expected)
            held.setdefault(name, []).append(interval.low <= expected <= interval.high)
    return {
        "liking": liking,
        "true_return": expected,
        "true_gain": expected - logged,
        "effective_size": float(np.mean(sizes)),
        "shipped": shipped,
        "num_logs": num_logs,
        "estimators": {
            name: {
                "bias": float(np.mean(error)),
                "root_mean_square_error": float(np.sqrt(np.mean(np.square(error)))),
                "coverage": None if name.startswith("fitted") else float(np.mean(held[name])),
            }
            for name, error in errors.items()
        },
    }


def table(rows: list[dict[str, Any]]) -> Table:
    result = Table(title="root mean square error (coverage of 95 % intervals)")
    names = list(rows[0]["estimators"])
    for name in ("liking", "true return", "gain", "worth", "shipped", *names):
        result.add_column(name, justify="right")
    for row in rows:
        cells = []
        for name in names:
            one = row["estimators"][name]
            cover = "" if one["coverage"] is None else f" ({100 * one['coverage']:.0f} %)"
            cells.append(f"{one['root_mean_square_error']:.3f}{cover}")
        result.add_row(
            f"{row['liking']:g}", f"{row['true_return']:.3f}", f"{row['true_gain']:+.3f}",
            f"{row['effective_size']:.0f}", f"{row['shipped']} of {row['num_logs']}", *cells,
        )  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-logs", type=int, default=20)
    parser.add_argument("--num-dialogues", type=int, default=300)
    parser.add_argument("--num-played", type=int, default=12_000)
    parser.add_argument("--num-iterations", type=int, default=20)
    parser.add_argument("--likings", type=float, nargs="+", default=LIKINGS)
    parser.add_argument("--output", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, rows = time.monotonic(), []
    for liking in arguments.likings:
        rows.append(
            one_policy(
                liking, arguments.num_logs, arguments.num_dialogues, arguments.num_played, arguments.num_iterations
            )
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    Console().print(table(rows))
    if arguments.output:
        settings = {name: value for name, value in vars(arguments).items() if name != "output"}
        content = {**settings, "seconds": time.monotonic() - start, "rows": rows}
        Path(arguments.output).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
