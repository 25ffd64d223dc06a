"""Decision Transformer: what its loss may depend on, that acting is training, and that it learns and resumes."""

import math
from contextlib import closing
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from interrupted import ends_the_same

from seqrl.algorithms import decision_transformer, load, train
from seqrl.algorithms.decision_transformer import Config, build, check, describe, last_timestep, loss
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.envs import GymnasiumEnvironment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.learner import Learner
from seqrl.offline import training
from seqrl.offline.config import problem_of
from seqrl.offline.training import held_out_metrics
from seqrl.run_folder import read_metrics
from seqrl.trajectory import tree_map

BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
ACTIONS = {
    "discrete": gym.spaces.Discrete(3),
    "multi-discrete": gym.spaces.MultiDiscrete([2, 3]),
    "continuous": gym.spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 1.0])),
    "unbounded": gym.spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
}


def written(folder, action_space=ACTIONS["discrete"], num_episodes=12, gamma=1.0, seed=0) -> EpisodeDataset:
    """Episodes of 1 to 9 random decisions."""
    rng = np.random.default_rng(seed)
    action_space.seed(seed)
    with EpisodeWriter(folder, BOX, action_space, about={}) as writer:
        for k in range(num_episodes):
            length = int(rng.integers(1, 10))
            action = np.stack([action_space.sample() for _ in range(length)])
            observation = rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32)
            reward = rng.normal(size=length).astype(np.float32)
            writer.add(Episode(observation, action, reward, k % 2 == 0, k % 2 == 1))
    return EpisodeDataset.open(folder, gamma)


def config(**settings) -> Config:
    defaults = {"hidden_size": 16, "num_layers": 2, "context_length": 6, "batch_size": 8, "num_steps": 12}
    return Config(**{**defaults, "log_every": 4, "checkpoint_every": 4, "warmup": 2, **settings})


@pytest.fixture(params=ACTIONS)
def log(request, tmp_path):
    return written(tmp_path / "log", ACTIONS[request.param])


def made(log, **settings):
    agent = build(config(**settings), log.observation_space, log.action_space)
    describe(agent, log, num_windows=256)
    return agent


def windows_of(log, number=16, length=6):
    return log.windows(number, length, torch.Generator().manual_seed(3))


class Brief(gym.Env):
    """Two decisions, each of which has to be of the action space."""

    observation_space = BOX

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 2
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert np.asarray(action, self.action_space.dtype) in self.action_space
        self.left -= 1
        return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}


# Break: `action.long()` left out of MultiCategorical.from_environment; `flatten(2)` for `reshape` in loss.
@pytest.mark.parametrize("action_space", [gym.spaces.MultiBinary(3), gym.spaces.Box(-2.0, 2.0, ())], ids=str)
def test_bools_and_single_numbers_are_learnt_and_played(tmp_path, action_space):
    log = written(tmp_path / "log", action_space)
    settings = {"dataset": str(log.folder), "num_layers": 1, "num_steps": 1}
    agent = train(config(**settings, run_dir=str(tmp_path / "run")))
    total, metrics = loss(agent, windows_of(log), config())
    assert total.isfinite()
    assert ("accuracy" in metrics) == isinstance(action_space, gym.spaces.MultiBinary)
    with closing(GymnasiumEnvironment(gym.vector.SyncVectorEnv([lambda: Brief(action_space)] * 2))) as environment:
        assert evaluate(agent, environment, 2).returns.tolist() == [2.0, 2.0]
    train(config(**settings, relabel="values", value_updates=1, run_dir=str(tmp_path / "qdt")))


# Break: `masked_fill` in loss left out.
def test_what_stands_in_pads_does_not_matter(log):
    agent, windows = made(log), windows_of(log)
    assert not windows.mask.all()

    def spoilt(leaf):
        spoil = ~windows.mask.view(*windows.mask.shape, *[1] * (leaf.ndim - 2))
        return leaf.masked_fill(spoil, float("nan")) if leaf.is_floating_point() else leaf.masked_fill(spoil, True)

    inputs = tree_map(spoilt, windows.inputs)
    dirty = windows._replace(inputs=inputs, action=spoilt(windows.action), return_to_go=spoilt(windows.return_to_go))
    for one in (windows, dirty):
        agent.zero_grad()
        total, _ = loss(agent, one, config())
        total.backward()
        found = [total.detach(), *(p.grad.clone() for p in agent.parameters() if p.grad is not None)]
        if one is windows:
            expected = found
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# Break: `is_causal=False` in the transformer, or observation and action at the same row swapped in the tokens.
@pytest.mark.parametrize("context", ["reencode", "cache"])
def test_no_action_depends_on_what_comes_later_or_on_itself(tmp_path, context):
    log = written(tmp_path / "log", num_episodes=20)
    agent = made(log, context=context)
    windows = windows_of(log, 32)
    k = int(windows.mask.all(0).nonzero()[0])  # a window without pads
    one = tree_map(lambda leaf: leaf[:, k : k + 1], windows)
    previous = one.inputs.previous_action

    def logits(observation, return_to_go, previous_action):
        inputs = one.inputs._replace(observation=observation, previous_action=previous_action)
        state = agent.memory.initial_state(1)
        return agent.unroll_rows(inputs, return_to_go, one.timestep, state)[0]["policy"].log_probs

    t = 3
    observation, return_to_go = one.inputs.observation.requires_grad_(), one.return_to_go.requires_grad_()
    before = logits(observation, return_to_go, previous)
    grads = torch.autograd.grad(before[t].square().sum(), [observation, return_to_go])
    for grad in grads:
        assert grad[: t + 1].abs().flatten(1).sum(1).min() > 0  # of all rows up to its own
        assert not grad[t + 1 :].any()
    changed_action = previous.clone()
    changed_action[t + 1 :] = (previous[t + 1 :] + 1) % 3  # a_t is the previous action of row t + 1
    changed = (observation.detach().clone(), return_to_go.detach().clone())
    for leaf in changed:
        leaf[t + 1 :] += 1
    after = logits(*changed, changed_action)
    assert torch.equal(before[: t + 1], after[: t + 1])
    assert not torch.equal(before[t + 1 :], after[t + 1 :])


# Break: `self.target` read after the reward in unroll, or R of the row before.
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("context", ["reencode", "cache"])
def test_acting_asks_as_training_reads(tmp_path, gamma, context):
    """Along a logged episode, asked for what it brought: step by step, the same policies as in training."""
    log = written(tmp_path / "log", gamma=gamma)
    agent = made(log, context=context, gamma=gamma, context_length=10)
    for k in range(log.num_episodes):
        windows = log.windows_at(np.array([k]), np.array([0]), int(log.lengths[k]))
        state = agent.memory.initial_state(1)
        trained, _ = agent.unroll_rows(windows.inputs, windows.return_to_go, windows.timestep, state)
        agent.target_return = float(windows.return_to_go[0, 0])
        acted, _ = agent.unroll(windows.inputs, agent.initial_state(1))
        torch.testing.assert_close(acted["policy"].log_probs, trained["policy"].log_probs, atol=1e-5, rtol=0)


# Break: `begun` as `~inputs.is_first` in unroll_rows: in training alone, the action before a window is then hidden.
def test_acting_beyond_a_window_is_training_on_the_window_that_ends_there(tmp_path):
    log = written(tmp_path / "log", num_episodes=30)
    agent = made(log, context="reencode", context_length=3)
    k = int(np.argmax(log.lengths))
    length = int(log.lengths[k])
    assert length > 6
    whole = log.windows_at(np.array([k]), np.array([0]), length)
    agent.target_return = float(whole.return_to_go[0, 0])
    acted, _ = agent.unroll(whole.inputs, agent.initial_state(1))
    for t in range(2, length):
        window = log.windows_at(np.array([k]), np.array([t - 2]), 3)
        state = agent.memory.initial_state(1)
        trained, _ = agent.unroll_rows(window.inputs, window.return_to_go, window.timestep, state)
        torch.testing.assert_close(acted["policy"].log_probs[t], trained["policy"].log_probs[2], atol=1e-5, rtol=0)


def test_both_contexts_act_alike_within_a_window_and_differ_beyond(tmp_path):
    log = written(tmp_path / "log", num_episodes=40)
    one, other = made(log, context="reencode"), made(log, context="cache")
    other.load_state_dict({name.replace("memory.memory.", "memory."): leaf for name, leaf in one.state_dict().items()})
    k = int(np.argmax(log.lengths))
    windows = log.windows_at(np.array([k]), np.array([0]), 9)
    first, second = (a.unroll(windows.inputs, a.initial_state(1))[0]["policy"].log_probs for a in (one, other))
    torch.testing.assert_close(first[:6], second[:6], atol=1e-5, rtol=0)
    assert (first[6:] - second[6:]).abs().max() > 1e-6


def test_statistics_and_target_are_the_logs(tmp_path):
    log = written(tmp_path / "log", num_episodes=30)
    agent = made(log)
    assert agent.target_return == pytest.approx(log.returns.max(), rel=1e-5)
    assert agent.return_range.tolist() == pytest.approx([log.returns.min(), log.returns.max()], rel=1e-5)
    decisions = np.concatenate([np.arange(s, s + n) for s, n in zip(log.starts[:-1], log.lengths, strict=True)])
    assert agent.return_norm.mean.item() == pytest.approx(log.return_to_go[decisions].mean(), abs=0.15)
    assert agent.encoder.encoders[0].norm.variance.mean().item() == pytest.approx(1 / 3, abs=0.1)


def test_one_batch_is_learnt_by_heart(log):
    """Every kind of action: the loss of a few windows falls far below where it began."""
    agent, windows = made(log, hidden_size=32), windows_of(log, 4)
    learner = Learner(agent, 3e-3, 1.0)
    losses = []
    for _ in range(150):
        total, metrics = loss(agent, windows, config())
        learner.update(total)
        losses.append(float(total.detach()))
    if "accuracy" in metrics:
        assert metrics["accuracy"] > 0.95
        assert losses[-1] < 0.3 * losses[0]
    else:
        assert metrics["squared_error"] < 0.05
        assert losses[-1] < losses[0] - 1


def test_squared_error_is_that_of_the_mean(tmp_path):
    log = written(tmp_path / "log", ACTIONS["continuous"])
    agent, windows = made(log), windows_of(log)
    total, metrics = loss(agent, windows, config(action_loss="squared_error"))
    assert float(total.detach()) == pytest.approx(float(metrics["squared_error"]) / 2)


# Break: `weight_decay` not handed to the learner.
def test_weight_decay_reaches_the_learner(tmp_path):
    """The same draws with and without it: the weights end smaller."""
    log = written(tmp_path / "log", num_episodes=20)
    one = train(config(dataset=str(log.folder), run_dir=str(tmp_path / "one")))
    other = train(config(dataset=str(log.folder), run_dir=str(tmp_path / "other"), weight_decay=50.0))

    def size(agent):
        return sum(float(p.detach().square().sum()) for p in agent.parameters())

    assert size(other) < 0.9 * size(one)


# Break: `draws` or `means` left out of the parts of a checkpoint.
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"relabel": "values", "value_updates": 20},
        {"best_share": 0.4},
        {"weight_decay": 1.0},
        {"return_bins": 3},
    ],
)
def test_interrupted_and_resumed_ends_bit_for_bit_the_same(tmp_path, monkeypatch, settings):
    log = written(tmp_path / "log", num_episodes=20)
    whole = config(dataset=str(log.folder), run_dir=str(tmp_path / "whole"), checkpoint_every=3, **settings)
    ends_the_same(whole, tmp_path, monkeypatch)


def test_a_loaded_agent_is_the_trained_one(tmp_path):
    log = written(tmp_path / "log", num_episodes=20)
    trained = train(config(dataset=str(log.folder), run_dir=str(tmp_path / "run")))
    loaded = load(tmp_path / "run")
    assert loaded.target_return == trained.target_return
    for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_held_out_episodes_are_not_learnt_from(tmp_path):
    log = written(tmp_path / "log", num_episodes=20)
    agent = made(log)
    metrics = held_out_metrics(agent, log.split(0.3, 0)[1], config(), loss)
    assert set(metrics) == {"held_out_loss", "held_out_log_likelihood", "held_out_accuracy"}
    train(config(dataset=str(log.folder), run_dir=str(tmp_path / "run"), held_out=0.3))
    assert "held_out_accuracy" in next(read_metrics(tmp_path / "run"))


# Breaks if the held-out loss is of returns as they were logged.
def test_what_is_held_out_is_asked_for_relabelled_returns_too(tmp_path, monkeypatch):
    log = written(tmp_path / "log", num_episodes=20)
    monkeypatch.setattr(decision_transformer, "relabelled_returns", lambda *args: np.full_like(log.return_to_go, 77.0))
    seen = []

    def spy(agent, dataset, *rest):
        seen.append(dataset.return_to_go)
        return {}

    monkeypatch.setattr(training, "held_out_metrics", spy)
    train(config(dataset=str(log.folder), run_dir=str(tmp_path / "run"), held_out=0.3, relabel="values"))
    assert seen
    assert all((each == 77.0).all() for each in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition": "wish"}, "--condition 'wish': choose one of return, none"),
        ({"context": "all"}, "--context 'all'"),
        ({"timestep": "clip"}, "--timestep 'clip'"),
        ({"relabel": "more"}, "--relabel 'more'"),
        ({"action_loss": "l1"}, "--action-loss 'l1'"),
        ({"gamma": 0.0}, "--gamma is 0.0"),
        ({"gamma": 1.1}, "--gamma is 1.1"),
        ({"best_share": 0.0}, "--best-share is 0.0"),
        ({"return_bins": 0}, "--return-bins is 0"),
        ({"condition": "none", "return_bins": 2}, "cloning would imitate rare returns more often"),
        ({"held_out": 1.0}, "--held-out is 1.0"),
        ({"context_length": 0}, "--context-length is 0"),
        ({"warmup": -1}, "--warmup is -1"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        ({"max_timestep": -1}, "--max-timestep is -1: it must not be negative"),
        ({"memory": "gru"}, "--memory gru: a Decision Transformer remembers with its transformer"),
        ({"weight_decay": 1000.0}, r"--weight-decay 1000.0 with --learning-rate 0.001: .* must be below 1"),
        ({"value_expectile": 1.0}, "--value-expectile is 1.0"),
        ({"condition": "none", "relabel": "values"}, "returns that nobody reads"),
        # Break: `check_problem` left out of `check_shared`: they are first read when the run is evaluated.
        ({"flicker": 9.0}, "--flicker is 9.0"),
        ({"noise": -1.0}, "--noise is -1.0"),
        ({"noise": math.inf}, "--noise is inf: it must be a finite number"),
        ({"num_envs": 0}, "--num-envs is 0"),
        ({"hide": (1, -1)}, "--hide -1: entries are counted from 0"),
        ({"env_kwargs": ("length",)}, "--env-kwargs 'length' is not KEY=VALUE"),
        ({"vectorization": "threads"}, "unknown vectorization 'threads'"),
        ({"autoreset_mode": "bogus"}, "unknown autoreset_mode 'bogus'"),
        ({"env": "seqrl/TMaze-v0", "autoreset_mode": "same_step"}, "resets at the next step"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check(config(**settings))


# Break: the checks left out of `problem_of`.
def test_settings_of_an_environment_that_is_the_logs(tmp_path):
    about = {"env": "seqrl/TMaze-v0", "env_kwargs": ["length=3"], "flicker": 0.1}
    with EpisodeWriter(tmp_path / "log", gym.spaces.Discrete(3), ACTIONS["discrete"], about=about) as writer:
        writer.add(Episode(np.array([0, 1]), np.array([1]), np.float32([1]), True, False))
    log = EpisodeDataset.open(tmp_path / "log")
    assert problem_of(config(flicker=0.1, env_kwargs=("length=3",)), log) == problem_of(config(), log)
    with pytest.raises(UserError, match=r"--flicker without --env: the environment is the log's, seqrl/TMaze-v0"):
        problem_of(config(flicker=0.5), log)
    with pytest.raises(UserError, match="autoreset_mode=same_step"):
        problem_of(config(autoreset_mode="same_step"), log)
    assert problem_of(config(env="CartPole-v1", flicker=0.5), log).flicker == 0.5


# Break: `lengths.min()` for `lengths.max()` in last_timestep.
def test_learned_timesteps_reach_to_the_end_of_the_longest_episode(tmp_path):
    log = written(tmp_path / "log", num_episodes=20)
    longest = int(log.lengths.max())
    learned = config(dataset=str(log.folder), timestep="learned", num_steps=1, run_dir=str(tmp_path / "run"))
    assert train(learned).max_timestep == longest
    with pytest.raises(UserError, match=rf"--max-timestep is {longest - 1}, .* give at least {longest}, or 0"):
        train(replace(learned, max_timestep=longest - 1, run_dir=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()
    assert last_timestep(replace(learned, max_timestep=longest + 1), log) == longest + 1


def test_no_dataset_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no dataset given"):
        train(config(run_dir=str(tmp_path / "run")))
    with pytest.raises(UserError, match="holds no logged episodes"):
        train(config(dataset=str(tmp_path), run_dir=str(tmp_path / "run")))
    log = written(tmp_path / "log")
    with pytest.raises(UserError, match=r"--action-loss squared_error .* needs continuous actions"):
        train(config(dataset=str(log.folder), action_loss="squared_error", run_dir=str(tmp_path / "run")))
