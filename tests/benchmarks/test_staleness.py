"""The experiment on stale states measures every strategy on an agent that learns by another."""

import math

from benchmarks.staleness import MEASURED, measure


# Breaks if actors keep no states where the strategy learns from none: without `patch.object(r2d2, "stores_states", …)`.
def test_states_are_measured_on_an_agent_that_starts_from_none():
    run = measure("zero", capacity=2_000, length=30, num_steps=6_000, seed=0)
    found = run["delta_q"]["own"]["within"]
    assert set(found) == set(MEASURED)
    assert all(math.isfinite(value) and value > 0 for values in found.values() for value in values)
