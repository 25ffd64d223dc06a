"""Scripted speakers by name, of every quality: who plays a task into a log."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from seqrl.errors import UserError, nearest
from seqrl.text.negotiation import Negotiation
from seqrl.text.negotiation_optimum import NegotiationOptimum
from seqrl.text.negotiation_speakers import STYLES, ScriptedNegotiator, all_utterances
from seqrl.text.task import Speaker, TextTask
from seqrl.text.text_maze import MOVES, MazeOptimum, TextMaze
from seqrl.text.twenty_questions import NO, YES, QuestionsOptimum, TwentyQuestions
from seqrl.text.wordle import Wordle
from seqrl.text.wordle_optimum import GreedyWordle, RandomConsistent, WordleOptimum

Make = Callable[[Any, torch.Generator], Speaker]


class RandomUtterance:
    """Says any of `utterances`, each as likely, whatever was said."""

    def __init__(self, utterances: tuple[str, ...], generator: torch.Generator) -> None:
        self._utterances, self._generator = utterances, generator

    def __call__(self, texts: tuple[str, ...]) -> str:
        return self._utterances[int(torch.randint(len(self._utterances), (), generator=self._generator))]


class Mixed:
    """Says with probability `epsilon` what `other` says, else what `speaker` says: at each utterance anew."""

    def __init__(self, speaker: Speaker, other: Speaker, epsilon: float, generator: torch.Generator) -> None:
        self._speaker, self._other, self._epsilon, self._generator = speaker, other, epsilon, generator

    def __call__(self, texts: tuple[str, ...]) -> str:
        chosen = torch.rand((), generator=self._generator) < self._epsilon
        return (self._other if chosen else self._speaker)(texts)


class RandomQuestions:
    """Asks any question whose answer is not known yet, and names the thing once only one is left."""

    def __init__(self, task: TwentyQuestions, generator: torch.Generator) -> None:
        self._task, self._generator = task, generator

    def __call__(self, texts: tuple[str, ...]) -> str:
        left = [thing for thing in self._task.objects if self._fits(thing, texts)]
        if len(left) == 1:
            return next(said for said, thing in self._task.thing_of.items() if thing == left[0])
        open_questions = [
            said
            for said, attribute in self._task.attribute_of.items()
            if 0 < sum(attribute in self._task.objects[thing] for thing in left) < len(left)
        ]
        return RandomUtterance(tuple(open_questions), self._generator)(texts)

    def _fits(self, thing: str, texts: tuple[str, ...]) -> bool:
        turns = zip(texts[1::2], texts[2::2], strict=True)
        answers = ((self._task.answer(thing, said), reply) for said, reply in turns)
        return all(answer is None or reply.startswith(YES if answer else NO) for answer, reply in answers)


def utterances(task: TextTask[Any]) -> tuple[str, ...]:
    """What a random speaker says: all that means something in `task`. Raises UserError for a task without a list."""
    if isinstance(task, Wordle):
        return task.allowed
    if isinstance(task, TextMaze):
        return tuple(MOVES)
    if isinstance(task, TwentyQuestions):
        return (*task.attribute_of, *task.thing_of)
    if isinstance(task, Negotiation):
        return all_utterances()
    raise UserError(f"{type(task).__name__} has no list of utterances to draw from: name a speaker of its own")


SPEAKERS: dict[type, dict[str, Make]] = {
    Wordle: {
        "random_consistent": RandomConsistent,
        "greedy": lambda task, generator: GreedyWordle(task),
        "optimal": lambda task, generator: WordleOptimum(task),
    },
    TextMaze: {"optimal": lambda task, generator: MazeOptimum(task)},
    TwentyQuestions: {
        "random_consistent": RandomQuestions,
        "optimal": lambda task, generator: QuestionsOptimum(task),
    },
    Negotiation: {
        **{style: partial(ScriptedNegotiator, style=style) for style in STYLES},
        "optimal": lambda task, generator: NegotiationOptimum(task),
    },
}
"""For each class of tasks its speakers, besides "random" (`RandomUtterance`), which all with a list have."""


def make_speaker(name: str, task: TextTask[Any], generator: torch.Generator) -> Speaker:
    """The speaker called `name`; NAME:EPSILON says at each turn with probability EPSILON what "random" would.

    Raises UserError for a name that the task does not have, or an EPSILON that is no number from 0 to 1.
    """
    name, colon, share = name.partition(":")
    known = SPEAKERS.get(type(task), {})
    if name == "random":
        speaker: Speaker = RandomUtterance(utterances(task), generator)
    elif name in known:
        speaker = known[name](task, generator)
    else:
        raise UserError(f"{type(task).__name__} has no speaker '{name}': {nearest(name, ['random', *known])}")
    if not colon:
        return speaker
    try:
        epsilon = float(share)
    except ValueError:
        epsilon = -1.0
    if not 0 <= epsilon <= 1:
        raise UserError(f"'{name}:{share}' is not NAME:EPSILON with a number from 0 to 1, such as {name}:0.3")
    return Mixed(speaker, RandomUtterance(utterances(task), generator), epsilon, generator)
