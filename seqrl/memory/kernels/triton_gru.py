"""The GRU of `seqrl.memory.kernels.gru` on CUDA devices: one launch for a whole sequence (see `triton_common`)."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seqrl.memory.kernels.common import autocast, needs_grad
from seqrl.memory.kernels.triton_common import (
    kept,
    launch,
    load,
    places,
    resident_product,
    resident_weights,
    streamed_product,
    tanh,
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
    """As `seqrl.memory.kernels.gru`, for x in float32, bfloat16 or float16 on a CUDA device."""
    x, *weights = autocast(x, w_ih, w_hh, b_ih, b_hh)
    h = h0.float()
    if needs_grad(x, h, *weights):
        y, h = _GRU.apply(x, h, is_first, *weights)
    else:
        y, h, *_ = _forward(x, h, is_first, *weights, save=False)
    return y.to(h0.dtype), h.to(h0.dtype)


def _forward(
    x: Tensor, h0: Tensor, is_first: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h_1 to h_T, [T, B, H], and h_T; if `save`, the states read, r, z and n, [T, B, 3H], and W_hn h + b_hn."""
    T, B, H = *x.shape[:2], h0.shape[1]
    gates = F.linear(x, w_ih, b_ih).float().contiguous()
    y, h_in = h0.new_empty(T, B, H), w_hh.new_empty(T if save else 2, B, H)
    h, hn = h0.new_empty(B, H), h0.new_empty((T, B, H) if save else 0)
    args = (gates, hn, h_in, y, h, h0.contiguous(), is_first.contiguous(), w_hh.contiguous(), b_hh, T)
    launch(_forward_kernel, w_hh, B, *args, SAVE=save)
    return y, h, h_in, gates, hn


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, is_first: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        y, h, *saved = _forward(x, h0, is_first, *weights, save=True)
        ctx.save_for_backward(x, is_first, *weights[:2], *saved)
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
        x, is_first, w_ih, w_hh, h_in, gates, hn = ctx.saved_tensors
        T, B, H = hn.shape
        d, dh0 = x.new_empty(T, B, 4 * H), hn.new_empty(B, H)
        dy, dh = (None if each is None else each.contiguous() for each in (dy, dh))
        args = (d, dh0, dh, dy, gates, hn, h_in, is_first.contiguous(), w_hh.t().contiguous(), T)
        launch(_backward_kernel, w_hh, B, *args)
        d = d.view(T * B, 4 * H)
        d_ih, d_hh = d[:, : 3 * H], d[:, H:]  # for n, r, z, and for r, z, hn
        dw_ih, db = (d_ih.t() @ x.reshape(T * B, -1)).roll(-H, 0), d.sum(0)
        dx = (d_ih @ w_ih.roll(H, 0)).view_as(x) if ctx.needs_input_grad[0] else None
        return dx, dh0, None, dw_ih, d_hh.t() @ h_in.view(T * B, H), db[: 3 * H].roll(-H), db[H:]


@triton.jit
@no_type_check
def _step(i_r, i_z, i_n, h_n, h):
    """r, z, n and the next state, from the sums that the gates are of and the state before, h."""
    r, z = tl.sigmoid(i_r), tl.sigmoid(i_z)
    n = tanh(i_n + r * h_n)
    return r, z, n, n + z * (h - n)


@triton.jit
@no_type_check
def _step_backward(r, z, n, h_n, h, dh):
    """The gradients of the four sums that `_step` reads, from that of the next state."""
    d_n = dh * (1 - z) * (1 - n * n)
    return d_n * h_n * r * (1 - r), dh * (h - n) * z * (1 - z), d_n, d_n * r


@triton.jit
@no_type_check
def _forward_kernel(
    gates,  # [T, B, 3H], float32: W x + b; if SAVE, r, z and n on return
    hn,  # [T, B, H], float32: if SAVE, W_hn h + b_hn on return
    h_in,  # [T, B, H] if SAVE, else [2, B, H], in the weights' type: the states that steps read, on return
    y,  # [T, B, H], float32: the states that they leave, on return
    h,  # [B, H], float32: h_T on return
    h0,  # [B, H], float32
    is_first,  # [T, B]
    w_hh,  # [3H, H]
    b_hh,  # [3H]
    T,
    B,
    H: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,  # H at least
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    units, rows, unit, b, in_units, in_rows = places(B, H, BLOCK_B, BLOCK_H)
    mask = in_rows & in_units
    w = w_hh + units[:, None] * H
    if RESIDENT:
        w_r = resident_weights(w, units, H, BLOCK_H)
        w_z = resident_weights(w + H * H, units, H, BLOCK_H)
        w_n = resident_weights(w + 2 * H * H, units, H, BLOCK_H)
    b_r, b_z, b_n = load(b_hh + unit, in_units), load(b_hh + H + unit, in_units), load(b_hh + 2 * H + unit, in_units)
    h_t = kept(is_first + b, in_rows) * load(h0 + b * H + unit, mask)
    gate = gates + b * (3 * H) + unit
    i_r, i_z, i_n = load(gate, mask), load(gate + H, mask), load(gate + 2 * H, mask)
    if SAVE or not RESIDENT:
        tl.store(h_in + b * H + unit, h_t.to(h_in.dtype.element_ty), mask=mask)
    for t in tl.range(T, num_stages=1):
        row = tl.cast(t, tl.int64) * B + b
        goes_on = t + 1 < T
        gate = gates + row * (3 * H) + unit
        following = gate + B * (3 * H)  # read ahead: the product takes as long as the memory
        next_r = load(following, mask & goes_on)
        next_z = load(following + H, mask & goes_on)
        next_n = load(following + 2 * H, mask & goes_on)
        keep_t = kept(is_first + row + B, in_rows & goes_on)
        if RESIDENT:
            h_r = resident_product(w_r, h_t, BLOCK_H, BLOCK_B, PRECISION)
            h_z = resident_product(w_z, h_t, BLOCK_H, BLOCK_B, PRECISION)
            h_n = resident_product(w_n, h_t, BLOCK_H, BLOCK_B, PRECISION)
        else:
            tl.debug_barrier()  # all of h_in is written before any is read
            a = h_in + ((tl.cast(t, tl.int64) if SAVE else t % 2) * B + rows[None, :]) * H
            h_r = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
            h_z, h_n = h_r, h_r
            for start in tl.range(0, H, BLOCK_K, num_stages=STAGES):
                k = start + tl.arange(0, BLOCK_K)
                w_k, w_mask = w + k[None, :], (units < H)[:, None] & (k < H)[None, :]
                a_k = tl.load(a + k[:, None], mask=(k < H)[:, None] & (rows < B)[None, :], other=0.0)
                h_r = tl.dot(tl.load(w_k, mask=w_mask, other=0.0), a_k, h_r, input_precision=PRECISION)
                h_z = tl.dot(tl.load(w_k + H * H, mask=w_mask, other=0.0), a_k, h_z, input_precision=PRECISION)
                h_n = tl.dot(tl.load(w_k + 2 * H * H, mask=w_mask, other=0.0), a_k, h_n, input_precision=PRECISION)
            h_r, h_z, h_n = h_r[:, :, None], h_z[:, :, None], h_n[:, :, None]
        h_n += b_n
        r, z, n, h_t = _step(i_r + (h_r + b_r), i_z + (h_z + b_z), i_n, h_n, h_t)
        at = row * H + unit
        next_h = keep_t * h_t
        if SAVE:
            tl.store(h_in + at + B * H, next_h.to(h_in.dtype.element_ty), mask=mask & goes_on)
        elif not RESIDENT:
            tl.store(h_in + ((t + 1) % 2 * B + b) * H + unit, next_h.to(h_in.dtype.element_ty), mask=mask)
        tl.store(y + at, h_t, mask=mask)
        if not goes_on:
            tl.store(h + b * H + unit, h_t, mask=mask)
        if SAVE:
            tl.store(gate, r, mask=mask)
            tl.store(gate + H, z, mask=mask)
            tl.store(gate + 2 * H, n, mask=mask)
            tl.store(hn + at, h_n, mask=mask)
        h_t, i_r, i_z, i_n = next_h, next_r, next_z, next_n


@triton.jit
@no_type_check
def _backward_kernel(
    d,  # [T, B, 4H], in the weights' type: on return the gradients of the sums in n, r and z, and of W_hn h + b_hn
    dh0,  # [B, H], float32: on return dL/dh_0
    dh,  # [B, H], float32: dL/dh_T beside dy, or None
    dy,  # [T, B, H], float32, or None
    gates,
    hn,
    h_in,
    is_first,
    w_t,  # [H, 3H], W_hh transposed: what is multiplied lies side by side
    T,
    B,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    units, rows, unit, b, in_units, in_rows = places(B, H, BLOCK_B, BLOCK_H)
    mask = in_rows & in_units
    w = w_t + units[:, None] * (3 * H)
    if RESIDENT:
        w_r = resident_weights(w, units, H, BLOCK_H)
        w_z = resident_weights(w + H, units, H, BLOCK_H)
        w_n = resident_weights(w + 2 * H, units, H, BLOCK_H)
    row = tl.cast(T - 1, tl.int64) * B + b
    at, gate = row * H + unit, gates + row * (3 * H) + unit
    r, z, n, h_n = load(gate, mask), load(gate + H, mask), load(gate + 2 * H, mask), load(hn + at, mask)
    h, keep_t = load(h_in + at, mask), kept(is_first + row, in_rows)
    dh_t = tl.zeros((BLOCK_H, BLOCK_B, 1), tl.float32)
    if dh is not None:
        dh_t += load(dh + b * H + unit, mask)
    if dy is not None:
        dh_t += load(dy + at, mask)
    for step in tl.range(T, num_stages=1):
        row = tl.cast(T - 1 - step, tl.int64) * B + b
        d_r, d_z, d_n, d_h_n = _step_backward(r, z, n, h_n, h, dh_t)
        dtype = d.dtype.element_ty
        sums = d + row * (4 * H) + unit
        tl.store(sums + H, d_r.to(dtype), mask=mask)
        tl.store(sums + 2 * H, d_z.to(dtype), mask=mask)
        tl.store(sums + 3 * H, d_h_n.to(dtype), mask=mask)
        tl.store(sums, d_n.to(dtype), mask=mask)
        before = mask & (step + 1 < T)  # read ahead
        at, gate = (row - B) * H + unit, gates + (row - B) * (3 * H) + unit
        dh_t *= z
        r, z, n, h_n = load(gate, before), load(gate + H, before), load(gate + 2 * H, before), load(hn + at, before)
        h, next_keep = load(h_in + at, before), kept(is_first + row - B, in_rows & (step + 1 < T))
        if dy is not None:
            next_dy = load(dy + at, before)
        if RESIDENT:
            dh_t += resident_product(w_r, d_r, BLOCK_H, BLOCK_B, PRECISION)
            dh_t += resident_product(w_z, d_z, BLOCK_H, BLOCK_B, PRECISION)
            dh_t += resident_product(w_n, d_h_n, BLOCK_H, BLOCK_B, PRECISION)
        else:
            tl.debug_barrier()  # all of d is written before any is read
            a = d + (tl.cast(T - 1 - step, tl.int64) * B + rows[None, :]) * (4 * H) + H
            dh_t += streamed_product(a, w, rows, units, B, H, 3 * H, BLOCK_B, BLOCK_H, BLOCK_K, STAGES, PRECISION)
        dh_t *= keep_t
        if dy is not None:
            dh_t += next_dy
        keep_t = next_keep
    tl.store(dh0 + b * H + unit, dh_t, mask=mask)
