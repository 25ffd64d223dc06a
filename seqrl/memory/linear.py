"""A gated linear recurrence: a recurrent network whose steps can be taken in parallel."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqrl.errors import UserError
from seqrl.memory.base import Memory, State
from seqrl.memory.kernels import native_linear
from seqrl.memory.kernels.common import check_rows
from seqrl.memory.kernels.native_library import native_serves
from seqrl.memory.sizes import check_sizes


class LinearRecurrence(Memory):
    """A gated linear recurrence: what is forgotten and written depends on the input only, never on the state.

        a_t = σ(W_a x_t + b_a)                             forget gate of each pair of units, set to 0 where `is_first`
        h_t = a_t ⊙ R h_{t−1} + √(1 − σ(W_a x_t + b_a)²) ⊙ (W_h x_t + b_h)
        y_t = W_y (RMSNorm(h_t) ⊙ silu(W_g x_t + b_g)) + W_x x_t + b_y

    R turns pair k, of units k and k + H / 2, by an angle of its own at every step. It is fixed: 0 for every other pair,
    which holds what it was given, and spread over (0, π) for the rest. What turns tells how long ago it was written,
    which sums and decays can hardly: without it RepeatPrevious, whose answer is the symbol of k steps ago, is at 0.2
    where it is solved with it (docs/log.md).

    The recurrence is linear in h, so a whole sequence is one scan (`rotating_scan`), forward and backward, and products
    of gates in [0, 1] cannot overflow. The root gives h the variance of its input for every a, were the input white
    noise. b_a starts where the time constants −1 / log σ(b_a) are spread evenly in logarithm from 1 to 1,000 steps.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. State: h [B, hidden_size].
    Raises UserError where a size is below 1, or hidden_size is odd.

    Sources: the gate of minGRU (Feng et al. 2024, arXiv 2410.01201), the normalisation, the spread of decays and the
    pairs that turn, which are complex numbers there, of the LRU (Orvieto et al. 2023, arXiv 2303.06349), the output
    gate, the norm and that angles are fixed of RetNet (Sun et al. 2023, arXiv 2307.08621).
    Unlike minGRU, the candidate keeps its sign, and is scaled by √(1 − a²) where 1 − a would write almost nothing into
    a long memory. Unlike the LRU, the decay depends on the input, and half of the pairs do not turn.
    """

    rotation: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("LinearRecurrence", input_size=input_size, hidden_size=hidden_size)
        if hidden_size % 2:
            raise UserError(
                f"hidden_size is {hidden_size} in LinearRecurrence, whose units are pairs: give an even one"
            )
        self.input_size = input_size
        self.output_size = hidden_size
        self.forget = nn.Linear(input_size, hidden_size // 2)
        self.candidate = nn.Linear(input_size, hidden_size)
        self.gate = nn.Linear(input_size, hidden_size)
        self.skip = nn.Linear(input_size, hidden_size)
        self.norm = nn.RMSNorm(hidden_size, eps=1e-5)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.register_buffer("rotation", _rotation(hidden_size // 2), persistent=False)
        time_constant = torch.logspace(0, 3, hidden_size // 2)
        with torch.no_grad():
            self.forget.bias.copy_(torch.exp(-1 / time_constant).logit())

    def initial_state(self, batch_size: int) -> Tensor:
        """h = 0."""
        return self.forget.weight.new_zeros(batch_size, self.output_size)

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], Tensor]:
        """Read T rows; see `Memory.unroll`. Raises UserError for shapes that do not belong together, and for `is_first`
        that is not of bools."""
        check_rows(x, self.output_size, (state,), is_first)
        z, h = self._recurrence(x, state, is_first)
        return self.output(z) + self.skip(x), h

    def _recurrence(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """RMSNorm(h) ⊙ silu(W_g x + b_g) of each row, and the last h."""
        # The recurrence keeps the state's precision under autocast: a gate near 1 has no neighbours in bfloat16.
        layers = self.forget, self.candidate, self.gate
        pairs = state.chunk(2, -1)[0]
        if native_serves(False, pairs, x, self.norm.weight, *(layer.weight for layer in layers)):
            weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            projected = F.linear(x, weight, bias).to(state.dtype)
            return native_linear.recurrence(projected, state, is_first, self.rotation, self.norm.weight)
        forget, candidate = self.forget(x).to(state.dtype), self.candidate(x).to(state.dtype)
        a = forget.sigmoid()
        # √(1 − a²) = √(1 − a) · √(1 + a), the first from the logit: the slope stays finite where a rounds to 1.
        scale = torch.exp(F.logsigmoid(-forget) / 2) * torch.sqrt(1 + a)
        a = a.masked_fill(is_first[..., None], 0)
        h = rotating_scan(a, self.rotation.to(state.dtype), _twice(scale) * candidate, state)
        return self.norm(h) * F.silu(self.gate(x)), h[-1]


def _rotation(pairs: int) -> Tensor:
    """The cosine and the sine of each pair's angle, [2, pairs]: every other one 0, the rest spread as multiples of the
    golden ratio are, so that neighbours, whose decays are alike, turn differently."""
    k = torch.arange(pairs, dtype=torch.float64)
    angle = math.pi * (k * (math.sqrt(5) - 1) / 2 % 1) * (k % 2)
    return torch.stack([angle.cos(), angle.sin()]).to(torch.get_default_dtype())


def rotating_scan(
    a: Float[Tensor, "T B P"], rotation: Float[Tensor, "2 P"], b: Float[Tensor, "T B H"], initial: Float[Tensor, "B H"]
) -> Float[Tensor, "T B H"]:
    """The solution of h_t = a_t ⊙ R h_{t−1} + b_t, for t = 0 … T − 1, with h_{−1} = `initial`, for pairs of units k and
    k + P, H = 2P. R turns each by the angle whose cosine and sine `rotation` has; it gets no gradient.

    The gradient is the same scan run backwards, turning back: with g_t = ∂L/∂h_t in all, g_t = ∂L/∂y_t + a_{t+1} ⊙
    R⁻¹ g_{t+1}, hence ∂L/∂b_t = g_t, ∂L/∂a_t is the product of g_t and R h_{t−1}, summed over each pair, and ∂L/∂h_{−1}
    = a_0 ⊙ R⁻¹ g_0. It can be taken once, not twice.

    Stable for |a| ≤ 1, since it only multiplies, turns and adds. A gate of 0 cuts: neither value nor gradient crosses.
    Sources: Blelloch 1990, "Prefix sums and their applications", §1.4; Martin & Cundy 2018 (arXiv 1709.04057).
    """
    return _RotatingScan.apply(a, rotation, b, initial)


class _RotatingScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, rotation: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        h = _scan(a, rotation, b, initial)
        ctx.save_for_backward(a, rotation, h, initial)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, rotation, h, initial = ctx.saved_tensors
        back = torch.stack([rotation[0], -rotation[1]])
        # Backwards, row t's gate is a_{t+1}. The last row's, which rolls round from the first, meets a zero.
        g = _scan(a.roll(-1, 0), back, grad, torch.zeros_like(initial), reverse=True)
        turned = _turned(torch.cat([initial[None], h[:-1]]), rotation)
        slope = (g * turned).unflatten(-1, (2, -1)).sum(-2)
        return slope, None, g, _twice(a[0]) * _turned(g[0], back)


def _turned(h: Tensor, rotation: Tensor) -> Tensor:
    """R h."""
    (cosine, sine), (first, second) = rotation, h.chunk(2, -1)
    return torch.cat([cosine * first - sine * second, sine * first + cosine * second], -1)


def _twice(of_pairs: Tensor) -> Tensor:
    """What each pair has, for both of its units."""
    return torch.cat([of_pairs, of_pairs], -1)


def _scan(a: Tensor, rotation: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    """`rotating_scan`, and with `reverse` the solution of h_t = a_t ⊙ R h_{t+1} + b_t, with h_T = `initial`."""
    # A CPU is fastest in T short steps, which read memory once; where launching a step costs more than it, log₂ T win.
    by_steps = a.device.type == "cpu" and not torch.compiler.is_compiling()  # an exported graph has no `out`
    return (_scan_by_steps if by_steps else _scan_by_doubling)(a, rotation, b, initial, reverse)


def _scan_by_steps(a: Tensor, rotation: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    h = torch.empty_like(b)
    rows = list(zip(_twice(a), b, h, strict=True))
    previous = initial
    for a_t, b_t, h_t in reversed(rows) if reverse else rows:
        previous = torch.addcmul(b_t, a_t, _turned(previous, rotation), out=h_t)
    return h


def _scan_by_doubling(a: Tensor, rotation: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    """Two steps h → a R h + b make one of the same form. After k rounds, row t holds its last 2^k steps made into one,
    which turns by 2^k times the angle."""
    a, b = (a.flip(0), b.flip(0)) if reverse else (a.clone(), b.clone())
    b[0] += _twice(a[0]) * _turned(initial, rotation)
    reach = 1
    while reach < len(a):
        b[reach:] += _twice(a[reach:]) * _turned(b[:-reach], rotation)
        a[reach:] = a[reach:] * a[:-reach]
        cosine, sine = rotation
        rotation = torch.stack([cosine * cosine - sine * sine, 2 * cosine * sine])
        reach *= 2
    return b.flip(0) if reverse else b
