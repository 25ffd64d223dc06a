"""What random actions bring: the floor that returns are measured from where theory knows none."""

import contextlib
import time
from typing import Any, NamedTuple

from seqrl.checkpoint import write_json
from seqrl.collect import random_policy
from seqrl.comparison.config import Config
from seqrl.comparison.run_pool import EVALUATION_SEED, seed_of
from seqrl.config import make_environment, parse_env_kwargs
from seqrl.envs.exact import memoryless_return
from seqrl.evaluate import evaluate
from seqrl.progress import progress_bar
from seqrl.run_folder import read_json

RANDOM = "random.json"
"""In a comparison's folder, the returns of random actions: they are played once."""
LONGEST = 10_000
"""Random actions may never end an episode that has no time limit."""


class Floor(NamedTuple):
    """A return that needs no learning, and half its 95 % interval."""

    mean: float
    half_width: float

    def is_below(self, mean: float, half_width: float) -> bool:
        """Whether a mean is above the floor by more than chance explains."""
        return mean - half_width > self.mean + self.half_width


def play_randomly(config: Config) -> dict[str, Any]:
    """By the file's name, what is to be kept of random actions' returns; nothing where the best return without a
    memory is known, which is the floor then."""
    settings = config.settings
    kwargs = parse_env_kwargs(settings.env_kwargs)
    if not config.is_masked and memoryless_return(settings.env, **kwargs) is not None:
        return {}
    with (
        contextlib.closing(make_environment(settings, min(config.num_episodes, 50))) as environment,
        progress_bar() as progress,
    ):
        bar = progress.add_task("random actions", total=config.num_episodes, episode_return=None, steps_per_second=0.0)
        begin = time.monotonic()

        def watch(num_over: int, num_steps: int) -> None:
            rate = num_steps / max(time.monotonic() - begin, 1e-9)
            progress.update(bar, completed=num_over, steps_per_second=rate)

        policy = random_policy(environment.single_action_space)
        seed = seed_of(settings, EVALUATION_SEED)
        played = evaluate(policy, environment, config.num_episodes, seed, True, max_length=LONGEST, watch=watch)
    return {RANDOM: {"mean": played.mean, "half_width": played.half_width}}


def random_floor(config: Config) -> Floor | None:
    """The floor of random actions, where they were played; first now in a comparison of before they were."""
    if not (config.folder / RANDOM).is_file():
        for name, value in play_randomly(config).items():
            write_json(config.folder / name, value)
        if not (config.folder / RANDOM).is_file():
            return None
    found = read_json(config.folder, RANDOM)
    return Floor(found["mean"], found["half_width"])
