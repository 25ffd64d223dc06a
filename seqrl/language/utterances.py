"""Logged dialogues as turns, and beside each of the agent's turns what a language model would have said there."""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.data.held_out import parted
from seqrl.errors import UserError
from seqrl.language.rows import TokenRows
from seqrl.text import Tokenizer


class Exchange(NamedTuple):
    """What was heard since the agent spoke last, <agent> at its end, and what it then said, <end of utterance> at its
    end. `said` is empty where it is yet to speak."""

    heard: tuple[int, ...]
    said: tuple[int, ...]


def exchanges(ids: Iterable[int]) -> list[Exchange]:
    """The exchanges of a conversation's tokens. What follows the agent's last turn is left out, unless it ends in
    <agent>; tokens after an <end of utterance> that was cut off count as heard."""
    result: list[Exchange] = []
    heard: list[int] = []
    said: list[int] | None = None
    for token in ids:
        if said is None:
            heard.append(token)
            if token == Tokenizer.agent_id:
                said = []
        else:
            said.append(token)
            if token == Tokenizer.end_of_utterance_id:
                result.append(Exchange(tuple(heard), tuple(said)))
                heard, said = [], None
    if said is not None:
        result.append(Exchange(tuple(heard), tuple(said)))
    return result


class Segments:
    """A table of token sequences, each once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}

    def number(self, ids: tuple[int, ...]) -> int:
        """Its number in the table; it is put there if it was not."""
        return self._numbers.setdefault(ids, len(self._numbers))

    def tensors(self) -> tuple[Int[Tensor, "L U"], Int[Tensor, "U"]]:
        """All of them side by side, filled up with <pad>, and their lengths."""
        columns = [torch.tensor(ids, dtype=torch.int64) for ids in self._numbers]
        length = torch.tensor([len(ids) for ids in columns])
        return torch.nn.utils.rnn.pad_sequence(columns, padding_value=Tokenizer.pad_id), length


class Drawn(NamedTuple):
    """For each of M logged turns, P utterances that a language model drew there, and the model's features.

    `said` [M, P, N] are tokens of which the first `length` count; `log_prob` is of the whole utterance. `features`
    [M, 1 + P, F] are those after the last token of what was logged, then of each that was drawn; F may be 0.
    """

    said: Int[Tensor, "M P N"]
    length: Int[Tensor, "M P"]
    log_prob: Float[Tensor, "M P"]
    features: Float[Tensor, "M P1 F"]


class UtteranceBatch(NamedTuple):
    """B whole dialogues, turn by turn: K of the agent's turns, filled up with turns that are not `valid`.

    Texts are numbers of columns of `segments`, whose first `length` tokens count. The first columns are those of what
    was heard and said. `bad` are texts that nobody should say, −1 for none.
    """

    segments: Int[Tensor, "L U"]
    length: Int[Tensor, "U"]
    heard: Int[Tensor, "K B"]
    said: Int[Tensor, "K B"]
    proposals: Int[Tensor, "K B P"]
    log_prob: Float[Tensor, "K B P"]
    features: Float[Tensor, "K B P1 F"]
    reward: Float[Tensor, "K B"]
    valid: Bool[Tensor, "K B"]
    good: Bool[Tensor, "K B"]
    """Whether what was said is an example of good language."""
    bad: Int[Tensor, "K B J"]


class UtteranceDataset:
    """N dialogues, as turns of the agent with what was proposed there.

    `rows` are dialogues in tokens; turns are numbered through, dialogue after dialogue, as `drawn` has them. `bad` has
    for each turn texts of bad language, and `flagged` says whether what was logged is bad itself. Dialogues of one of
    `keys` are held out together; by default each has its own.
    """

    def __init__(
        self,
        rows: Sequence[TokenRows],
        drawn: Drawn,
        gamma: float,
        bad: Sequence[Sequence[tuple[int, ...]]] = (),
        flagged: Sequence[bool] = (),
        keys: Sequence[Hashable] = (),
    ) -> None:
        table = Segments()
        turns = [turns_of(each) for each in rows]
        self.num_turns = np.array([len(each) for each in turns])
        self._starts = np.concatenate([[0], np.cumsum(self.num_turns)])
        flat = [turn for each in turns for turn in each]
        assert len(flat) == len(drawn.length), "proposals of other dialogues"
        self._heard = torch.tensor([table.number(turn.heard) for turn, _ in flat])
        self._said = torch.tensor([table.number(turn.said) for turn, _ in flat])
        columns = zip(drawn.said.tolist(), drawn.length.tolist(), strict=True)
        self._proposals = torch.tensor([
            [table.number(tuple(ids[:n])) for ids, n in zip(said, length, strict=True)] for said, length in columns
        ])  # fmt: skip
        self._bad = torch.tensor([[table.number(ids) for ids in each] for each in bad] or [[]] * len(flat)).long()
        self._good = ~torch.tensor(flagged or [False] * len(flat))
        self._bad = torch.cat([self._bad, self._said.where(~self._good, -1)[:, None]], 1)
        self._log_prob, self._features = drawn.log_prob, drawn.features
        self._reward = torch.tensor([reward for _, reward in flat])
        self._segments, self._length = table.tensors()
        self.gamma = gamma
        self._dialogues = np.arange(len(rows))
        self._keys = list(keys) or list(range(len(rows)))

    @property
    def num_dialogues(self) -> int:
        return len(self._dialogues)

    @property
    def returns_to_go(self) -> Float[Tensor, "M"]:
        """R_k = r_k + γ R_{k+1} of every turn."""
        result = []
        for dialogue in self._dialogues:
            total = 0.0
            for k in reversed(range(self._starts[dialogue], self._starts[dialogue + 1])):
                total = float(self._reward[k]) + self.gamma * total
                result.append(total)
        return torch.tensor(result)

    def __len__(self) -> int:
        return self.num_dialogues

    def split(self, share: float, seed: int) -> tuple["UtteranceDataset", "UtteranceDataset"]:
        """The dataset without `share` of its dialogues (at least one), and those, drawn by `seed` (`parted`)."""
        keys = [self._keys[k] for k in self._dialogues]
        learnt, held_out = parted(keys, share, np.random.RandomState(seed).permutation)
        return self._subset(learnt), self._subset(held_out)

    def _subset(self, numbers: np.ndarray) -> "UtteranceDataset":
        part = object.__new__(UtteranceDataset)
        part.__dict__.update(self.__dict__)
        part._dialogues = self._dialogues[numbers]
        return part

    def draw(self, count: int, generator: torch.Generator) -> UtteranceBatch:
        """`count` dialogues, each as likely."""
        return self.batch(torch.randint(self.num_dialogues, (count,), generator=generator).numpy())

    def batch(self, numbers: np.ndarray) -> UtteranceBatch:
        """These dialogues."""
        dialogue = self._dialogues[numbers]
        size = int(self.num_turns[dialogue].max())
        turn = np.arange(size)[:, None]
        valid = torch.from_numpy(turn < self.num_turns[dialogue])
        # Turns that are not valid show the dialogue's first.
        index = torch.from_numpy(self._starts[dialogue] + np.where(turn < self.num_turns[dialogue], turn, 0))
        heard, said, proposals = self._heard[index], self._said[index], self._proposals[index]
        bad = self._bad[index].masked_fill(~valid[..., None], -1)
        first = torch.cat([heard.flatten(), said.flatten()]).unique()
        rest = torch.cat([proposals.flatten(), bad.flatten().clamp(min=0)]).unique()
        order = torch.cat([first, rest[~torch.isin(rest, first)]])
        place = torch.full((len(self._length),), -1)
        place[order] = torch.arange(len(order))
        length = self._length[order]
        return UtteranceBatch(
            segments=self._segments[: int(length.max()), order],
            length=length,
            heard=place[heard],
            said=place[said],
            proposals=place[proposals],
            log_prob=self._log_prob[index],
            features=self._features[index],
            reward=self._reward[index].masked_fill(~valid, 0.0),
            valid=valid,
            good=self._good[index] & valid,
            bad=torch.where(bad < 0, -1, place[bad.clamp(min=0)]),
        )


def turns_of(rows: TokenRows) -> list[tuple[Exchange, float]]:
    """The agent's turns in a dialogue, each with what it earned."""
    result, at = [], 0
    for exchange in exchanges(rows.tokens.tolist()):
        begin = at + len(exchange.heard) - 1  # the row that shows <agent>
        at = begin + 1 + len(exchange.said)
        result.append((exchange, float(rows.reward[begin : at - 1].sum())))
    return result


def speaking(rows: Sequence[TokenRows]) -> list[TokenRows]:
    """The dialogues in which the agent speaks. Raises UserError where it never does."""
    rows = [each for each in rows if bool(each.mask.any())]
    if not rows:
        raise UserError("the agent never speaks in these dialogues: nothing can be learnt; see seqrl audit")
    return rows
