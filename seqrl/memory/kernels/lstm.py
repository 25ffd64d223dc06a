"""An LSTM over whole sequences that resets rows on the way."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import blocks, cast, keep_mask, needs_grad, sigmoid_backward, tanh_backward


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
    x, h, c, w_ih, w_hh, b_ih, b_hh = cast(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    keep = keep_mask(is_first, x)
    with torch.autocast(x.device.type, enabled=False):
        if needs_grad(x, h, c, w_ih, w_hh, b_ih, b_hh):
            y, h, c = _LSTM.apply(x, h, c, keep, w_ih, w_hh, b_ih, b_hh)
        else:
            y, h, c, *_ = _forward(x, h, c, keep, w_ih, w_hh, b_ih, b_hh, save=False)
    return y, h.to(h0.dtype), c.to(c0.dtype)


def _forward(
    x: Tensor, h: Tensor, c: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *, save: bool
) -> tuple[Tensor, ...]:
    T, B, D = x.shape
    H = h.shape[1]
    steps = blocks(T, B)
    kept = T if save else len(steps[0])
    gates, y = x.new_empty(kept, B, 4 * H), x.new_empty(T, B, H)
    h_in, c_in, tanh_c = x.new_empty(3, kept, B, H)
    bias, w_in, w_state = b_ih + b_hh, w_ih.t(), w_hh.t()
    c = c.clone()
    for block in steps:
        rows = slice(block.start, block.stop)
        here = rows if save else slice(0, len(block))
        block_gates = gates[here]
        block_gates.view(-1, 4 * H).copy_(bias).addmm_(x[rows].reshape(-1, D), w_in)
        for a, i_f, i, f, g, o, k, h_t, c_t, tanh_t, y_t in zip(
            block_gates.unbind(),
            block_gates[..., : 2 * H].unbind(),
            block_gates[..., :H].unbind(),
            block_gates[..., H : 2 * H].unbind(),
            block_gates[..., 2 * H : 3 * H].unbind(),
            block_gates[..., 3 * H :].unbind(),
            keep[rows].unbind(),
            h_in[here].unbind(),
            c_in[here].unbind(),
            tanh_c[here].unbind(),
            y[rows].unbind(),
            strict=True,
        ):
            torch.mul(h, k, out=h_t)
            torch.mul(c, k, out=c_t)
            a.addmm_(h_t, w_state)
            i_f.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, c_t, out=c).addcmul_(i, g)
            torch.tanh(c, out=tanh_t)
            h = torch.mul(o, tanh_t, out=y_t)
    return y, h.clone(), c, gates, h_in, c_in, tanh_c


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, keep: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h, c, *saved = _forward(x, h0, c0, keep, *weights, save=True)
        ctx.save_for_backward(x, keep, weights[0], weights[1], *saved)
        return y, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, w_ih, w_hh, gates, h_in, c_in, tanh_c = ctx.saved_tensors
        T, B, D = x.shape
        H = h_in.shape[2]
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dw_ih, dw_hh, db = torch.zeros_like(w_ih), torch.zeros_like(w_hh), w_ih.new_zeros(4 * H)
        steps = blocks(T, B)
        scratch = x.new_empty(len(steps[0]), B, 4, H)
        forget, dh_to_dc = x.new_empty(2, len(steps[0]), B, H)
        carry = torch.empty_like(h_in[0])
        dh, dc = dy[-1] + dh, dc.clone()
        zero = torch.zeros_like(dh)
        for block in reversed(steps):
            rows = slice(block.start, block.stop)
            i, f, g, o = gates[rows].unflatten(2, (4, H)).unbind(2)
            # Each gate's gradient is that of c_t (of h_t for o) times a factor that the forward pass has fixed.
            factors = scratch[: len(block)]
            f_i, f_f, f_g, f_o = factors.unbind(2)
            sigmoid_backward(g, i, grad_input=f_i)
            sigmoid_backward(c_in[rows], f, grad_input=f_f)
            tanh_backward(i, g, grad_input=f_g)
            sigmoid_backward(tanh_c[rows], o, grad_input=f_o)
            tanh_backward(o, tanh_c[rows], grad_input=dh_to_dc[: len(block)])
            torch.mul(f, keep[rows], out=forget[: len(block)])
            before = [zero if t == 0 else dy[t - 1] for t in block]
            for f_t, o_t, d_t, to_c, forget_t, k_t, dy_tm1 in zip(
                reversed(factors[:, :, :3].unbind()),
                reversed(f_o.unbind()),
                reversed(factors.flatten(2).unbind()),
                reversed(dh_to_dc[: len(block)].unbind()),
                reversed(forget[: len(block)].unbind()),
                reversed(keep[rows].unbind()),
                reversed(before),
                strict=True,
            ):
                dc.addcmul_(dh, to_c)
                f_t.mul_(dc[:, None])
                o_t.mul_(dh)
                dc.mul_(forget_t)
                torch.mm(d_t, w_hh, out=carry)
                torch.addcmul(dy_tm1, carry, k_t, out=dh)
            d = factors.view(-1, 4 * H)
            if dx is not None:
                dx[rows] = (d @ w_ih).view(-1, B, D)
            dw_ih.addmm_(d.t(), x[rows].reshape(-1, D))
            dw_hh.addmm_(d.t(), h_in[rows].view(-1, H))
            db += d.sum(0)
        return dx, dh, dc, None, dw_ih, dw_hh, db, db.clone()
