"""How long a delay each approach still bridges: the same problem with ever larger values of one of its arguments.

An approach is tried at one value after the other, from the smallest on, until it fails: where it has not solved a
corridor of 20, one of 40 is not tried. `Tried.solved` says what counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from seqrl.comparison.approaches import Approach
from seqrl.comparison.config import Config, read_sweep
from seqrl.comparison.floor import Floor, random_floor, threshold
from seqrl.comparison.reach import Reach
from seqrl.comparison.report import Horizon, Tried
from seqrl.comparison.run_pool import EVALUATION, Job, Measure, is_done, run_all
from seqrl.errors import UserError
from seqrl.run_folder import read_json
from seqrl.statistics import mean_and_half_width


def measure_horizon(
    config: Config, online: Sequence[Approach], play: Measure
) -> Iterator[tuple[Horizon, list[UserError]]]:
    """After each of the sweep's values, what was tried so far, and what was wrong with runs that failed there.

    An approach of which a run fails is tried no further, and says nothing at that value. Runs that are done are not
    done again.
    """
    key, values = read_sweep(config.horizon_sweep)
    tried: dict[str, list[Tried]] = {str(approach): [] for approach in online}
    going = list(online)
    for value in values:
        if not going:
            return
        here = config.at(key, value)
        runs = {approach: config.swept(approach, key, value) for approach in going}
        jobs = [
            Job(f"{config.label(approach)} {key}={value:g} seed {run.seed}", run)
            for approach in going
            for run in runs[approach]
        ]
        floor = random_floor(here) if here.is_relative() else None
        failed = run_all(jobs, play, config.workers, config.folder)
        done = [approach for approach in going if all(is_done(run.run_dir) for run in runs[approach])]
        played = {approach: [read_json(Path(run.run_dir), EVALUATION) for run in runs[approach]] for approach in done}
        returns = {approach: [seed["returns"] for seed in seeds] for approach, seeds in played.items()}
        found = _tried(here, value, floor, returns)
        for approach, one in found.items():
            steps = float(np.mean([length for seed in played[approach] for length in seed["lengths"]]))
            tried[str(approach)].append(replace(one, reach=Reach.of(approach, runs[approach][0], steps)))
        going = [approach for approach, one in found.items() if one.solved]
        so_far = {name: list(some) for name, some in tried.items()}
        yield Horizon(key=key, values=list(values), tried=so_far, steps=config.horizon_steps), failed


def _tried(
    here: Config, value: float, floor: Floor | None, returns: dict[Approach, list[list[float]]]
) -> dict[Approach, Tried]:
    """What each approach makes of `value`, by its returns, a list for each seed.

    It is solved where the mean over seeds is what counts as reached. Where that is a share of the way to the best
    approach, and it is not clear that the best has left random actions, none has solved it.
    """
    if not returns:
        return {}
    episodes = [[one for of_seed in of_seeds for one in of_seed] for of_seeds in returns.values()]
    best, half_width = max(map(mean_and_half_width, episodes))
    needed = threshold(here, floor, best, half_width, len(episodes))
    found = {}
    for approach, of_seeds in returns.items():
        means = [float(np.mean(of_seed)) for of_seed in of_seeds]
        solved = float(np.mean(means)) >= needed
        random = floor.mean if floor else None
        found[approach] = Tried(value=value, needed=needed, seed_means=means, solved=solved, random=random)
    return found
