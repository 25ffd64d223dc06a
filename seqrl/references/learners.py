"""Learners whose histories are worth imitating: the sources of Algorithm Distillation, as policies."""

import math

import torch
from gymnasium import spaces
from torch import Generator, Tensor

from seqrl.envs import Environment
from seqrl.envs.dark_key_to_door import DarkKeyToDoor
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.references.base import Chosen, Drawn, Optimal, Reference, State, any_best, mixed, trial_env
from seqrl.trajectory import AgentInput


class QLearning(Reference):
    """Tabular Q-learning that begins anew with each trial and explores less and less over its inner episodes.

    Q(s, a) += α (r + γ max Q(s', ·) − Q(s, a)), from `initial_value` everywhere. What an inner episode's last decision
    led to is not shown: it only raises Q(s, a), towards r, where r is more. Actions are ε-greedy, with ε falling in a
    straight line from 1 at the first inner episode to `final_epsilon` at `exploration` of the trial's inner episodes.
    Of equal values any is taken.

    An observation is one of n cells (Discrete, or MultiDiscrete: a row and a column). With `sees_reward` (default: in
    DarkKeyToDoor) the table has a second part, for after the inner episode's first reward: that the key was taken,
    nothing else tells. State: `values` [B, n or 2 n, actions], `cell` (where in the table), `rewarded`, `episode` [B].

    Raises: UserError for an environment that is not of trials, or whose own observation is neither.
    Source: Watkins 1989; as a source of histories, Laskin et al. 2022 (arXiv 2210.14215), where it is A3C.
    """

    def __init__(
        self,
        environment: Environment,
        learning_rate: float = 0.5,
        discount: float = 0.95,
        exploration: float = 0.5,
        final_epsilon: float = 0.02,
        initial_value: float = 0.0,
        sees_reward: bool | None = None,
    ):
        super().__init__(environment)
        trials, space = trial_env(environment), environment.single_observation_space
        cells = space["observation"] if isinstance(space, spaces.Dict) and trials is not None else None
        if trials is None or not isinstance(cells, spaces.Discrete | spaces.MultiDiscrete):
            raise UserError(
                "q_learning: the environment's cells are not Discrete; give trials such as seqrl/DarkRoom-v0"
            )
        self.sizes = [int(cells.n)] if isinstance(cells, spaces.Discrete) else cells.nvec.flatten().tolist()
        self.num_cells, self.num_episodes = math.prod(self.sizes), trials.num_episodes
        self.sees_reward = isinstance(trials, DarkKeyToDoor) if sees_reward is None else sees_reward
        self.learning_rate, self.discount, self.initial_value = learning_rate, discount, initial_value
        self.exploration, self.final_epsilon = exploration, final_epsilon

    def begin(self, batch_size: int) -> State:
        zero = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        shape = (batch_size, self.num_cells * (2 if self.sees_reward else 1), self.num_actions)
        return {
            "values": torch.full(shape, self.initial_value, device=self.device),
            "cell": zero,
            "rewarded": zero.clone(),
            "episode": zero.clone(),
        }

    def update(self, state: State, inputs: AgentInput) -> State:
        rows = torch.arange(len(inputs.is_first), device=self.device)
        ended = inputs.observation[EPISODE_START] == 1
        tried = (rows, state["cell"])
        values, reward = state["values"].clone(), inputs.previous_reward
        rewarded = state["rewarded"] | (reward > 0)
        old = values[(*tried, inputs.previous_action)]
        ahead = values[rows, self._place(inputs, rewarded)].amax(1)
        error = torch.where(ended, (reward - old).clamp(min=0), reward + self.discount * ahead - old)
        values[(*tried, inputs.previous_action)] = old + self.learning_rate * error
        return state | {"values": values, "rewarded": rewarded * ~ended, "episode": state["episode"] + ended}

    def prepare(self, state: State, inputs: AgentInput) -> State:
        return state | {"cell": self._place(inputs, state["rewarded"])}

    def _place(self, inputs: AgentInput, rewarded: Tensor) -> Tensor:
        coordinates = inputs.observation["observation"].view(len(inputs.is_first), -1)
        cell = torch.zeros_like(coordinates[:, 0])
        for size, coordinate in zip(self.sizes, coordinates.unbind(1), strict=True):
            cell = cell * size + coordinate
        return cell + self.num_cells * rewarded if self.sees_reward else cell

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        rows = torch.arange(len(inputs.is_first), device=self.device)
        values, epsilon = state["values"][rows, state["cell"]], self.epsilon(state["episode"])
        return Drawn(lambda generator: self._act(values, epsilon, generator), state["history"])

    def _act(self, values: Tensor, epsilon: Tensor, generator: Generator) -> Tensor:
        return mixed(any_best(values, generator), self.num_actions, epsilon, generator)

    def epsilon(self, episode: Tensor) -> Tensor:
        """The chance [B] of a uniform action in these inner episodes, counted from 0."""
        progress = episode / max(self.exploration * self.num_episodes, 1)
        return (1 - (1 - self.final_epsilon) * progress).clamp(min=self.final_epsilon)


class AnnealedOracle(Optimal):
    """The task's best action with a chance that rises over the trial's inner episodes, else a uniform one.

    The chance is e / (num_episodes − 1) · `final_skill` in inner episode e = 0, 1, …: 0 in the first and `final_skill`
    in the last. It learns nothing, but its histories look as if it did, and take no learner to make. (The uniform
    action may be the best one too.) It plays in the environment it was made for alone.

    Source: Zisman et al. 2023 (arXiv 2312.12275, AD^ε), where the noise falls with every decision.
    """

    def __init__(self, environment: Environment, final_skill: float = 1.0):
        if trial_env(environment) is None:
            raise UserError("annealed_oracle: the environment is not of trials; give one such as seqrl/DarkRoom-v0")
        super().__init__(environment)
        self.final_skill = final_skill

    def begin(self, batch_size: int) -> State:
        return {"episode": torch.zeros(batch_size, dtype=torch.int64, device=self.device)}

    def update(self, state: State, inputs: AgentInput) -> State:
        return {"episode": state["episode"] + inputs.observation[EPISODE_START]}

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        best = self.trials.optimal_action()
        skill = self.final_skill * state["episode"] / max(self.trials.num_episodes - 1, 1)
        epsilon = 1 - skill.clamp(max=1.0)
        return Drawn(lambda generator: mixed(best, self.num_actions, epsilon, generator), state["history"])
