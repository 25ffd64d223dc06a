"""How good what the agent says is, as people's choices tell: language models with a scalar head, several together."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqrl.language.model import LanguageModel
from seqrl.language.rows import Decisions, TokenTurn, batch_of, decisions, rows_of
from seqrl.text import Tokenizer


def turn_ends(mask: Bool[Tensor, "T B"]) -> Decisions:
    """The row of the agent's last own token in each of its turns: what a turn's score is read behind.

    That token is the turn's <end of utterance>, or of a turn that was cut off the last token of its text. Between two
    turns stands <agent>, which is no token of the agent's own, so that a turn is a run of rows in `mask`.
    """
    next_row = torch.cat([mask[1:], torch.zeros_like(mask[:1])])
    return decisions(mask & ~next_row)


class RewardModel(nn.Module):
    """A language model with a scalar head: r = w · y + b, y the features once a turn's last own token was read.

    All weights learn. The head begins near 0, so that no answer is preferred at first.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), Ouyang et al. 2022 (arXiv 2203.02155). Differs: the agent's turns
    are marked in the rows, so that the place of the score is known and not looked for behind padding; each turn of a
    conversation has its own.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(model.output_size, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Int[Tensor, "T1 B"], ends: Decisions) -> Float[Tensor, "K B"]:
        """r of each turn; of entries that are not valid anything."""
        read = int(ends.row.max()) + 2  # row t's action is token t + 1: nothing behind the last score is read
        y = self.model(tokens[:read])
        return self.head(ends._replace(row=ends.row + 1).of(y))[..., 0]


class Scores(NamedTuple):
    """Of each of the agent's K turns in B conversations: the score, and how far the models differ about it (their
    standard deviation, 0 of one alone)."""

    score: Float[Tensor, "K B"]
    disagreement: Float[Tensor, "K B"]
    valid: Bool[Tensor, "K B"]


class RewardEnsemble(nn.Module):
    """M reward models. An answer of several turns is worth the sum of its turns' scores:

        R_m(a) = Σ_k r_m(a, k)          score(a) = mean over m of (R_m(a) − μ_m) / σ

    μ_m and σ are the mean of R_m and the standard deviation of mean_m R_m over the answers that were learnt from
    (`describe`): scores are centred at 0 and have spread 1 there, so that a KL coefficient means the same from one
    reward model to the next. μ is taken off every turn where all these answers had a single one. Where some had several
    it is taken off a conversation's last turn: choices tell what one more turn is worth, and a shift of each would
    change that.

    Source: sums over an answer's steps, Christiano et al. 2017 (arXiv 1706.03741); ensembles against overoptimisation,
    Coste et al. 2024 (arXiv 2310.02743).
    """

    mean: Tensor
    scale: Tensor
    several: Tensor

    def __init__(self, members: Sequence[RewardModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("mean", torch.zeros(len(members)))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("several", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def describe(self, returns: Float[Tensor, "M N"], several: bool) -> None:
        """Centre and scale by the answers that were learnt from: R_m of each, and whether some have several turns."""
        self.mean.copy_(returns.mean(1))
        self.scale.copy_(returns.mean(0).std(correction=0).clamp(min=1e-3))
        self.several.fill_(several)

    def each(self, tokens: Int[Tensor, "T1 B"], mask: Bool[Tensor, "T B"]) -> tuple[Float[Tensor, "M K B"], Tensor]:
        """Each model's score of each of the turns that `mask` marks, 0 where there is none, and which there are.

        `tokens` are whole conversations from their beginning.
        """
        ends = turn_ends(mask)
        last = ends.valid & ~torch.cat([ends.valid[1:], torch.zeros_like(ends.valid[:1])])
        centred = last | (ends.valid & ~self.several)
        scores = torch.stack([
            (member(tokens, ends) - mean * centred) / self.scale
            for member, mean in zip(self.members, self.mean, strict=True)
        ])  # fmt: skip
        return scores.masked_fill(~ends.valid, 0.0), ends.valid

    def forward(self, tokens: Int[Tensor, "T1 B"], mask: Bool[Tensor, "T B"]) -> Scores:
        """Scores of the turns that `mask` marks."""
        each, valid = self.each(tokens, mask)
        return Scores(each.mean(0), each.std(0, correction=0), valid)

    def returns(self, tokens: Int[Tensor, "T1 B"], mask: Bool[Tensor, "T B"]) -> Float[Tensor, "M B"]:
        """Each model's score of a whole answer: the sum over its turns."""
        return self.each(tokens, mask)[0].sum(1)


class RewardAgent(nn.Module):
    """Reward models with the vocabulary that they read."""

    def __init__(self, tokenizer: Tokenizer, ensemble: RewardEnsemble) -> None:
        super().__init__()
        self.tokenizer, self.ensemble = tokenizer, ensemble

    @torch.no_grad()
    def scores(
        self, conversations: Sequence[Sequence[TokenTurn]], tokenizer: Tokenizer | None = None, batch_size: int = 256
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Of each conversation the score of each of the agent's turns, and the disagreement about it.

        `tokenizer` is the one by which the turns were drawn, where it is another than this one: their text is then
        encoded anew, for this is another reader.
        """
        if tokenizer is not None and tokenizer.to_json() != self.tokenizer.to_json():
            conversations = [[_reread(turn, tokenizer, self.tokenizer) for turn in turns] for turns in conversations]
        score: list[list[float]] = []
        disagreement: list[list[float]] = []
        device = self.ensemble.mean.device
        for first in range(0, len(conversations), batch_size):
            part = conversations[first : first + batch_size]
            batch = batch_of([rows_of(turns, self.tokenizer) for turns in part])
            said = self.ensemble(batch.tokens.to(device), batch.mask.to(device))
            count = said.valid.sum(0).tolist()
            for leaf, result in ((said.score, score), (said.disagreement, disagreement)):
                result += [column[:n] for column, n in zip(leaf.T.tolist(), count, strict=True)]
        return score, disagreement


def _reread(turn: TokenTurn, tokenizer: Tokenizer, reader: Tokenizer) -> TokenTurn:
    ids = tuple(reader.encode(tokenizer.decode(turn.ids)))
    return dataclasses.replace(turn, ids=ids, ended=turn.ended or not ids)
