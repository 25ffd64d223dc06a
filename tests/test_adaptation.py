"""Returns inside trials, against a count by hand. The command and its figures are in test_adapt.py."""

import numpy as np
import pytest
import torch

from seqrl.adaptation import trial_returns
from seqrl.collect import Scripted, random_policy
from seqrl.envs import DarkKeyToDoor, make
from seqrl.errors import UserError

ROOM = {"size": 3, "episode_steps": 15, "num_episodes": 4}


ROUND = torch.tensor([[4, 4, 2], [2, 3, 3], [4, 4, 1]])
"""By cell: a walk round and round the lower six, which finds some keys and doors early and others never."""


def go_round(inputs, generator):
    return ROUND[inputs.observation["observation"].unbind(1)]


def counted(num_envs: int, num_trials: int, seed: int) -> list[list[list[float]]]:
    """By environment and trial, each inner episode's return: one row after the other, with no array in it."""
    env = DarkKeyToDoor(num_envs, **ROOM)
    observation, _ = env.reset(seed=seed)
    trials: list[list[list[float]]] = [[] for _ in range(num_envs)]
    first = torch.ones(num_envs, dtype=torch.bool)
    while any(len(own) <= num_trials for own in trials):  # one more than is asked for has begun: all are whole
        for own, is_first, start in zip(trials, first.tolist(), observation["episode_start"].tolist(), strict=True):
            own.extend([[]] * is_first)
            if start:
                own[-1] = [*own[-1], 0.0]
        ended = env.state["ended"]
        observation, reward, *_ = env.step(ROUND[observation["observation"].unbind(1)])
        for own, paid in zip(trials, reward.tolist(), strict=True):
            own[-1][-1] += paid
        first = ended
    return trials


@pytest.mark.parametrize(("num_envs", "num_trials"), [(1, 9), (4, 6), (9, 4), (4, 31)])
def test_trials_of_any_length_are_counted_by_inner_episode(num_envs, num_trials):
    """Broken by giving a quick environment more trials than a slow one, which favours short trials."""
    environment = make("seqrl/DarkKeyToDoor-v0", num_envs, env_kwargs=ROOM)
    returns = trial_returns(Scripted(environment.single_action_space, go_round), environment, num_trials, seed=2)
    wanted = [num_trials // num_envs + (b < num_trials % num_envs) for b in range(num_envs)]
    expected = [
        trial for own, want in zip(counted(num_envs, max(wanted), 2), wanted, strict=True) for trial in own[:want]
    ]
    assert np.array_equal(returns, expected)
    assert returns.shape == (num_trials, 4)
    assert len(np.unique(returns)) == 3


def test_a_truncated_trial_is_filled_up():
    kwargs = ROOM | {"max_episode_steps": 12}
    environment = make("seqrl/DarkKeyToDoor-v0", 16, env_kwargs=kwargs)
    returns = trial_returns(random_policy(environment.single_action_space), environment, 64)
    known = ~np.isnan(returns)
    assert known[:, 0].all()
    assert not known[:, -1].all()
    assert (known[:, :-1] >= known[:, 1:]).all()


def test_an_inner_episode_that_only_the_final_observation_shows_does_not_count():
    """Where the limit cuts just between two inner episodes. Broken by counting starts on masked rows."""
    kwargs = {"size": 3, "episode_steps": 2, "num_episodes": 5, "max_episode_steps": 4}
    environment = make("seqrl/DarkRoom-v0", 4, env_kwargs=kwargs)
    assert trial_returns(random_policy(environment.single_action_space), environment, 8).shape == (8, 2)


def test_bad_input():
    environment = make("seqrl/Bandit-v0", 2)
    policy = random_policy(environment.single_action_space)
    with pytest.raises(UserError, match="num-trials is 0"):
        trial_returns(policy, environment, 0)
    with pytest.raises(UserError, match="no 'episode_start'"):
        trial_returns(policy, make("seqrl/TMaze-v0", 2), 1)
