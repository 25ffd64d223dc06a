"""An agent against its references on the same tasks, its weights at rest: the figures, the digest, and the command."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from seqrl.adaptation import AGENT, OPTIMAL, Adaptation, adapt, running_mean, trial_returns, weights_digest
from seqrl.algorithms import ppo
from seqrl.collect import Scripted, random_policy
from seqrl.envs import make
from seqrl.errors import UserError


def tiny_agent(environment):
    config = ppo.Config(env="seqrl/Bandit-v0", hidden_size=8, previous_action=True, previous_reward=True)
    return ppo.build(config, environment.single_observation_space, environment.single_action_space).eval()


def oracle(environment):
    """Plays what the environment says is best for who knows the task."""
    return Scripted(environment.single_action_space, lambda inputs, generator: environment._env.optimal_action())


# Break: `manual_seed(seed)` in trial_returns: the first random pull is then of the best arm, since the numbers that
# choose it are those that the arms' means are made of (0.82).
def test_the_first_actions_are_drawn_by_other_numbers_than_the_tasks():
    environment = make("seqrl/Bandit-v0", 2000)
    returns = trial_returns(random_policy(environment.single_action_space), environment, 2000, seed=3)
    assert returns[:, 0].mean() == pytest.approx(0.5, abs=0.05)


# Break: `reset(seed)` without a seed, or references with a seed of their own.
def test_all_policies_play_the_same_tasks_in_rounds():
    """A room's optimal return is 21 less the goal's distance, so that equal returns show equal tasks."""
    environment = make("seqrl/DarkRoom-v0", 6, env_kwargs={"num_episodes": 2, "goals": "held_out"})
    agent = tiny_agent(environment)
    references = {OPTIMAL: oracle(environment), "the same": oracle(environment)}
    found = adapt(agent, environment, 15, references=references)
    assert found.returns[OPTIMAL].shape == (15, 2)
    assert np.array_equal(found.returns[OPTIMAL], found.returns["the same"])
    assert (found.returns[OPTIMAL][:, 0] == found.returns[OPTIMAL][:, 1]).all()
    rounds = found.returns[OPTIMAL][:12, 0].reshape(2, 6)
    assert not np.array_equal(rounds[0], rounds[1])  # the second round has other tasks
    again = adapt(agent, environment, 15)
    assert np.array_equal(again.returns[AGENT], found.returns[AGENT])
    assert again.digest == found.digest
    assert not np.array_equal(adapt(agent, environment, 15, seed=1).returns[AGENT], found.returns[AGENT])


# Break: an unpaired interval, ddof=0 or 1.96 for Student's quantile.
def test_figures_against_those_by_hand():
    agent = np.array([[0.0, 2.0, 4.0], [1.0, 2.0, 6.0], [2.0, 5.0, 5.0]])
    best = np.array([[5.0, 5.0, 5.0], [6.0, 6.0, 6.0], [4.0, 4.0, 4.0]])
    found = Adaptation(returns={AGENT: agent, OPTIMAL: best}, digest="")
    quantile = student.ppf(0.975, 2)
    assert found.total(AGENT).tolist() == [6.0, 9.0, 12.0]
    assert found.regret(AGENT) == pytest.approx((6.0, quantile * math.sqrt((9 + 9 + 36) / 2) / math.sqrt(3)))
    assert found.difference(AGENT, OPTIMAL)[0] == -6.0
    assert found.share_of_optimal(AGENT) == pytest.approx(27 / 45)
    assert found.gain() == pytest.approx((4.0, quantile * 1 / math.sqrt(3)))
    mean, half_width = found.curve(AGENT)
    assert mean.tolist() == [1.0, 3.0, 5.0]
    assert half_width == pytest.approx([quantile * 1 / math.sqrt(3), quantile, quantile * 1 / math.sqrt(3)])
    alone = Adaptation(returns={AGENT: agent[:1]}, digest="")
    assert alone.regret(AGENT) is None
    assert alone.share_of_optimal(AGENT) is None
    assert math.isnan(alone.gain()[1])


def test_trials_of_unequal_length_end_where_they_end():
    rows = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 1.0, 1.0, 5.0]])
    found = Adaptation(returns={AGENT: rows}, digest="")
    assert found.total(AGENT).tolist() == [6.0, 8.0]
    assert found.last(AGENT).tolist() == [3.0, 5.0]
    assert found.curve(AGENT)[0].tolist() == [1.0, 1.5, 2.0, 5.0]
    twenty = Adaptation(returns={AGENT: np.arange(20.0)[None]}, digest="")
    assert (twenty.num_last, twenty.last(AGENT).tolist()) == (2, [18.5])


# Break: a window that begins one later; or edges that are padded.
def test_running_means():
    rows = np.array([[0.0, 3.0, 6.0, 0.0, np.nan]])
    expected = np.array([[1.5, 3.0, 3.0, 3.0, np.nan]])
    assert np.array_equal(running_mean(rows, 3), expected, equal_nan=True)
    assert np.array_equal(running_mean(rows, 1), rows, equal_nan=True)


# Break: leave out the tensors' bytes in weights_digest, or the check in adapt.
def test_the_digest_tells_of_changed_weights():
    environment = make("seqrl/Bandit-v0", 4)
    agent = tiny_agent(environment)
    before = weights_digest(agent)
    assert before == weights_digest(tiny_agent(environment))
    weight = next(agent.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1e-6
    assert weights_digest(agent) != before
    plain = torch.nn.ParameterList([torch.zeros(2, 3)])
    turned = torch.nn.ParameterList([torch.zeros(3, 2)])
    half = torch.nn.ParameterList([torch.zeros(2, 3, dtype=torch.bfloat16)])
    assert len({weights_digest(module) for module in (plain, turned, half)}) == 3

    def learn(*_):
        weight.data.add_(0.01)

    unroll = agent.unroll
    agent.unroll = lambda inputs, state: (learn(), unroll(inputs, state))[1]
    with pytest.raises(UserError, match="weights changed while it played"):
        adapt(agent, environment, 4)
