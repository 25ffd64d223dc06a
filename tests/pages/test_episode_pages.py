"""The pages of episodes: what their scripts are given, and how large they are."""

import base64
import json
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from markup_reading import EVIL, Page
from page_contents import ABOUT, BOX, spoken

from seqrl.algorithms import ppo
from seqrl.checkpoint import save_checkpoint
from seqrl.cli import main
from seqrl.config import make_environment
from seqrl.inspection.episodes import Episode, Recall
from seqrl.pages.dialogues import write_dialogues_page
from seqrl.pages.inspector import NAMES, episode_data, short, write_inspector
from seqrl.run_folder import config_to_json
from seqrl.spaces import space_to_json


# Breaks when an id is misspelt, as that of the mountain car was, or one entry or action has no name.
@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_an_environment(name):
    with closing(gym.make(name)) as env:
        [size] = env.observation_space.shape
        actions = env.action_space.n if isinstance(env.action_space, gym.spaces.Discrete) else env.action_space.shape[0]
    assert len(NAMES[name]["entries"]) == size
    assert len(NAMES[name]["actions"]) == actions


def episode(**changes):
    weights = [np.arange(1, min(t + 1, 3) + 1, dtype=np.float32) for t in range(5)]
    given = {
        "seed": 1, "observation": np.zeros((5, 3), np.float32), "frames": [], "action": np.zeros((4,), np.int64),
        "policy": {"probs": np.full((5, 4), 0.25)}, "value": None, "asked": None, "reward": np.ones(4),
        "terminated": False, "truncated": True, "inner_starts": [],
        "recalls": [Recall(name=EVIL, about=EVIL, weights=weights)],
    }  # fmt: skip
    return Episode(**given | changes)


# Break: rows of weights in another order, or scaled by the episode's greatest.
def test_weights_are_rows_of_bytes():
    data = episode_data(episode(), BOX)["recalls"][0]
    assert data["span"] == 3
    assert data["largest"] == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert list(base64.b64decode(data["bytes"])) == [255, 128, 255, 85, 170, 255, 85, 170, 255, 85, 170, 255]


def test_what_the_script_is_given():
    data = episode_data(episode(), BOX)
    assert data["total"] == 4.0
    assert data["steps"] == 4
    assert (data["terminated"], data["truncated"]) == (False, True)
    assert data["leaves"][0]["kind"] == "vector"
    assert short(np.array([[1.23456, -2e-9]])) == [[1.235, -2e-09]]
    images = gym.spaces.Box(0, 255, (12, 10, 3), np.uint8)
    frames = [np.zeros((20, 30, 3), np.uint8)] * 5
    data = episode_data(episode(observation=np.zeros((5, 12, 10, 3), np.uint8), frames=frames), images)
    assert data["leaves"][0]["kind"] == "image"
    assert data["frames"]["numbers"] == [0] * 5
    space = gym.spaces.Dict({"o": gym.spaces.Discrete(4), "action_mask": gym.spaces.MultiBinary(4)})
    observation = {"o": np.arange(5) % 4, "action_mask": np.ones((5, 4), bool)}
    data = episode_data(episode(observation=observation), space)
    assert data["leaves"] == [{"name": "o", "kind": "discrete", "size": 4, "values": [0, 1, 2, 3, 0]}]
    assert data["allowed"] == [[1] * 4] * 5


# Break: `_range` that looks at what was seen alone (0.15 of −1 … 1 fills its bar), or at all bounds, ±3e38 too.
def test_a_bar_is_as_long_as_its_bounds():
    far = np.finfo(np.float32).max
    state = gym.spaces.Box(np.array([0, -far], np.float32), np.array([9, far], np.float32))
    space = gym.spaces.Dict(
        {"setpoint": gym.spaces.Box(-1, 1, (1,)), "state": state, "pads": gym.spaces.MultiBinary(2)}
    )
    seen = {"setpoint": np.full((5, 1), 0.15), "state": np.full((5, 2), 3.0), "pads": np.zeros((5, 2), np.int8)}
    data = episode_data(episode(observation=seen), space)
    found = {leaf["name"]: (leaf["low"], leaf["high"]) for leaf in data["leaves"]}
    assert found == {"setpoint": ([-1], [1]), "state": ([0, 0], [9, 3]), "pads": ([0, 0], [0, 0])}
    assert data["named"]
    assert not episode_data(episode(), BOX)["named"]
    grids = gym.spaces.Box(np.arange(12.0).reshape(2, 2, 3) - 5, np.full((2, 2, 3), 20.0), dtype=np.float64)
    leaf = episode_data(episode(observation=np.zeros((5, 2, 2, 3))), grids)["leaves"][0]
    assert leaf["low"] == [-5, -2, -4, -1, -3, 0, 0, 0, 0, 0, 0, 0]  # by row, kind of category, column
    assert (len(leaf["values"]), leaf["columns"]) == (5, 6)


def test_names_and_weights_are_text(tmp_path):
    read = Page(write_inspector(tmp_path / "e.html", [episode()], BOX, ABOUT).read_text())
    assert read.count("script") == 5
    assert read.data()["episodes"][0]["recalls"][0]["name"] == EVIL.replace("\u202e", r"\u202e")


# Break: `{"value": value_name(path.parent)}` left out of `write_inspector`: values of scaled rewards beside returns.
@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"normalize_rewards": True}, "value (of scaled rewards)"),
        ({"normalize_rewards": False}, "value"),
        ({"rescale_values": True}, "value (squashed, as h(x))"),
    ],
)
def test_values_are_called_what_they_are(tmp_path, config, name):
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = Page(write_inspector(tmp_path / "e.html", [episode()], BOX, ABOUT).read_text())
    assert read.data()["names"]["value"] == name


def test_an_episode_of_500_steps_is_small(tmp_path):
    """With frames that differ in every pixel, an image that is observed, and four ways to tell what is remembered."""
    rng = np.random.default_rng(0)
    space = gym.spaces.Dict({"o": BOX, "image": gym.spaces.Box(0, 255, (1, 24, 24), np.uint8)})
    observation = {
        "o": rng.normal(size=(501, 3)).astype(np.float32),
        "image": rng.integers(0, 256, (501, 1, 24, 24), dtype=np.uint8),
    }
    weights = [rng.random(t + 1, dtype=np.float32) for t in range(501)]
    large = episode(
        observation=observation, frames=list(rng.integers(0, 256, (501, 48, 48, 3), dtype=np.uint8)),
        action=rng.integers(4, size=500), policy={"probs": rng.random((501, 4)), "entropy": rng.random(501)},
        value=rng.random(501), reward=rng.random(500), recalls=[Recall(name="a", about="b", weights=weights)] * 4,
    )  # fmt: skip
    path = write_inspector(tmp_path / "e.html", [large], space, ABOUT)
    assert 1_000_000 < path.stat().st_size < 3_000_000


def test_conversations_are_text(tmp_path):
    talks = spoken(1)
    talk = type(talks[0])(**vars(talks[0]) | {"tokens": [EVIL] * len(talks[0].tokens), "facts": {EVIL: EVIL}})
    read = Page(write_dialogues_page(tmp_path / "e.html", [talk], ABOUT).read_text())
    assert read.count("script") == 4
    assert set(read.data()["episodes"][0]["tokens"]) == {EVIL.replace("\u202e", r"\u202e")}


def run_folder(folder):
    config = ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=4",), hidden_size=8, run_dir=str(folder))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_json("ppo", config)))
    with closing(make_environment(config, 1)) as environment:
        spaces = environment.single_observation_space, environment.single_action_space
        named = dict(zip(("observation", "action"), map(space_to_json, spaces), strict=True))
        (folder / "spaces.json").write_text(json.dumps(named))
        agent = ppo.build(config, *spaces)
    save_checkpoint(folder / "checkpoint.safetensors", {"agent": agent.state_dict()}, {"step": 0})
    return folder


def test_the_command(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    assert main(["inspect", str(folder), "--num-episodes", "2", "--sample"]) == 0
    said = capsys.readouterr().out
    assert "episodes.html: returns" in said
    assert "cut" not in said
    data = Page((folder / "episodes.html").read_text()).data()
    assert [each["seed"] for each in data["episodes"]] == [10_000, 10_001]
    assert data["names"]["actions"] == ["left", "right", "up", "down"]
    assert "played with seeds 10000 to 10001, " in (folder / "episodes.html").read_text()
    assert main(["inspect", str(folder), "--num-episodes", "1", "--max-steps", "2"]) == 0
    assert " (cut after 2 steps: --max-steps). Open" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--num-episodes", "1"]) == 0
    assert "played with seed 10000, " in (folder / "episodes.html").read_text()
    for args, words in [
        ([], "needs a run folder"),
        ([str(tmp_path)], "not a run folder"),
        ([str(folder), "--num-episodes", "0"], "at least 1"),
        ([str(folder), "--seed", "-1"], "--seed is -1"),
        ([str(folder), "--env", "CartPole-v1"], "does not fit the agent"),
    ]:
        assert main(["inspect", *args]) == 2
        assert words in capsys.readouterr().err
