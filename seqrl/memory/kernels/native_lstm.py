"""The LSTM by the C++ kernels. See `seqrl.memory.kernels.lstm` for what it computes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import Workspace, needs_grad
from seqrl.memory.kernels.native_library import call, in_bfloat16, num_threads


def lstm(x: Tensor, h0: Tensor, c0: Tensor, is_first: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`weights` are w_ih, w_hh, b_ih and b_hh."""
    x, h0, c0, is_first = x.contiguous(), h0.contiguous(), c0.contiguous(), is_first.contiguous()
    if needs_grad(x, h0, c0, *weights):
        return _LSTM.apply(x, h0, c0, is_first, *(w.contiguous() for w in weights))
    return _forward(None, x, h0, c0, is_first, *(w.contiguous() for w in weights))


def _forward(
    saved: Tensor | None, x: Tensor, h0: Tensor, c0: Tensor, is_first: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (T, B, D), H = x.shape, h0.shape[1]
    y, c = x.new_empty(T, B, H), c0.clone()
    call("lstm_forward", (T, B, D, H, num_threads(B), in_bfloat16()), x, h0, is_first, *weights, saved, c, y)
    return y, y[-1].clone(), c


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, is_first: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.in_bfloat16 = in_bfloat16()
        ctx.saved = Workspace(x, T, B, 5 * H)
        y, h, c = _forward(ctx.saved.tensor, x, h0, c0, is_first, *weights)
        ctx.save_for_backward(x, h0, c0, is_first, y, *weights[:2])
        return y, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, c0, is_first, y, *weights = ctx.saved_tensors
        (T, B, D), H = x.shape, h0.shape[1]
        dh, dc = (d.clone(memory_format=torch.contiguous_format) for d in (dh, dc))
        dx, sums = torch.empty_like(x), x.new_empty((D + H + 1) * 4 * H)
        sizes = T, B, D, H, num_threads(B), ctx.in_bfloat16
        inputs = x, h0, c0, is_first, *weights, ctx.saved.tensor, y, dy.contiguous()
        call("lstm_backward", sizes, *inputs, dh, dc, dx, sums)
        dw_x, dw_h, db = sums.split([D * 4 * H, H * 4 * H, 4 * H])
        return dx, dh, dc, None, dw_x.view(D, -1).t(), dw_h.view(H, -1).t(), db, db.clone()
