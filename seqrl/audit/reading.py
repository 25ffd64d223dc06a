"""The rows that an audit looks at, read a block at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.data.episodes import EpisodeDataset
from seqrl.trajectory import ACTION_MASK, Tree

BLOCK_BYTES = 32 << 20
POINTS = 2_000_000
"""Numbers of one leaf that are kept for quantiles."""
MOST_VALUES = 100_000
"""Values of a discrete column beyond which they are not counted one by one."""


@dataclass
class Leaf:
    """One leaf of the observation, flat: D columns, and what a pass over all rows says of each, [D]."""

    name: str
    space: gym.Space
    array: np.ndarray
    nonfinite: np.ndarray
    low: np.ndarray
    high: np.ndarray
    step_low: np.ndarray
    """The least and the greatest change from a row to the next of its episode."""
    step_high: np.ndarray
    first_low: np.ndarray
    """The least and the greatest value in first rows."""
    first_high: np.ndarray
    hashes: np.ndarray
    """Of all its values in order, uint64: equal for equal columns."""
    seen: np.ndarray | None
    """[D, n] bool: which values of a discrete column occur."""
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """[m, D] float64: some rows, evenly spread."""
    steps: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """[m, D] float64: changes from these rows to the next, where that is of the same episode."""

    @property
    def is_mask(self) -> bool:
        return self.name.split(".")[0] == ACTION_MASK

    def column(self, index: int) -> str:
        """The name of a column, as a person would write it."""
        shape = self.space.shape or ()
        place = ",".join(str(i) for i in np.unravel_index(index, shape)) if shape else ""
        return f"{self.name or 'observation'}[{place}]" if shape else self.name or "observation"

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, D] in the file's own type."""
        return self.array[rows].reshape(len(rows), -1)

    @cached_property
    def continuous(self) -> np.ndarray:
        """[D] bool: floats with more than 20 different values among the points."""
        if self.points.size == 0 or not np.issubdtype(self.array.dtype, np.floating):
            return np.zeros(len(self.low), dtype=bool)
        ordered = np.sort(self.points, axis=0)
        return (np.diff(ordered, axis=0) > 0).sum(0) >= 20


class Rows:
    """The decisions and final observations of some whole episodes: all, or a seeded sample of them.

    [n] arrays over their rows: `row` in the files, `is_first`, `is_final` (the final observation), `reward`, `hashes`
    (of the observation, uint64); `action` is [n, A]. `begin` [E] says where each episode's rows begin among the n.
    """

    def __init__(self, dataset: EpisodeDataset, max_rows: int, max_bytes: int, seed: int):
        self.dataset = dataset
        leaves = list(named_leaves(dataset.observation, dataset.observation_space))
        row_bytes = sum(array[:1].nbytes for _, array, _ in leaves) or 1
        budget = max(min(max_rows, max_bytes // row_bytes), 1)
        self.episodes = _chosen(dataset.lengths + 1, budget, seed)
        lengths = dataset.lengths[self.episodes] + 1
        self.begin = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        self.end = self.begin + lengths - 1
        n = int(lengths.sum())
        self.position = np.arange(n) - np.repeat(self.begin, lengths)
        self.row = np.repeat(dataset.starts[:-1][self.episodes], lengths) + self.position
        self.is_first, self.is_final = self.position == 0, np.zeros(n, dtype=bool)
        self.is_final[self.end] = True
        self.reward = dataset.reward[self.row].astype(np.float64)
        self.action = dataset.action[self.row].reshape(n, -1)
        self.terminated, self.truncated = dataset.terminated[self.row], dataset.truncated[self.row]
        self.hashes = np.zeros(n, dtype=np.uint64)
        self.leaves = [self._read(name, array, space) for name, array, space in leaves]

    @property
    def decision(self) -> np.ndarray:
        return ~self.is_final

    @property
    def is_sample(self) -> bool:
        return len(self.episodes) < self.dataset.num_episodes

    def blocks(self, leaf_bytes: int) -> Iterator[slice]:
        """Slices of the n rows, of about `BLOCK_BYTES` as float64; each begins with the last row of the one before.

        So a step between two rows is within one of them; what counts each row once takes its `new_rows`.
        """
        size = max(BLOCK_BYTES // max(leaf_bytes, 1), 2)
        for begin in range(0, max(len(self.row) - 1, 1), size):
            yield slice(begin, min(begin + size + 1, len(self.row)))

    def _read(self, name: str, array: np.ndarray, space: gym.Space) -> Leaf:
        """One pass over a leaf."""
        width = int(np.prod(array.shape[1:], dtype=np.int64))
        top, bottom = np.full(width, np.inf), np.full(width, -np.inf)
        sizes = _sizes(space)
        seen = np.zeros((width, sizes), dtype=bool) if sizes else None
        leaf = Leaf(name, space, array, np.zeros(width, dtype=np.int64), top.copy(), bottom.copy(), top.copy(),
                    bottom.copy(), top.copy(), bottom.copy(), np.zeros(width, dtype=np.uint64), seen)  # fmt: skip
        for block in self.blocks(8 * width):
            raw = leaf.rows(self.row[block])
            fresh = new_rows(block)
            self.hashes[block][fresh] = _mixed(self.hashes[block][fresh] * _ODD + row_hashes(raw[fresh]))
            leaf.hashes += column_hashes(raw[fresh], np.arange(block.start, block.stop)[fresh])
            values = raw.astype(np.float64)
            if seen is not None:
                inside = (values >= 0) & (values < seen.shape[1])
                seen[np.nonzero(inside)[1], values[inside].astype(np.int64)] = True
            leaf.nonfinite += (~np.isfinite(values[fresh])).sum(0)
            with np.errstate(invalid="ignore"):
                _widen(values, leaf.low, leaf.high)
                _widen(values[self.is_first[block]], leaf.first_low, leaf.first_high)
                _widen((values[1:] - values[:-1])[~self.is_final[block][:-1]], leaf.step_low, leaf.step_high)
        places = np.arange(0, len(self.row), max(len(self.row) * max(width, 1) // POINTS, 1))
        leaf.points = leaf.rows(self.row[places]).astype(np.float64)
        before = places[~self.is_final[places]]
        with np.errstate(invalid="ignore"):
            leaf.steps = leaf.rows(self.row[before + 1]).astype(np.float64) - leaf.rows(self.row[before])
        return leaf


def new_rows(block: slice) -> slice:
    """Of a block's rows, those that were not in the one before."""
    return slice(0 if block.start == 0 else 1, None)


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: np.ndarray) -> np.ndarray:
    """Every bit of a word spread over all of it (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _words(values: np.ndarray) -> np.ndarray:
    """One uint64 for each entry; −0 and 0 are the same."""
    if np.issubdtype(values.dtype, np.floating):
        bits = np.ascontiguousarray(values + values.dtype.type(0))
        return bits.view(np.uint32 if bits.dtype.itemsize == 4 else np.uint64).astype(np.uint64)
    return values.astype(np.int64).view(np.uint64)


def row_hashes(values: np.ndarray) -> np.ndarray:
    """[n, D] to a hash of each row, uint64."""
    places = _mixed(np.arange(1, values.shape[1] + 1, dtype=np.uint64) * _ODD)
    return _mixed(_words(values) + places).sum(1, dtype=np.uint64)


def column_hashes(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[n, D] to a hash of each column, uint64; those of the blocks of a column add up to that of the column."""
    places = _mixed(rows.astype(np.uint64) * _ODD)[:, None]
    return _mixed(_words(values) + places).sum(0, dtype=np.uint64)


def sequence_hashes(words: np.ndarray, position: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """A hash of each stretch of `words` [n] that begins at `begin` [E]; `position` [n] counts within them."""
    return np.add.reduceat(_mixed(words + _mixed(position.astype(np.uint64) * _ODD)), begin)


def named_leaves(tree: Tree, space: gym.Space, name: str = "") -> Iterator[tuple[str, Any, gym.Space]]:
    """Each leaf with its dotted path and its space."""
    if isinstance(tree, dict):
        children = [(str(key), tree[key], space[key]) for key in tree]  # type: ignore[index]
    elif isinstance(tree, tuple):
        children = [(str(k), child, space[k]) for k, child in enumerate(tree)]  # type: ignore[index]
    else:
        yield name, tree, space
        return
    for key, child, part in children:
        yield from named_leaves(child, part, f"{name}.{key}" if name else key)


def _chosen(rows: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """All episodes where they fit into `budget` rows, else as many as fit of a seeded order; at least one."""
    if rows.sum() <= budget:
        return np.arange(len(rows))
    order = np.random.default_rng(seed).permutation(len(rows))
    number = int(np.searchsorted(np.cumsum(rows[order]), budget, side="right"))
    return np.sort(order[: max(number, 1)])


def _sizes(space: gym.Space) -> int:
    """The most values that a column of a discrete leaf may have, 0 for other leaves and for too many."""
    if isinstance(space, gym.spaces.MultiBinary):
        return 2
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        size = int(np.max(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec))
        return size if size <= MOST_VALUES else 0
    return 0


def _widen(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Take values [n, D] into the least and the greatest so far, what is not finite apart."""
    if len(values):
        finite = np.isfinite(values)
        np.minimum(low, np.where(finite, values, np.inf).min(0), out=low)
        np.maximum(high, np.where(finite, values, -np.inf).max(0), out=high)
