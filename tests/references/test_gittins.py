"""Indices against published tables and against exact planning."""

from functools import cache

import pytest
import torch

from seqrl.references.gittins import bernoulli_indices, gaussian_bonuses, packed


def bernoulli(horizon: int, discount: float, to_go: int, successes: int, failures: int) -> float:
    place = packed(torch.tensor(successes + failures), torch.tensor(successes))
    return float(bernoulli_indices(horizon, discount)[to_go][place])


@pytest.mark.parametrize(
    ("successes", "failures", "index"),
    [(0, 0, 0.7029), (0, 1, 0.5001), (1, 0, 0.8001), (1, 1, 0.6346), (2, 2, 0.6010)],
)
def test_bernoulli_indices_are_those_of_the_published_table(successes: int, failures: int, index: float) -> None:
    # γ = 0.9, Gittins, Glazebrook & Weber 2011, table 8.4; as printed in "Algorithms to Live By" (2016), chapter 2.
    # Breaks if `_sweep` takes the index one λ further: grid[last + 1].
    horizon = 90  # 0.9^88 is 1e-4, and moves the index by less than the printed digits
    to_go = horizon - successes - failures
    assert bernoulli(horizon, 0.9, to_go, successes, failures) == pytest.approx(index, abs=1.5e-4)


def test_bernoulli_index_with_one_pull_to_go_is_the_mean_and_with_two_is_known() -> None:
    # One λ for two pulls: λ = p, or p + E[(p' − λ)⁺] = λ after a uniform prior: 1/2 + (2/3 − λ)/2 = λ, so λ = 5/9.
    assert bernoulli(5, 1.0, 1, 1, 2) == pytest.approx(2 / 5, abs=1e-4)
    assert bernoulli(5, 1.0, 2, 0, 0) == pytest.approx(5 / 9, abs=1e-4)


def test_bernoulli_index_rises_with_the_pulls_to_go() -> None:
    indices = [bernoulli(20, 1.0, r, 0, 0) for r in range(1, 21)]
    assert indices == sorted(indices)


def test_gaussian_bonus_with_two_pulls_to_go_is_the_root_of_its_equation() -> None:
    # x + E[(x + Z √½)⁺] = 0 at −bonus. Breaks if `step` is √v instead of the posterior mean's deviation.
    bonus = gaussian_bonuses(4, num_points=641)
    x, deviation, normal = -bonus[2, 0].double(), 0.5**0.5, torch.distributions.Normal(0.0, 1.0)
    z = x / deviation
    excess = deviation * (z * normal.cdf(z) + normal.log_prob(z).exp())
    assert float(x + excess) == pytest.approx(0.0, abs=1e-4)
    assert bonus[1].abs().max() == pytest.approx(0.0, abs=1e-6)


def test_gaussian_bonus_scales_with_what_is_left_to_know() -> None:
    bonus = gaussian_bonuses(60)
    assert (bonus[1:30, :30].diff(dim=0) >= -1e-4).all()  # more to go, more to gain
    assert (bonus[2:30, :30].diff(dim=1) < 0).all()  # the more pulls, the less


def bayes_value(num_pulls: int, policy: str) -> float:
    """The expected total of `num_pulls` pulls of two Bernoulli arms, exactly: Bayes-optimal, by index or greedy."""

    @cache
    def value(a: int, b: int, c: int, d: int) -> float:
        to_go = num_pulls - a - b - c - d
        if not to_go:
            return 0.0
        p, q = (a + 1) / (a + b + 2), (c + 1) / (c + d + 2)
        first = p * (1 + value(a + 1, b, c, d)) + (1 - p) * value(a, b + 1, c, d)
        second = q * (1 + value(a, b, c + 1, d)) + (1 - q) * value(a, b, c, d + 1)
        if policy == "optimal":
            return max(first, second)
        if policy == "greedy":
            return first if p >= q else second
        indices = [bernoulli(num_pulls, 1.0, to_go, *arm) for arm in ((a, b), (c, d))]
        return first if indices[0] >= indices[1] else second

    return value(0, 0, 0, 0)


@pytest.mark.parametrize("num_pulls", [2, 4, 6, 10])
def test_indices_play_nearly_as_well_as_is_possible(num_pulls: int) -> None:
    # Breaks if `_sweep` never leaves the arm: gain = advantage, without the clamp.
    optimal, index, greedy = (bayes_value(num_pulls, policy) for policy in ("optimal", "index", "greedy"))
    assert greedy <= index <= optimal
    assert index == pytest.approx(optimal, rel=2e-3)
