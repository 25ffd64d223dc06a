"""What begins anew at a checkpoint where environments cannot be saved."""

from typing import Any

import torch

from seqrl.distributed import actor_seed
from seqrl.training_state import TrainingState


class Recorded:
    """Stands for agent, environment, rollout and run: notes the seeds with which episodes begin anew."""

    state = ()

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def state_dict(self) -> None:
        return None

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError

    def restart(self, seed: int) -> None:
        self.seeds.append(seed)

    def save(self, parts: Any, counters: Any) -> None:
        pass


def seeds_of(seed: int) -> list[int]:
    """Those of a hundred checkpoints, an update apart."""
    recorded: Any = Recorded()
    state = TrainingState(seed, recorded, recorded, recorded)
    for updates in range(1, 101):
        state.updates = updates
        state.save(recorded, 0)
    return recorded.seeds


# Breaks if the seed is seed · 1,000,003 + updates, or that of `actor_seed(seed, updates)`.
def test_no_episode_begins_twice() -> None:
    """Gymnasium gives environment i the seed plus i: of no two checkpoints do 64 environments share one."""
    taken = torch.tensor(seeds_of(0) + seeds_of(1) + [0, 1] + [actor_seed(0, index) for index in range(1, 101)])
    gaps = taken.sort().values.diff()
    assert (gaps >= 64).sum() == len(gaps) - 1  # 0 and 1 are neighbours
    assert int(taken.max()) < 2**30
