"""Intervals of means, and shares as text."""

import numpy as np
import pytest
from scipy import stats

from seqrl.statistics import largest_unseen_share, mean_and_half_width, percent, with_minus


@pytest.mark.parametrize("samples", [[1.0, 2.0], [0.3, 0.1, 0.7], list(np.random.default_rng(0).normal(size=10))])
def test_mean_and_half_width(samples: list[float]) -> None:
    # Breaks with ddof=0, with 1.96 in place of the quantile, or with n degrees of freedom.
    mean, half_width = mean_and_half_width(samples)
    low, high = stats.t.interval(0.95, len(samples) - 1, np.mean(samples), stats.sem(samples))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))
    assert np.isnan(mean_and_half_width([1.0])[1])


def test_several_intervals_hold_together() -> None:
    """Bonferroni: of seven, each holds with 1 − 0.05 / 7. Must break: a half-width that is that of one."""
    samples = list(np.random.default_rng(0).normal(size=10))
    low, high = stats.t.interval(1 - 0.05 / 7, 9, np.mean(samples), stats.sem(samples))
    mean, half_width = mean_and_half_width(samples, 7)
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_what_was_never_seen_may_be_there() -> None:
    """Golden: one who fails in 2.95 % of episodes is seen to in none of 100 once in 20 times (Clopper and Pearson).
    Must break: 3 / n, or an upper end of 97.5 %."""
    assert largest_unseen_share(100) == pytest.approx(
        stats.binomtest(0, 100, alternative="less").proportion_ci(0.95).high
    )
    assert largest_unseen_share(1) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"), (0.0004, "under 0.1 %"), (0.001, "0.1 %"), (2 / 3, "66.7 %"), (0.999, "99.9 %"),
        (0.9996, "over 99.9 %"), (1.0, "100 %"),
    ],
)  # fmt: skip
def test_a_share_never_rounds_a_few_to_none(share: float, text: str) -> None:
    # Breaks when three digits are all: of 2,500 pairs in the right order but one, "100 %".
    assert percent(share) == text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("-1.067 ± 0.5", "−1.067 ± 0.5"),
        ("-1.5e-05 to -1", "−1.5e−05 to −1"),
        ("run-3, TMaze-v0, a--5", "run-3, TMaze-v0, a--5"),
    ],
)
def test_a_minus_is_no_hyphen(written, shown):
    """Breaks if: any hyphen before a digit is replaced, in names too; or that of an exponent is left."""
    assert with_minus(written) == shown
