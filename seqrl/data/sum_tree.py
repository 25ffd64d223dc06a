"""Draws in proportion to priorities that change, many at a time."""

import torch
from torch import Generator, Tensor

FAN_OUT = 32
"""Children of a node. Each level is one vectorised step, so that five levels serve 33 million leaves."""


class SumTree:
    """`num_leaves` numbers ≥ 0, and the sums of them, by 32, of those, and so on to the total.

    `set` and `sample` take whole batches, in time O(batch · log num_leaves). A sum is computed anew from its children
    whenever one of them changes: rounding does not pile up. Sums are float64, on the CPU.
    """

    def __init__(self, num_leaves: int):
        self.num_leaves = num_leaves
        self.levels: list[Tensor] = []
        size = num_leaves
        while not self.levels or size > 1:
            size = -(-size // FAN_OUT)
            self.levels.append(torch.zeros(size, FAN_OUT, dtype=torch.float64))

    @property
    def leaves(self) -> Tensor:
        """The numbers [num_leaves]; a view."""
        return self.levels[0].view(-1)[: self.num_leaves]

    @property
    def total(self) -> float:
        return float(self.levels[-1].sum())

    def set(self, index: Tensor, value: Tensor) -> None:
        """leaves[index] = value, for [N] distinct indices."""
        for level in self.levels:
            level.view(-1)[index] = value.double()
            index = index // FAN_OUT
            value = level.index_select(0, index).sum(1)

    def sample(self, num: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`num` indices, each drawn with probability leaf / total, and these probabilities: both [num].

        Stratified: one draw from each of `num` equal parts of the total, so a batch spreads over the priorities.
        The total must be above 0. A leaf of 0 is never drawn.
        """
        total = self.total
        rest = (torch.arange(num) + torch.rand(num, generator=generator, dtype=torch.float64)) * (total / num)
        node = torch.zeros(num, dtype=torch.int64)
        for level in reversed(self.levels):
            above = level.index_select(0, node).cumsum(1)
            rest = torch.minimum(rest, above[:, -1] * (1 - 1e-15))  # rounding may lead past the last child
            child = torch.searchsorted(above, rest[:, None], right=True).squeeze(1)
            below = above.gather(1, (child - 1).clamp(min=0)[:, None]).squeeze(1)
            rest = rest - torch.where(child > 0, below, 0.0)
            node = node * FAN_OUT + child
        return node, self.leaves[node] / total
