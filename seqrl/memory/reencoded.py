"""Any memory, made to forget everything beyond the last few rows: the exact counterpart of training on windows."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes
from seqrl.memory.sliding_window import positions


class LastRows(NamedTuple):
    """The state of `Reencoded`: the last length − 1 inputs, oldest first, and how many of them belong to the episode.

    `x` [B, length − 1, D], zeros where there is none; `num_rows` [B], int64.
    """

    x: Tensor
    num_rows: Tensor


class Reencoded(Memory):
    """y_t is what `memory` says of the last `length` rows of the episode alone, read from a fresh start.

        y_t = memory.unroll(x_{max(s, t − length + 1)} … x_t, fresh state)_t,   s the episode's first row

    A sliding cache of a transformer is something else: its deep layers keep what has left the window. A model trained
    on windows of `length` rows computes exactly this, so acting so sees what training saw; a step costs `length` times
    one with a cache. Up to `length` rows that begin afresh are unrolled at once, as training does.

    Shapes, output size and parameters are the memory's own. State: `LastRows`.
    """

    stores_state = False

    def __init__(self, memory: Memory, length: int) -> None:
        super().__init__()
        check_sizes("Reencoded", length=length)
        self.memory, self.length = memory, length
        self.input_size, self.output_size = memory.input_size, memory.output_size

    def initial_state(self, batch_size: int) -> LastRows:
        like = next(self.memory.parameters())
        num_rows = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return LastRows(like.new_zeros(batch_size, self.length - 1, self.input_size), num_rows)

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], LastRows]:
        """Read T rows; see `Memory.unroll`."""
        (T, B), length = is_first.shape, self.length
        rows = torch.cat([state.x.transpose(0, 1), x])  # [length − 1 + T, B, D]
        place = torch.arange(T, device=x.device)[:, None]
        age = positions(is_first.T, state.num_rows).T  # rows of the episode before each
        # An exported graph has one way for all rows.
        one_way = torch.compiler.is_compiling()
        if not one_way and length >= T and bool((age <= place).all()):  # no row has one of `state` in its window
            y, _ = self.memory.unroll(x, self.memory.initial_state(B), is_first)
        else:
            y = self._unroll_each(rows.unfold(0, length, 1).permute(3, 0, 1, 2), age.clamp(max=length - 1))
        num_rows = (age[-1] + 1).clamp(max=length - 1)
        kept = torch.arange(length - 1, 0, -1, device=x.device)[:, None] <= num_rows
        last = torch.where(kept[:, :, None], rows[T:], 0.0)
        return y, LastRows(last.transpose(0, 1).contiguous(), num_rows)

    def _unroll_each(self, windows: Tensor, age: Tensor) -> Tensor:
        """y [T, B] of windows [length, T, B, D] that hold `age` [T, B] rows of the episode before their last one."""
        length, T, B, _ = windows.shape
        back = torch.arange(length - 1, -1, -1, device=windows.device)[:, None, None]  # rows before a window's last
        # A memory starts at its first row; so what stands before an episode is read as episodes of one row each, zeros.
        is_first = back >= age
        x = torch.where((back > age)[..., None], 0.0, windows).reshape(length, T * B, -1)
        y, _ = self.memory.unroll(x, self.memory.initial_state(T * B), is_first.reshape(length, T * B))
        return y[-1].view(T, B, -1)
