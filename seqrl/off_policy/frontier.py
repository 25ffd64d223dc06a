"""What steering brings and what it costs: the return against the distance from the cloned policy, without training.

Each β plays the same conversations (their hidden states, and the numbers that tokens are drawn by). The distance is
exact at each of the agent's own tokens, in the states that the steered policy came to:

    KL(π_β ‖ π_b) = Σ_a π_β(a|s) (log π_β(a|s) − log π_b(a|s)),   a over the whole vocabulary

and summed over a dialogue, it is the mean log-ratio of the policies' dialogues: what log π_β/π_b of an utterance or a
dialogue must average. At β = 0 it is 0 exactly.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqrl.errors import UserError
from seqrl.language.generation import sayable
from seqrl.language.likelihood import decided, kl_divergence, log_probs
from seqrl.language.play import play
from seqrl.language.rows import rows_of
from seqrl.language.steering import SteeredAgent
from seqrl.statistics import mean_and_half_width
from seqrl.text import TextTask

Mean = tuple[float, float]
"""A mean and half its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One β: figures of its dialogues, N of each."""

    beta: float
    returns: np.ndarray
    kl: np.ndarray
    """Summed over each dialogue, in nats."""
    tokens: np.ndarray
    """The agent's own, <end of utterance> among them."""
    turns: np.ndarray

    @property
    def mean_return(self) -> Mean:
        return mean_and_half_width(self.returns.tolist())

    @property
    def kl_of_dialogue(self) -> Mean:
        return mean_and_half_width(self.kl.tolist())

    @property
    def kl_of_token(self) -> Mean:
        """All dialogues' KL over all their tokens: a ratio of sums, whose interval is that of its linear part."""
        ratio = float(self.kl.sum() / self.tokens.sum())
        _, half_width = mean_and_half_width((self.kl - ratio * self.tokens).tolist())
        return ratio, half_width / float(self.tokens.mean())


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Points in the order of β, the cloned policy (β = 0) first."""

    points: list[Point]
    num_dialogues: int
    seed: int

    def gain(self, point: Point) -> Mean:
        """Of the mean return over the cloned policy's, in the same conversations. The intervals of all gains hold
        together: one β is chosen by them, and of seven that gain nothing one in ten times some would seem to."""
        return mean_and_half_width((point.returns - self.points[0].returns).tolist(), max(len(self.points) - 1, 1))

    @property
    def best(self) -> Point:
        """The one with the highest mean return; of equal ones the least steered."""
        return max(self.points, key=lambda point: (point.mean_return[0], -point.beta))

    @property
    def enough(self) -> Point:
        """The least steered that gains beyond its interval, and is as good as the best up to that of their difference;
        the cloned policy where not even the best gains."""
        best, cloned = self.best, self.points[0]
        if not self._gains(best):
            return cloned
        for point in self.points:
            less, half_width = mean_and_half_width((best.returns - point.returns).tolist())
            if point is best or (self._gains(point) and less <= half_width):
                return point
        raise AssertionError("the best is as good as itself")

    def _gains(self, point: Point) -> bool:
        mean, half_width = self.gain(point)
        return mean > half_width


def frontier(
    agent: SteeredAgent,
    task: TextTask[Any],
    betas: Sequence[float],
    num_dialogues: int = 256,
    *,
    seed: int = 0,
    max_tokens: int = 64,
    watch: Callable[[Point], None] = lambda point: None,
) -> Frontier:
    """Play `num_dialogues` conversations of `task` for each of `betas`, and for 0. `watch` is called after each.

    Raises UserError for a β that is negative or not finite, or fewer than two dialogues.
    """
    for beta in betas:
        if not (math.isfinite(beta) and beta >= 0):
            raise UserError(f"beta is {beta}: it must be a number, 0 or more")
    if num_dialogues < 2:
        raise UserError(f"{num_dialogues} dialogues: an interval needs at least 2")
    points = []
    for beta in sorted({0.0, *map(float, betas)}):
        points.append(_point(agent, task, beta, num_dialogues, seed, max_tokens))
        watch(points[-1])
    return Frontier(points=points, num_dialogues=num_dialogues, seed=seed)


def _point(
    agent: SteeredAgent, task: TextTask[Any], beta: float, num_dialogues: int, seed: int, max_tokens: int
) -> Point:
    voice, cloned = agent.voice(beta), agent.cloned().voice()
    played = play(task, voice, num_dialogues, tokenizer=agent.tokenizer, seed=seed, max_tokens=max_tokens)
    rows = [rows_of(each.turns, agent.tokenizer) for each in played]
    said, allowed = decided(rows), sayable(agent.tokenizer)
    kl = kl_divergence(log_probs(voice, rows, allowed).double(), log_probs(cloned, rows, allowed).double())
    return Point(
        beta=beta,
        returns=np.array([each.total for each in played]),
        kl=kl.masked_fill(~said.valid, 0.0).sum(0).numpy(),
        tokens=said.valid.sum(0).numpy(),
        turns=said.num_turns.numpy(),
    )
