"""What a user's environment does to the commands: keys that are hidden, bugs in one line; and figures for programs."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from seqrl.algorithms import load, read_config
from seqrl.cli import evaluation, main
from seqrl.cli.outputs import write_output
from seqrl.data import EpisodeDataset
from seqrl.envs import make
from seqrl.evaluate import evaluate
from seqrl.progress import Bar
from seqrl.run_folder import read_metrics

ROOM = """
import gymnasium as gym
import numpy as np


class Room(gym.Env):
    observation_space = gym.spaces.Dict(position=gym.spaces.Box(-9, 9, (3,)), velocity=gym.spaces.Box(-9, 9, (2,)))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, bug_at=0):
        self.bug_at, self.steps = bug_at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.bug_at:
            1 / 0
        return self.observation_space.sample(), 0.25, self.steps % 4 == 0, False, {}


gym.register("Room-v0", Room)
"""
TINY = ["--num-envs", "2", "--rollout-length", "8", "--hidden-size", "8", "--num-epochs", "1"]
TRAIN = ["train", "ppo", "--env", "room_by_test:Room-v0", *TINY, "--num-minibatches", "2", "--num-steps", "32"]
LINE = "seqrl: Room-v0 failed in step (ZeroDivisionError: division by zero, room_by_test.py:20): mend the environment\n"

pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room_by_test.py").write_text(ROOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


# Breaks if a command drops `hide`, or takes its keys for numbers.
def test_hidden_keys_through_the_commands() -> None:
    assert main([*TRAIN, "--hide", "velocity,position.1", "--run-dir", "run"]) == 0
    assert json.loads(Path("run/config.json").read_text())["hide"] == ["velocity", "position.1"]
    assert read_config("run").hide == ("velocity", "position.1")
    assert main(["train", "--resume", "run", "--num-steps", "48"]) == 0
    assert main(["evaluate", "run", "--num-episodes", "2"]) == 0
    assert main(["inspect", "run", "--num-episodes", "1"]) == 0
    assert main(["collect", "run", "random", "--num-episodes", "2", "--dataset-dir", "log"]) == 0
    dataset = EpisodeDataset.open("log")
    assert dataset.about["hide"] == ["velocity", "position.1"]
    space: Any = dataset.observation_space
    assert {key: child.shape for key, child in space.items()} == {"position": (2,)}
    other = ["collect", "random", "--env", "room_by_test:Room-v0", "--hide", "position", "--num-episodes", "2"]
    assert main([*other, "--dataset-dir", "other"]) == 0
    assert list(EpisodeDataset.open("other").observation_space) == ["velocity"]  # type: ignore[call-overload]


def test_a_key_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--hide", "velocty", "--run-dir", "run"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'velocity'? (known: position, velocity)" in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


# Breaks without `told`: a traceback, and status 1.
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_bug_in_step_is_one_line_and_the_last_checkpoint_is_kept(
    capsys: pytest.CaptureFixture[str], vectorization: str
) -> None:
    often = ["--checkpoint-every", "1", "--vectorization", vectorization, "--run-dir", "run"]
    assert main([*TRAIN, "--env-kwargs", "bug_at=12", *often]) == 2
    assert capsys.readouterr().err == LINE
    kept = Path("run/checkpoint.safetensors").read_bytes()
    few = ["--env-kwargs", "bug_at=3", "--num-envs", "2", "--num-episodes", "4"]
    assert main(["evaluate", "run", *few]) == 2
    assert capsys.readouterr().err == LINE
    assert main(["collect", "run", *few, "--dataset-dir", "log"]) == 2
    assert capsys.readouterr().err == LINE
    assert not Path("log").exists()
    assert main(["evaluate", "run", "--env-kwargs", "bug_at=0", "--num-episodes", "2"]) == 0
    assert Path("run/checkpoint.safetensors").read_bytes() == kept


def test_figures_of_an_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ppo", "--env", "seqrl/TMaze-v0", "--env-kwargs", "length=3", *TINY, "--num-minibatches", "2",
                 "--num-steps", "32", "--run-dir", "run"]) == 0  # fmt: skip
    again = ["evaluate", "run", "--num-episodes", "7", "--seed", "5", "--sample", "--env-kwargs", "length=2"]
    assert main([*again, "--output", "figures.json"]) == 0
    assert "Written: figures.json" in capsys.readouterr().out
    figures = json.loads(Path("figures.json").read_text(), parse_constant=refuse)
    result = evaluate(load("run"), make("seqrl/TMaze-v0", 7, env_kwargs={"length": 2}), 7, seed=5, sample=True)
    assert figures == {
        "run": "run", "env": "seqrl/TMaze-v0", "env_kwargs": {"length": 2}, "hide": [], "flicker": 0.0, "noise": 0.0,
        "seed": 5, "sample": True, "num_envs": 50, "num_episodes": 7, "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(), "mean": result.mean, "half_width": result.half_width,
        "num_cut": 0,
    }  # fmt: skip
    assert main(["evaluate", "run", "--num-episodes", "1", "--output", "one.json"]) == 0
    assert json.loads(Path("one.json").read_text(), parse_constant=refuse)["half_width"] is None


def test_episodes_that_are_cut_are_told_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", "ppo", "--env", "seqrl/MaskedCartPole-v0", *TINY, "--num-minibatches", "2", "--num-steps",
                 "32", "--run-dir", "run"]) == 0  # fmt: skip
    monkeypatch.setattr(evaluation, "play", functools.partial(evaluate, max_length=2))
    assert main(["evaluate", "run", "--num-episodes", "7"]) == 0
    told = (
        "7 of 7 episodes had not ended and were cut after 2 steps: give a time limit, --env-kwargs max_episode_steps="
    )
    words = capsys.readouterr().out
    assert told in words
    assert "All 7 returns are the same. That is no proof" in words  # each is 2


# Breaks without the look at the log: `evaluate` then plays for minutes what never ends, and nobody was told.
@pytest.mark.parametrize("steps", [5, 500])
def test_that_no_episode_ended_is_told(capsys: pytest.CaptureFixture[str], steps: int) -> None:
    assert main([*TRAIN, "--env-kwargs", f"max_episode_steps={steps}"]) == 0
    assert "No episode ended" not in capsys.readouterr().out
    words = ["train", "ppo", "--env", "CartPole-v1", *TINY, "--num-minibatches", "2", "--num-steps", "8"]
    assert main([*words, "--run-dir", "short"]) == 0
    assert "No episode ended in these steps, so there is no return yet" in capsys.readouterr().out


# Breaks without `_until_one_ends`, if environments of other actors are not counted, or if an argument does not come
# before the registry: a time limit was advised that was there, and was too long for these steps.
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((), "one of MountainCar-v0 may last 200 steps, and 2 are played at once; give --num-steps 400 or more\n"),
        (
            ("--env-kwargs", "max_episode_steps=1000"),
            "may last 1,000 steps, and 2 are played at once; give --num-steps 2000",
        ),
        (
            ("--env-kwargs", "max_episode_steps=-1"),
            "or give the environment a time limit, --env-kwargs max_episode_steps=",
        ),
        (
            ("--num-steps", "1600", "--checkpoint-every", "1"),
            "may last 200 steps, and each checkpoint begins new ones; give a larger --checkpoint-every\n",
        ),
    ],
)
def test_what_lets_an_episode_end(changes: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    ppo = ["train", "ppo", "--env", "MountainCar-v0", *TINY, "--num-minibatches", "2", "--num-steps", "32"]
    assert main([*ppo, *changes, "--run-dir", "run"]) == 0
    assert words in capsys.readouterr().out


def test_environments_of_all_actors_count(capsys: pytest.CaptureFixture[str]) -> None:
    actors = ["--num-actors", "3", "--engine", "sync", "--batch-size", "3"]
    impala = ["train", "impala", "--env", "MountainCar-v0", *TINY[:6], *actors, "--num-steps", "96", "--run-dir", "run"]
    assert main(impala) == 0
    assert "and 6 are played at once; give --num-steps 1200 or more" in capsys.readouterr().out


BET = """
import gymnasium as gym


class Bet(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)
    count = 0

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        self.count += 1
        return 0, 1000.0 if self.count % 400 == 0 else 1.0, True, False, {}


gym.register("Bet-v0", Bet)
"""


QUICK = ["--num-episodes", "2", "--num-evaluations", "1", "--evaluation-episodes", "2"]


# Breaks if an algorithm does not log it, logs it of rewards that it learns from as they are, or a command says nothing.
@pytest.mark.usefixtures("forked_comparisons")
@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("ppo", ["--num-minibatches", "2"]),
        ("impala", ["--num-actors", "2", "--batch-size", "2", "--engine", "sync"]),
        ("compare", ["--memories", "none", "--num-seeds", "1", "--num-minibatches", "2", *QUICK]),
    ],
)
def test_that_large_rewards_are_clipped_is_told(
    command: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bet_by_test.py").write_text(BET)
    named = (
        ["compare", "bet_by_test:Bet-v0"] if command == "compare" else ["train", command, "--env", "bet_by_test:Bet-v0"]
    )
    args = [*named, *TINY[:1], "2", "--rollout-length", "1024", "--hidden-size", "8", "--num-steps", "2048", *flags]
    for more, told in (([], True), (["--no-normalize-rewards"], False)):
        run = f"as_paid_{not told}"
        assert main([*args, *more, "--run-dir", run]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert ("of the rewards' sum from large to small ones" in words) is told
        log = Path(run) / ("none_s0" if command == "compare" else "")
        assert all(("rewards_clipped" in line) is told for line in read_metrics(log))


# Breaks where the first row's run is named, or the folder in which the comparison once was.
@pytest.mark.parametrize("named", ["mean", "returns"])
def test_of_a_comparison_the_best_run_is_named(capsys: pytest.CaptureFixture[str], named: str) -> None:
    Path("moved").mkdir()
    Path("moved/config.json").write_text('{"type": "compare"}')
    means = {"none": 0.5, "gru": 0.9, "lstm": None}
    rows = [{named: {"mean": mean} if named == "returns" else mean, "best_run": f"runs/old/{name}_s1"}
            for name, mean in means.items()]  # fmt: skip
    Path("moved/results.json").write_text(json.dumps({"rows": rows}))
    assert main(["evaluate", "moved"]) == 2
    said = "seqrl: moved is a comparison, not a run: its best one is played by seqrl evaluate moved/gru_s1\n"
    assert capsys.readouterr().err == said


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


# Breaks if the file is looked for after the episodes, or written over.
@pytest.mark.parametrize(
    ("output", "message"), [("there.json", "exists already (--output)"), ("no/x.json", "no is no folder (--output)")]
)
def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str], output: str, message: str) -> None:
    Path("there.json").write_text("mine")
    assert main([*TRAIN, "--run-dir", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--num-episodes", "1", "--output", output]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert Path("there.json").read_text() == "mine"


def test_nothing_is_written_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path().iterdir())
    write_output("", {"mean": 1.0})
    assert set(Path().iterdir()) == before
    assert capsys.readouterr().out == ""


# Breaks where `watch` is not handed on: a slow environment would look as if nothing happened.
def test_an_evaluation_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--run-dir", "run"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(Bar, "QUIET", 0.0)
    assert main(["evaluate", "run", "--num-episodes", "6", "--num-envs", "2"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"run: 0 of 6, [\d,]+ steps/s", lines[0])
    assert re.fullmatch(r"run: 6 of 6, [\d,]+ steps/s", lines[-1])
