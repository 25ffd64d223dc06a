"""Memories of one's own that are not of the contract's shapes are refused; those that break its laws are warned of."""

import re
import sys
from pathlib import Path

import pytest
import torch
from own_ema import EMA

import seqrl
from seqrl.cli import main
from seqrl.errors import UserError
from seqrl.memory import make_memory

BROKEN = (
    EMA
    + """

class Torchs(Ema):
    num_layers = 1

    def initial_state(self, batch_size):
        return torch.zeros(self.num_layers, batch_size, self.output_size)

    def unroll(self, x, state, is_first):
        return self.linear(x), state


class ThreeLayers(Torchs):
    num_layers = 3


class Nothing(Ema):
    def initial_state(self, batch_size):
        return {"m": super().initial_state(batch_size), "n": None}


class Grows(Ema):
    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 0, self.input_size)

    def unroll(self, x, state, is_first):
        return self.linear(x), torch.cat([state, x.transpose(0, 1)], 1)


class Doubles(Ema):
    def unroll(self, x, state, is_first):
        return self.linear(x), state.double()


class OneShort(Ema):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, hidden_size - 1)


class BatchFirst(Ema):
    def unroll(self, x, state, is_first):
        y, state = super().unroll(x, state, is_first)
        return y.transpose(0, 1), state


class YAlone(Ema):
    def unroll(self, x, state, is_first):
        return self.linear(x)


class Raises(Ema):
    def mix(self, state, x):
        return {}["door"]


class RaisesInTorch(Ema):
    def mix(self, state, x):
        return nn.functional.linear(x, state.new_zeros(5, 5))


class NeverForgets(Ema):
    def unroll(self, x, state, is_first):
        return super().unroll(x, state, torch.zeros_like(is_first))


class Foresees(Ema):
    def unroll(self, x, state, is_first):
        y, state = super().unroll(x, state, is_first)
        return y + self.linear(x.mean(0)), state


class Kept(Ema):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.norm, self.dropout, self.calls = nn.BatchNorm1d(input_size), nn.Dropout(), [0]

    def unroll(self, x, state, is_first):
        self.calls[0] += 1
        y, state = super().unroll(self.dropout(self.norm(x.flatten(0, 1)).view_as(x)), state, is_first)
        return y, state


class NoDoubles(Ema):
    def unroll(self, x, state, is_first):
        if torch.is_grad_enabled() and len(x) == 4:
            raise RuntimeError("no gradients here")
        return super().unroll(x, state, is_first)
"""
)
TINY = ["--env-kwargs", "length=3", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8"]
PPO = ["train", "ppo", "--env", "seqrl/TMaze-v0", *TINY, "--num-epochs", "1", "--num-minibatches", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the module, found as with PYTHONPATH=."""
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)


def line_of(text: str) -> int:
    return BROKEN.splitlines().index(text) + 1


DOOR, FIVE = '        return {}["door"]', "        return nn.functional.linear(x, state.new_zeros(5, 5))"

REFUSED = [
    ("Torchs", "initial_state(3) is [1, 3, 8], expected [3, ...], the batch first"),
    ("ThreeLayers", "initial_state(1) is [3, 1, 8], expected [1, ...], the batch first"),
    ("Nothing", "initial_state(1) n is a NoneType, expected a tensor, or a tuple or dict of tensors"),
    ("Grows", "unroll returns the state [3, 2, 8] float32, expected [3, 0, 8] float32 as it was given"),
    ("Doubles", "unroll returns the state [3, 8] float64, expected [3, 8] float32 as it was given"),
    ("OneShort", "unroll returns y [2, 3, 7], expected [2, 3, 8], which is [num_steps, batch_size, output_size]"),
    ("BatchFirst", "unroll returns y [3, 2, 8], expected [2, 3, 8]"),
    ("YAlone", "unroll returns a Tensor, expected two things, y and the state"),
    ("Raises", f"unroll fails (KeyError: 'door', broken.py line {line_of(DOOR)}): it is called"),
    ("RaisesInTorch", f"broken.py line {line_of(FIVE)})"),
]  # fmt: skip


# Breaks where `_try_out` is not called, or `_wrong_state` or `_wrong_answer` lacks the clause of the message;
# ThreeLayers if it asks for 3 rows alone, RaisesInTorch if `_what` counts torch's files.
@pytest.mark.parametrize(("kind", "message"), REFUSED, ids=[kind for kind, _ in REFUSED])
def test_refused_before_there_is_a_folder(kind: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PPO, "--num-steps", "64", "--memory", f"broken:{kind}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"seqrl: memory 'broken:{kind}': ")
    assert message in err
    assert "seqrl.testing.check_memory" in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


# Breaks where `_try_out` has no copy, or does not fork the random state.
def test_the_look_leaves_no_trace() -> None:
    torch.manual_seed(0)
    memory = make_memory("broken:Kept", 8, 8)
    after = torch.rand(())
    torch.manual_seed(0)
    fresh = sys.modules["broken"].Kept(8, 8)
    assert torch.equal(after, torch.rand(()))
    assert memory.calls == [0]
    assert memory.training
    torch.testing.assert_close(dict(memory.state_dict()), dict(fresh.state_dict()), rtol=0, atol=0)


# Breaks where what cannot be copied is refused.
def test_what_cannot_be_copied_is_tried_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import broken

    def refuse(self: object, memo: object) -> None:
        raise RuntimeError("only leaves")

    for kind in (broken.Ema, broken.OneShort):
        monkeypatch.setattr(kind, "__deepcopy__", refuse, raising=False)
    assert make_memory("broken:Ema", 8, 8).output_size == 8
    with pytest.raises(UserError, match=r"y \[2, 3, 7\]"):
        make_memory("broken:OneShort", 8, 8)


# Breaks where `TrainingState.restore` does not warn, where it does so of runs that are gone on with, or where it ends
# the run: the laws are for what remembers well, and training goes on.
@pytest.mark.parametrize(
    ("kind", "broken"),
    [("NeverForgets", r"reset: y\[.*\] is .*"), ("Foresees", r"causality: y\[.*\] is .*"), ("Ema", ""), ("Kept", "")],
)
def test_broken_laws_are_said_once(kind: str, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--memory", f"broken:{kind}", "--run-dir", "run", "--learning-rate-schedule", "constant"]
    assert main([*PPO, *run, "--num-steps", "64"]) == 0
    err = capsys.readouterr().err
    said = [line for line in err.splitlines() if "law" in line]
    assert len(said) == bool(broken)
    if broken:
        expected = (
            rf"seqrl: memory 'broken:{kind}' breaks a law of memory, so what it remembers in training is not what it "
            rf"remembers when it acts: {broken} \(seqrl\.testing\.check_memory\(\.\.\.\) shows it\)"
        )
        assert re.fullmatch(expected, said[0])
    assert main(["train", "--resume", "run", "--num-steps", "128"]) == 0
    seqrl.load("run")
    assert "law" not in capsys.readouterr().err


# Breaks where anything but AssertionError of `check_memory` ends the run.
def test_a_memory_that_cannot_be_checked_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PPO, "--memory", "broken:NoDoubles", "--num-steps", "32", "--run-dir", "run"]) == 0
    err = capsys.readouterr().err
    assert "whether memory 'broken:NoDoubles' keeps the laws of memory is not known (RuntimeError: no gradients" in err


# Breaks where the warning draws random numbers or trains in evaluation mode: the weights would be others.
def test_the_warning_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [*PPO, "--memory", "broken:NeverForgets", "--num-steps", "64", "--run-dir"]
    assert main([*short, "warned"]) == 0
    monkeypatch.setattr("seqrl.training_state.warn_of_broken_laws", lambda agent: None)
    assert main([*short, "silent"]) == 0
    pairs = zip(seqrl.load("warned").parameters(), seqrl.load("silent").parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# Breaks where large memories are not tried, are tried in gradients, or are tried however large they are.
@pytest.mark.parametrize(
    ("limit", "kind", "said"),
    [
        ("MOST_IN_FULL", "NeverForgets", "breaks a law of memory"),
        ("MOST_IN_FULL", "NoDoubles", ""),  # which has no gradients
        ("MOST_TRIED", "NeverForgets", ""),
    ],
)
def test_large_memories_are_tried_in_values_alone(
    limit: str, kind: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"seqrl.testing.own_memory.{limit}", 71)  # a linear layer of 8 × 8 and 8 biases has 72
    assert main([*PPO, "--memory", f"broken:{kind}", "--num-steps", "32", "--run-dir", "run"]) == 0
    err = capsys.readouterr().err
    assert said in err
    assert ("law" in err) == bool(said)
