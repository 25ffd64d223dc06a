"""Good language from bad: a discriminator of utterances, examples of what is bad, and how far it can be believed."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqrl.language.critic import SegmentEncoder
from seqrl.language.utterances import UtteranceBatch
from seqrl.objectives import masked_mean
from seqrl.text import Tokenizer

Bad = Literal["corrupted", "sampled", "flagged"]
"""Where bad language comes from: logged turns with tokens changed, samples of the language model made weak by a high
temperature, turns with thumbs down."""
BAD = get_args(Bad)
BINS = 10
"""Of confidences, when they are compared to how often they were right."""


class Discriminator(nn.Module):
    """The confidence that an utterance is good language: c(u) = σ(a network of e(u))."""

    def __init__(self, vocabulary_size: int, memory: str, size: int) -> None:
        super().__init__()
        self.encoder = SegmentEncoder(vocabulary_size, memory, size)
        self.head = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, 1))

    def forward(self, segments: Int[Tensor, "L U"], length: Int[Tensor, "U"]) -> Float[Tensor, "U"]:
        """The logarithm of c / (1 − c)."""
        return self.head(self.encoder(segments, length))[..., 0]

    @torch.no_grad()
    def confidence(self, said: Sequence[Sequence[int]]) -> Float[Tensor, "N"]:
        """c of each utterance, its <end of utterance> included."""
        columns = [torch.tensor(list(ids) or [Tokenizer.pad_id]) for ids in said]
        segments = torch.nn.utils.rnn.pad_sequence(columns, padding_value=Tokenizer.pad_id)
        device = next(self.parameters()).device
        length = torch.tensor([len(ids) for ids in columns], device=device)
        return self(segments.to(device), length).sigmoid()


def discriminator_loss(
    discriminator: Discriminator, batch: UtteranceBatch
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Cross-entropy of good and bad utterances, each kind with half of the weight; and how right it is.

    The metrics, weighted in the same way: accuracy at c = ½, and the expected calibration error, the mean distance in
    `BINS` bins of c between mean confidence and share of good utterances.
    """
    logit = discriminator(batch.segments, batch.length)
    logits = torch.cat([logit[batch.said].flatten(), logit[batch.bad.clamp(min=0)].flatten()])
    is_bad = (batch.bad >= 0).flatten()
    label = torch.cat([torch.ones(batch.said.numel()), torch.zeros(batch.bad.numel())]).to(logits.device)
    counts = torch.cat([batch.good.flatten(), is_bad])
    weight = torch.where(label > 0, 0.5 / batch.good.sum().clamp(min=1), 0.5 / is_bad.sum().clamp(min=1)) * counts
    loss = (weight * F.binary_cross_entropy_with_logits(logits, label, reduction="none")).sum()
    c = logits.detach().sigmoid()
    return loss, {
        "discriminator_loss": loss.detach(),
        "discriminator_accuracy": (weight * ((c > 0.5) == (label > 0.5))).sum() / weight.sum(),
        "discriminator_calibration_error": calibration_error(c, label, weight),
        "confidence": masked_mean(c[: batch.said.numel()], batch.good.flatten()),
    }


def calibration_error(
    confidence: Float[Tensor, "N"], label: Float[Tensor, "N"], weight: Float[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Σ over bins of |Σ w (label − c)| / Σ w: 0 if of all utterances with confidence c the share c is good.

    Source: the expected calibration error of Guo et al. 2017, arXiv 1706.04599; differs: weights.
    """
    number = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, device=confidence.device).index_add(0, number, weight * (label - confidence))
    return gaps.abs().sum() / weight.sum()


def corrupted(ids: Sequence[int], vocabulary_size: int, generator: torch.Generator) -> tuple[int, ...]:
    """An utterance made bad, differently each time: some of its tokens put in another order, replaced by any others,
    said twice, or left out. Its <end of utterance> stays. It may, rarely, come out as it was."""
    words = torch.tensor(ids[:-1], dtype=torch.int64)
    count = len(words)
    kind = int(torch.randint(4, (), generator=generator)) if count > 1 else 1
    share = 0.15 + 0.35 * torch.rand((), generator=generator)
    some: Bool[Tensor, "N"] = torch.rand(count, generator=generator) < share
    if count:
        some[torch.randint(count, (), generator=generator)] = True
    lowest = Tokenizer.end_of_dialogue_id + 1
    if kind == 0:
        begin = int(torch.randint(count - 1, (), generator=generator))
        end = begin + max(2, round(float(share) * count))
        part = words[begin:end]
        words[begin:end] = part[torch.randperm(len(part), generator=generator)]
    elif kind == 1:
        others = torch.randint(lowest, vocabulary_size, (max(count, 1),), generator=generator)
        words = torch.where(some, others, words) if count else others
    elif kind == 2:
        words = words.repeat_interleave(1 + some.long())
    else:
        words = words[~some]
    return (*words.tolist(), ids[-1])
