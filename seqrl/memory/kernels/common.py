"""What both kernels share: time in blocks, memory that is used again, products in another type than the state.

tanh a is computed as 2 σ(2a) − 1, which in float32 on a CPU takes a sixth of the time. The 2 in front of a stands in
the weights, doubled beforehand, which is exact; so all gradients are taken by doubled weights, and doubled at the end.
"""

import threading

import torch
from torch import Tensor

from seqrl.errors import UserError

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward

BLOCK_ROWS_PER_THREAD = 1024
MAX_POOLED = 8


def blocks(num_steps: int, batch_size: int) -> list[slice]:
    """Time in pieces small enough that what is computed for all steps of one is still in the cache at each step."""
    size = max(1, BLOCK_ROWS_PER_THREAD * torch.get_num_threads() // max(batch_size, 1))
    return [slice(start, min(start + size, num_steps)) for start in range(0, num_steps, size)]


def keep_mask(is_first: Tensor, dtype: torch.dtype) -> Tensor:
    """1 − is_first as [T, B, 1]: what the carried state is multiplied by."""
    return (~is_first).unsqueeze(2).to(dtype)


def check_inputs(num_gates: int, x: Tensor, states: tuple[Tensor, ...], is_first: Tensor, *weights: Tensor) -> None:
    """Raise UserError where shapes do not belong together, or `is_first` is not of bools.

    Kernels that are given pointers would read, and write, beyond an end; and `~1` is no False.
    """
    if torch.compiler.is_compiling():  # PyTorch's operations serve then, which see to shapes themselves
        return
    D, H = x.shape[2], weights[1].shape[-1]
    G = num_gates * H
    check_rows(x, H, states, is_first)
    names, shapes = ("w_ih", "w_hh", "b_ih", "b_hh"), ((G, D), (G, H), (G,), (G,))
    for name, weight, shape in zip(names, weights, shapes, strict=True):
        _check_shape(name, weight, shape, x, H)


def check_rows(x: Tensor, num_units: int, states: tuple[Tensor, ...], is_first: Tensor) -> None:
    """`check_inputs` of what has no weights: x [T, B, D], states [B, H] and `is_first` [T, B]."""
    if torch.compiler.is_compiling():
        return
    T, B, _ = x.shape
    _check_shape("is_first", is_first, (T, B), x, num_units)
    for state in states:
        _check_shape("a state", state, (B, num_units), x, num_units)
    if is_first.dtype != torch.bool:
        raise UserError(f"is_first is of {is_first.dtype}: give bools, `is_first.bool()`")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], x: Tensor, num_units: int) -> None:
    if tensor.shape != shape:
        raise UserError(
            f"{name} is {list(tensor.shape)} beside x {list(x.shape)} and {num_units} units: give {list(shape)}"
        )


def needs_grad(*tensors: Tensor) -> bool:
    """Whether a gradient is asked of any of `tensors`."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast all in its type, as `torch.nn.GRU` and `torch.nn.LSTM` have it; else as they are."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) for t in tensors)


def state_dtype(x: Tensor) -> torch.dtype:
    """What states and gates are computed in: a gate near 1 has no neighbours in bfloat16, and would keep for ever."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def add_product_(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out += a b, the product in the type of b."""
    if a.dtype == b.dtype == out.dtype:
        return out.addmm_(a, b)
    return out.add_(torch.mm(a.to(b.dtype), b))


def product_into(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out = a b, the product in the type of b."""
    if a.dtype == b.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return out.copy_(torch.mm(a.to(b.dtype), b))


def states_read(h0: Tensor, y: Tensor, keep: Tensor, block: slice, out: Tensor) -> Tensor:
    """What the steps of `block` read, [block, B, H]: the state left by the step before, or 0 after a reset."""
    if block.start:
        return torch.mul(y[block.start - 1 : block.stop - 1], keep[block], out=out)
    torch.mul(h0, keep[0], out=out[0])
    torch.mul(y[: block.stop - 1], keep[1 : block.stop], out=out[1:])
    return out


class Workspace:
    """Uninitialised memory, which goes back to a pool when the last graph that holds this object is gone.

    Large tensors that are freshly allocated on the CPU cost a page fault every 4 KiB, a tenth of the time of forward
    and backward. A workspace has one owner while it lives, so that graphs may be kept, and run backward in any order.
    """

    _pool: list[Tensor] = []  # noqa: RUF012  (meant to be shared)
    _lock = threading.Lock()

    def __init__(self, like: Tensor, *shape: int) -> None:
        pooled = self._pooled(like, shape)
        self.tensor = like.new_empty(shape) if pooled is None else pooled

    @classmethod
    def _pooled(cls, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        with cls._lock:
            for i, tensor in enumerate(cls._pool):
                if tensor.shape == shape and tensor.dtype == like.dtype and tensor.device == like.device:
                    return cls._pool.pop(i)
        return None

    def __del__(self) -> None:
        # Other devices have pools of their own. No waiting: garbage may be collected in a thread that holds the lock.
        # torch.compile makes some while it traces that are never initialised.
        if hasattr(self, "tensor") and self.tensor.device.type == "cpu" and self._lock.acquire(blocking=False):
            self._pool.append(self.tensor)
            del self._pool[:-MAX_POOLED]
            self._lock.release()
