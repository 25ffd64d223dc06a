"""MiniGrid's and BabyAI's environments: the one file that imports minigrid.

Source: Chevalier-Boisvert et al., 2023, "Minigrid & Miniworld" (arXiv 2306.13831).
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from seqrl.errors import UserError


def register(env_id: str) -> None:
    """Register MiniGrid's environments with Gymnasium, `env_id` among them. Raises UserError where it is missing."""
    try:
        import minigrid  # noqa: F401  (its import registers them)
    except ImportError as error:
        raise UserError(f"'{env_id}' needs minigrid ({error}): pip install 'seqrl[minigrid]'") from error


class Categories(gym.ObservationWrapper):
    """Gives `image` as categories, for an encoder to embed: each cell is (object, colour, door state), not a colour.

    The observation is a Dict of `image`, MultiDiscrete [7, 7, 3] with 11, 6 and 3 values, and `direction`, Discrete(4).
    The text of the mission is dropped: tasks whose mission changes between episodes, as most of BabyAI's, cannot be
    solved from what is left.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

        assert isinstance(env.observation_space, spaces.Dict)
        num_values = np.array([len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)])
        shape = env.observation_space["image"].shape
        assert shape is not None
        self.observation_space = spaces.Dict(
            image=spaces.MultiDiscrete(np.broadcast_to(num_values, shape)),
            direction=env.observation_space["direction"],
        )

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"image": observation["image"].astype(np.int64), "direction": observation["direction"]}
