"""A voice talks to a task: many conversations at once, whose token ids are kept as they were drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from seqrl.language.generation import DRAWN, Sampling, Voice, generate, sayable
from seqrl.language.rows import TokenTurn
from seqrl.seeds import derived_seed
from seqrl.text import Dialogue, TextTask, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Played:
    """A conversation in words and in the tokens that were drawn: never encode the words again."""

    dialogue: Dialogue
    turns: tuple[TokenTurn, ...]
    history: tuple[tuple[bool, str], ...] = ()
    """What was said before the opening (`TextTask.history`); in `turns` it stands first, and is `given`."""

    @property
    def total(self) -> float:
        return sum(self.dialogue.rewards)


class _Conversation:
    """One conversation while it lasts."""

    def __init__(self, task: TextTask[Any], tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        self.state, opening = task.start(self.generator)
        self.texts, self.rewards = [opening], list[float]()
        self.turns: list[TokenTurn] = []
        self.unread: list[int] = [tokenizer.begin_id]
        self.history = task.history(self.state)
        for agent, text in self.history:
            if agent:
                self._remember(text)
            else:
                self._hear(text)
        if opening:
            self._hear(opening)
        self.unread.append(tokenizer.agent_id)

    def _hear(self, text: str) -> None:
        ids = self.tokenizer.encode(text)
        self.turns.append(TokenTurn(agent=False, ids=tuple(ids)))
        self.unread += [*ids, self.tokenizer.end_of_reply_id]

    def _remember(self, text: str) -> None:
        """A turn of its own that was said before the conversation began."""
        tokenizer, ids = self.tokenizer, self.tokenizer.encode(text)
        self.turns.append(TokenTurn(agent=True, ids=tuple(ids), given=True))
        self.unread += [tokenizer.agent_id, *ids, tokenizer.end_of_utterance_id]

    def say(self, ids: list[int], task: TextTask[Any]) -> None:
        tokenizer = self.tokenizer
        ended = bool(ids) and ids[-1] == tokenizer.end_of_utterance_id
        said = ids[:-1] if ended else ids
        text = tokenizer.decode(said)
        turn = task.reply(self.state, text, self.generator)
        self.state = turn.state
        self.texts += [text, turn.text]
        self.rewards.append(turn.reward)
        self.turns.append(TokenTurn(agent=True, ids=tuple(said), reward=turn.reward, ended=ended))
        self.unread = [] if ended else [tokenizer.end_of_utterance_id]
        self._hear(turn.text)
        self.unread.append(tokenizer.agent_id)

    def played(self, task: TextTask[Any]) -> Played:
        dialogue = Dialogue(
            texts=tuple(self.texts),
            rewards=tuple(self.rewards),
            outcome=task.outcome(self.state),
            facts=task.facts(self.state),
        )
        return Played(dialogue=dialogue, turns=tuple(self.turns), history=self.history)


def _read(
    voice: Voice, talks: Sequence[_Conversation], context: Any, device: torch.device | str
) -> tuple[Tensor, Any, Bool[Tensor, "B"]]:
    """Let `voice` read what it has not: logits [B, V], context, and in which conversations it speaks next."""
    unread = [[] if talk.state.ended else talk.unread for talk in talks]
    count = torch.tensor([len(ids) for ids in unread], device=device)
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids, dtype=torch.int64) for ids in unread])
    logits, context = voice.read(tokens.to(device), count, context)
    return logits, context, count > 0


def _begin(
    voice: Voice, talks: Sequence[_Conversation], group_size: int, device: torch.device | str
) -> tuple[Tensor, Any, Bool[Tensor, "B"]]:
    """`_read` from the beginning. What a group begins with is read once, where the voice can copy its context."""
    take = getattr(voice, "take", None)
    whole = take is not None and len(talks) % group_size == 0
    if not whole or any(talk.unread != talks[i - i % group_size].unread for i, talk in enumerate(talks)):
        return _read(voice, talks, voice.start(len(talks)), device)
    firsts = talks[::group_size]
    leaves = _read(voice, firsts, voice.start(len(firsts)), device)
    if group_size == 1:
        return leaves
    logits, context, speaks = leaves
    index = torch.arange(len(firsts), device=logits.device).repeat_interleave(group_size)
    return logits[index], take(context, index), speaks[index]  # type: ignore[misc]


def play(
    task: TextTask[Any],
    voice: Voice,
    num_dialogues: int,
    *,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    sampling: Sampling = DRAWN,
    max_tokens: int = 64,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    group_size: int = 1,
) -> list[Played]:
    """`num_dialogues` conversations; number i's hidden state depends on `seed` and i alone, whoever speaks.

    With a `group_size` G it depends on i // G: G conversations in a row begin in the same state, and their other
    speaker draws the same random numbers. What is said is drawn anew in each.

    A voice may have `speak`, which is called as `generate` is and chooses whole utterances; else tokens are drawn from
    its logits. An utterance ends with <end of utterance>, or is cut after `max_tokens` tokens. No other special token
    is drawn. `tokenizer` is the voice's, if it is not the task's own: one that has tokens for all that is said.
    """
    assert max_tokens >= 1, "an utterance has at least one token"
    tokenizer = tokenizer or task.tokenizer
    allowed = sayable(tokenizer).to(device)
    generator = torch.Generator(device).manual_seed(derived_seed(seed, 2))
    speak = getattr(voice, "speak", None) or partial(generate, voice)
    played = []
    for first in range(0, num_dialogues, batch_size):
        numbers = range(first, min(first + batch_size, num_dialogues))
        talks = [_Conversation(task, tokenizer, derived_seed(seed, 3, number // group_size)) for number in numbers]
        context = None
        while not all(talk.state.ended for talk in talks):
            begins = not any(talk.rewards for talk in talks)
            logits, context, speaks = (
                _begin(voice, talks, group_size, device) if begins else _read(voice, talks, context, device)
            )
            said, context = speak(
                logits,
                context,
                stop_id=tokenizer.end_of_utterance_id,
                max_tokens=max_tokens,
                speaks=speaks,
                allowed=allowed,
                sampling=sampling,
                generator=generator,
            )
            columns = said.ids.T.tolist()
            for talk, ids, length in zip(talks, columns, said.length.tolist(), strict=True):
                if not talk.state.ended:
                    talk.say(ids[:length], task)
        played += [talk.played(task) for talk in talks]
    return played
