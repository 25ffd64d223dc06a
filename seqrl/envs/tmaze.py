"""The T-maze: remember a cue along a corridor."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least

LEFT, RIGHT, UP, DOWN = range(4)


class TMaze(TorchVectorEnv):
    """Walk down a corridor of `length` steps to a junction and turn as a cue said that was seen at the oracle.

    Cells x = 0 … length; the junction is x = length. Passive: the start x = 0 is the oracle, and the first observation
    alone shows the cue. Active: the oracle is one step left of the start, x = −1, and shows the cue whenever the agent
    stands there. The cue is +1 (goal up) or −1 (goal down), each with probability ½. Bumping into a wall is staying.

    Observation: float32 [cue or 0, at the oracle, at the junction]. Action: 0 left, 1 right, 2 up, 3 down.
    End: `terminated` when an arm is entered, or by the clock after T = length + 1 decisions (active: length + 3), which
    the shortest way takes; the clock belongs to the task. Reward of decision t = 1 … T, which led to x:

        at the end:  1 in the goal's arm, else 0
        before it:   −1/length if x < t (active: x < t − 2), else 0

    so an agent that falls behind the shortest way pays for each step until the end, at most 1 in all (active: not much
    more), and walking past the oracle costs nothing. Optimal return: 1. Without memory: ½, since at the junction the
    observation says nothing about the goal (`seqrl.envs.exact`).
    Source: Ni et al. 2023 (arXiv 2307.03864), whose clock and reward these are. What differs: an arm ends the episode
    at once and is not observed, the oracle has a flag of its own, and the active one shows its cue at every visit. The
    task is Bakker's (2001).

    Raises: UserError if `length` is below 1.
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        length: int = 10,
        active: bool = False,
    ) -> None:
        require_at_least(1, length=length)
        observation_space = Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))
        super().__init__(observation_space, Discrete(4), num_envs, device, max_episode_steps)
        self.length = length
        self.active = active
        self._oracle = -1 if active else 0
        self._detour = 2 if active else 0  # steps to the oracle and back
        self._move = torch.tensor([-1, 1, 0, 0], device=self.device)

    def _start(self) -> State:
        cue = 2 * torch.randint(2, (self.num_envs,), generator=self.generator, device=self.device) - 1
        return {"x": torch.zeros_like(cue), "cue": cue}

    def _transition(self, state: State, action: Tensor) -> Transition:
        enters = (state["x"] == self.length) & (action >= UP)
        at_goal = enters & ((action == UP) == (state["cue"] > 0))
        x = (state["x"] + self._move[action]).clamp(self._oracle, self.length)
        t = state["steps"] + 1
        terminated = enters | (t > self.length + self._detour)
        penalty = (x < t - self._detour) * (-1.0 / self.length)
        return {"x": x, "cue": state["cue"]}, torch.where(terminated, at_goal.float(), penalty), terminated

    def _observe(self, state: State) -> Tensor:
        at_oracle = state["x"] == self._oracle
        visible = at_oracle if self.active else state["steps"] == 0
        return torch.stack([state["cue"] * visible, at_oracle, state["x"] == self.length], 1).float()
