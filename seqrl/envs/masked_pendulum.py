"""Pendulum without its angular velocity."""

import math

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition

GRAVITY = 10.0  # m/s²; mass 1 kg, length 1 m
DT = 0.05  # s
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N m


class MaskedPendulum(TorchVectorEnv):
    """Swing a pendulum up and hold it there, seeing its angle only.

    With torque u clipped to ±2 N m, angle θ (0 is upright), τ = 0.05 s:

        θ̇ ← clip(θ̇ + (3g/2 · sin θ + 3u) τ, ±8)
        θ ← θ + θ̇ τ

    in float64. The start is uniform: θ in [−π, π], θ̇ in [−1, 1].

    Observation: float32 [cos θ, sin θ]. Action: float32 [u]. Reward: −(θ² + 0.1 θ̇² + 0.001 u²), all before the step, θ
    wrapped to [−π, π). End: `truncated` after 200 steps. Optimal return: not known.
    Source: Gymnasium's Pendulum-v1, its observation cut to the angle.
    """

    def __init__(
        self, num_envs: int = 1, device: torch.device | str = "cpu", max_episode_steps: int | None = 200
    ) -> None:
        observation_space = Box(-1.0, 1.0, (2,), np.float32)
        action_space = Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
        super().__init__(observation_space, action_space, num_envs, device, max_episode_steps)
        self._start_high = torch.tensor([math.pi, 1.0], dtype=torch.float64, device=self.device)

    def _start(self) -> State:
        draws = torch.rand(self.num_envs, 2, dtype=torch.float64, generator=self.generator, device=self.device)
        return {"pendulum": (2 * draws - 1) * self._start_high}

    def _transition(self, state: State, action: Tensor) -> Transition:
        theta, theta_dot = state["pendulum"].unbind(1)
        torque = action[:, 0].clamp(-MAX_TORQUE, MAX_TORQUE)
        angle = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
        cost = angle.square() + 0.1 * theta_dot.square() + 0.001 * torque.square()
        theta_dot = theta_dot + (1.5 * GRAVITY * theta.sin() + 3 * torque) * DT
        theta_dot = theta_dot.clamp(-MAX_SPEED, MAX_SPEED)
        pendulum = torch.stack([theta + theta_dot * DT, theta_dot], 1)
        return {"pendulum": pendulum}, -cost.float(), torch.zeros_like(theta, dtype=torch.bool)

    def _observe(self, state: State) -> Tensor:
        theta = state["pendulum"][:, 0]
        return torch.stack([theta.cos(), theta.sin()], 1).float()
