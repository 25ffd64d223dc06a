"""The environments of seqrl.envs: their dynamics and their episodes."""

from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from seqrl.envs import (
    KeyToDoor,
    MaskedCartPole,
    MaskedMountainCarContinuous,
    MaskedPendulum,
    RepeatPrevious,
    Tiger,
    TMaze,
)
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.tiger import LISTEN, NOTHING, OPEN_LEFT, OPEN_RIGHT
from seqrl.envs.tmaze import DOWN, LEFT, RIGHT, UP


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def constant(env: TorchVectorEnv, action: int) -> Tensor:
    return torch.full((env.num_envs,), action)


# ---------------------------------------------------------------------------------------------- against Gymnasium


def episodes_against_gymnasium(env, gym_id, state_of, policy, num_steps, state_tolerance):
    """Step `env` and a Gymnasium environment per row from the same states; compare until each row's episode ends."""
    env.reset(seed=0)
    peers = [gym.make(gym_id).unwrapped for _ in range(env.num_envs)]
    for peer, start in zip(peers, state_of(env), strict=True):
        peer.reset()
        peer.state = start.numpy().copy()
    going = np.ones(env.num_envs, bool)
    num_terminated = 0
    for t in range(num_steps):
        action = policy(env, t)
        _, reward, terminated, _, _ = env.step(action)
        for b in np.flatnonzero(going):
            _, peer_reward, peer_terminated, _, _ = peers[b].step(action[b].numpy())
            np.testing.assert_allclose(state_of(env)[b], peers[b].state, rtol=0, atol=state_tolerance)
            np.testing.assert_allclose(reward[b], peer_reward, rtol=1e-6, atol=1e-6)
            assert bool(terminated[b]) == peer_terminated
        num_terminated += int((going & terminated.numpy()).sum())
        going &= ~terminated.numpy()
    return num_terminated


def test_cartpole_is_gymnasiums():
    # Broken by updating x with the new velocity: semi-implicit instead of explicit Euler.
    actions = torch.randint(2, (500, 16), generator=torch.Generator().manual_seed(1))
    num_terminated = episodes_against_gymnasium(
        MaskedCartPole(16), "CartPole-v1", lambda env: env.state["cart"], lambda env, t: actions[t], 500, 1e-12
    )
    assert num_terminated == 16


def test_pendulum_is_gymnasiums():
    # Broken by moving θ with the old velocity.
    actions = 6 * torch.rand(200, 8, 1, generator=torch.Generator().manual_seed(1)) - 3  # some beyond the clip
    episodes_against_gymnasium(
        MaskedPendulum(8), "Pendulum-v1", lambda env: env.state["pendulum"], lambda env, t: actions[t], 200, 1e-12
    )


def test_mountain_car_is_gymnasiums():
    # Broken by leaving out that the left wall stops the car. The state is float32, rounded in another order.
    scale = 2 * torch.rand(8, generator=torch.Generator().manual_seed(1))

    def along_velocity(env, t):
        return (torch.where(env.state["velocity"] >= 0, 1.0, -1.0) * scale)[:, None]

    num_terminated = episodes_against_gymnasium(
        MaskedMountainCarContinuous(8),
        "MountainCarContinuous-v0",
        lambda env: torch.stack([env.state["position"], env.state["velocity"]], 1),
        along_velocity,
        400,
        1e-4,
    )
    assert num_terminated >= 4


@pytest.mark.parametrize(("env_id", "kept"), [("CartPole-v1", [0, 2]), ("Pendulum-v1", [0, 1])])
def test_observation_is_gymnasiums_masked(env_id, kept):
    name = "cart" if env_id == "CartPole-v1" else "pendulum"
    env = MaskedCartPole(1) if name == "cart" else MaskedPendulum(1)
    observation, _ = env.reset(seed=3)
    peer = gym.make(env_id).unwrapped
    peer.reset()
    peer.state = env.state[name][0].numpy()
    full = peer.state if name == "cart" else peer._get_obs()
    np.testing.assert_array_equal(observation[0], np.float32(full)[kept])


def test_start_ranges():
    cart, pendulum, car = MaskedCartPole(4096), MaskedPendulum(4096), MaskedMountainCarContinuous(4096)
    for env in (cart, pendulum, car):
        env.reset(seed=0)
    for values, high in [
        (cart.state["cart"], 0.05),
        (pendulum.state["pendulum"][:, 0], np.pi),
        (pendulum.state["pendulum"][:, 1], 1.0),
        (car.state["position"] + 0.5, 0.1),
    ]:
        assert 0.98 * high < values.max() <= high
        assert -high <= values.min() < -0.98 * high
    assert not car.state["velocity"].any()


def test_time_limit_truncates():
    # Broken by `steps > limit`.
    env = MaskedPendulum(3)
    env.reset(seed=0)
    flags = [env.step(torch.zeros(3, 1))[2:4] for _ in range(402)]
    truncated = torch.stack([f[1] for f in flags])
    assert truncated.all(1).nonzero().flatten().tolist() == [199, 400]  # row 200 begins the second episode
    assert not torch.stack([f[0] for f in flags]).any()


# ------------------------------------------------------------------------------------------------------- TMaze


def run_tmaze(env: TMaze, actions: list[int], turn: Tensor) -> Tensor:
    """Undiscounted returns of the fixed `actions`, then `turn`, which must end the episode."""
    total = torch.zeros(env.num_envs)
    for action in actions:
        _, reward, terminated, _, _ = env.step(constant(env, action))
        assert not terminated.any()
        total += reward
    _, reward, terminated, _, _ = env.step(turn)
    assert terminated.all()
    return total + reward


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("length", [1, 10, 1000])
def test_tmaze_optimal_policy_gets_1_and_its_opposite_0(length, active):
    # Broken by `x < state["x"]` for a step on the way.
    env = TMaze(16, length=length, active=active)
    for up, down, expected in [(UP, DOWN, 1.0), (DOWN, UP, 0.0)]:
        observation, _ = env.reset(seed=0)
        if active:
            assert not observation[:, 0].any()
            observation, reward, *_ = env.step(constant(env, LEFT))
            assert not reward.any()
        cue = observation[:, 0]
        assert set(cue.tolist()) == {-1.0, 1.0}
        returns = run_tmaze(env, [RIGHT] * (length + active), torch.where(cue > 0, up, down))
        assert returns.eq(expected).all()


def test_tmaze_observations():
    env = TMaze(8, length=2)
    observation, _ = env.reset(seed=0)
    assert observation[:, 0].abs().eq(1).all()
    assert observation[:, 1:].tolist() == [[1, 0]] * 8
    seen = [env.step(constant(env, action))[0][0].tolist() for action in (LEFT, RIGHT)]
    assert seen == [[0, 1, 0], [0, 0, 0]]  # back at the oracle, the cue is gone
    env.reset()
    assert [env.step(constant(env, RIGHT))[0][0].tolist() for _ in range(2)] == [[0, 0, 0], [0, 0, 1]]


def test_tmaze_penalty_by_hand():
    # length 4: staying costs 1/4 in each of the ten decisions; the clock ends the tenth.
    env = TMaze(2, length=4)
    env.reset(seed=0)
    steps = [env.step(constant(env, UP)) for _ in range(10)]
    assert [s[1][0].item() for s in steps] == [-0.25] * 10
    assert [s[2][0].item() for s in steps] == [False] * 9 + [True]
    # Active: to the left costs nothing until the oracle is seen; each step lost later is charged for itself.
    env = TMaze(2, length=3, active=True)
    env.reset(seed=0)
    rewards = [env.step(constant(env, a))[1][0].item() for a in (LEFT, RIGHT, UP, LEFT, RIGHT, RIGHT)]
    np.testing.assert_allclose(rewards, [0, 0, -1 / 3, -1 / 3, 0, 0])
    # At the junction, a step to the right leads nowhere.
    env = TMaze(2, length=1)
    env.reset(seed=0)
    assert [env.step(constant(env, RIGHT))[1][0].item() for _ in range(2)] == [0, -1]


# ------------------------------------------------------------------------------------------ the other memory tasks


@pytest.mark.parametrize(("k", "num_symbols", "episode_length"), [(1, 2, 3), (4, 4, 52), (64, 5, 100)])
def test_repeat_previous_perfect_memory_gets_1(k, num_symbols, episode_length):
    # Broken by comparing with `recent[:, 1]`: the symbol of k − 1 steps ago.
    env = RepeatPrevious(32, k=k, num_symbols=num_symbols, episode_length=episode_length)
    observation, _ = env.reset(seed=0)
    memory = deque([observation] * (k + 1), maxlen=k + 1)
    total = torch.zeros(32)
    for t in range(episode_length):
        observation, reward, terminated, _, _ = env.step(memory[0])
        memory.append(observation)
        assert t >= k or not reward.any()
        assert terminated.all() == terminated.any() == (t == episode_length - 1)
        total += reward
    torch.testing.assert_close(total, torch.ones(32))


def test_tiger_hears_right_85_times_in_100():
    # Broken by drawing what is heard from the tiger placed anew.
    env = Tiger(50_000, horizon=3)
    observation, _ = env.reset(seed=0)
    assert observation.eq(NOTHING).all()
    heard, reward, _, _, _ = env.step(constant(env, LISTEN))
    assert reward.eq(-1).all()
    assert abs((heard == env.state["tiger"]).float().mean() - 0.85) < 0.008  # five standard errors
    tiger = env.state["tiger"]
    observation, reward, terminated, _, _ = env.step(constant(env, OPEN_LEFT))
    assert torch.equal(reward, torch.where(tiger == 0, -100.0, 10.0))
    assert observation.eq(NOTHING).all()
    moved = (env.state["tiger"] != tiger).float().mean()
    assert abs(moved - 0.5) < 0.012
    assert not terminated.any()
    tiger = env.state["tiger"]
    _, reward, terminated, _, _ = env.step(constant(env, OPEN_RIGHT))
    assert torch.equal(reward, torch.where(tiger == 1, -100.0, 10.0))
    assert terminated.all()


def towards_target(observation: Tensor) -> Tensor:
    """Rows first, then columns; where the target is reached or out of sight, bump about."""
    row, column = (observation[:, 4:6] - observation[:, 6:8]).unbind(1)
    vertical = torch.where(row > 0, 0, 1)
    return torch.where(row != 0, vertical, torch.where(column > 0, 2, 3))


@pytest.mark.parametrize("sizes", [{}, {"room_size": 3, "room_steps": 2}])
def test_key_to_door_walker_gets_1(sizes):
    env = KeyToDoor(256, **sizes)
    observation, _ = env.reset(seed=0)
    total, running = torch.zeros(256), torch.ones(256, dtype=torch.bool)
    for t in range(3 * env.room_steps):
        room = t // env.room_steps
        assert observation[running, :3].eq(torch.eye(3)[room]).all()
        assert observation[running, 3].eq(room != 1).all()
        observation, reward, terminated, _, _ = env.step(towards_target(observation))
        total += reward * running
        running &= ~terminated
    assert total.eq(1).all()
    assert not running.any()


def test_key_to_door_gives_nothing_without_the_key():
    # Broken by rewarding `at_door` alone.
    env = KeyToDoor(256)
    observation, _ = env.reset(seed=0)
    took_key = torch.zeros(256, dtype=torch.bool)
    for t in range(3 * env.room_steps):
        in_key_room = t < env.room_steps
        action = constant(env, 0) if in_key_room else towards_target(observation)  # up and no further
        observation, reward, terminated, _, _ = env.step(action)
        took_key |= env.state["has_key"]
        assert torch.equal(reward > 0, terminated & took_key)
        if t > 2 * env.room_steps and terminated.any():
            break
    assert 0 < took_key.float().mean() < 0.2


def chance_to_hit(room_size: int, room_steps: int) -> float:
    """That a uniformly random walk from the centre comes upon a uniformly drawn other cell."""
    side, centre = range(room_size), room_size // 2
    hits = []
    for target in [(r, c) for r in side for c in side if (r, c) != (centre, centre)]:
        where = np.zeros((room_size, room_size))
        where[centre, centre] = 1
        hit = 0.0
        for _ in range(room_steps):
            edge = np.pad(where, 1, mode="edge")  # who bumps into a wall stays
            edge[[0, -1], [0, -1]] = 0
            where = (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]) / 4
            hit += where[target]
            where[target] = 0
        hits.append(hit)
    return float(np.mean(hits))


def test_key_to_door_random_policy_gets_3_percent():
    assert chance_to_hit(7, 15) ** 2 == pytest.approx(0.0315, abs=5e-5)  # as the docstring says
    env = KeyToDoor(20_000)
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(1)
    total, running = torch.zeros(20_000), torch.ones(20_000, dtype=torch.bool)
    for _ in range(45):
        _, reward, terminated, _, _ = env.step(torch.randint(4, (20_000,), generator=generator))
        total += reward * running
        running &= ~terminated
    assert total.mean().item() == pytest.approx(0.0315, abs=0.005)  # four standard errors
