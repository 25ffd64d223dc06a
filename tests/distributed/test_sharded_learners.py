"""Learners that keep a part of each weight are one learner who has them all: losses, weights and checkpoints."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from seqrl.algorithms import dpo, kto, reward_model, train
from seqrl.checkpoint import load_checkpoint
from seqrl.distributed import spawn
from seqrl.distributed.sharding import Whole, put_together, shard
from seqrl.errors import UserError
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.learner import Learner
from seqrl.run_folder import CHECKPOINT, read_json
from seqrl.trajectory import tree_flatten
from tests.distributed.two_learners import a_llama, check_that_one_may_die, check_that_two_are_one, crashing, judged

pytestmark = pytest.mark.usefixtures("quick_start")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A clone that is a GPT-2 of two blocks, and pairs."""
    return judged(tmp_path_factory.mktemp("sharded"), model="gpt2", num_heads=2)


def forms_of(run):
    """The shapes of what a checkpoint holds, but for what several learners have besides."""
    tree = {name: part for name, part in load_checkpoint(run / CHECKPOINT)[0].items() if name != "others"}
    return {name: leaf.shape for name, leaf in tree_flatten(tree).items()}


# Broken by gradients that are means over learners, not over their pairs; by weights that the reference's question left
# whole, so that the optimiser would hold others; by a checkpoint of shards, or moments that resuming does not cut.
def test_sharded_learners_of_dpo_are_one_also_when_one_dies(config, tmp_path):
    config = replace(config, num_steps=4)
    check_that_two_are_one(config, tmp_path, shard=True)
    assert forms_of(tmp_path / "two") == forms_of(tmp_path / "one")
    check_that_one_may_die(partial(crashing, dpo.train_share), replace(config, shard=True), tmp_path)


@pytest.mark.slow
def test_blocks_that_are_computed_again_are_put_together_again(config, tmp_path):
    thumbs = kto.Config(
        policy=config.policy, preferences=config.preferences, num_steps=3, batch_size=5, warmup=0, log_every=1,
        held_out=0.2, beta=1.0, learning_rate=1e-2,
    )  # fmt: skip
    check_that_two_are_one(thumbs, tmp_path, shard=True, gradient_checkpointing=True)


# Broken by scores that the first learner centres alone, for which it would wait in vain.
@pytest.mark.parametrize(
    "model",
    ["the policy's", *(pytest.param(name, marks=pytest.mark.slow) for name in ("transformer", "a folder's"))],
)
def test_sharded_learners_of_reward_models_are_one(config, tmp_path, model):
    begins = {"policy": config.policy} if model == "the policy's" else {"model": model, "num_heads": 2}
    begins["hidden_size"] = 8
    if model == "a folder's":
        begins = {"model": str(a_llama(tmp_path / "llama")), "lora_rank": 2}  # it has its own size
    shared = reward_model.Config(
        preferences=config.preferences, num_models=2, num_steps=4, batch_size=5, warmup=0, log_every=1,
        learning_rate=1e-2, held_out=0.2, **begins,
    )  # fmt: skip
    check_that_two_are_one(shared, tmp_path, shard=True)
    assert forms_of(tmp_path / "two") == forms_of(tmp_path / "one")
    told = [read_json(tmp_path / name, "held_out.json") for name in ("one", "two")]
    assert told[1]["log_loss"] == pytest.approx(told[0]["log_loss"], abs=1e-3)


def look_at_shares(group):
    """Each learner holds half of all weights, gradients and moments; what is written is whole."""
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocabulary_size=10, hidden_size=8, num_layers=2, num_heads=2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    number = sum(value.numel() for value in before.values())
    shard(model, model.blocks(), "cpu", ["logits", "read"])
    tokens = torch.arange(12).view(6, 2) % 10
    with torch.no_grad(), put_together(model):
        assert sum(p.numel() for p in model.parameters() if not hasattr(p, "full_tensor")) == number
        for _ in range(1 + group.rank):  # each as often as it likes
            model.read(tokens, torch.full((2,), 6), model.start(2))
    with torch.no_grad():
        model.logits(model(tokens))
    learner = Learner(model, 0.1, 1.0)
    learner.update(model.logits(model(tokens)).square().mean())
    for tensors in (learner.parameters, [p.grad for p in learner.parameters], learner.exp_avg, learner.exp_avg_sq):
        assert sum(tensor.to_local().numel() for tensor in tensors) == number // 2
    after = Whole(model).state_dict()
    assert not torch.equal(after["norm.weight"], before["norm.weight"])
    Whole(model).load_state_dict(before)
    assert all(torch.equal(value, before[name]) for name, value in Whole(model).state_dict().items())


# Broken by `reshard_after_forward` left out: the learner would then be made of whole weights; by `put_together` that
# does not let go again, or leaves parts as they are.
def test_each_learner_holds_its_part():
    spawn(look_at_shares, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_learners": 1}, "--shard with --num-learners 1: there is nobody to share weights with"),
        ({"model": "gru"}, "--shard with --model gru: only transformers have blocks"),
    ],
)
def test_mistakes_are_named(config, tmp_path, changes, message):
    settings = {"num_learners": 2, "shard": True, "hidden_size": 8, "model": "transformer", **changes}
    with pytest.raises(UserError, match=message):
        train(reward_model.Config(preferences=config.preferences, run_dir=str(tmp_path / "run"), **settings))
