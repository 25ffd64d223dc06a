"""Several learners of DPO, KTO or reward models are one: the same batches, gradients and reference, one end for all."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from seqrl.algorithms import bc, dpo, kto, resume, reward_model, train
from seqrl.checkpoint import load_checkpoint
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.distributed import launch, spawn
from seqrl.errors import UserError
from seqrl.run import CHECKPOINT, Run, read_metrics
from seqrl.trajectory import tree_flatten


@pytest.fixture(scope="module", autouse=True)
def quick_start(forked_context):
    """Processes that are forked from one that has imported everything, and done nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "START", "forkserver")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def turn(text, speaker="assistant"):
    return (Turn(speaker=speaker, text=text),)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Thirteen pairs of answers of different lengths, and a clone that says either."""
    folder, words = tmp_path_factory.mktemp("dpo"), ["yes", "no", "maybe not", "well yes and no", "no no"]
    pairs = [
        Preference(
            id=str(k), prompt=turn(f"is it {words[k % 4]}", "user"), chosen=turn(words[k % 5]),
            rejected=turn(words[(k + 1 + k // 5) % 5]),
        )
        for k in range(13)
    ]  # fmt: skip
    write_preferences(folder / "pairs.jsonl", pairs)
    logged = [Dialogue(id=each.id, turns=each.prompt + each.chosen, agent="assistant") for each in pairs]
    write_dialogues(folder / "log.jsonl", logged)
    bc.train(bc.Config(
        dialogues=str(folder / "log.jsonl"), run_dir=str(folder / "bc"), hidden_size=8, num_steps=5, held_out=0.0,
        batch_size=4, warmup=0,
    ))  # fmt: skip
    return dpo.Config(
        policy=str(folder / "bc"), preferences=str(folder / "pairs.jsonl"), num_steps=6, batch_size=5, warmup=0,
        learning_rate=1e-2, log_every=1, checkpoint_every=2, held_out=0.2,
    )  # fmt: skip


def lines_of(run):
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(run)]


def check_that_two_are_one(config, folder):
    """Train alone and in two; weights and logs are the same but for rounding."""
    one = train(replace(config, run_dir=str(folder / "one")))
    two = train(replace(config, run_dir=str(folder / "two"), num_learners=2))
    for name, weight in two.state_dict().items():
        torch.testing.assert_close(weight, one.state_dict()[name], rtol=1e-3, atol=1e-4)
    for line, expected in zip(lines_of(folder / "two"), lines_of(folder / "one"), strict=True):
        assert line == pytest.approx(expected, rel=2e-3, abs=2e-4)


def check_that_one_may_die(work, config, folder):
    """A run of two learners of which one dies, once resumed, ends as folder/two did, bit for bit."""
    part = replace(config, run_dir=str(folder / "part"), num_learners=2)
    with pytest.raises(UserError, match="learner 0 crashed"):
        spawn(work, 2, part, False)
    resume(folder / "part")
    ends = [tree_flatten(load_checkpoint(folder / name / CHECKPOINT)[0]) for name in ("two", "part")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert lines_of(folder / "part") == lines_of(folder / "two")


def crashing_share(group, config, resume, share=dpo.train_share):
    """The first learner dies once it has logged step 3."""
    log_line = Run.log

    def crashing(self, step, metrics):
        log_line(self, step, metrics)
        if step == 3:
            raise OSError("the end")

    Run.log = crashing
    share(group, config, resume)


# Broken by a gradient that is a mean over learners, not over their pairs (shares have 3 and 2), by a reference that was
# asked about whole batches, or by another learner's draws; and by a resumed learner whose reference is 0.
def test_two_learners_are_one_also_when_one_dies(config, tmp_path):
    check_that_two_are_one(config, tmp_path)
    assert lines_of(tmp_path / "two")[0]["chosen_reward"] == 0.0  # to the last bit
    check_that_one_may_die(crashing_share, config, tmp_path)


# Broken by a z, or by rewards of the log, that are of a learner's own share; and by a z that the held-out loss asks for.
def test_two_learners_of_kto_are_one_also_when_one_dies(config, tmp_path):
    judged = kto.Config(
        policy=config.policy, preferences=config.preferences, num_steps=6, batch_size=5, warmup=0, learning_rate=1e-2,
        log_every=1, checkpoint_every=2, held_out=0.2, beta=1.0,
    )  # fmt: skip
    check_that_two_are_one(judged, tmp_path)
    assert max(line["kl"] for line in lines_of(tmp_path / "two")) > 1e-3
    check_that_one_may_die(partial(crashing_share, share=kto.train_share), judged, tmp_path)


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
