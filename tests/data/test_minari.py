"""Minari: what is written is read back bit for bit, images too; what cannot be read says so in one line."""

import json
import shutil
import sys
import warnings
from collections import OrderedDict
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from mixed_actions import ALL

from seqrl.actions import tensor_space
from seqrl.cli import main
from seqrl.collect import random_actions
from seqrl.config import parse_env_kwargs
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter, from_minari, import_episodes, to_minari
from seqrl.data.minari import _environment
from seqrl.errors import UserError
from seqrl.trajectory import tree_flatten

minari = pytest.importorskip("minari")

OBSERVATION = gym.spaces.Dict(
    image=gym.spaces.Box(0, 255, (32, 32, 3), np.uint8),
    pair=gym.spaces.Tuple([gym.spaces.Discrete(5, start=2), gym.spaces.Box(-np.inf, np.inf, (2,))]),
    action_mask=gym.spaces.MultiBinary(5),
)
ACTION = gym.spaces.MultiDiscrete([2, 3], start=[0, -1])


@pytest.fixture(autouse=True)
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def write(folder, observation_space=OBSERVATION, action_space=ACTION):
    """Three episodes drawn from the spaces, of 3, 1 and 4 decisions."""
    observation_space.seed(0)
    action_space.seed(0)
    with EpisodeWriter(folder, observation_space, action_space, about={"env": "x"}) as writer:
        for k, length in enumerate((3, 1, 4)):
            drawn = [observation_space.sample() for _ in range(length + 1)]
            if isinstance(observation_space, gym.spaces.Dict):
                observation = {
                    "image": np.stack([one["image"] for one in drawn]),
                    "pair": (
                        np.array([one["pair"][0] - 2 for one in drawn]),
                        np.stack([one["pair"][1] for one in drawn]),
                    ),
                    "action_mask": np.ones((length + 1, 5), bool),
                }
            else:
                observation = np.stack(drawn)
            action = np.stack([action_space.sample() for _ in range(length)])
            if hasattr(action_space, "start"):
                action = action - action_space.start
            reward = np.random.default_rng(k).normal(size=length).astype(np.float32)
            writer.add(Episode(observation, action, reward, k < 2, k == 2))
    return EpisodeDataset.open(folder)


SPACES = {
    "nested": (OBSERVATION, ACTION),
    "image": (gym.spaces.Box(0, 255, (32, 32, 3), np.uint8), gym.spaces.Discrete(3, start=-1)),
    "vector": (gym.spaces.Box(-np.inf, np.inf, (17,)), gym.spaces.Box(-1, 1, (6,))),
    "float64": (gym.spaces.Box(-1, 1, (3,), np.float64), gym.spaces.MultiBinary(4)),
}


# Breaks if `jpeg_encoding=False` is left out (images), or the spaces' start is not added (nested, image).
@pytest.mark.parametrize("kind", SPACES)
def test_there_and_back(tmp_path, kind):
    dataset = write(tmp_path / "log", *SPACES[kind])
    written = to_minari(dataset, f"test/{kind}-v0")
    assert (written.total_episodes, written.total_steps) == (3, 8)
    again = import_episodes(f"minari:test/{kind}-v0", tmp_path / "again")
    assert (again.observation_space, again.action_space) == (dataset.observation_space, dataset.action_space)
    for k in range(3):
        found, expected = (tree_flatten(tuple(one.episode(k))) for one in (again, dataset))
        for name, leaf in expected.items():
            np.testing.assert_array_equal(found[name], leaf)
    assert again.about == {"source": f"minari:test/{kind}-v0", "minari_id": f"test/{kind}-v0"}


def write_mixed(folder, space=ALL):
    """Two episodes of three random actions of parts, whose keys are in no order."""
    with EpisodeWriter(folder, gym.spaces.Discrete(2), space, about={}) as writer:
        for k in range(2):
            action = random_actions(writer.action_space, 3, torch.Generator().manual_seed(k)).numpy()
            writer.add(Episode(np.zeros(4, np.int64), action, np.zeros(3, np.float32), True, False))
    return EpisodeDataset.open(folder)


# Breaks if the space that Minari reads is taken, whose keys are sorted: the parts of an action change places.
def test_mixed_actions_keep_their_order(tmp_path):
    dataset = write_mixed(tmp_path / "log")
    to_minari(dataset, "mixed-v0")
    assert list(minari.load_dataset("mixed-v0").action_space) == ["arm", "force", "which"]
    again = from_minari(tmp_path / "again", "mixed-v0")
    assert list(again.action_space) == list(ALL) == ["which", "arm", "force"]
    assert again.action_space == dataset.action_space
    for k in range(2):
        np.testing.assert_array_equal(again.episode(k).action, dataset.episode(k).action)
        assert again.episode(k).action.shape == (3, *tensor_space(ALL).shape)


# Breaks if a given space is not taken, or the logged one is compared in its order, or with the environment's types.
def test_the_order_of_a_given_space_is_taken(tmp_path):
    """Datasets that Minari combines have lost their own."""
    dataset = write_mixed(tmp_path / "log")
    for name in ("one-v0", "two-v0"):
        to_minari(dataset, name)
    minari.combine_datasets([minari.load_dataset(name) for name in ("one-v0", "two-v0")], "both-v0")
    assert list(from_minari(tmp_path / "sorted", "both-v0").action_space) == ["arm", "force", "which"]
    again = from_minari(tmp_path / "again", "both-v0", action_space=ALL)
    assert again.action_space == dataset.action_space
    np.testing.assert_array_equal(again.episode(3).action, dataset.episode(1).action)


def parts_of(**changes):
    return gym.spaces.Dict(OrderedDict(ALL.spaces | changes))


# Breaks where `difference` lacks the clause of the message.
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (parts_of(which=gym.spaces.Discrete(4)), "action.which is Discrete(3, start=-1), not Discrete(4)"),
        (parts_of(arm=gym.spaces.Tuple(ALL["arm"].spaces[:2])), "action.arm is Tuple("),
        (
            parts_of(arm=gym.spaces.Tuple([*ALL["arm"].spaces[:2], gym.spaces.Dict(lamp=gym.spaces.MultiBinary(2))])),
            "action.arm.2 has the keys ['light'], not ['lamp']",
        ),
        (parts_of(legs=gym.spaces.Discrete(2)), "action has the keys ['which', 'arm', 'force'], not ['which', 'arm', "),
        (gym.spaces.Box(np.zeros(90, np.float32), np.arange(90, dtype=np.float32)), "action is Dict('which': "),
    ],
)
def test_a_given_space_that_is_another(tmp_path, given, message):
    to_minari(write_mixed(tmp_path / "log"), "mixed-v0")
    refuse(tmp_path, "mixed-v0", f"minari:mixed-v0 was logged in another environment: {message}", action_space=given)


# Breaks if --env is refused for Minari, or the environment's own order is not taken from it.
def test_the_command_takes_the_environment(tmp_path, capsys):
    dataset = write_mixed(tmp_path / "log")
    assert main(["export", str(tmp_path / "log"), "--to-minari", "mixed-v0"]) == 0
    again = str(tmp_path / "again")
    assert main(["import", "minari:mixed-v0", "--env", "CartPole-v1", "--dataset-dir", again]) == 2
    err = capsys.readouterr().err
    assert "minari:mixed-v0 was logged in another environment: observation is Discrete(2), not Box(" in err
    assert err.count("\n") == 1
    gym.register("OneBit-v0", OneBit)
    assert main(["import", "minari:mixed-v0", "--env", "OneBit-v0", "--dataset-dir", again]) == 0
    imported = EpisodeDataset.open(again)
    assert (imported.action_space, imported.about["env"]) == (dataset.action_space, "OneBit-v0")


class OneBit(gym.Env):
    observation_space, action_space = gym.spaces.Discrete(2), ALL

    def reset(self, *, seed=None, options=None):
        return 0, {}


def test_minari_sees_values_of_its_spaces(tmp_path):
    """In the environment's own units, as Minari's own readers expect."""
    data = to_minari(write(tmp_path / "log"), "test/own-v0")
    assert json.loads(data.storage.metadata["description"]) == {"env": "x"}
    for episode in data.iterate_episodes():
        assert all(action in ACTION for action in episode.actions)
        assert all(one in OBSERVATION["pair"][0] for one in episode.observations["pair"][0])
        assert len(episode.observations["image"]) == len(episode.rewards) + 1


def test_by_its_folder_and_with_its_environment(tmp_path, minari_folder):
    space = gym.make("CartPole-v1")
    dataset = write(tmp_path / "log", space.observation_space, space.action_space)
    to_minari(dataset, "cartpole-v0", env="CartPole-v1")
    again = from_minari(tmp_path / "again", minari_folder / "cartpole-v0", about={"hide": [1]})
    assert len(from_minari(tmp_path / "third", minari_folder / "cartpole-v0" / "data")) == 8
    assert again.about["env"] == "CartPole-v1"
    assert again.about["env_kwargs"] == []
    assert again.about["hide"] == [1]
    assert again.returns.tolist() == dataset.returns.tolist()


# Break: f"{key}={value}" in `_environment`: "False" is then a text, which counts as true.
def test_the_environments_arguments_are_read_back(tmp_path):
    """As JSON; an object, which no text could give back, is named as left out."""
    lake = gym.make("FrozenLake-v1", is_slippery=False)
    dataset = write(tmp_path / "log", lake.observation_space, lake.action_space)
    to_minari(dataset, "lake-v0", env=lake.spec)
    kwargs = from_minari(tmp_path / "again", "lake-v0").about["env_kwargs"]
    assert parse_env_kwargs(tuple(kwargs)) == {"map_name": "4x4", "is_slippery": False}
    spec = SimpleNamespace(id="Mine-v0", kwargs={"map": ["SF", "HG"], "model": object(), "limit": None})
    about = _environment(SimpleNamespace(id="x-v0", env_spec=spec))
    assert about["env_kwargs"] == ['map=["SF", "HG"]', "limit=null"]
    assert about["env_kwargs_left_out"] == ["model"]


def test_subsets_are_written_alone(tmp_path):
    part = write(tmp_path / "log").subset(np.array([0, 2]))
    assert to_minari(part, "test/part-v0").total_steps == 7


def test_no_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_minari(write(tmp_path / "log", *SPACES["vector"]), "test/quiet-v0")


def damage(path, episode, name, change):
    import h5py

    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        values = change(file[f"episode_{episode}"][name][()])
        del file[f"episode_{episode}"][name]
        if values is not None:
            file[f"episode_{episode}"][name] = values


def put(place, value):
    def change(values):
        values[place] = value
        return values

    return change


MALFORMED = {
    "reward NaN": ((1, "rewards", put(0, np.nan)), "episode 1, row 0: reward is nan"),
    "observation infinite": ((2, "observations", put((4, 3), -np.inf)), "episode 2, row 4: observation is -inf at [3]"),
    "action out of bounds": ((0, "actions", put((2, 1), 3)), "episode 0, row 2: action is 3.0 at [1]: outside"),
    "final observation missing": ((0, "observations", lambda x: x[:-2]), "episode 0: observation has 2 rows, not 4"),
    "terminated early": ((2, "terminations", put(1, True)), "episode 2, row 1: terminations in the middle"),
    "not ended": ((2, "truncations", put(3, False)), "episode 2 ends neither terminated nor truncated"),
    "rewards missing": ((1, "rewards", lambda _: None), "is damaged at episode 1"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_dataset_is_refused_in_one_line(tmp_path, minari_folder, kind):
    change, message = MALFORMED[kind]
    to_minari(write(tmp_path / "log", *SPACES["vector"]), "x-v0")
    damage(minari_folder / "x-v0", *change)
    refuse(tmp_path, "x-v0", message)


def refuse(tmp_path, source, *messages, **options):
    with pytest.raises(UserError) as caught:
        from_minari(tmp_path / "again", source, **options)
    text = str(caught.value)
    assert all(message in text for message in messages), text
    assert "\n" not in text
    assert not (tmp_path / "again").exists()


def test_what_is_no_minari_dataset(tmp_path, minari_folder):
    refuse(
        tmp_path, "D4RL/door/human-v2", "is not on this machine: download it with `minari download D4RL/door/human-v2`"
    )
    refuse(tmp_path, tmp_path, "cannot be read", "give a Minari dataset")
    to_minari(write(tmp_path / "log", *SPACES["vector"]), "x-v0")
    main = minari_folder / "x-v0" / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:1000])
    refuse(tmp_path, "x-v0", "is damaged at episode 0")
    shutil.rmtree(minari_folder / "x-v0" / "data")
    refuse(tmp_path, "x-v0", "minari:x-v0")


def test_what_cannot_be_written(tmp_path):
    dataset = write(tmp_path / "log", *SPACES["vector"])
    to_minari(dataset, "x-v0")
    for wrong in ("x-v0", "no id"):
        with pytest.raises(UserError, match=f"as the Minari dataset '{wrong}'") as caught:
            to_minari(dataset, wrong)
        assert "\n" not in str(caught.value)


def test_nothing_stays_behind_where_writing_fails(tmp_path, minari_folder, monkeypatch):
    dataset = write(tmp_path / "log", *SPACES["vector"])
    whole = dataset.episode
    monkeypatch.setattr(dataset, "episode", lambda k: whole(k) if k < 2 else whole(k)._replace(observation=None))
    with pytest.raises(UserError, match="cannot write"):
        to_minari(dataset, "x-v0")
    assert not (minari_folder / "x-v0").exists()


def test_minari_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r'pip install "seqrl\[offline\]"'):
        from_minari(tmp_path / "again", "x-v0")
