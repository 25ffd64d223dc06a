"""A task that is a conversation: what the agent says, what is said back, and what that was worth."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from seqrl.errors import UserError
from seqrl.text.tokenizer import Tokenizer

Speaker = Callable[[tuple[str, ...]], str]
"""Who says the agent's next utterance, given all texts so far: (opening, utterance, reply, utterance, reply, …)."""


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What the other speaker keeps hidden. A value: it is never changed, so planners and tests may branch from it."""

    turns: int = 0
    ended: bool = False


State = TypeVar("State", bound=TaskState)


@dataclass(frozen=True, kw_only=True)
class Turn(Generic[State]):
    """What an utterance led to: the next state, the other speaker's words (may be empty) and the utterance's reward."""

    state: State
    text: str
    reward: float

    @property
    def ended(self) -> bool:
        return self.state.ended


class TextTask(ABC, Generic[State]):
    """A conversation of the agent with another speaker, whose state is hidden: a POMDP whose actions are utterances.

    It ends by itself, after `max_turns` utterances at the latest; that clock belongs to the task. Every text is an
    utterance: what means nothing in a task has a consequence that the task states (a reward, and words that say so),
    and never raises. Utterances are compared exactly, character by character; markup and control characters in them
    are characters like others, and replies never quote an utterance. All replies are texts of `tokenizer`'s vocabulary.
    """

    tokenizer: Tokenizer
    max_turns: int

    @abstractmethod
    def start(self, generator: torch.Generator) -> tuple[State, str]:
        """A hidden state drawn by `generator`, and the other speaker's opening words (may be empty)."""

    def history(self, state: State) -> tuple[tuple[bool, str], ...]:
        """What was said before the opening of a conversation that begins in `state`, turn by turn: whether the agent
        said it, and the text. By default nothing."""
        return ()

    @abstractmethod
    def _reply(self, state: State, utterance: str, generator: torch.Generator) -> Turn[State]:
        """What `reply` returns, for a conversation that goes on."""

    def reply(self, state: State, utterance: str, generator: torch.Generator) -> Turn[State]:
        """What `utterance` leads to from `state`.

        Raises: UserError if the conversation has ended, or `utterance` is no text.
        """
        if state.ended:
            raise UserError("this conversation has ended and takes no utterance: begin another with start(generator)")
        if not isinstance(utterance, str):
            raise UserError(f"an utterance is a str, not {type(utterance).__name__}: decode token ids first")
        return self._reply(state, utterance, generator)

    def outcome(self, state: State) -> Mapping[str, str | bool | int | float]:
        """How a conversation that ended in `state` came out, for logs; by default nothing but its rewards is known."""
        return {}

    def facts(self, state: State) -> Mapping[str, str | bool | int | float]:
        """What held from the conversation's beginning, for logs: also what was hidden. By default nothing is told."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A whole conversation: texts in the order of speaking, the opening first, and a reward for each utterance."""

    texts: tuple[str, ...]
    rewards: tuple[float, ...]
    outcome: Mapping[str, str | bool | int | float] = field(default_factory=dict, hash=False)
    facts: Mapping[str, str | bool | int | float] = field(default_factory=dict, hash=False)
    """What the task says of them: `TextTask.outcome` and `TextTask.facts`."""

    @property
    def utterances(self) -> tuple[str, ...]:
        return self.texts[1::2]

    @property
    def replies(self) -> tuple[str, ...]:
        return self.texts[2::2]


def converse(task: TextTask[State], speaker: Speaker, generator: torch.Generator) -> Dialogue:
    """One conversation of `speaker` with `task`, from its opening to its end."""
    state, opening = task.start(generator)
    texts: tuple[str, ...] = (opening,)
    rewards = []
    while not state.ended:
        utterance = speaker(texts)
        turn = task.reply(state, utterance, generator)
        state, texts = turn.state, (*texts, utterance, turn.text)
        rewards.append(turn.reward)
    return Dialogue(texts=texts, rewards=tuple(rewards), outcome=task.outcome(state), facts=task.facts(state))
