"""Evaluation counts whole episodes, the same number from every environment."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from seqrl.algorithms import load, ppo, train
from seqrl.envs import Environment, GymnasiumEnvironment, make
from seqrl.errors import UserError
from seqrl.evaluate import Evaluation, evaluate
from seqrl.trajectory import AgentInput, TimeStep


class Scripted(Environment):
    """Episode k of environment b pays its length once, at its end: lengths[b][k] (the last one repeats)."""

    def __init__(self, lengths: list[list[int]]):
        self.lengths, self.num_envs, self.device = lengths, len(lengths), torch.device("cpu")
        self.single_observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
        self.single_action_space = gym.spaces.Discrete(2)

    def reset(self, seed: int | None = None) -> TimeStep:
        self.episode, self.age = [0] * self.num_envs, [0] * self.num_envs
        no, yes = torch.zeros(self.num_envs, dtype=torch.bool), torch.ones(self.num_envs, dtype=torch.bool)
        return TimeStep(torch.zeros(self.num_envs, 1), torch.zeros(self.num_envs), no, no, yes, yes)

    def step(self, action: Tensor) -> TimeStep:
        reward, ended, first = torch.zeros(self.num_envs), [False] * self.num_envs, [False] * self.num_envs
        for b, lengths in enumerate(self.lengths):
            length = lengths[min(self.episode[b], len(lengths) - 1)]
            if self.age[b] == length:  # the step after the end begins the next episode
                self.episode[b], self.age[b], first[b] = self.episode[b] + 1, 0, True
                continue
            self.age[b] += 1
            if self.age[b] == length:
                reward[b], ended[b] = length, True
        over = torch.tensor(ended)
        observation = torch.zeros(self.num_envs, 1)
        return TimeStep(observation, reward, over, torch.zeros_like(over), torch.tensor(first), ~over)

    def close(self) -> None: ...
    def state_dict(self) -> None:
        return None

    def load_state_dict(self, state: Any) -> None: ...


class Counting:
    """Stands for an agent: its memory counts the rows since `is_first`, and its action is that count."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def initial_input(self, observation: Tensor) -> AgentInput:
        n = len(observation)
        return AgentInput(observation, torch.zeros(n).long(), torch.zeros(n), torch.ones(n, dtype=torch.bool))

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.full((batch_size,), 1000)

    def step(self, inputs: AgentInput, state: Tensor) -> tuple[dict[str, Any], Tensor]:
        state = torch.where(inputs.is_first, 0, state) + 1
        self.seen.append(state.tolist())
        policy = SimpleNamespace(mode=lambda: state[None], sample=lambda generator: state[None])
        return {"policy": policy}, state

    def environment_action(self, distribution: Any, raw: Tensor) -> Tensor:
        return raw


def test_every_environment_gives_its_first_episodes() -> None:
    """Golden: long and short episodes in turn have the mean (1 + 99) / 2 = 50, though most that end first are short."""
    # Breaks when `wanted` is ignored and the first `num_episodes` to end are taken.
    environment = Scripted([[1, 99] * 10, [99, 1] * 10, [1, 99] * 10, [99, 1] * 10])
    result = evaluate(Counting(), environment, 16)  # type: ignore[arg-type]
    assert sorted(result.lengths.tolist()) == [1] * 8 + [99] * 8
    assert result.mean == 50
    assert np.array_equal(result.returns, result.lengths)


def test_short_environments_do_not_count_more() -> None:
    """Golden: of environments that always give 1, 1 and 40, the mean of six episodes is 14, not nearly 1."""
    result = evaluate(Counting(), Scripted([[1], [1], [40]]), 6)  # type: ignore[arg-type]
    assert result.mean == (1 + 1 + 1 + 1 + 40 + 40) / 6


@pytest.mark.parametrize(("num_envs", "num_episodes", "counts"), [(3, 5, [2, 2, 1]), (4, 2, [1, 1, 0, 0]), (1, 3, [3])])
def test_how_many_each_gives(num_envs: int, num_episodes: int, counts: list[int]) -> None:
    lengths = [[10 * b + k + 1 for k in range(5)] for b in range(num_envs)]
    result = evaluate(Counting(), Scripted(lengths), num_episodes)  # type: ignore[arg-type]
    expected = itertools.chain(*(lengths[b][:count] for b, count in enumerate(counts)))
    assert result.lengths.tolist() == list(expected)


@pytest.mark.parametrize("num_episodes", [1, 4])
def test_an_environment_without_a_time_limit_ends(num_episodes: int) -> None:
    """Breaks where only what the environment ends counts: this would never return."""
    never = evaluate(Counting(), Scripted([[10**9], [10**9]]), 2 * num_episodes, max_length=7)  # type: ignore[arg-type]
    assert never.lengths.tolist() == [7] * 2 * num_episodes
    assert never.returns.tolist() == [0.0] * 2 * num_episodes
    assert never.num_cut == 2 * num_episodes
    long = evaluate(Counting(), Scripted([[17, 3]]), 4, max_length=7)  # type: ignore[arg-type]
    assert (long.lengths.tolist(), long.returns.tolist()) == ([7, 7, 3, 3], [0.0, 0.0, 17.0, 3.0])
    assert long.num_cut == 2
    # Breaks where an episode that ends at the greatest length counts as cut, or one that is not wanted any more.
    whole = evaluate(Counting(), Scripted([[7], [3, 9]]), 2, max_length=7)  # type: ignore[arg-type]
    assert whole.num_cut == 0


def test_memory_begins_anew_with_each_episode() -> None:
    """Golden: 3 decisions make 4 rows, of which the last shows the final observation; then a first row follows."""
    # Breaks when evaluate takes `~mask` for `is_first`, or leaves `is_first` as it was.
    agent = Counting()
    evaluate(agent, Scripted([[3], [2]]), 4)  # type: ignore[arg-type]
    counts = [list(column) for column in zip(*agent.seen, strict=True)]
    assert counts == [[1, 2, 3, 4, 1, 2, 3], [1, 2, 3, 1, 2, 3, 1]]


def test_who_watches_is_told_of_every_step() -> None:
    """Golden: episodes of 3 and 2 decisions. Rows behind an end are no steps; of episodes, those asked for count."""
    told: list[tuple[int, int]] = []
    evaluate(Counting(), Scripted([[3], [2]]), 4, watch=lambda *counts: told.append(counts))  # type: ignore[arg-type]
    assert told == [(0, 2), (1, 4), (2, 5), (2, 6), (3, 8), (3, 9), (4, 11)]


class Paced(gym.Env):
    """Deterministic: ends after 4 steps, pays 1 for each whose action is the step's parity."""

    observation_space = gym.spaces.Box(0.0, 4.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        reward = float(action == self.time % 2)
        return np.array([self.time], np.float32), reward, self.time == 4, False, {}


CONFIG = ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), num_envs=4, rollout_length=8, hidden_size=8,
                    num_epochs=1, num_minibatches=2, num_steps=64)  # fmt: skip


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_one_environment_or_many(mode: gym.vector.AutoresetMode) -> None:
    """On a deterministic environment, with a memory that is reset, each episode is the same."""
    results = []
    for num_envs in (1, 2, 7):
        env = GymnasiumEnvironment(gym.vector.SyncVectorEnv([Paced] * num_envs, autoreset_mode=mode))
        agent = ppo.build(replace(CONFIG, seed=3), env.single_observation_space, env.single_action_space)
        result = evaluate(agent, env, 7)
        assert set(result.lengths) == {4}
        assert len(set(result.returns)) == 1
        results.append(result.returns.tolist())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("sample", [False, True])
def test_the_same_seed_gives_the_same_episodes(tmp_path: Path, sample: bool) -> None:
    # Breaks when actions are drawn from torch's global generator.
    trained = train(replace(CONFIG, run_dir=str(tmp_path / "run")))
    results = []
    for agent, seed in ((trained, 1), (load(tmp_path / "run"), 1), (trained, 2)):
        env = make(CONFIG.env, 5, env_kwargs={"length": 3})
        torch.randn(3)
        results.append(evaluate(agent, env, 40, seed=seed, sample=sample).returns)
    assert np.array_equal(results[0], results[1])
    if sample:
        assert not np.array_equal(results[0], results[2])


def test_the_interval() -> None:
    """By Student's t. Must break: 1.96 for its quantile (3.18 of four), which holds the mean 70 % of times for two."""
    result = Evaluation(np.array([1.0, 2.0, 3.0, 6.0]), np.ones(4))
    assert result.mean == 3
    assert result.half_width == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2)
    assert math.isnan(Evaluation(np.ones(1), np.ones(1)).half_width)


def test_no_episodes() -> None:
    with pytest.raises(UserError, match="--num-episodes is 0"):
        evaluate(Counting(), Scripted([[1]]), 0)  # type: ignore[arg-type]
