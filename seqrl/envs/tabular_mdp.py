"""Random tabular Markov decision processes: dynamics found out over a few short episodes."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from seqrl.envs.base import State, require_at_least
from seqrl.envs.trials import InnerStep, TrialVectorEnv


class TabularMDP(TrialVectorEnv):
    """Earn in a random MDP of a few states, `num_episodes` times from state 0; each trial draws another MDP.

    P(· | s, a) ~ Dirichlet(1, …, 1); the reward of (s, a) is N(R(s, a), 1), with R(s, a) ~ N(1, 1). An inner episode
    has `horizon` decisions. Observation: the state, Discrete(num_states). Action: Discrete(num_actions). End:
    `terminated` after the last inner episode. A random policy earns `horizon` an episode. For who knows the MDP,
    backward induction is optimal: that is what `reveal` shows, regrets included, and `optimal_action` gives.

    Source: Duan et al. 2016 (RL², arXiv 1611.02779), section 3.2; after Osband et al. 2013 (arXiv 1306.0940).

    Raises: UserError unless num_states, num_actions ≥ 2, horizon and num_episodes ≥ 1.
    """

    tells_regret = True

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        num_states: int = 10,
        num_actions: int = 5,
        horizon: int = 10,
        num_episodes: int = 10,
        reveal: bool = False,
    ) -> None:
        require_at_least(2, num_states=num_states, num_actions=num_actions)
        require_at_least(1, horizon=horizon)
        super().__init__(
            Discrete(num_states), Discrete(num_actions), num_envs, device, max_episode_steps, num_episodes, reveal
        )
        self.num_states, self.num_actions, self.horizon = num_states, num_actions, horizon
        self._rows = torch.arange(num_envs, device=self.device)

    def _draw_task(self) -> State:
        shape = (self.num_envs, self.num_states, self.num_actions)
        mean = 1.0 + torch.randn(shape, generator=self.generator, device=self.device)
        share = torch.empty(*shape, self.num_states, device=self.device).exponential_(generator=self.generator)
        task = {"mean": mean, "cumulative": share.cumsum(-1) / share.sum(-1, keepdim=True)}
        # Planning costs much more than a step: once a trial, where each step shows its outcome.
        return task | ({"plan": self.action_values(task).movedim(0, 1)} if self.reveal else {})

    def _begin(self, task: State) -> State:
        return {"place": torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)}

    def _act(self, state: State, action: Tensor) -> InnerStep:
        mean = state["mean"][self._rows, state["place"], action]
        reward = mean + torch.randn(mean.shape, generator=self.generator, device=self.device)
        draw = torch.rand(mean.shape, generator=self.generator, device=self.device)
        below = state["cumulative"][self._rows, state["place"], action] <= draw[:, None]
        place = below.sum(1).clamp(max=self.num_states - 1)  # rounding may leave the last entry below 1
        return {"place": place}, reward, state["inner_steps"] + 1 >= self.horizon

    def _look(self, state: State) -> Tensor:
        return state["place"].clone()

    def _optimal_action(self, state: State) -> Tensor:
        return self._values(state).argmax(-1)

    def _regret(self, state: State) -> Tensor:
        values = self._values(state)
        return values.amax(-1, keepdim=True) - values

    def _values(self, state: State) -> Tensor:
        plan = state["plan"] if "plan" in state else self.action_values(state).movedim(0, 1)
        return plan[self._rows, self.horizon - state["inner_steps"] - 1, state["place"]]

    def action_values(self, state: State) -> Tensor:
        """Q* with 1 … `horizon` decisions to go, [horizon, B, num_states, num_actions], by backward induction."""
        transition = state["cumulative"].diff(dim=-1, prepend=torch.zeros_like(state["cumulative"][..., :1]))
        value = torch.zeros(self.num_envs, self.num_states, device=self.device)
        values = []
        for _ in range(self.horizon):
            values.append(state["mean"] + torch.einsum("bsan,bn->bsa", transition, value))
            value = values[-1].amax(-1)
        return torch.stack(values)
