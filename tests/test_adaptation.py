"""Returns inside trials, against a count by hand. The command and its figures are in test_adapt.py."""

import numpy as np
import pytest
import torch

from seqrl.adaptation import trial_returns
from seqrl.collect import Scripted, random_policy
from seqrl.envs import DarkKeyToDoor, make
from seqrl.errors import UserError

ROOM = {"size": 3, "episode_steps": 9, "num_episodes": 4}


def by_turns(inputs, generator):
    """A walk that depends on what was seen and what it brought, and draws nothing."""
    observation = inputs.observation["observation"]
    return (observation + inputs.previous_action + inputs.previous_reward.long()) % 5


def counted(num_envs: int, num_trials: int, seed: int) -> list[list[list[float]]]:
    """By environment and trial, each inner episode's return: one row after the other, with no array in it."""
    env = DarkKeyToDoor(num_envs, **ROOM)
    observation, _ = env.reset(seed=seed)
    trials: list[list[list[float]]] = [[] for _ in range(num_envs)]
    previous = torch.zeros(2, num_envs, dtype=torch.int64)
    first = torch.ones(num_envs, dtype=torch.bool)
    while any(len(own) <= num_trials for own in trials):  # one more than is asked for has begun: all are whole
        for own, is_first, start in zip(trials, first.tolist(), observation["episode_start"].tolist(), strict=True):
            own.extend([[]] * is_first)
            if start:
                own[-1] = [*own[-1], 0.0]
        action = (observation["observation"] + previous.sum(0)) % 5
        ended = env.state["ended"]
        observation, reward, *_ = env.step(action)
        for own, paid in zip(trials, reward.tolist(), strict=True):
            own[-1][-1] += paid
        first = ended
        previous = torch.stack([action, reward.long()]) * ~first
    return trials


@pytest.mark.parametrize(("num_envs", "num_trials"), [(1, 3), (4, 1), (4, 4), (4, 10)])
def test_trials_of_any_length_are_counted_by_inner_episode(num_envs, num_trials):
    """Broken by giving a quick environment more trials than a slow one, which favours short trials."""
    environment = make("seqrl/DarkKeyToDoor-v0", num_envs, env_kwargs=ROOM)
    returns = trial_returns(Scripted(environment.single_action_space, by_turns), environment, num_trials, seed=2)
    wanted = [num_trials // num_envs + (b < num_trials % num_envs) for b in range(num_envs)]
    expected = [
        trial for own, want in zip(counted(num_envs, max(wanted), 2), wanted, strict=True) for trial in own[:want]
    ]
    assert np.array_equal(returns, expected)
    assert returns.shape == (num_trials, 4)


def test_a_truncated_trial_is_filled_up():
    kwargs = ROOM | {"max_episode_steps": 12}
    environment = make("seqrl/DarkKeyToDoor-v0", 16, env_kwargs=kwargs)
    returns = trial_returns(random_policy(environment.single_action_space), environment, 64)
    known = ~np.isnan(returns)
    assert known[:, :2].all()  # the 10th decision at the latest is of a second inner episode
    assert not known[:, -1].all()
    assert (known[:, :-1] >= known[:, 1:]).all()


def test_bad_input():
    environment = make("seqrl/Bandit-v0", 2)
    policy = random_policy(environment.single_action_space)
    with pytest.raises(UserError, match="num-trials is 0"):
        trial_returns(policy, environment, 0)
    with pytest.raises(UserError, match="no 'episode_start'"):
        trial_returns(policy, make("seqrl/TMaze-v0", 2), 1)
