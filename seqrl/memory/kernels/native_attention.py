"""Attention of a single token in each column and of whole conversations, and GELU, by the C++ kernels."""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.native_library import call, library, num_threads

MAX_VECTORS = 8
"""Of a head, attention.cpp's."""
WHOLE_VECTORS = (1, 2, 4, 8)
"""Of a head, attention_training.cpp's."""


def native_attends(weight: Tensor, head_size: int) -> bool:
    """Whether the C++ kernels can run: float32 on the CPU, without autocast, and heads of 1 to 8 whole vectors."""
    vectors, rest = divmod(head_size, _vector_length(weight))
    return rest == 0 and 1 <= vectors <= MAX_VECTORS


def native_attends_whole(weight: Tensor, head_size: int) -> bool:
    """Whether `attend_whole` can run: likewise, and heads of 1, 2, 4 or 8 vectors."""
    vectors, rest = divmod(head_size, _vector_length(weight))
    return rest == 0 and vectors in WHOLE_VECTORS


def _vector_length(x: Tensor) -> int:
    """Numbers in a vector of the kernels; more than there can be where they do not serve."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return sys.maxsize
    native = None if torch.compiler.is_compiling() else library()
    return sys.maxsize if native is None else native.vector_length()


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


def attend_whole(
    parts: Float[Tensor, "N parts"], bias: Float[Tensor, "parts"], num_heads: int, sizes: tuple[int, int, int, int]
) -> Float[Tensor, "N H"]:
    """Causal attention of whole conversations, of which those of a group begin alike.

    `sizes` are (groups, group_size G, P, R): the N rows are [groups, P], which a group's conversations share, and
    behind them [groups, G, R], which each has by itself and which also look at the shared ones. `parts` and `bias` add
    up to queries, keys and values, [3, num_heads, head_size] side by side. A row's result is the same to the last bit
    whatever stands beside or behind it.
    """
    return _AttendWhole.apply(parts.contiguous(), bias, num_heads, sizes)


class _AttendWhole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, bias: Tensor, num_heads: int, sizes: tuple[int, int, int, int]) -> Tensor:
        N, H = len(parts), parts.shape[1] // 3
        ctx.sizes = *sizes, num_heads, H // num_heads, num_threads(sizes[0] * num_heads)
        out, total = parts.new_empty(N, H), parts.new_empty(N, num_heads)
        call("attend_whole", ctx.sizes, parts, bias, out, total, None, None)
        ctx.save_for_backward(parts, bias, out, total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        parts, bias, out, total = ctx.saved_tensors
        d_parts = torch.empty_like(parts)
        call("attend_whole", ctx.sizes, parts, bias, out, total, d_out.contiguous(), d_parts)
        return d_parts, d_parts.sum(0), None, None


def gelu_in_place(x: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
    """GELU in its tanh form, of a number of elements that is whole vectors. No gradient."""
    call("gelu_in_place", (x.numel(), num_threads(len(x))), x)
    return x


def gelu(x: Float[Tensor, "*shape H"], bias: Float[Tensor, "H"]) -> Float[Tensor, "*shape H"]:
    """GELU of x + b in its tanh form, by the C++ kernels where they serve: three times as fast, its gradient too."""
    if x.numel() == 0 or x.shape[-1] % _vector_length(x):
        return F.gelu(x + bias, approximate="tanh")
    return _Gelu.apply(x.contiguous(), bias)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        y = torch.empty_like(x)
        call("gelu_forward", (x.numel(), x.shape[-1], num_threads(x.numel())), x, bias, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        dx = torch.empty_like(x)
        call("gelu_backward", (x.numel(), x.shape[-1], num_threads(x.numel())), x, bias, dy.contiguous(), dx)
        return dx, dx.flatten(0, -2).sum(0)
