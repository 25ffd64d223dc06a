"""MountainCarContinuous without its velocity."""

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition

MIN_POSITION, MAX_POSITION, GOAL = -1.2, 0.6, 0.45
MAX_SPEED = 0.07
POWER, GRAVITY = 0.0015, 0.0025


class MaskedMountainCarContinuous(TorchVectorEnv):
    """Rock a weak car out of a valley, seeing its position only.

        v ← clip(v + 0.0015 clip(a, ±1) − 0.0025 cos 3p, ±0.07)
        p ← clip(p + v, −1.2, 0.6), and v ← 0 where p hits the left wall

    in float32, as Gymnasium keeps its state. The start is p uniform in [−0.6, −0.4], v = 0.

    Observation: float32 [p]. Action: float32 [a]. Reward: −0.1 a², and 100 at the goal. End: `terminated` at p ≥ 0.45
    with v ≥ 0, `truncated` after 999 steps. Optimal return: not known.
    Source: Gymnasium's MountainCarContinuous-v0 (Moore 1990), its observation cut to the position.
    """

    def __init__(
        self, num_envs: int = 1, device: torch.device | str = "cpu", max_episode_steps: int | None = 999
    ) -> None:
        observation_space = Box(MIN_POSITION, MAX_POSITION, (1,), np.float32)
        action_space = Box(-1.0, 1.0, (1,), np.float32)
        super().__init__(observation_space, action_space, num_envs, device, max_episode_steps)

    def _start(self) -> State:
        position = torch.rand(self.num_envs, generator=self.generator, device=self.device) * 0.2 - 0.6
        return {"position": position, "velocity": torch.zeros_like(position)}

    def _transition(self, state: State, action: Tensor) -> Transition:
        position, velocity = state["position"], state["velocity"]
        action = action[:, 0].float()
        velocity = velocity + (action.clamp(-1, 1) * POWER - GRAVITY * (3 * position).cos())
        velocity = velocity.clamp(-MAX_SPEED, MAX_SPEED)
        position = position + velocity
        velocity = velocity.masked_fill((position <= MIN_POSITION) & (velocity < 0), 0.0)
        position = position.clamp(MIN_POSITION, MAX_POSITION)
        terminated = (position >= GOAL) & (velocity >= 0)
        return {"position": position, "velocity": velocity}, 100.0 * terminated - 0.1 * action.square(), terminated

    def _observe(self, state: State) -> Tensor:
        return state["position"][:, None].clone()
