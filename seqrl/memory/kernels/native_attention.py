"""Attention of a single token in each column, and GELU, by the C++ kernels."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqrl.memory.kernels.native_library import call, library, num_threads

MAX_VECTORS = 8
"""Of a head, attention.cpp's."""


def native_attends(weight: Tensor, head_size: int) -> bool:
    """Whether the C++ kernels can run: float32 on the CPU, without autocast, and heads of 1 to 8 whole vectors."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    native = None if torch.compiler.is_compiling() else library()
    if native is None:
        return False
    vectors, rest = divmod(head_size, native.vector_length())
    return rest == 0 and 1 <= vectors <= MAX_VECTORS


def attend_next(
    parts: Float[Tensor, "B parts"], place: Int[Tensor, "B"], kept: Float[Tensor, "2 B num_heads C head_size"]
) -> Float[Tensor, "B H"]:
    """What each column's next token attends to: itself, and all in slots before `place[b]`.

    `parts` are its queries, keys and values, [3, num_heads, head_size] side by side. Keys and values are written to
    `kept`, in place. A column's result is the same to the last bit whatever stands beside it. No gradient.
    """
    _, B, num_heads, capacity, head_size = kept.shape
    out = parts.new_empty(B, num_heads * head_size)
    call("attend_next", (B, num_heads, capacity, head_size, num_threads(B)), place, parts, kept, out)
    return out


def gelu_in_place(x: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
    """GELU in its tanh form, of a number of elements that is whole vectors. No gradient."""
    call("gelu_in_place", (x.numel(), num_threads(len(x))), x)
    return x
