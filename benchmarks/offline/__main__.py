"""What Decision Transformers learn from a log, beside cloning and dynamic programming on the same log.

    python -m benchmarks.offline                               # every experiment
    python -m benchmarks.offline corridors gamble              # some of them
    python -m benchmarks.offline shortest_path --seeds 0 1 --methods dt bc --no-store

Each run trains on one thread, from a log of its own seed.
"""

import sys
from typing import Annotated

import torch
import tyro

from benchmarks.offline import control, problems
from benchmarks.offline.experiment import run, show, store

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
        chosen = seeds or tuple(range(experiment.num_seeds))
        result = run(name, experiment, chosen, methods or tuple(experiment.methods))
        show(name, result)
        if store_results:
            command = f"python -m benchmarks.offline {name}" + (
                f" --seeds {' '.join(map(str, seeds))}" if seeds else ""
            )
            print(f"-> {store(name, command, result).name}")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
