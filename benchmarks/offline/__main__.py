"""What Decision Transformers learn from a log, beside cloning and dynamic programming on the same log.

    python -m benchmarks.offline                               # every experiment
    python -m benchmarks.offline corridors gamble              # some of them
    python -m benchmarks.offline shortest_path --seeds 0 1 --methods dt bc --no-store

Each run trains on one thread, from a log of its own seed. Scores are stored after each seed, so that what is stopped
leaves those it has.
"""

import shlex
import sys
from typing import Annotated, Any

import torch
import tyro

from benchmarks.offline import control, problems
from benchmarks.offline.experiment import result_of, run, show, store

EXPERIMENTS = {**problems.EXPERIMENTS, **control.EXPERIMENTS}


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(EXPERIMENTS),
    /,
    seeds: tuple[int, ...] = (),
    methods: tuple[str, ...] = (),
    store_results: Annotated[bool, tyro.conf.arg(name="store")] = True,
) -> None:
    """Run the experiments `names`: all methods, on as many seeds as each asks for, and store the scores."""
    torch.set_num_threads(1)
    for name in names:
        experiment = EXPERIMENTS[name]
        chosen = methods or tuple(experiment.methods)
        only = ["--seeds", *map(str, seeds)] if seeds else []
        only += ["--methods", *methods] if methods else []
        command = shlex.join(["python", "-m", "benchmarks.offline", name, *only])
        runs: list[dict[str, Any]] = []
        for seed in seeds or range(experiment.num_seeds):
            runs += run(name, experiment, seed, chosen)
            result = result_of(experiment, runs, chosen)
            if store_results:
                print(f"-> {store(name, command, result).name}", flush=True)
        show(name, result)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
