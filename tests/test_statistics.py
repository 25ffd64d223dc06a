"""Intervals of means, and shares as text."""

import math

import numpy as np
import pytest
from scipy import stats

from seqrl.statistics import is_above, largest_unseen_share, mean_and_half_width, percent, with_minus


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


def test_what_lies_above_by_more_than_chance() -> None:
    assert is_above(0.5, 0.3, 0.0, 0.3)
    assert not is_above(0.5, 0.4, 0.0, 0.4)  # hypot is 0.566; breaks where either interval alone decides
    assert not is_above(0.5, 0.3, 0.0, 0.3, among=5)  # breaks where the choice of the best is not looked at
    assert is_above(0.5, math.nan, 0.4)
    assert not is_above(0.4, math.nan, 0.4)


def test_an_interval_for_the_best_of_several_is_wider() -> None:
    """Twelve equal means: the best of them is seldom above the truth by this, and often by the interval of one."""
    draws = np.random.default_rng(0).standard_normal((20_000, 12)).max(1)
    shares = [np.mean([is_above(best, 1.96, 0.0, among=among) for best in draws]) for among in (12, 1)]
    assert shares[0] == pytest.approx(0.025, abs=0.005)
    assert shares[1] == pytest.approx(1 - 0.975**12, abs=0.015)
