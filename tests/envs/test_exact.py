"""The exact returns, against brute force and against simulation in the environments themselves."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.envs import MaskedCartPole, RepeatPrevious, Tiger, TMaze
from seqrl.envs.exact import (
    memoryless_return,
    optimal_return,
    tiger_memoryless_return,
    tiger_optimal_return,
    tiger_plan,
    tiger_policy_return,
)
from seqrl.envs.tiger import HEAR_LEFT, HEAR_RIGHT, LISTEN, OPEN_LEFT, OPEN_RIGHT


def assert_mean(returns, expected):
    standard_error = returns.std() / len(returns) ** 0.5
    assert abs(returns.mean() - expected) < 4 * standard_error


def tiger_tree(horizon: int, left: float = 0.5) -> float:
    """The best return from belief `left`, over the whole tree of beliefs: Bayes' rule and nothing about counts."""
    if horizon == 0:
        return 0.0
    again = tiger_tree(horizon - 1)
    best = max(-100 * left + 10 * (1 - left), 10 * left - 100 * (1 - left)) + again
    hear_left = 0.85 * left + 0.15 * (1 - left)
    listen = -1 + hear_left * tiger_tree(horizon - 1, 0.85 * left / hear_left)
    listen += (1 - hear_left) * tiger_tree(horizon - 1, 0.15 * left / (1 - hear_left))
    return max(best, listen)


@pytest.mark.parametrize("horizon", range(1, 9))
def test_tiger_plan_equals_the_belief_tree(horizon):
    # Broken by `again = p`: the chance to hear left again if the tiger were known to be there.
    assert tiger_optimal_return(horizon) == pytest.approx(tiger_tree(horizon), abs=1e-9)


def test_tiger_by_hand():
    # Two decisions: listen twice. Three: listen twice and open on two alike, worth 10 − 110 (1 − b(2)), else listen.
    alike = 0.85**2 + 0.15**2
    wrong = 0.15**2 / alike
    assert tiger_optimal_return(2) == -2
    assert tiger_optimal_return(3) == pytest.approx(-2 + alike * (10 - 110 * wrong) + (1 - alike) * -1)


def test_tiger_plan_attains_its_value():
    horizon, num_envs = 20, 20_000
    value, opens = tiger_plan(horizon)
    opens = torch.tensor(opens)
    env = Tiger(num_envs, horizon=horizon)
    env.reset(seed=0)
    evidence, total = torch.zeros(num_envs, dtype=torch.int64), torch.zeros(num_envs)
    for t in range(horizon):
        door = torch.where(evidence > 0, OPEN_RIGHT, OPEN_LEFT)
        action = torch.where(opens[horizon - t, evidence.abs()], door, LISTEN)
        heard, reward, *_ = env.step(action)
        total += reward
        evidence = (evidence + (heard == HEAR_LEFT).long() - (heard == HEAR_RIGHT).long()) * (action == LISTEN)
    assert_mean(total, value)


def test_tiger_policy_return_is_what_simulation_gives():
    policy = torch.tensor([[0.5, 0.1, 0.4], [0.3, 0.6, 0.1], [0.8, 0.1, 0.1]])
    env = Tiger(20_000, horizon=6)
    observation, _ = env.reset(seed=0)
    total = torch.zeros(20_000)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        action = torch.multinomial(policy[observation], 1, generator=generator)[:, 0]
        observation, reward, *_ = env.step(action)
        total += reward
    assert_mean(total, tiger_policy_return(policy.tolist(), 6))


def test_tiger_without_memory_listens():
    assert [tiger_memoryless_return(horizon) for horizon in (1, 5, 20)] == [-1, -5, -20]
    # No stochastic policy that we tried does better, near to always listening or far from it.
    draw = np.random.default_rng(0)
    for concentration in ([1, 1, 1], [50, 1, 1], [5, 0.1, 0.1]):
        for _ in range(100):
            assert tiger_policy_return(draw.dirichlet(concentration, 3).tolist(), 20) < -20


def tmaze_memoryless_returns(active: bool) -> torch.Tensor:
    """The exact return of every deterministic policy of the current observation: the mean over both cues."""
    env = TMaze(64, length=2, active=active)
    seen = [env.reset(seed=0)[0]] + [env.step(torch.randint(4, (64,)))[0] for _ in range(100)]
    kinds = torch.cat(seen).unique(dim=0)
    policy = torch.tensor(list(product(range(4), repeat=len(kinds)))).repeat_interleave(2, 0)
    env = TMaze(len(policy), length=2, active=active)
    env.reset(seed=0)
    env.state["cue"] = torch.tensor([1, -1]).repeat(len(policy) // 2)
    observation, total = env._observe(env.state), torch.zeros(env.num_envs)
    running = torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(8):
        kind = (observation[:, None] == kinds).all(2).int().argmax(1)
        observation, reward, terminated, _, _ = env.step(policy.gather(1, kind[:, None])[:, 0])
        total += reward * running
        running &= ~terminated
    assert not running.any()
    return total.view(-1, 2).mean(1)


@pytest.mark.parametrize("active", [False, True])
def test_tmaze_without_memory_gets_a_half(active):
    # Broken by showing the cue at the junction too.
    returns = tmaze_memoryless_returns(active)
    assert returns.max().item() == memoryless_return("seqrl/TMaze-v0", active=active) == 0.5
    assert returns.min() <= -0.5


@pytest.mark.parametrize("num_symbols", [2, 4])
def test_repeat_previous_without_memory(num_symbols):
    env = RepeatPrevious(5000, num_symbols=num_symbols)
    observation, _ = env.reset(seed=0)
    total = torch.zeros(5000)
    for _ in range(52):
        observation, reward, *_ = env.step((observation + 1) % num_symbols)
        total += reward
    assert_mean(total, memoryless_return(env))


def test_cartpole_can_be_balanced_from_positions_alone():
    env = MaskedCartPole(64)
    observation, _ = env.reset(seed=0)
    last = observation
    for _ in range(500):
        x, theta = observation.unbind(1)
        x_dot, theta_dot = ((observation - last) / 0.02).unbind(1)
        action = (theta + 0.2 * theta_dot + 0.05 * x + 0.1 * x_dot > 0).long()
        last = observation
        observation, _, terminated, truncated, _ = env.step(action)
        assert not terminated.any()
    assert truncated.all()
    assert optimal_return(env) == 500


def test_dispatch():
    assert optimal_return("seqrl/TMaze-v0", length=30) == 1
    assert optimal_return("seqrl/RepeatPrevious-v0") == 1
    assert optimal_return("seqrl/KeyToDoor-v0") == memoryless_return("seqrl/KeyToDoor-v0") == 1
    assert optimal_return("seqrl/Tiger-v0", horizon=2) == -2
    assert optimal_return(gym.make("seqrl/Tiger-v0", horizon=2)) == -2
    assert optimal_return(gym.make_vec("seqrl/Tiger-v0", num_envs=3, horizon=2)) == -2
    assert memoryless_return(gym.make("seqrl/Tiger-v0", horizon=2)) == -2
    assert optimal_return("seqrl/MaskedCartPole-v0") == optimal_return(gym.make("seqrl/MaskedCartPole-v0")) == 500
    for unknown in ("seqrl/MaskedPendulum-v0", "CartPole-v1", gym.make("CartPole-v1")):
        assert optimal_return(unknown) is None
        assert memoryless_return(unknown) is None
