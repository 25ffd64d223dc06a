"""Learning on several seeds, minutes each: run by `make test-slow`; scores are under benchmarks/results/."""

import pytest

from benchmarks.learning import GOALS, measure


@pytest.mark.slow
@pytest.mark.parametrize("name", GOALS)
def test_recipe_reaches_its_goal(name):
    goal = GOALS[name]
    result = measure(name, goal, list(range(goal.num_seeds)))
    assert result["reached"], result
