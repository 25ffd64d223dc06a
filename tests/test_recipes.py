"""Which recipe a problem is begun with."""

from dataclasses import replace

import pytest

from seqrl.algorithms import ppo
from seqrl.recipes import robot, settings_for, tmaze


# Break: let `is_robot` say what an id ends in, or take a recipe without an environment for that of "".
@pytest.mark.parametrize("env", ["Hopper-v5", "HalfCheetah-v4", "InvertedPendulum-v5"])
def test_robots_of_mujoco_begin_with_the_recipe_of_robots(env):
    assert settings_for(env) == replace(robot(), env=env)


@pytest.mark.parametrize("env", ["", "CartPole-v1", "Pendulum-v1", "seqrl/MaskedMountainCarContinuous-v1", "nothing"])
def test_what_has_no_recipe_begins_with_the_defaults(env):
    assert settings_for(env) == ppo.Config(env=env)


def test_a_problem_with_a_recipe_begins_with_it():
    assert settings_for("seqrl/TMaze-v0") == tmaze()
