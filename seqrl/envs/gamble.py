"""A gamble: the highest returns are luck, and asking for them is asking for the worse action."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least
from seqrl.errors import UserError

SAFE, GAMBLE = range(2)
SAFE_REWARD, WIN_REWARD = 1.0, 3.0
"""A gamble that is lost pays 0."""


class Gamble(TorchVectorEnv):
    """Take 1 for sure or gamble for 3: a gamble is seldom won, but who got the most has gambled.

    In each of `rounds` rounds the safe action pays 1, and the gamble 3 with probability `win_chance`, else 0. With the
    default, a gamble is worth 0.6, so that the best is never to gamble. A policy that is conditioned on the return and
    learnt from a log takes P(action | return) of the log: asked for more than the sure return it gambles, since in the
    log only those who gambled got that much (`seqrl.envs.exact.gamble_conditioned_return`).

    Observation: the number of rounds played. Action: 0 safe, 1 gamble. End: `terminated` after the last round.
    Optimal return: rounds · max(1, 3 win_chance).
    Source: ours; that such policies take luck for skill: Paster et al. 2022 (arXiv 2205.15967), and Brandfonbrener et
    al. 2022 (arXiv 2206.01079).

    Raises: UserError if `rounds` is below 1 or `win_chance` is not in [0, 1].
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        rounds: int = 4,
        win_chance: float = 0.2,
    ) -> None:
        require_at_least(1, rounds=rounds)
        if not 0 <= win_chance <= 1:
            raise UserError(f"win_chance={win_chance}: give a number from 0 to 1")
        super().__init__(Discrete(rounds + 1), Discrete(2), num_envs, device, max_episode_steps)
        self.rounds = rounds
        self.win_chance = win_chance

    def _start(self) -> State:
        return {"round": torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)}

    def _transition(self, state: State, action: Tensor) -> Transition:
        won = torch.rand(self.num_envs, generator=self.generator, device=self.device) < self.win_chance
        reward = torch.where(action == GAMBLE, WIN_REWARD * won.float(), SAFE_REWARD)
        # The step that starts a new episode computes one round too many, which the base throws away.
        played = (state["round"] + 1).clamp(max=self.rounds)
        return {"round": played}, reward, played == self.rounds

    def _observe(self, state: State) -> Tensor:
        return state["round"].clone()
