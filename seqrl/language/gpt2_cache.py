"""What a GPT-2 has read: keys and values."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from seqrl.memory.kernels.native_gpt2 import Spoken, keep_said


@dataclass
class GPT2Cache:
    """Keys and values of each layer in one tensor [2, B, num_heads, capacity, head_size], and how much has been read.

    Column b's next token goes to slot `length[b]`. What stands in slots from there on is hidden: zeros, or what tokens
    left behind that were not to be read, until it is written over. `most` is no less than any length: known without
    asking the device. What was said last may still be where it was said, `spoken`, since most often nobody goes on.
    """

    layers: list[Tensor]
    length: Int[Tensor, "B"]
    most: int = 0
    spoken: Spoken | None = None

    @property
    def capacity(self) -> int:
        return self.layers[0].shape[3]

    def grow(self, capacity: int) -> None:
        """Make room for so many slots, at least."""
        if capacity > self.capacity:
            self.layers = [F.pad(layer, (0, 0, 0, capacity - self.capacity)) for layer in self.layers]

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
