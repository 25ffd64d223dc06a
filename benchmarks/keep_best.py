"""Does keeping the best evaluated agent hand over a better one than the last, and does it ever hand over a worse?

    python -m benchmarks.keep_best --output benchmarks/results/keep_best.json

Each run is trained twice, alike to the last bit, but that one ends with its last agent and the other with what
`--num-evaluations 10 --keep best` keeps. Both play the same 200 episodes, of which the evaluations saw none. Problems
are those whose returns are the same in all episodes once they are solved (CartPole, T-maze), and those whose returns
are much by chance (Pendulum, Leduc), where the best of ten evaluations may be but lucky.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import train
from seqrl.config import RunConfig, make_environment
from seqrl.evaluate import evaluate
from seqrl.recipes import leduc, masked_cartpole, masked_cartpole_r2d2, masked_pendulum, repeat_previous, tmaze
from seqrl.run_folder import read_metrics
from seqrl.seeds import derived_seed

PROBLEMS: dict[str, Callable[[], RunConfig]] = {
    # With a discount that is too short for it, some seeds lose again what they had.
    "cartpole_gru": lambda: replace(masked_cartpole(), gamma=0.99),
    "cartpole_lstm": lambda: replace(masked_cartpole(), memory="lstm", gamma=0.99),
    "cartpole_r2d2": lambda: replace(masked_cartpole_r2d2(), num_steps=60_000),
    "tmaze": tmaze,
    "repeat_previous": lambda: replace(repeat_previous(), num_steps=250_000),
    "pendulum": lambda: replace(masked_pendulum(), num_steps=250_000),
    "leduc": lambda: replace(leduc(), num_steps=500_000),
}


def measure(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The mean return of both agents, in the same 200 episodes, and what evaluations said while training."""
    result: dict[str, Any] = {"seed": config.seed}
    for keep in ("last", "best"):
        run = replace(config, num_evaluations=10, keep=keep, run_dir=str(folder / f"{config.seed}_{keep}"))
        agent = train(run)
        with contextlib.closing(make_environment(run, 50)) as environment:
            played = evaluate(agent, environment, 200, derived_seed(config.seed, 200) >> 2)
        result[keep] = played.mean
        curve = [line["eval_return"] for line in read_metrics(Path(run.run_dir)) if "eval_return" in line]
        assert curve == result.setdefault("evaluations", curve), "the two runs differ"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", default=list(PROBLEMS), help=", ".join(PROBLEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="mean return of 200 episodes, over seeds (worst seed)")
    for column in ("problem", "last", "best kept", "seeds in which another than the last was kept"):
        table.add_column(column)
    results: dict[str, list[dict[str, Any]]] = {}
    command = f"python -m benchmarks.keep_best {' '.join(options.problems)} --seeds {' '.join(map(str, options.seeds))}"
    for name in options.problems:
        with tempfile.TemporaryDirectory() as folder:
            runs = [measure(replace(PROBLEMS[name](), seed=seed), Path(folder)) for seed in options.seeds]
        results[name] = runs
        told = [
            f"{sum(run[keep] for run in runs) / len(runs):.4g} ({min(run[keep] for run in runs):.4g})"
            for keep in ("last", "best")
        ]
        changed = [str(run["seed"]) for run in runs if run["last"] != run["best"]]
        table.add_row(name, *told, ", ".join(changed) or "none")
        text = json.dumps({"command": f"{command} --output {options.output}", **machine(), "runs": results}, indent=2)
        options.output.write_text(text + "\n")
        print(name, *told, changed, flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
