"""How likely a voice is to say what was said: its probabilities at the agent's tokens of whole conversations."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.language.generation import Voice
from seqrl.language.rows import TokenRows, batch_of, decisions


class Decided(NamedTuple):
    """The agent's own tokens in B conversations, compact: row d is its d-th one, `valid` where there is one."""

    row: Int[Tensor, "D B"]
    """Its row in the conversation: state and features before it stand there."""
    valid: Bool[Tensor, "D B"]
    token: Int[Tensor, "D B"]
    reward: Float[Tensor, "D B"]
    turn: Int[Tensor, "D B"]
    """Which of the agent's turns it belongs to, counted from 0; −1 where it is not valid."""
    ends_turn: Bool[Tensor, "D B"]
    """Whether it is that turn's last."""

    @property
    def num_turns(self) -> Int[Tensor, "B"]:
        """The agent's turns in each conversation."""
        return self.turn.amax(0) + 1

    def by_turn(self, leaf: Float[Tensor, "D B"]) -> Float[Tensor, "K B"]:
        """Sums of `leaf` over each of the agent's turns."""
        size = max(int(self.num_turns.max()), 1)
        result = leaf.new_zeros(size, leaf.shape[1])
        return result.scatter_add_(0, self.turn.clamp(min=0), leaf.masked_fill(~self.valid, 0.0))


def decided(rows: Sequence[TokenRows]) -> Decided:
    """The agent's tokens in conversations that were laid out by `rows_of`."""
    batch = batch_of(rows)
    chosen = decisions(batch.mask)
    numbers = torch.nn.utils.rnn.pad_sequence([each.turn for each in rows], padding_value=-1)
    number = chosen.of(numbers).masked_fill(~chosen.valid, -1)
    next_number = torch.cat([number[1:], torch.full_like(number[:1], -1)])
    ends_turn = chosen.valid & (number != next_number)
    # A turn begins behind another's end: their count is the turn's number among the agent's own.
    turn = (ends_turn.cumsum(0) - ends_turn.long()).masked_fill(~chosen.valid, -1)
    return Decided(
        chosen.row, chosen.valid, chosen.of(batch.tokens[1:]), chosen.of(batch.reward), turn, ends_turn
    )  # fmt: skip


@torch.no_grad()
def log_probs(
    voice: Voice, rows: Sequence[TokenRows], allowed: Bool[Tensor, "V"], batch_size: int = 256
) -> Float[Tensor, "D B V"]:
    """log π(· | all tokens before) at each of the agent's tokens, as `play` draws them; 0 where there is none.

    What is read is what speaks: tokens go through `voice.read`, one at a time, so no second way to compute a policy can
    disagree with the one that acts. Conversations beside each other have no say, nor has `batch_size`.
    """
    parts = []
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        batch, length = batch_of(part), torch.tensor([len(each.mask) for each in part])
        chosen = decisions(batch.mask)
        context = voice.start(len(part))
        found = torch.zeros(*chosen.row.shape, len(allowed))
        place = batch.mask.cumsum(0) - 1
        for t in range(len(batch.mask)):
            logits, context = voice.read(batch.tokens[t : t + 1], (t < length).long(), context)
            columns = batch.mask[t].nonzero()[:, 0]
            if len(columns):
                here = logits[columns].masked_fill(~allowed, -torch.inf)
                found[place[t, columns], columns] = here.log_softmax(-1)
        parts.append(found)
    size = max(len(part) for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, 0, 0, size - len(part))) for part in parts], 1)


def of_tokens(log_prob: Float[Tensor, "D B V"], decided: Decided) -> Float[Tensor, "D B"]:
    """log π of the tokens that were said, 0 where there is none."""
    return log_prob.gather(-1, decided.token[..., None])[..., 0].masked_fill(~decided.valid, 0.0)


def kl_divergence(log_p: Float[Tensor, "*shape V"], log_q: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """KL(p ‖ q) = Σ p (log p − log q), exact over the vocabulary; tokens that p never says have no part in it.

    That of `seqrl.objectives`, of logarithms that are normalised already.
    """
    p = log_p.exp()
    difference = torch.where(p > 0, log_p - log_q, 0.0)
    return (p * difference).sum(-1)
