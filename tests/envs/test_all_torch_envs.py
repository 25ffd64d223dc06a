"""What all environments of seqrl.envs share: their contract, their state, and each as a single environment."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from test_torch_envs import one_thread  # noqa: F401  for all tests here
from torch.utils._python_dispatch import TorchDispatchMode

from seqrl.envs import (
    ENVIRONMENTS,
    KeyToDoor,
    MaskedCartPole,
    MaskedPendulum,
    RepeatPrevious,
    Tiger,
    TMaze,
    TrialVectorEnv,
)
from seqrl.errors import UserError
from seqrl.testing.environment import check_environment
from seqrl.trajectory import tree_leaves

IDS = list(ENVIRONMENTS)


@pytest.mark.parametrize("env_id", IDS)
def test_conformance(env_id):
    kwargs = {"max_episode_steps": 30} if "Masked" in env_id else {}
    if issubclass(ENVIRONMENTS[env_id], TrialVectorEnv):
        kwargs = {"num_episodes": 2}
    check_environment(gym.make_vec(env_id, num_envs=3, **kwargs), num_steps=120)


@pytest.mark.parametrize("env_id", IDS)
def test_state_dict_restores_a_fresh_instance(env_id):
    env, other = (gym.make_vec(env_id, num_envs=5) for _ in range(2))
    env.reset(seed=0)
    other.reset(seed=1)
    actions = [env.action_space.sample() for _ in range(60)]
    for action in actions:
        env.step(action)
    other.load_state_dict(env.state_dict())
    for action in actions:
        for left, right in zip(tree_leaves(env.step(action)[:4]), tree_leaves(other.step(action)[:4]), strict=True):
            assert torch.equal(left, right)


class NoHostSync(TorchDispatchMode):
    """Fails on operators that read values back to the host or whose shapes depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("env_id", IDS)
def test_step_never_reads_a_value_back(env_id):
    env = gym.make_vec(env_id, num_envs=4)
    env.draws_only_at_starts = False  # as on a GPU, where it is not looked at
    env.reset(seed=0)
    action = torch.as_tensor(env.action_space.sample())
    with NoHostSync():
        for _ in range(60):
            env.step(action)


def test_gradients_do_not_enter_the_state():
    env = MaskedPendulum(2)
    env.reset(seed=0)
    observation, reward, *_ = env.step(torch.zeros(2, 1, requires_grad=True))
    assert not observation.requires_grad
    assert not reward.requires_grad


@pytest.mark.parametrize("env_id", IDS)
def test_single_environment_passes_gymnasiums_checker(env_id):
    env = gym.make(env_id, disable_env_checker=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    # Pendulum's action space is [−2, 2] by definition; that is the one thing the checker remarks on.
    assert all("symmetric and normalized" in str(warning.message) for warning in caught)
    assert not caught or env_id == "seqrl/MaskedPendulum-v0"


def test_registration():
    assert gym.make("seqrl/TMaze-v0", length=30).unwrapped.batch.length == 30
    batch = gym.make_vec("seqrl/TMaze-v0", num_envs=8, length=7)
    assert isinstance(batch, TMaze)
    assert (batch.num_envs, batch.length) == (8, 7)
    assert gym.make_vec("seqrl/MaskedCartPole-v0", num_envs=2, max_episode_steps=9).max_episode_steps == 9
    for env_id, env_class in ENVIRONMENTS.items():
        assert gym.make_vec(env_id).max_episode_steps == env_class().max_episode_steps
        sync = gym.make_vec(env_id, num_envs=2, vectorization_mode="sync")
        observation, _ = sync.reset(seed=0)
        for _ in range(60):
            observation = sync.step(sync.action_space.sample())[0]
        assert sync.observation_space.contains(observation)


def test_single_environment_is_a_batch_of_one():
    single, batch = gym.make("seqrl/MaskedCartPole-v0"), MaskedCartPole(1)
    first, _ = single.reset(seed=5)
    np.testing.assert_array_equal(first, batch.reset(seed=5)[0][0])
    for action in [0, 1, 1, 0, 1]:
        observation, reward, terminated, _, _ = single.step(np.int64(action))
        expected = batch.step(torch.tensor([action]))
        np.testing.assert_array_equal(observation, expected[0][0])
        assert (reward, terminated) == (1.0, False)
        assert type(reward) is float


def test_single_environment_is_truncated_by_gymnasium():
    env = gym.make("seqrl/MaskedPendulum-v0", max_episode_steps=250)
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(250)] == [False] * 249 + [True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TMaze(length=0), "length=0"),
        (lambda: TMaze(num_envs=0), "num_envs=0"),
        (lambda: MaskedCartPole(max_episode_steps=0), "max_episode_steps=0"),
        (lambda: RepeatPrevious(k=0), "k=0"),
        (lambda: RepeatPrevious(num_symbols=1), "num_symbols=1"),
        (lambda: RepeatPrevious(k=9, episode_length=9), "episode_length=9.*more than k=9"),
        (lambda: Tiger(horizon=0), "horizon=0"),
        (lambda: KeyToDoor(room_size=1), "room_size=1"),
        (lambda: KeyToDoor(room_size=4), "room_size=4.*odd"),
        (lambda: KeyToDoor(room_size=7, room_steps=5), "room_steps=5.*6"),
        (lambda: TMaze().step(torch.zeros(1, dtype=torch.int64)), "reset"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_single_environment_refuses_a_step_after_the_end():
    env = gym.make("seqrl/Tiger-v0", horizon=1)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(UserError, match="reset"):
        env.step(0)
