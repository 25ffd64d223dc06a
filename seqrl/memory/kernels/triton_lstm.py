"""The LSTM of `seqrl.memory.kernels.lstm` on CUDA devices: one launch for a whole sequence (see `triton_common`)."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import autocast, needs_grad
from seqrl.memory.kernels.triton_common import add_product, launch, load, load_weights, tanh, weight_gradients


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
    h, c, keep = h0.float(), c0.float(), (~is_first).float().contiguous()
    if needs_grad(x, h, c, *weights):
        y, h, c = _LSTM.apply(x, h, c, keep, *weights)
    else:
        states, cells, _ = _forward(x, h, c, keep, *weights, save=False)
        y, h, c = states[1:], states[-1].clone(), cells[-1]
    return y.to(h0.dtype), h.to(h0.dtype), c.to(c0.dtype)


def _forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    keep: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    *,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_0 to h_T, [T + 1, B, H]; if `save`, c_0 to c_T and the gates i, f, g and o, [T, B, 4H]; else c_T."""
    T, B, H = *x.shape[:2], h0.shape[1]
    gates = (x @ w_ih.t()).float().add_(b_ih + b_hh)
    h, c = h0.new_empty(T + 1, B, H), c0.new_empty(T + 1 if save else 1, B, H)
    h[0], c[0] = h0, c0
    launch(_forward_resident, _forward_tiled, gates, h, c, keep, w_hh.contiguous(), T, B=B, H=H, SAVE=save)
    return h, c, gates


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, keep: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            h, c, gates = _forward(x, h0, c0, keep, *weights, save=True)
        ctx.save_for_backward(x, keep, *weights[:2], h, c, gates)
        return h[1:].clone(), h[-1].clone(), c[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, w_ih, w_hh, h, c, gates = ctx.saved_tensors
        T, B, H = dy.shape
        d = torch.empty_like(gates, dtype=x.dtype)
        dh, dc = (state.clone(memory_format=torch.contiguous_format) for state in (dh, dc))
        args = (d, dh, dc, dy.contiguous(), gates, c, keep, w_hh.contiguous(), T)
        launch(_backward_resident, _backward_tiled, *args, B=B, H=H)
        h_in = (h[:-1] * keep[:, :, None]).to(x.dtype)
        dw_ih, db = weight_gradients(d, x)
        dw_hh, _ = weight_gradients(d, h_in)
        return d @ w_ih, dh, dc, None, dw_ih, dw_hh, db, db.clone()


@triton.jit
@no_type_check
def _step(a_i, a_f, a_g, a_o, c):
    """i, f, g, o and the next c and h, from the sums that the gates are of and the c before."""
    i, f, g, o = tl.sigmoid(a_i), tl.sigmoid(a_f), tanh(a_g), tl.sigmoid(a_o)
    c = f * c + i * g
    return i, f, g, o, c, o * tanh(c)


@triton.jit
@no_type_check
def _step_backward(i, f, g, o, c_in, c, dh, dc):
    """The gradients of the four sums and of the c that `_step` reads, from those of the next h and c."""
    tanh_c = tanh(c)
    dc += dh * o * (1 - tanh_c * tanh_c)
    d_i, d_f, d_g = dc * g * i * (1 - i), dc * c_in * f * (1 - f), dc * i * (1 - g * g)
    return d_i, d_f, d_g, dh * tanh_c * o * (1 - o), dc * f


@triton.jit
@no_type_check
def _forward_resident(
    gates,  # [T, B, 4H], float32: W x + b + b'; if SAVE, i, f, g and o on return
    h,  # [T + 1, B, H], float32: h_0, and all that follow on return
    c,  # the same of c if SAVE; else [1, B, H]: c_0, and c_T on return
    keep,  # [T, B], float32: 1 - is_first
    w_hh,  # [4H, H]
    T,
    B,
    H: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,  # H at least
):
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    k = tl.arange(0, BLOCK_H)[:, None]
    unit = tl.arange(0, BLOCK_H)[None, :]
    mask = (b < B) & (unit < H)
    w_mask = (k < H) & (unit < H)
    w_i = load_weights(w_hh + unit * H + k, w_mask)
    w_f = load_weights(w_hh + (H + unit) * H + k, w_mask)
    w_g = load_weights(w_hh + (2 * H + unit) * H + k, w_mask)
    w_o = load_weights(w_hh + (3 * H + unit) * H + k, w_mask)
    h_t, c_t = load(h + b * H + unit, mask), load(c + b * H + unit, mask)
    for t in tl.range(T, num_stages=1):
        row = tl.cast(t, tl.int64) * B + b
        gate = gates + row * (4 * H) + unit
        keep_t = load(keep + row, b < B)
        h_in, c_in = keep_t * h_t, keep_t * c_t
        a_i = add_product(load(gate, mask), h_in, w_i)
        a_f = add_product(load(gate + H, mask), h_in, w_f)
        a_g = add_product(load(gate + 2 * H, mask), h_in, w_g)
        a_o = add_product(load(gate + 3 * H, mask), h_in, w_o)
        i, f, g, o, c_t, h_t = _step(a_i, a_f, a_g, a_o, c_in)
        tl.store(h + (row + B) * H + unit, h_t, mask=mask)
        if SAVE:
            tl.store(c + (row + B) * H + unit, c_t, mask=mask)
            tl.store(gate, i, mask=mask)
            tl.store(gate + H, f, mask=mask)
            tl.store(gate + 2 * H, g, mask=mask)
            tl.store(gate + 3 * H, o, mask=mask)
    if not SAVE:
        tl.store(c + b * H + unit, c_t, mask=mask)


@triton.jit
@no_type_check
def _forward_tiled(
    gates,
    h,
    c,
    keep,
    w_hh,
    T,
    B,
    H: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    for t in tl.range(T, num_stages=1):  # one stage: no step may read ahead of the barrier
        row = tl.cast(t, tl.int64) * B + b
        keep_t = load(keep + row, b < B)
        for first in range(0, H, BLOCK_H):
            unit = first + tl.arange(0, BLOCK_H)[None, :]
            mask = (b < B) & (unit < H)
            gate = gates + row * (4 * H) + unit
            a_i, a_f = load(gate, mask), load(gate + H, mask)
            a_g, a_o = load(gate + 2 * H, mask), load(gate + 3 * H, mask)
            for start in range(0, H, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                h_k = keep_t * load(h + row * H + k[None, :], (b < B) & (k < H)[None, :])
                w, w_mask = w_hh + unit * H + k[:, None], (k < H)[:, None] & (unit < H)
                a_i = add_product(a_i, h_k, load_weights(w, w_mask))
                a_f = add_product(a_f, h_k, load_weights(w + H * H, w_mask))
                a_g = add_product(a_g, h_k, load_weights(w + 2 * H * H, w_mask))
                a_o = add_product(a_o, h_k, load_weights(w + 3 * H * H, w_mask))
            c_at = c + (row if SAVE else b) * H + unit
            i, f, g, o, c_t, h_t = _step(a_i, a_f, a_g, a_o, keep_t * load(c_at, mask))
            tl.store(h + (row + B) * H + unit, h_t, mask=mask)
            if SAVE:
                tl.store(c_at + B * H, c_t, mask=mask)
                tl.store(gate, i, mask=mask)
                tl.store(gate + H, f, mask=mask)
                tl.store(gate + 2 * H, g, mask=mask)
                tl.store(gate + 3 * H, o, mask=mask)
            else:
                tl.store(c_at, c_t, mask=mask)
        tl.debug_barrier()  # all units of h_t are written before any is read


@triton.jit
@no_type_check
def _backward_resident(
    d,  # [T, B, 4H], in the weights' type: on return the gradients of W x + b + b'
    dh,  # [B, H], float32: dL/dh_T, on return dL/dh_0
    dc,  # the same of c
    dy,  # [T, B, H], float32
    gates,
    c,
    keep,
    w_hh,
    T,
    B,
    H: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    k = tl.arange(0, BLOCK_H)[:, None]
    unit = tl.arange(0, BLOCK_H)[None, :]
    mask = (b < B) & (unit < H)
    w_mask = (k < H) & (unit < H)
    w_i = load_weights(w_hh + k * H + unit, w_mask)
    w_f = load_weights(w_hh + (H + k) * H + unit, w_mask)
    w_g = load_weights(w_hh + (2 * H + k) * H + unit, w_mask)
    w_o = load_weights(w_hh + (3 * H + k) * H + unit, w_mask)
    dh_t, dc_t = load(dh + b * H + unit, mask), load(dc + b * H + unit, mask)
    for step in tl.range(T, num_stages=1):
        row = tl.cast(T - 1 - step, tl.int64) * B + b
        keep_t = load(keep + row, b < B)
        gate = row * (4 * H) + unit
        i, f = load(gates + gate, mask), load(gates + gate + H, mask)
        g, o = load(gates + gate + 2 * H, mask), load(gates + gate + 3 * H, mask)
        c_in, c_t = keep_t * load(c + row * H + unit, mask), load(c + (row + B) * H + unit, mask)
        dh_t += load(dy + row * H + unit, mask)
        d_i, d_f, d_g, d_o, dc_in = _step_backward(i, f, g, o, c_in, c_t, dh_t, dc_t)
        tl.store(d + gate, d_i, mask=mask)
        tl.store(d + gate + H, d_f, mask=mask)
        tl.store(d + gate + 2 * H, d_g, mask=mask)
        tl.store(d + gate + 3 * H, d_o, mask=mask)
        dh_in = add_product(tl.zeros((BLOCK_B, BLOCK_H), tl.float32), d_i, w_i)
        dh_in = add_product(add_product(add_product(dh_in, d_f, w_f), d_g, w_g), d_o, w_o)
        dh_t, dc_t = keep_t * dh_in, keep_t * dc_in
    tl.store(dh + b * H + unit, dh_t, mask=mask)
    tl.store(dc + b * H + unit, dc_t, mask=mask)


@triton.jit
@no_type_check
def _backward_tiled(
    d,
    dh,
    dc,
    dy,
    gates,
    c,
    keep,
    w_hh,
    T,
    B,
    H: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    for step in tl.range(T, num_stages=1):
        row = tl.cast(T - 1 - step, tl.int64) * B + b
        keep_t = load(keep + row, b < B)
        for first in range(0, H, BLOCK_H):
            unit = first + tl.arange(0, BLOCK_H)[None, :]
            mask = (b < B) & (unit < H)
            gate = row * (4 * H) + unit
            i, f = load(gates + gate, mask), load(gates + gate + H, mask)
            g, o = load(gates + gate + 2 * H, mask), load(gates + gate + 3 * H, mask)
            c_in, c_t = keep_t * load(c + row * H + unit, mask), load(c + (row + B) * H + unit, mask)
            dh_t = load(dh + b * H + unit, mask) + load(dy + row * H + unit, mask)
            dc_t = load(dc + b * H + unit, mask)
            d_i, d_f, d_g, d_o, dc_in = _step_backward(i, f, g, o, c_in, c_t, dh_t, dc_t)
            tl.store(d + gate, d_i, mask=mask)
            tl.store(d + gate + H, d_f, mask=mask)
            tl.store(d + gate + 2 * H, d_g, mask=mask)
            tl.store(d + gate + 3 * H, d_o, mask=mask)
            tl.store(dc + b * H + unit, keep_t * dc_in, mask=mask)
        tl.debug_barrier()  # all units' gradients are written before any product with them
        for first in range(0, H, BLOCK_H):
            unit = first + tl.arange(0, BLOCK_H)[None, :]
            dh_in = tl.zeros((BLOCK_B, BLOCK_H), tl.float32)
            for start in range(0, 4 * H, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                d_k = load(d + row * (4 * H) + k[None, :], (b < B) & (k < 4 * H)[None, :])
                w_k = load_weights(w_hh + k[:, None] * H + unit, (k < 4 * H)[:, None] & (unit < H))
                dh_in = add_product(dh_in, d_k, w_k)
            tl.store(dh + b * H + unit, keep_t * dh_in, mask=(b < B) & (unit < H))
        tl.debug_barrier()  # and all of dh before the step before
