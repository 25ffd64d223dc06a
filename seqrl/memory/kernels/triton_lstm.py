"""The LSTM of `seqrl.memory.kernels.lstm` on CUDA devices: one launch for a whole sequence (see `triton_common`)."""

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
    """As `seqrl.memory.kernels.lstm`, for x in float32, bfloat16 or float16 on a CUDA device."""
    x, *weights = autocast(x, w_ih, w_hh, b_ih, b_hh)
    h, c = h0.float(), c0.float()
    if needs_grad(x, h, c, *weights):
        y, h, c = _LSTM.apply(x, h, c, is_first, *weights)
    else:
        y, h, c, *_ = _forward(x, h, c, is_first, *weights, save=False)
    return y.to(h0.dtype), h.to(h0.dtype), c.to(c0.dtype)


def _forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    is_first: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    *,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h_1 to h_T, [T, B, H], h_T and c_T; if `save`, the h and c read and the gates i, f, g and o, [T, B, 4H]."""
    T, B, H = *x.shape[:2], h0.shape[1]
    gates = F.linear(x, w_ih, b_ih).float().contiguous()
    y, h_in = h0.new_empty(T, B, H), w_hh.new_empty(T if save else 2, B, H)
    h, c = h0.new_empty(B, H), c0.new_empty(B, H)
    c_in = c0.new_empty((T, B, H) if save else 0)
    args = (
        gates,
        c_in,
        h_in,
        y,
        h,
        c,
        h0.contiguous(),
        c0.contiguous(),
        is_first.contiguous(),
        w_hh.contiguous(),
        b_hh,
        T,
    )
    launch(_forward_kernel, w_hh, B, *args, SAVE=save)
    return y, h, c, h_in, c_in, gates


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, is_first: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h, c, *saved = _forward(x, h0, c0, is_first, *weights, save=True)
        ctx.save_for_backward(x, is_first, *weights[:2], *saved)
        ctx.set_materialize_grads(False)
        return y, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None) -> tuple[Tensor | None, ...]:
        x, is_first, w_ih, w_hh, h_in, c_in, gates = ctx.saved_tensors
        T, B, H = c_in.shape
        d, dh0, dc0 = torch.empty_like(gates, dtype=x.dtype), c_in.new_empty(B, H), c_in.new_empty(B, H)
        dy, dh, dc = (None if each is None else each.contiguous() for each in (dy, dh, dc))
        args = (d, dh0, dc0, dh, dc, dy, gates, c_in, is_first.contiguous(), w_hh.t().contiguous(), T)
        launch(_backward_kernel, w_hh, B, *args)
        d = d.view(T * B, 4 * H)
        dw_ih, dw_hh, db = d.t() @ x.reshape(T * B, -1), d.t() @ h_in.view(T * B, H), d.sum(0)
        dx = (d @ w_ih).view_as(x) if ctx.needs_input_grad[0] else None
        return dx, dh0, dc0, None, dw_ih, dw_hh, db, db.clone()


@triton.jit
@no_type_check
def _step(a_i, a_f, a_g, a_o, c):
    """i, f, g, o and the next c and h, from the sums that the gates are of and the c before."""
    i, f, g, o = tl.sigmoid(a_i), tl.sigmoid(a_f), tanh(a_g), tl.sigmoid(a_o)
    c = f * c + i * g
    return i, f, g, o, c, o * tanh(c)


@triton.jit
@no_type_check
def _step_backward(i, f, g, o, c, dh, dc):
    """The gradients of the four sums and of the c that `_step` reads, from those of the next h and c."""
    tanh_c = tanh(f * c + i * g)
    dc += dh * o * (1 - tanh_c * tanh_c)
    d_i, d_f, d_g = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g)
    return d_i, d_f, d_g, dh * tanh_c * o * (1 - o), dc * f


@triton.jit
@no_type_check
def _forward_kernel(
    gates,  # [T, B, 4H], float32: W x + b; if SAVE, i, f, g and o on return
    c_in,  # [T, B, H], float32: if SAVE, the c that steps read on return
    h_in,  # [T, B, H] if SAVE, else [2, B, H], in the weights' type: the h that steps read, on return
    y,  # [T, B, H], float32: the h that they leave, on return
    h,  # [B, H], float32: h_T on return
    c,  # the same of c
    h0,  # [B, H], float32
    c0,  # the same of c
    is_first,  # [T, B]
    w_hh,  # [4H, H]
    b_hh,  # [4H]
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
        w_i = resident_weights(w, units, H, BLOCK_H)
        w_f = resident_weights(w + H * H, units, H, BLOCK_H)
        w_g = resident_weights(w + 2 * H * H, units, H, BLOCK_H)
        w_o = resident_weights(w + 3 * H * H, units, H, BLOCK_H)
    b_i, b_f = load(b_hh + unit, in_units), load(b_hh + H + unit, in_units)
    b_g, b_o = load(b_hh + 2 * H + unit, in_units), load(b_hh + 3 * H + unit, in_units)
    keep_t = kept(is_first + b, in_rows)
    h_t, c_t = keep_t * load(h0 + b * H + unit, mask), keep_t * load(c0 + b * H + unit, mask)
    gate = gates + b * (4 * H) + unit
    x_i, x_f = load(gate, mask), load(gate + H, mask)
    x_g, x_o = load(gate + 2 * H, mask), load(gate + 3 * H, mask)
    if SAVE or not RESIDENT:
        tl.store(h_in + b * H + unit, h_t.to(h_in.dtype.element_ty), mask=mask)
    for t in tl.range(T, num_stages=1):
        row = tl.cast(t, tl.int64) * B + b
        goes_on = t + 1 < T
        at, gate = row * H + unit, gates + row * (4 * H) + unit
        following = gate + B * (4 * H)  # read ahead: the product takes as long as the memory
        next_i, next_f = load(following, mask & goes_on), load(following + H, mask & goes_on)
        next_g, next_o = load(following + 2 * H, mask & goes_on), load(following + 3 * H, mask & goes_on)
        keep_t = kept(is_first + row + B, in_rows & goes_on)
        if SAVE:
            tl.store(c_in + at, c_t, mask=mask)
        if RESIDENT:
            h_i = resident_product(w_i, h_t, BLOCK_H, BLOCK_B, PRECISION)
            h_f = resident_product(w_f, h_t, BLOCK_H, BLOCK_B, PRECISION)
            h_g = resident_product(w_g, h_t, BLOCK_H, BLOCK_B, PRECISION)
            h_o = resident_product(w_o, h_t, BLOCK_H, BLOCK_B, PRECISION)
        else:
            tl.debug_barrier()  # all of h_in is written before any is read
            a = h_in + ((tl.cast(t, tl.int64) if SAVE else t % 2) * B + rows[None, :]) * H
            h_i = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
            h_f, h_g, h_o = h_i, h_i, h_i
            for start in tl.range(0, H, BLOCK_K, num_stages=STAGES):
                k = start + tl.arange(0, BLOCK_K)
                w_k, w_mask = w + k[None, :], (units < H)[:, None] & (k < H)[None, :]
                a_k = tl.load(a + k[:, None], mask=(k < H)[:, None] & (rows < B)[None, :], other=0.0)
                h_i = tl.dot(tl.load(w_k, mask=w_mask, other=0.0), a_k, h_i, input_precision=PRECISION)
                h_f = tl.dot(tl.load(w_k + H * H, mask=w_mask, other=0.0), a_k, h_f, input_precision=PRECISION)
                h_g = tl.dot(tl.load(w_k + 2 * H * H, mask=w_mask, other=0.0), a_k, h_g, input_precision=PRECISION)
                h_o = tl.dot(tl.load(w_k + 3 * H * H, mask=w_mask, other=0.0), a_k, h_o, input_precision=PRECISION)
            h_i, h_f, h_g, h_o = h_i[:, :, None], h_f[:, :, None], h_g[:, :, None], h_o[:, :, None]
        i, f, g, o, c_t, h_t = _step(x_i + (h_i + b_i), x_f + (h_f + b_f), x_g + (h_g + b_g), x_o + (h_o + b_o), c_t)
        next_h = keep_t * h_t
        if SAVE:
            tl.store(h_in + at + B * H, next_h.to(h_in.dtype.element_ty), mask=mask & goes_on)
        elif not RESIDENT:
            tl.store(h_in + ((t + 1) % 2 * B + b) * H + unit, next_h.to(h_in.dtype.element_ty), mask=mask)
        tl.store(y + at, h_t, mask=mask)
        if SAVE:
            tl.store(gate, i, mask=mask)
            tl.store(gate + H, f, mask=mask)
            tl.store(gate + 2 * H, g, mask=mask)
            tl.store(gate + 3 * H, o, mask=mask)
        if not goes_on:
            tl.store(h + b * H + unit, h_t, mask=mask)
            tl.store(c + b * H + unit, c_t, mask=mask)
        h_t, c_t, x_i, x_f, x_g, x_o = next_h, keep_t * c_t, next_i, next_f, next_g, next_o


@triton.jit
@no_type_check
def _backward_kernel(
    d,  # [T, B, 4H], in the weights' type: on return the gradients of the sums in the gates
    dh0,  # [B, H], float32: on return dL/dh_0
    dc0,  # the same of c
    dh,  # [B, H], float32: dL/dh_T beside dy, or None
    dc,  # the same of c
    dy,  # [T, B, H], float32, or None
    gates,
    c_in,
    is_first,
    w_t,  # [H, 4H], W_hh transposed: what is multiplied lies side by side
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
    w = w_t + units[:, None] * (4 * H)
    if RESIDENT:
        w_i = resident_weights(w, units, H, BLOCK_H)
        w_f = resident_weights(w + H, units, H, BLOCK_H)
        w_g = resident_weights(w + 2 * H, units, H, BLOCK_H)
        w_o = resident_weights(w + 3 * H, units, H, BLOCK_H)
    row = tl.cast(T - 1, tl.int64) * B + b
    at, gate = row * H + unit, gates + row * (4 * H) + unit
    i, f, g, o = load(gate, mask), load(gate + H, mask), load(gate + 2 * H, mask), load(gate + 3 * H, mask)
    c_t, keep_t = load(c_in + at, mask), kept(is_first + row, in_rows)
    dh_t = tl.zeros((BLOCK_H, BLOCK_B, 1), tl.float32)
    dc_t = dh_t
    if dh is not None:
        dh_t += load(dh + b * H + unit, mask)
    if dc is not None:
        dc_t += load(dc + b * H + unit, mask)
    if dy is not None:
        dh_t += load(dy + at, mask)
    for step in tl.range(T, num_stages=1):
        row = tl.cast(T - 1 - step, tl.int64) * B + b
        d_i, d_f, d_g, d_o, dc_t = _step_backward(i, f, g, o, c_t, dh_t, dc_t)
        dtype = d.dtype.element_ty
        sums = d + row * (4 * H) + unit
        tl.store(sums, d_i.to(dtype), mask=mask)
        tl.store(sums + H, d_f.to(dtype), mask=mask)
        tl.store(sums + 2 * H, d_g.to(dtype), mask=mask)
        tl.store(sums + 3 * H, d_o.to(dtype), mask=mask)
        before = mask & (step + 1 < T)  # read ahead
        at, gate = (row - B) * H + unit, gates + (row - B) * (4 * H) + unit
        i, f = load(gate, before), load(gate + H, before)
        g, o = load(gate + 2 * H, before), load(gate + 3 * H, before)
        c_t, next_keep = load(c_in + at, before), kept(is_first + row - B, in_rows & (step + 1 < T))
        if dy is not None:
            next_dy = load(dy + at, before)
        if RESIDENT:
            dh_t = resident_product(w_i, d_i, BLOCK_H, BLOCK_B, PRECISION)
            dh_t += resident_product(w_f, d_f, BLOCK_H, BLOCK_B, PRECISION)
            dh_t += resident_product(w_g, d_g, BLOCK_H, BLOCK_B, PRECISION)
            dh_t += resident_product(w_o, d_o, BLOCK_H, BLOCK_B, PRECISION)
        else:
            tl.debug_barrier()  # all of d is written before any is read
            a = d + (tl.cast(T - 1 - step, tl.int64) * B + rows[None, :]) * (4 * H)
            dh_t = streamed_product(a, w, rows, units, B, H, 4 * H, BLOCK_B, BLOCK_H, BLOCK_K, STAGES, PRECISION)
        dh_t, dc_t = keep_t * dh_t, keep_t * dc_t
        if dy is not None:
            dh_t += next_dy
        keep_t = next_keep
    tl.store(dh0 + b * H + unit, dh_t, mask=mask)
    tl.store(dc0 + b * H + unit, dc_t, mask=mask)
