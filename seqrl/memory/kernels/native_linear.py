"""The linear recurrence by the C++ kernels. See `seqrl.memory.linear` for what it computes."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import needs_grad
from seqrl.memory.kernels.native_library import call, num_threads


def recurrence(
    projected: Float[Tensor, "T B G"],
    h0: Float[Tensor, "B H"],
    is_first: Bool[Tensor, "T B"],
    rotation: Float[Tensor, "2 P"],
    weight: Float[Tensor, " H"],
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"]]:
    """RMSNorm(h) ⊙ silu(gate) of each row, and the last state, from what is projected: the forget gates' logits,
    candidate and output gate's logit side by side, G = P + 2H, H = 2P. `rotation` gets no gradient; `weight` is the
    norm's, whose ε is 1e-5."""
    inputs = (leaf.contiguous() for leaf in (projected, h0, is_first, rotation, weight))
    if needs_grad(projected, h0, weight):
        return _Recurrence.apply(*inputs)
    z, h, _ = _forward(*inputs)
    return z, h[-1].clone()  # a view would keep all states for as long as it lives


def _forward(
    projected: Tensor, h0: Tensor, is_first: Tensor, rotation: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (T, B, _), H = projected.shape, h0.shape[1]
    h, z, per_root = projected.new_empty(T, B, H), projected.new_empty(T, B, H), projected.new_empty(T, B)
    sizes = T, B, H // 2, num_threads(B)
    call("linear_forward", sizes, projected, h0, is_first, rotation, weight, h, per_root, z)
    return z, h, per_root


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        z, h, per_root = _forward(*inputs)
        ctx.save_for_backward(*inputs, h, per_root)
        return z, h[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        projected, h0, is_first, rotation, weight, h, per_root = ctx.saved_tensors
        (T, B, _), H = projected.shape, h0.shape[1]
        dh = dh.clone(memory_format=torch.contiguous_format)
        d, dweight = torch.empty_like(projected), torch.empty_like(weight)
        inputs = projected, h0, is_first, rotation, weight, h, per_root, dz.contiguous()
        call("linear_backward", (T, B, H // 2, num_threads(B)), *inputs, dh, d, dweight)
        return d, dh, None, None, dweight
