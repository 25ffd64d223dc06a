"""Draws in proportion to priorities that change, many at a time."""

import math

import torch
from torch import Generator, Tensor


class SumTree:
    """`num_leaves` numbers ≥ 0 in blocks of `width`, and each block's sum: a tree of two levels.

    A draw runs over all sums, then over one block. On a CPU two long steps take less time than many short ones; √n / 8
    makes them about as long as each other for 64 draws. A sum is computed anew from its block whenever that changes:
    rounding does not pile up. Sums are float64, on the CPU.
    """

    def __init__(self, num_leaves: int):
        self.num_leaves = num_leaves
        self.width = max(math.isqrt(num_leaves) // 8, 8)
        self.blocks = torch.zeros(-(-num_leaves // self.width), self.width, dtype=torch.float64)
        self.sums = torch.zeros(len(self.blocks), dtype=torch.float64)

    @property
    def leaves(self) -> Tensor:
        """The numbers [num_leaves]; a view."""
        return self.blocks.view(-1)[: self.num_leaves]

    @property
    def total(self) -> float:
        return float(self.sums.sum())

    def set(self, index: Tensor, value: Tensor) -> None:
        """leaves[index] = value, for [N] indices; one that is given several times gets its largest value."""
        self.leaves.index_fill_(0, index, 0.0).scatter_reduce_(0, index, value.double(), "amax")
        block = index // self.width if len(index) < len(self.sums) else torch.arange(len(self.sums))
        self.sums[block] = self.blocks.index_select(0, block).sum(1)

    def sample(self, num: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`num` indices, each drawn with probability leaf / total, and these probabilities: both [num].

        Stratified: one draw from each of `num` equal parts of the total, so a batch spreads over the priorities.
        The total must be above 0. A leaf of 0 is never drawn.
        """
        up_to = self.sums.cumsum(0)
        total = float(up_to[-1])
        point = torch.rand(num, generator=generator, dtype=torch.float64).add_(torch.arange(num)).mul_(total / num)
        point.clamp_(max=math.nextafter(total, 0.0))
        block = torch.searchsorted(up_to, point, right=True)
        # How far the point lies from its block's end: above 0, which a distance from its start would not be if rounded.
        rest = up_to.index_select(0, block) - point
        leaves = self.blocks.index_select(0, block)
        up_to = leaves.cumsum(1)
        leaf = torch.searchsorted(up_to, torch.minimum(rest[:, None], up_to[:, -1:]))
        return block * self.width + leaf[:, 0], leaves.gather(1, leaf)[:, 0] / total
