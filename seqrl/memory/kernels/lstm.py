"""An LSTM over whole sequences that resets rows on the way."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels import native_lstm
from seqrl.memory.kernels.common import (
    Workspace,
    add_product_,
    autocast,
    blocks,
    check_inputs,
    keep_mask,
    needs_grad,
    product_into,
    sigmoid_backward,
    state_dtype,
    states_read,
    tanh_backward,
)
from seqrl.memory.kernels.native_library import native_serves
from seqrl.memory.kernels.triton_dispatch import triton_serves


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

    Only the matrix products are taken in bfloat16 or float16, where x is of such a type or autocast asks for it.
    Raises UserError where shapes do not belong together, or `is_first` is not of bools.
    """
    check_inputs(4, x, (h0, c0), is_first, w_ih, w_hh, b_ih, b_hh)
    acting = len(x) == 1 and not needs_grad(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    if not acting and triton_serves(w_hh):
        from seqrl.memory.kernels import triton_lstm  # here, since it imports Triton

        return triton_lstm.lstm(x, h0, c0, is_first, w_ih, w_hh, b_ih, b_hh)
    if native_serves(acting, h0, c0, x, w_ih, w_hh, b_ih, b_hh):
        return native_lstm.lstm(x, h0, c0, is_first, w_ih, w_hh, b_ih, b_hh)
    x, *weights = autocast(x, w_ih, w_hh, b_ih, b_hh)
    h, c = h0.to(state_dtype(x)), c0.to(state_dtype(x))
    keep = keep_mask(is_first, h.dtype)
    if needs_grad(x, h, c, *weights):
        y, h, c = _LSTM.apply(x, h, c, keep, *weights)
    elif acting and x.dtype == h.dtype:
        h, c = torch.lstm_cell(x[0], (h * keep[0], c * keep[0]), *weights)
        y = h[None].clone()
    else:
        y, h, c = _forward(None, x, h, c, keep, *weights)
    return y.to(h0.dtype), h.to(h0.dtype), c.to(c0.dtype)


def _doubled(w: Tensor) -> Tensor:
    """`w` with the rows of the candidate doubled: see `common`."""
    w = w.clone()
    _i, _f, g, _o = w.chunk(4)
    g *= 2
    return w


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
    """y, h_T and c_T. What backward needs is written to `saved`: the gates [T, B, 4H], and [2, T, B, H] with the 2 c
    that were read, and tanh(c_t)."""
    T, B, D = x.shape
    H = h.shape[1]
    steps = blocks(T, B)
    if saved is None:
        gates, states = h.new_empty(steps[0].stop, B, 4 * H), h.new_empty(2, steps[0].stop, B, H)
    y, h_in = h.new_empty(T, B, H), torch.empty_like(h)
    bias, w_x, w_h = (_doubled(w).t() for w in (b_ih + b_hh, w_ih, w_hh))
    c = 2 * c
    minus_one = h.new_full((), -1.0)  # a tensor from the host would wait for the device
    for block in steps:
        if saved is not None:
            gates, states = saved[0][block], saved[1][:, block]
        x_block = x[block].reshape(-1, D)
        add_product_(gates.view(-1, 4 * H)[: len(x_block)].copy_(bias), x_block, w_x)
        for k_t, c_t, tanh_t, y_t, gates_t, i_t, f_t, g_t, o_t in zip(
            keep[block], *states, y[block], gates, *gates.split(H, dim=2), strict=False
        ):
            torch.mul(h, k_t, out=h_in)
            torch.mul(c, k_t, out=c_t)
            add_product_(gates_t, h_in, w_h).sigmoid_()
            torch.add(minus_one, g_t, alpha=2, out=g_t)
            torch.mul(f_t, c_t, out=c).addcmul_(i_t, g_t, value=2)
            torch.add(minus_one, torch.sigmoid(c, out=tanh_t), alpha=2, out=tanh_t)
            h = torch.mul(o_t, tanh_t, out=y_t)
    return y, h.clone(), c / 2


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, keep: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.gates, ctx.states = Workspace(h0, T, B, 4 * H), Workspace(h0, 2, T, B, H)
        with torch.autocast(x.device.type, enabled=False):
            y, h, c = _forward((ctx.gates.tensor, ctx.states.tensor), x, h0, c0, keep, *weights)
        ctx.save_for_backward(x, h0, y, keep, *weights[:2])
        return y, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, y, keep, *weights = ctx.saved_tensors
        gates, states = ctx.gates.tensor, ctx.states.tensor
        T, B, D = x.shape
        H = dh.shape[1]
        steps = blocks(T, B)
        w_x, w_h = (_doubled(w) for w in weights)
        dx = x.new_empty(T, B, D)
        dw_x, dw_h, db = (dh.new_zeros(shape) for shape in (w_x.t().shape, w_h.t().shape, 4 * H))
        scratch, more_scratch = Workspace(dh, steps[0].stop, B, 4, H), Workspace(dh, 3, steps[0].stop, B, H)
        dh, dc = dh + dy[-1], dc.clone()
        dh_in = torch.empty_like(dh)
        # dy of the step before, which has none at the very start.
        dy_tm1 = [torch.zeros_like(dh), *dy[:-1]]
        for block in reversed(steps):
            twice_c, tanh_c = states[:, block]
            i, f, g, o = gates[block].split(H, dim=2)
            # Each gate's gradient is dL/dc_t (for o: dL/dh_t) times a factor, and so is what c_t hands on: all the
            # block's factors are known beforehand.
            factors, (h, dh_to_dc, forget) = scratch.tensor[: len(i)], more_scratch.tensor[:, : len(i)]
            states_read(h0, y, keep, block, h)
            d_i, d_f, d_g, d_o = factors.unbind(2)
            sigmoid_backward(g, i, grad_input=d_i)
            sigmoid_backward(torch.mul(twice_c, 0.5, out=d_o), f, grad_input=d_f)
            tanh_backward(torch.mul(i, 0.5, out=d_o), g, grad_input=d_g)
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
                product_into(dh_in, d_t, w_h)
                torch.addcmul(dy_t, dh_in, k_t, out=dh)
            d = d.view(-1, 4 * H)
            db += d.sum(0)
            d = d.to(x.dtype)
            torch.mm(d, w_x, out=dx[block].view(-1, D))
            add_product_(dw_x, x[block].reshape(-1, D).t(), d)
            add_product_(dw_h, h.view(-1, H).t().to(x.dtype), d)
        for doubled in (dw_x, dw_h, db):
            doubled[..., 2 * H : 3 * H] *= 2
        return dx, dh, dc, None, dw_x.t(), dw_h.t(), db, db.clone()
