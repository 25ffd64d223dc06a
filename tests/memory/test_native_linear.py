"""The linear recurrence by the C++ kernels: against PyTorch's operations in float64, and when they serve."""

import copy

import jaxtyping
import pytest
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory import linear
from seqrl.memory.kernels import native_library, native_linear
from seqrl.memory.linear import LinearRecurrence
from seqrl.testing import check_memory

pytestmark = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def memory_of(D: int, H: int) -> LinearRecurrence:
    """With gates near 0 and 1 among its gates, and a norm of which each unit has its own weight."""
    torch.manual_seed(0)
    memory = LinearRecurrence(D, H)
    torch.nn.init.normal_(memory.norm.weight, 1.0, 0.3)
    memory.forget.weight.data *= 8
    return memory


def unrolled(memory: LinearRecurrence, sizes: tuple[int, int, int, int], resets: float) -> list[Tensor]:
    """Outputs, last state, and the gradients of everything by random ones of both, in the memory's type."""
    (T, B, D, H), dtype = sizes, memory.forget.weight.dtype
    generator = torch.Generator().manual_seed(1)
    x, state, dy, dh = (torch.randn(*size, generator=generator) for size in ((T, B, D), (B, H), (T, B, H), (B, H)))
    is_first = torch.rand(T, B, generator=generator) < resets
    inputs = x.to(dtype).requires_grad_(), state.to(dtype).requires_grad_()
    y, h = memory.unroll(*inputs, is_first)
    wanted = *inputs, *memory.parameters()
    return [y, h, *torch.autograd.grad([y, h], wanted, [dy.to(dtype), dh.to(dtype)])]


# Must break, each by itself, in linear.cpp: `keep *` left out; `slope_of_scale` left out, or `forget.rest` there made
# 1; `share_of_length` 0; `store(dw + unit, …)` without what stood there; `later.first +` left out; `turned_back` made
# `turned`, or the sign of either sine. In sequence.h: `is_first` not asked.
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 32), (9, 3, 5, 32), (70, 33, 16, 96), (5, 100, 64, 160)])
def test_equal_to_pytorch_in_float64(sizes, resets, num_threads, threads):
    threads(num_threads)
    memory = memory_of(*sizes[2:])
    exact = unrolled(copy.deepcopy(memory).double(), sizes, resets)
    for found, expected in zip(unrolled(memory, sizes, resets), exact, strict=True):
        scale = expected.abs().max().item() + 1e-3
        torch.testing.assert_close(found.double(), expected, atol=5e-6 * scale, rtol=0)


def test_laws():
    check_memory(LinearRecurrence(3, 32))


# Breaks if the norm's ε differs from the layer's.
def test_states_of_zero_and_gates_that_are_shut(threads):
    threads(1)
    memory = memory_of(4, 32)
    memory.candidate.bias.data.fill_(1e-3)
    memory.forget.bias.data = torch.linspace(-200, 200, 16)
    for resets in (0.0, 1.0):
        exact = unrolled(copy.deepcopy(memory).double(), (6, 2, 4, 32), resets)
        for found, expected in zip(unrolled(memory, (6, 2, 4, 32), resets), exact, strict=True):
            assert found.isfinite().all()
            torch.testing.assert_close(found.double(), expected, atol=2e-5 * (expected.abs().max().item()), rtol=0)
    x, none = torch.zeros(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool)
    memory.candidate.bias.data.zero_()
    y, h = memory.unroll(x, memory.initial_state(2), none)
    assert torch.equal(h, torch.zeros(2, 32))
    torch.testing.assert_close(y, memory.skip(x))


# Breaks if a row's place among the rows, or the number of threads, enters its sums.
def test_a_step_equals_a_sequence_and_a_row_the_row_alone(threads):
    torch.manual_seed(0)
    projected, h, weight = torch.randn(9, 7, 80), torch.randn(7, 32), torch.rand(32)
    rotation = memory_of(1, 32).rotation
    is_first = torch.rand(9, 7) < 0.2
    z, last = native_linear.recurrence(projected, h, is_first, rotation, weight)
    state = h
    for t in range(9):
        z_t, state = native_linear.recurrence(projected[t : t + 1], state, is_first[t : t + 1], rotation, weight)
        assert torch.equal(z_t[0], z[t])
    assert torch.equal(state, last)
    threads(3)
    alone, _ = native_linear.recurrence(projected[:, 4:5], h[4:5], is_first[:, 4:5], rotation, weight)
    assert torch.equal(alone[:, 0], z[:, 4])
    assert torch.equal(native_linear.recurrence(projected, h, is_first, rotation, weight)[0], z)


def test_served_by_default(monkeypatch):
    """With units in whole vectors, in float32 or autocast from it to bfloat16; PyTorch's operations take the rest."""
    served, original = [], native_linear.recurrence
    monkeypatch.setattr(native_linear, "recurrence", lambda *inputs: served.append(inputs) or original(*inputs))
    scanned, scan = [], linear.rotating_scan
    monkeypatch.setattr(linear, "rotating_scan", lambda *inputs: scanned.append(inputs) or scan(*inputs))
    for H, dtype, autocast, expected in [
        (32, torch.float32, False, 1),
        (34, torch.float32, False, 0),
        (32, torch.float64, False, 0),
        (32, torch.float32, True, 1),
    ]:
        served.clear(), scanned.clear()
        memory = LinearRecurrence(5, H).to(dtype)
        x, is_first = torch.randn(3, 2, 5, dtype=dtype), torch.zeros(3, 2, dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            _, h = memory.unroll(x, memory.initial_state(2), is_first)
        assert (len(served), len(scanned)) == (expected, 1 - expected), (H, dtype, autocast)
        assert h.dtype == dtype


# Breaks if what is projected in bfloat16 is not taken to float32 before the recurrence.
def test_autocast_keeps_the_state_in_float32():
    memory = memory_of(8, 32)
    x, is_first = torch.randn(20, 4, 8), torch.rand(20, 4) < 0.1
    exact, _ = memory.unroll(x, memory.initial_state(4), is_first)
    with torch.autocast("cpu", torch.bfloat16):
        y, h = memory.unroll(x, memory.initial_state(4), is_first)
    assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.1)


# Breaks without `check_rows`: the kernel would read beyond an end, or bytes of numbers as resets.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"is_first": torch.zeros(2, 2, dtype=torch.bool)}, r"is_first is \[2, 2\] beside x \[3, 2, 4\] and 16 units"),
        ({"is_first": torch.zeros(3, 2)}, r"is_first is of torch.float32: give bools"),
        ({"state": torch.zeros(1, 16)}, r"a state is \[1, 16\] beside x .*: give \[2, 16\]"),
    ],
)
def test_what_does_not_belong_together_is_refused(monkeypatch, changed, message, dtype):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    inputs = {"x": torch.zeros(3, 2, 4), "state": torch.zeros(2, 16), "is_first": torch.zeros(3, 2, dtype=torch.bool)}
    x, state, is_first = (inputs | changed).values()
    with pytest.raises(UserError, match=message):
        LinearRecurrence(4, 16).to(dtype).unroll(x.to(dtype), state.to(dtype), is_first)
