"""The only reducers: means over the rows that count."""

from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `x` where `mask`: Σ mask·x / Σ mask, and 0 when no row counts.

    Values under a False mask never reach the result or its gradient, NaN and infinity included.
    """
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def masked_standardize(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(x − mean) / std over the rows where `mask`, and 0 elsewhere. Without spread the result is near 0, not NaN."""
    centered = (x - masked_mean(x, mask)).masked_fill(~mask, 0.0)
    return centered / (masked_mean(centered.square(), mask).sqrt() + 1e-8)
