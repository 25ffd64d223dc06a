"""Settings that nothing would read are refused before a run begins, and not in silence left aside."""

import pytest

from seqrl.algorithms import bc, chai, dpo, ilql, kto, read_config, reward_model, rlhf, train
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.errors import UserError

QUICK = {"num_steps": 1, "batch_size": 4, "held_out": 0.0}


def said(*texts):
    return tuple(Turn(speaker=("person", "bot")[k % 2], text=text) for k, text in enumerate(texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log, a clone of it, and pairs."""
    path = tmp_path_factory.mktemp("unread")
    write_dialogues(path / "log.jsonl", [Dialogue(id=f"d{k}", agent="bot", turns=said("x y", "x")) for k in range(8)])
    pair = Preference(id="p", prompt=said("x y"), chosen=said("", "y")[1:], rejected=said("", "x")[1:], agent="bot")
    write_preferences(path / "pairs.jsonl", [pair] * 4)
    bc.train(bc.Config(dialogues=str(path / "log.jsonl"), run_dir=str(path / "bc"), hidden_size=8, **QUICK))
    return path


def config(folder, tmp_path, algorithm, **changes):
    policy, log, pairs = (str(folder / name) for name in ("bc", "log.jsonl", "pairs.jsonl"))
    given = {
        bc: {"dialogues": log}, ilql: {"dialogues": log, "policy": policy, "hidden_size": 8},
        chai: {"dialogues": log, "policy": policy, "hidden_size": 8}, reward_model: {"preferences": pairs},
        dpo: {"preferences": pairs, "policy": policy}, kto: {"preferences": pairs, "policy": policy},
        rlhf: {"prompts": log, "policy": policy, "reward": ("length",)},
    }[algorithm]  # fmt: skip
    quick = {"num_steps": 1, "batch_size": 4} if algorithm is rlhf else QUICK
    return algorithm.Config(**quick | given | {"run_dir": str(tmp_path / "run")} | changes)


# Break: the line of `refuse_unread` in `with_model_of`, in `tune`, and in each algorithm's `train`.
@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        (dpo, {"hidden_size": 999}, "--hidden-size 999 is not read: the model is that of the policy in .*bc; leave it"),
        (kto, {"model": "gpt2"}, "--model gpt2 is not read"),
        (rlhf, {"context_length": 99}, "--context-length 99 is not read"),
        (reward_model, {"policy": "bc", "hidden_size": 16}, "--hidden-size 16 is not read"),
        (bc, {"policy": "bc", "num_layers": 3}, "--num-layers 3 is not read"),
        (dpo, {"dialogues": "log.jsonl"}, "--dialogues .*log.jsonl is not read: dpo learns from judged answers"),
        (kto, {"context_turns": 2}, "--context-turns 2 is not read"),
        (
            rlhf,
            {"dialogues": "log.jsonl"},
            "--dialogues .*log.jsonl is not read: rlhf learns from what the policy says",
        ),
        (rlhf, {"weight_decay": 0.1}, "--weight-decay 0.1 is not read"),
        (rlhf, {"held_out": 0.2}, "--held-out 0.2 is not read"),
        (reward_model, {"max_tokens": 8}, "--max-tokens 8 is not read"),
        (reward_model, {"num_heads": 2}, "--num-heads 2 is not read: --model gru has none"),
        (bc, {"num_layers": 1}, "--num-layers 1 is not read: --model gru has none"),
        (ilql, {"context_length": 64}, "--context-length 64 is not read: without --initial fresh the values' model"),
        (
            ilql,
            {"context_length": 64, "initial": "fresh"},
            "--context-length 64 is not read: --model gru has none",
        ),
        (chai, {"model": "transformer", "num_layers": 1}, "--num-layers 1 is not read: the policy is there"),
        (chai, {"context_turns": 1}, "--context-turns 1 is not read: the policy is there"),
        (bc, {"task_kwargs": ("num_words=7",)}, "--task-kwargs num_words=7 without --task"),
    ],
)
def test_what_nothing_reads_is_refused(folder, tmp_path, algorithm, changes, message):
    changes = {key: str(folder / value) if value in ("bc", "log.jsonl") else value for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        train(config(folder, tmp_path, algorithm, **changes))
    assert not (tmp_path / "run").exists()


# Break: `refuse_unread` asked about sizes that are the policy's, or about those of a run that is resumed.
def test_what_the_policy_has_may_be_said(folder, tmp_path):
    run = config(folder, tmp_path, dpo, hidden_size=8, model="gru")
    train(run)
    assert read_config(tmp_path / "run").hidden_size == 8
    dpo.train(read_config(tmp_path / "run"), resume=True)


# Break: `check_temperature` left out of `tune`, or of the `train` of ilql or chai; or refuses all of rlhf's runs.
def test_a_policy_that_speaks_at_another_temperature_is_refused(folder, tmp_path):
    """Read at 1, as these four do, the same weights say other things."""
    for temperature in (0.5, 1.0):
        run = str(tmp_path / f"tuned{temperature}")
        quick = {"num_conversations": 4, "max_tokens": 4, "method": "rloo", "group_size": 2, "run_dir": run}
        train(config(folder, tmp_path, rlhf, temperature=temperature, **quick))
        for algorithm in (dpo, kto, ilql, chai):
            settings = config(folder, tmp_path, algorithm, policy=run, run_dir=f"{run}_{algorithm.__name__}")
            expected = "tuned0.5 was fine-tuned to speak at --temperature 0.5, and would be another policy"
            if temperature == 1 and algorithm in (dpo, kto):
                train(settings)
                continue
            with pytest.raises(UserError, match=expected if temperature != 1 else "no turn has a reward"):
                train(settings)
