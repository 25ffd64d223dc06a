"""The rows that the adapters give, against tables written by hand."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from seqrl.envs.adapters import GymnasiumEnvironment, TorchEnvironment
from seqrl.envs.base import TorchVectorEnv
from seqrl.errors import UserError
from seqrl.trajectory import tree_leaves

LENGTHS = (2, 3)
HOW = {"terminated": (True, False), "truncated": (False, True), "both": (True, True)}

# A row of a table: episode and step of the observation, reward, ended, is_first, mask, final episode and step.
F, T = False, True
NEXT_STEP = [
    [(0, 0, 0, F, T, T), (0, 1, 1, F, F, T), (0, 2, 2, T, F, F), (1, 0, 0, F, T, T), (1, 1, 11, F, F, T)],
    [(0, 0, 0, F, T, T), (0, 1, 1, F, F, T), (0, 2, 2, F, F, T), (0, 3, 3, T, F, F), (1, 0, 0, F, T, T)],
]
SAME_STEP = [
    [
        (0, 0, 0, F, T, T),
        (0, 1, 1, F, F, T, 0, 1),
        (1, 0, 2, T, T, T, 0, 2),
        (1, 1, 11, F, F, T, 1, 1),
        (2, 0, 12, T, T, T, 1, 2),
    ],
    [
        (0, 0, 0, F, T, T),
        (0, 1, 1, F, F, T, 0, 1),
        (0, 2, 2, F, F, T, 0, 2),
        (1, 0, 3, T, T, T, 0, 3),
        (1, 1, 11, F, F, T, 1, 1),
    ],
]
TABLES = {AutoresetMode.NEXT_STEP: NEXT_STEP, AutoresetMode.SAME_STEP: SAME_STEP, AutoresetMode.DISABLED: SAME_STEP}


class Clock(gym.Env):
    """Observes (episode, step); its reward is 10 * episode + step; an episode has `length` steps."""

    observation_space: spaces.Space = spaces.Box(0, np.inf, (2,), np.float64)
    action_space: spaces.Space = spaces.Discrete(3)

    def __init__(self, length=3, how="terminated"):
        self.length, self.how = length, how

    def reset(self, *, seed=None, options=None):
        self.episode = 0 if seed is not None else getattr(self, "episode", -1) + 1
        self.time = 0
        return self.observe(), self.info()

    def step(self, action):
        self.action = action
        self.time += 1
        terminated, truncated = HOW[self.how] if self.time == self.length else (False, False)
        return self.observe(), 10.0 * self.episode + self.time, terminated, truncated, self.info()

    def observe(self):
        return np.array([self.episode, self.time], np.float64)

    def info(self):
        return {}


class Nested(Clock):
    """The clock in a tree that has a leaf of every kind."""

    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (2, 2, 1), np.uint8),
        parts=spaces.Tuple([spaces.Discrete(9, start=5), spaces.Box(-1e300, 1e300, (1,), np.float64)]),
        counts=spaces.MultiDiscrete([9, 9], start=[1, 2]),
        lit=spaces.MultiBinary(2),
        small=spaces.Box(-9, 9, (1,), np.int8),
        on=spaces.Box(0, 1, (1,), np.bool_),
    )

    def observe(self):
        return {
            "image": np.full((2, 2, 1), 200 + self.time, np.uint8),
            "parts": (np.int64(5 + self.time), np.array([self.episode + 0.5])),
            "counts": np.array([1 + self.episode, 2 + self.time]),
            "lit": np.array([1, 0], np.int8),
            "small": np.array([-self.time], np.int8),
            "on": np.array([True]),
        }


class InfoMask(Clock):
    """Allows the action `time`, and nothing at the end."""

    def info(self):
        return {"action_mask": np.arange(3, dtype=np.int8) == (self.time if self.time < self.length else -1)}


class DictMask(InfoMask):
    observation_space = spaces.Dict(
        clock=spaces.Box(0, np.inf, (2,), np.float64), action_mask=spaces.Box(0, 1, (3,), np.int8)
    )

    def observe(self):
        return {"clock": super().observe(), "action_mask": self.info()["action_mask"].astype(np.int8)}


class Broken(Clock):
    """Gives `bad` in the observation or as the reward of the second step."""

    def __init__(self, what, bad, length=3):
        super().__init__(length)
        self.what, self.bad = what, bad

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.time == 2 and self.what == "observation":
            observation[1] = self.bad
        return observation, self.bad if self.time == 2 and self.what == "reward" else reward, *rest


class Batched(VectorEnv):
    """A vector environment that is no vector of environments: its info holds one batched `final_obs`, rewards go on."""

    def __init__(self, mode, give_final=True):
        self.num_envs, self.metadata, self.give_final = 2, {"autoreset_mode": mode}, give_final
        self.single_observation_space = spaces.Dict(x=spaces.Box(0, 9, (1,)))
        self.single_action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"x": np.zeros((2, 1), np.float32)}, {}

    def step(self, actions):
        info = {"final_obs": {"x": np.array([[7], [8]], np.float32)}} if self.give_final else {}
        ended = np.array([True, False])
        return {"x": np.array([[1], [2]], np.float32)}, np.array([5, 5]), ended, np.zeros(2, bool), info


class TorchClock(TorchVectorEnv):
    """The clock as a batch of tensors, its rows as long as LENGTHS."""

    def __init__(self):
        super().__init__(spaces.Box(0, np.inf, (2,)), spaces.Discrete(3), 2, "cpu", None)

    def reset(self, *, seed=None, options=None):
        self.state = {}
        return super().reset(seed=seed, options=options)

    def _start(self):
        episode = self.state["episode"] + 1 if self.state else torch.zeros(2)
        return {"episode": episode, "time": torch.zeros(2)}

    def _transition(self, state, action):
        time = state["time"] + 1
        return state | {"time": time}, 10 * state["episode"] + time, time == torch.tensor(LENGTHS)

    def _observe(self, state):
        return torch.stack([state["episode"], state["time"]], 1)


def vectorize(make, mode=AutoresetMode.NEXT_STEP, vector=SyncVectorEnv, **options):
    return vector([functools.partial(make, length=n) for n in LENGTHS], autoreset_mode=mode, **options)


def run(env, num_steps):
    """The time steps of `num_steps` steps from a reset with seed 0."""
    action = torch.zeros(env.num_envs, *env.single_action_space.shape, dtype=torch.int64)
    return [env.reset(seed=0)] + [env.step(action) for _ in range(num_steps)]


def rows(steps, row):
    """The time steps of one row, as a table holds them."""
    table = []
    for step in steps:
        ended = bool(step.terminated[row] or step.truncated[row])
        cells = (*step.observation[row].tolist(), step.reward[row].item(), ended)
        final = () if step.final_observation is None else tuple(step.final_observation[row].tolist())
        table.append((*cells, step.is_first[row].item(), step.mask[row].item(), *final))
    return table


CASES = [(mode, SyncVectorEnv, how) for mode in AutoresetMode for how in HOW]
CASES += [(mode, AsyncVectorEnv, "both") for mode in AutoresetMode]


# Must break: in GymnasiumEnvironment.step, `is_first, mask = was_ended, ~self._ended` with `self._ended` for both.
@pytest.mark.parametrize(("mode", "vector", "how"), CASES)
def test_rows_of_every_autoreset_mode(mode, vector, how):
    env = GymnasiumEnvironment(vectorize(functools.partial(Clock, how=how), mode, vector))
    steps = run(env, 4)
    env.close()
    env.close()
    for row in range(2):
        assert rows(steps, row) == TABLES[mode][row]
        for step in steps:
            flags = (step.terminated[row].item(), step.truncated[row].item())
            assert flags == (HOW[how] if any(flags) else (False, False))
    assert all(leaf.dtype == torch.float32 for leaf in (steps[1].observation, steps[1].reward))


# Must break: in TorchEnvironment.step, `~self._ended` turned to `~is_first`.
def test_rows_of_a_torch_environment():
    steps = run(TorchEnvironment(TorchClock()), 4)
    assert [rows(steps, row) for row in range(2)] == NEXT_STEP


def test_torch_environment_goes_on_from_its_state():
    env, action = TorchEnvironment(TorchClock()), torch.zeros(2, dtype=torch.int64)
    run(env, 2)  # row 0 has just ended, so the flags matter
    state = env.state_dict()
    expected = [env.step(action) for _ in range(3)]
    restored = TorchEnvironment(TorchClock())
    restored.load_state_dict(state)
    torch.testing.assert_close([restored.step(action)[:6] for _ in range(3)], [step[:6] for step in expected])
    assert expected[0].is_first.tolist() == [True, False]


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
def test_nested_observations(vector):
    env = GymnasiumEnvironment(vectorize(Nested, AutoresetMode.SAME_STEP, vector))
    step = run(env, 2)[-1]  # row 0 ends, at time 2
    env.close()
    assert {key: leaf.dtype for key, leaf in step.observation.items() if key != "parts"} == {
        "image": torch.uint8,
        "counts": torch.int64,
        "lit": torch.bool,
        "small": torch.int64,
        "on": torch.bool,
    }
    assert [leaf.dtype for leaf in step.observation["parts"]] == [torch.int64, torch.float32]
    for observation, counts in ((step.observation, [[1, 0], [0, 2]]), (step.final_observation, [[0, 2], [0, 2]])):
        assert observation["counts"].tolist() == counts  # counted from 0, which the environment does not
        assert observation["parts"][0].tolist() == [time for _, time in counts]
        assert observation["parts"][1].tolist() == [[episode + 0.5] for episode, _ in counts]
        assert observation["image"].flatten(1).tolist() == [[200 + time] * 4 for _, time in counts]
        assert observation["small"].tolist() == [[-time] for _, time in counts]
        for row in range(2):
            shown = numpy_row(observation, row)  # tensors count from 0, the space from its start
            shown["counts"] = shown["counts"] + env.single_observation_space["counts"].start
            shown["parts"] = (shown["parts"][0] + env.single_observation_space["parts"][0].start, shown["parts"][1])
            assert env.single_observation_space.contains(shown)


def numpy_row(tree, row):
    """One row of an observation in the types that its space wants."""
    if isinstance(tree, dict):
        return {
            key: numpy_row(value, row).astype(np.int8) if key == "lit" else numpy_row(value, row)
            for key, value in tree.items()
        }
    return tuple(numpy_row(value, row) for value in tree) if isinstance(tree, tuple) else tree[row].numpy()


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Discrete(3, start=-1), [0, 2], [-1, 1]),
        (spaces.MultiDiscrete([3, 4], start=[0, 5]), [[0, 1], [2, 3]], [[0, 6], [2, 8]]),
        (spaces.MultiBinary(2), [[True, False], [True, True]], [[1, 0], [1, 1]]),
        (spaces.Box(-9, 9, (1, 2), np.float64), [[[0.5, -2]], [[8, 1]]], [[[0.5, -2]], [[8, 1]]]),
    ],
)
def test_actions_reach_the_environment_in_its_own_terms(space, action, expected):
    vector_env = vectorize(type("Acted", (Clock,), {"action_space": space}))
    env = GymnasiumEnvironment(vector_env)
    env.reset()
    env.step(torch.tensor(action))
    taken = [inner.action for inner in vector_env.envs]
    np.testing.assert_array_equal(taken, expected)
    assert all(space.contains(action) for action in taken)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("make", [InfoMask, DictMask])
def test_action_mask(make, mode):
    env = GymnasiumEnvironment(vectorize(make, mode))
    steps = run(env, 2)
    assert env.single_observation_space["action_mask"] == spaces.MultiBinary(3)
    only = torch.eye(3, dtype=torch.bool)
    assert [torch.equal(step.observation["action_mask"][1], only[t]) for t, step in enumerate(steps)] == [True] * 3
    last = steps[-1]  # row 0 ended: no action is allowed there, so the mask must not say so
    final = last.observation if last.final_observation is None else last.final_observation
    assert final["action_mask"].tolist() == [[True] * 3, only[2].tolist()]
    if mode is not AutoresetMode.NEXT_STEP:
        assert last.observation["action_mask"].tolist() == [only[0].tolist(), only[2].tolist()]


def test_action_mask_of_taxi():
    name = next(name for name in gym.registry if name.startswith("Taxi-v"))
    vector_env = gym.make_vec(name, 2, vectorization_mode="sync")
    env = GymnasiumEnvironment(vector_env)
    observation = env.reset(seed=3).observation
    for row, inner in enumerate(vector_env.envs):
        expected = inner.unwrapped.action_mask(observation["observation"][row].item())
        assert observation["action_mask"][row].tolist() == expected.astype(bool).tolist()
    assert not observation["action_mask"].all()


@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize(("bad", "kind"), [(np.nan, "a NaN"), (-np.inf, "an infinite")])
def test_not_finite(what, bad, kind):
    makers = [Clock, functools.partial(Broken, what, bad)]
    env = GymnasiumEnvironment(SyncVectorEnv(makers))
    with pytest.raises(UserError, match=rf"environment 1 returned {kind} {what} at step 2 after the reset of"):
        run(env, 2)


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("observation", spaces.Text(5)),
        ("observation", spaces.Sequence(spaces.Discrete(2))),
        ("observation", spaces.Graph(spaces.Discrete(2), None)),
        ("action", spaces.Text(5)),
    ],
)
def test_unsupported_space(kind, space):
    vector_env = Batched(AutoresetMode.NEXT_STEP)
    setattr(vector_env, f"single_{kind}_space", space)
    with pytest.raises(UserError, match=f"the {kind} space {type(space).__name__} is not supported: wrap"):
        GymnasiumEnvironment(vector_env)


def test_unsupported_space_inside_another_is_named():
    vector_env = Batched(AutoresetMode.NEXT_STEP)
    vector_env.single_observation_space = spaces.Dict(goal=spaces.Dict(text=spaces.Text(5)))
    with pytest.raises(UserError, match=r"the observation\.goal\.text space Text is not supported"):
        GymnasiumEnvironment(vector_env)


@pytest.mark.parametrize("metadata", [{}, {"autoreset_mode": "sometimes"}])
def test_unknown_autoreset_mode(metadata):
    vector_env = Batched(None)
    vector_env.metadata = metadata
    with pytest.raises(UserError, match="when it resets is unknown"):
        GymnasiumEnvironment(vector_env)


def test_action_mask_of_another_size():
    make = type("Short", (Clock,), {"info": lambda self: {"action_mask": np.ones(2, np.int8)}})
    with pytest.raises(UserError, match=r"of shape \(2,\) for Discrete\(3\): give 3 entries, one for each choice"):
        GymnasiumEnvironment(vectorize(make))


def test_batched_final_observation():
    step = run(GymnasiumEnvironment(Batched(AutoresetMode.SAME_STEP)), 1)[-1]
    assert (step.observation["x"].tolist(), step.final_observation["x"].tolist()) == ([[1], [2]], [[7], [2]])


def test_same_step_without_final_observation():
    with pytest.raises(UserError, match=r"no info\['final_obs'\].*next_step"):
        run(GymnasiumEnvironment(Batched(AutoresetMode.SAME_STEP, give_final=False)), 1)


def test_the_reward_of_a_reset_is_zero_whatever_the_environment_says():
    assert run(GymnasiumEnvironment(Batched(AutoresetMode.NEXT_STEP)), 2)[-1].reward.tolist() == [0, 5]


def test_gymnasium_environments_have_no_state():
    env = GymnasiumEnvironment(vectorize(Clock))
    assert env.state_dict() is None
    with pytest.raises(UserError, match="'SyncVectorEnv' cannot be restored"):
        env.load_state_dict({})


# Must break: in GymnasiumEnvironment._tensors, `np.array(` turned to `np.asarray(`.
def test_seed_reproduces_episodes_and_steps_share_no_memory():
    def leaves(copy):
        options = {"copy": copy}
        env = GymnasiumEnvironment(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", vector_kwargs=options))
        return [list(tree_leaves(step[:6])) for step in run(env, 40)]

    steps = leaves(copy=True)
    torch.testing.assert_close(leaves(copy=False), steps, rtol=0, atol=0)
    assert any(step[4][0] for step in steps[1:])  # over an episode's end


# Must break: in GymnasiumEnvironment.reset, `seeds = seed`.
def test_runs_with_neighbouring_seeds_share_no_environment():
    def start(seed):
        return GymnasiumEnvironment(gym.make_vec("CartPole-v1", 3, vectorization_mode="sync")).reset(seed).observation

    first, second = start(0), start(1)
    assert torch.isclose(first[:, None], second).all(-1).sum() == 0
    alone, _ = gym.make("CartPole-v1").reset(seed=1)  # as anybody would who looks into one episode
    torch.testing.assert_close(second[0], torch.as_tensor(alone), rtol=0, atol=0)
