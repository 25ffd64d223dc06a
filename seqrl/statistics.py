"""Intervals of means, and shares as they are written everywhere."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit  # Student's quantile; scipy.stats would add a second to every start


def mean_and_half_width(samples: Sequence[float]) -> tuple[float, float]:
    """The mean and half its 95 % interval by Student's t; the half-width is NaN for a single sample."""
    n = len(samples)
    if n < 2:
        return float(np.mean(samples)), math.nan
    return float(np.mean(samples)), float(stdtrit(n - 1, 0.975) * np.std(samples, ddof=1) / math.sqrt(n))


def percent(share: float) -> str:
    """A share as `66.7 %`; a few are never rounded to none, nor most to all."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{100 * share:.3g} %"
