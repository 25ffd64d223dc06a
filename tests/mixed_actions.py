"""Environments with mixed actions: one that shows what it was told to do, one that needs both parts and memory."""

from collections import OrderedDict

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ALL = spaces.Dict(
    OrderedDict(
        which=spaces.Discrete(3, start=-1),
        arm=spaces.Tuple(
            [
                spaces.Box(np.float32([[-2, 0]]), np.float32([[2, 5]])),
                spaces.MultiDiscrete([2, 4], start=[7, 0]),
                spaces.Dict(light=spaces.MultiBinary(2)),
            ]
        ),
        force=spaces.Box(-0.1, 0.1, (1,), np.float64),
    )
)
"""A leaf of every kind: 8 numbers, of which 5 are choices."""
NAMES = ["which", "arm.0[0,0]", "arm.0[0,1]", "arm.1[0]", "arm.1[1]", "arm.2.light[0]", "arm.2.light[1]", "force"]
SMALL = spaces.Dict(which=spaces.Discrete(3, start=1), how_much=spaces.Box(-1, 1, (1,), np.float32))


def lowest(space):
    """The least element of a space, as an environment has it."""
    if isinstance(space, spaces.Dict):
        return {key: lowest(child) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(lowest(child) for child in space.spaces)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return np.asarray(space.start, space.dtype)[()]
    return np.zeros(space.shape, space.dtype) if isinstance(space, spaces.MultiBinary) else space.low.copy()


def fits(space, value):
    """Whether `value` is an element of `space`, in its own types too."""
    if isinstance(space, spaces.Dict):
        return set(value) == set(space.spaces) and all(fits(child, value[key]) for key, child in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return isinstance(value, tuple) and all(fits(*pair) for pair in zip(space.spaces, value, strict=True))
    whole = isinstance(space, spaces.Discrete)
    return space.contains(value if whole else np.asarray(value)) and value.dtype == space.dtype


class Echo(gym.Env):
    """Observes the action that was taken, and at first the least one."""

    action_space = observation_space = ALL

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return lowest(self.observation_space), {}

    def step(self, action):
        assert fits(self.action_space, action), f"{action} is not of {self.action_space}"
        self.time += 1
        return action, 1.0, self.time == self.length, False, {}


class Cue(gym.Env):
    """Shows one of three cues at the first step only; at each of the next three, `which` is to be the cue and
    `how_much` the cue's target. A step pays max(0, 1 − 2 |how_much − target|) where `which` is right, else nothing.

    The optimum is 3; without memory it is 1, since one of three cues is right.
    """

    observation_space = spaces.Box(0, 1, (4,), np.float32)
    action_space = SMALL
    targets = (-0.6, 0.0, 0.6)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(3)), 0
        return self.observe(), {}

    def observe(self):
        observation = np.zeros(4, np.float32)
        observation[self.cue if self.time == 0 else 3] = 1
        return observation

    def step(self, action):
        right = self.time > 0 and action["which"] - 1 == self.cue
        far = abs(float(action["how_much"][0]) - self.targets[self.cue])
        self.time += 1
        return self.observe(), max(0.0, 1 - 2 * far) if right else 0.0, self.time == 4, False, {}


gym.register("MixedEcho-v0", Echo)
gym.register("MixedCue-v0", Cue)
