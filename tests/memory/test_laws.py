"""The four laws: every memory keeps them, and `check_memory` finds each way to break one."""

import copy

import pytest
import torch
from clock import Counter
from torch import nn

from seqrl.errors import UserError
from seqrl.memory import GRU, LSTM, FrameStack, LinearAttention, LinearRecurrence, Memory, NoMemory, Transformer
from seqrl.testing import check_memory

MEMORIES = {
    "none": lambda: NoMemory(4, 5),
    "none, one wide": lambda: NoMemory(1, 1),
    "stack of one": lambda: FrameStack(4, 5, num_frames=1),
    "stack of four": lambda: FrameStack(4, 5),
    "stack longer than the sequence": lambda: FrameStack(2, 5, num_frames=15),
    "gru": lambda: GRU(4, 5),
    "gru, one wide": lambda: GRU(1, 1),
    "gru, chrono": lambda: GRU(3, 8, memory_horizon=100),
    "lstm": lambda: LSTM(4, 5),
    "lstm, one wide": lambda: LSTM(1, 1),
    "lstm, chrono": lambda: LSTM(3, 8, memory_horizon=100),
    "linear": lambda: LinearRecurrence(4, 6),
    "linear attention": lambda: LinearAttention(4, 5),
    "linear attention, two layers": lambda: LinearAttention(2, 3, num_layers=2, num_heads=1, key_size=2),
    "transformer": lambda: Transformer(4, 8, window=5),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_keep_the_laws(name):
    check_memory(MEMORIES[name](), num_steps=8)


@pytest.mark.parametrize(("num_steps", "batch_size"), [(1, 1), (2, 1), (7, 4)])
def test_laws_hold_in_other_sizes(num_steps, batch_size):
    check_memory(GRU(4, 5), num_steps=num_steps, batch_size=batch_size, seed=1)


def test_a_counter_keeps_the_laws():
    check_memory(Counter())


class Leaky(Memory):
    """h_t = x_t + h_{t−1} / 2, with one fault, or none."""

    input_size = output_size = 2

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(()))

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2, dtype=self.scale.dtype)

    def unroll(self, x, state, is_first):
        fault, h, outputs = self.fault, state, []
        if fault == "state not read":
            h = self.initial_state(x.shape[1])
        if fault == "peeks":
            x = x + torch.cat([x[1:], x[-1:]])
        if fault == "resets late":
            is_first = torch.cat([torch.zeros_like(is_first[:1]), is_first[:-1]])
        if fault == "resets at the first row alone":
            is_first = is_first & (torch.arange(len(is_first)) == 0)[:, None]
        self.calls += 1
        for x_t, first in zip(x, is_first, strict=True):
            kept = torch.where(first[:, None], 0.0, h)
            if fault == "gradient crosses":
                kept = kept + (h - h.detach())
            if fault == "mixes rows":
                x_t = x_t - x_t.mean(0)
            if fault == "mixes gradients":
                x_t = x_t + x_t.mean(0) - x_t.mean(0).detach()
            y = self.scale * x_t + kept / 2
            h = self.scale * x_t + h / 2 if fault == "resets the output alone" else y
            outputs.append(y)
        if fault == "cuts the gradient":
            h = h.detach()
        if fault == "hands over the first state":
            h = outputs[0]
        if fault == "grows":
            h = torch.cat([state, h[:, :1]], 1)[:, : 2 + self.calls]
        if fault == "changes type":
            h = h.half()
        if fault == "keeps to itself":
            outputs[-1] = outputs[-1] + self.calls
        if fault == "writes into the state":
            with torch.no_grad():
                state.add_(1.0)
        return torch.stack(outputs), h


FAULTS = {
    "peeks": "causality",
    "mixes rows": "independence",
    "mixes gradients": "independence",
    "resets late": "reset",
    "resets at the first row alone": "reset",
    "resets the output alone": "reset",
    "gradient crosses": "reset",
    "state not read": "chunking",
    "hands over the first state": "chunking",
    "cuts the gradient": "chunking",
    "grows": "state",
    "changes type": "state",
    "keeps to itself": "state",
    "writes into the state": "state",
}


def test_the_memory_to_break_is_whole():
    check_memory(Leaky())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_under_the_name_of_its_law(fault):
    with pytest.raises(AssertionError, match=f"^{FAULTS[fault]}: "):
        check_memory(Leaky(fault))


# Breaks if a law, or the one pattern of resets, is left out of a quick proof, or gradients are part of it.
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_quick_proof_finds_what_values_show(fault):
    if fault is None or "gradient" in fault:
        check_memory(Leaky(fault), num_steps=4, batch_size=2, quick=True)
        return
    with pytest.raises(AssertionError, match=f"^{FAULTS[fault]}: "):
        check_memory(Leaky(fault), num_steps=4, batch_size=2, quick=True)


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_passes_a_quick_proof(name):
    check_memory(MEMORIES[name](), num_steps=4, batch_size=2, quick=True)


class BatchNormed(GRU):
    def unroll(self, x, state, is_first):
        y, state = super().unroll(x, state, is_first)
        return (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True, correction=0) + 1), state


def test_batch_statistics_break_independence():
    with pytest.raises(AssertionError, match=r"^independence: y\[0, 0, 0\] is .*, but .* when row 0 is alone"):
        check_memory(BatchNormed(3, 4))


def test_the_message_names_the_step_of_the_reset():
    with pytest.raises(AssertionError, match=r"^reset: y\[0, 0, 0\] is .* after a fresh start at t = 0"):
        check_memory(Leaky("resets late"))


def test_check_memory_leaves_no_trace():
    memory = LSTM(3, 4).train()
    memory.weight_ih.grad = torch.ones_like(memory.weight_ih)
    before, grad = copy.deepcopy(memory.state_dict()), memory.weight_ih.grad.clone()
    random_state = torch.get_rng_state()
    check_memory(memory)
    assert memory.training
    assert memory.weight_hh.grad is None
    torch.testing.assert_close(memory.weight_ih.grad, grad, rtol=0, atol=0)
    torch.testing.assert_close(dict(memory.state_dict()), dict(before), rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), random_state, rtol=0, atol=0)


class SingleOnly(GRU):
    def unroll(self, x, state, is_first):
        if x.dtype == torch.float64:
            raise RuntimeError("float64 is not supported")
        return super().unroll(x, state, is_first)


def test_a_memory_without_float64_is_checked_in_float32():
    check_memory(SingleOnly(3, 4))


class Layered(GRU):
    def initial_state(self, batch_size):
        return torch.zeros(1, batch_size, self.output_size)

    def unroll(self, x, state, is_first):
        return x.new_zeros(*x.shape[:2], self.output_size), state


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda memory: delattr(memory, "input_size"), "input_size of GRU is None, but not a whole number"),
        (lambda memory: setattr(memory, "output_size", 4.0), "output_size of GRU is 4.0, but not a whole number"),
        (lambda memory: setattr(memory, "__class__", Layered), r"initial_state is \[1, 3, 4\], but not \[3, \.\.\.\]"),
    ],
)
def test_what_is_no_memory_is_named(break_it, message):
    memory = GRU(3, 4)
    break_it(memory)
    with pytest.raises(AssertionError, match=f"^state: {message}$"):
        check_memory(memory)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NoMemory(0, 5), "input_size is 0 in NoMemory"),
        (lambda: GRU(4, 0), "hidden_size is 0 in GRU"),
        (lambda: LSTM(-1, 5), "input_size is -1 in LSTM"),
        (lambda: FrameStack(4, 5, num_frames=0), "num_frames is 0 in FrameStack"),
        (lambda: GRU(4, 5, memory_horizon=1), "memory_horizon is 1 in GRU"),
        (lambda: LSTM(4, 5, memory_horizon=0), "memory_horizon is 0 in LSTM"),
    ],
)
def test_bad_sizes_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_chrono_initialisation_reaches_as_far_as_it_is_told(kind):
    torch.manual_seed(0)
    reached = {}
    for horizon in (None, 200):
        memory = kind(2, 64, memory_horizon=horizon)
        x = torch.randn(400, 1, 2, requires_grad=True)
        y, _ = memory.unroll(x, memory.initial_state(1), torch.zeros(400, 1, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(y[-1].sum(), x)
        reached[horizon] = gradient[0].norm() / gradient[-1].norm()
    # Must break: the bias copied to another gate, or with the other sign.
    assert reached[200] > 1e-4
    assert reached[None] < 1e-7
