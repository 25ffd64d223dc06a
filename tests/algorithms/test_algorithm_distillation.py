"""Algorithm Distillation: what its loss may depend on, that acting is training, what its ablations forget, resuming."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from interrupted import ends_the_same

from seqrl.adaptation import trial_returns
from seqrl.algorithms import load, train
from seqrl.algorithms.algorithm_distillation import (
    Config,
    build,
    check,
    describe,
    loss,
    prepared,
)
from seqrl.cli import main
from seqrl.config import make_environment
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.envs.trials import unrevealed_space
from seqrl.errors import UserError
from seqrl.recipes import RECIPES
from seqrl.trajectory import tree_map

MEMORIES = ["gru", "lstm", "linear", "linear_attention", "transformer"]
SPACE = gym.spaces.Dict(
    {
        "observation": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
        "episode_start": gym.spaces.Discrete(2),
        "optimal_action": gym.spaces.Discrete(3),
    }
)
ACTIONS = gym.spaces.Discrete(3)


def written(folder, space=SPACE, num_episodes=12, seed=0, action_space=ACTIONS) -> EpisodeDataset:
    """Histories of 3 to 5 inner episodes of 2 to 4 random decisions."""
    rng = np.random.default_rng(seed)
    action_space.seed(seed)
    with EpisodeWriter(folder, space, action_space, about={}) as writer:
        for _ in range(num_episodes):
            lengths = rng.integers(2, 5, rng.integers(3, 6))
            length = int(lengths.sum())
            observation = {
                "observation": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
                "episode_start": np.isin(np.arange(length + 1), [0, *np.cumsum(lengths)]).astype(np.int64),
                "optimal_action": rng.integers(0, 3, length + 1),
            }
            observation = {name: observation[name] for name in space.spaces}
            rewards = rng.normal(size=length).astype(np.float32)
            actions = np.stack([action_space.sample() for _ in range(length)])
            writer.add(Episode(observation, actions, rewards, True, False))
    return EpisodeDataset.open(folder)


def config(**settings) -> Config:
    defaults = {"hidden_size": 16, "context_length": 6, "batch_size": 8, "num_steps": 12, "log_every": 4}
    return Config(**{**defaults, "checkpoint_every": 4, "warmup": 2, **settings})


@pytest.fixture
def log(tmp_path):
    return written(tmp_path / "log")


def made(log, **settings):
    agent = build(config(**settings), unrevealed_space(log.observation_space), log.action_space)
    with torch.no_grad():
        for head in agent.heads.values():
            head.linear.weight.normal_()  # it begins near zero: what reaches the policy should show
    describe(agent, log, num_windows=256)
    return agent


def windows_of(log, number=16, length=6):
    return log.windows(number, length, torch.Generator().manual_seed(3))


def log_probs(agent, inputs, going_on=None):
    state = agent.initial_state(inputs.is_first.shape[1])
    return agent.unroll(inputs, state, going_on)[0]["policy"].log_probs


# Break: `action.long()` left out of MultiCategorical.from_environment; `flatten(2)` for `reshape` in loss.
@pytest.mark.parametrize("action_space", [gym.spaces.MultiBinary(3), gym.spaces.Box(-2.0, 2.0, ())], ids=str)
def test_bools_and_single_numbers_are_learnt(tmp_path, action_space):
    log = written(tmp_path / "log", action_space=action_space)
    agent = made(log, memory="gru")
    total, metrics = loss(agent, windows_of(log), config())
    assert total.isfinite()
    assert ("accuracy" in metrics) == isinstance(action_space, gym.spaces.MultiBinary)
    inputs = agent.initial_input(tree_map(lambda leaf: leaf[0], windows_of(log).inputs.observation))
    outputs, _ = agent.step(inputs, agent.initial_state(16))
    action = agent.environment_action(outputs["policy"], outputs["policy"].mode()[0])
    assert action.shape == (16, *action_space.shape)


# Break: `masked_fill` in loss left out.
@pytest.mark.parametrize("memory", MEMORIES)
def test_what_stands_in_rows_without_a_decision_does_not_matter(log, memory):
    agent, windows = made(log, memory=memory), windows_of(log)
    assert not windows.mask.all()

    def spoilt(leaf):
        spoil = ~windows.mask.view(*windows.mask.shape, *[1] * (leaf.ndim - 2))
        return leaf.masked_fill(spoil, float("nan")) if leaf.is_floating_point() else leaf.masked_fill(spoil, True)

    dirty = windows._replace(inputs=tree_map(spoilt, windows.inputs), action=spoilt(windows.action))
    found = []
    for one in (windows, dirty):
        agent.zero_grad()
        total, _ = loss(agent, one, config())
        total.backward()
        found.append([total.detach(), *(p.grad.clone() for p in agent.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


# Break: `is_causal=False` in the transformer, or `previous_action` one row early in `EpisodeDataset.windows_at`.
@pytest.mark.parametrize("memory", MEMORIES)
def test_no_action_depends_on_what_comes_later_or_on_itself(log, memory):
    agent, windows = made(log, memory=memory), windows_of(log, 32)
    k = int(windows.mask.all(0).nonzero()[0])  # a window without pads
    one = tree_map(lambda leaf: leaf[:, k : k + 1], windows).inputs
    before = log_probs(agent, one)
    t = 3
    changed = tree_map(torch.clone, one)
    changed.observation["observation"][t + 1 :] *= -1
    changed.previous_action[t + 1 :] = (one.previous_action[t + 1 :] + 1) % 3  # a_t is that of row t + 1
    changed.previous_reward[t + 1 :] += 1
    after = log_probs(agent, changed)
    torch.testing.assert_close(before[: t + 1], after[: t + 1], atol=1e-6, rtol=0)
    assert (before[t + 1 :] - after[t + 1 :]).abs().amax(-1).min() > 1e-4


# Break: `windows.timestep > 0` in loss left out (the row before a window is then hidden in training alone), or the
# label's own action shown at its row.
@pytest.mark.parametrize("within_episode", [False, True])
@pytest.mark.parametrize("memory", MEMORIES)
def test_acting_is_training_on_the_window_that_ends_there(log, memory, within_episode):
    """Beyond the context too: one decision after the other, what acting says is what the loss says of its window."""
    agent = made(log, memory=memory, within_episode=within_episode, context_length=4)
    k = int(np.argmax(log.lengths))
    length = int(log.lengths[k])
    assert length > 8
    history = log.windows_at(np.array([k]), np.array([0]), length)
    acted, state = [], agent.initial_state(1)
    for t in range(length):
        row = tree_map(lambda leaf, t=t: leaf[t], history.inputs)
        outputs, state = agent.step(row, state)
        acted.append(-float(outputs["policy"].log_probs[0, 0, history.action[t, 0]].detach()))
    for t in range(3, length):
        window = log.windows_at(np.array([k]), np.array([t - 3]), 4)
        cut = window._replace(mask=window.mask & (torch.arange(4)[:, None] < 3))  # the last row, and what it adds
        whole, before = (float(loss(agent, one, config())[0].detach()) for one in (window, cut))
        assert 4 * whole - 3 * before == pytest.approx(acted[t], abs=1e-4)


# Break: `is_first` in WithinEpisode left as it is, or `going_on` not cut at inner starts.
@pytest.mark.parametrize("memory", MEMORIES)
def test_within_episode_is_each_inner_episode_by_itself(log, memory):
    agent = made(log, memory=memory, within_episode=True, context_length=30)
    history = log.windows_at(np.array([0]), np.array([0]), int(log.lengths[0])).inputs
    whole = log_probs(agent, history)
    starts = history.observation["episode_start"][:, 0].nonzero().flatten().tolist()
    assert len(starts) > 2
    for first, end in zip(starts, [*starts[1:], len(whole)], strict=True):
        part = tree_map(lambda leaf, first=first, end=end: leaf[first:end], history)
        fresh = torch.zeros_like(part.is_first).index_fill_(0, torch.tensor(0), True)
        alone = log_probs(agent, part._replace(is_first=fresh))
        torch.testing.assert_close(whole[first:end], alone, atol=1e-5, rtol=0)
    plain = made(log, memory=memory, context_length=30)
    plain.load_state_dict({name.removeprefix("agent."): leaf for name, leaf in agent.state_dict().items()})
    assert (log_probs(plain, history)[starts[1] :] - whole[starts[1] :]).abs().max() > 1e-4


# Break: `unrevealed_space` gives the space as it is, or the label is always the logged action.
@pytest.mark.parametrize("label", ["action", "optimal_action"])
def test_the_optimal_action_is_a_label_and_never_an_input(log, label):
    agent, windows = made(log), windows_of(log)
    assert set(agent.observation_space.spaces) == {"observation", "episode_start"}
    observation = dict(windows.inputs.observation)
    observation["optimal_action"] = (observation["optimal_action"] + 1) % 3
    other = windows._replace(inputs=windows.inputs._replace(observation=observation))
    one, two = (float(loss(agent, w, config(label=label))[0].detach()) for w in (windows, other))
    assert (one == two) == (label == "action")
    blind = windows._replace(action=(windows.action + 1) % 3)  # nor does the label's own action count, if it is not it
    assert (float(loss(agent, blind, config(label=label))[0].detach()) == one) == (label == "optimal_action")


# Break: `draws` or `means` left out of the parts of a checkpoint, or shuffling by a generator that goes on.
@pytest.mark.parametrize(
    "settings",
    [
        {"memory": "gru"},
        {"label": "optimal_action"},
        {"shuffle_episodes": True, "episode_stride": 2},
        {"exchange_episodes": True},
        {"within_episode": True, "context": "cache"},
    ],
    ids=str,
)
def test_interrupted_and_resumed_ends_bit_for_bit_the_same(tmp_path, monkeypatch, settings):
    log = written(tmp_path / "log", num_episodes=20)
    whole = config(dataset=str(log.folder), run_dir=str(tmp_path / "whole"), checkpoint_every=3, **settings)
    lines = ends_the_same(whole, tmp_path, monkeypatch)
    assert {"loss", "accuracy", "grad_norm", "held_out_loss", "held_out_accuracy"} <= set(lines[0])
    loaded = load(tmp_path / "part")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), load(tmp_path / "whole").parameters(), strict=True)
    )


# Breaks if `train` leaves `histories.warm()` out, or has it after `fit`.
def test_the_log_is_mapped_before_the_first_window_is_drawn(log, tmp_path, monkeypatch):
    warm, windows, calls = EpisodeDataset.warm, EpisodeDataset.windows, []
    monkeypatch.setattr(EpisodeDataset, "warm", lambda self: (calls.append("warm"), warm(self))[1])
    monkeypatch.setattr(
        EpisodeDataset, "windows", lambda self, *args: (calls.append("windows"), windows(self, *args))[1]
    )
    train(config(dataset=str(log.folder), run_dir=str(tmp_path / "run"), num_steps=1))
    assert calls[0] == "warm"
    assert calls.count("warm") == 1


def test_the_ablations_are_of_what_is_learnt_from(log):
    learnt, held_out = prepared(log, config(episode_stride=2, shuffle_episodes=True, held_out=0.2))
    assert (learnt.num_episodes, held_out.num_episodes) == (10, 2)
    assert len(learnt) + len(held_out) < len(log)
    assert prepared(log, config(held_out=0.0)) == (log, None)
    moved, _ = prepared(log, config(exchange_episodes=True, held_out=0.0))
    assert moved.num_episodes == log.num_episodes
    assert sorted(moved.action.tolist()) == sorted(log.action.tolist())
    assert moved.action.tolist() != prepared(log, config(shuffle_episodes=True, held_out=0.0))[0].action.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "best"}, "--label 'best': choose one of action, optimal_action"),
        ({"context": "all"}, "--context 'all'"),
        ({"episode_stride": 0}, "--episode-stride is 0"),
        ({"context_length": 0}, "--context-length is 0"),
        ({"held_out": 1.0}, "--held-out is 1.0"),
        ({"memory_horizon": -1}, "--memory-horizon is -1"),
        ({"memory_kwargs": ("window=5",)}, "--memory-kwargs window=5: the transformer is set by --num-layers"),
        ({"shuffle_episodes": True, "exchange_episodes": True}, "--shuffle-episodes and --exchange-episodes"),
        ({"dataset": ""}, "--dataset"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError) as error:
        train(config(**{"dataset": "nowhere", **settings}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Break: `kwargs` left out of build_memory, or the warning of `fit`; the memory is inside Reencoded, inside the agent.
def test_a_memory_of_ones_own_takes_arguments_and_its_broken_laws_are_said(log, tmp_path, monkeypatch, capsys):
    (tmp_path / "forgetless.py").write_text(
        "from seqrl.memory import GRU\n\n\nclass Own(GRU):\n"
        "    def __init__(self, input_size, hidden_size, rate):\n"
        "        super().__init__(input_size, hidden_size)\n        self.rate = rate\n\n"
        "    def unroll(self, x, state, is_first):\n        return super().unroll(x, state, is_first & False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = {"memory": "forgetless:Own", "memory_kwargs": ("rate=0.5",), "dataset": str(log.folder)}
    agent = train(config(**run, run_dir=str(tmp_path / "run")))
    assert agent.memory.memory.rate == 0.5
    assert "memory 'forgetless:Own' breaks a law of memory" in capsys.readouterr().err


def test_logs_without_what_is_to_be_learnt_are_refused(tmp_path):
    plain = {name: space for name, space in SPACE.spaces.items() if name != "optimal_action"}
    written(tmp_path / "log", gym.spaces.Dict(plain))
    train(config(dataset=str(tmp_path / "log"), run_dir=str(tmp_path / "run")))
    with pytest.raises(UserError, match=r"does not tell the optimal action .* reveal=true") as error:
        train(config(dataset=str(tmp_path / "log"), run_dir=str(tmp_path / "other"), label="optimal_action"))
    assert "\n" not in str(error.value)
    written(tmp_path / "bare", gym.spaces.Dict({"observation": plain["observation"]}))
    with pytest.raises(UserError, match="no learning histories"):
        train(config(dataset=str(tmp_path / "bare"), run_dir=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def test_from_the_command_line_to_an_agent_that_plays_without_reveal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--env", "seqrl/Bandit-v0", "--env-kwargs", "num_episodes=6", "num_arms=3", "reveal=true"]
    assert main(["collect", "ucb1", "random", *flags, "--episodes", "20", "--dataset-dir", "log"]) == 0
    flags = ["--dataset", "log", "--run-dir", "run", "--num-steps", "3", "--hidden-size", "16", "--context-length", "6"]
    assert main(["train", "decision_pretrained", *flags]) == 0
    assert main(["evaluate", "run", "--num-episodes", "4", "--sample"]) == 0
    config = dataclasses.replace(RECIPES["decision_pretrained"](), env="seqrl/Bandit-v0", env_kwargs=("num_arms=3",))
    returns = trial_returns(load("run"), make_environment(config, 2), 2)
    assert returns.shape == (2, 10)


def test_the_default_is_checked():
    check(Config())
