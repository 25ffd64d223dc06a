"""CartPole without velocities."""

import math

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition

GRAVITY = 9.8  # m/s²
CART_MASS, POLE_MASS = 1.0, 0.1  # kg
TOTAL_MASS = CART_MASS + POLE_MASS
HALF_POLE = 0.5  # m, half the pole's length
FORCE = 10.0  # N
TAU = 0.02  # s
MAX_X = 2.4  # m
MAX_THETA = 12 * 2 * math.pi / 360  # rad


class MaskedCartPole(TorchVectorEnv):
    """Balance a pole on a cart, seeing positions only: the velocities have to be remembered.

    With force F = ±10 N, half length l, pole mass m, total mass M, gravity g:

        temp = (F + m l θ̇² sin θ) / M
        θ̈    = (g sin θ − temp cos θ) / (l (4/3 − m cos² θ / M))
        ẍ    = temp − m l θ̈ cos θ / M

    and one explicit Euler step of τ = 0.02 s, in float64. All four start uniform in [−0.05, 0.05].

    Observation: float32 [x, θ] (m, rad). Action: 0 pushes left, 1 right. Reward: 1 a step. End: `terminated` when
    |x| > 2.4 m or |θ| > 12°, `truncated` after 500 steps. Optimal return: 500.
    Source: Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983), its observation cut to the positions.
    """

    def __init__(
        self, num_envs: int = 1, device: torch.device | str = "cpu", max_episode_steps: int | None = 500
    ) -> None:
        high = np.array([2 * MAX_X, 2 * MAX_THETA], np.float32)
        super().__init__(Box(-high, high), Discrete(2), num_envs, device, max_episode_steps)
        self._limits = torch.tensor([MAX_X, MAX_THETA], dtype=torch.float64, device=self.device)

    def _start(self) -> State:
        draws = torch.rand(self.num_envs, 4, dtype=torch.float64, generator=self.generator, device=self.device)
        return {"cart": draws * 0.1 - 0.05}

    def _transition(self, state: State, action: Tensor) -> Transition:
        _, x_dot, theta, theta_dot = state["cart"].unbind(1)
        force = action * (2 * FORCE) - FORCE
        cos, sin = theta.cos(), theta.sin()
        temp = (force + POLE_MASS * HALF_POLE * theta_dot.square() * sin) / TOTAL_MASS
        theta_acc = (GRAVITY * sin - cos * temp) / (HALF_POLE * (4 / 3 - POLE_MASS * cos.square() / TOTAL_MASS))
        x_acc = temp - POLE_MASS * HALF_POLE * theta_acc * cos / TOTAL_MASS
        cart = state["cart"] + TAU * torch.stack([x_dot, x_acc, theta_dot, theta_acc], 1)
        terminated = (cart[:, ::2].abs() > self._limits).any(1)
        return {"cart": cart}, torch.ones_like(terminated, dtype=torch.float32), terminated

    def _observe(self, state: State) -> Tensor:
        return state["cart"][:, ::2].float()
