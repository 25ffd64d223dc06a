"""From ids to environments, ours and other packages'."""

import multiprocessing
import re
import sys

import gymnasium as gym
import pytest
import torch
from gymnasium.vector.utils import batch_space

from seqrl.envs.adapters import GymnasiumEnvironment, TorchEnvironment
from seqrl.envs.make import known_ids, make
from seqrl.envs.wrappers import Noise
from seqrl.errors import UserError
from seqrl.trajectory import tree_leaves


def run(env, num_steps, seed=0):
    """Time steps under random actions."""
    actions = batch_space(env.single_action_space, env.num_envs)
    actions.seed(seed)
    return [env.reset(seed)] + [env.step(torch.as_tensor(actions.sample())) for _ in range(num_steps)]


def flat(steps):
    return torch.cat([leaf.flatten().double() for step in steps for leaf in tree_leaves(step[:6])])


def test_ours_are_one_batch_unless_asked_otherwise():
    assert isinstance(make("seqrl/MaskedCartPole-v0", 2), TorchEnvironment)
    env = make("seqrl/MaskedCartPole-v0", 2, vectorization="sync", autoreset_mode="same_step")
    assert isinstance(env, GymnasiumEnvironment)
    assert run(env, 30)[-1].final_observation is not None


def test_wrappers_and_keyword_arguments_are_applied():
    env = make("CartPole-v1", 3, hide=(1, 3), flicker=0.5, noise=0.1, env_kwargs={"max_episode_steps": 5})
    steps = run(env, 5)
    assert isinstance(env, Noise)
    assert steps[-1].observation.shape == (3, 2)
    assert steps[-1].truncated.all()


def test_async_gives_the_same_and_leaves_no_process():
    steps = {}
    for vectorization in ("sync", "async"):
        env = make("CartPole-v1", 2, vectorization=vectorization, autoreset_mode="disabled")
        steps[vectorization] = flat(run(env, 40))
        env.close()
    assert torch.equal(steps["sync"], steps["async"])
    assert not multiprocessing.active_children()


def test_an_error_leaves_no_process():
    with pytest.raises(UserError, match=r"hide=\(9,\)") as error:
        make("CartPole-v1", 2, vectorization="async", hide=(9,))
    assert not multiprocessing.active_children()
    del error  # its traceback kept the vector environment, which closes itself when it is collected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "CartPol-v1"}, r"^unknown environment 'CartPol-v1' \(--env\): did you mean 'CartPole-v1'\?$"),
        ({"env_id": "CartPole-v99"}, r"did you mean 'CartPole-v[01]'\?$"),
        ({"env_id": "cartpole"}, r"^unknown environment 'cartpole' \(--env\): did you mean 'CartPole-v1'\?$"),
        ({"env_id": "Tmaze-v1"}, r"did you mean 'seqrl/TMaze-v0'\?$"),
        # Breaks if versions count: "-v0" alone made these like Zaxxon-v0 and CartPole-v0.
        ({"env_id": "Nan-v0"}, r"^unknown environment 'Nan-v0' \(--env\): one of your own is .*, module:Nan-v0 \("),
        (
            {"env_id": "Warehouse-v0"},
            r"one of your own is named with the module that registers it, module:Warehouse-v0",
        ),
        ({"env_id": "zzzqqq"}, r"module:zzzqqq \(`seqrl envs` lists ours\)$"),
        (
            {"env_id": "no_package:A-v0"},
            "'no_package:A-v0': there is no module 'no_package'; one in this folder is found",
        ),
        # Breaks without the case of a file: module:rover.py was what it was told to be named.
        ({"env_id": "envs/rover.py"}, r"'envs/rover.py' \(--env\): this is a file: name an id .*, rover:ID, from its"),
        ({"env_id": "no_file.py:A-v0"}, "there is no module 'no_file.py'; call it no_file:A-v0; "),
        # Break without the looks at paths in `check_options`: what importlib and Gymnasium say names no way out.
        (
            {"env_id": "./no_file.py:A-v0"},
            r"there is no module './no_file.py'; call it no_file:A-v0; one in this folder is found with PYTHONPATH=\.$",
        ),
        (
            {"env_id": "../my envs/rover:A-v0"},
            r"; call it rover:A-v0; one in ../my envs is found with PYTHONPATH='../my envs'$",
        ),
        ({"env_id": "./rover.py"}, r"^unknown environment './rover.py' \(--env\): this is a file: .*, rover:ID"),
        (
            {"env_kwargs": {"colour": 1}},
            "^cannot make environment 'CartPole-v1': .*unexpected keyword argument 'colour'",
        ),
        ({"num_envs": 0}, "num_envs=0: give at least 1"),
        ({"vectorization": "asink"}, "unknown vectorization 'asink': did you mean 'async'"),
        ({"autoreset_mode": "same"}, "unknown autoreset_mode 'same': did you mean 'same_step'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"env_id": "seqrl/TMaze-v0", "autoreset_mode": "disabled"}, "resets at the next step; give next_step"),
        ({"flicker": 2.0}, "flicker=2.0 is not a probability"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message) as error:
        make(**({"env_id": "CartPole-v1", "num_envs": 2} | options))
    assert "\n" not in str(error.value)


class Failing(gym.Env):
    def __init__(self):
        raise gym.error.DependencyNotInstalled("physics is missing\nsecond line")


def test_an_environment_that_cannot_be_made_says_why_in_one_line():
    gym.register("seqrl-test/Failing-v0", Failing)
    try:
        with pytest.raises(UserError, match=r"^cannot make environment 'seqrl-test/Failing-v0': physics is missing$"):
            make("seqrl-test/Failing-v0", 1)
    finally:
        del gym.registry["seqrl-test/Failing-v0"]


# Breaks if SystemExit passes: a command would end with status 0, having done nothing.
def test_a_module_that_ends_python(tmp_path, monkeypatch):
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot make environment 'leaving:E-v0': it ends Python, SystemExit\(0\)"):
        make("leaving:E-v0", 1)


# Breaks if what is suggested is a known id alone, without the module that registers it.
def test_a_suggestion_keeps_the_module(tmp_path, monkeypatch):
    (tmp_path / "suggested.py").write_text("import gymnasium\ngymnasium.register('Vault-v0', 'suggested:Vault')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)
    with pytest.raises(UserError, match="did you mean 'suggested:Vault-v0'"):
        make("suggested:Valt-v0", 1)


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("popgym-RepeatPreviousEasy-v0", "popgym", "'seqrl[popgym]'"),
        ("popgym-LabyrinthEscapeEasy-v0", "mazelib", "'popgym[navigation]' cython"),
        ("BabyAI-GoToObj-v0", "minigrid", "'seqrl[minigrid]'"),
    ],
)
def test_missing_package(env_id, module, extra, monkeypatch):
    if module != "mazelib":
        monkeypatch.setitem(sys.modules, module, None)
    elif gym.registry.get(env_id) is not None:
        pytest.skip("mazelib is installed")
    with pytest.raises(UserError, match=rf"^'{env_id}' needs {module}.*pip install {re.escape(extra)}$"):
        make(env_id, 1)


# Breaks if what mazelib raises is put down to popgym, which is there.
def test_a_maze_generator_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "mazelib").mkdir()
    (tmp_path / "mazelib" / "__init__.py").write_text("import no_such_compiler\n")
    (tmp_path / "popgym.py").write_text("import mazelib\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "popgym"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError) as error:
        make("popgym-RepeatFirstEasy-v0", 1)
    assert str(error.value) == (
        "'popgym-RepeatFirstEasy-v0' needs popgym, which cannot import mazelib (No module named 'no_such_compiler'): "
        "pip install 'popgym[navigation]' cython, or uninstall mazelib"
    )


# Breaks without `disable_env_checker`: Gymnasium's checker remarks on both, with the terminal's codes for colours.
@pytest.mark.parametrize("env_id", ["popgym-CountRecallEasy-v0", "popgym-MultiarmedBanditEasy-v0"])
def test_what_a_checker_remarks_on_is_not_shown(env_id, recwarn):
    pytest.importorskip("popgym")
    run(make(env_id, 1), 3)
    assert [str(warning.message) for warning in recwarn.list] == []


class Spaceless(gym.Env):
    observation_space = None
    action_space = gym.spaces.Discrete(2)


def test_an_environment_without_a_space():
    gym.register("seqrl-test/Spaceless-v0", Spaceless)
    try:
        with pytest.raises(UserError, match=r"its observation_space is NoneType, which is no gymnasium\.Space$"):
            make("seqrl-test/Spaceless-v0", 1)
    finally:
        del gym.registry["seqrl-test/Spaceless-v0"]


@pytest.mark.parametrize(
    "env_id", ["popgym-RepeatPreviousEasy-v0", "popgym-AutoencodeEasy-v0", "popgym-BattleshipEasy-v0"]
)
def test_popgym(env_id):
    pytest.importorskip("popgym")
    env = make(env_id, 2)
    steps = run(env, 120)
    assert torch.equal(flat(run(env, 120)), flat(steps))
    assert any(step.is_first.any() for step in steps[1:])
    assert env_id in known_ids()


def test_popgym_observations():
    pytest.importorskip("popgym")
    phase, card = run(make("popgym-AutoencodeEasy-v0", 2), 1)[-1].observation
    assert (phase.shape, card.shape, card.dtype) == ((2,), (2,), torch.int64)


@pytest.mark.parametrize("env_id", ["MiniGrid-MemoryS7-v0", "BabyAI-GoToObj-v0"])
def test_minigrid(env_id):
    pytest.importorskip("minigrid")
    env = make(env_id, 2, env_kwargs={"max_episode_steps": 10})
    space = env.single_observation_space
    assert sorted(space) == ["direction", "image"]
    assert (space["image"].nvec == [11, 6, 3]).all()
    steps = run(env, 15)
    for step in steps:
        image = step.observation["image"]
        assert (image.shape, image.dtype) == ((2, 7, 7, 3), torch.int64)
        assert (image < torch.tensor([11, 6, 3])).all()
    assert any(step.truncated.any() for step in steps)
    assert torch.equal(flat(run(env, 15)), flat(steps))
