"""What the age of the policy that speaks costs, and what a correction gives back.

    python -m benchmarks.rlhf_lag --seeds 0 1 2 --output benchmarks/results/rlhf_lag.json

The clone of `benchmarks.preferences sentiment` (a GRU, 64 wide, of scripted negotiators' talk) is paid for the
sentiment of its own answers, −1 … 1, by PPO and RLOO. Actors take turns with the learner, with weights that are 0, 4 or
8 updates old, with the correction and without. Judged are 400 fresh answers, by their sentiment, and the last rollout's
KL from the clone. Settings were chosen on another seed (100) than those reported, for lag 0 alone.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.preferences import Bench
from seqrl.algorithms import rlhf
from seqrl.run_folder import read_metrics
from seqrl.statistics import mean_and_half_width

Answer = dict[str, Any]
TUNE: Answer = {
    "num_conversations": 64, "batch_size": 64, "num_steps": 40, "learning_rate": 5e-3, "warmup": 5, "kl_weight": 0.05,
    "reward": ("own_sentiment",), "num_actors": 1,
}  # fmt: skip
METHODS: dict[str, Answer] = {
    "ppo": {"method": "ppo", "num_epochs": 4, "batch_size": 32},
    "rloo": {"method": "rloo", "num_epochs": 1, "group_size": 8},
}
CASES = [(0, "importance"), (4, "importance"), (4, "none"), (8, "importance"), (8, "none")]
"""Lag, and correction; without a lag there is nothing to correct."""


def one_run(bench: Bench, method: str, lag: int, correction: str) -> Answer:
    """Fine-tune, and judge what came of it."""
    run, start = bench.folder / f"{method} {lag} {correction}", time.process_time()
    settings = bench.shared | TUNE | METHODS[method] | bench.where | {"policy": str(bench.folder / "bc")}
    config = rlhf.Config(
        **settings | {"forced_lag": lag, "correction": correction, "run_dir": str(run), "log_every": 1}
    )
    agent = bench.timed(run.name, config)
    lines = list(read_metrics(run))
    return {
        **bench.reward(agent),
        "kl": lines[-1]["kl"],
        "half_way": lines[len(lines) // 2]["episode_return"],
        "clipped_rho": sum(line["clipped_rho"] for line in lines) / len(lines),
        "cpu_seconds": time.process_time() - start,
    }


def one_seed(seed: int) -> Answer:
    """All cases of one clone."""
    with tempfile.TemporaryDirectory(prefix="rlhf-lag-") as folder:
        bench = Bench("sentiment", seed, Path(folder))
        runs = {
            f"{method} {lag} {correction}": one_run(bench, method, lag, correction)
            for method in METHODS
            for lag, correction in CASES
        }
        return {"before": bench.reward(bench.clone), "runs": runs}


def show(seeds: dict[str, Answer]) -> None:
    before = [each["before"]["reward"] for each in seeds.values()]
    table = Table(title=f"sentiment, −1 … 1; before: {', '.join(f'{x:.2f}' for x in before)}")
    for column in ("method", "lag", "correction", "sentiment", "mean", "KL", "ratio clipped"):
        table.add_column(column, justify="right")
    for name in next(iter(seeds.values()))["runs"]:
        found = [each["runs"][name] for each in seeds.values()]
        rewards = [each["reward"] for each in found]
        middle, half_width = mean_and_half_width(rewards)
        table.add_row(
            *name.split(), ", ".join(f"{x:.2f}" for x in rewards), f"{middle:.2f} ± {half_width:.2f}",
            ", ".join(f"{each['kl']:.1f}" for each in found), ", ".join(f"{each['clipped_rho']:.1%}" for each in found),
        )  # fmt: skip
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = {}
    for seed in options.seeds:
        seeds[str(seed)] = one_seed(seed)
        if options.output:
            content = {"machine": machine(), "tune": TUNE, "methods": METHODS, "by_seed": seeds}
            options.output.write_text(json.dumps(content, indent=2) + "\n")
    show(seeds)


if __name__ == "__main__":
    main()
