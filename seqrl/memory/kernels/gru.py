"""A GRU over whole sequences that resets rows on the way."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import (
    Workspace,
    autocast,
    blocks,
    keep_mask,
    needs_grad,
    sigmoid_backward,
    tanh_backward,
    tanh_into,
)


def gru(
    x: Float[Tensor, "T B D"],
    h0: Float[Tensor, "B H"],
    is_first: Bool[Tensor, "T B"],
    w_ih: Float[Tensor, "G D"],
    w_hh: Float[Tensor, "G H"],
    b_ih: Float[Tensor, " G"],
    b_hh: Float[Tensor, " G"],
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"]]:
    """A gated recurrent unit over T steps; row b forgets everything before step t where `is_first[t, b]`.

    With h = 0 where is_first_t, else h_{t-1}:

        r_t = σ(W_ir x_t + b_ir + W_hr h + b_hr)
        z_t = σ(W_iz x_t + b_iz + W_hz h + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h + b_hn))
        h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h

    Weights and biases are stacked (r, z, n), G = 3H, as in `torch.nn.GRU`, whose equations these are (Cho et al. 2014,
    arXiv 1406.1078, with the reset gate after the product). Returns y, [T, B, H], and h_T, [B, H], in the type of `h0`.
    """
    x, h, *weights = autocast(x, h0, w_ih, w_hh, b_ih, b_hh)
    keep = keep_mask(is_first, x)
    if needs_grad(x, h, *weights):
        y, h = _GRU.apply(x, h, keep, *weights)
    elif len(x) == 1:  # acting
        h = torch.gru_cell(x[0], h * keep[0], *weights)
        y = h[None].clone()
    else:
        y, h = _forward(None, x, h, keep, *weights)
    return y, h.to(h0.dtype)


def _forward(
    saved: tuple[Tensor, Tensor] | None,
    x: Tensor,
    h: Tensor,
    keep: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, Tensor]:
    """y and h_T. What backward needs is written to `saved`: gates [T, B, 4H] and the states that were read [T, B, H].

    The gates stand as (W_hn h + b_hn, r, z, n), so that the state feeds the first three and the input the last three.
    """
    T, B, D = x.shape
    H = h.shape[1]
    steps = blocks(T, B)
    if saved is None:
        gates, h_in = x.new_empty(steps[0].stop, B, 4 * H), x.new_empty(steps[0].stop, B, H)
    y = x.new_empty(T, B, H)
    bias = torch.cat([b_hh[2 * H :], b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]])
    w_x, w_h = w_ih.t(), w_hh.roll(H, 0).t()
    for block in steps:
        if saved is not None:
            gates, h_in = (tensor[block] for tensor in saved)
        x_block = x[block].reshape(-1, D)
        flat = gates.view(-1, 4 * H)[: len(x_block)].copy_(bias)
        flat[:, H:].addmm_(x_block, w_x)
        hn, r, z, n = gates.split(H, dim=2)
        for k_t, h_t, y_t, h_part, rz_t, hn_t, r_t, z_t, n_t in zip(
            keep[block], h_in, y[block], gates[..., : 3 * H], gates[..., H : 3 * H], hn, r, z, n, strict=False
        ):
            torch.mul(h, k_t, out=h_t)
            h_part.addmm_(h_t, w_h)
            rz_t.sigmoid_()
            tanh_into(n_t.addcmul_(r_t, hn_t), out=n_t)
            h = torch.lerp(n_t, h_t, z_t, out=y_t)
    return y, h.clone()


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, keep: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.gates, ctx.h_in = Workspace(x, T, B, 4 * H), Workspace(x, T, B, H)
        ctx.save_for_backward(x, keep, *weights[:2])
        with torch.autocast(x.device.type, enabled=False):
            return _forward((ctx.gates.tensor, ctx.h_in.tensor), x, h0, keep, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, w_ih, w_hh = ctx.saved_tensors
        gates, h_in = ctx.gates.tensor, ctx.h_in.tensor
        T, B, D = x.shape
        H = h_in.shape[2]
        steps = blocks(T, B)
        w_h = w_hh.roll(H, 0)
        dx = x.new_empty(T, B, D)
        dw_ih, dw_h, db = torch.zeros_like(w_ih), torch.zeros_like(w_h), w_ih.new_zeros(4 * H)
        scratch = Workspace(x, steps[0].stop, B, 4, H)
        dh = dh + dy[-1]
        dh_in = torch.empty_like(dh)
        # dy of the step before, which has none at the very start.
        dy_tm1 = [torch.zeros_like(dh), *dy[:-1]]
        for block in reversed(steps):
            h = h_in[block]
            hn, r, z, n = gates[block].split(H, dim=2)
            # Each gate's gradient is dL/dh_t times a factor, and all the block's factors are known beforehand.
            factors = scratch.tensor[: len(h)]
            d_hn, d_r, d_z, d_n = factors.unbind(2)
            tanh_backward(torch.sub(1, z, out=d_hn), n, grad_input=d_n)
            sigmoid_backward(torch.mul(d_n, hn, out=d_hn), r, grad_input=d_r)
            sigmoid_backward(torch.sub(h, n, out=d_hn), z, grad_input=d_z)
            torch.mul(d_n, r, out=d_hn)
            d = factors.flatten(2)
            for k_t, factors_t, d_t, z_t, dy_t in zip(
                *(reversed(list(v)) for v in (keep[block], factors, d[..., : 3 * H], z, dy_tm1[block])), strict=True
            ):
                factors_t.mul_(dh[:, None])
                torch.mul(dh, z_t, out=dh_in).addmm_(d_t, w_h)
                torch.addcmul(dy_t, dh_in, k_t, out=dh)
            d = d.view(-1, 4 * H)
            torch.mm(d[:, H:], w_ih, out=dx[block].view(-1, D))
            dw_ih.addmm_(d[:, H:].t(), x[block].reshape(-1, D))
            dw_h.addmm_(d[:, : 3 * H].t(), h.view(-1, H))
            db += d.sum(0)
        return dx, dh, None, dw_ih, dw_h.roll(-H, 0), db[H:], db[: 3 * H].roll(-H)
