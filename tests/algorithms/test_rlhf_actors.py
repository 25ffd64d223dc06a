"""Fine-tuning whose actors speak apart from the learner: what lag does, and what is corrected of it."""

from dataclasses import replace

import pytest
import torch
from interrupted import ends_the_same

from seqrl.algorithms import rlhf, train
from seqrl.checkpoint import load_checkpoint
from seqrl.data import Episodes
from seqrl.distributed import Shipment
from seqrl.errors import UserError
from seqrl.language.play import play
from seqrl.language.rows import rows_of
from seqrl.language.spoken import Spoken, of_tree, to_tree
from seqrl.language.tuning import observe, said_by, with_gae, with_truncated_ratio, with_vtrace
from seqrl.objectives import vtrace
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.trajectory import tree_flatten
from tests.rated import TOKENIZER, WORDLE, Rated, cloned, conversations, tuned

TURNS = Rated({("a",): 0.2, ("b",): 0.8, ("a", "a"): 1.0, ("a", "b"): -1.0}, max_turns=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of bc."""
    return cloned(tmp_path_factory.mktemp("rlhf"), 10)


def settings(folder, **others):
    return rlhf.Config(**{
        "policy": str(folder / "bc"), "num_conversations": 8, "batch_size": 4, "num_steps": 5, "checkpoint_every": 2,
        "warmup": 0, "num_epochs": 2, "group_size": 4, "learning_rate": 2e-2, "num_actors": 1, **WORDLE, **others,
    })  # fmt: skip


def lines_of(run):
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(run)]


def tensors_of(run):
    return tree_flatten(load_checkpoint(run / CHECKPOINT)[0]["agent"])


def batch_and_behaviour(has_values=True):
    """All conversations there are, as a policy says them that has moved since another said them."""
    agent, older = tuned(has_values=has_values, move=0.3), tuned(has_values=has_values)
    rows = [rows_of(each.turns, TOKENIZER) for each in conversations(TURNS, 1)]
    batch = observe(agent, rows)
    value = torch.randn_like(batch.value).masked_fill(~batch.said.valid, 0.0)
    return agent, batch._replace(value=value), said_by(older, rows)


# Broken by another seed of an actor, by weights that are not the newest, or by a correction where there is no lag.
@pytest.mark.parametrize(
    ("method", "num_actors", "kl_budget"), [("ppo", 2, 0.05), pytest.param("grpo", 1, 0.0, marks=pytest.mark.slow)]
)
def test_actors_that_take_turns_without_lag_change_nothing_to_the_last_bit(
    folder, tmp_path, method, num_actors, kl_budget
):
    config = settings(folder, method=method, kl_budget=kl_budget)
    train(replace(config, num_actors=0, run_dir=str(tmp_path / "alone")))
    train(replace(config, num_actors=num_actors, run_dir=str(tmp_path / "apart")))
    alone, apart = lines_of(tmp_path / "alone"), lines_of(tmp_path / "apart")
    assert [line | {"policy_lag": 0.0, "clipped_rho": 0.0} for line in alone] == [
        {"policy_lag": 0.0, "clipped_rho": 0.0} | line for line in apart
    ]
    one, other = tensors_of(tmp_path / "alone"), tensors_of(tmp_path / "apart")
    assert all(torch.equal(one[name], other[name]) for name in one)
    if kl_budget:
        assert any(line["taken_back"] for line in apart)


# Broken by old weights or a count of rollouts that a checkpoint does not hold.
@pytest.mark.parametrize("method", ["ppo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_lag_is_logged_corrected_and_resumed(folder, tmp_path, monkeypatch, method):
    config = settings(folder, method=method, forced_lag=2, num_actors=2, num_epochs=3)
    lines = ends_the_same(config, tmp_path, monkeypatch, at=3)
    assert [line["policy_lag"] for line in lines] == [0, 1, 2, 2, 2]
    assert lines[0]["clipped_rho"] == 0
    assert max(line["clipped_rho"] for line in lines) > 0.05
    train(replace(config, correction="none", run_dir=str(tmp_path / "none")))
    uncorrected = lines_of(tmp_path / "none")
    assert uncorrected[0] == lines[0]
    assert uncorrected[-1]["policy_loss"] != lines[-1]["policy_loss"]


# Broken by ρ twice or not at all, or by values behind the last token.
def test_with_the_policy_itself_vtrace_is_gae_and_with_another_it_is_vtrace():
    _, batch, behaviour = batch_and_behaviour()
    reward = batch.said.reward
    expected = with_gae(batch, reward, 0.9, 0.8)
    same = with_vtrace(batch, reward, batch.log_prob, 0.9, 0.8, 1.0, 1.0)
    torch.testing.assert_close((same.target, same.advantage), (expected.target, expected.advantage))
    assert same.weight.eq(1).all()
    found = with_vtrace(batch, reward, behaviour, 0.9, 0.8, 1.2, 0.9)
    next_value = torch.cat([batch.value[1:], torch.zeros_like(batch.value[:1])])
    discount = torch.full_like(reward, 0.9)
    target, advantage = vtrace(behaviour, batch.log_prob, reward, discount, batch.value, next_value, 1.2, 0.9, 0.8)
    valid = batch.said.valid
    torch.testing.assert_close(found.target, target.masked_fill(~valid, 0.0))
    torch.testing.assert_close(found.weight * found.advantage, advantage.masked_fill(~valid, 0.0))
    assert float(found.weight.max()) == pytest.approx(1.2)
    assert float(found.weight.min()) < 0.9


# Broken by `batch.weight` left out of the loss.
def test_a_ratio_that_is_not_truncated_makes_the_gradient_the_policys_own():
    """E_μ[π/μ · A ∇log π] = E_π[A ∇log π], token by token, over all there are."""
    agent, batch, behaviour = batch_and_behaviour(has_values=False)
    config = rlhf.Config(kl_weight=0.0, clip=0.2)
    advantage = torch.randn_like(batch.log_prob).masked_fill(~batch.said.valid, 0.0)

    def gradient(batch):
        agent.zero_grad()
        rlhf.loss(agent, batch, config)[0].backward()
        return [p.grad.clone() for p in agent.policy.parameters() if p.grad is not None]

    acted = batch._replace(advantage=advantage * behaviour.exp())
    wanted = gradient(batch._replace(advantage=advantage * batch.log_prob.exp()))
    torch.testing.assert_close(gradient(with_truncated_ratio(acted, behaviour, 1e6)), wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(gradient(acted), wanted, rtol=1e-2, atol=1e-4)


def test_log_probabilities_of_an_actor_are_those_of_training_to_the_last_bit():
    agent, batch, _ = batch_and_behaviour()
    rows = [rows_of(each.turns, TOKENIZER) for each in conversations(TURNS, 1)]
    assert torch.equal(said_by(agent, rows), batch.log_prob)


def test_conversations_come_through_a_pipe_as_they_were_said():
    agent = tuned()
    with torch.random.fork_rng(devices=[]):
        played = play(TURNS, agent.voice(), 5, seed=3, max_tokens=2)
    told = [replace(played[0], history=((False, "a"), (True, "b"))), *played[1:]]
    spoken = Spoken(
        played=told, scores=[[0.1] * len(each.dialogue.rewards) for each in told], disagreement=[[0.5]],
        log_prob=(torch.randn(3, 2), torch.randn(4, 3)), lag=2,
    )  # fmt: skip
    shipment = Shipment((), Episodes([], []), 7, 1, 0.5, spoken=to_tree(spoken))
    back = Shipment.from_bytes(shipment.to_bytes())
    assert (back.version, back.actor, back.trajectory) == (7, 1, ())
    found = of_tree(back.spoken, 2)
    assert (found.played, found.scores, found.disagreement) == (told, spoken.scores, [[0.5]])
    assert all(torch.equal(a, b) for a, b in zip(found.log_prob, spoken.log_prob, strict=True))


@pytest.mark.parametrize("engine", ["async", pytest.param("ray", marks=pytest.mark.slow)])
def test_processes_speak_while_the_learner_learns(folder, tmp_path, engine, forked_actors):
    pytest.importorskip("ray") if engine == "ray" else None
    config = settings(folder, method="grpo", engine=engine, num_steps=6, gold=("task",), run_dir=str(tmp_path / "run"))
    train(config)
    lines = lines_of(tmp_path / "run")
    assert len(lines) == 6
    assert lines[0]["policy_lag"] == 0
    assert lines[0]["kl"] == 0.0
    assert max(line["policy_lag"] for line in lines) >= 1
    assert all(line["gold_return"] == pytest.approx(line["episode_return"]) for line in lines)
    assert all("actor_utilisation" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_actors": 0, "engine": "async"}, "--engine async --forced-lag 0 without actors: give --num-actors"),
        ({"num_actors": 0, "forced_lag": 4}, "--engine sync --forced-lag 4 without actors"),
        ({"engine": "async", "forced_lag": 1}, "only engine sync can hold weights back"),
        ({"engine": "async", "kl_budget": 1.0}, "--kl-budget 1.0 with --engine async"),
        ({"correction": "vtrace"}, "--correction 'vtrace': choose one of importance, none"),
        ({"clip_rho": 0.0}, "--clip-rho is 0.0"),
        ({"num_actors": -1}, "--num-actors is -1"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(settings(folder, run_dir=str(tmp_path / "run"), **changes))
