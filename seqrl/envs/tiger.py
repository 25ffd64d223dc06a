"""The tiger problem: listen, remember, open."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least

LISTEN, OPEN_LEFT, OPEN_RIGHT = range(3)
HEAR_LEFT, HEAR_RIGHT, NOTHING = range(3)
ACCURACY = 0.85
LISTEN_REWARD, SAFE_REWARD, TIGER_REWARD = -1.0, 10.0, -100.0


class Tiger(TorchVectorEnv):
    """A tiger waits behind one of two doors; listening tells which, with errors, so evidence has to be counted.

    The tiger is left or right with probability ½, and anew after each opening.

    Observation: 0 heard left, 1 heard right (right with probability 0.85), 2 nothing (at the start and after an
    opening). Action: 0 listen, 1 open left, 2 open right. Reward: −1 for listening, −100 for the tiger's door, 10 for
    the other. End: `terminated` after `horizon` decisions; the clock belongs to the task.
    Optimal return: `seqrl.envs.exact.tiger_optimal_return(horizon)`, by planning over beliefs.
    Source: Kaelbling, Littman and Cassandra 1998 (Artificial Intelligence 101), with a finite horizon.

    Raises: UserError if `horizon` is below 1.
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        horizon: int = 20,
    ) -> None:
        require_at_least(1, horizon=horizon)
        super().__init__(Discrete(3), Discrete(3), num_envs, device, max_episode_steps)
        self.horizon = horizon

    def _start(self) -> State:
        tiger = torch.randint(2, (self.num_envs,), generator=self.generator, device=self.device)  # 0 left, 1 right
        return {"tiger": tiger, "heard": torch.full_like(tiger, NOTHING)}

    def _transition(self, state: State, action: Tensor) -> Transition:
        tiger = state["tiger"]
        draws = torch.rand(2, self.num_envs, generator=self.generator, device=self.device)
        opened = action != LISTEN
        opening = torch.where(action == tiger + OPEN_LEFT, TIGER_REWARD, SAFE_REWARD)
        heard = torch.where(draws[0] < ACCURACY, tiger, 1 - tiger).masked_fill(opened, NOTHING)
        tiger = torch.where(opened, (draws[1] < 0.5).long(), tiger)
        reward = torch.where(opened, opening, LISTEN_REWARD)
        return {"tiger": tiger, "heard": heard}, reward, state["steps"] >= self.horizon - 1

    def _observe(self, state: State) -> Tensor:
        return state["heard"].clone()
