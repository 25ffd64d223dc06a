"""An LSTM over whole sequences that resets rows on the way."""

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


def lstm(
    x: Float[Tensor, "T B D"],
    h0: Float[Tensor, "B H"],
    c0: Float[Tensor, "B H"],
    is_first: Bool[Tensor, "T B"],
    w_ih: Float[Tensor, "G D"],
    w_hh: Float[Tensor, "G H"],
    b_ih: Float[Tensor, " G"],
    b_hh: Float[Tensor, " G"],
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """A long short-term memory over T steps; row b forgets everything before step t where `is_first[t, b]`.

    With h = c = 0 where is_first_t, else h_{t-1} and c_{t-1}:

        i_t, f_t, o_t = σ(W x_t + b + W' h + b')        a W, W', b and b' for each gate
        g_t = tanh(W_ig x_t + b_ig + W_hg h + b_hg)
        c_t = f_t ⊙ c + i_t ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)

    Weights and biases are stacked (i, f, g, o), G = 4H, as in `torch.nn.LSTM`, whose equations these are (Hochreiter &
    Schmidhuber 1997; Gers et al. 2000). Returns y, [T, B, H], then h_T and c_T, [B, H], in the type of `h0` and `c0`.
    """
    x, h, c, *weights = autocast(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    keep = keep_mask(is_first, x)
    if needs_grad(x, h, c, *weights):
        y, h, c = _LSTM.apply(x, h, c, keep, *weights)
    elif len(x) == 1:  # acting
        h, c = torch.lstm_cell(x[0], (h * keep[0], c * keep[0]), *weights)
        y = h[None].clone()
    else:
        y, h, c = _forward(None, x, h, c, keep, *weights)
    return y, h.to(h0.dtype), c.to(c0.dtype)


def _forward(
    saved: tuple[Tensor, Tensor] | None,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    keep: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_T and c_T. What backward needs is written to `saved`: the gates [T, B, 4H], and [3, T, B, H] with the h and
    the c that were read, and tanh(c_t)."""
    T, B, D = x.shape
    H = h.shape[1]
    steps = blocks(T, B)
    if saved is None:
        gates, states = x.new_empty(steps[0].stop, B, 4 * H), x.new_empty(3, steps[0].stop, B, H)
    y = x.new_empty(T, B, H)
    bias, w_x, w_h = b_ih + b_hh, w_ih.t(), w_hh.t()
    c = c.clone()
    for block in steps:
        if saved is not None:
            gates, states = saved[0][block], saved[1][:, block]
        x_block = x[block].reshape(-1, D)
        gates.view(-1, 4 * H)[: len(x_block)].copy_(bias).addmm_(x_block, w_x)
        i, f, g, o = gates.split(H, dim=2)
        for k_t, h_t, c_t, tanh_t, y_t, gates_t, i_f, i_t, f_t, g_t, o_t in zip(
            keep[block], *states, y[block], gates, gates[..., : 2 * H], i, f, g, o, strict=False
        ):
            torch.mul(h, k_t, out=h_t)
            torch.mul(c, k_t, out=c_t)
            gates_t.addmm_(h_t, w_h)
            i_f.sigmoid_()
            tanh_into(g_t, out=g_t)
            o_t.sigmoid_()
            torch.mul(f_t, c_t, out=c).addcmul_(i_t, g_t)
            h = torch.mul(o_t, tanh_into(c, out=tanh_t), out=y_t)
    return y, h.clone(), c


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, keep: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.gates, ctx.states = Workspace(x, T, B, 4 * H), Workspace(x, 3, T, B, H)
        ctx.save_for_backward(x, keep, *weights[:2])
        with torch.autocast(x.device.type, enabled=False):
            return _forward((ctx.gates.tensor, ctx.states.tensor), x, h0, c0, keep, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, w_ih, w_hh = ctx.saved_tensors
        gates, states = ctx.gates.tensor, ctx.states.tensor
        T, B, D = x.shape
        H = dh.shape[1]
        steps = blocks(T, B)
        dx = x.new_empty(T, B, D)
        dw_ih, dw_hh, db = torch.zeros_like(w_ih), torch.zeros_like(w_hh), w_ih.new_zeros(4 * H)
        scratch, more_scratch = Workspace(x, steps[0].stop, B, 4, H), Workspace(x, 2, steps[0].stop, B, H)
        dh, dc = dh + dy[-1], dc.clone()
        dh_in = torch.empty_like(dh)
        # dy of the step before, which has none at the very start.
        dy_tm1 = [torch.zeros_like(dh), *dy[:-1]]
        for block in reversed(steps):
            h, c, tanh_c = states[:, block]
            i, f, g, o = gates[block].split(H, dim=2)
            # Each gate's gradient is dL/dc_t (for o: dL/dh_t) times a factor, and so is what c_t hands on: all the
            # block's factors are known beforehand.
            factors, (dh_to_dc, forget) = scratch.tensor[: len(h)], more_scratch.tensor[:, : len(h)]
            d_i, d_f, d_g, d_o = factors.unbind(2)
            sigmoid_backward(g, i, grad_input=d_i)
            sigmoid_backward(c, f, grad_input=d_f)
            tanh_backward(i, g, grad_input=d_g)
            sigmoid_backward(tanh_c, o, grad_input=d_o)
            tanh_backward(o, tanh_c, grad_input=dh_to_dc)
            torch.mul(f, keep[block], out=forget)
            d = factors.flatten(2)
            for k_t, ifg_t, o_t, d_t, dh_to_dc_t, forget_t, dy_t in zip(
                *(reversed(list(v)) for v in (keep[block], factors[:, :, :3], d_o, d, dh_to_dc, forget, dy_tm1[block])),
                strict=True,
            ):
                dc.addcmul_(dh, dh_to_dc_t)
                ifg_t.mul_(dc[:, None])
                o_t.mul_(dh)
                dc.mul_(forget_t)
                torch.mm(d_t, w_hh, out=dh_in)
                torch.addcmul(dy_t, dh_in, k_t, out=dh)
            d = d.view(-1, 4 * H)
            torch.mm(d, w_ih, out=dx[block].view(-1, D))
            dw_ih.addmm_(d.t(), x[block].reshape(-1, D))
            dw_hh.addmm_(d.t(), h.view(-1, H))
            db += d.sum(0)
        return dx, dh, dc, None, dw_ih, dw_hh, db, db.clone()
