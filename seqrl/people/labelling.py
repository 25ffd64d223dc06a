"""What a labelling session is: questions that are the same for everyone, choices that are never lost, agreement.

The terminal and the page show it; nothing here prints. All texts are data, escaped where they are shown.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from seqrl.data.dialogues import Dialogue, Turn, Value, shown
from seqrl.data.preferences import AGENT, USER, Preference, append_preference, mend_end, read_preferences
from seqrl.errors import UserError
from seqrl.language.generation import Sampling, Voice
from seqrl.language.labellers import SimulatedLabeller, uniform
from seqrl.language.play import Played, play
from seqrl.language.rewards import Reward
from seqrl.locks import lock
from seqrl.seeds import derived_seed
from seqrl.text import TextTask, Tokenizer

AT_ONCE = 16
"""Questions whose answers are drawn side by side: a constant, since what is drawn depends on it."""
DRAWS = 4
"""Answers that are drawn for a question, of which the first two that differ are shown."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which of two answers is better? Both are what follows the prompt: a turn of the agent's, or a conversation."""

    id: str
    prompt: tuple[Turn, ...]
    answers: tuple[tuple[Turn, ...], tuple[Turn, ...]]
    """As they were drawn, with the rewards that a task gave."""
    outcomes: tuple[Mapping[str, Value], Mapping[str, Value]] = field(default=({}, {}), hash=False)
    cut: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Of both answers, the agent's turns that were cut off at the most tokens, counted from 1."""

    def worth(self, reward: Reward) -> tuple[float, float]:
        """The hidden reward of both answers, a sum over their turns."""
        first, second = (
            sum(reward(Dialogue(id=self.id, turns=turns, agent=AGENT, outcome=outcome)))
            for turns, outcome in zip(self.answers, self.outcomes, strict=True)
        )
        return first, second

    def preference(self, better: int, labeller: str, meta: Mapping[str, Value]) -> Preference:
        """The line of a file in which answer `better` (0 or 1) is chosen: who says what, and no rewards."""
        prompt, chosen, rejected = (
            tuple(Turn(speaker=turn.speaker, text=turn.text) for turn in turns)
            for turns in (self.prompt, self.answers[better], self.answers[1 - better])
        )
        parts = {"cut_in_chosen": self.cut[better], "cut_in_rejected": self.cut[1 - better]}
        meta = {**meta, **{key: " ".join(map(str, numbers)) for key, numbers in parts.items() if numbers}}
        return Preference(
            id=self.id, prompt=prompt, chosen=chosen, rejected=rejected, labeller=labeller, agent=AGENT, meta=meta
        )


class Questions:
    """`count` questions about what `voice` says in a task: number i depends on the voice, `seed` and i alone.

    Both answers of a question begin in the same hidden state, and are what follows the task's opening, to the end of
    the conversation. Where all that is drawn is the same there is nothing to choose, and no question.
    """

    def __init__(
        self, task: TextTask[Any], voice: Voice, count: int, *, name: str, tokenizer: Tokenizer, seed: int = 0,
        sampling: Sampling, max_tokens: int = 64,
    ) -> None:  # fmt: skip
        self.task, self.voice, self.count, self.name = task, voice, count, name
        self.tokenizer, self.seed, self.sampling, self.max_tokens = tokenizer, seed, sampling, max_tokens
        self.alike: set[str] = set()
        """Ids of those that are no questions, of what was drawn so far."""

    def id_of(self, number: int) -> str:
        return f"{self.name}-{self.seed}-{number}"

    def among(self, wanted: Callable[[str], bool]) -> Iterator[Question]:
        """Those whose id is `wanted`, in order. Answers are drawn when they are needed."""
        for first in range(0, self.count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, self.count))
            if not any(wanted(self.id_of(number)) for number in numbers):
                continue
            played = play(
                self.task, self.voice, AT_ONCE * DRAWS, tokenizer=self.tokenizer, sampling=self.sampling,
                seed=derived_seed(self.seed, 6, first), max_tokens=self.max_tokens, group_size=DRAWS,
            )  # fmt: skip
            for number in numbers:
                group = played[(number - first) * DRAWS :][:DRAWS]
                question = question_of(self.id_of(number), group)
                if question is None:
                    self.alike.add(self.id_of(number))
                elif wanted(question.id):
                    yield question


def question_of(name: str, played: Sequence[Played]) -> Question | None:
    """The question between the first of `played`, which begin alike, and the first other that differs, if one does."""
    before = [*played[0].history, (False, played[0].dialogue.texts[0])]
    prompt = tuple(Turn(speaker=AGENT if agent else USER, text=text) for agent, text in before if agent or text)
    answers = [_answer(each) for each in played]
    other = next((k for k, answer in enumerate(answers) if _texts(answer) != _texts(answers[0])), None)
    if other is None:
        return None
    outcomes = played[0].dialogue.outcome, played[other].dialogue.outcome
    cut = _cut(played[0]), _cut(played[other])
    return Question(id=name, prompt=prompt, answers=(answers[0], answers[other]), outcomes=outcomes, cut=cut)


def _cut(played: Played) -> tuple[int, ...]:
    own = (turn for turn in played.turns if turn.agent and not turn.given)
    return tuple(number for number, turn in enumerate(own, 1) if not turn.ended)


def _answer(played: Played) -> tuple[Turn, ...]:
    turns = []
    dialogue = played.dialogue
    for said, reply, reward in zip(dialogue.utterances, dialogue.replies, dialogue.rewards, strict=True):
        turns += [Turn(speaker=AGENT, text=said, reward=float(reward)), Turn(speaker=USER, text=reply)]
    return tuple(turns[:-1] if not turns[-1].text else turns)


def _texts(turns: Iterable[Turn]) -> tuple[tuple[str, str], ...]:
    return tuple((turn.speaker, turn.text) for turn in turns)


class Asked(NamedTuple):
    """A question as it is shown: which of its answers come first and second (0 and 1, or 1 and 0)."""

    question: Question
    order: tuple[int, int]

    @property
    def first(self) -> tuple[Turn, ...]:
        return self.question.answers[self.order[0]]

    @property
    def second(self) -> tuple[Turn, ...]:
        return self.question.answers[self.order[1]]

    def note(self, place: int) -> str:
        """What is to be said of the answer shown first (1) or second (2): where it was cut off. Else empty."""
        question, number = self.question, self.order[place - 1]
        cut, own = question.cut[number], sum(turn.speaker == AGENT for turn in question.answers[number])
        if not cut:
            return ""
        return "cut off here" if cut == (own,) else f"of its turns, cut off: {', '.join(map(str, cut))}"


class Session:
    """A labeller's choices, one after the other, in a file that may hold others' too.

    Each is on the disk before the next question is given. Questions that this labeller chose in before, by their ids,
    are not asked again; those that were skipped are, in another session. Which answer comes first depends on the
    question, the labeller and `seed`. A line that was cut short when a session was killed is taken out (`notice` says
    so): its choice had not been confirmed, and is asked for again.

    Raises UserError where the file cannot be read, is being labelled by another session, or holds other answers to
    the same questions.
    """

    def __init__(self, path: str | Path, questions: Questions, labeller: str, seed: int = 0) -> None:
        self.path, self.questions, self.labeller, self.seed = Path(path), questions, labeller, seed
        self.skipped = 0
        self._lock = self._locked()
        try:
            self.notice = self._mended()
            """What was found amiss in the file, and mended; else empty."""
            known = list(read_preferences(self.path)) if self.path.stat().st_size else []
            self._known = {each.id: each for each in known}
            self._mine = {each.id for each in known if each.labeller == labeller}
            self.labelled = sum(questions.id_of(number) in self._mine for number in range(questions.count))
            """Questions of these that the labeller has chosen in, before and now."""
            self._left = questions.among(lambda name: name not in self._mine)
            self.asked = self._next()
            """What is asked now; None where nothing is left."""
        except BaseException:
            self.close()
            raise

    def choose(self, place: int, meta: Mapping[str, Value] | None = None) -> None:
        """The answer shown first (0) or second (1) is better; on to the next question."""
        assert self.asked is not None, "nothing is asked"
        question, order = self.asked
        shown_at = {"chosen_shown": "first" if place == 0 else "second"}
        append_preference(self.path, question.preference(order[place], self.labeller, {**shown_at, **(meta or {})}))
        self._mine.add(question.id)
        self.labelled += 1
        self.asked = self._next()

    def skip(self) -> None:
        """No choice; on to the next question."""
        self.skipped += 1
        self.asked = self._next()

    def simulate(self, labeller: SimulatedLabeller, reward: Reward) -> int:
        """Have `labeller` choose in all that is left, by a hidden `reward`. Returns how many choices there were.

        What was hidden is written beside each choice: what both answers are worth, for experiments.
        """
        before = self.labelled
        while self.asked is not None:
            question, order = self.asked
            worth = question.worth(reward)
            better = 0 if labeller.prefers_first(question.id, *worth) else 1
            self.choose(order.index(better), {"hidden_chosen": worth[better], "hidden_rejected": worth[1 - better]})
        return self.labelled - before

    def close(self) -> None:
        """Let others label the file. One in which nothing was chosen is removed."""
        if self.path.stat().st_size == 0:
            self.path.unlink()
        self._lock.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _next(self) -> Asked | None:
        question = next(self._left, None)
        if question is None:
            return None
        self._check(question)
        swapped = uniform(self.seed, self.labeller, question.id, "order") < 0.5
        return Asked(question, (1, 0) if swapped else (0, 1))

    def _check(self, question: Question) -> None:
        """Raise UserError where the file has the question with other answers: labellers would not judge the same."""
        known = self._known.get(question.id)
        if known is None:
            return
        before = {_texts(known.chosen), _texts(known.rejected)}
        if before != {_texts(answer) for answer in question.answers} or _texts(known.prompt) != _texts(question.prompt):
            raise UserError(
                f"{shown(self.path, 1000)} has the question {shown(question.id)} with other answers: label the same "
                "run with the same settings and --seed, or give another --output"
            )

    def _mended(self) -> str:
        cut = mend_end(self.path)
        if not cut:
            return ""
        return (
            f"{shown(self.path, 1000)} ended in the middle of a line ({cut} bytes), as a session leaves it that is "
            "killed in a write: they are taken out, and that question is asked again"
        )

    def _locked(self) -> Any:
        """The file, opened, and by this session alone."""
        try:
            file = open(self.path, "ab")  # noqa: SIM115
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)  # the file's name is on the disk when its folder is
            os.close(folder)
        except OSError as error:
            raise UserError(f"cannot write {shown(self.path, 1000)} ({error.strerror}): choose another file") from None
        busy = f"{shown(self.path, 1000)} is being labelled in another session: end that, or give another --output"
        try:
            lock(file.fileno(), busy)
        except UserError:
            file.close()
            raise
        return file


class Agreement(NamedTuple):
    """How far two labellers agree on the questions that both chose in."""

    first: str
    second: str
    questions: int
    share: float
    """Of these questions in which both chose the same answer."""
    kappa: float | None
    """Cohen's κ = (share − chance) / (1 − chance); None where they could only agree."""


def agreements(preferences: Iterable[Preference]) -> list[Agreement]:
    """Of every two labellers that have questions in common.

    Chance is how often two would agree who choose without looking, each one answer as often as it did: answers are told
    apart by the order of their texts, which has nothing to do with what is shown first. Where one labeller chose in a
    question more than once, the last choice counts. Raises UserError for ids whose answers differ.

    Source: Cohen 1960, "A coefficient of agreement for nominal scales".
    """
    choices: dict[str, dict[str, bool]] = {}
    answers: dict[str, set[Any]] = {}
    for each in preferences:
        both = _texts(each.chosen), _texts(each.rejected)
        if answers.setdefault(each.id, set(both)) != set(both):
            raise UserError(f"the question {shown(each.id)} has other answers in other lines: compare files of one run")
        choices.setdefault(each.labeller or "nobody named", {})[each.id] = both[0] < both[1]
    result = []
    for one, other in combinations(sorted(choices), 2):
        shared = choices[one].keys() & choices[other].keys()
        if not shared:
            continue
        share = sum(choices[one][name] == choices[other][name] for name in shared) / len(shared)
        p, q = (sum(choices[who][name] for name in shared) / len(shared) for who in (one, other))
        chance = p * q + (1 - p) * (1 - q)
        result.append(
            Agreement(one, other, len(shared), share, (share - chance) / (1 - chance) if chance < 1 else None)
        )
    return result
