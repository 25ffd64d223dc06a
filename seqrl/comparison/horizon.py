"""How long a delay each approach still bridges: the same problem with ever larger values of one of its arguments.

An approach is tried at one value after the other, from the smallest on, until it fails: where it has not solved a
corridor of 20, one of 40 is not tried. `Tried.solved` says what counts.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqrl.comparison.report import Tried
from seqrl.comparison.run_pool import EVALUATION, Job, Measure, run_all
from seqrl.errors import UserError
from seqrl.run_folder import read_json


class Sweep(NamedTuple):
    """An argument of the environment, and its values in rising order."""

    key: str
    values: tuple[float, ...]


def read_sweep(text: str) -> Sweep:
    """`length=5,10,20` as a `Sweep`, and `length=5..20` as the same by doubling. Raises UserError for anything else."""
    key, equals, rest = text.partition("=")
    first, dots, last = rest.partition("..")
    try:
        values = tuple(json.loads(f"[{first},{last}]" if dots else f"[{rest}]"))
    except json.JSONDecodeError:
        values = ()
    numbers = bool(values) and all(isinstance(value, int | float) and value is not True for value in values)
    rising = numbers and values == tuple(sorted(set(values))) and (not dots or (len(values) == 2 and values[0] > 0))
    if not (equals and key.isidentifier() and rising):
        raise UserError(
            f"--horizon-sweep {text!r} is not KEY=VALUES in rising order, such as length=5,10,20, "
            "or length=5..80 for doubling"
        )
    if dots:
        low, high = values
        values = tuple(low * 2**k for k in range(64) if low * 2**k <= high)
    return Sweep(key, values)


def close_to(optimum: float) -> float:
    """The return from which on a problem counts as solved: a tenth of the optimum's size below it."""
    return optimum - 0.1 * abs(optimum)


def sweep(
    values: Sequence[float],
    runs_of: Mapping[str, Callable[[float], list[Any]]],
    level: Callable[[float], float],
    play: Measure,
    workers: int,
    folder: Path,
) -> Iterator[dict[str, list[Tried]]]:
    """After each value, by approach, what was tried so far. A value is solved where the mean over seeds reaches
    `level(value)`.

    `runs_of[approach](value)` are its runs' configs, one for each seed. Runs that are done are not done again.
    """
    tried: dict[str, list[Tried]] = {name: [] for name in runs_of}
    for value in values:
        runs = {name: make(value) for name, make in runs_of.items() if all(t.solved for t in tried[name])}
        if not runs:
            return
        jobs = [Job(f"{name} {value:g} seed {run.seed}", run) for name, some in runs.items() for run in some]
        for error in run_all(jobs, play, workers, folder):
            raise error
        for name, some in runs.items():
            means = [float(np.mean(read_json(Path(run.run_dir), EVALUATION)["returns"])) for run in some]
            solved = float(np.mean(means)) >= level(value)
            tried[name].append(Tried(value=value, needed=level(value), seed_means=means, solved=solved))
        yield tried
