"""What both Triton kernels share. Triton comes with PyTorch's CUDA builds; `triton_dispatch` asks whether it is there.

A whole sequence takes one launch. A program of the grid owns BLOCK_B batch rows and walks with them through all T
steps, so that none waits for another and no step costs a launch (the idea of persistent RNNs, Diamos et al. 2016). What
does not depend on the step before is left to large matrix products outside: those with `w_ih`, and the gradients of the
weights. There are two versions of each kernel:

- *resident*, for up to MAX_RESIDENT units: the recurrent weights and the state stay in registers and shared memory;
- *tiled*, for more: at each step the program goes through the units, BLOCK_H at a time, and reads their weights, which
  the L2 cache holds. Each tile needs all units of the step before, so those go through memory, with a barrier between.

States and gates are float32 whatever the type of the weights: only the factors of products are rounded to that type.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_B = 16  # the fewest rows that the tensor cores take
MAX_RESIDENT = 64  # four gates' weights in float32 then fill 64 KiB of shared memory
BLOCK_H = 64
BLOCK_K = 32


# `no_type_check` keeps the tests' type checker from wrapping what Triton reads as source.
@triton.jit
@no_type_check
def load(pointer, mask):
    """Numbers in float32, zeros where `mask` is False."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def load_weights(pointer, mask):
    """As `load`, in the type of the weights."""
    return tl.load(pointer, mask=mask, other=0.0)


@triton.jit
@no_type_check
def add_product(total, a, w):
    """total + a @ w, with `a` rounded to the type of the weights, and in float32 with all of its bits."""
    return tl.dot(a.to(w.dtype), w, total, input_precision="ieee")


@triton.jit
@no_type_check
def tanh(a):
    """tanh a, by a sigmoid."""
    return 2 * tl.sigmoid(2 * a) - 1


def launch(resident: Any, tiled: Any, *args: Any, B: int, H: int, **constants: Any) -> None:
    """Run the kernel's version for H units over B rows."""
    width = max(16, triton.next_power_of_2(H))
    grid = (triton.cdiv(B, BLOCK_B),)
    with torch.cuda.device_of(args[0]):
        if H <= MAX_RESIDENT:
            resident[grid](*args, B, H, **constants, BLOCK_B=BLOCK_B, BLOCK_H=width, num_warps=4 if width < 64 else 8)
        else:
            sizes = {"BLOCK_H": min(width, BLOCK_H), "BLOCK_K": min(width, BLOCK_K)}
            tiled[grid](*args, B, H, **constants, BLOCK_B=BLOCK_B, **sizes)


def weight_gradients(d: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Those of W and b in `inputs` @ W.T + b, from d, the gradient of its result."""
    d = d.flatten(0, 1)
    return d.t() @ inputs.flatten(0, 1), d.sum(0)
