"""Intervals of means, and how shares and numbers are written everywhere."""

import math
import re
from collections.abc import Sequence

import numpy as np


def mean_and_half_width(samples: Sequence[float], num_intervals: int = 1) -> tuple[float, float]:
    """The mean and half its 95 % interval by Student's t; the half-width is NaN for a single sample.

    Of `num_intervals` such intervals all hold together with at least 95 % (Bonferroni): for one chosen among them.
    """
    n = len(samples)
    if n < 2:
        return float(np.mean(samples)), math.nan
    from scipy.special import stdtrit  # here, as it takes a quarter of a second, which every command would pay

    quantile = stdtrit(n - 1, 1 - 0.025 / num_intervals)
    return float(np.mean(samples)), float(quantile * np.std(samples, ddof=1) / math.sqrt(n))


def is_above(mean: float, half_width: float, floor: float, floor_half_width: float = 0.0, among: int = 1) -> bool:
    """Whether the best of `among` means, with half its own 95 % interval, lies above a floor by more than chance
    explains: by the interval of the difference, widened for the choice (Bonferroni). One that is not known is 0."""
    from scipy.special import ndtri  # the normal's quantile; here for the same reason

    widths = (width for width in (half_width, floor_half_width) if not math.isnan(width))
    return mean - floor > float(ndtri(1 - 0.025 / among) / ndtri(0.975)) * math.hypot(*widths)


def largest_unseen_share(number: int) -> float:
    """How often something may happen that `number` samples did not show once: the upper end at 95 %, 1 − 0.05^(1/n)."""
    return 1 - 0.05 ** (1 / number)


def percent(share: float) -> str:
    """A share as `66.7 %`; a few are never rounded to none, nor most to all."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{100 * share:.3g} %"


def with_minus(text: str) -> str:
    """Numbers as pictures and pages write them, beside axes whose minus is no hyphen: −1.067, 1e−05. What is copied,
    of terminals and of table.md, keeps what programs read."""
    return re.sub(r"(?<![\w.-])-(?=\d)|(?<=\de)-(?=\d)", "−", text)
