"""What can be got from a log: dynamic programming on the transitions in it, for small discrete problems."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from seqrl.collect import Scripted
from seqrl.data import EpisodeDataset
from seqrl.trajectory import AgentInput, Tree


class TabularQ(NamedTuple):
    """Q-learning's fixed point on a log, over the actions in it alone: Q [S, A], −inf where never taken."""

    q: np.ndarray
    value: np.ndarray
    """max_a Q [S]; 0 for a state that the log shows at ends only."""
    sweeps: int

    def policy(self, dataset: EpisodeDataset) -> Scripted:
        """The greedy policy."""
        best = torch.as_tensor(self.q.argmax(1))

        def choose(inputs: AgentInput, generator: Generator) -> Tensor:
            return best[state_of(inputs.observation)]

        return Scripted(dataset.action_space, choose)


def state_of(observation: Tree) -> Tree:
    """The one discrete leaf of an observation, which is the whole state in the problems here."""
    return observation["node"] if isinstance(observation, dict) else observation


def tabular_q(dataset: EpisodeDataset, gamma: float = 1.0, sweeps: int = 1000) -> TabularQ:
    """Q(s, a) ← the mean over the log's (s, a, r, s′) of r + γ max_a′ Q(s′, a′), until nothing changes.

    No bootstrap from s′ where the task itself ended; a truncated episode's final observation is bootstrapped from. From
    Q = 0 on, it takes as many sweeps as the longest best way is long. Raises RuntimeError where it does not settle,
    because the log shows no way to an end from somewhere.
    """
    state, action, reward, after, ended = transitions(dataset)
    num_states, num_actions = int(max(state.max(), after.max())) + 1, int(dataset.action_space.n)
    counts = np.zeros((num_states, num_actions))
    np.add.at(counts, (state, action), 1)
    value = np.zeros(num_states)
    for sweep in range(1, sweeps + 1):
        total = np.zeros_like(counts)
        np.add.at(total, (state, action), reward + gamma * np.where(ended, 0.0, value[after]))
        with np.errstate(invalid="ignore"):
            q = np.where(counts > 0, total / counts, -np.inf)
        new = np.where(counts.any(1), q.max(1), 0.0)
        if np.allclose(new, value, rtol=0, atol=1e-9):
            return TabularQ(q, new, sweep)
        value = new
    raise RuntimeError(f"tabular Q-learning did not settle within {sweeps} sweeps")


def transitions(dataset: EpisodeDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All decisions of the log: state, action, reward, next state, and whether the task ended."""
    rows = decision_rows(dataset)
    state = np.asarray(state_of(dataset.observation))
    return state[rows], dataset.action[rows], dataset.reward[rows], state[rows + 1], dataset.terminated[rows]


def decision_rows(dataset: EpisodeDataset) -> np.ndarray:
    return np.concatenate(
        [np.arange(start, start + n) for start, n in zip(dataset.starts[:-1], dataset.lengths, strict=True)]
    )


def logged_values(dataset: EpisodeDataset) -> np.ndarray:
    """By state, the highest return-to-go of the log from there, −inf where there is none: what one may ask for.

    Of truncated episodes only what came before is known, and not what they would have brought: they do not count.
    """
    state = np.asarray(state_of(dataset.observation))
    best = np.full(int(state.max()) + 1, -np.inf)
    for start, length in zip(dataset.starts[:-1], dataset.lengths, strict=True):
        if dataset.terminated[start + length - 1]:
            rows = slice(start, start + length)
            np.maximum.at(best, state[rows], dataset.return_to_go[rows])
    return best
