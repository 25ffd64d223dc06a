"""Labellers that are simulated: they choose by a reward that is hidden from what learns, and err as people do."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqrl.errors import UserError, nearest
from seqrl.language.rewards import REWARDS, Reward

HIDDEN: dict[str, Reward] = {
    "sentiment": REWARDS["own_sentiment"],
    "points": REWARDS["points"],
    "return": REWARDS["logged"],
    "length": REWARDS["length"],
}
"""Hidden rewards by name; sentiment is that of the agent's own words. Of an answer of several turns the sum counts."""


@dataclass(frozen=True, kw_only=True)
class SimulatedLabeller:
    """Chooses between two answers of hidden rewards r_1 and r_2:

        p(1 over 2) = (1 − f) σ((r_1 − r_2) / τ) + f (1 − σ((r_1 − r_2) / τ))

    with τ the `temperature` and f the share of `flips`: choices turned round whatever the answers. At τ = 0 the better
    answer is chosen, of two that are equal either as often. What is chosen depends on `seed`, the labeller's name and
    the question's id alone, so that a session that is stopped and resumed has the same choices.

    Source: Bradley & Terry 1952; flips, Christiano et al. 2017 (arXiv 1706.03741), section 2.2.3, where a tenth of the
    choices are taken to be made at random, which is f = 0.05 here.

    Raises: UserError for a temperature below 0, or flips that are not from 0 to ½.
    """

    name: str = "simulated"
    temperature: float = 1.0
    flips: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"the labeller's temperature is {self.temperature}: it must be 0 or more, and finite")
        if not 0 <= self.flips <= 0.5:
            raise UserError(f"the share of flips is {self.flips}: it must be from 0 to 0.5")

    def probability(self, first: float, second: float) -> float:
        """That the first of two answers of these rewards is chosen."""
        gap = first - second
        if self.temperature == 0 or gap == 0:
            p = 0.5 * (1 + (gap > 0) - (gap < 0))
        else:
            p = 0.5 * (1 + math.tanh(0.5 * gap / self.temperature))  # σ, whatever the size of the gap
        return (1 - self.flips) * p + self.flips * (1 - p)

    def prefers_first(self, question: str, first: float, second: float) -> bool:
        """The choice between the answers to `question`."""
        return uniform(self.seed, self.name, question) < self.probability(first, second)


def uniform(*what: object) -> float:
    """A number from 0 to below 1 that depends on `what` alone: the same in every process."""
    digest = hashlib.sha256("\0".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def bayes_rate(probabilities: Sequence[float]) -> float:
    """The largest share of choices that can be foretold, made with these probabilities: mean max(p, 1 − p).

    Nothing that sees the answers alone has a higher expected accuracy on these pairs.
    """
    return sum(max(p, 1 - p) for p in probabilities) / len(probabilities)


def hidden_reward(name: str) -> Reward:
    """The reward called `name`. Raises UserError where there is none."""
    if name not in HIDDEN:
        raise UserError(f"unknown hidden reward '{name}' (--simulate): {nearest(name, HIDDEN)}")
    return HIDDEN[name]
