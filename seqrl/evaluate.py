"""How well an agent does: whole episodes, an equal number from every environment."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from seqrl.acting import Policy
from seqrl.envs import Environment
from seqrl.errors import UserError
from seqrl.seeds import derived_seed
from seqrl.statistics import mean_and_half_width
from seqrl.trajectory import AgentInput

MAX_LENGTH = 100_000
"""Steps at which an episode is cut that has not ended, if nothing else is said."""


class Evaluation(NamedTuple):
    """Returns and lengths of episodes, one entry each."""

    returns: np.ndarray
    lengths: np.ndarray
    num_cut: int = 0
    """How many of them had not ended, and were cut at the greatest length."""

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of the mean over episodes, by Student's t; NaN for one episode."""
        return mean_and_half_width(self.returns.tolist())[1]


def equal_shares(total: int, number: int) -> np.ndarray:
    """How many of `total` each of `number` gets, [number] int64: as many as every other, one more for some."""
    return np.full(number, total // number) + (np.arange(number) < total % number)


@torch.no_grad()
def evaluate(
    agent: Policy,
    environment: Environment,
    num_episodes: int = 100,
    seed: int = 0,
    sample: bool = False,
    max_length: int = MAX_LENGTH,
    watch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Play `num_episodes` and give their returns. The agent takes its likeliest action, or draws it with `sample`.

    Each environment gives its first episodes, as many as every other (one more for some): taking whichever episodes end
    first would favour the short ones. An episode that lasts longer than `max_length` is cut there, and what follows
    counts as the next: environments without a time limit end as well. `watch` is told after each step how many of the
    episodes are over, and how many steps were taken by then. Raises UserError for fewer than one episode.
    """
    if num_episodes < 1:
        raise UserError(f"--num-episodes is {num_episodes}: it must be at least 1")
    batch_size = environment.num_envs
    wanted = equal_shares(num_episodes, batch_size)
    generator = torch.Generator(agent.device).manual_seed(derived_seed(seed, 2))
    total, length, num_steps = np.zeros(batch_size), np.zeros(batch_size, dtype=np.int64), 0
    returns: list[list[float]] = [[] for _ in range(batch_size)]
    lengths: list[list[int]] = [[] for _ in range(batch_size)]
    cut: list[list[bool]] = [[] for _ in range(batch_size)]
    step = environment.reset(seed)
    inputs, state, mask = agent.initial_input(step.observation), agent.initial_state(batch_size), step.mask
    while any(len(done) < want for done, want in zip(returns, wanted, strict=True)):
        outputs, state = agent.step(inputs, state)
        distribution = outputs["policy"]
        raw = distribution.sample(generator) if sample else distribution.mode()
        action = agent.environment_action(distribution, raw[0])
        step = environment.step(action)
        total += step.reward.double().cpu().numpy()
        length += mask.cpu().numpy()
        ended = (step.terminated | step.truncated).cpu().numpy()
        for index in np.flatnonzero(ended | (length >= max_length)).tolist():
            returns[index].append(total[index])
            lengths[index].append(int(length[index]))
            cut[index].append(not ended[index])
            total[index], length[index] = 0.0, 0
        if watch is not None:
            num_steps += int(mask.sum())
            watch(sum(min(len(done), want) for done, want in zip(returns, wanted.tolist(), strict=True)), num_steps)
        inputs, mask = AgentInput.following(step, action), step.mask

    def first(all_of: list[list[Any]]) -> list[Any]:
        return [each for own, want in zip(all_of, wanted, strict=True) for each in own[:want]]

    return Evaluation(np.array(first(returns)), np.array(first(lengths)), sum(first(cut)))
