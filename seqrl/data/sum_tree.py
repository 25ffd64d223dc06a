"""Draws in proportion to priorities that change, many at a time."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Generator, Tensor

from seqrl.memory.kernels.native_library import call, library

WIDTH = 8
"""Numbers of a block, which have their sum on the level above: a line of the cache. In replay.cpp as well."""
TOP = 512
"""The largest number of sums on the highest level."""


class SumTree:
    """`num_leaves` numbers ≥ 0, the sums of blocks of them, the sums of blocks of these sums, and so on.

    The highest level, of at most `TOP` sums, is run over as a whole, once for all draws; from there each draw goes down
    through one block a level, so one from a thousand times as many leaves costs three lines of the cache more. A sum is
    computed anew from its block whenever that changes: rounding does not pile up. All numbers are float64.

    Where there is a C++ compiler, C++ sets and draws. Both it and NumPy add in the order of the numbers, so that they
    agree to the last bit.
    """

    def __init__(self, num_leaves: int):
        self.num_leaves = num_leaves
        sizes = [_in_blocks(num_leaves)]
        while sizes[-1] > TOP:
            sizes.append(_in_blocks(sizes[-1] // WIDTH))
        self.numbers = torch.zeros(sum(sizes), dtype=torch.float64)
        """From the leaves up, one level behind the other, each in whole blocks with zeros at its end."""
        self._levels = [level.numpy() for level in self.numbers.split(sizes)]
        self._sizes = (num_leaves, TOP)
        self.leaves = self.numbers[:num_leaves]
        """The numbers [num_leaves]; a view."""

    @property
    def total(self) -> float:
        return float(self._levels[-1].sum())

    def set(self, index: Tensor, value: Tensor) -> None:
        """leaves[index] = value, for [N] indices; one that is given several times gets its largest value."""
        if library() is not None:
            places = index.clone(memory_format=torch.contiguous_format)  # on each level, where they are there
            call("sum_tree_set", (len(index), *self._sizes), self.numbers, places, value.double().contiguous())
            return
        place = index.numpy()
        self._levels[0][place] = 0.0
        np.maximum.at(self._levels[0], place, value.double().numpy())
        for level, above in pairwise(self._levels):
            blocks = level.reshape(-1, WIDTH)
            place = place // WIDTH if len(place) < len(blocks) else np.arange(len(blocks))
            above[place] = blocks[place].cumsum(1)[:, -1]

    def sample(self, num: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`num` indices, each drawn with probability leaf / total, and these probabilities: both [num].

        Stratified: one draw from each of `num` equal parts of the total, so a batch spreads over the priorities.
        The total must be above 0. A leaf of 0 is never drawn.
        """
        uniform = torch.rand(num, generator=generator, dtype=torch.float64)
        if library() is not None:
            index, probability = torch.empty(num, dtype=torch.int64), torch.empty_like(uniform)
            call("sum_tree_sample", (num, *self._sizes), self.numbers, uniform, index, probability)
            return index, probability
        up_to = self._levels[-1].cumsum()
        total = up_to[-1]
        point = np.minimum((np.arange(num) + uniform.numpy()) * (total / num), math.nextafter(total, 0.0))
        place = up_to[:-1].searchsorted(point, side="right")
        # How far the point lies from its block's end: above 0, which a distance from its start would not be if rounded.
        rest = up_to[place] - point
        for above, level in pairwise(reversed(self._levels)):
            place, rest = _go_down(above, level, place, rest)
        return torch.from_numpy(place), torch.from_numpy(self._levels[0][place] / total)


def _in_blocks(num: int) -> int:
    return -(-num // WIDTH) * WIDTH


def _go_down(
    above: np.ndarray, level: np.ndarray, place: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From the places [N] of sums `above` to places in their blocks in `level`: the first with a running sum ≥ rest.

    What stands before that is taken off the rest [N], which so is above 0 again.
    """
    goal = np.minimum(rest, above[place])  # rounding may have made the rest larger than the block
    up_to = level.reshape(-1, WIDTH).take(place, 0).cumsum(1)
    first = (up_to < goal[:, None]).argmin(1)
    before = np.where(first > 0, up_to[np.arange(len(place)), first - 1], 0.0)
    return place * WIDTH + first, goal - before
