"""What random actions bring: the floor that returns are measured from where theory knows none."""

import contextlib
import math
from typing import NamedTuple

from seqrl.checkpoint import write_json
from seqrl.collect import random_policy
from seqrl.comparison.config import Config
from seqrl.comparison.learning_curve import read_threshold
from seqrl.comparison.run_pool import EVALUATION_SEED, seed_of
from seqrl.config import make_environment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.progress import episodes_bar
from seqrl.run_folder import read_json
from seqrl.statistics import is_above

RANDOM = "random.json"
"""In a comparison's folder, the returns of random actions: they are played once."""
LONGEST = 10_000
"""Random actions may never end an episode that has no time limit."""


class Floor(NamedTuple):
    """A return that needs no learning, and half its 95 % interval."""

    mean: float
    half_width: float


def play_randomly(config: Config) -> Floor | None:
    """What random actions bring; None where the best return without a memory is known, which is the floor then."""
    if config.memoryless() is not None:
        return None
    settings, label = config.settings, " ".join(["random actions", *config.settings.env_kwargs])
    with (
        contextlib.closing(make_environment(settings, min(config.num_episodes, 50))) as environment,
        episodes_bar(label, config.num_episodes) as watch,
    ):
        policy = random_policy(environment.single_action_space)
        seed = seed_of(settings, EVALUATION_SEED)
        played = evaluate(policy, environment, config.num_episodes, seed, True, max_length=LONGEST, watch=watch)
    return Floor(played.mean, played.half_width)


def random_floor(config: Config) -> Floor | None:
    """The same, played once and kept in the comparison's folder; of a sweep's value, and of what was begun before
    random actions were played, it is played when it is first asked for."""
    path = config.folder / RANDOM
    if path.is_file():
        found = read_json(config.folder, RANDOM)
        try:
            return Floor(float(found["mean"]), float(found["half_width"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} is damaged: remove it, and random actions are played once more") from None
    floor = play_randomly(config)
    if floor is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, floor._asdict())
    return floor


def threshold(config: Config, floor: Floor | None, best: float, half_width: float, among: int) -> float:
    """The return that counts as reached, where the best of `among` approaches brings `best`, give or take `half_width`.

    A number that was given; or a share of the optimum; or where that is not known, a share of the way from the floor to
    the best approach, and NaN where it is not clear that this has left the floor.
    """
    given, optimal = read_threshold(config.threshold), config.optimal()
    if not config.is_relative():
        return given.of(best if optimal is None else optimal)
    assert floor is not None, "the best without memory is known, and the optimum is not"
    return given.of(best, floor.mean) if is_above(best, half_width, *floor, among) else math.nan
