"""Evaluations while training: when they come, that they change nothing, and which agent is kept."""

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from seqrl.algorithms import impala, load, ppo, r2d2, recurrent_sac, resume, train
from seqrl.config import make_environment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.evaluations import SEED, Evaluations
from seqrl.run_folder import read_metrics
from seqrl.seeds import derived_seed

SMALL: dict[str, Any] = {"num_envs": 2, "rollout_length": 8, "hidden_size": 8, "evaluation_episodes": 3}
REPLAY: dict[str, Any] = {"length": 4, "overlap": 1, "burn_in": 2, "batch_size": 2, "learning_starts": 20}
REPLAY |= {"replay_capacity": 100, "replay_ratio": 1.0}
CONFIGS = {
    "ppo": ppo.Config(env="CartPole-v1", hide=(1, 3), num_steps=96, **SMALL),
    "r2d2": r2d2.Config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), num_steps=96, **SMALL, **REPLAY),
    "recurrent_sac": recurrent_sac.Config(env="seqrl/MaskedPendulum-v0", num_steps=96, **SMALL, **REPLAY),
    "impala": impala.Config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), num_steps=96, batch_size=1, **SMALL),
}


def evaluated(folder: Path) -> dict[int, float]:
    return {int(line["step"]): line["eval_return"] for line in read_metrics(folder) if "eval_return" in line}


def learnt(line: dict[str, float]) -> dict[str, float]:
    """A line of the log without what the clock says, and without evaluations."""
    clock = ("steps_per_second", "actor_utilisation", "learner_utilisation")
    return {key: value for key, value in line.items() if key not in ("eval_return", *clock)}


def weights(agent: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in agent.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", CONFIGS)
def test_they_come_evenly_and_change_nothing(name: str, tmp_path: Path) -> None:
    plain = replace(CONFIGS[name], run_dir=str(tmp_path / "plain"))
    watched = replace(plain, num_evaluations=3, run_dir=str(tmp_path / "watched"))
    one, two = train(plain), train(watched)
    assert list(evaluated(tmp_path / "watched")) == [32, 64, 96]  # breaks where `_number` rounds up
    assert equal(weights(one), weights(two))  # breaks where an evaluation draws from the run's own generators
    logs = [[learnt(line) for line in read_metrics(tmp_path / folder)] for folder in ("plain", "watched")]
    assert logs[0] == logs[1]
    with contextlib.closing(make_environment(watched, 2)) as environment:
        again = evaluate(load(tmp_path / "watched"), environment, 3, derived_seed(watched.seed, SEED, 0) >> 2)
    assert evaluated(tmp_path / "watched")[96] == again.mean


class SharedDraws(gym.Env[Any, Any]):
    """As older environments: it draws from everyone's generators, and seeds them."""

    observation_space, action_space = gym.spaces.Box(0, 1, (3,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        if seed is not None:
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        self.time = 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.time += 1
        return self.seen(), float(action), self.time == 5, False, {}

    def seen(self) -> Any:
        return np.array([random.random(), np.random.random(), float(torch.rand(()))], np.float32)


@pytest.fixture
def registered() -> Iterator[None]:
    gym.register("SharedDraws-v0", entry_point=SharedDraws)
    yield
    del gym.registry["SharedDraws-v0"]


@pytest.mark.usefixtures("registered")
def test_nothing_changes_where_environments_share_their_draws(tmp_path: Path) -> None:
    """Breaks where the shared generators go on from where an evaluation leaves them."""
    plain = replace(CONFIGS["ppo"], env="SharedDraws-v0", hide=(), run_dir=str(tmp_path / "plain"))
    one, two = train(plain), train(replace(plain, num_evaluations=3, run_dir=str(tmp_path / "watched")))
    assert equal(weights(one), weights(two))
    logs = [[learnt(line) for line in read_metrics(tmp_path / folder)] for folder in ("plain", "watched")]
    assert logs[0] == logs[1]


@pytest.mark.usefixtures("registered")
def test_an_environment_that_cannot_be_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def make(self: SharedDraws) -> None:
        made.append(self)
        if len(made) > CONFIGS["ppo"].num_envs:
            raise RuntimeError("the port is taken")

    monkeypatch.setattr(SharedDraws, "__init__", make)
    config = replace(CONFIGS["ppo"], env="SharedDraws-v0", hide=(), num_evaluations=3, run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError) as caught:
        train(config)
    assert str(caught.value) == (
        "cannot make environment 'SharedDraws-v0': the port is taken (to evaluate it beside those that are trained in: "
        "--num-evaluations 0 --keep last trains without)"
    )


def test_as_many_as_there_are_updates_where_more_are_asked_for(tmp_path: Path) -> None:
    train(replace(CONFIGS["ppo"], num_evaluations=1000, run_dir=str(tmp_path / "run")))
    assert list(evaluated(tmp_path / "run")) == [16, 32, 48, 64, 80, 96]


SEEN = list[dict[str, Tensor]]


def scripted(monkeypatch: pytest.MonkeyPatch, means: list[float], others: list[list[float]]) -> tuple[SEEN, SEEN]:
    """Evaluations bring `means`, and the last and the best agent `others` when they play once more; the agents that
    they see."""
    seen: tuple[SEEN, SEEN] = [], []

    def play(self: Evaluations, purpose: int) -> list[float]:
        seen[purpose].append(weights(self.agent))
        number = len(seen[purpose]) - 1
        return others[number] if purpose else [means[number]] * 3

    monkeypatch.setattr(Evaluations, "_play", play)
    return seen


@pytest.mark.parametrize(
    ("means", "others", "kept"),
    [
        ([1, 5, 3], [[3, 3, 3], [5, 5, 5]], 1),
        ([5, 5, 3], [[3, 3, 3], [5, 5, 5]], 1),  # breaks where `>=` is `>`
        ([-3, -2, -1], [], 2),  # breaks where nobody asks whether the last is the best
        ([1, 5, 3], [[3, 3, 3], [3, 3, 3]], 2),  # breaks where the episodes that it was chosen by decide
        ([1, 5, 3], [[3, 3, 3], [1, 5, 9]], 2),  # 2 ± 9.9; breaks where the interval is left out
        ([1, 5, 3], [[99, 3, 51], [101, 5, 53]], 1),  # 2 ± 0, episode by episode; breaks where they are not paired
    ],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_best_is_kept_where_it_is_clearly_better_than_the_last(
    name: str, means: list[float], others: list[list[float]], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, again = scripted(monkeypatch, means, others)
    agent = train(replace(CONFIGS[name], num_evaluations=3, keep="best", run_dir=str(tmp_path / "run")))
    assert not equal(seen[0], seen[1])
    assert equal(weights(agent), seen[kept])
    assert equal(weights(load(tmp_path / "run")), seen[kept])  # breaks where the agent is chosen after the last save
    assert tuple(evaluated(tmp_path / "run").values()) == tuple(means)
    log = list(read_metrics(tmp_path / "run"))
    assert log[-1]["kept_return"] == means[kept]  # breaks where it is always the last one's
    assert not any("kept_return" in line for line in log[:-1])
    if again:
        assert equal(again[0], seen[2])
        assert equal(again[1], seen[1])


def test_the_mean_of_the_last_weights_is_what_the_last_evaluation_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = scripted(monkeypatch, [1, 2, 3], [])
    config = replace(CONFIGS["ppo"], num_evaluations=3, keep="best", weight_average=1.0, run_dir=str(tmp_path / "run"))
    assert equal(weights(train(config)), seen[2])  # breaks where evaluations come before the average is taken


def test_training_on_goes_on_from_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ = scripted(monkeypatch, [1, 5, 3, 4, 2], [[3.0] * 3, [5.0] * 3, [2.0] * 3, [5.0] * 3])
    train(replace(CONFIGS["ppo"], num_evaluations=3, keep="best", run_dir=str(tmp_path / "run")))
    agent = resume(tmp_path / "run", 192)
    assert list(evaluated(tmp_path / "run")) == [32, 64, 96, 128, 192]
    assert equal(weights(agent), seen[1])


def test_other_episodes_decide_than_those_it_was_chosen_by(tmp_path: Path) -> None:
    config = replace(CONFIGS["ppo"], num_evaluations=3, run_dir=str(tmp_path / "run"))
    evaluations = Evaluations(config, train(config))
    assert evaluations._play(0) == evaluations._play(0) != evaluations._play(1)


def test_its_seconds_do_not_count_in_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 0.0

    def slow(self: Evaluations, purpose: int) -> list[float]:
        nonlocal ahead
        ahead += 10_000.0
        return [1.0, 2.0, 3.0]

    monkeypatch.setattr(Evaluations, "_play", slow)
    monkeypatch.setattr("seqrl.run.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    for name, config in CONFIGS.items():
        train(replace(config, num_evaluations=1, run_dir=str(tmp_path / name)))
        *_, last = read_metrics(tmp_path / name)
        assert last["step"] / last["steps_per_second"] < 10_000.0  # breaks where it is not done `aside`


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"keep": "best"}, "--keep best needs evaluations to choose by: give --num-evaluations 10, or --keep last"),
        (
            {"keep": "best", "num_evaluations": 2, "evaluation_episodes": 1},
            "--keep best needs more than --evaluation-episodes 1: what is chance in a return takes at least 2 to tell",
        ),
        ({"keep": "first"}, "--keep 'first': choose last or best"),
        ({"num_evaluations": -1}, "--num-evaluations is -1: it must not be negative"),
        ({"evaluation_episodes": 0}, "--evaluation-episodes is 0: it must be at least 1"),
    ],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_settings_that_make_no_sense(name: str, settings: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(replace(CONFIGS[name], **settings, run_dir=str(tmp_path / "run")))
    assert str(caught.value) == problem
    assert not (tmp_path / "run").exists()
