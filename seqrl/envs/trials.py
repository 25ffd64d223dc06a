"""Trials: many episodes of one task, drawn anew for each trial, as one long episode of the memory."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least
from seqrl.trajectory import Tree, where_rows

EPISODE_START = "episode_start"
"""The key of a trial's observation that is 1 on the first row of each inner episode, else 0 (on the masked row too)."""
OPTIMAL_ACTION = "optimal_action"
"""The key of a trial's observation that tells the task's best action. Only with `reveal`: for logs, not for agents."""
REGRET = "regret"
"""The key of a trial's observation that tells what each action is expected to cost against the best one, for who knows
the task. Only with `reveal`, and only where the class `tells_regret`."""


def unrevealed_space(space: Any) -> Dict:
    """The observation space of the same environment without `reveal`. An agent reads nothing but what its space has."""
    return Dict({name: child for name, child in space.spaces.items() if name not in (OPTIMAL_ACTION, REGRET)})


InnerStep = tuple[State, Tensor, Tensor]
"""Next states, rewards [B] float32, and where the inner episode ended [B] bool."""


class TrialVectorEnv(TorchVectorEnv):
    """B trials, each of `num_episodes` inner episodes of one task that is drawn when the trial begins.

    To everything else a trial is one episode: memory lives through its inner episodes, and `terminated` comes with the
    end of the last. The row after an inner end already shows the next inner episode's first observation, so that no row
    is without a decision; `episode_start` marks it. The masked row behind the trial shows its true last observation.
    What an agent needs besides, its previous action and reward, every agent can read (`--previous-action
    --previous-reward`).

    Observation: {"observation": the task's own, "episode_start": Discrete(2)}; with `reveal` also "optimal_action",
    and "regret" where the class `tells_regret`.

    A regret is Q*(s, best) − Q*(s, a) ≥ 0 of the inner episode. Summed over a trial it is, in expectation and for any
    policy, what the optimum would have brought more (the performance difference lemma: Kakade & Langford 2002).

    A subclass gives `_draw_task` (what stays for the trial), `_begin` (what an inner episode begins with), `_act` and
    `_look`, all by the rules of `TorchVectorEnv`, and `_optimal_action` for who knows the task, `_regret` too where it
    `tells_regret`. Its class attribute `held_out` holds the arguments that make tasks which training did not see.

    For trials of any Gymnasium environment, see `seqrl.envs.trial_wrapper.Trials`.

    Source: Duan et al. 2016 (RL², arXiv 1611.02779), section 2.2: previous action, reward and the inner end are inputs.
    Theirs tells of the end on the row that it belongs to; ours on the row after, which it shares with the next start.

    Raises: UserError if `num_episodes` is below 1.
    """

    held_out: dict[str, Any] = {}  # noqa: RUF012
    draws_only_at_starts = True
    tells_regret = False

    def __init__(
        self,
        observation_space: Space,
        action_space: Discrete,
        num_envs: int,
        device: torch.device | str,
        max_episode_steps: int | None,
        num_episodes: int,
        reveal: bool,
    ) -> None:
        require_at_least(1, num_episodes=num_episodes)
        spaces: dict[str, Space] = {"observation": observation_space, EPISODE_START: Discrete(2)}
        if reveal:
            spaces[OPTIMAL_ACTION] = action_space
            if self.tells_regret:
                spaces[REGRET] = Box(0, float("inf"), (int(action_space.n),), np.float32)
        super().__init__(Dict(spaces), action_space, num_envs, device, max_episode_steps)
        self.num_episodes, self.reveal = num_episodes, reveal

    @abstractmethod
    def _draw_task(self) -> State:
        """Tasks for all rows, drawn from `self.generator`; they stay for the whole trial."""

    @abstractmethod
    def _begin(self, task: State) -> State:
        """What the inner episodes of these tasks begin with, for all rows."""

    @abstractmethod
    def _act(self, state: State, action: Tensor) -> InnerStep:
        """What `action` does in `state`, which holds `_draw_task`'s and `_begin`'s entries, and `inner_steps` [B].

        Its next states have just the entries of `_begin`.
        """

    @abstractmethod
    def _look(self, state: State) -> Tree:
        """The task's own observation."""

    @abstractmethod
    def _optimal_action(self, state: State) -> Tensor:
        """An action [B] int64 that is best for who knows the task."""

    def _regret(self, state: State) -> Tensor:
        """[B, number of actions]: what each action is expected to cost against the best one; for who knows the task."""
        raise NotImplementedError

    def optimal_action(self) -> Tensor:
        """An action [B] int64 that is best now for who knows the task: what oracles play."""
        return self._optimal_action(self.state)

    def _start(self) -> State:
        task = self._draw_task()
        count = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        first = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        return task | self._begin(task) | {"episode": count, "inner_steps": count.clone(), EPISODE_START: first}

    def _transition(self, state: State, action: Tensor) -> Transition:
        inner, reward, ended = self._act(state, action)
        episode = state["episode"] + ended
        over = episode >= self.num_episodes
        again = ended & ~over  # the trial's final observation is that of its last inner episode, and begins none
        new = state | where_rows(again, self._begin(state), inner)
        new |= {"episode": episode, "inner_steps": (state["inner_steps"] + 1) * ~ended, EPISODE_START: again}
        return new, reward, over

    def _observe(self, state: State) -> dict[str, Tree]:
        observation = {"observation": self._look(state), EPISODE_START: state[EPISODE_START].long()}
        if self.reveal:
            observation[OPTIMAL_ACTION] = self._optimal_action(state)
            if self.tells_regret:
                observation[REGRET] = self._regret(state)
        return observation
