"""Agents with mixed actions: they act as they learn, in their own environment, and are logged and learnt from."""

import json
from collections import OrderedDict
from contextlib import closing

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mixed_actions import ALL, NAMES, SMALL, Cue, Echo, fits, lowest
from torch import nn

import seqrl
from seqrl.actions import pack, tensor_space
from seqrl.agent import Agent
from seqrl.algorithms import decision_transformer, impala, ppo, r2d2, recurrent_sac
from seqrl.audit import audit
from seqrl.cli import main
from seqrl.collect import collect, random_policy
from seqrl.config import make_environment
from seqrl.data import EpisodeDataset, EpisodeWriter, Rollout
from seqrl.data.episodes import Episode
from seqrl.envs import make
from seqrl.envs.agent_spaces import agent_space
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.export import export_agent
from seqrl.inspection.episodes import inspect
from seqrl.memory import make_memory
from seqrl.nets import Encoder, PolicyHead, ValueHead
from seqrl.pages.inspector import episode_data
from seqrl.run_folder import check_spaces
from seqrl.testing import check_agent

ECHO, CUE = "mixed_actions:MixedEcho-v0", "mixed_actions:MixedCue-v0"
BOX = spaces.Box(-1, 1, (3,), np.float32)
DONE = agent_space(ALL, "action")
QUICK = {"num_envs": 4, "num_steps": 512, "rollout_length": 16, "hidden_size": 8, "env": CUE}


def build(observation_space=BOX, action_space=DONE, memory="gru", **options):
    torch.manual_seed(0)
    heads = {"policy": PolicyHead(8, action_space), "value": ValueHead(8)}
    nn.init.normal_(heads["policy"].linear.weight)
    return Agent(
        observation_space, action_space, Encoder(observation_space, 8), make_memory(memory, 8, 8), heads, **options
    )


# Breaks if the previous action is read as one vector: what stands in the place of a choice would have a size.
@pytest.mark.parametrize("memory", ["none", "gru", "transformer"])
def test_agents_act_as_they_learn(memory):
    check_agent(build(memory=memory, use_previous_action=True, use_previous_reward=True), num_steps=7, batch_size=2)


# Breaks if `ActionEncoder` leaves a leaf out, or reads choices by their size.
def test_the_previous_action_is_read_leaf_by_leaf():
    agent = build(use_previous_action=True)
    kinds = [type(encoder).__name__ for encoder in agent.previous_action.encoders]
    assert kinds == ["DiscreteEncoder", "VectorEncoder", "DiscreteEncoder", "VectorEncoder", "VectorEncoder"]
    inputs = agent.initial_input(torch.zeros(1, 3))._replace(is_first=torch.zeros(1, dtype=torch.bool))
    low = torch.from_numpy(tensor_space(ALL).low).unsqueeze(0)
    said = []
    for place in [None, *range(len(NAMES))]:
        action = low.clone()
        if place is not None:
            action[0, place] = float(tensor_space(ALL).high[place])
        said.append(agent.step(inputs._replace(previous_action=action), agent.initial_state(1))[0]["value"].item())
    assert len(set(said)) == 1 + len(NAMES)


# Breaks if `act` hands out the packed tensor, counts from 0, or keeps the batch axis of a single observation.
def test_act_gives_what_step_takes():
    env, agent = Echo(), build(ALL)
    observation, _ = env.reset()
    for _ in range(3):
        action = agent.act(observation, sample=True)
        assert all(type(action[key]).__module__ == "numpy" for key in ("which", "force"))
        action["force"] = action["force"].astype(np.float64)  # agents compute in float32
        observation, *_ = env.step(action)
    agent.reset()
    batch = agent.act({"which": np.zeros(4, int), "arm": _batched(lowest(ALL["arm"])), "force": np.zeros((4, 1))})
    assert batch["which"].shape == (4,)
    assert batch["arm"][0].shape == (4, 1, 2)
    assert fits(ALL["which"], batch["which"][0])


def _batched(value):
    if isinstance(value, dict):
        return {key: _batched(child) for key, child in value.items()}
    return tuple(map(_batched, value)) if isinstance(value, tuple) else np.stack([value] * 4)


# Breaks if the noise of one step is that of another part, or choices are left out where noise is correlated.
def test_correlated_noise_is_of_the_numbers_alone():
    with closing(make(ECHO, 500)) as env:
        rollout = Rollout(env, build(env.single_observation_space), seed=0, noise_correlation=0.9)
        trajectory, _ = rollout.collect(8)
        assert rollout.noise.shape == (1, 500, 3)
        assert trajectory.action.shape == (8, 500, 8)
        policy = rollout.agent.unroll(trajectory.inputs, rollout.agent.initial_state(500))[0]["policy"]
    numbers = [1, 2, 7]
    noise = trajectory.action[..., numbers] - policy.mean[:-1]
    for k in range(3):
        along = np.corrcoef(noise[:-1, :, k].flatten().detach(), noise[1:, :, k].flatten().detach())[0, 1]
        assert along == pytest.approx(0.9, abs=0.05)
    assert abs(np.corrcoef(noise[..., 0].flatten().detach(), noise[..., 1].flatten().detach())[0, 1]) < 0.1
    assert all(len(trajectory.action[..., k].unique()) > 1 for k in range(8) if k not in numbers)
    log_prob = policy.log_prob(torch.cat([trajectory.action, trajectory.action[:1]]))[:-1]
    torch.testing.assert_close(log_prob, trajectory.behaviour_log_prob)  # ratio one before the first update


def log(folder, **changes):
    """A log of random actions in `Echo`."""
    with closing(make(ECHO, 3)) as env, EpisodeWriter(folder, ALL, ALL, about={"env": ECHO} | changes) as writer:
        for episode in collect(random_policy(env.single_action_space), env, 30):
            writer.add(episode)
    return EpisodeDataset.open(folder)


# Breaks if the order of a log's parts is not kept in its index, or the writer does not count choices from 0.
def test_logs_are_written_and_read_back(tmp_path):
    dataset = log(tmp_path / "log")
    assert list(dataset.action_space) == list(ALL)
    episode = dataset.episode(3)
    assert episode.action.shape == (3, 8)
    assert episode.action.dtype == np.float32
    shown = pack({key: _rows(leaf) for key, leaf in episode.observation.items()}, ALL)
    assert np.array_equal(shown.numpy(), episode.action)  # what an `Echo` shows after each decision
    figures = audit(dataset).as_dict()
    assert not [finding for finding in figures["findings"] if finding["severity"] == "wrong"]
    assert [len(share) for share in figures["figures"]["action_shares"]] == [3, 2, 4, 2, 2]


def _rows(leaf):
    return (
        tuple(map(_rows, leaf))
        if isinstance(leaf, tuple)
        else ({key: _rows(child) for key, child in leaf.items()} if isinstance(leaf, dict) else leaf[1:])
    )


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([[0.5, 0], [0, 0]], r"row 0: action is 0.5 at \[0\]: give whole numbers for discrete parts"),
        ([[0, 0], [3, 0]], r"row 1: action is 3.0 at \[0\]: outside Box"),
        ([[0, 0], [0, 1.5]], r"row 1: action is 1.5 at \[1\]: outside Box"),
        ([[0], [0]], r"action has the shape \[1\] in a row, its space Box.* has \[2\]"),
        ({"which": [0, 5], "how_much": [[0], [0]]}, r"row 1: action.which is 5: give values from 0 to 2"),
        ({"how_much": [[0], [0]]}, r"action has the keys \['how_much'\]"),
    ],
)
def test_logs_that_do_not_fit(tmp_path, action, message):
    with EpisodeWriter(tmp_path / "log", BOX, SMALL, about={}) as writer:
        writer.add(
            Episode(np.zeros((3, 3)), {"which": np.array([2, 0]), "how_much": np.ones((2, 1))}, [0, 1], True, False)
        )
        with pytest.raises(UserError, match=message):
            writer.add(Episode(np.zeros((3, 3)), action, [0.0, 1.0], True, False))
    assert EpisodeDataset.open(tmp_path / "log").episode(0).action.tolist() == [[2, 1], [0, 1]]


# Breaks if what a Decision Transformer imitates is not brought back to raw actions, or its previous action is a vector.
def test_a_decision_transformer_learns_from_logs(tmp_path):
    log(tmp_path / "log")
    sizes = {"hidden_size": 8, "num_layers": 1, "batch_size": 4, "context_length": 4}
    config = decision_transformer.Config(
        dataset=str(tmp_path / "log"), num_steps=30, run_dir=str(tmp_path / "dt"), **sizes
    )
    agent = decision_transformer.train(config)
    with closing(make(ECHO, 2)) as env:
        assert evaluate(agent, env, 4).mean == 3.0
    lines = [json.loads(line) for line in (tmp_path / "dt" / "metrics.jsonl").read_text().splitlines()]
    assert {"accuracy", "squared_error", "log_likelihood"} <= set().union(*lines)
    with pytest.raises(UserError, match=r"--action-loss squared_error .* it needs continuous actions"):
        decision_transformer.build(decision_transformer.Config(action_loss="squared_error"), BOX, SMALL)


# Breaks if the places of choices and of numbers are taken for one another.
def test_inspected_by_the_names_of_the_leaves():
    with closing(make(ECHO, 1)) as env:
        (episode,) = inspect(build(env.single_observation_space), env, 1, seed=0, sample=True)
    data = episode_data(episode, ALL)
    assert data["names"] == NAMES
    policy = data["policy"]
    assert (policy["choices"], policy["numbers"]) == ([0, 3, 4, 5, 6], [1, 2, 7])
    assert policy["sizes"] == [3, 2, 4, 2, 2]
    assert np.shape(policy["probs"]) == (4, 13)
    assert np.shape(policy["mean"]) == np.shape(policy["std"]) == (4, 3)
    assert [recall.name for recall in episode.recalls][:2] == ["effect on the action taken", "effect on value"]


# Breaks if the order of the parts is not kept in spaces.json, or is not compared.
def test_runs_are_loaded_and_checked(tmp_path):
    trained = ppo.train(ppo.Config(**QUICK, memory="gru", run_dir=str(tmp_path / "run")))
    loaded = seqrl.load(tmp_path / "run")
    assert list(loaded.action_space) == ["which", "how_much"]
    observation, _ = Cue().reset(seed=0)
    action = loaded.act(observation)
    assert fits(SMALL, action)
    assert action == trained.act(observation)
    check_spaces(tmp_path / "run", Cue.observation_space, SMALL)
    turned = spaces.Dict(OrderedDict(reversed(SMALL.spaces.items())))
    with pytest.raises(UserError, match=r"in the order \['how_much', 'which'\], not \['which', 'how_much'\]"):
        check_spaces(tmp_path / "run", Cue.observation_space, turned)


# Breaks if an actor's rollout loses the parts on its way to the learner.
@pytest.mark.usefixtures("forked_actors")
def test_actors_in_processes(tmp_path):
    config = impala.Config(**QUICK, memory="gru", engine="async", num_actors=1, run_dir=str(tmp_path / "run"))
    agent = impala.train(config)
    with closing(make_environment(config, 4)) as env:
        assert 0 <= evaluate(agent, env, 8).mean <= 3


# Breaks if one of these is made without a head for its space, or fails by a traceback.
def test_what_needs_other_actions_says_so(tmp_path, capsys):
    with pytest.raises(UserError, match=r"no value for each action of Dict.*: use a Discrete action space"):
        r2d2.build(r2d2.Config(), BOX, SMALL)
    with pytest.raises(UserError, match=r"needs bounded continuous actions, not Dict.*: use ppo or impala"):
        recurrent_sac.build(recurrent_sac.Config(), BOX, SMALL)
    for suffix, kind in ((".onnx", "onnx"), (".pt2", "torch")):
        with pytest.raises(UserError, match=r"Dict.* have no place in an exported file: act with seqrl.load"):
            export_agent(build(), tmp_path / f"agent{suffix}", kind)
    assert main(["train", "r2d2", "--env", CUE, "--run-dir", str(tmp_path / "run")]) == 2
    assert main(["train", "recurrent_sac", "--env", CUE, "--run-dir", str(tmp_path / "run")]) == 2
    assert all(line.startswith("seqrl: ") for line in capsys.readouterr().err.splitlines())
