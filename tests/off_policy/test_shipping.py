"""Ship or not: each condition is broken once, and says so."""

import dataclasses
import math

import pytest

from seqrl.off_policy import Evaluation, Interval, Requirements, checks, ships
from seqrl.off_policy.evaluation import FITTED, PER_DECISION, ROBUST, WIS

GOOD = Evaluation(
    num_dialogues=500,
    num_turns=1000,
    gamma=1.0,
    logged=Interval(1.0, 0.9, 1.1),
    estimates={
        ROBUST: Interval(1.5, 1.3, 1.7),
        PER_DECISION: Interval(1.55, 1.2, 1.9),
        WIS: Interval(1.4, 1.1, 1.9),
        FITTED: Interval(1.45, math.nan, math.nan),
    },
    gain=Interval(0.5, 0.25, 0.75),
    effective_size=120.0,
    effective_size_by_turn=[300.0, 120.0],
    mean_weight=Interval(0.98, 0.85, 1.1),
    greatest_share=0.04,
    shares=[0.04, 0.01],
    num_propensities=1000,
    num_unrewarded=0,
)


def failed(found: Evaluation, wanted: Requirements | None = None, learnt_from: int = 0) -> dict[str, str]:
    results = checks(found, wanted or Requirements(), learnt_from)
    bad = {check.name: check.reason for check in results if not check.passed}
    assert ships(results) == (not bad)
    return bad


def test_a_good_one_ships():
    assert failed(GOOD) == {}
    assert failed(GOOD, Requirements(baseline=1.25)) == {}


def with_estimate(name: str, interval: Interval) -> Evaluation:
    return dataclasses.replace(GOOD, estimates={**GOOD.estimates, name: interval})


@pytest.mark.parametrize(
    ("found", "wanted", "name", "words"),
    [
        (dataclasses.replace(GOOD, gain=Interval(0.5, -0.01, 1.0)), None, "better than the log", "may be no better"),
        (dataclasses.replace(GOOD, gain=Interval(-1, -2, -0.5)), None, "better than the log", "loses at least 0.5"),
        (dataclasses.replace(GOOD, gain=Interval(math.nan, math.nan, math.nan)), None, "better than the log", "may be"),
        (GOOD, Requirements(baseline=1.3), "above the baseline", "1.3, is not above 1.3"),
        (with_estimate(WIS, Interval(2.5, 2.0, 3.0)), None, "estimators agree", f"'{ROBUST}', '{WIS}'"),
        (with_estimate(WIS, Interval(1.0, 0.5, 1.5)), None, "estimators agree", f"by: '{WIS}'"),
        (with_estimate(FITTED, Interval(0.9, math.nan, math.nan)), None, "estimators agree", f"by: '{FITTED}'"),
        (with_estimate(FITTED, Interval(*[math.nan] * 3)), None, "estimators agree", f"by: '{FITTED}'"),
        (GOOD, Requirements(baseline=1.42), "estimators agree", f"Not above 1.42 by: '{WIS}'"),
        (dataclasses.replace(GOOD, effective_size=49.9), None, "enough dialogues", "worth 49.9; 50 are needed"),
        (dataclasses.replace(GOOD, greatest_share=0.11), None, "no dialogue decides", "11 % of all weight; at most"),
        (dataclasses.replace(GOOD, greatest_share=1.0), None, "no dialogue decides", "has 100 % of all"),
        (dataclasses.replace(GOOD, greatest_share=0.0), None, "no dialogue decides", "0 %"),
        (dataclasses.replace(GOOD, mean_weight=Interval(0.5, 0.3, 0.8)), None, "overlap", "never logged"),
        (dataclasses.replace(GOOD, mean_weight=Interval(2, 1.5, 2.5)), None, "overlap", "too small"),
        (dataclasses.replace(GOOD, mean_weight=Interval(*[math.nan] * 3)), None, "overlap", "nan"),
        (dataclasses.replace(GOOD, num_propensities=990), None, "propensities", "10 of 1,000 turns"),
        (dataclasses.replace(GOOD, num_unrewarded=3), None, "rewards", "3 of 500 dialogues have no reward"),
    ],
)  # fmt: skip
def test_each_condition_alone_stops_it(found, wanted, name, words):
    """Breaks if its comparison is turned round, or it is left out of `checks`."""
    bad = failed(found, wanted)
    [(_, reason)] = [(check, reason) for check, reason in bad.items() if check.startswith(name)]
    assert words in reason
    others = set(bad) - {"above the baseline", "estimators agree"} if wanted else set(bad)
    assert len(others) <= 1


# Broken by comparisons with 0: of equal returns the gain is what rounding makes of it.
def test_rounding_is_no_gain():
    same, noise = Interval(5.0, 5.0 - 1e-15, 5.0 + 1e-15), Interval(9e-16, 1e-16, 2e-15)
    more = Interval(5.0 + 2e-15, 5.0, 5.0 + 3e-15)
    equal = dataclasses.replace(GOOD, logged=same, gain=noise, estimates=dict.fromkeys(GOOD.estimates, more))
    bad = failed(equal)
    assert "may be no better" in bad["better than the log"]
    assert "Not above 5" in bad["estimators agree"]
    loss = dataclasses.replace(equal, gain=Interval(-9e-16, -2e-15, -1e-16))
    assert "may be no better" in failed(loss)["better than the log"]


# Broken by blame on propensities that nobody logged.
def test_heavy_weights_of_estimated_propensities_are_the_stand_ins():
    heavy = dataclasses.replace(GOOD, mean_weight=Interval(2, 1.5, 2.5), num_propensities=0)
    reason = failed(heavy)["overlap with the log"]
    assert "the policy that stands in for propensities says too seldom what was logged" in reason
    assert "too small" not in reason


# Broken by advice that does not ask whether anything steers.
def test_less_steering_is_advised_where_something_steers():
    few = dataclasses.replace(GOOD, effective_size=4.0)
    for steered in (True, False):
        [reason] = [each.reason for each in checks(few, Requirements(), steered=steered) if not each.passed]
        assert ("--beta" in reason) == steered


def test_what_was_learnt_from_does_not_count():
    assert "learnt from 7 of these 500" in failed(GOOD, learnt_from=7)["held out"]


def test_what_is_not_known_to_be_held_out_does_not_count():
    """Breaks if `not_found` has no say in `passed`."""
    [last] = [check for check in checks(GOOD, Requirements(), 0, ["a.jsonl", "runs/\x1b"]) if not check.passed]
    assert last.name == "held out"
    assert "not found: a.jsonl, runs/\\x1b." in last.reason


def test_estimated_propensities_can_be_accepted():
    found = dataclasses.replace(GOOD, num_propensities=0)
    assert failed(found, Requirements(estimated_propensities=True)) == {}
    assert "propensities" in failed(found)
