"""Twenty questions against somebody who answers by a table."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch

from seqrl.errors import UserError
from seqrl.text.task import TaskState, TextTask, Turn
from seqrl.text.tokenizer import Tokenizer

QUESTIONS: dict[str, tuple[str, ...]] = {
    "alive": ("Is it alive?", "Is it a living thing?"),
    "flies": ("Can it fly?", "Does it move through the air?"),
    "swims": ("Does it spend its time in water?", "Is it mostly seen in water?"),
    "four legs": ("Does it have four legs?", "Does it stand on four legs?"),
    "eaten": ("Do people eat it?", "Is it food?"),
    "big": ("Is it bigger than a person?", "Is it larger than a person?"),
    "indoors": ("Is it kept inside a house?", "Would I find it in a room?"),
    "metal": ("Is it mostly metal?", "Is it made of metal?"),
    "current": ("Does it need electricity?", "Does it run on electricity?"),
    "carries": ("Can it carry people?", "Do people travel on it?"),
    "heard": ("Do people listen to it?", "Is it there to be heard?"),
}
"""For each attribute, the ways to ask for it."""

OBJECTS: dict[str, frozenset[str]] = {
    name: frozenset(attributes.split(", ")) if attributes else frozenset()
    for name, attributes in {
        "a dog": "alive, four legs, indoors",
        "a horse": "alive, four legs, big, carries",
        "a cow": "alive, four legs, big, eaten",
        "an elephant": "alive, four legs, big",
        "a fox": "alive, four legs",
        "an eagle": "alive, flies",
        "a canary": "alive, flies, indoors, heard",
        "a duck": "alive, flies, swims, eaten",
        "a whale": "alive, swims, big",
        "a salmon": "alive, swims, eaten",
        "a goldfish": "alive, swims, indoors",
        "an oak": "alive, big",
        "a cactus": "alive, indoors",
        "a dandelion": "alive",
        "an apple": "eaten",
        "bread": "eaten, indoors",
        "a table": "four legs, indoors",
        "a carpet": "indoors",
        "a piano": "indoors, big, heard",
        "a flute": "indoors, metal, heard",
        "a radio": "indoors, current, heard",
        "a fridge": "indoors, metal, current",
        "a lamp": "indoors, current",
        "a knife": "indoors, metal",
        "a tram": "big, metal, current, carries",
        "a car": "big, metal, carries",
        "an aeroplane": "big, metal, carries, flies",
        "a ship": "big, metal, carries, swims",
        "a raft": "carries, swims",
        "a kite": "flies",
        "an anchor": "metal, swims",
        "a stone": "",
    }.items()
}
"""For each thing, the attributes that it has; no two things have the same."""

OPENING = "I am thinking of something."
YES, NO = "Yes.", "No."
INVALID = "Ask for a property, or name a thing."
OVER = "Your questions are over."


@dataclass(frozen=True, kw_only=True)
class QuestionsState(TaskState):
    """A conversation, and what the other thinks of."""

    thing: str


class TwentyQuestions(TextTask[QuestionsState]):
    """Find out what the other thinks of, each of `objects` as likely, in twenty questions.

    An utterance asks for an attribute (any of its wordings in `questions`) or names a thing: "Is it a dog?". The reply
    is "Yes." or "No." by the table; naming the right thing ends the game, and so does the last question. Any other
    utterance is told so and uses up a question. Reward: 0 for naming the right thing, −1 for all else.

    Source: twenty questions of LMRL-Gym (Abdulhai et al. 2023, arXiv 2311.18232), with its rewards and its number of
    questions. Differs: 32 things instead of 158; a table answers, where theirs is a language model, which errs and
    understands any wording; so returns cannot be compared.

    Raises: UserError for an empty table, an attribute without a question, one wording for two attributes or for an
    attribute and a thing, `max_turns` below 1.
    """

    def __init__(
        self,
        objects: Mapping[str, Collection[str]] = OBJECTS,
        questions: Mapping[str, tuple[str, ...]] = QUESTIONS,
        max_turns: int = 20,
    ) -> None:
        if not objects:
            raise UserError("objects is empty: twenty questions need something to think of")
        if max_turns < 1:
            raise UserError(f"max_turns is {max_turns}: at least one question is needed")
        self.objects = {name: frozenset(attributes) for name, attributes in objects.items()}
        self.max_turns = max_turns
        asked = [(wording, attribute) for attribute, wordings in questions.items() for wording in wordings]
        named = [(f"Is it {name}?", name) for name in objects]
        wordings = [wording for wording, _ in asked + named]
        if len(set(wordings)) < len(wordings):
            twice = next(wording for wording in wordings if wordings.count(wording) > 1)
            raise UserError(f"{twice!a} asks for two things: give each attribute and thing wordings of its own")
        for name, attributes in self.objects.items():
            if unknown := sorted(attributes - {attribute for _, attribute in asked}):
                raise UserError(f"no question asks for {unknown[0]!a} of {name!a}: add it to questions")
        self.attribute_of = dict(asked)
        """For each question its attribute."""
        self.thing_of = dict(named)
        """For each utterance that names a thing, the thing."""
        self.tokenizer = Tokenizer.of_words([OPENING, *wordings, f"{INVALID} {OVER}", f"{YES} {OVER}", f"{NO} {OVER}"])

    def start(self, generator: torch.Generator) -> tuple[QuestionsState, str]:
        things = tuple(self.objects)
        return QuestionsState(thing=things[int(torch.randint(len(things), (), generator=generator))]), OPENING

    def answer(self, thing: str, utterance: str) -> bool | None:
        """Whether "Yes." is the answer to `utterance` when `thing` is thought of; None if it asks for nothing."""
        if utterance in self.attribute_of:
            return self.attribute_of[utterance] in self.objects[thing]
        if utterance in self.thing_of:
            return self.thing_of[utterance] == thing
        return None

    def _reply(self, state: QuestionsState, utterance: str, generator: torch.Generator) -> Turn[QuestionsState]:
        found = self.thing_of.get(utterance) == state.thing
        turns = state.turns + 1
        ended = found or turns == self.max_turns
        text = {True: YES, False: NO, None: INVALID}[self.answer(state.thing, utterance)]
        if ended and not found:
            text = f"{text} {OVER}"
        return Turn(
            state=replace(state, turns=turns, ended=ended),
            text=text,
            reward=0.0 if found else -1.0,
        )


@dataclass
class _Known:
    """Of a set of things: its least cost is at least `lower`, and equals it if there is an `utterance`."""

    lower: int
    utterance: str = ""


class QuestionsOptimum:
    """The exact optimum of a `TwentyQuestions` task, and the speaker that attains it.

    The cost of a set S of n things that may be meant, with k questions left, is the number of −1 summed over them:

        C(S, k) = min(min over questions of n + C(S_yes, k − 1) + C(S_no, k − 1),
                      min over o ∈ S of n − 1 + C(S∖o, k − 1))

    with C(S, 0) = 0. Expected return: −C(all, max_turns) / number of things. The search is branch and bound: a set
    costs at least what it would if questions could cut it in any way, which depends on n and k alone. Nothing is left
    out, so the value is exact. Naming a thing outside S is never better, and is not looked at.
    """

    def __init__(self, task: TwentyQuestions) -> None:
        self._task = task
        self._things = tuple(task.objects)
        self._masks: dict[int, str] = {}  # of the things that have an attribute, as bits; the first question for each
        for question, attribute in task.attribute_of.items():
            mask = sum(1 << i for i, thing in enumerate(self._things) if attribute in task.objects[thing])
            self._masks.setdefault(mask, question)
        self._names = {thing: utterance for utterance, thing in task.thing_of.items()}
        self._known: dict[tuple[int, int], _Known] = {}

    @property
    def expected_return(self) -> float:
        everything = (1 << len(self._things)) - 1
        return -self._cost(everything, self._task.max_turns, 10**9) / len(self._things)

    def __call__(self, texts: tuple[str, ...]) -> str:
        left = [
            i
            for i, thing in enumerate(self._things)
            if all(self._fits(thing, *turn) for turn in zip(texts[1::2], texts[2::2], strict=True))
        ]
        if not left:
            raise UserError("no thing of this task's table fits the answers: they are another table's, or were changed")
        things, questions = sum(1 << i for i in left), self._task.max_turns - len(texts) // 2
        self._cost(things, questions, 10**9)
        return self._known[things, questions].utterance

    def _fits(self, thing: str, utterance: str, reply: str) -> bool:
        answer = self._task.answer(thing, utterance)
        return answer is None or reply.startswith(YES if answer else NO)

    def _cost(self, things: int, questions: int, limit: int) -> int:
        """C(things, questions) if it is below `limit`; else some lower bound of it that is not."""
        n = things.bit_count()
        if n == 0 or questions == 0:
            return 0
        known = self._known.setdefault((things, questions), _Known(_least_cost(n, questions)))
        if known.utterance or known.lower >= limit:
            return known.lower
        best, utterance = limit, ""
        for bound, ask, part in self._ways(things, n, questions):
            if bound >= best or known.lower >= best:
                break
            rest = things & ~part
            if ask:
                less = _least_cost(rest.bit_count(), questions - 1)
                cost = n + self._cost(part, questions - 1, best - n - less)
                cost = cost + less if cost + less >= best else cost + self._cost(rest, questions - 1, best - cost)
            else:
                cost = n - 1 + self._cost(rest, questions - 1, best - n + 1)
            if cost < best:
                best, utterance = cost, ask or self._names[self._things[part.bit_length() - 1]]
        known.lower, known.utterance = best, utterance
        return best

    def _ways(self, things: int, n: int, questions: int) -> list[tuple[int, str, int]]:
        """All that may be said: (its least cost, the question or "" for a name, the things of the answer yes)."""
        ways = []
        for mask, question in self._masks.items():
            k = (things & mask).bit_count()
            if 0 < k < n:
                bound = n + _least_cost(k, questions - 1) + _least_cost(n - k, questions - 1)
                ways.append((bound, question, things & mask))
        by_name = n - 1 + _least_cost(n - 1, questions - 1)
        ways += [(by_name, "", 1 << i) for i in range(len(self._things)) if things >> i & 1]
        return sorted(ways)


@cache
def _least_cost(n: int, questions: int) -> int:
    """C of n things, if for each way to cut them there were a question."""
    if n <= 1 or questions == 0:
        return 0
    return min(
        n - 1 + _least_cost(n - 1, questions - 1),
        *(n + _least_cost(k, questions - 1) + _least_cost(n - k, questions - 1) for k in range(1, n // 2 + 1)),
    )
