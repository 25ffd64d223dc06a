"""A gated linear recurrence: a recurrent network whose steps can be taken in parallel."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqrl.memory.base import Memory, State
from seqrl.memory.kernels import native_linear
from seqrl.memory.kernels.common import check_rows
from seqrl.memory.kernels.native_library import native_serves
from seqrl.memory.sizes import check_sizes


class LinearRecurrence(Memory):
    """A gated linear recurrence: what is forgotten and written depends on the input only, never on the state.

        a_t = σ(W_a x_t + b_a)                             forget gate, set to 0 where `is_first`
        h_t = a_t ⊙ h_{t−1} + √(1 − σ(W_a x_t + b_a)²) ⊙ (W_h x_t + b_h)
        y_t = W_y (RMSNorm(h_t) ⊙ silu(W_g x_t + b_g)) + W_x x_t + b_y

    The recurrence is linear in h, so a whole sequence is one scan (`linear_scan`), forward and backward, and products
    of gates in [0, 1] cannot overflow. The root gives h the variance of its input for every a, were the input white
    noise. b_a starts where the time constants −1 / log σ(b_a) are spread evenly in logarithm from 1 to 1,000 steps.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. State: h [B, hidden_size].
    Raises UserError where a size is below 1.

    Sources: the gate of minGRU (Feng et al. 2024, arXiv 2410.01201), the normalisation and the spread of decays of the
    LRU (Orvieto et al. 2023, arXiv 2303.06349), the output gate and norm of RetNet (Sun et al. 2023, arXiv 2307.08621).
    Unlike minGRU, the candidate keeps its sign, and is scaled by √(1 − a²) where 1 − a would write almost nothing into
    a long memory. Unlike the LRU, h is real and the decay depends on the input.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("LinearRecurrence", input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.output_size = hidden_size
        self.forget = nn.Linear(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size)
        self.gate = nn.Linear(input_size, hidden_size)
        self.skip = nn.Linear(input_size, hidden_size)
        self.norm = nn.RMSNorm(hidden_size, eps=1e-5)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        time_constant = torch.logspace(0, 3, hidden_size)
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
        if native_serves(False, state, x, self.norm.weight, *(layer.weight for layer in layers)):
            weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            projected = F.linear(x, weight, bias).to(state.dtype)
            return native_linear.recurrence(projected, state, is_first, self.norm.weight)
        forget, candidate = self.forget(x).to(state.dtype), self.candidate(x).to(state.dtype)
        a = forget.sigmoid()
        # √(1 − a²) = √(1 − a) · √(1 + a), the first from the logit: the slope stays finite where a rounds to 1.
        scale = torch.exp(F.logsigmoid(-forget) / 2) * torch.sqrt(1 + a)
        h = linear_scan(a.masked_fill(is_first[..., None], 0), scale * candidate, state)
        return self.norm(h) * F.silu(self.gate(x)), h[-1]


def linear_scan(
    a: Float[Tensor, "T B H"], b: Float[Tensor, "T B H"], initial: Float[Tensor, "B H"]
) -> Float[Tensor, "T B H"]:
    """The solution of h_t = a_t ⊙ h_{t−1} + b_t, for t = 0 … T − 1, with h_{−1} = `initial`.

    The gradient is the same scan run backwards: with g_t = ∂L/∂h_t in all, g_t = ∂L/∂y_t + a_{t+1} ⊙ g_{t+1}, hence
    ∂L/∂b_t = g_t, ∂L/∂a_t = g_t ⊙ h_{t−1} and ∂L/∂h_{−1} = a_0 ⊙ g_0. It can be taken once, not twice.

    Stable for |a| ≤ 1, since it only multiplies and adds. A gate of 0 cuts: neither value nor gradient crosses it.
    Sources: Blelloch 1990, "Prefix sums and their applications", §1.4; Martin & Cundy 2018 (arXiv 1709.04057).
    """
    return _LinearScan.apply(a, b, initial)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        h = _scan(a, b, initial)
        ctx.save_for_backward(a, h, initial)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, initial = ctx.saved_tensors
        # Backwards, row t's gate is a_{t+1}. The last row's, which rolls round from the first, meets a zero.
        g = _scan(a.roll(-1, 0), grad, torch.zeros_like(initial), reverse=True)
        previous_h = torch.cat([initial[None], h[:-1]])
        return g * previous_h, g, a[0] * g[0]


def _scan(a: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    """`linear_scan`, and with `reverse` the solution of h_t = a_t ⊙ h_{t+1} + b_t, with h_T = `initial`."""
    # A CPU is fastest in T short steps, which read memory once; where launching a step costs more than it, log₂ T win.
    by_steps = a.device.type == "cpu" and not torch.compiler.is_compiling()  # an exported graph has no `out`
    return (_scan_by_steps if by_steps else _scan_by_doubling)(a, b, initial, reverse)


def _scan_by_steps(a: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    h = torch.empty_like(b)
    rows = list(zip(a, b, h, strict=True))
    previous = initial
    for a_t, b_t, h_t in reversed(rows) if reverse else rows:
        previous = torch.addcmul(b_t, a_t, previous, out=h_t)
    return h


def _scan_by_doubling(a: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    """Two steps h → a h + b make one of the same form. After k rounds, row t holds its last 2^k steps made into one."""
    a, b = (a.flip(0), b.flip(0)) if reverse else (a.clone(), b.clone())
    b[0] += a[0] * initial
    reach = 1
    while reach < len(a):
        b[reach:] += a[reach:] * b[:-reach]
        a[reach:] = a[reach:] * a[:-reach]
        reach *= 2
    return b.flip(0) if reverse else b
