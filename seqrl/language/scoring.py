"""What a batch of played conversations is worth: a reward for each turn that the agent chose.

A scorer sees whole batches, so that a model may read them together; `seqrl.language.rewards` judges one dialogue at a
time, and `of_reward` makes a scorer of such a reward.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.play import Played
from seqrl.language.rewards import Reward
from seqrl.language.scripted import AGENT, OTHER, logged

Scorer = Callable[[Sequence[Played]], list[list[float]]]
"""For each conversation, the reward of each of the agent's turns, in order; of turns that it found said, none."""


def by_task(played: Sequence[Played]) -> list[list[float]]:
    """The rewards that the task gave."""
    return [[float(reward) for reward in each.dialogue.rewards] for each in played]


def of_reward(reward: Reward) -> Scorer:
    """A scorer of a reward that judges a logged dialogue."""

    def scorer(played: Sequence[Played]) -> list[list[float]]:
        # A dialogue's rewards may begin with turns that the agent found said.
        return [reward(as_dialogue(each))[-len(each.dialogue.rewards) :] for each in played]

    return scorer


def as_dialogue(played: Played, number: int = 0) -> Dialogue:
    """A played conversation as a log has it, with what was said before its opening."""
    dialogue = logged(played.dialogue, number)
    before = tuple(Turn(speaker=AGENT if agent else OTHER, text=text) for agent, text in played.history)
    return replace(dialogue, turns=(*before, *dialogue.turns))


def with_scores(played: Played, scores: Sequence[float]) -> Played:
    """A conversation in which each turn that the agent chose has earned one of `scores`, in order."""
    left = iter(scores)
    turns = [replace(turn, reward=next(left)) if turn.agent and not turn.given else turn for turn in played.turns]
    return replace(played, dialogue=replace(played.dialogue, rewards=tuple(scores)), turns=tuple(turns))


class Weighted:
    """Σ weight · scorer: a scorer too.

    `disagreement` is how far the members of an ensemble differed about the last batch, where a scorer says it (its own
    `disagreement`): a sum by |weight|, shaped as the scores; None where none does.
    """

    def __init__(self, parts: Sequence[tuple[Scorer, float]]) -> None:
        self.parts = tuple(parts)
        self.disagreement: list[list[float]] | None = None

    def __call__(self, played: Sequence[Played]) -> list[list[float]]:
        scores = [(part(played), weight) for part, weight in self.parts]
        found = [(getattr(part, "disagreement", None), abs(weight)) for part, weight in self.parts]
        known = [(each, weight) for each, weight in found if each is not None]
        self.disagreement = _sum(known) if known else None
        return _sum(scores)


def _sum(parts: Sequence[tuple[list[list[float]], float]]) -> list[list[float]]:
    weights = [weight for _, weight in parts]
    return [
        [sum(weight * value for weight, value in zip(weights, turn, strict=True)) for turn in zip(*each, strict=True)]
        for each in zip(*(scores for scores, _ in parts), strict=True)
    ]


def weights_of(specs: Sequence[str], flag: str = "--reward") -> dict[str, float]:
    """What NAME=WEIGHT, or NAME alone for a weight of 1, say. Raises UserError."""
    weights: dict[str, float] = {}
    for spec in specs:
        name, value = (spec[: spec.rindex("=")], spec[spec.rindex("=") + 1 :]) if "=" in spec else (spec, "1")
        try:
            weight = float(value)
        except ValueError:
            weight = float("nan")
        if not name or not isfinite(weight):
            raise UserError(f"{flag} '{spec}' is not NAME=WEIGHT with a finite number, such as length=-0.01")
        if name in weights:
            raise UserError(f"{flag} names {name} twice: give it one weight")
        weights[name] = weight
    if not weights:
        raise UserError(f"no reward is named: give {flag}, such as task, sentiment=1 or a reward model's run")
    return weights
