"""Episodes to be looked at: what is gathered of them, and that it is what was played."""

import dataclasses
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from torch import nn

from seqrl.algorithms import ppo, r2d2
from seqrl.config import make_environment
from seqrl.decision_agent import DecisionAgent
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.inspection.episodes import inspect, leaves_of, total_of
from seqrl.memory.base import Memory

TMAZE = ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=4",), hidden_size=8, seed=3)


def built(config, module=ppo):
    with make_closing(config) as environment:
        spaces = environment.single_observation_space, environment.single_action_space
        return module.build(config, *spaces).eval()


def make_closing(config):
    return closing(make_environment(config, 1))


def played(config, module=ppo, number=2, **options):
    with make_closing(config) as environment:
        return inspect(built(config, module), environment, number, seed=5, **options)


# Break: the observation after the action's in row t; rewards of the row before; a final row left out.
@pytest.mark.parametrize("sample", [False, True])
def test_rows_are_those_that_were_played(sample):
    episodes = played(TMAZE, sample=sample)
    for k, episode in enumerate(episodes):
        steps = episode.num_steps
        assert episode.seed == 5 + k
        assert episode.observation.shape == (steps + 1, 3)
        assert episode.observation[0, 1] == 1  # at the oracle
        assert episode.value.shape == (steps + 1,)
        assert episode.policy["probs"].shape == (steps + 1, 4)
        np.testing.assert_allclose(episode.policy["probs"].sum(1), 1, rtol=1e-5)
        assert episode.terminated
        assert not episode.truncated
        assert episode.inner_starts == []
        with make_closing(TMAZE) as environment:  # the same actions lead to the same rows
            step = environment.reset(episode.seed)
            for t in range(steps):
                np.testing.assert_array_equal(step.observation[0], episode.observation[t])
                step = environment.step(torch.tensor([episode.action[t]]))
                assert float(step.reward) == episode.reward[t]
            np.testing.assert_array_equal(step.observation[0], episode.observation[steps])
            assert bool(step.terminated)


def test_the_likeliest_actions_bring_what_evaluation_says():
    with make_closing(TMAZE) as environment:
        agent = built(TMAZE)
        episodes = inspect(agent, environment, 1, seed=9)
        assert total_of(episodes[0]) == pytest.approx(evaluate(agent, environment, 1, seed=9).mean)


@pytest.mark.parametrize(
    ("memory", "names"),
    [
        ("gru", ["effect on the action taken", "effect on value", "gradient of the action taken", "gradient of value"]),
        ("transformer", ["attention, layer 1", "attention, layer 2", "effect on the action taken"]),
        ("linear_attention", ["attention, layer 1", "effect on the action taken"]),
    ],
)
def test_what_each_memory_can_tell(memory, names):
    episode = played(dataclasses.replace(TMAZE, memory=memory), number=1)[0]
    assert [recall.name for recall in episode.recalls][: len(names)] == names
    for recall in episode.recalls:
        assert [len(row) for row in recall.weights] == list(range(1, episode.num_steps + 2))
        assert all((row >= 0).all() for row in recall.weights)
        assert recall.about


def test_action_values_and_a_mask():
    name = next(name for name in gym.registry if name.startswith("Taxi-v"))
    episode = played(r2d2.Config(env=name, hidden_size=8), r2d2, number=1, max_steps=3)[0]
    assert episode.num_steps == 3
    assert (episode.terminated, episode.truncated) == (False, False)  # it was cut
    np.testing.assert_allclose(episode.value, episode.policy["values"].max(1))
    assert episode.observation["action_mask"].shape == (4, 6)
    assert episode.recalls[0].name == "effect on value of the action taken"


@pytest.mark.parametrize("context", ["reencode", "cache"])
def test_what_is_asked_for_and_attended_to(context):
    torch.manual_seed(0)
    agent = DecisionAgent(
        Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)), Discrete(4), hidden_size=8, num_layers=2,
        context_length=3, context=context,
    ).eval()  # fmt: skip
    agent.target_return = 1.0
    with make_closing(TMAZE) as environment:
        episode = inspect(agent, environment, 1)[0]
    left = 1 - np.concatenate([[0], np.cumsum(episode.reward)])
    np.testing.assert_allclose(episode.asked, left, atol=1e-5)
    assert episode.value is None
    for recall in episode.recalls[:2]:
        assert [len(row) for row in recall.weights] == [min(t + 1, 3) for t in range(episode.num_steps + 1)]
        np.testing.assert_allclose([row.sum() for row in recall.weights], 1, rtol=1e-4)


def test_continuous_actions_and_frames():
    pytest.importorskip("pygame")
    config = ppo.Config(env="Pendulum-v1", env_kwargs=("render_mode=rgb_array",), hidden_size=8, hide=(2,))
    episode = played(config, number=1, max_steps=2)[0]
    assert [frame.shape for frame in episode.frames] == [(500, 500, 3)] * 3
    assert episode.action.shape == (2, 1)
    assert episode.policy["mean"].shape == episode.policy["std"].shape == (3, 1)


def test_trials_tell_where_inner_episodes_begin():
    config = dataclasses.replace(TMAZE, env="seqrl/Bandit-v0", env_kwargs=("num_episodes=3",))
    episode = played(config, number=1)[0]
    assert episode.inner_starts == [0, 1, 2]
    assert episode.frames == []  # a batched environment draws nothing


class Latch(Memory):
    """Remembers the first row of the episode, and nothing else."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input_size = self.output_size = size
        self.mix = nn.Linear(2 * size, size)

    def initial_state(self, batch_size):
        return self.mix.weight.new_zeros(batch_size, self.input_size)

    def unroll(self, x, state, is_first):
        y = []
        for row, first in zip(x, is_first, strict=True):
            state = torch.where(first[:, None], row, state)
            y.append(self.mix(torch.cat([row, state], -1)))
        return torch.stack(y), state


def test_a_memory_of_the_first_row_is_seen_as_one():
    """Breaks if weights stand in other rows than those that they are of, or columns of the batch mix."""
    agent = built(TMAZE)
    agent.memory = Latch(8)
    with make_closing(TMAZE) as environment:
        episode = inspect(agent, environment, 1)[0]
    for recall in episode.recalls:
        for t, row in enumerate(recall.weights[1:], 1):
            assert row[0] > 0
            assert not row[1:t].any()


def test_parts_of_observations_have_names():
    space = Dict({"a": Box(0, 1, (2,)), "action_mask": Discrete(2), "b": Tuple([Discrete(3), MultiDiscrete([2, 2])])})
    leaves = leaves_of(space, {"a": 1, "action_mask": 0, "b": (2, 3)})
    assert [(name, value) for name, _, value in leaves] == [("a", 1), ("b.0", 2), ("b.1", 3)]
    assert [name for name, *_ in leaves_of(Discrete(3), 1)] == ["observation"]


@pytest.mark.parametrize("options", [{"number": 0}, {"max_steps": 0}])
def test_bad_input(options):
    with pytest.raises(UserError, match="at least 1"):
        played(TMAZE, **options)


@pytest.mark.slow
def test_at_the_junction_of_a_t_maze_the_cue_is_what_counts(tmp_path):
    """A GRU that has learnt: of the past, what was seen at the oracle makes nine tenths of the effect on the turn."""
    config = dataclasses.replace(
        TMAZE, env_kwargs=("length=8",), hidden_size=32, num_steps=120_000, run_dir=str(tmp_path / "run"), seed=0
    )
    agent = ppo.train(config)
    with make_closing(config) as environment:
        episodes = inspect(agent, environment, 4)
    for episode in episodes:
        assert total_of(episode) == 1
        past = episode.recalls[0].weights[-2][:-1]
        assert past[0] > 0.9 * past.sum()
