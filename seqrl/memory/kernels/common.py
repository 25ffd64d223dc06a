"""What both kernels share."""

import torch
from torch import Tensor

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward

_BLOCK_ROWS = 4096


def blocks(num_steps: int, batch_size: int) -> list[range]:
    """Time, cut so that what a block computes is still in the cache when its steps read it."""
    size = max(1, _BLOCK_ROWS // batch_size)
    return [range(start, min(start + size, num_steps)) for start in range(0, num_steps, size)]


def keep_mask(is_first: Tensor, x: Tensor) -> Tensor:
    return (~is_first).unsqueeze(2).to(x.dtype)


def needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, all in its type, as `torch.nn.GRU` and `torch.nn.LSTM` have it; else as they are."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) for t in tensors)
