import math

import pytest
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory import linear
from seqrl.memory.linear import LinearRecurrence, rotating_scan
from seqrl.testing import check_memory


@pytest.fixture(params=["steps", "doubling"])
def each_scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to scan, whatever the device."""
    monkeypatch.setattr(linear, "_scan", getattr(linear, f"_scan_by_{request.param}"))


def loop(a: Tensor, rotation: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """By complex numbers, which is what pairs that turn are."""
    turn = torch.complex(*rotation)
    (b, h), rows = (torch.complex(*leaf.chunk(2, -1)) for leaf in (b, h)), []
    for t in range(len(a)):
        h = a[t] * turn * h + b[t]
        rows.append(torch.cat([h.real, h.imag], -1))
    return torch.stack(rows)


def angles(*of_pairs: float) -> Tensor:
    angle = torch.tensor(of_pairs, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()])


def random_scan(T: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gates in (0, 1), of which a fifth are closed as by a reset; of two pairs one turns."""
    torch.manual_seed(0)
    a = torch.rand(T, 3, 2, dtype=torch.float64) * (torch.rand(T, 3, 1) > 0.2)
    b, h = torch.randn(T, 3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    return a.requires_grad_(), angles(0.0, 2.1), b.requires_grad_(), h.requires_grad_()


@pytest.mark.usefixtures("each_scan")
def test_laws() -> None:
    check_memory(LinearRecurrence(3, 8))


# Break: `a[reach:] * a[:-reach]` to `a[reach:]`; a rotation that is not doubled; in backward, `a.roll(-1, 0)` to `a`,
# `back` to `rotation`, or `h[:-1]` to `h[1:]`.
@pytest.mark.parametrize("T", [1, 2, 7, 8, 33])
@pytest.mark.usefixtures("each_scan")
def test_scan_equals_a_loop(T: int) -> None:
    inputs = random_scan(T)
    actual, expected = rotating_scan(*inputs), loop(*inputs)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    weight, wanted = torch.randn_like(expected), [leaf for leaf in inputs if leaf.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(h, wanted, weight) for h in (actual, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("each_scan")
def test_scan_gradient() -> None:
    assert torch.autograd.gradcheck(rotating_scan, random_scan(6))


@pytest.mark.usefixtures("each_scan")
def test_scan_in_float32_over_long_sequences() -> None:
    a = 1 - torch.rand(4096, 2, 3, dtype=torch.float64) * 1e-3
    b, h, rotation = torch.randn(4096, 2, 6).double(), torch.randn(2, 6).double(), angles(0.0, 0.01, 3.0)
    expected = loop(a, rotation, b, h)
    found = rotating_scan(*(leaf.float() for leaf in (a, rotation, b, h)))
    torch.testing.assert_close(found.double(), expected, atol=3e-3, rtol=1e-3)


# Break: `√(1 + a)` to `√(1 − a)`, `masked_fill` before `scale` is taken, silu to sigmoid, or pairs of neighbours.
def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    memory = LinearRecurrence(3, 8).double()
    x, is_first = torch.randn(30, 4, 3, dtype=torch.float64), torch.rand(30, 4) < 0.2
    h, expected = torch.zeros(4, 8, dtype=torch.float64), []
    (cosine, sine), turned = memory.rotation, torch.zeros(8, 8, dtype=torch.float64)
    for k in range(4):
        turned[k, k], turned[k, k + 4], turned[k + 4, k], turned[k + 4, k + 4] = cosine[k], -sine[k], sine[k], cosine[k]
    for x_t, first in zip(x, is_first, strict=True):
        a = (1 / (1 + torch.exp(-memory.forget(x_t)))).repeat(1, 2)
        h = torch.where(first[:, None], 0, a * (h @ turned.T)) + torch.sqrt(1 - a**2) * memory.candidate(x_t)
        normed = h / torch.sqrt((h**2).mean(-1, keepdim=True) + 1e-5) * memory.norm.weight
        gate = memory.gate(x_t)
        expected.append(memory.output(normed * gate / (1 + torch.exp(-gate))) + memory.skip(x_t))
    y, state = memory.unroll(x, memory.initial_state(4), is_first)
    torch.testing.assert_close(y, torch.stack(expected), atol=1e-12, rtol=0)
    torch.testing.assert_close(state, h, atol=1e-12, rtol=0)


# Break: logspace(0, 3) to linspace(1, 1000).
def test_time_constants_are_spread_from_one_to_a_thousand_steps() -> None:
    decay = LinearRecurrence(2, 14).forget.bias.detach().double().sigmoid()
    expected = torch.tensor([10 ** (i / 2) for i in range(7)]).double()
    torch.testing.assert_close(-1 / decay.log(), expected, rtol=1e-3, atol=0)


# Break: angles that are learnt, or of which none or all are 0.
def test_every_other_pair_turns_by_an_angle_of_its_own() -> None:
    memory = LinearRecurrence(2, 64)
    assert "rotation" not in {**memory.state_dict(), **dict(memory.named_parameters())}
    cosine, sine = memory.rotation.double()
    angle = torch.atan2(sine, cosine)
    assert (angle[::2] == 0).all()
    gaps = angle[1::2].sort().values.diff(prepend=torch.zeros(1))
    assert 0.02 < gaps.min() < gaps.max() < 0.4  # of sixteen in (0, π) none is far from the next, nor as the next
    torch.testing.assert_close(cosine**2 + sine**2, torch.ones(32).double(), atol=1e-6, rtol=0)


# Break: what was written does not turn. A single pair that keeps all shows what its angle is.
def test_a_pair_tells_how_long_ago_something_was_written() -> None:
    kept = rotating_scan(torch.ones(5, 1, 1), angles(0.5).float(), torch.eye(5, 2)[:, None] * torch.tensor([1.0, 0]),
                         torch.zeros(1, 2))  # fmt: skip
    angle = torch.atan2(kept[:, 0, 1], kept[:, 0, 0])
    torch.testing.assert_close(angle, 0.5 * torch.arange(5))


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
    with pytest.raises(
        UserError, match="hidden_size is 5 in LinearRecurrence, whose units are pairs: give an even one"
    ):
        LinearRecurrence(2, 5)
