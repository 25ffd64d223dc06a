"""Intervals of means."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


def mean_and_half_width(samples: Sequence[float]) -> tuple[float, float]:
    """The mean and half its 95 % interval by Student's t; the half-width is NaN for a single sample."""
    n = len(samples)
    if n < 2:
        return float(np.mean(samples)), math.nan
    return float(np.mean(samples)), float(student.ppf(0.975, n - 1) * np.std(samples, ddof=1) / math.sqrt(n))
