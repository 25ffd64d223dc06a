"""Collected episodes are whole, the right ones, and what was played."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from seqrl.algorithms import ppo
from seqrl.collect import Scripted, _Rows, collect, random_actions, random_policy
from seqrl.data import EpisodeDataset, EpisodeWriter
from seqrl.envs import Environment, GymnasiumEnvironment, make
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.trajectory import AgentInput, tree_leaves

MODES = list(gym.vector.AutoresetMode)


class Clock(gym.Env):
    """Shows its episode's number and the time. Episode k lasts 1 + (first + k) % 4 steps; odd ones are truncated.

    Actions go from 3 to 7; the reward is the action.
    """

    observation_space = gym.spaces.Box(0.0, 1000.0, (2,))
    action_space = gym.spaces.Discrete(5, start=3)

    def __init__(self, first: int = 0):
        self.first, self.episode = first, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.episode = 0 if seed is not None else self.episode + 1
        self.time = 0
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        over, odd = self.time == 1 + (self.first + self.episode) % 4, self.episode % 2 == 1
        observation = np.array([self.episode, self.time], np.float32)
        return observation, float(action), over and not odd, over and odd, {}


def clocks(count: int, mode: gym.vector.AutoresetMode = MODES[0]) -> Environment:
    makers = [lambda k=k: Clock(k) for k in range(count)]
    return GymnasiumEnvironment(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode))


def always(action: int, space: gym.Space = Clock.action_space) -> Scripted:
    return Scripted(space, lambda inputs, _: torch.full((len(inputs.is_first),), action))


@pytest.mark.parametrize("mode", MODES)
def test_whole_episodes_with_their_last_observation(mode: gym.vector.AutoresetMode) -> None:
    """Golden: environment b's first episodes, row for row, the same in all three autoreset modes."""
    # Breaks with `step.observation` for the final observation (same step, disabled), with `begin` at ends in place of
    # `is_first` (next step), or with terminated and truncated swapped.
    episodes = list(collect(always(2), clocks(3, mode), 8))
    lengths = [[1, 2, 3], [2, 3, 4], [3, 4]]
    assert Counter(len(episode.reward) for episode in episodes) == Counter(itertools.chain(*lengths))
    for episode in episodes:
        number, length = int(episode.observation[0, 0]), len(episode.reward)
        assert episode.observation.tolist() == [[number, t] for t in range(length + 1)]
        assert episode.observation.dtype == np.float32
        assert episode.action.tolist() == [2] * length  # as agents give it
        assert episode.reward.tolist() == [5.0] * length  # as the environment took it: 3 + 2
        assert (episode.terminated, episode.truncated) == (number % 2 == 0, number % 2 == 1)
        assert any(length in part and part.index(length) == number for part in lengths)


def test_short_episodes_are_not_favoured() -> None:
    """Golden: of an environment whose episodes last 1 step and one with 4, each gives half of the episodes."""

    # Breaks when `wanted` is ignored and the first to end are taken.
    class Fixed(Clock):
        def __init__(self, length: int):
            super().__init__()
            self.length = length

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            observation, reward, *_ = super().step(action)
            return observation, reward, self.time == self.length, False, {}

    makers = [lambda: Fixed(1), lambda: Fixed(40)]
    environment = GymnasiumEnvironment(gym.vector.SyncVectorEnv(makers, autoreset_mode=MODES[0]))
    lengths = [len(episode.reward) for episode in collect(always(0), environment, 10)]
    assert sorted(lengths) == [1] * 5 + [40] * 5


CONFIG = ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), num_envs=4, rollout_length=8, hidden_size=8,
                    num_epochs=1, num_minibatches=2, num_steps=64)  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sample", [False, True])
def test_the_episodes_that_evaluation_plays(mode: gym.vector.AutoresetMode, sample: bool) -> None:
    """The same agent and seed give `evaluate` and `collect` the same episodes."""
    # Breaks when `inputs` are not the following ones, or the state is not handed on.
    environment = clocks(3, mode)
    spaces = environment.single_observation_space, environment.single_action_space
    agent = ppo.build(replace(CONFIG, previous_action=True, previous_reward=True), *spaces)
    with torch.no_grad():
        for parameter in agent.heads["policy"].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    result = evaluate(agent, environment, 20, seed=5, sample=sample)
    episodes = list(collect(agent, environment, 20, seed=5, sample=sample))
    expected = sorted(zip(result.returns, result.lengths, strict=True))
    assert sorted((episode.reward.sum(), len(episode.reward)) for episode in episodes) == expected
    assert len({episode.reward.sum() for episode in episodes}) > 3  # its actions differ from row to row


def test_what_a_policy_reads() -> None:
    """Golden: a function sees the previous action that was played, random ones too, and none on first rows."""
    # Breaks when the policy's own choice is handed on in place of the random action.
    seen: list[AgentInput] = []

    def choose(inputs: AgentInput, _: torch.Generator) -> Tensor:
        seen.append(inputs)
        return torch.zeros(len(inputs.is_first), dtype=torch.int64)

    episodes = list(collect(Scripted(Clock.action_space, choose), clocks(1), 50, epsilon=1.0))
    played = iter(itertools.chain(*([0, *episode.action.tolist()] for episode in episodes)))
    for inputs in seen:
        assert inputs.previous_action.item() == next(played)
        assert inputs.is_first.item() == (inputs.observation[0, 1].item() == 0)
    assert len(set(itertools.chain(*(episode.action.tolist() for episode in episodes)))) == 5


def is_random(episode: Any) -> bool:
    return bool((episode.action != 2).any())


def test_a_share_of_random_episodes() -> None:
    """Golden: exactly a quarter of the episodes, and long ones as often as short ones."""
    environment = make("CartPole-v1", 8)
    policy = Scripted(environment.single_action_space, lambda inputs, _: (inputs.observation[:, 2] > 0).long())

    def ruled(episode: Any) -> bool:
        return bool((episode.action == (episode.observation[:-1, 2] > 0)).all())

    episodes = list(collect(policy, environment, 100, seed=1, random_share=0.25))
    assert sum(not ruled(episode) for episode in episodes) == 25
    assert all(ruled(episode) for episode in collect(policy, environment, 20, seed=1))
    assert not any(ruled(episode) for episode in collect(policy, environment, 20, seed=1, random_share=1.0))


# Must break: in _random_episodes, `default_rng(seed)`. All that is held out is then random.
def test_what_is_held_out_is_as_often_random_as_the_rest(tmp_path: Path) -> None:
    environment = clocks(1)
    spaces = environment.single_observation_space, environment.single_action_space
    with EpisodeWriter(tmp_path / "log", *spaces, about={}) as writer:
        for episode in collect(always(2), environment, 200, seed=0, random_share=0.5):
            writer.add(episode)
    _, held_out = EpisodeDataset.open(tmp_path / "log").split(0.3, seed=0)
    parts = zip(held_out.starts, held_out.lengths, strict=False)
    at_random = [bool((held_out.action[start : start + count] != 2).any()) for start, count in parts]
    assert np.mean(at_random) == pytest.approx(0.5, abs=0.2)


def test_epsilon_is_the_chance_of_a_random_action() -> None:
    """Golden: with ε = ½ and 5 actions, one other than the policy's comes 0.5 · 4 / 5 = 0.4 of the time."""
    episodes = list(collect(always(2), clocks(20), 2000, epsilon=0.5))
    action = np.concatenate([episode.action for episode in episodes])
    assert np.mean(action != 2) == pytest.approx(0.4, abs=4 * 0.5 / np.sqrt(len(action)))
    assert np.bincount(action, minlength=5)[[0, 1, 3, 4]].min() > 0.08 * len(action)


def test_the_same_seed_gives_the_same_episodes() -> None:
    """Whatever else draws; and what ε draws does not change what the policy draws."""
    # Breaks when anything is drawn from a global generator.
    runs = []
    for seed in (1, 1, 2):
        torch.randn(3), np.random.rand()
        environment = make("seqrl/TMaze-v0", 3, env_kwargs={"length": 3})
        policy = random_policy(environment.single_action_space)
        runs.append([e.action.tolist() for e in collect(policy, environment, 9, seed, random_share=0.3, epsilon=0.2)])
    assert runs[0] == runs[1] != runs[2]


class Masked(gym.Env):
    """Only the actions after the time are allowed: 1 … 5, then 2 … 5, until one is left."""

    observation_space = gym.spaces.Dict(
        position=gym.spaces.Box(0.0, 9.0, (1,)), action_mask=gym.spaces.Box(0, 1, (6,), np.int8)
    )
    action_space = gym.spaces.Discrete(6)

    def _observation(self) -> dict[str, np.ndarray]:
        mask = (np.arange(6) > self.time).astype(np.int8)
        return {"position": np.array([self.time], np.float32), "action_mask": mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.time = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
        assert action > self.time
        self.time += 1
        return self._observation(), 0.0, self.time == 5, False, {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_random_actions_are_allowed_ones(mode: gym.vector.AutoresetMode, share: float) -> None:
    """Golden: all five allowed actions of the first row are drawn, each a fifth of the time; never a forbidden one."""
    # Breaks without `allowed` in `random_actions`.
    environment = GymnasiumEnvironment(gym.vector.SyncVectorEnv([Masked] * 10, autoreset_mode=mode))
    policy = random_policy(environment.single_action_space)
    episodes = list(collect(policy, environment, 300, random_share=share))
    first = np.bincount([episode.action[0] for episode in episodes], minlength=6)
    assert first[0] == 0
    assert first[1:].min() > 30
    assert all(episode.action[4] == 5 for episode in episodes)


SPACES = [
    gym.spaces.Discrete(3, start=2),
    gym.spaces.MultiDiscrete([2, 5]),
    gym.spaces.MultiBinary(3),
    gym.spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 2.5], np.float32)),
    gym.spaces.Box(np.array([-np.inf, 0.0, -np.inf], np.float32), np.array([np.inf, np.inf, 1.0], np.float32)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_random_actions_fill_their_space(space: gym.Space) -> None:
    action = random_actions(space, 4000, torch.Generator().manual_seed(0)).numpy()
    if isinstance(space, gym.spaces.Box):
        assert ((action >= space.low) & (action <= space.high)).all()
        middle = np.array([0.0, 2.25]) if space.is_bounded() else np.array([0.0, 1.0, 0.0])
        assert action.mean(0) == pytest.approx(middle, abs=0.1)
        return
    shape = space.shape
    assert action.shape == (4000, *shape)
    sizes = [3] if shape == () else [2, 5] if shape == (2,) else [2, 2, 2]
    for column, size in zip(action.reshape(4000, -1).T, sizes, strict=True):
        assert np.bincount(column) / 4000 == pytest.approx(np.full(size, 1 / size), abs=0.05)


def test_no_random_actions_of_whole_numbers() -> None:
    with pytest.raises(UserError, match="no random actions"):
        random_actions(gym.spaces.Box(0, 9, (2,), np.int64), 3, torch.Generator())


def test_rows_are_forgotten() -> None:
    """Memory holds the episodes that are going on, and no more than as much again."""
    # Breaks without `del` in `_Rows.begin`.
    rows = _Rows(2)
    for t in range(1000):
        rows.append(np.full((2, 1), t), np.zeros((2, 1)), np.zeros(2))
        if t % 10 == 9:
            episode = rows.episode(1, np.full(1, t + 1), True, False)
            assert episode.observation[:, 0].tolist() == list(range(t - 9, t + 2))
        rows.begin(np.array([t % 7 == 6, t % 10 == 9]))
        assert len(rows.rows) <= 21


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"num_episodes": 0}, "--num-episodes is 0"), ({"epsilon": -0.1}, "--epsilon is -0.1"),
     ({"random_share": 1.5}, "--random-share is 1.5")],
)  # fmt: skip
def test_numbers_outside_their_range(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        collect(always(0), clocks(1), **({"num_episodes": 3} | flags))


def test_our_environments_and_dicts(tmp_path: Path) -> None:
    """Truncated at the limit of time, and terminated as well where both hold."""
    environment = make("seqrl/TMaze-v0", 2, env_kwargs={"length": 30, "max_episode_steps": 4})
    for episode in collect(always(0, environment.single_action_space), environment, 4):
        assert (len(episode.reward), episode.terminated, episode.truncated) == (4, False, True)
        assert {len(leaf) for leaf in tree_leaves(episode.observation)} == {5}


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_random_actions_know_nothing_of_the_task(kind: str) -> None:
    """Breaks with `manual_seed(seed)` for the generator in `collect`: the first pulls then earn 0.84 and −0.36."""
    environment = make("seqrl/Bandit-v0", 2000, env_kwargs={"kind": kind, "num_episodes": 1})
    policy = random_policy(environment.single_action_space)
    mean = np.mean([episode.reward[0] for episode in collect(policy, environment, 2000, seed=7)])
    assert abs(mean - (0.5 if kind == "bernoulli" else 0.0)) < 4 * (0.5 if kind == "bernoulli" else 2**0.5) / 2000**0.5
