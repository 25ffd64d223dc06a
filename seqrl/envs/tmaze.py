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
    End: `terminated` when an arm is entered, or by the clock after 2 (length + 1) decisions (active: two more), twice
    what the shortest way takes; the clock belongs to the task. Reward of a decision:

        into an arm:  1 if it is the goal's, else 0
        elsewhere:    0 for a step to the right, or (active) to the left until the oracle has been seen; else −1/length

    so walking past the oracle costs nothing, and waiting at the junction does. Optimal return: 1. Without memory: ½,
    since at the junction the observation says nothing about the goal (`seqrl.envs.exact`).
    Source: Ni et al. 2023 (arXiv 2307.03864). Differs: their clock leaves no step to spare, and they charge every step
    of an agent that is late, so that one slip leaves nothing to learn from in the rest of the episode; here each step
    is charged for itself. The agent's row is left out of the observation, and an arm ends the episode at once. First in
    Bakker 2001.

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
        self._clock = 2 * (length + 1) + (2 if active else 0)  # to the oracle and back takes two steps
        self._move = torch.tensor([-1, 1, 0, 0], device=self.device)

    def _start(self) -> State:
        cue = 2 * torch.randint(2, (self.num_envs,), generator=self.generator, device=self.device) - 1
        seen = torch.full_like(cue, not self.active, dtype=torch.bool)
        return {"x": torch.zeros_like(cue), "cue": cue, "seen": seen}

    def _transition(self, state: State, action: Tensor) -> Transition:
        enters = (state["x"] == self.length) & (action >= UP)
        at_goal = enters & ((action == UP) == (state["cue"] > 0))
        x = (state["x"] + self._move[action]).clamp(self._oracle, self.length)
        terminated = enters | (state["steps"] + 1 >= self._clock)
        on_the_way = (x > state["x"]) | ((action == LEFT) & ~state["seen"])
        reward = torch.where(enters, at_goal.float(), torch.where(on_the_way, 0.0, -1.0 / self.length))
        return {"x": x, "cue": state["cue"], "seen": state["seen"] | (x == self._oracle)}, reward, terminated

    def _observe(self, state: State) -> Tensor:
        at_oracle = state["x"] == self._oracle
        visible = at_oracle if self.active else state["steps"] == 0
        return torch.stack([state["cue"] * visible, at_oracle, state["x"] == self.length], 1).float()
