"""A GRU over whole sequences that resets rows on the way."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import blocks, cast, keep_mask, needs_grad, sigmoid_backward, tanh_backward



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
    x, h, w_ih, w_hh, b_ih, b_hh = cast(x, h0, w_ih, w_hh, b_ih, b_hh)
    keep = keep_mask(is_first, x)
    with torch.autocast(x.device.type, enabled=False):
        if needs_grad(x, h, w_ih, w_hh, b_ih, b_hh):
            y, h = _GRU.apply(x, h, keep, w_ih, w_hh, b_ih, b_hh)
        else:
            y, h, _, _ = _forward(x, h, keep, w_ih, w_hh, b_ih, b_hh, save=False)
    return y, h.to(h0.dtype)


def _forward(
    x: Tensor, h: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, h_T, and what backward needs: the gates [T, B, 4H] and the state that each step read [T, B, H].

    Gates are laid out (W_hn h + b_hn, r, z, n): the first three are what the state feeds, the last three what the input
    feeds, so that each product writes into one slice.
    """
    T, B, D = x.shape
    H = h.shape[1]
    steps = blocks(T, B)
    kept = T if save else len(steps[0])
    gates, h_in, y = x.new_empty(kept, B, 4 * H), x.new_empty(kept, B, H), x.new_empty(T, B, H)
    bias = torch.cat([b_hh[2 * H :], b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]])
    w_in, w_state = w_ih.t(), w_hh.roll(H, 0).t()
    for block in steps:
        rows = slice(block.start, block.stop)
        here = rows if save else slice(0, len(block))
        g, read = gates[here], h_in[here]
        flat = g.view(-1, 4 * H).copy_(bias)
        flat[:, H:].addmm_(x[rows].reshape(-1, D), w_in)
        for from_state, hn, r, rz, z, n, k, h_t, y_t in zip(
            g[..., : 3 * H].unbind(),
            g[..., :H].unbind(),
            g[..., H : 2 * H].unbind(),
            g[..., H : 3 * H].unbind(),
            g[..., 2 * H : 3 * H].unbind(),
            g[..., 3 * H :].unbind(),
            keep[rows].unbind(),
            read.unbind(),
            y[rows].unbind(),
            strict=True,
        ):
            torch.mul(h, k, out=h_t)
            from_state.addmm_(h_t, w_state)
            rz.sigmoid_()
            n.addcmul_(r, hn).tanh_()
            h = torch.lerp(n, h_t, z, out=y_t)
    return y, h.clone(), gates, h_in


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, keep: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        y, h, gates, h_in = _forward(x, h0, keep, *weights, save=True)
        ctx.save_for_backward(x, keep, weights[0], weights[1], gates, h_in)
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, w_ih, w_hh, gates, h_in = ctx.saved_tensors
        T, B, D = x.shape
        H = h_in.shape[2]
        w_state = w_hh.roll(H, 0)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dw_ih, dw_state, db = torch.zeros_like(w_ih), torch.zeros_like(w_state), w_ih.new_zeros(4 * H)
        steps = blocks(T, B)
        scratch = x.new_empty(len(steps[0]), B, 4, H)
        carry = torch.empty_like(h_in[0])
        dh = dy[-1] + dh
        zero = torch.zeros_like(dh)
        for block in reversed(steps):
            rows = slice(block.start, block.stop)
            hn, r, z, n = gates[rows].unflatten(2, (4, H)).unbind(2)
            # Each gate's gradient is dL/dh_t times a factor that the forward pass has fixed: all factors at once.
            factors = scratch[: len(block)]
            f_hn, f_r, f_z, f_n = factors.unbind(2)
            torch.sub(1, z, out=f_hn)
            tanh_backward(f_hn, n, grad_input=f_n)
            torch.mul(f_n, hn, out=f_hn)
            sigmoid_backward(f_hn, r, grad_input=f_r)
            torch.mul(f_n, r, out=f_hn)
            sigmoid_backward(h_in[rows] - n, z, grad_input=f_z)
            before = [zero if t == 0 else dy[t - 1] for t in block]
            for f_t, d_t, z_t, k_t, dy_tm1 in zip(
                reversed(factors.unbind()),
                reversed(factors.flatten(2)[..., : 3 * H].unbind()),
                reversed(z.unbind()),
                reversed(keep[rows].unbind()),
                reversed(before),
                strict=True,
            ):
                f_t.mul_(dh[:, None])
                torch.mul(dh, z_t, out=carry).addmm_(d_t, w_state)
                torch.addcmul(dy_tm1, carry, k_t, out=dh)
            d = factors.view(-1, 4 * H)
            if dx is not None:
                dx[rows] = (d[:, H:] @ w_ih).view(-1, B, D)
            dw_ih.addmm_(d[:, H:].t(), x[rows].reshape(-1, D))
            dw_state.addmm_(d[:, : 3 * H].t(), h_in[rows].view(-1, H))
            db += d.sum(0)
        return dx, dh, None, dw_ih, dw_state.roll(-H, 0), db[H:], db[: 3 * H].roll(-H)
