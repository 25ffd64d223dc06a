"""An environment that shows where it is, and a memory that counts: they tell what became of each row on its way.

The clock shows (episode, step, last action), so a row says itself which row it is. The counter's output and state are
the number of rows since `is_first`, which the clock's step says too: step + 1 after a row was read.
"""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from seqrl.agent import Agent
from seqrl.data import Rollout
from seqrl.memory import Memory
from seqrl.nets import Encoder, PolicyHead

ENDS = {"terminated": (True, False), "truncated": (False, True), "both": (True, True)}


class Clock(gym.Env):
    """Rewards 10 · episode + step + 0.1 · action. Length and end of an episode are given, or drawn from the seed."""

    observation_space = spaces.Box(0, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, length=None, end=None):
        self.given = length, end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else getattr(self, "episode", -1) + 1
        self.time, self.action = 0, 0
        self.length = self.given[0] or int(self.np_random.integers(1, 6))
        self.end = self.given[1] or str(self.np_random.choice(list(ENDS)))
        return self.observe(), {}

    def step(self, action):
        self.time, self.action = self.time + 1, int(action)
        reward = 10.0 * self.episode + self.time + 0.1 * self.action
        return self.observe(), reward, *(ENDS[self.end] if self.time == self.length else (False, False)), {}

    def observe(self):
        return np.array([self.episode, self.time, self.action], np.float32)


gym.register("tests/Clock-v0", entry_point=Clock, disable_env_checker=True)


class Counter(Memory):
    """y = state = the number of rows since `is_first`."""

    input_size, output_size = 8, 1

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, dtype=torch.int64)

    def unroll(self, x, state, is_first):
        counts = []
        for first in is_first:
            state = torch.where(first, 0, state) + 1
            counts.append(state)
        return torch.stack(counts)[:, :, None].to(x.dtype), state


class Count(torch.nn.Module):
    """The value is what the memory counted."""

    def forward(self, features, allowed=None):
        return features[..., 0]


def counting_agent():
    space = Clock.observation_space
    heads = {"policy": PolicyHead(1, Clock.action_space), "value": Count()}
    return Agent(space, Clock.action_space, Encoder(space, 8), Counter(), heads)


class GreedyRollout(Rollout):
    """Draws nothing, so that the modes of autoreset, which step different rows, take the same actions."""

    def _sample(self, distribution):
        return distribution.mode()


def in_sequence(trajectory, num_steps):
    """Whether each row [T, B] belongs to an episode, of a rollout of `num_steps` steps.

    Where resets come within the step, a column has its played rows and one for each end; the others fill it up.
    """
    num_ends = (trajectory.terminated | trajectory.truncated).sum(0)
    return torch.arange(len(trajectory.mask))[:, None] < num_steps + num_ends
