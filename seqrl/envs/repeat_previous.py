"""Repeat the symbol seen k steps ago."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor
from torch.nn.functional import pad

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least
from seqrl.errors import UserError


class RepeatPrevious(TorchVectorEnv):
    """Name, at every step, the symbol seen `k` steps ago.

    The symbols o_0, o_1, … are independent and uniform over `num_symbols`.

    Observation: o_t. Action: a symbol. Reward of decision t = 0 … episode_length − 1: 0 while t < k, then
    ±1/(episode_length − k), plus if a_t = o_{t−k}. End: `terminated` after `episode_length` decisions; the clock
    belongs to the task. Optimal return: 1. Without memory: 2/num_symbols − 1, since o_t says nothing about o_{t−k}.
    Source: POPGym (Morad et al. 2023, arXiv 2303.01859), with independent symbols instead of a shuffled deck of cards,
    which a counter of the cards seen could profit from.

    Raises: UserError unless 1 ≤ k < episode_length and num_symbols ≥ 2.
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        k: int = 4,
        num_symbols: int = 4,
        episode_length: int = 52,
    ) -> None:
        require_at_least(1, k=k)
        require_at_least(2, num_symbols=num_symbols)
        if episode_length <= k:
            raise UserError(f"episode_length={episode_length}: give more than k={k}, or no step is ever rewarded")
        super().__init__(Discrete(num_symbols), Discrete(num_symbols), num_envs, device, max_episode_steps)
        self.k = k
        self.num_symbols = num_symbols
        self.episode_length = episode_length

    def _draw(self) -> Tensor:
        return torch.randint(self.num_symbols, (self.num_envs, 1), generator=self.generator, device=self.device)

    def _start(self) -> State:
        # Column i is o_{t−k+i}. What stands before the first symbol is never asked for.
        return {"recent": pad(self._draw(), (self.k, 0))}

    def _transition(self, state: State, action: Tensor) -> Transition:
        recent, steps = state["recent"], state["steps"]
        sign = 2.0 * (action == recent[:, 0]) - 1.0
        reward = sign * (steps >= self.k) / (self.episode_length - self.k)
        recent = torch.cat([recent[:, 1:], self._draw()], 1)
        return {"recent": recent}, reward, steps >= self.episode_length - 1

    def _observe(self, state: State) -> Tensor:
        return state["recent"][:, -1].clone()
