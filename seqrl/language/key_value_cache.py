"""What a transformer has read: keys and values."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from seqrl.memory.kernels.native_gpt2 import Spoken, keep_said

SMALLEST_CACHE = 32
"""Slots that a cache begins with; it doubles when they are full."""


def room_for(num_tokens: int) -> int:
    """Slots of a cache that holds so many tokens."""
    return max(SMALLEST_CACHE, 2 ** math.ceil(math.log2(num_tokens)))


@dataclass
class KeyValueCache:
    """Keys and values of each layer in one tensor [2, B, num_heads, capacity, head_size], and how much has been read.

    Column b's next token goes to slot `length[b]`. What stands in slots from there on is hidden: zeros, or what tokens
    left behind that were not to be read, until it is written over. `most` is no less than any length: known without
    asking the device. What was said last may still be where it was said, `spoken`, since most often nobody goes on.
    """

    layers: list[Tensor]
    length: Int[Tensor, "B"]
    most: int = 0
    spoken: Spoken | None = None

    @classmethod
    def empty(cls, weight: Tensor, num_layers: int, batch_size: int, num_heads: int, head_size: int) -> "KeyValueCache":
        """One without slots, of the type and device of `weight`."""
        layers = [weight.new_zeros(2, batch_size, num_heads, 0, head_size) for _ in range(num_layers)]
        return cls(layers, torch.zeros(batch_size, dtype=torch.int64, device=weight.device))

    @property
    def capacity(self) -> int:
        return self.layers[0].shape[3]

    def grow(self, capacity: int) -> None:
        """Make room for so many slots, at least."""
        if capacity > self.capacity:
            self.layers = [F.pad(layer, (0, 0, 0, capacity - self.capacity)) for layer in self.layers]

    def take(self, index: Int[Tensor, "N"]) -> "KeyValueCache":
        """A copy of these columns."""
        self.settle()
        return KeyValueCache([layer.index_select(1, index) for layer in self.layers], self.length[index], self.most)

    def renew(self, capacity: int) -> None:
        """Make room for so many slots where nothing has been read: they hold anything."""
        _, batch_size, num_heads, _, head_size = self.layers[0].shape
        shape = 2, batch_size, num_heads, capacity, head_size
        self.layers = [layer.new_empty(shape) for layer in self.layers]

    def settle(self) -> None:
        """Let `layers` have all that was read."""
        if self.spoken is not None:
            self.grow(self.most)
            keep_said(self.spoken, self.layers)
            self.spoken = None
