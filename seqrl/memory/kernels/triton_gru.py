"""The GRU of `seqrl.memory.kernels.gru` on CUDA devices: one launch for a whole sequence (see `triton_common`)."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.common import autocast, needs_grad
from seqrl.memory.kernels.triton_common import add_product, launch, load, load_weights, tanh, weight_gradients


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
    h, keep = h0.float(), (~is_first).float().contiguous()
    if needs_grad(x, h, *weights):
        y, h = _GRU.apply(x, h, keep, *weights)
    else:
        states, *_ = _forward(x, h, keep, *weights, save=False)
        y, h = states[1:], states[-1].clone()
    return y.to(h0.dtype), h.to(h0.dtype)


def _forward(
    x: Tensor, h0: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """h_0 to h_T, [T + 1, B, H]; if `save`, r, z and n, [T, B, 3H], and W_hn h + b_hn, [T, B, H]."""
    T, B, H = *x.shape[:2], h0.shape[1]
    bias = torch.cat([b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]])
    gates = (x @ w_ih.t()).float().add_(bias)
    hn = h0.new_empty((T, B, H) if save else 0)
    h = h0.new_empty(T + 1, B, H)
    h[0] = h0
    launch(
        _forward_resident,
        _forward_tiled,
        *(gates, hn, h, keep, w_hh.contiguous(), b_hh[2 * H :].contiguous(), T),
        B=B,
        H=H,
        SAVE=save,
    )
    return h, gates, hn


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, keep: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            h, gates, hn = _forward(x, h0, keep, *weights, save=True)
        ctx.save_for_backward(x, keep, *weights[:2], h, gates, hn)
        return h[1:].clone(), h[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, w_ih, w_hh, h, gates, hn = ctx.saved_tensors
        T, B, H = hn.shape
        d, d_hn = (torch.empty_like(sums, dtype=x.dtype) for sums in (gates, hn))
        dh = dh.clone(memory_format=torch.contiguous_format)
        launch(
            _backward_resident,
            _backward_tiled,
            *(d, d_hn, dh, dy.contiguous(), gates, hn, h, keep, w_hh.contiguous(), T),
            B=B,
            H=H,
        )
        h_in = (h[:-1] * keep[:, :, None]).to(x.dtype)
        dw_ih, db_ih = weight_gradients(d, x)
        dw_rz, db_rz = weight_gradients(d[:, :, : 2 * H], h_in)
        dw_n, db_n = weight_gradients(d_hn, h_in)
        return d @ w_ih, dh, None, dw_ih, torch.cat([dw_rz, dw_n]), db_ih, torch.cat([db_rz, db_n])


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
def _forward_resident(
    gates,  # [T, B, 3H], float32: W x + b, without b_hn; if SAVE, r, z and n on return
    hn,  # [T, B, H], float32: if SAVE, W_hn h + b_hn on return
    h,  # [T + 1, B, H], float32: h_0, and all that follow on return
    keep,  # [T, B], float32: 1 - is_first
    w_hh,  # [3H, H]
    b_hn,  # [H]
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
    in_units = unit < H
    mask = (b < B) & in_units
    w_r = load_weights(w_hh + unit * H + k, (k < H) & in_units)
    w_z = load_weights(w_hh + (H + unit) * H + k, (k < H) & in_units)
    w_n = load_weights(w_hh + (2 * H + unit) * H + k, (k < H) & in_units)
    bias = load(b_hn + unit, in_units) + tl.zeros((BLOCK_B, BLOCK_H), tl.float32)
    h_t = load(h + b * H + unit, mask)
    for t in tl.range(T, num_stages=1):
        row = tl.cast(t, tl.int64) * B + b
        gate = gates + row * (3 * H) + unit
        h_in = load(keep + row, b < B) * h_t
        i_r = add_product(load(gate, mask), h_in, w_r)
        i_z = add_product(load(gate + H, mask), h_in, w_z)
        h_n = add_product(bias, h_in, w_n)
        r, z, n, h_t = _step(i_r, i_z, load(gate + 2 * H, mask), h_n, h_in)
        tl.store(h + (row + B) * H + unit, h_t, mask=mask)
        if SAVE:
            tl.store(gate, r, mask=mask)
            tl.store(gate + H, z, mask=mask)
            tl.store(gate + 2 * H, n, mask=mask)
            tl.store(hn + row * H + unit, h_n, mask=mask)


@triton.jit
@no_type_check
def _forward_tiled(
    gates,
    hn,
    h,
    keep,
    w_hh,
    b_hn,
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
            in_units = unit < H
            mask = (b < B) & in_units
            gate = gates + row * (3 * H) + unit
            i_r, i_z = load(gate, mask), load(gate + H, mask)
            h_n = load(b_hn + unit, in_units) + tl.zeros((BLOCK_B, BLOCK_H), tl.float32)
            for start in range(0, H, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                h_k = keep_t * load(h + row * H + k[None, :], (b < B) & (k < H)[None, :])
                w, w_mask = w_hh + unit * H + k[:, None], (k < H)[:, None] & in_units
                i_r = add_product(i_r, h_k, load_weights(w, w_mask))
                i_z = add_product(i_z, h_k, load_weights(w + H * H, w_mask))
                h_n = add_product(h_n, h_k, load_weights(w + 2 * H * H, w_mask))
            h_in = keep_t * load(h + row * H + unit, mask)
            r, z, n, h_t = _step(i_r, i_z, load(gate + 2 * H, mask), h_n, h_in)
            tl.store(h + (row + B) * H + unit, h_t, mask=mask)
            if SAVE:
                tl.store(gate, r, mask=mask)
                tl.store(gate + H, z, mask=mask)
                tl.store(gate + 2 * H, n, mask=mask)
                tl.store(hn + row * H + unit, h_n, mask=mask)
        tl.debug_barrier()  # all units of h_t are written before any is read


@triton.jit
@no_type_check
def _backward_resident(
    d,  # [T, B, 3H], in the weights' type: on return the gradients of W x + b
    d_hn,  # [T, B, H], likewise: on return those of W_hn h + b_hn
    dh,  # [B, H], float32: dL/dh_T, on return dL/dh_0
    dy,  # [T, B, H], float32
    gates,
    hn,
    h,
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
    w_r = load_weights(w_hh + k * H + unit, (k < H) & (unit < H))
    w_z = load_weights(w_hh + (H + k) * H + unit, (k < H) & (unit < H))
    w_n = load_weights(w_hh + (2 * H + k) * H + unit, (k < H) & (unit < H))
    dh_t = load(dh + b * H + unit, mask)
    for step in tl.range(T, num_stages=1):
        row = tl.cast(T - 1 - step, tl.int64) * B + b
        keep_t = load(keep + row, b < B)
        at, gate = row * H + unit, row * (3 * H) + unit
        r, z, n = load(gates + gate, mask), load(gates + gate + H, mask), load(gates + gate + 2 * H, mask)
        dh_t += load(dy + at, mask)
        d_r, d_z, d_n, d_h_n = _step_backward(r, z, n, load(hn + at, mask), keep_t * load(h + at, mask), dh_t)
        tl.store(d + gate, d_r, mask=mask)
        tl.store(d + gate + H, d_z, mask=mask)
        tl.store(d + gate + 2 * H, d_n, mask=mask)
        tl.store(d_hn + at, d_h_n, mask=mask)
        dh_in = add_product(add_product(add_product(dh_t * z, d_r, w_r), d_z, w_z), d_h_n, w_n)
        dh_t = keep_t * dh_in
    tl.store(dh + b * H + unit, dh_t, mask=mask)


@triton.jit
@no_type_check
def _backward_tiled(
    d,
    d_hn,
    dh,
    dy,
    gates,
    hn,
    h,
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
            at, gate = row * H + unit, row * (3 * H) + unit
            r, z, n = load(gates + gate, mask), load(gates + gate + H, mask), load(gates + gate + 2 * H, mask)
            dh_t = load(dh + b * H + unit, mask) + load(dy + at, mask)
            d_r, d_z, d_n, d_h_n = _step_backward(r, z, n, load(hn + at, mask), keep_t * load(h + at, mask), dh_t)
            tl.store(d + gate, d_r, mask=mask)
            tl.store(d + gate + H, d_z, mask=mask)
            tl.store(d + gate + 2 * H, d_n, mask=mask)
            tl.store(d_hn + at, d_h_n, mask=mask)
            tl.store(dh + b * H + unit, dh_t * z, mask=mask)
        tl.debug_barrier()  # all units' gradients are written before any product with them
        for first in range(0, H, BLOCK_H):
            unit = first + tl.arange(0, BLOCK_H)[None, :]
            mask = (b < B) & (unit < H)
            dh_in = load(dh + b * H + unit, mask)
            for start in range(0, H, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                d_k, k_mask = d + row * (3 * H) + k[None, :], (b < B) & (k < H)[None, :]
                w, w_mask = w_hh + k[:, None] * H + unit, (k < H)[:, None] & (unit < H)
                dh_in = add_product(dh_in, load(d_k, k_mask), load_weights(w, w_mask))
                dh_in = add_product(dh_in, load(d_k + H, k_mask), load_weights(w + H * H, w_mask))
                d_hn_k = load(d_hn + row * H + k[None, :], k_mask)
                dh_in = add_product(dh_in, d_hn_k, load_weights(w + 2 * H * H, w_mask))
            tl.store(dh + b * H + unit, keep_t * dh_in, mask=mask)
        tl.debug_barrier()  # and all of dh before the step before
