"""Runs of two learners: what they end with is compared with one learner's, and with that of a run that was cut off."""

from dataclasses import replace

import pytest
import torch

from seqrl.algorithms import bc, dpo, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.distributed import spawn
from seqrl.errors import UserError
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.trajectory import tree_flatten


def turn(text, speaker="assistant"):
    return (Turn(speaker=speaker, text=text),)


def judged(folder, **clone):
    """How DPO learns of thirteen pairs of answers of different lengths, from a clone that says either."""
    words = ["yes", "no", "maybe not", "well yes and no", "no no"]
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
        batch_size=4, warmup=0, **clone,
    ))  # fmt: skip
    return dpo.Config(
        policy=str(folder / "bc"), preferences=str(folder / "pairs.jsonl"), num_steps=6, batch_size=5, warmup=0,
        learning_rate=1e-2, log_every=1, checkpoint_every=2, held_out=0.2,
    )  # fmt: skip


def a_llama(folder):
    """A folder with a Hugging Face model and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    from tests.language.test_hugging_face_models import fast_tokenizer

    fast_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=32)).save_pretrained(folder)
    return folder


def lines_of(run):
    """A run's log, but for what the clock says."""
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(run)]


def check_that_two_are_one(config, folder, **settings):
    """Train alone, and in two with these settings; weights and logs are the same but for rounding."""
    one = train(replace(config, run_dir=str(folder / "one")))
    two = train(replace(config, run_dir=str(folder / "two"), num_learners=2, **settings))
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


def crashing(share, group, config, resume):
    """What a learner does in an algorithm's `share`, but the first one dies once it has logged step 3."""
    log_line = Run.log

    def crash(self, step, metrics):
        log_line(self, step, metrics)
        if step == 3:
            raise OSError("the end")

    Run.log = crash
    share(group, config, resume)
