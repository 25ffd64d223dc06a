"""Logged dialogues as tokens, and windows of them to learn from."""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.data.dialogues import Dialogue
from seqrl.data.episodes import returns_to_go
from seqrl.data.held_out import groups_of, parted
from seqrl.errors import UserError
from seqrl.language.rows import TokenRows, rows_of, token_turns
from seqrl.text import Tokenizer


class DialogueWindows(NamedTuple):
    """N windows of logged dialogues, time first, filled up with <pad> rows whose mask is False.

    Row t shows tokens[t], its action is tokens[t + 1]. A window is whole turns. If the dialogue goes on behind it, its
    last row is the agent's next decision, which is not `learnt` from: what is expected there bootstraps the one before.
    """

    tokens: Int[Tensor, "T1 N"]
    mask: Bool[Tensor, "T N"]
    """True where the action is the agent's own token."""
    learnt: Bool[Tensor, "T N"]
    """True on the decisions that are learnt from."""
    reward: Float[Tensor, "T N"]
    return_to_go: Float[Tensor, "T N"]
    """R_d = r_d + γ R_{d+1} over the agent's decisions d, to the end of the whole dialogue, not of the window."""


class DialogueDataset:
    """N dialogues as one row of tokens; `of` makes one.

    The agent's turn k of a dialogue begins with what was said to it: the tokens behind its turn k − 1. A dialogue in
    which the agent never speaks is left out, as nothing can be learnt from it.
    """

    def __init__(
        self, rows: list[TokenRows], gamma: float, names: Sequence[str] = (), keys: Sequence[Hashable] = ()
    ) -> None:
        """`names` are for messages; dialogues of one of `keys` are held out together. By default each has its own."""
        spoken = [k for k, each in enumerate(rows) if bool(each.mask.any())]
        if not spoken:
            raise UserError("the agent never speaks in these dialogues: nothing can be learnt; see seqrl audit")
        self.names = [names[k] if names else f"number {k + 1}" for k in spoken]
        """What its dialogues are called in messages."""
        self.keys = [keys[k] if keys else k for k in spoken]
        rows = [rows[k] for k in spoken]
        self._rows, self.gamma = rows, gamma
        self.num_dialogues = len(rows)
        lengths = np.array([len(each.tokens) for each in rows])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = torch.cat([each.tokens for each in rows])
        # The last token of a dialogue has no action: its row is filled up.
        self.mask = _flat([each.mask for each in rows], False)
        self.reward = _flat([each.reward for each in rows], 0.0)
        self.returns = np.array([float(each.reward.sum()) for each in rows])
        """Undiscounted, a dialogue each."""
        self.return_to_go = self._returns_to_go()
        self._find_turns(starts, lengths)

    @classmethod
    def of(cls, dialogues: Iterable[Dialogue], tokenizer: Tokenizer, gamma: float = 1.0) -> "DialogueDataset":
        """Logged dialogues as `tokenizer` reads them. UserError where it cannot, or the agent never speaks."""
        dialogues = list(dialogues)
        rows = [rows_of(token_turns(dialogue, tokenizer), tokenizer) for dialogue in dialogues]
        return cls(rows, gamma, [dialogue.id for dialogue in dialogues], groups_of(dialogues))

    def _returns_to_go(self) -> Tensor:
        """Of every decision: rows between decisions are no steps in time, so they do not discount."""
        counts = np.array([int(each.mask.sum()) for each in self._rows])
        starts = np.concatenate([[0], np.cumsum(counts + 1)])  # behind each dialogue's decisions a row for its end
        reward = np.zeros(starts[-1], np.float32)
        is_decision = np.ones(starts[-1], bool)
        is_decision[starts[1:] - 1] = False
        reward[is_decision] = self.reward[self.mask].numpy()
        result = torch.zeros(len(self.tokens))
        result[self.mask] = torch.from_numpy(returns_to_go(reward, starts, self.gamma)[is_decision])
        return result

    def _find_turns(self, starts: np.ndarray, lengths: np.ndarray) -> None:
        """For each of the agent's turns: where its window may begin, its first decision; and which are a dialogue's."""
        mask = self.mask.numpy()
        turn = torch.cat([torch.cat([each.turn, torch.tensor([-1])]) for each in self._rows]).numpy()
        dialogue = np.repeat(np.arange(self.num_dialogues), lengths)
        row = np.flatnonzero(mask)
        new = np.ones(len(row), bool)
        new[1:] = (turn[row[1:]] != turn[row[:-1]]) | (dialogue[row[1:]] != dialogue[row[:-1]])
        first, last = row[new], row[np.append(np.flatnonzero(new)[1:] - 1, len(row) - 1)]
        self.num_turns = np.bincount(dialogue[first], minlength=self.num_dialogues)
        self._turns = np.concatenate([[0], np.cumsum(self.num_turns)])  # of each dialogue, in the arrays below
        self._first = first
        # A window's row 0 is the token before what was said to the agent, in whose place <begin> is put.
        # That is the turn's <end of utterance>, a row behind its last decision, or two where the turn was cut off.
        behind = last[:-1] + 1
        self._begin = np.append(0, behind + (self.tokens[behind].numpy() != Tokenizer.end_of_utterance_id))
        self._begin[self._turns[:-1]] = starts[:-1]
        self._end = starts[1:] - 1  # <end of dialogue>

    def __len__(self) -> int:
        return self.num_dialogues

    def split(self, share: float, seed: int) -> tuple["DialogueDataset", "DialogueDataset"]:
        """The dataset without `share` of its dialogues (at least one), and those, drawn by `seed` (`parted`)."""
        learnt, held_out = parted(self.keys, share, np.random.RandomState(seed).permutation)
        return self._subset(learnt), self._subset(held_out)

    def best(self, share: float) -> "DialogueDataset":
        """The `share` of the dialogues, at least one, with the highest returns; of equal ones the first."""
        order = np.argsort(-self.returns, kind="stable")
        return self._subset(np.sort(order[: max(1, round(share * self.num_dialogues))]))

    def _subset(self, numbers: np.ndarray) -> "DialogueDataset":
        rows, names, keys = ([each[k] for k in numbers] for each in (self._rows, self.names, self.keys))
        return DialogueDataset(rows, self.gamma, names, keys)

    def longest_windows(self, num_turns: int) -> list[int]:
        """Of each dialogue, the rows of the longest of its `windows`."""
        most = []
        for dialogue, count in enumerate(self.num_turns):
            size = min(num_turns or count, count)
            begin = np.arange(count - size + 1)
            first, last = self._place(np.full(len(begin), dialogue), begin, begin + size)
            most.append(int((last - first).max()))
        return most

    def windows(self, count: int, num_turns: int, generator: torch.Generator) -> DialogueWindows:
        """`count` windows of up to `num_turns` of the agent's turns; 0 for whole dialogues.

        A dialogue of K turns has K + num_turns − 1 places, from which windows begin before it too: so every turn is
        learnt from as often as others.
        """
        if num_turns == 0:
            dialogue = torch.randint(self.num_dialogues, (count,), generator=generator).numpy()
            return self._gather(dialogue, np.zeros(count, int), self.num_turns[dialogue])
        before = np.concatenate([[0], np.cumsum(self.num_turns + num_turns - 1)])
        place = torch.randint(int(before[-1]), (count,), generator=generator).numpy()
        dialogue = np.searchsorted(before, place, side="right") - 1
        begin = place - before[dialogue] - (num_turns - 1)
        return self._gather(dialogue, np.maximum(begin, 0), np.minimum(begin + num_turns, self.num_turns[dialogue]))

    def _place(self, dialogue: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last token of the turns `begin` … `end` − 1 of each of these dialogues."""
        turns = self._turns[dialogue]
        next_decision = self._first[np.minimum(turns + end, len(self._first) - 1)] + 1  # its action's token
        return self._begin[turns + begin], np.where(end == self.num_turns[dialogue], self._end[dialogue], next_decision)

    def _gather(self, dialogue: np.ndarray, begin: np.ndarray, end: np.ndarray) -> DialogueWindows:
        """The turns `begin` … `end` − 1 of each of these dialogues."""
        whole = end == self.num_turns[dialogue]
        first, last = self._place(dialogue, begin, end)
        length = torch.from_numpy(last - first)  # rows
        offset = torch.arange(int(length.max()) + 1)[:, None]
        index = (torch.from_numpy(first) + offset).clamp(max=len(self.tokens) - 1)
        tokens = self.tokens[index].masked_fill(offset > length, Tokenizer.pad_id)
        tokens[0] = Tokenizer.begin_id
        index, real = index[:-1], offset[:-1] < length
        mask = self.mask[index] & real
        learnt = mask & ((offset[:-1] < length - 1) | torch.from_numpy(whole))
        reward, return_to_go = (leaf[index].masked_fill(~mask, 0.0) for leaf in (self.reward, self.return_to_go))
        return DialogueWindows(tokens, mask, learnt, reward, return_to_go)


def _flat(leaves: list[Tensor], value: float | bool) -> Tensor:
    return torch.cat([torch.cat([leaf, torch.tensor([value], dtype=leaf.dtype)]) for leaf in leaves])
