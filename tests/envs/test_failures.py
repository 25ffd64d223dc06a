"""A bug in a user's environment is one line that says where, and the exception stays to be seen behind it."""

import contextlib
import functools
import os
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from seqrl.envs import GymnasiumEnvironment, RepeatPrevious, TorchEnvironment, Trials, make
from seqrl.errors import UserError


class TwoPartError(Exception):
    """Pickles, but is not made again of its message alone."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def divide():
    return 1 // 0 % 3  # the percent sign is what Gymnasium's own log of it stumbles over


class Failing(gym.Env):
    """Fails at its third step, or at its first or second reset; an episode has 2 steps but for that."""

    observation_space = spaces.Dict(x=spaces.Box(-9, 9, (2,)), n=spaces.Discrete(3))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, how, length=99):
        self.how, self.length, self.resets, self.steps = how, length, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        if self.how == f"reset {self.resets}":
            raise KeyError("no door")
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            self.fail()
        info = None if self.steps == 3 and self.how == "info" else {}
        return self.observe(self.steps == 3), 1.0, self.steps == self.length, False, info

    def fail(self):
        if self.how == "bug":
            divide()
        if self.how == "in numpy":
            np.concatenate([np.zeros(2), np.zeros((2, 2))])
        if self.how == "two parts":
            raise TwoPartError(1, 2)
        if self.how == "user error":
            raise UserError("draw another task")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "leaves":
            sys.exit(0)
        if self.how == "dies":
            os._exit(7)

    def observe(self, wrong=False):
        observation = {"x": np.zeros(3 if wrong and self.how == "shape" else 2, np.float32), "n": np.int64(1)}
        if wrong and self.how == "same size":
            observation["x"] = observation["x"][None]
        if wrong and self.how == "type":
            observation["n"] = 0.5
        if wrong and self.how == "key":
            del observation["n"]
        if wrong and self.how == "no part":
            observation["n"] = None
        return None if wrong and self.how == "none" else observation


def line_of(function, text):
    """Where in this file `text` stands first behind the beginning of `function`."""
    with open(__file__) as file:
        lines = file.readlines()
    start = function.__code__.co_firstlineno
    return next(k for k, line in enumerate(lines[start - 1 :], start) if text in line)


def failing(how, kind=SyncVectorEnv, mode=AutoresetMode.NEXT_STEP, length=99):
    sound = functools.partial(Failing, "", length)
    return GymnasiumEnvironment(kind([sound, functools.partial(Failing, how, length)], autoreset_mode=mode))


def run(env, num_steps):
    steps = [env.reset(0)]
    action = torch.zeros(env.num_envs, *env.single_action_space.shape)
    return steps + [env.step(action) for _ in range(num_steps)]


VECTORS = pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])


# Breaks without `told`, or with Gymnasium's way to raise what a process raised.
@VECTORS
@pytest.mark.parametrize(
    ("how", "where", "text"),
    [
        ("bug", divide, "1 // 0"),
        ("in numpy", Failing.fail, "np.concatenate"),  # the last line of its own, not the deepest
        ("reset 1", Failing.reset, "no door"),
    ],
)
def test_a_bug_is_one_line(kind, how, where, text, recwarn):
    env = failing(how, kind)
    with pytest.raises(UserError) as caught:
        run(env, 3)
    env.close()
    said, cause = str(caught.value), caught.value.__cause__
    assert said.startswith(
        f"{kind.__name__} failed in {'reset' if 'reset' in how else 'step'} ({type(cause).__name__}: "
    )
    assert said.endswith(f", test_failures.py:{line_of(where, text)}): mend the environment")
    assert "\n" not in said
    assert str(cause) in said
    assert type(cause) in (ZeroDivisionError, ValueError, KeyError)
    if kind is AsyncVectorEnv:
        assert any(f'test_failures.py", line {line_of(where, text)}' in note for note in cause.__notes__)
    warned = [str(one.message) for one in recwarn.list]  # such as the traceback of another process
    assert not [text for text in warned if "fork" not in text]  # which Python warns of, from 3.12, where threads run


# Breaks if the call of the vector is told: it resets within its step.
@VECTORS
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_reset_within_a_step_is_a_reset(kind, mode):
    env = failing("reset 2", kind, mode, length=2)
    with pytest.raises(UserError, match=r"failed in reset \(KeyError: 'no door', test_failures.py"):
        run(env, 4)
    env.close()


# Breaks if the first frame with such a name is taken: those of Gymnasium's wrappers and of Trials are called step.
def test_a_reset_within_a_trial_is_a_reset():
    def make():
        return gym.wrappers.OrderEnforcing(Trials(Failing("reset 2", length=1), num_episodes=3))

    with pytest.raises(UserError, match=r"failed in reset \(KeyError: 'no door'"):
        run(GymnasiumEnvironment(SyncVectorEnv([make])), 2)


@VECTORS
@pytest.mark.parametrize(("how", "kind_of_error"), [("user error", UserError), ("interrupt", KeyboardInterrupt)])
def test_what_passes_untouched(kind, how, kind_of_error):
    env = failing(how, kind)
    with pytest.raises(kind_of_error) as caught:
        run(env, 3)
    env.close()
    assert str(caught.value) == ("draw another task" if how == "user error" else "")
    assert caught.value.__cause__ is None


# Breaks without the look for `_add_info`: what Gymnasium's vectors say of it names no part of the environment.
@VECTORS
def test_an_info_that_is_no_dict(kind):
    env = failing("info", kind)
    with pytest.raises(UserError, match=f"^{kind.__name__} returned an info that is no dict: mend the environment$"):
        run(env, 3)
    env.close()


def test_an_environment_that_ends_python():
    with pytest.raises(UserError, match=r"failed in step \(SystemExit: 0, test_failures.py:\d+\)"):
        run(failing("leaves"), 3)


# Breaks without `_end_of_process`: close() then waits for those that are left, or raises EOFError.
@pytest.mark.parametrize(("how", "code"), [("dies", 7), ("leaves", 0)])
def test_a_process_that_ends(how, code):
    env = failing(how, AsyncVectorEnv)
    with pytest.raises(UserError, match=rf"failed in step \(a process of it ended with exit code {code}\): mend"):
        run(env, 3)
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 5


# Breaks if `error_queue.get` is not guarded: TypeError, of an argument that is missing.
def test_an_exception_that_cannot_leave_its_process():
    with pytest.raises(UserError, match=r"\(TwoPartError: 1 and 2, test_failures.py:\d+\)"):
        run(failing("two parts"), 3)
    env = failing("two parts", AsyncVectorEnv)
    with pytest.raises(UserError, match="what it raised cannot leave its process: --vectorization sync shows it"):
        run(env, 3)
    env.close()


# Breaks without the search of `_env_obs`: what NumPy or Gymnasium say then names neither the part nor the environment.
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("shape", r"observation.x has the shape \(3,\), not \(2,\)"),
        ("type", "observation.n is float64, not int64"),
        ("key", "observation has no 'n'"),
        ("no part", "observation.n is None"),
        ("none", "observation is None"),
    ],
)
def test_an_observation_that_is_not_in_its_space(mode, how, what):
    whole = rf"^environment 1 of SyncVectorEnv returned what is not in its space: {what}; mend the environment, or the"
    for length in (99, 3):  # at the end it is a final observation, which some modes hand over apart
        with pytest.raises(UserError, match=whole):
            run(failing(how, mode=mode, length=length), 4)


# Breaks if a None among `_env_obs` counts as not yet returned; or as returned where a reset's tuple cannot be read.
@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3), spaces.Tuple([spaces.Discrete(3)])])
def test_a_first_observation_that_is_none(space):
    def make(*from_reset):
        env = Returning(1.0, False, False, {}, from_reset=from_reset)
        env.observation_space = space
        return env

    sound, none = functools.partial(make, space.sample(), {}), functools.partial(make, None, {})
    with pytest.raises(UserError, match=r"^environment 1 of .* not in its space: observation is None; mend the"):
        run(GymnasiumEnvironment(SyncVectorEnv([sound, none])), 0)
    with pytest.raises(UserError, match=r"returned from reset what cannot be read"):
        run(GymnasiumEnvironment(SyncVectorEnv([functools.partial(make, 1, 2, 3), sound])), 0)


def test_an_observation_that_a_process_could_not_hand_over():
    env = failing("shape", AsyncVectorEnv)
    with pytest.raises(UserError, match=r"returned what is not in its space: ValueError: .*\(3,\).*, for Dict\("):
        run(env, 3)
    env.close()


gym.register("Failing-v0", functools.partial(Failing, length=3))


# Breaks without `InItsSpace`: None comes as NaN, another shape of the same size and a float for a whole number pass.
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("none", "observation is None"),
        ("no part", "observation.n is None"),
        ("same size", r"observation.x has the shape \(1, 2\), not \(2,\)"),
        ("type", "observation.n is float64, not int64"),
        ("key", "observation has no 'n'"),
    ],
)
def test_processes_say_what_is_not_in_its_space(vectorization, mode, how, what):
    env = make("Failing-v0", 2, vectorization=vectorization, autoreset_mode=mode, env_kwargs={"how": how})
    who = "environment 0 of Failing-v0" if vectorization == "sync" else "Failing-v0"
    with contextlib.closing(env), pytest.raises(UserError, match=f"^{who} returned what is not in its space: {what};"):
        run(env, 4)


class Returning(gym.Env):
    """Returns what it is given from reset and step."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, *from_step, from_reset=None):
        self.from_step, self.from_reset = from_step, from_reset or (np.zeros(2, np.float32), {})

    def reset(self, *, seed=None, options=None):
        return self.from_reset

    def step(self, action):
        return np.zeros(2, np.float32), *self.from_step


# Breaks without what is said where Gymnasium cannot read a tuple, or without `check_values`: [B, 1] passed for [B].
@VECTORS
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (functools.partial(Returning, np.ones(1), False, False, {}), "scalars?; mend the environment$"),
        (functools.partial(Returning, 1.0, False, {}), r"step what cannot .*truncated, info\), of which the three"),
        (
            functools.partial(Returning, from_reset=(1, 2, 3)),
            r"reset what cannot be read .*gives \(observation, info\);",
        ),
        (functools.partial(Returning, "one", False, False, {}), r"from step .*: 'one'\): it gives"),
    ],
)
def test_what_is_returned_in_another_form(kind, make, words):
    vector = kind([make, make])
    with pytest.raises(UserError, match=rf"^{kind.__name__} returned .*{words}"):
        run(GymnasiumEnvironment(vector), 2)
    vector.close()


class Batch(VectorEnv):
    """A user's own, which returns `observation` and never ends."""

    num_envs = 2
    single_observation_space = spaces.Tuple([spaces.Box(-9, 9, (2,)), spaces.MultiBinary(1), spaces.Discrete(3)])
    single_action_space = spaces.Box(-1, 1, (1,))
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, *observation):
        self.observation = observation

    def reset(self, *, seed=None, options=None):
        return self.observation, {}


# Breaks without the check in `_observation`: only the encoder would say something, or nobody.
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({0: np.zeros((2, 3))}, r"observation.0 has the shape \(2, 3\), not \(2, 2\)"),
        ({0: np.zeros(2)}, r"observation.0 has the shape \(2,\), not \(2, 2\)"),
        ({0: [[1, 2], [3]]}, "observation.0 is no array: its parts differ in shape"),
        ({0: np.array([["a", "b"]] * 2)}, "observation.0 is <U1, not float32"),
        ({2: np.array([0.0, 1.5])}, "observation.2 is float64, not int64"),
    ],
)
def test_a_batch_that_is_not_in_its_space(change, what):
    parts = [np.zeros((2, 2), np.int64), np.ones((2, 1), bool), np.zeros(2, np.uint8)]  # of other sizes: these will do
    assert GymnasiumEnvironment(Batch(*parts)).reset().observation[0].dtype == torch.float32
    for index, part in change.items():
        parts[index] = part
    with pytest.raises(UserError, match=f"^Batch returned what is not in its space: {what}; mend"):
        GymnasiumEnvironment(Batch(*parts)).reset()
    with pytest.raises(UserError, match="observation is no tuple of 3"):
        GymnasiumEnvironment(Batch(*parts[1:])).reset()


class OwnTensors(RepeatPrevious):
    """A user's batch of tensors, with a bug."""

    how = ""

    def _transition(self, state, action):
        if self.how == "bug":
            divide()
        return super()._transition(state, action)

    def _observe(self, state):
        observation = super()._observe(state)
        return {"shape": observation[:, None], "type": observation.float()}.get(self.how, observation)


def test_a_batch_of_tensors():
    env = OwnTensors(3)
    env.how = "bug"
    with pytest.raises(UserError, match=r"^OwnTensors failed in step \(ZeroDivisionError: .*, test_failures.py:\d+\)"):
        run(TorchEnvironment(env), 1)
    for how, what in (("shape", r"has the shape \(3, 1\), not \(3,\)"), ("type", "is torch.float32, not int64")):
        env.how = how
        with pytest.raises(UserError, match=f"^OwnTensors returned what is not in its space: observation {what}"):
            run(TorchEnvironment(env), 0)


# Breaks if a bug of ours is put down to the user.
def test_a_bug_in_an_environment_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(RepeatPrevious, "_transition", lambda self, state, action: divide())
    with pytest.raises(ZeroDivisionError):
        run(TorchEnvironment(RepeatPrevious(2)), 1)


# Breaks if installed packages are not told from what all stand on, or if lines of these are told.
def test_the_line_in_an_installed_environment():
    vector_env = gym.make_vec("CartPole-v1", 1, vectorization_mode="sync")
    env = GymnasiumEnvironment(vector_env)
    env.reset(0)
    vector_env.envs[0].unwrapped.gravity = np.zeros((2, 2)) @ np.zeros((2, 1))
    with pytest.raises(UserError, match=r"^CartPole-v1 failed in step \(.*, cartpole.py:\d+\): mend the environment$"):
        env.step(torch.zeros(1, dtype=torch.int64))
