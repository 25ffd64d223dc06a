"""What both Triton kernels share. Triton comes with PyTorch's CUDA builds; `triton_dispatch` asks whether it is there.

A whole sequence takes one launch. A program of the grid owns BLOCK_B batch rows and walks with them through all T
steps, so that none waits for another and no step costs a launch (the idea of persistent RNNs, Diamos et al. 2016). The
state stays in registers. What does not depend on the step before is left to large matrix products outside: those with
`w_ih`, and the gradients of the weights. The recurrent weights take one of two ways to the tensor cores:

- *resident*, where they fit: they are read once and stay in shared memory, where each step puts its other factor too;
- *streamed*: at each step they come from the L2 cache through shared memory, BLOCK_K rows of them at a time, some
  pieces ahead of the product. So does the other factor, which the step before has left in memory.

Tiles are [units, rows, 1]. Units come first since the tensor cores want at least 16 of what comes first and 8 of what
comes second. The third axis keeps Triton from carrying the layout that a product's result has in registers on into what
is read and written: each such tensor would go through shared memory once more, with a barrier on either side, 12 times
in an LSTM's step forward and 18 times backward. So only the results of products do, 4 times and once.

A kernel is one long function, since what its steps hand on must not leave registers; what both kinds share is here.

States and gates are float32 whatever the type of the weights: only the factors of products are rounded to that type.
float32 factors are as exact as PyTorch's own products: TF32 where `torch.backends.cuda.matmul.fp32_precision` allows
it, and else three TF32 products of each number's upper and lower bits, which together have the bits of float32.
"""

import functools
import itertools
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


# `no_type_check` keeps the tests' type checker from wrapping what Triton reads as source.
@triton.jit
@no_type_check
def load(pointer, mask):
    """Numbers in float32, zeros where `mask` is False."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def kept(is_first, mask):
    """1 - is_first: what the state before is multiplied by; zeros where `mask` is False."""
    return 1.0 - tl.load(is_first, mask=mask, other=1).to(tl.float32)


@triton.jit
@no_type_check
def tanh(a):
    """tanh a, by a sigmoid."""
    return 2 * tl.sigmoid(2 * a) - 1


@triton.jit
@no_type_check
def places(B, H: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """This program's units and rows, both as tiles' first and second axes, and where these are ones there are."""
    units, rows = tl.arange(0, BLOCK_H), tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    unit, b = units[:, None, None], rows[None, :, None]
    return units, rows, unit, b, unit < H, b < B


@triton.jit
@no_type_check
def resident_weights(w, units, H: tl.constexpr, BLOCK_H: tl.constexpr):
    """A gate's, [BLOCK_H, BLOCK_H]; `w` [BLOCK_H, 1] points at rows of H numbers side by side."""
    k = tl.arange(0, BLOCK_H)[None, :]
    return tl.load(w + k, mask=(units < H)[:, None] & (k < H), other=0.0)


@triton.jit
@no_type_check
def resident_product(w, a, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr, PRECISION: tl.constexpr):
    """W a, [BLOCK_H, BLOCK_B, 1], of weights that stay and of `a`, likewise [BLOCK_H, BLOCK_B, 1]."""
    a = tl.reshape(a, (BLOCK_H, BLOCK_B)).to(w.dtype)
    return tl.dot(w, a, input_precision=PRECISION)[:, :, None]


@triton.jit
@no_type_check
def streamed_product(
    a,
    w,
    rows,
    units,
    B,
    H: tl.constexpr,
    K: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """W A over K, [BLOCK_H, BLOCK_B, 1]; `w` [BLOCK_H, 1] and `a` [1, BLOCK_B] point at rows and columns along K."""
    total = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        w_k = tl.load(w + k[None, :], mask=(units < H)[:, None] & (k < K)[None, :], other=0.0)
        a_k = tl.load(a + k[:, None], mask=(k < K)[:, None] & (rows < B)[None, :], other=0.0)
        total = tl.dot(w_k, a_k, total, input_precision=PRECISION)
    return total[:, :, None]


def launch(kernel: Any, w_hh: Tensor, B: int, *args: Any, **constants: Any) -> None:
    """Run the kernel over B rows."""
    H = w_hh.shape[1]
    plan = plan_for(len(w_hh) // H, H, B, w_hh.dtype, precision(), w_hh.device, "SAVE" in constants)
    with torch.cuda.device_of(w_hh):
        kernel[(triton.cdiv(B, plan["BLOCK_B"]),)](*args, B, H, **constants, **plan)


def precision() -> str:
    """How products of float32 factors are taken."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


@functools.cache
def plan_for(
    num_gates: int, H: int, B: int, dtype: torch.dtype, precision: str, device: torch.device, forward: bool
) -> dict[str, Any]:
    """The constants of a kernel's blocks: what was quickest on an H100 (docs/log.md), where it fits.

    A program has 8 rows as long as each program has a multiprocessor of its own, else 16.
    """
    width, (processors, memory) = max(16, triton.next_power_of_2(H)), _multiprocessors(device)
    memory -= 32 * 1024  # for all but the weights
    split = dtype == torch.float32 and precision == "tf32x3"  # upper and lower bits both have to be somewhere
    resident = num_gates * width**2 * dtype.itemsize * (2 if split else 1) <= memory
    column = (num_gates if forward else 1) * width * dtype.itemsize  # bytes of a piece, by what it is summed over
    widest = 128 // dtype.itemsize if forward else 64
    rows = (8,) if resident or 8 * processors >= B else (16, 8)
    for block_b, block_k, stages in itertools.product(rows, (widest, widest // 2, 16), (3, 2)):
        # With 16 rows Hopper's products read shared memory themselves, which needs one more piece there.
        if block_k <= width and block_k * column * (stages - (block_b == 8)) <= memory:
            break
    num_warps = 4 if width <= 64 or (width <= 128 and block_b == 8 and not forward and not resident) else 8
    return {
        "PRECISION": precision,
        "RESIDENT": resident,
        "BLOCK_B": block_b,
        "BLOCK_H": width,
        "BLOCK_K": block_k,
        "STAGES": stages,
        "num_warps": 16 if width > 256 else num_warps,
    }


@functools.cache
def _multiprocessors(device: torch.device) -> tuple[int, int]:
    """How many `device` has, and the bytes of shared memory of each; an H100's where Triton interprets."""
    if device.type == "cpu":
        return 132, 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
