"""Which recipe a problem is begun with."""

from dataclasses import replace

import pytest

from seqrl.algorithms import ppo, r2d2, recurrent_sac
from seqrl.cli import main
from seqrl.comparison.online import default_settings, read_comparison
from seqrl.recipes import robot, robot_sac, settings_for, tmaze


# Break: let `is_robot` say what an id ends in, or take a recipe without an environment for that of "".
@pytest.mark.parametrize("env", ["Hopper-v5", "HalfCheetah-v4", "InvertedPendulum-v5"])
def test_robots_of_mujoco_begin_with_the_recipe_of_robots(env):
    assert settings_for(env) == replace(robot(), env=env)
    assert settings_for(env, recurrent_sac.Config) == replace(robot_sac(), env=env)
    assert settings_for(env, r2d2.Config) == r2d2.Config(env=env)


@pytest.mark.parametrize("env", ["", "CartPole-v1", "Pendulum-v1", "seqrl/MaskedMountainCarContinuous-v1", "nothing"])
def test_what_has_no_recipe_begins_with_the_defaults(env):
    assert settings_for(env) == ppo.Config(env=env)


def test_a_problem_with_a_recipe_begins_with_it():
    assert settings_for("seqrl/TMaze-v0") == tmaze()


# Break: let `default_settings` ask for the environment's recipe alone, or take any recipe.
def test_a_comparison_starts_from_a_recipe_by_its_name(tmp_path, capsys):
    assert default_settings("robot") == replace(robot(), num_evaluations=10, keep="best", actions="best")
    flags = ["--memories", "none", "--num-seeds", "1", "--num-episodes", "2", "--evaluation-episodes", "2"]
    sizes = ["--num-steps", "64", "--num-envs", "4", "--rollout-length", "16", "--num-minibatches", "4"]
    folder = tmp_path / "compared"
    assert main(["compare", "robot", "--env", "Pendulum-v1", *flags, *sizes, "--run-dir", str(folder)]) == 0
    settings = read_comparison(folder).settings
    assert (settings.env, settings.bptt_length, settings.separate_critic) == ("Pendulum-v1", 16, True)
    assert main(["compare", "robot"]) == 2
    assert "name one with --env" in capsys.readouterr().err
    assert main(["compare", "tmaze_r2d2"]) == 2
    assert "no recipe of PPO's" in capsys.readouterr().err
    assert main(["compare", "grpo"]) == 2
    assert "seqrl compare ENV" in capsys.readouterr().err
