"""The only reducers: means over the rows that count."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `x` where `mask`: Σ mask·x / Σ mask, and 0 when no row counts.

    Values under a False mask never reach the result or its gradient, NaN and infinity included.
    """
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def masked_standardize(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(x − mean) / std over the rows where `mask`, and 0 elsewhere. Without spread the result is near 0, not NaN."""
    mean = masked_mean(x, mask)
    centered = (x - mean).masked_fill(~mask, 0.0)
    std = masked_mean(centered.square(), mask).sqrt()
    return (centered / (std + 1e-8)).masked_fill(is_rounding(std, mean), 0.0)


def is_rounding(std: Float[Tensor, "*shape"], mean: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Whether numbers with this mean may be all the same: their distance from it is no more than its own rounding."""
    return std <= 8 * torch.finfo(mean.dtype).eps * mean.abs()
