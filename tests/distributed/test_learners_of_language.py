"""Several learners of DPO, KTO or reward models are one: the same batches, gradients and reference, one end for all."""

from dataclasses import replace
from functools import partial

import pytest

from seqrl.algorithms import dpo, kto, reward_model, train
from seqrl.distributed import Group
from seqrl.errors import UserError
from seqrl.language_runs.learners import open_shared
from seqrl.language_runs.run import read_tokenizer
from seqrl.run_folder import read_json
from tests.distributed.two_learners import check_that_one_may_die, check_that_two_are_one, crashing, judged, lines_of

pytestmark = pytest.mark.usefixtures("quick_start")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Thirteen pairs of answers of different lengths, and a clone that says either."""
    return judged(tmp_path_factory.mktemp("dpo"))


# Broken by a gradient that is a mean over learners, not over their pairs (shares have 3 and 2), by a reference that was
# asked about whole batches, or by another learner's draws; and by a resumed learner whose reference is 0.
def test_two_learners_are_one_also_when_one_dies(config, tmp_path):
    check_that_two_are_one(config, tmp_path)
    assert lines_of(tmp_path / "two")[0]["chosen_reward"] == 0.0  # to the last bit
    check_that_one_may_die(partial(crashing, dpo.train_share), config, tmp_path)


# Broken by a z, or by rewards of the log, of a learner's own share; and by a held-out loss that asks for z.
def test_two_learners_of_kto_are_one_also_when_one_dies(config, tmp_path):
    thumbs = kto.Config(
        policy=config.policy, preferences=config.preferences, num_steps=6, batch_size=5, warmup=0, learning_rate=1e-2,
        log_every=1, checkpoint_every=2, held_out=0.2, beta=1.0,
    )  # fmt: skip
    check_that_two_are_one(thumbs, tmp_path)
    assert max(line["kl"] for line in lines_of(tmp_path / "two")) > 1e-3
    check_that_one_may_die(partial(crashing, kto.train_share), thumbs, tmp_path)


# Broken by shares of which some pairs are in two, or in none.
def test_two_learners_of_reward_models_are_one(config, tmp_path):
    shared = reward_model.Config(
        preferences=config.preferences, hidden_size=8, num_models=2, num_steps=4, batch_size=5, warmup=0, log_every=1,
        learning_rate=1e-2, held_out=0.2,
    )  # fmt: skip
    check_that_two_are_one(shared, tmp_path)
    assert (tmp_path / "two" / "held_out.json").exists()


def test_mistakes_are_named(config, tmp_path):
    with pytest.raises(UserError, match="--num-learners is 0"):
        train(replace(config, num_learners=0, run_dir=str(tmp_path / "a")))
    with pytest.raises(UserError, match="--num-learners 6 have less than one each of --batch-size 5"):
        train(replace(config, num_learners=6, run_dir=str(tmp_path / "b")))


# Broken by the first learner's own device, of which several learners would then be asked for.
def test_a_run_is_resumed_on_the_device_that_was_asked_for(config, tmp_path):
    own = replace(config, device="cuda:0", num_learners=2, run_dir=str(tmp_path / "run"))
    open_shared(Group(0, 2), own, read_tokenizer(config.policy), False)
    assert read_json(tmp_path / "run", "config.json")["device"] == "cuda"
