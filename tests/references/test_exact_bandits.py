"""Exact totals of small bandits: by hand, against played trials, and how near to the optimum the references are."""

import pytest

from benchmarks.exact_bandits import bound, exact, expected_total, gittins, thompson, uniform
from seqrl.adaptation import trial_returns
from seqrl.envs import make
from seqrl.references import references_for
from seqrl.statistics import mean_and_half_width


@pytest.fixture(scope="module")
def totals() -> dict[str, float]:
    return exact()


def test_totals_of_one_and_two_pulls_are_known() -> None:
    # Breaks if a failure counts as a success: `good` for both. The second pull is of the same arm after a success (2/3)
    # and of another one after a failure (1/2).
    assert expected_total(5, 1, None) == pytest.approx(1 / 2)
    assert expected_total(5, 2, None) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2)
    assert expected_total(1, 2, None) == pytest.approx(1)  # nothing to choose
    assert expected_total(3, 7, uniform) == pytest.approx(3.5)


def test_thompsons_chances_are_those_of_its_draws() -> None:
    # P(Beta(2, 1) > Beta(1, 1)) = ∫ x 2x dx = 2/3. Breaks if `others` keeps the arm's own integral.
    assert thompson(2)(((0, 0), (1, 0)), 1) == pytest.approx([1 / 3, 2 / 3])
    assert thompson(2)(((0, 0),) * 4, 2) == pytest.approx([1 / 4] * 4)


def test_indices_of_five_arms_reach_the_optimum(totals: dict[str, float]) -> None:
    # Breaks if `gittins` takes the index for one pull to go, which is the mean: that is greedy, and earns less.
    assert totals["optimal"] == pytest.approx(6.6600, abs=5e-5)
    assert totals["Gittins"] == pytest.approx(totals["optimal"], rel=2e-5)
    assert totals["random"] < totals["Thompson"] < totals["greedy"] < totals["Gittins"] <= totals["optimal"]


@pytest.mark.parametrize("name", ["Gittins", "UCB1", "Thompson", "random"])
def test_the_references_earn_what_they_should(totals: dict[str, float], name: str) -> None:
    # Breaks if UCB1's bonus, here or there, is without its 2, or if Thompson's draws forget the prior.
    environment = make("seqrl/Bandit-v0", 4000, env_kwargs={"num_episodes": 10, "num_arms": 5})
    returns = trial_returns(references_for(environment)[name], environment, 4000, seed=7).sum(1)
    mean, half_width = mean_and_half_width(returns.tolist())
    assert abs(mean - totals[name]) < 2 * half_width


@pytest.mark.parametrize(("arms", "pulls"), [(1, 5), (2, 8), (5, 6)])
def test_nobody_exceeds_the_bound(arms: int, pulls: int) -> None:
    # Breaks if the price λ of the pulls is not given back: without `grid * num_pulls`.
    optimal = expected_total(arms, pulls, None)
    assert expected_total(arms, pulls, gittins(pulls)) <= optimal + 1e-12
    assert optimal <= bound(arms, pulls) < 1.1 * optimal + 0.1
