"""The environments of seqrl.envs: their dynamics, their episodes, and the conformance check that they share."""

import warnings
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqrl.envs import (
    ENVIRONMENTS,
    KeyToDoor,
    MaskedCartPole,
    MaskedMountainCarContinuous,
    MaskedPendulum,
    RepeatPrevious,
    Tiger,
    TMaze,
    TrialVectorEnv,
)
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.tiger import LISTEN, NOTHING, OPEN_LEFT, OPEN_RIGHT
from seqrl.envs.tmaze import DOWN, LEFT, RIGHT, UP
from seqrl.errors import UserError
from seqrl.testing.environment import check_environment
from seqrl.trajectory import tree_leaves

IDS = list(ENVIRONMENTS)


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


# ------------------------------------------------------------------------------------------- the shared contract


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


# ------------------------------------------------------------------------------- check_environment catches mutants


class RewardOnReset(Tiger):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward - 1, *rest


class FlagsOnReset(Tiger):
    def step(self, action):
        starting = self.state["ended"]
        observation, reward, terminated, *rest = super().step(action)
        return observation, reward, terminated | starting, *rest


class ActsOnReset(TMaze):
    def step(self, action):
        starting = self.state["ended"]
        _, *rest = super().step(action)
        self.state["x"] = torch.where(starting & (action == RIGHT), 1, self.state["x"])
        return self._observe(self.state), *rest


class KeepsCounting(MaskedPendulum):
    def step(self, action):
        before = self.state["steps"]
        result = super().step(action)
        self.state["steps"] = before + 1
        return result


class GlobalDraws(RepeatPrevious):
    def _draw(self):
        return torch.randint(self.num_symbols, (self.num_envs, 1))


class ForgetsGenerator(RepeatPrevious):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"generator": self.generator.get_state()})


class Overwrites(TMaze):
    def _observe(self, state):
        observation = super()._observe(state)
        self.buffer = getattr(self, "buffer", torch.empty_like(observation))
        return self.buffer.copy_(observation)


class LendsItsState(RepeatPrevious):
    def _observe(self, state):
        return state["recent"][:, -1]


class Undefined(MaskedCartPole):
    def _observe(self, state):
        return super()._observe(state) / 0.0 * 0.0


class OutOfSpace(RepeatPrevious):
    def _observe(self, state):
        return super()._observe(state) + 1


class IntegerReward(Tiger):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward.long(), *rest


class SameStep(Tiger):
    metadata = Tiger.metadata | {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        (RewardOnReset, "reward is not 0"),
        (FlagsOnReset, "a flag is True"),
        (ActsOnReset, "was not ignored"),
        (KeepsCounting, "before max_episode_steps"),
        (GlobalDraws, "another trajectory"),
        (ForgetsGenerator, "bit for bit"),
        (Overwrites, "overwrote"),
        (LendsItsState, "writing into"),
        (Undefined, "NaN"),
        (OutOfSpace, "not in"),
        (IntegerReward, "not a float"),
        (SameStep, "next-step"),
    ],
)
def test_check_environment_catches(mutant, message):
    with pytest.raises(AssertionError, match=message):
        check_environment(mutant(4, max_episode_steps=60), num_steps=130)


def test_check_environment_wants_an_episode_to_end():
    with pytest.raises(AssertionError, match="larger num_steps"):
        check_environment(MaskedPendulum(2), num_steps=50)


def test_check_environment_takes_gymnasiums_own():
    check_environment(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"), num_steps=100)
