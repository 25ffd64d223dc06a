"""A GRU over whole sequences that resets rows on the way."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels import native_gru
from seqrl.memory.kernels.common import (
    Workspace,
    add_product_,
    autocast,
    blocks,
    check_inputs,
    keep_mask,
    needs_grad,
    sigmoid_backward,
    state_dtype,
    states_read,
    tanh_backward,
)
from seqrl.memory.kernels.native_library import native_serves
from seqrl.memory.kernels.triton_dispatch import triton_serves


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

    Only the matrix products are taken in bfloat16 or float16, where x is of such a type or autocast asks for it.
    Raises UserError where shapes do not belong together, or `is_first` is not of bools.
    """
    check_inputs(3, x, (h0,), is_first, w_ih, w_hh, b_ih, b_hh)
    acting = len(x) == 1 and not needs_grad(x, h0, w_ih, w_hh, b_ih, b_hh)
    if not acting and triton_serves(w_hh):
        from seqrl.memory.kernels import triton_gru  # here, since it imports Triton

        return triton_gru.gru(x, h0, is_first, w_ih, w_hh, b_ih, b_hh)
    if native_serves(acting, h0, x, w_ih, w_hh, b_ih, b_hh):
        return native_gru.gru(x, h0, is_first, w_ih, w_hh, b_ih, b_hh)
    x, *weights = autocast(x, w_ih, w_hh, b_ih, b_hh)
    h = h0.to(state_dtype(x))
    keep = keep_mask(is_first, h.dtype)
    if needs_grad(x, h, *weights):
        y, h = _GRU.apply(x, h, keep, *weights)
    elif acting and x.dtype == h.dtype:
        h = torch.gru_cell(x[0], h * keep[0], *weights)
        y = h[None].clone()
    else:
        y, h = _forward(None, x, h, keep, *weights)
    return y.to(h0.dtype), h.to(h0.dtype)


def _doubled(w_ih: Tensor, w_hh: Tensor) -> tuple[Tensor, Tensor]:
    """W_x for (r, z, n) and W_h for (hn, r, z), the rows of the candidate doubled: see `common`."""
    H = w_hh.shape[1]
    w_x, w_h = w_ih.clone(), w_hh.roll(H, 0)
    w_x[2 * H :] *= 2
    w_h[:H] *= 2
    return w_x, w_h


def _forward(
    saved: Tensor | None,
    x: Tensor,
    h: Tensor,
    keep: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, Tensor]:
    """y and h_T. What backward needs is written to `saved`: the gates, [T, B, 4H].

    The gates stand as (2 (W_hn h + b_hn), r, z, n), so that the state feeds the first three and the input the last
    three.
    """
    T, B, D = x.shape
    H = h.shape[1]
    steps = blocks(T, B)
    if saved is None:
        gates = h.new_empty(steps[0].stop, B, 4 * H)
    y, h_in = h.new_empty(T, B, H), torch.empty_like(h)
    bias = torch.cat([2 * b_hh[2 * H :], b_ih[: 2 * H] + b_hh[: 2 * H], 2 * b_ih[2 * H :]])
    w_x, w_h = (w.t() for w in _doubled(w_ih, w_hh))
    minus_one = h.new_full((), -1.0)  # a tensor from the host would wait for the device
    for block in steps:
        if saved is not None:
            gates = saved[block]
        x_block = x[block].reshape(-1, D)
        flat = gates.view(-1, 4 * H)[: len(x_block)].copy_(bias)
        add_product_(flat[:, H:], x_block, w_x)
        hn, _, z, n = gates.split(H, dim=2)
        r_z = gates[..., H : 3 * H]
        for k_t, y_t, h_part, rz_t, hn_t, r_t, z_t, n_t in zip(
            keep[block], y[block], gates[..., : 3 * H], r_z, hn, r_z[..., :H], z, n, strict=False
        ):
            torch.mul(h, k_t, out=h_in)
            add_product_(h_part, h_in, w_h)
            rz_t.sigmoid_()
            n_t.addcmul_(r_t, hn_t).sigmoid_()
            torch.add(minus_one, n_t, alpha=2, out=n_t)
            h = torch.lerp(n_t, h_in, z_t, out=y_t)
    return y, h.clone()


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, keep: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        T, B, H = *x.shape[:2], h0.shape[1]
        ctx.gates = Workspace(h0, T, B, 4 * H)
        with torch.autocast(x.device.type, enabled=False):
            y, h = _forward(ctx.gates.tensor, x, h0, keep, *weights)
        ctx.save_for_backward(x, h0, y, keep, *weights[:2])
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, y, keep, w_ih, w_hh = ctx.saved_tensors
        gates = ctx.gates.tensor
        T, B, D = x.shape
        H = h0.shape[1]
        steps = blocks(T, B)
        w_x, w_h = _doubled(w_ih, w_hh)
        dx = x.new_empty(T, B, D)
        dw_x, dw_h, db = (dh.new_zeros(shape) for shape in (w_x.t().shape, w_h.t().shape, 4 * H))
        scratch, h_scratch = Workspace(dh, steps[0].stop, B, 4, H), Workspace(dh, steps[0].stop, B, H)
        dh = dh + dy[-1]
        dh_in = torch.empty_like(dh)
        half = dh.new_tensor(0.5)
        # dy of the step before, which has none at the very start.
        dy_tm1 = [torch.zeros_like(dh), *dy[:-1]]
        for block in reversed(steps):
            h = states_read(h0, y, keep, block, h_scratch.tensor[: block.stop - block.start])
            hn, r, z, n = gates[block].split(H, dim=2)
            # Each gate's gradient is dL/dh_t times a factor, and all the block's factors are known beforehand.
            factors = scratch.tensor[: len(h)]
            d_hn, d_r, d_z, d_n = factors.unbind(2)
            tanh_backward(torch.sub(half, z, alpha=0.5, out=d_hn), n, grad_input=d_n)
            sigmoid_backward(torch.mul(d_n, hn, out=d_hn), r, grad_input=d_r)
            sigmoid_backward(torch.sub(h, n, out=d_hn), z, grad_input=d_z)
            torch.mul(d_n, r, out=d_hn)
            d = factors.flatten(2)
            for k_t, factors_t, d_t, z_t, dy_t in zip(
                *(reversed(list(v)) for v in (keep[block], factors, d[..., : 3 * H], z, dy_tm1[block])), strict=True
            ):
                factors_t.mul_(dh[:, None])
                add_product_(torch.mul(dh, z_t, out=dh_in), d_t, w_h)
                torch.addcmul(dy_t, dh_in, k_t, out=dh)
            d = d.view(-1, 4 * H)
            db += d.sum(0)
            d = d.to(x.dtype)
            torch.mm(d[:, H:], w_x, out=dx[block].view(-1, D))
            add_product_(dw_x, x[block].reshape(-1, D).t(), d[:, H:])
            add_product_(dw_h, h.view(-1, H).t().to(x.dtype), d[:, : 3 * H])
        for doubled in (dw_x[:, 2 * H :], dw_h[:, :H], db[:H], db[3 * H :]):
            doubled *= 2
        return dx, dh, None, dw_x.t(), dw_h.roll(-H, 1).t(), db[H:], db[: 3 * H].roll(-H)
