"""Rewards made of what a log knows: points, agreement, thumbs, clicks, satisfaction, sentiment, length, toxicity.

A reward is a function of a logged dialogue that gives a number for each of the agent's turns. What is known at the end
alone (points, agreement, satisfaction) comes on the agent's last turn, 0 on the others, so that the undiscounted return
is that number. `combined` adds rewards up, and `with_rewards` writes them into the dialogue.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import isfinite

from seqrl.data.dialogues import Dialogue, shown
from seqrl.data.feedback import feedback
from seqrl.errors import UserError, nearest
from seqrl.language.sentiment import sentiment as _sentiment_of
from seqrl.language.word_list import WordList

Reward = Callable[[Dialogue], list[float]]
"""For each of the agent's turns, in order."""
Classifier = Callable[[str], float]
"""How bad a text is, 0 … 1."""


class UnknownOutcomeError(UserError):
    """A dialogue of which the log does not know what a reward is made of."""


SATISFACTION = {
    "extremely dissatisfied": 1.0,
    "slightly dissatisfied": 2.0,
    "undecided": 3.0,
    "slightly satisfied": 4.0,
    "extremely satisfied": 5.0,
}
"""CaSiNo's answers, as its study scores them."""


def logged(dialogue: Dialogue) -> list[float]:
    """What the log has; 0 where it has nothing. Raises UserError for another speaker's reward, as training does."""
    for k, turn in enumerate(dialogue.turns):
        if turn.speaker != dialogue.agent and turn.reward is not None:
            raise UserError(
                f"dialogue {shown(dialogue.id)}: turns[{k}] has a reward, but it is not the agent's "
                f"({shown(dialogue.agent)}): credit it to the agent's turn before; see seqrl audit"
            )
    return [turn.reward or 0.0 for turn in dialogue.turns if turn.speaker == dialogue.agent]


def points(dialogue: Dialogue) -> list[float]:
    """`outcome.points`, at the end."""
    return _at_the_end(dialogue, _number(dialogue, "points"))


def agreement(dialogue: Dialogue) -> list[float]:
    """1 for `outcome.agreement`, at the end."""
    return _at_the_end(dialogue, _number(dialogue, "agreement"))


def satisfaction(dialogue: Dialogue) -> list[float]:
    """`outcome.satisfaction` at the end: a number, or CaSiNo's words as 1 (extremely dissatisfied) … 5."""
    value = dialogue.outcome.get("satisfaction")
    if isinstance(value, str):
        if value.strip().lower() not in SATISFACTION:
            raise UserError(
                f"dialogue {shown(dialogue.id)}: outcome.satisfaction is '{shown(value, 30)}': give a number, "
                f"or one of {', '.join(SATISFACTION)}"
            )
        return _at_the_end(dialogue, SATISFACTION[value.strip().lower()])
    return _at_the_end(dialogue, _number(dialogue, "satisfaction"))


def outcome_of(key: str) -> Reward:
    """Any number or boolean of `outcome`, or else of `meta`, where columns of other programs' logs are, at the end."""

    return lambda dialogue: _at_the_end(dialogue, _number(dialogue, key, ("outcome", "meta")))


def thumbs(dialogue: Dialogue) -> list[float]:
    """1 for thumbs up, −1 for down, of the turn and of what others say before the agent's next; 0 for none.

    Raises UserError for thumbs before the agent's first turn, which are about nothing of its.
    """
    return feedback(dialogue, "thumbs")


def clicks(dialogue: Dialogue) -> list[float]:
    """How many there were, of the turn and of what others say before the agent's next; 0 where none were logged.

    Raises UserError for clicks before the agent's first turn.
    """
    return feedback(dialogue, "clicks")


def length(dialogue: Dialogue) -> list[float]:
    """How many words the turn has, as white space parts them."""
    return [float(len(turn.text.split())) for turn in dialogue.turns if turn.speaker == dialogue.agent]


def turns(dialogue: Dialogue) -> list[float]:
    """1 a turn: what takes long costs, with a weight below 0."""
    return [1.0 for turn in dialogue.turns if turn.speaker == dialogue.agent]


def sentiment(dialogue: Dialogue) -> list[float]:
    """How friendly the answer is, −1 … 1 (`seqrl.language.sentiment`): what others say before the agent's next turn.

    0 where nobody answers. Needs vaderSentiment.
    """
    answers: list[str] = []
    for turn in dialogue.turns:
        if turn.speaker == dialogue.agent:
            answers.append("")
        elif answers:  # what was said before the agent's first turn answers nothing
            answers[-1] = f"{answers[-1]} {turn.text}".strip()
    return [_sentiment_of(answer) if answer else 0.0 for answer in answers]


def own_sentiment(dialogue: Dialogue) -> list[float]:
    """How friendly the agent's own turn is, −1 … 1. Needs vaderSentiment."""
    return [_sentiment_of(turn.text) for turn in dialogue.turns if turn.speaker == dialogue.agent]


def toxicity(judge: WordList | Classifier) -> Reward:
    """How bad the agent's own turn is: 1 if it has a word of the list, or what a classifier says of its text."""

    def reward(dialogue: Dialogue) -> list[float]:
        said = (turn.text for turn in dialogue.turns if turn.speaker == dialogue.agent)
        return [float(judge.flags(text)) if isinstance(judge, WordList) else float(judge(text)) for text in said]

    return reward


REWARDS: dict[str, Reward] = {
    "agreement": agreement,
    "clicks": clicks,
    "length": length,
    "logged": logged,
    "own_sentiment": own_sentiment,
    "points": points,
    "satisfaction": satisfaction,
    "sentiment": sentiment,
    "thumbs": thumbs,
    "turns": turns,
}
"""By name; toxicity comes besides, which needs a list of words or a classifier."""


def combined(
    weights: Mapping[str, float], *, judge: WordList | Classifier | None = None, own: Mapping[str, Reward] | None = None
) -> Reward:
    """Σ weight · reward over the rewards named: of `REWARDS`, "toxicity" by `judge`, and of `own`.

    Raises: UserError for unknown names, no names at all, weights that are not finite, toxicity without a judge.
    """
    known = REWARDS | dict(own or {})
    if judge is not None:
        known["toxicity"] = toxicity(judge)
    if not weights:
        raise UserError(f"no reward is named: give weights of some of {', '.join(sorted({*known, 'toxicity'}))}")
    for name, weight in weights.items():
        if name == "toxicity" and judge is None and name not in known:
            raise UserError("toxicity needs a list of words or a classifier: give judge, or --words FILE")
        if name not in known:
            raise UserError(f"unknown reward '{name}': {nearest(name, [*known, 'toxicity'])}")
        if not isfinite(weight):
            raise UserError(f"the weight of {name} is {weight}: give a finite number")
    chosen = [(known[name], weight) for name, weight in weights.items()]

    def reward(dialogue: Dialogue) -> list[float]:
        parts = [[weight * each for each in part(dialogue)] for part, weight in chosen]
        return [sum(each) for each in zip(*parts, strict=True)]

    return reward


def with_rewards(dialogue: Dialogue, reward: Reward) -> Dialogue:
    """The dialogue with `reward` on the agent's turns, and none on the others'."""
    values = iter(reward(dialogue))
    rewarded = (
        replace(turn, reward=next(values) if turn.speaker == dialogue.agent else None) for turn in dialogue.turns
    )
    return replace(dialogue, turns=tuple(rewarded))


def rewarded(dialogues: Iterable[Dialogue], reward: Reward) -> Iterator[Dialogue]:
    """The same of many, one at a time."""
    return (with_rewards(dialogue, reward) for dialogue in dialogues)


def _at_the_end(dialogue: Dialogue, value: float) -> list[float]:
    count = sum(turn.speaker == dialogue.agent for turn in dialogue.turns)
    return [0.0] * (count - 1) + [value] if count else []


def _number(dialogue: Dialogue, key: str, parts: tuple[str, ...] = ("outcome",)) -> float:
    """The number or boolean `key` of the first of these parts of the dialogue that has it."""
    known = {name: value for part in reversed(parts) for name, value in getattr(dialogue, part).items()}
    value = known.get(key)
    if value is None or isinstance(value, str):
        name = f"outcome.{key}" if parts == ("outcome",) else shown(key, 50)
        there = (
            f"{' and '.join(parts)} {'has' if len(parts) == 1 else 'have'} {shown(', '.join(known) or 'nothing', 100)}"
        )
        raise UnknownOutcomeError(
            f"dialogue {shown(dialogue.id)}: {name} is no number ({there}): leave {shown(key, 50)} out, or mend the log"
        )
    return float(value)
