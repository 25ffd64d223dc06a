"""Runs of what learns to speak from logs: what they begin as, what is held out, resuming, what a folder needs."""

# ruff: noqa: F811  the fixture is imported, and tests take it by its name

import dataclasses
from typing import Any

import pytest
import torch
from interrupted import ends_the_same
from test_bc_and_ilql import KWARGS, TASK, dialogue, folder, settings  # noqa: F401

from seqrl.algorithms import bc, ilql, load_speaker, train
from seqrl.data.dialogues import write_dialogues
from seqrl.language.play import play
from seqrl.run_folder import read_json, read_metrics
from seqrl.text import make_task


# Broken by `load_weights` or `with_model_of` left out of `bc.train`.
def test_cloning_begins_as_the_run_that_is_named(folder):
    first = train(bc.Config(**settings(folder, run_dir=str(folder / "first"), best_share=0.5)))
    others = {"policy": str(folder / "first"), "learning_rate": 1e-9, "num_steps": 1, "seed": 1}
    others["hidden_size"] = bc.Config().hidden_size  # as if it was left out: it is the policy's
    second = train(bc.Config(**settings(folder, run_dir=str(folder / "second")) | others))
    torch.testing.assert_close(second.state_dict(), first.state_dict())


# Broken by what is held out being that of all dialogues.
def test_filtered_cloning_is_held_against_the_best_of_what_is_held_out(tmp_path):
    good = [dialogue("ab", rewards=(1.0,)) for _ in range(20)]
    bad = [dialogue("ba", rewards=(0.0,)) for _ in range(20)]
    log = [dataclasses.replace(each, id=str(k)) for k, each in enumerate(good + bad)]
    write_dialogues(tmp_path / "log.jsonl", log)
    changes = {"task": "", "task_kwargs": (), "num_steps": 100, "learning_rate": 3e-2, "held_out": 0.5}
    train(bc.Config(**settings(tmp_path, run_dir=str(tmp_path / "run")) | changes, best_share=0.4))
    assert list(read_metrics(tmp_path / "run"))[-1]["held_out_loss"] < 0.3


# Broken by `requires_grad_` left out of `ilql.build`.
def test_heads_alone_learn_where_that_is_asked_for(folder):
    policy = train(bc.Config(**settings(folder, run_dir=str(folder / "bc"), num_steps=1)))
    others = {"policy": str(folder / "bc"), "heads_only": True}
    agent = train(ilql.Config(**settings(folder, run_dir=str(folder / "ilql")) | others))
    torch.testing.assert_close(agent.values.model.state_dict(), policy.policy.state_dict(), atol=0, rtol=0)
    begun = ilql.build(ilql.Config(**settings(folder) | others), agent.tokenizer)
    assert not torch.equal(begun.values.v[0].weight, agent.values.v[0].weight)


# Break for those that die before their first checkpoint, "begun" and "first": load weights only where nothing is
# resumed.
@pytest.mark.parametrize("algorithm", ["bc", "filtered", "first", "ilql", "begun", "return", "utterance"])
def test_interrupted_and_resumed_ends_bit_for_bit_the_same(folder, monkeypatch, algorithm):
    whole = bc.Config(
        **settings(folder, run_dir=str(folder / "whole"), best_share=0.5 if algorithm == "filtered" else 1)
    )
    if algorithm == "first":
        train(dataclasses.replace(whole, run_dir=str(folder / "first")))
        whole = dataclasses.replace(whole, policy=str(folder / "first"), checkpoint_every=6, seed=1)
    if algorithm in ("ilql", "begun", "return", "utterance"):
        train(dataclasses.replace(whole, run_dir=str(folder / "policy")))
        others: dict[str, Any] = {"target": "return"} if algorithm == "return" else {}
        others |= {"level": "utterance"} if algorithm == "utterance" else {}
        others |= {"checkpoint_every": 6} if algorithm == "begun" else {}
        whole = ilql.Config(**settings(folder, run_dir=whole.run_dir, policy=str(folder / "policy"), **others))
    lines = ends_the_same(whole, folder, monkeypatch, at=4 if algorithm in ("begun", "first") else 8)
    assert "held_out_loss" in lines[0]


@pytest.mark.parametrize("model", ["gru", "transformer", "gpt2"])
def test_a_run_folder_is_all_that_speaking_needs(folder, model):
    sizes = {} if model == "gru" else {"num_layers": 1, "num_heads": 2, "context_length": 128}
    level = "utterance" if model == "gru" else "token"
    config = ilql.Config(**settings(folder, run_dir=str(folder / "run"), level=level, model=model, **sizes))
    trained = train(config)  # clones a policy first
    policy = folder / "run_policy"
    assert read_json(folder / "run", "policy.json") == read_json(policy, "config.json")
    (folder / "log.jsonl").unlink()
    for path in sorted(policy.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    policy.rmdir()
    loaded = load_speaker(folder / "run")
    for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    task = make_task(TASK, num_words=6)
    assert play(task, loaded.voice(), 4, max_tokens=6) == play(task, trained.voice(), 4, max_tokens=6)
