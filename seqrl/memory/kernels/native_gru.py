"""The GRU by the C++ kernels. See `seqrl.memory.kernels.gru` for what it computes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import Workspace, needs_grad
from seqrl.memory.kernels.native_library import call, in_bfloat16, num_threads


def gru(x: Tensor, h0: Tensor, is_first: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """`weights` are w_ih, w_hh, b_ih and b_hh."""
    x, h0, is_first = x.contiguous(), h0.contiguous(), is_first.contiguous()
    if needs_grad(x, h0, *weights):
        return _GRU.apply(x, h0, is_first, *(w.contiguous() for w in weights))
    return _forward(None, x, h0, is_first, *(w.contiguous() for w in weights))


def _forward(saved: Tensor | None, x: Tensor, h0: Tensor, is_first: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    (T, B, D), H = x.shape, h0.shape[1]
    y = x.new_empty(T, B, H)
    call("gru_forward", (T, B, D, H, num_threads(B), in_bfloat16()), x, h0, is_first, *weights, saved, y)
    return y, y[-1].clone()


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, is_first: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.in_bfloat16 = in_bfloat16()
        ctx.saved = Workspace(x, T, B, 4 * H)
        y, h = _forward(ctx.saved.tensor, x, h0, is_first, *weights)
        ctx.save_for_backward(x, h0, is_first, y, *weights[:2])
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, is_first, y, w_ih, w_hh = ctx.saved_tensors
        (T, B, D), H = x.shape, h0.shape[1]
        dh, dx = dh.clone(memory_format=torch.contiguous_format), torch.empty_like(x)
        sums = x.new_empty((D + H) * 3 * H + 4 * H)
        sizes = T, B, D, H, num_threads(B), ctx.in_bfloat16
        weights = w_ih, w_hh.roll(H, 0)  # stacked (n, r, z), so that the products find what they read side by side
        inputs = x, h0, is_first, *weights, ctx.saved.tensor, y, dy.contiguous()
        call("gru_backward", sizes, *inputs, dh, dx, sums)
        dw_x, dw_h, db = sums.split([D * 3 * H, H * 3 * H, 4 * H])
        dw_x, dw_h = dw_x.view(D, -1).t(), dw_h.view(H, -1).t()
        return dx, dh, None, dw_x, dw_h.roll(-H, 0), db[H:], db[: 3 * H].roll(-H)
