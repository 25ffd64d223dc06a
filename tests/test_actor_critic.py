"""An actor and a critic apart: what neither learns from the other, and that all that takes an agent takes them."""

from contextlib import closing

import pytest
import torch

from seqrl.actor_critic import ActorCritic
from seqrl.algorithms import load, ppo, train
from seqrl.config import make_environment
from seqrl.data import Batch, captured
from seqrl.data.rollout import Rollout
from seqrl.evaluate import evaluate
from seqrl.export import export_agent
from seqrl.inspection.episodes import inspect
from seqrl.testing import check_agent
from seqrl.trajectory import tree_map
from tests.interrupted import ends_the_same


def config(**changes):
    settings = {"env": "seqrl/TMaze-v0", "env_kwargs": ("length=4",), "num_envs": 4, "rollout_length": 8}
    return ppo.Config(**{**settings, "hidden_size": 8, "num_steps": 320, "separate_critic": True, **changes})


def built(settings):
    with closing(make_environment(settings)) as environment:
        return ppo.build(settings, environment.single_observation_space, environment.single_action_space)


def moved(agent, head):
    """Whether the gradient of what a head says moves the actor, and the critic."""
    settings = config()
    with closing(make_environment(settings)) as environment:
        trajectory, _ = Rollout(environment, agent, 0).collect(8)
    target, advantage = torch.randn(2, 8, 4)
    inputs = tree_map(lambda leaf: leaf[:-1], trajectory.inputs)
    rows = (trajectory.action, trajectory.behaviour_log_prob, advantage, target, trajectory.mask)
    weights = {"policy": {"value_weight": 0.0}, "value": {"normalize_advantages": False, "entropy_weight": 0.0}}[head]
    if head == "value":
        rows = (*rows[:2], torch.zeros_like(advantage), *rows[3:])
    batch = Batch(inputs, *rows, state=tree_map(lambda leaf: leaf[0], trajectory.states))
    agent.zero_grad()
    ppo.loss(agent, batch, config(**weights))[0].backward()
    return [any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in (agent.actor, agent.critic)]


# Break: let `ppo.build` make both of one encoder, or `unroll` hand the critic what the actor encoded.
def test_neither_learns_from_the_other():
    agent = built(config())
    assert isinstance(agent, ActorCritic)
    assert moved(agent, "policy") == [True, False]
    assert moved(agent, "value") == [False, True]


# Break: hand the critic the actor's state in `unroll`.
@pytest.mark.parametrize("memory", ["gru", "frame_stack", "transformer"])
def test_it_acts_as_it_learns(memory):
    check_agent(built(config(memory=memory, previous_action=True, previous_reward=True)))


# Break: leave the critic out of `update_statistics`.
def test_both_standardise_what_they_read(tmp_path):
    agent = train(config(env="seqrl/MaskedPendulum-v0", env_kwargs=(), run_dir=str(tmp_path / "run")))
    norms = [part.encoder.encoders[0].norm for part in (agent.actor, agent.critic)]
    assert float(norms[0].count) == float(norms[1].count) > 0


@pytest.mark.parametrize("refresh", [False, True])
def test_interrupted_it_ends_bit_for_bit_the_same(refresh, tmp_path, monkeypatch):
    settings = config(bptt_length=4, burn_in=2, refresh_states=refresh, checkpoint_every=3)
    ends_the_same(settings, tmp_path, monkeypatch, at=7 * 32)


# Break: export the whole agent.
def test_the_actor_alone_is_exported_and_plays_the_same(tmp_path):
    settings = config(run_dir=str(tmp_path / "run"))
    train(settings)
    agent = load(tmp_path / "run")
    exported = export_agent(agent, tmp_path / "agent.onnx", num_steps=50)
    assert [name for name, *_ in exported.about["inputs"] if name.startswith("state")] == ["state"]
    with closing(make_environment(settings, 1)) as environment:
        assert evaluate(agent.actor, environment, 3, seed=5).mean == evaluate(agent, environment, 3, seed=5).mean


# Break: let `memory_of` give the actor's memory for every head, or one average for both.
def test_what_is_remembered_is_asked_of_the_memory_that_remembers_it():
    agent = built(config()).eval()
    with torch.no_grad():
        for parameter in agent.critic.encoder.parameters():
            parameter.zero_()  # it sees nothing, so nothing it saw can have an effect
    with closing(make_environment(config(), 1)) as environment:
        recalls = {recall.name: recall.weights for recall in inspect(agent, environment, 1, seed=5)[0].recalls}
    assert not any(row.any() for row in recalls["effect on value"])
    assert any(row.any() for row in recalls["effect on the action taken"])


def test_layers_of_attention_say_whose_they_are():
    agent = built(config(memory="transformer")).eval()
    with closing(make_environment(config(), 1)) as environment:
        names = [recall.name for recall in inspect(agent, environment, 1, seed=5)[0].recalls]
    assert names[:4] == [f"{whose}attention, layer {k}" for whose in ("", "critic's ") for k in (1, 2)]


# Break: let `on_device` ask for an `Agent`.
@pytest.mark.parametrize(("memory", "can"), [("gru", True), ("transformer", False)])
def test_its_acting_can_be_captured(memory, can, monkeypatch):
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    with closing(make_environment(config())) as environment:
        assert (captured.on_device(built(config(memory=memory)), environment) is not None) == can
