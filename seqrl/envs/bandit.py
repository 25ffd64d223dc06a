"""Bandits: which arm pays, found out by pulling."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from seqrl.envs.base import State, require_at_least
from seqrl.envs.trials import InnerStep, TrialVectorEnv
from seqrl.errors import UserError

KINDS = ("bernoulli", "gaussian")


class Bandit(TrialVectorEnv):
    """Pull one of `num_arms` arms, `num_episodes` times; each trial draws other arms.

    Bernoulli arms pay 1 with a probability that is uniform on [0, 1], else 0. Gaussian arms pay N(μ, 1), μ ~ N(0, 1).

    Each pull is an inner episode. Observation: nothing but that ("observation" is Discrete(1)). Action: the arm. End:
    `terminated` after the last pull. Optimal for who knows the arms: the best one's mean; for who does not, nearly what
    the Gittins indices bring (`seqrl.references`). Source: Duan et al. 2016 (RL², arXiv 1611.02779), section 3.1,
    whose arms are Bernoulli's.

    Raises: UserError unless `kind` is bernoulli or gaussian, num_arms ≥ 2 and num_episodes ≥ 1.
    """

    tells_regret = True

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        num_arms: int = 5,
        num_episodes: int = 10,
        kind: str = "bernoulli",
        reveal: bool = False,
    ) -> None:
        require_at_least(2, num_arms=num_arms)
        if kind not in KINDS:
            raise UserError(f"kind={kind!r}: choose {' or '.join(KINDS)}")
        super().__init__(Discrete(1), Discrete(num_arms), num_envs, device, max_episode_steps, num_episodes, reveal)
        self.num_arms, self.kind = num_arms, kind
        self._rows = torch.arange(num_envs, device=self.device)

    def _draw_task(self) -> State:
        draw = torch.rand if self.kind == "bernoulli" else torch.randn
        return {"mean": draw(self.num_envs, self.num_arms, generator=self.generator, device=self.device)}

    def _begin(self, task: State) -> State:
        return {}

    def _act(self, state: State, action: Tensor) -> InnerStep:
        mean = state["mean"][self._rows, action]
        if self.kind == "bernoulli":
            reward = (torch.rand(mean.shape, generator=self.generator, device=self.device) < mean).float()
        else:
            reward = mean + torch.randn(mean.shape, generator=self.generator, device=self.device)
        return {}, reward, torch.ones_like(state["ended"])

    def _look(self, state: State) -> Tensor:
        return torch.zeros_like(state["episode"])

    def _optimal_action(self, state: State) -> Tensor:
        return state["mean"].argmax(1)

    def _regret(self, state: State) -> Tensor:
        return state["mean"].amax(1, keepdim=True) - state["mean"]
