"""Conversations as rows of tokens: the one place where turns become tokens.

    <begin> other's turn <end of reply> <agent> agent's turn <end of utterance> other's turn <end of reply> …
    <end of dialogue>

Row t shows token t, and its action is token t + 1. `mask` is True where that token is the agent's own: those of its
text and the <end of utterance> by which it hands over; <agent>, which says whose turn it is, is no choice of its own.
A turn's reward lands on the row of the agent's last token in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.data.dialogues import Dialogue, shown
from seqrl.errors import UserError
from seqrl.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenTurn:
    """What one speaker says, as token ids, without the specials around it."""

    agent: bool
    ids: tuple[int, ...]
    reward: float = 0.0
    """What the agent's turn earned."""
    ended: bool = True
    """Whether the agent ended its turn itself; else it was cut off, and <end of utterance> is no choice of its own."""
    given: bool = False
    """Whether the agent found its turn already said: it is read, and none of it is a choice of its own."""


class TokenRows(NamedTuple):
    """One conversation: tokens [T + 1] int64, and for each of T rows whether its action is the agent's, what it earned,
    and the index of the turn that its action belongs to (−1 for specials between turns)."""

    tokens: Int[Tensor, "T1"]
    mask: Bool[Tensor, "T"]
    reward: Float[Tensor, "T"]
    turn: Int[Tensor, "T"]


class TokenBatch(NamedTuple):
    """Conversations side by side, each from its beginning, filled up with <pad> rows whose mask is False."""

    tokens: Int[Tensor, "T1 B"]
    mask: Bool[Tensor, "T B"]
    reward: Float[Tensor, "T B"]


def token_turns(dialogue: Dialogue, tokenizer: Tokenizer) -> list[TokenTurn]:
    """The turns of a logged dialogue. One that was cut off counts as ended where nothing was said, as what it earned
    needs a token. Raises UserError for another speaker's reward, or a text that has no tokens."""
    turns = []
    for k, turn in enumerate(dialogue.turns):
        agent = turn.speaker == dialogue.agent
        if not agent and turn.reward is not None:
            raise UserError(
                f"dialogue {shown(dialogue.id)}: turns[{k}] has a reward, but it is not the agent's "
                f"({shown(dialogue.agent)}): credit it to the agent's turn before; see seqrl audit"
            )
        try:
            ids = tuple(tokenizer.encode(turn.text))
        except UserError as error:
            raise UserError(f"dialogue {shown(dialogue.id)}: turns[{k}]: {error}") from None
        ended = not (agent and turn.cut and ids)
        turns.append(TokenTurn(agent=agent, ids=ids, reward=turn.reward or 0.0, ended=ended))
    return turns


def rows_of(turns: Sequence[TokenTurn], tokenizer: Tokenizer) -> TokenRows:
    """Lay a conversation's turns out in rows."""
    tokens, mine, reward, turn_of = [tokenizer.begin_id], [False], [0.0], [-1]  # all by token; shifted to rows below

    def add(ids: Iterable[int], agent: bool, turn: int) -> None:
        before = len(tokens)
        tokens.extend(ids)
        num_new = len(tokens) - before
        mine.extend([agent] * num_new)
        reward.extend([0.0] * num_new)
        turn_of.extend([turn] * num_new)

    for index, turn in enumerate(turns):
        if not turn.agent:
            add((*turn.ids, tokenizer.end_of_reply_id), False, index)
            continue
        add((tokenizer.agent_id,), False, -1)
        add(turn.ids, not turn.given, index)
        add((tokenizer.end_of_utterance_id,), turn.ended and not turn.given, index)
        assert turn.ended or turn.ids, "a turn of no token of the agent's own has nowhere to put its reward"
        reward[-1 if turn.ended else -2] = turn.reward
    add((tokenizer.end_of_dialogue_id,), False, -1)
    return TokenRows(torch.tensor(tokens), torch.tensor(mine[1:]), torch.tensor(reward[1:]), torch.tensor(turn_of[1:]))


def batch_of(rows: Sequence[TokenRows], pad_id: int = Tokenizer.pad_id) -> TokenBatch:
    """Conversations side by side, as long as the longest."""

    def pad(leaves: list[Tensor], value: float) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(leaves, padding_value=value)

    return TokenBatch(
        pad([each.tokens for each in rows], pad_id),
        pad([each.mask for each in rows], False),
        pad([each.reward for each in rows], 0.0),
    )


class Decisions(NamedTuple):
    """Where the agent chose a token: the rows' numbers [D, B] in order, and which of them are real."""

    row: Int[Tensor, "D B"]
    valid: Bool[Tensor, "D B"]

    def of(self, leaf: Tensor) -> Tensor:
        """The entries of `leaf` [T, B, …] at the decisions, [D, B, …]."""
        index = self.row.view(*self.row.shape, *[1] * (leaf.ndim - 2)).expand(*self.row.shape, *leaf.shape[2:])
        return leaf.gather(0, index)


def decisions(mask: Bool[Tensor, "T B"]) -> Decisions:
    """The agent's decisions alone. Between two of them the other may have spoken: to the agent, that is one step.

    So discounts count the agent's tokens, and the state that follows its last token of a turn is the one in which it
    speaks next. After the last decision the conversation is over. Entries that are not real show row 0.
    """
    count = mask.sum(0)
    size = max(int(count.max()), 1)
    # A stable sort brings the rows where mask is True to the front, in their order.
    row = (~mask).to(torch.uint8).argsort(dim=0, stable=True)[:size]
    valid = torch.arange(size, device=mask.device)[:, None] < count
    return Decisions(row.masked_fill(~valid, 0), valid)
