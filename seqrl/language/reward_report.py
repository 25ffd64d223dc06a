"""How far a reward model can be trusted, by pairs that it did not learn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqrl.language.preferences import PreferenceDataset, PreferencePairs
from seqrl.language.reward_model import RewardAgent
from seqrl.language.rows import TokenBatch
from seqrl.trajectory import to_device

BINS = 5
"""Of the probability that is given to the answer that is taken to be preferred, from ½ to 1."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Pairs whose preferred answer was foretold with a probability from `low` to `high`."""

    low: float
    high: float
    pairs: int
    foretold: float
    """The mean of these probabilities."""
    right: float
    """The share of pairs in which it was the one that was chosen."""


@dataclass(frozen=True, kw_only=True)
class RewardReport:
    """What a reward model says of pairs, beside what was chosen."""

    pairs: int
    accuracy: float
    """Share of pairs whose chosen answer has the higher score; ½ for two scores that are equal."""
    log_loss: float
    """Mean −log of the probability of what was chosen; log 2 = 0.693 knows nothing."""
    calibration_error: float
    """Mean distance between what was foretold and what came, over bins, weighted by their pairs."""
    calibration: tuple[Bin, ...]
    length_correlation: float
    """Of an answer's score with its length in tokens, over all answers; 0 where all are of one length."""
    longer_chosen: float
    """Share of the pairs of different lengths in which the longer answer was chosen; ½ where there are none."""
    longer_preferred: float
    """In which it has the higher score."""
    score_mean: float
    score_std: float
    disagreement: float
    """Mean standard deviation of an answer's score over the models."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def error_by_chance(calibration: Sequence[Mapping[str, float]]) -> float:
    """The calibration error that these bins of a report would have about, were the model right about itself: of n pairs
    with a chance p the share that comes is off by √(2 p (1 − p) / (π n)) on average. Of few pairs that is much."""
    of_bins = (math.sqrt(2 * b["foretold"] * (1 - b["foretold"]) * b["pairs"] / math.pi) for b in calibration)
    return sum(of_bins) / max(1, sum(b["pairs"] for b in calibration))


@torch.no_grad()
def reward_report(agent: RewardAgent, dataset: PreferenceDataset, batch_size: int = 256) -> RewardReport:
    """The report on all pairs of `dataset`.

    p(chosen) = σ(σ_R · (score(chosen) − score(rejected))), with σ_R what scores were divided by. Of two answers the
    model foretells that with the higher score, with a probability from ½ to 1. Source of the calibration error: Guo et
    al. 2017, arXiv 1706.04599.
    """
    parts = []
    for first in range(0, len(dataset), batch_size):
        numbers = range(first, min(first + batch_size, len(dataset)))
        parts.append(_judged(agent, dataset.pairs(numbers)))
    score, disagreement, length = (torch.cat(leaves, 1) for leaves in zip(*parts, strict=True))
    margin = (score[0] - score[1]).double() * float(agent.ensemble.scale)
    p = margin.sigmoid()
    bins = _calibration(p)
    longer = torch.sign(length[0] - length[1])
    return RewardReport(
        pairs=len(dataset),
        accuracy=_share(torch.sign(margin)),
        log_loss=float(torch.nn.functional.softplus(-margin).mean()),
        calibration_error=sum(each.pairs * abs(each.right - each.foretold) for each in bins) / len(dataset),
        calibration=bins,
        length_correlation=_correlation(score.flatten(), length.flatten()),
        longer_chosen=_share(longer[longer != 0]),
        longer_preferred=_share((torch.sign(margin) * longer)[longer != 0]),
        score_mean=float(score.mean()),
        score_std=float(score.std(correction=0)),
        disagreement=float(disagreement.mean()),
    )


def answers(pairs: PreferencePairs) -> TokenBatch:
    """All answers of B pairs side by side, 2B columns, the chosen first."""
    size = max(len(pairs.chosen.tokens), len(pairs.rejected.tokens))

    def both(index: int, fill: float) -> Tensor:
        leaves = [part[index] for part in pairs]
        rows = size - (index != 0)
        return torch.cat([torch.nn.functional.pad(leaf, (0, 0, 0, rows - len(leaf)), value=fill) for leaf in leaves], 1)

    return TokenBatch(both(0, 0), both(1, False), both(2, 0.0))  # <pad> is token 0


def _judged(agent: RewardAgent, pairs: PreferencePairs) -> tuple[Float[Tensor, "2 B"], Tensor, Int[Tensor, "2 B"]]:
    """Score, disagreement and length of every answer, the chosen first."""
    batch = to_device(answers(pairs), agent.ensemble.mean.device)
    returns = agent.ensemble.returns(batch.tokens, batch.mask)  # [M, 2 B]
    score, disagreement = returns.mean(0), returns.std(0, correction=0)
    return tuple(leaf.unflatten(0, (2, -1)).cpu() for leaf in (score, disagreement, batch.mask.sum(0)))


def _calibration(p: Float[Tensor, "N"]) -> tuple[Bin, ...]:
    confidence = torch.maximum(p, 1 - p)
    right = torch.where(p == 0.5, 0.5, (p > 0.5).double())
    number = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = []
    for k in range(BINS):
        inside = number == k
        count = int(inside.sum())
        low, high = 0.5 + k / (2 * BINS), 0.5 + (k + 1) / (2 * BINS)
        foretold, came = (float(leaf[inside].mean()) if count else 0.0 for leaf in (confidence, right))
        bins.append(Bin(low=low, high=high, pairs=count, foretold=foretold, right=came))
    return tuple(bins)


def _share(sign: Tensor) -> float:
    """How many of signs are 1, where 0 is half."""
    return float((0.5 * (1 + sign.double())).mean()) if len(sign) else 0.5


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = (leaf.double() - leaf.double().mean() for leaf in (x, y))
    spread = x.norm() * y.norm()
    return float((x * y).sum() / spread) if spread > 0 else 0.0
