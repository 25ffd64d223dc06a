"""A user's own batches of tensors: registered, stepped as one batch by every command, and hinted at."""

import importlib
import multiprocessing
import sys
import warnings
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import WrapperSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from seqrl.algorithms import ppo, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.envs import GymnasiumEnvironment, SingleEnv, TMaze, TorchEnvironment, make, register
from seqrl.envs.hide import Hide
from seqrl.envs.make import _register_installed, may_draw
from seqrl.envs.registration import is_batch, registered
from seqrl.envs.wrappers import Flicker, Noise
from seqrl.errors import UserError
from seqrl.run_folder import CHECKPOINT
from seqrl.trajectory import tree_flatten

OWN = """
import gymnasium as gym
import torch
from seqrl.envs import SingleEnv, State, TorchVectorEnv, Transition, register


class Parity(TorchVectorEnv):
    "Says whether the bits shown so far were odd in number."

    def __init__(self, num_envs=1, device="cpu", max_episode_steps=20, length=6):
        box = gym.spaces.Box(0.0, 1.0, (2,))
        super().__init__(box, gym.spaces.Discrete(2), num_envs, device, max_episode_steps)
        self.length = length

    def _bits(self) -> torch.Tensor:
        return torch.randint(2, (self.num_envs,), generator=self.generator, device=self.device)

    def _start(self) -> State:
        bit = self._bits()
        return {"bit": bit, "parity": bit}

    def _transition(self, state: State, action: torch.Tensor) -> Transition:
        bit = self._bits()
        reward = (action == state["parity"]).float()
        return {"bit": bit, "parity": (state["parity"] + bit) % 2}, reward, state["steps"] + 1 >= self.length

    def _observe(self, state: State) -> torch.Tensor:
        return torch.stack([state["bit"], state["steps"] == 0], 1).float()


register("Parity-v0", Parity)
register("test/Short-v1", Parity, length=3, max_episode_steps=2)
"""


class Maze(TMaze):
    """A user's own."""


class OneByOne(gym.Env):
    """A user's own, no batch."""

    observation_space, action_space = gym.spaces.Box(0.0, 1.0, (2,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def makes_mazes(**kwargs):
    """As a factory of batches would be."""
    assert kwargs.keys() == {"num_envs", "device"}
    return Maze(**kwargs)


def fails(**kwargs):
    raise ImportError("no jax")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """The module `own_by_test` in the folder of a test, and a registry of its own."""
    (tmp_path / "own_by_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    _register_installed()  # a package registers its ids once in a process: they are to outlive a test
    before = dict(gym.registry)
    yield "own_by_test"
    sys.modules.pop("own_by_test", None)
    gym.registry.clear()
    gym.registry.update(before)


# Breaks if ids of ours alone are taken for batches, or if what a vector_entry_point is is not looked at.
@pytest.mark.parametrize(
    ("point", "batched"),
    [
        (Maze, True),
        (f"{__name__}:Maze", True),
        (partial(Maze, length=3), True),
        (makes_mazes, True),
        (CartPoleVectorEnv, False),
        (fails, False),
        ("no_such_module:Maze", False),
        (None, False),
    ],
)
def test_what_is_stepped_as_one_batch(point, batched):
    gym.register("Own-v3", partial(SingleEnv, Maze), vector_entry_point=point)
    for env_id in ("Own-v3", "test_registration:Own-v3"):
        assert is_batch(registered(env_id), {}) is batched
        env = make(env_id, 2)
        assert isinstance(env, TorchEnvironment if batched else GymnasiumEnvironment)
        assert env.reset(0).observation.shape == (2, 3)
    assert isinstance(make("Own-v3", 2, vectorization="sync"), GymnasiumEnvironment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's, that an id without a version stands for the newest
        assert isinstance(make("Own", 2), TorchEnvironment if batched else GymnasiumEnvironment)


# Breaks without the look at `additional_wrappers`, which Gymnasium puts around single environments alone.
def test_wrappers_that_an_id_has_are_kept():
    spec = WrapperSpec("TimeAware", "gymnasium.wrappers:TimeAwareObservation", {"flatten": True})
    gym.register("Own-v3", partial(SingleEnv, Maze), vector_entry_point=Maze, max_episode_steps=9,
                 additional_wrappers=(spec,))  # fmt: skip
    assert make("Own-v3", 2).reset(0).observation.shape == (2, 4)


def test_the_class_is_made_with_what_is_asked_for(own):
    env = make("own_by_test:Parity-v0", 5, device="cpu", env_kwargs={"length": 4, "max_episode_steps": 3})
    inner = env._env
    assert (type(inner).__name__, inner.num_envs, inner.length, inner.max_episode_steps) == ("Parity", 5, 4, 3)
    assert inner.device == torch.device("cpu")
    env = make("own_by_test:Parity-v0", 2, hide=(0,), flicker=0.5, noise=0.1)
    assert isinstance(env, Noise)
    assert isinstance(env.env, Flicker)
    assert isinstance(env.env.env, Hide)
    assert isinstance(env.env.env.env, TorchEnvironment)
    assert env.reset(0).observation.shape == (2, 1)


# Breaks if the constructor's default limit, or the arguments of `register`, reach one of the two ways alone.
def test_register_serves_single_environments_and_batches_alike(own):
    module = importlib.import_module(own)
    for env_id, limit, length in (("Parity-v0", 20, 6), ("test/Short-v1", 2, 3)):
        batch = gym.make_vec(env_id, num_envs=3)
        assert (type(batch), batch.max_episode_steps, batch.length) == (module.Parity, limit, length)
        single = gym.make(env_id)
        assert (single.unwrapped.batch.length, single.spec.max_episode_steps) == (length, limit)
        single.reset(seed=0)
        ends = [single.step(0)[2:4] for _ in range(min(limit, length))]
        assert ends[-1] == (length < limit, limit < length)
        assert not any(map(any, ends[:-1]))


class NoDevice(TMaze):
    def __init__(self, num_envs=1, max_episode_steps=None):
        super().__init__(num_envs, "cpu", max_episode_steps)


@pytest.mark.parametrize(
    ("env_class", "words"),
    [
        (OneByOne, "OneByOne is no class that extends TorchVectorEnv; others are registered with gymnasium.register"),
        (makes_mazes, "makes_mazes is no class"),
        (NoDevice, "NoDevice.__init__ takes no device; let it take num_envs, device and max_episode_steps"),
    ],
)
def test_what_cannot_be_registered(env_class, words):
    with pytest.raises(UserError, match=f"^cannot register 'Own-v0': {words}"):
        register("Own-v0", env_class)
    assert "Own-v0" not in gym.registry


class Counting(VectorEnv):
    """A user's own batch of arrays, which shows the step of an episode of `length`."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space, single_action_space = gym.spaces.Box(0.0, 99.0, (1,)), gym.spaces.Discrete(2)

    def __init__(self, num_envs=1, length=3):
        self.num_envs, self.length = num_envs, length
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.time = np.zeros(self.num_envs)
        return self.time[:, None].astype(np.float32), {}

    def step(self, actions):
        self.time = np.where(self.time == self.length, 0, self.time + 1)
        ended = self.time == self.length
        return self.time[:, None].astype(np.float32), np.ones(self.num_envs), ended, np.zeros_like(ended), {}


# Breaks without `is_vector_alone`: Gymnasium makes it, and we said that it has no entry point.
def test_a_vector_environment_of_ones_own():
    gym.register("Counting-v0", vector_entry_point=Counting)
    env = make("Counting-v0", 4, env_kwargs={"length": 2})
    steps = [env.reset(0), *(env.step(torch.zeros(4, dtype=torch.int64)) for _ in range(3))]
    assert [step.observation[:, 0].tolist() for step in steps] == [[0.0] * 4, [1.0] * 4, [2.0] * 4, [0.0] * 4]
    assert [step.is_first.all().item() for step in steps] == [True, False, False, True]
    with pytest.raises(UserError, match="entry point"):
        make("Counting-v0", 4, vectorization="sync")


def test_an_autoreset_mode_that_a_batch_does_not_have(own):
    with pytest.raises(UserError, match=r"'own_by_test:Parity-v0' resets at the next step; give next_step"):
        make("own_by_test:Parity-v0", 2, autoreset_mode="same_step")
    assert make("own_by_test:Parity-v0", 2, autoreset_mode="same_step", vectorization="sync").reset(0)


# Breaks where the environments are not saved: new episodes would begin at a checkpoint.
def test_a_run_goes_on_bit_for_bit():
    small = {"num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_epochs": 1, "num_minibatches": 1}
    env = {"env": "own_by_test:Parity-v0", "learning_rate_schedule": "constant"}
    for folder, num_steps in (("whole", 160), ("halves", 96)):
        train(ppo.Config(**env, **small, num_steps=num_steps, run_dir=folder))
    resume("halves", num_steps=160)
    whole, halves = (tree_flatten(load_checkpoint(Path(name) / CHECKPOINT)[0]) for name in ("whole", "halves"))
    assert any("parity" in name for name in whole)
    assert whole.keys() == halves.keys()
    assert [name for name, leaf in whole.items() if not torch.equal(leaf, halves[name])] == []


# Breaks if a process of an actor does not import the id's module.
@pytest.mark.usefixtures("forked_actors")
def test_actors_in_processes_step_it_as_a_batch():
    command = ["train", "impala", "--env", "own_by_test:Parity-v0", "--engine", "async", "--num-actors", "2"]
    settings = ["--num-envs", "2", "--rollout-length", "8", "--hidden-size", "8", "--num-steps", "64"]
    assert main([*command, *settings, "--run-dir", "run"]) == 0
    assert not multiprocessing.active_children()


# Breaks if a known id is hinted at with a module that does not register it.
@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("own_by_test:seqrl/Parity-v0", r"did you mean 'own_by_test:Parity-v0'\?$"),
        ("own_by_test:Zzz-v7", r"'own_by_test' registers Parity-v0, test/Short-v1$"),
        ("math:CartPole-v7", "'math' registers none: let it call gymnasium.register, or seqrl.envs.register$"),
        ("borrowing:Rentd-v0", r"did you mean 'borrowing:Rented-v0'\?$"),
    ],
)
def test_hints_of_a_module(env_id, words, tmp_path):
    entry = "gymnasium.envs.classic_control:CartPoleEnv"  # of another module: what its import registered tells
    (tmp_path / "borrowing.py").write_text(f"import gymnasium\ngymnasium.register('Rented-v0', '{entry}')\n")
    for vectorization in ("sync", "auto"):
        sys.modules.pop("borrowing", None)
        with pytest.raises(UserError, match=f"^unknown environment '{env_id}' \\(--env\\): {words}"):
            make(env_id, 1, vectorization=vectorization)
        gym.registry.pop("Rented-v0", None)
    sys.modules.pop("borrowing", None)


# Breaks if packages are not imported for the hint, or if what they warn of is shown.
def test_hints_of_packages_that_are_installed(recwarn, capfd):
    pytest.importorskip("popgym")
    for env_id in [env_id for env_id in gym.registry if env_id.startswith("popgym-")]:
        del gym.registry[env_id]
    for name in [name for name in sys.modules if name.partition(".")[0] == "popgym"]:
        del sys.modules[name]
    with pytest.raises(UserError, match=r"did you mean 'popgym-RepeatFirstEasy-v0'\?$"):
        make("RepeatFirstEasy-v0", 1)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_what_may_draw(own):
    gym.register("Silent-v0", OneByOne)
    gym.register("Untold-v0", lambda: OneByOne())
    drawing = {"CartPole-v1": True, "Untold-v0": True, "Silent-v0": False, "seqrl/TMaze-v0": False}
    for env_id, draws in (drawing | {"own_by_test:Parity-v0": False}).items():
        assert may_draw(env_id) is draws
