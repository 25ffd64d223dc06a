import math

import pytest
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory import linear
from seqrl.memory.linear import LinearRecurrence, linear_scan
from seqrl.testing import check_memory


@pytest.fixture(params=["steps", "doubling"])
def each_scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to scan, whatever the device."""
    monkeypatch.setattr(linear, "_scan", getattr(linear, f"_scan_by_{request.param}"))


def loop(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    rows = []
    for t in range(len(a)):
        h = a[t] * h + b[t]
        rows.append(h)
    return torch.stack(rows)


def random_scan(T: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Gates in (0, 1), of which a fifth are closed as by a reset."""
    torch.manual_seed(0)
    a = torch.rand(T, 3, 2, dtype=dtype) * (torch.rand(T, 3, 1) > 0.2)
    return tuple(v.requires_grad_() for v in (a, torch.randn(T, 3, 2, dtype=dtype), torch.randn(3, 2, dtype=dtype)))


@pytest.mark.usefixtures("each_scan")
def test_laws() -> None:
    check_memory(LinearRecurrence(3, 8))


# Break: `a[reach:] * a[:-reach]` to `a[reach:]`; in backward, `a.roll(-1, 0)` to `a`, or `previous_h` to `h`.
@pytest.mark.parametrize("T", [1, 2, 7, 8, 33])
@pytest.mark.usefixtures("each_scan")
def test_scan_equals_a_loop(T: int) -> None:
    inputs = random_scan(T)
    actual, expected = linear_scan(*inputs), loop(*inputs)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    weight = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(h, inputs, weight) for h in (actual, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("each_scan")
def test_scan_gradient() -> None:
    assert torch.autograd.gradcheck(linear_scan, random_scan(6))


@pytest.mark.usefixtures("each_scan")
def test_scan_in_float32_over_long_sequences() -> None:
    a = 1 - torch.rand(4096, 2, 3, dtype=torch.float64) * 1e-3
    b, h = torch.randn_like(a), torch.randn(2, 3, dtype=torch.float64)
    expected = loop(a, b, h)
    torch.testing.assert_close(linear_scan(a.float(), b.float(), h.float()).double(), expected, atol=2e-3, rtol=1e-3)


# Break: `√(1 + a)` to `√(1 − a)`, `masked_fill` before `scale` is taken, or silu to sigmoid.
def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    memory = LinearRecurrence(3, 8).double()
    x, is_first = torch.randn(30, 4, 3, dtype=torch.float64), torch.rand(30, 4) < 0.2
    h, expected = torch.zeros(4, 8, dtype=torch.float64), []
    for x_t, first in zip(x, is_first, strict=True):
        a = 1 / (1 + torch.exp(-memory.forget(x_t)))
        h = torch.where(first[:, None], 0, a * h) + torch.sqrt(1 - a**2) * memory.candidate(x_t)
        normed = h / torch.sqrt((h**2).mean(-1, keepdim=True) + 1e-5) * memory.norm.weight
        gate = memory.gate(x_t)
        expected.append(memory.output(normed * gate / (1 + torch.exp(-gate))) + memory.skip(x_t))
    y, state = memory.unroll(x, memory.initial_state(4), is_first)
    torch.testing.assert_close(y, torch.stack(expected), atol=1e-12, rtol=0)
    torch.testing.assert_close(state, h, atol=1e-12, rtol=0)


# Break: logspace(0, 3) to linspace(1, 1000).
def test_time_constants_are_spread_from_one_to_a_thousand_steps() -> None:
    decay = LinearRecurrence(2, 7).forget.bias.detach().double().sigmoid()
    expected = torch.tensor([10 ** (i / 2) for i in range(7)]).double()
    torch.testing.assert_close(-1 / decay.log(), expected, rtol=1e-3, atol=0)


# Break: `scale = (1 - a**2).sqrt()`, whose slope is infinite where a rounds to 1.
@pytest.mark.parametrize("logit", [-1e4, -30, 30, 1e4])
def test_gates_at_their_ends_keep_gradients_finite(logit: float) -> None:
    memory = LinearRecurrence(2, 4)
    torch.nn.init.constant_(memory.forget.bias, logit)
    x = torch.randn(50, 3, 2, requires_grad=True)
    y, _ = memory.unroll(x, memory.initial_state(3), torch.zeros(50, 3, dtype=torch.bool))
    y.square().sum().backward()
    assert all(math.isfinite(p.grad.abs().sum()) for p in [x, *memory.parameters()])


def test_runs_under_autocast() -> None:
    memory = LinearRecurrence(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = memory.unroll(torch.randn(5, 3, 2), memory.initial_state(3), torch.zeros(5, 3, dtype=torch.bool))
        y.float().sum().backward()
    assert state.dtype == torch.float32


def test_bad_sizes() -> None:
    with pytest.raises(UserError, match="hidden_size is 0 in LinearRecurrence"):
        LinearRecurrence(2, 0)
