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
    return _forward(None, torch.empty(len(x), *c0.shape), x, h0, c0, is_first, *(w.contiguous() for w in weights))


def _forward(
    gates: Tensor | None, cells: Tensor, x: Tensor, h0: Tensor, c0: Tensor, is_first: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (T, B, D), H = x.shape, h0.shape[1]
    y = x.new_empty(T, B, H)
    call("lstm_forward", (T, B, D, H, num_threads(B), in_bfloat16()), x, h0, c0, is_first, *weights, gates, cells, y)
    return y, y[-1].clone(), cells[-1].clone()


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, is_first: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.in_bfloat16 = in_bfloat16()
        ctx.gates, ctx.cells = Workspace(x, T, B, 4 * H), Workspace(x, T, B, H)
        y, h, c = _forward(ctx.gates.tensor, ctx.cells.tensor, x, h0, c0, is_first, *weights)
        ctx.save_for_backward(x, h0, c0, is_first, y, *weights[:2])
        return y, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, c0, is_first, y, *weights = ctx.saved_tensors
        (T, B, D), H = x.shape, h0.shape[1]
        threads = num_threads(B)
        dh, dc = (d.clone(memory_format=torch.contiguous_format) for d in (dh, dc))
        dx = torch.empty_like(x)
        dw_x, dw_h, db = (x.new_zeros(threads, *shape) for shape in ((D, 4 * H), (H, 4 * H), (4 * H,)))
        saved = ctx.gates.tensor, ctx.cells.tensor, y
        gradients = dy.contiguous(), dh, dc, dx, dw_x, dw_h, db
        call("lstm_backward", (T, B, D, H, threads, ctx.in_bfloat16), x, h0, c0, is_first, *weights, *saved, *gradients)
        dw_x, dw_h, db = (d.sum(0) for d in (dw_x, dw_h, db))
        return dx, dh, dc, None, dw_x.t(), dw_h.t(), db, db.clone()
