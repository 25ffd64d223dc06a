"""Draws in proportion to priorities that change, many at a time."""

import math

import numpy as np
import torch
from torch import Generator, Tensor


class SumTree:
    """`num_leaves` numbers ≥ 0 in blocks of `width`, and each block's sum: a tree of two levels.

    A draw runs over all sums, then over one block. On a CPU two long steps take less time than many short ones, and
    NumPy's calls half of PyTorch's; at √n / 16 both steps take about as long for 64 draws. A sum is computed anew from
    its block whenever that changes: rounding does not pile up. Numbers and sums are float64.
    """

    def __init__(self, num_leaves: int):
        self.num_leaves = num_leaves
        self.width = max(math.isqrt(num_leaves) // 16, 8)
        self.blocks = np.zeros((-(-num_leaves // self.width), self.width))
        self.sums = np.zeros(len(self.blocks))
        self._leaves = self.blocks.reshape(-1)[:num_leaves]

    @property
    def leaves(self) -> Tensor:
        """The numbers [num_leaves]; a view."""
        return torch.from_numpy(self._leaves)

    @property
    def total(self) -> float:
        return float(self.sums.sum())

    def set(self, index: Tensor, value: Tensor) -> None:
        """leaves[index] = value, for [N] indices; one that is given several times gets its largest value."""
        places = index.numpy()
        self._leaves[places] = 0.0
        np.maximum.at(self._leaves, places, value.double().numpy())
        block = places // self.width if len(places) < len(self.sums) else np.arange(len(self.sums))
        self.sums[block] = self.blocks[block].sum(1)

    def sample(self, num: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`num` indices, each drawn with probability leaf / total, and these probabilities: both [num].

        Stratified: one draw from each of `num` equal parts of the total, so a batch spreads over the priorities.
        The total must be above 0. A leaf of 0 is never drawn.
        """
        up_to = self.sums.cumsum()
        total = up_to[-1]
        point = torch.rand(num, generator=generator, dtype=torch.float64).numpy()
        point = np.minimum((np.arange(num) + point) * (total / num), math.nextafter(total, 0.0))
        block = up_to.searchsorted(point, side="right")
        # How far the point lies from its block's end: above 0, which a distance from its start would not be if rounded.
        rest = up_to[block] - point
        up_to = self.blocks[block].cumsum(1)
        leaf = (up_to >= np.minimum(rest, up_to[:, -1])[:, None]).argmax(1)
        index = block * self.width + leaf
        return torch.from_numpy(index), torch.from_numpy(self._leaves[index] / total)
