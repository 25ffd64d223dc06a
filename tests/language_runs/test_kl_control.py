"""A coefficient that follows the KL, and one that holds a budget."""

import pytest

from seqrl.language_runs.kl_control import KlControl


def test_fixed_stays():
    control = KlControl("fixed", 0.1)
    assert control.allows(1e9)
    control.follow(100.0, 64)
    assert control.weight == 0.1


# Broken by an error that is not clipped, or a horizon that counts updates.
@pytest.mark.parametrize(("kl", "factor"), [(6.6, 1.0064), (100.0, 1.0128), (5.7, 0.9968), (0.0, 0.9872)])
def test_adaptive_goes_towards_its_target(kl, factor):
    control = KlControl("adaptive", 0.5, target=6.0, horizon=1000.0)
    control.follow(kl, 64)
    assert control.weight == pytest.approx(0.5 * factor)


def test_a_budget_raises_its_coefficient_and_lets_it_come_down_to_where_it_began():
    control = KlControl("fixed", 0.1, budget=2.0)
    assert control.allows(2.0)
    assert not control.allows(2.001)
    assert control.allows(1.5, 0.25)
    assert not control.allows(1.6, 0.25)
    control.refuse()
    assert control.weight == pytest.approx(0.13)
    control.follow(1.6, 64)
    assert control.weight == pytest.approx(0.13)
    control.follow(1.4, 64)
    assert control.weight == pytest.approx(0.13 * 0.9)
    for _ in range(20):
        control.follow(0.0, 64)
    assert control.weight == 0.1
    other = KlControl("fixed", 0.1, budget=2.0)
    other.load_state_dict(control.state_dict())
    assert other.weight == control.weight


def test_a_coefficient_of_nothing_can_rise():
    control = KlControl("fixed", 0.0, budget=2.0)
    control.refuse()
    assert control.weight > 0
