"""A problem without memory's help in which drawing is worth more than being sure."""

from typing import Any

import gymnasium as gym


class Doors(gym.Env[Any, Any]):
    """Behind one of four doors is a prize, and nothing tells which, nor that a door was tried. Who always opens the
    same one finds it in a quarter of the episodes, who draws nearly always."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, Any]:
        super().reset(seed=seed)
        self.door, self.time = int(self.np_random.integers(4)), 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, Any]:
        self.time += 1
        found = int(action) == self.door
        return 0, float(found), found, self.time == 12, {}


gym.register("Doors-v0", Doors)
