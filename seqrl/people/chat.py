"""A conversation with a trained speaker, turn by turn, with what it might have said and why it said what it did.

The terminal and the page show it; nothing here prints. All texts are data, escaped where they are shown.
"""

import dataclasses
import math
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch

from seqrl.data.dialogues import Dialogue, Turn, Value, shown, write_dialogues
from seqrl.errors import UserError
from seqrl.language.agent import LanguageAgent
from seqrl.language.candidates import Candidate, Critic, TokenCritic, conversation_ids, propose
from seqrl.language.generation import DRAWN, Plain, Sampling, Voice
from seqrl.language.reranking import RerankingAgent
from seqrl.language.rows import TokenTurn
from seqrl.language.steering import SteeredAgent
from seqrl.language.word_list import WordList
from seqrl.text import TextTask
from seqrl.visible import IGNORABLE

Choice = Literal["q", "drawn", "likeliest"]
WHY: dict[Choice, str] = {"q": "highest Q", "drawn": "drawn first", "likeliest": "most probable"}
"""What the candidate that is said has."""
AGENT, PERSON, TASK = "agent", "person", "task"
"""Who speaks, in what is saved."""
ROUNDS = 4
"""How often candidates are drawn before the agent says nothing, where all are removed."""
WHITE = "\t\n\v\f\r\x85"
"""Control characters that are white space."""
FAR_BELOW = 5.0
"""Nats below the likeliest candidate's log p, of what values choose, from which a person is warned: a 150th of it."""
MOST_CANDIDATES = 64
MOST_CHARACTERS = 4_000
"""Of what a person says at once."""

Filter = Callable[[str], str]
"""Why an utterance must not be said, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A candidate as it was judged."""

    candidate: Candidate
    times: int = 1
    """How often its text was drawn; the numbers are those of the first."""
    removed: str = ""
    """Why it must not be said: what a filter, or an agent that chooses itself, has against it; empty for nothing."""
    score: float | None = None
    """What an agent that chooses among utterances goes by; None of others."""
    confidence: float | None = None
    """How sure the agent's discriminator is that this is good language; None without one."""

    def remark(self, said: "Said") -> str:
        """What is shown beside it: why it was said or removed, and what its agent thinks of it besides Q."""
        parts = [said.why if self is said.chosen else self.removed]
        if self.score is not None and math.isfinite(self.score) and self.score != self.candidate.q:
            parts.append(f"score {self.score:.2f}")
        if self.confidence is not None:
            parts.append(f"confidence {self.confidence:.0%}")
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Said:
    """One turn of the conversation. Only the agent's have options, a reward and a reason."""

    speaker: str
    text: str
    turn: TokenTurn
    at: float
    """Seconds since the conversation began."""
    options: tuple[Option, ...] = ()
    """What it might have said, best first and what was removed last."""
    chosen: Option | None = None
    why: str = ""
    reward: float | None = None
    """What the task gave for it; None where no task is played."""


def nats_below(said: Said) -> float:
    """How far the log p of what is said lies below the likeliest candidate's, of those that are left."""
    left = [option.candidate.log_prob for option in said.options if not option.removed]
    return max(left) - said.chosen.candidate.log_prob if said.chosen else 0.0


class Chat:
    """A conversation of an agent with a person, or with `task` if it is given.

    For each of its turns the agent draws `num_candidates` utterances from `voice`; `forbid` removes some; of the rest
    it says the one with the highest Q (`choose` "q", which needs a critic), the one drawn first ("drawn": what the
    voice itself says), or the most probable ("likeliest"). Where all are removed it draws again, and after `ROUNDS`
    times says nothing.
    """

    def __init__(
        self,
        agent: LanguageAgent,
        *,
        voice: Voice | None = None,
        critic: Critic | None = None,
        num_candidates: int = 5,
        choose: Choice | None = None,
        sampling: Sampling = DRAWN,
        max_tokens: int = 64,
        forbid: Filter | None = None,
        task: TextTask[Any] | None = None,
        seed: int = 0,
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`names` are what speakers are called in what is saved, where that is not their own: as a log calls them."""
        self.agent, self.task, self.forbid = agent, task, forbid
        self.tokenizer = agent.tokenizer
        self.voice = voice or proposing(agent)
        self.critic = critic = critic or critic_of(agent)
        if choose == "q" and critic is None:
            raise UserError("this run has no values to choose by (--choose q): choose drawn or likeliest")
        self.choose: Choice = choose or ("q" if critic is not None else "drawn")
        self.sampling, self.max_tokens = sampling, max_tokens
        self.num_candidates = checked_candidates(num_candidates)
        self.generator = torch.Generator(agent.device).manual_seed(seed)
        self.task_generator = torch.Generator().manual_seed(seed)
        self.names = names
        self.said: list[Said] = []
        self.state: Any = None
        self._start = time.monotonic()
        if task is not None:
            self.state, opening = task.start(self.task_generator)
            if opening:
                self._hear(opening, TASK)

    @property
    def over(self) -> bool:
        """Whether the task has ended; with a person it never does."""
        return self.state is not None and self.state.ended

    def about(self) -> str:
        """How the agent speaks, in a line."""
        worth = "with values" if self.critic is not None else "without values"
        how = {"q": "the one with the highest Q", "drawn": "the first drawn", "likeliest": "the most probable"}
        return f"{worth}; of the candidates, {how[self.choose]} is said"

    def hear(self, text: str) -> Said:
        """What the person says. Raises UserError for nothing at all, and for what the run has no tokens for."""
        if not text.strip():
            raise UserError("nothing was said: say something, or /quit")
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"that has {len(text)} characters: say at most {MOST_CHARACTERS} at once")
        try:
            return self._hear(text, PERSON)
        except UserError as error:
            reason = str(error).partition(": ")[0]
            raise UserError(
                f"the agent cannot read that ({reason}): say it in words that it was trained with"
            ) from None

    def answer(self) -> Said:
        """What the agent says next, and to a task, what that replies.

        Raises UserError where the conversation is over, or longer than the model reads.
        """
        if self.over:
            raise UserError("the conversation is over: begin another")
        options: list[Option] = []
        for _ in range(ROUNDS):
            options = _merged(options, self._options())
            if any(not option.removed for option in options):
                break
        options.sort(key=lambda option: (bool(option.removed), self._rank(option)))
        chosen = None if options[0].removed else options[0]
        if chosen is None:
            why = f"nothing: the filter removed every candidate, {ROUNDS} times over"
            turn, text = TokenTurn(agent=True, ids=()), ""
        else:
            left = " of those that are left" if options[-1].removed else ""
            scored = self.choose == "q" and chosen.score not in (None, chosen.candidate.q)
            why = ("highest score" if scored else WHY[self.choose]) + left
            turn, text = chosen.candidate.turn(), chosen.candidate.text
        said = Said(speaker=AGENT, text=text, turn=turn, at=self._now(), options=tuple(options), chosen=chosen, why=why)
        self.said.append(said)
        if self.task is not None:
            reply = self.task.reply(self.state, text, self.task_generator)
            self.state = reply.state
            said = dataclasses.replace(said, reward=reply.reward)
            self.said[-1] = said
            self._hear(reply.text, TASK)
        return said

    def undo(self) -> str:
        """Take back what the person said last and all that followed, and return it. Raises UserError if nothing is."""
        index = next((k for k in reversed(range(len(self.said))) if self.said[k].speaker == PERSON), None)
        if index is None:
            raise UserError("there is nothing of yours to take back")
        text = self.said[index].text
        del self.said[index:]
        return text

    def dialogue(self, meta: Mapping[str, Value]) -> Dialogue:
        """The conversation as a line of a log, with what the task tells of it; without propensities (docs/chat.md)."""
        turns = [
            Turn(
                speaker=self.names.get(said.speaker, said.speaker),
                text=said.text,
                reward=said.reward,
                at=round(said.at, 3),
                cut=None if said.turn.ended else True,
            )
            for said in self.said
        ]
        if self.over and not turns[-1].text:
            turns.pop()  # a task that ends without a word has no turn
        facts = self.task.facts(self.state) if self.task is not None else {}
        outcome = self.task.outcome(self.state) if self.task is not None and self.over else {}
        return Dialogue(
            id="chat", agent=self.names.get(AGENT, AGENT), turns=tuple(turns), outcome=outcome, meta={**facts, **meta}
        )

    def _hear(self, text: str, speaker: str) -> Said:
        ids = tuple(self.tokenizer.encode(text))
        self.said.append(Said(speaker=speaker, text=text, turn=TokenTurn(agent=False, ids=ids), at=self._now()))
        return self.said[-1]

    def _options(self) -> list[Option]:
        """Draws candidates once, with what the filter says."""
        ids = conversation_ids([said.turn for said in self.said], self.tokenizer)
        proposals = propose(
            self.voice, [ids], self.num_candidates, tokenizer=self.tokenizer, critic=self.critic,
            max_tokens=self.max_tokens, sampling=self.sampling, generator=self.generator, device=self.agent.device,
        )  # fmt: skip
        options = [
            Option(candidate=candidate, removed=self.forbid(candidate.text) if self.forbid else "")
            for candidate in proposals.candidates(self.tokenizer)[0]
        ]
        return _considered(self.agent, options) if isinstance(self.agent, RerankingAgent) else options

    def _rank(self, option: Option) -> float:
        """The lowest is said."""
        if self.choose == "q":
            assert option.candidate.q is not None
            return -(option.candidate.q if option.score is None else option.score)
        return -option.candidate.log_prob if self.choose == "likeliest" else 0.0

    def _now(self) -> float:
        return time.monotonic() - self._start


def _considered(agent: RerankingAgent, options: list[Option]) -> list[Option]:
    """What an agent that chooses among utterances thinks of those that are left."""
    left = [option for option in options if not option.removed]
    if not left:
        return options
    q, log_prob = (torch.tensor([[getattr(option.candidate, name) for option in left]]) for name in ("q", "log_prob"))
    ends = (agent.tokenizer.end_of_utterance_id,)
    said = [[option.candidate.ids + ends * option.candidate.ended for option in left]]
    score, confidence = agent.scores(q, log_prob, said, agent.choosing)
    beliefs = [None] * len(left) if confidence is None else confidence[0].tolist()
    judged = zip(left, score[0].tolist(), beliefs, strict=True)
    known = {
        id(option): dataclasses.replace(
            option, score=number, confidence=belief, removed="" if math.isfinite(number) else "hardly good language"
        )
        for option, number, belief in judged
    }
    return [known.get(id(option), option) for option in options]


def _merged(old: Sequence[Option], new: Sequence[Option]) -> list[Option]:
    """Both, with equal texts once, in the order of drawing."""
    merged: dict[tuple[str, bool], Option] = {}
    for option in (*old, *new):
        key = option.candidate.text, option.candidate.ended
        before = merged.get(key)
        merged[key] = dataclasses.replace(before, times=before.times + option.times) if before else option
    return list(merged.values())


def critic_of(agent: LanguageAgent) -> Critic | None:
    """What an agent judges utterances by, if it has anything."""
    if isinstance(agent, SteeredAgent):
        return TokenCritic(agent.values)
    return cast(Critic, agent) if hasattr(agent, "appraise") else None


def proposing(agent: LanguageAgent) -> Voice:
    """What an agent's candidates are drawn from: an agent that itself chooses among utterances has a policy beneath."""
    return Plain(agent.policy) if hasattr(agent, "appraise") else agent.voice()


def checked_candidates(number: int) -> int:
    """`number`, if so many candidates can be drawn. Raises UserError if not."""
    if not 1 <= number <= MOST_CANDIDATES:
        raise UserError(f"{number} candidates: draw from 1 to {MOST_CANDIDATES}")
    return number


class WordFilter:
    """Removes utterances in which a word or phrase of a list stands (`seqrl.language.word_list.WordList`).

    Nor do characters that cannot be seen hide one, or characters that are written in another way (NFKC). The list is a
    file with one a line; raises UserError where it cannot be read or holds none.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self._words = WordList(map(_plain, WordList.of_file(path).words))
        except UserError as error:
            raise UserError(f"--forbid: {error}") from None

    def __call__(self, text: str) -> str:
        found = self._words.found(_plain(text))
        return f"has '{shown(found[0])}', which is forbidden" if found else ""


def _plain(text: str) -> str:
    """One form for each character, and none that cannot be seen: these go first, as one between a letter and its
    accent would keep them apart. White space stays."""
    return unicodedata.normalize("NFKC", "".join(char for char in text if char in WHITE or _can_be_seen(char)))


def _can_be_seen(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf") and not IGNORABLE.match(char)


class Transcript:
    """A file that always holds the whole conversation so far, written anew after each turn.

    Raises UserError where the file exists already; it is never another's that is written over.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Value]) -> None:
        self.path, self.meta = Path(path), meta
        self._begun = False
        if self.path.exists() or self.path.is_symlink():
            raise self._exists()
        if not self.path.parent.is_dir():
            raise UserError(
                f"{shown(self.path, 1000)} (--save) is in no folder that exists: make it, or choose another"
            )

    def save(self, chat: Chat) -> None:
        """Write what was said, whole or not at all. While nothing is said there is no file."""
        if chat.said:
            self._claim()
            write_dialogues(self.path, [chat.dialogue(self.meta)])
        elif self._begun:
            self.path.unlink(missing_ok=True)
            self._begun = False

    def _claim(self) -> None:
        """Make the file, once, unless it was made since."""
        if not self._begun:
            try:
                self.path.open("x").close()
            except FileExistsError:
                raise self._exists() from None
            except OSError as error:
                raise UserError(
                    f"cannot write {shown(self.path, 1000)} ({error.strerror}): choose another --save"
                ) from None
            self._begun = True

    def _exists(self) -> UserError:
        return UserError(f"{shown(self.path, 1000)} exists already (--save): choose another file")
