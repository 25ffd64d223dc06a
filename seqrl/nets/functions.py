"""tanh and a linear layer, without what PyTorch's own cost on a CPU at the sizes of an agent (docs/log.md).

A tanh takes six times a sigmoid. A product with an inner side of 30,000 rows and an outer one of one to four, such as
the gradient of the weights that read a small observation or of a head for a few actions, runs at a twentieth of the
machine's rate. Elsewhere than on a CPU both are PyTorch's.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NARROW = 16
"""Features below which a side of a linear layer is narrow."""
CHUNK = 1024
"""Rows of a batched product in place of one long one."""
BLOCK = 2**17
"""Numbers that stay in the cache between one pass over them and the next."""


def tanh(x: Tensor) -> Tensor:
    """tanh x, of many numbers as 2 σ(2x) − 1: to an absolute error of 2e-7 in float32, and differentiable once."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.numel() < BLOCK // 2:
        return torch.tanh(x)
    return _Tanh.apply(x)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        minus_one = x.new_tensor(-1.0)
        for x_block, y_block in zip(x.reshape(-1).split(BLOCK), y.view(-1).split(BLOCK), strict=True):
            torch.mul(x_block, 2, out=y_block).sigmoid_()
            torch.add(minus_one, y_block, alpha=2, out=y_block)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(dy, *ctx.saved_tensors)


class Linear(nn.Linear):
    """`torch.nn.Linear`, with a bias by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) if self.bias is None else linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x wᵀ + b, quick on a CPU where it reads or writes fewer than 16 features of many rows.

    Its gradient can be taken once, not twice, where the quick way is taken.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    rows = math.prod(x.shape[:-1])
    if not 0 < min(weight.shape) < NARROW or rows < 2 * CHUNK:
        return F.linear(x, weight, bias)
    y = _Narrow.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], len(weight))


def side_by_side(x: Tensor, layers: Sequence[Linear]) -> Sequence[Tensor]:
    """What each layer makes of x, by one product, so that x is read once, and the gradient of x written once."""
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return linear(x, weight, bias).split([layer.out_features for layer in layers], dim=-1)


class _Narrow(torch.autograd.Function):
    """x wᵀ + b for x [N, in], w [out, in] and b [out], in or out narrow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        if len(w) > 1:
            return torch.addmm(b, x, w.t())
        # MKL's product of matrix and vector takes one thread.
        x_chunks, rest = _chunks(x)
        y = torch.bmm(x_chunks, w.t().expand(len(x_chunks), -1, -1)).view(-1, 1)
        return torch.cat([y, rest @ w.t()]).add_(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, w = ctx.saved_tensors
        dx = dy @ w if ctx.needs_input_grad[0] else None
        dw = _outer_products(dy, x) if len(w) < w.shape[1] else _outer_products(x, dy).t()
        return dx, dw, dy.sum(0)


def _outer_products(narrow: Tensor, wide: Tensor) -> Tensor:
    """narrowᵀ wide for [N, n] and [N, m]."""
    (narrow_chunks, narrow_rest), (wide_chunks, wide_rest) = _chunks(narrow), _chunks(wide)
    return torch.bmm(narrow_chunks.transpose(1, 2), wide_chunks).sum(0).addmm_(narrow_rest.t(), wide_rest)


def _chunks(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of x [N, D] as [N // CHUNK, CHUNK, D], and those left over."""
    whole = len(x) // CHUNK * CHUNK
    return x[:whole].view(-1, CHUNK, x.shape[1]), x[whole:]
