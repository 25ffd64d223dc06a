"""Logged episodes, and windows of them to learn from. What lies in a dataset's folder, `episode_files` says."""

import copy
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from seqrl.data.episode_files import (
    AGAIN,
    INDEX,
    describe,
    layout,
    mapped,
    mapping,
    names_of,
    observation_of,
    populate,
    read_index,
)
from seqrl.data.storage import gather
from seqrl.errors import UserError
from seqrl.spaces import space_from_json
from seqrl.trajectory import AgentInput, Tree, tree_map


class Episode(NamedTuple):
    """One logged episode of T decisions, leaves as agents see and give them: discrete values count from 0."""

    observation: Tree
    """Arrays [T + 1, ...]: the final observation is the last row."""
    action: np.ndarray
    """[T, ...]; Box actions in the space's own units. To be written, mixed ones may be trees of such leaves too."""
    reward: np.ndarray
    """[T] float32."""
    terminated: bool
    """Whether the task itself ended after the last decision."""
    truncated: bool
    """Whether something else ended it: a limit of time, or the recording."""


class Windows(NamedTuple):
    """N windows of logged episodes, time first: leaves [length, N, ...], most of them views of one block of records.

    A window's first row has `is_first` True wherever in its episode it stands, since a memory begins there; what its
    previous action and reward are, the log says, and zeros at `timestep` 0. Behind an episode's final observation, and
    behind windows that begin before their episode, stand pads: zeros, `is_first` True.
    """

    inputs: AgentInput
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    return_to_go: Tensor
    """R_t = r_t + γ R_{t+1}, to the end of the whole episode, not of the window."""
    timestep: Tensor
    """int64: decisions since the episode began, not since the window did."""
    mask: Tensor
    """True on decisions; False on final observations and pads."""


class _Places(NamedTuple):
    """Where windows of `length` rows may start: an episode of T decisions has T + length − 1 places."""

    length: int
    episodes: np.ndarray
    """[N + 1, 3]: places before the episode, its first row, its decisions; side by side, as they are read together."""
    width: int
    """Places of the episode that has the fewest: no two episodes begin within so many."""
    guide: np.ndarray
    """The episode of every `width`-th place. That of any other place is the same or the next: it takes no search."""


def _places(starts: np.ndarray, lengths: np.ndarray, length: int) -> _Places:
    before = np.concatenate([[0], np.cumsum(lengths + (length - 1))])
    width = int(lengths.min()) + length - 1
    guide = np.searchsorted(before, np.arange(0, before[-1], width), side="right") - 1
    return _Places(length, np.stack([before, starts, np.append(lengths, 0)], axis=1), width, guide)


class EpisodeDataset:
    """N episodes in one folder, memory-mapped, or a subset of them; `open` makes one.

    `observation` (a tree), `action`, `reward`, `terminated`, `truncated` and `return_to_go` are arrays [R, ...] of all
    rows of the folder's files, read-only; views of records, so index them: `take` would copy them whole first.
    `starts` [N + 1], `lengths` [N] and `returns` [N] (undiscounted) are of this dataset's own episodes, in the order of
    the files: episode k has the rows starts[k] … starts[k] + lengths[k], the last for the final observation. Between
    those of a subset lie other episodes' rows, so starts[k + 1] is the end of episode k only in a whole dataset; the
    last entry is R.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        spaces: tuple[gym.Space, gym.Space],
        tables: list[np.ndarray],
        starts: np.ndarray,
        returns: np.ndarray,
        gamma: float,
    ):
        """Takes what `open` has checked; `tables` are the files of rows, as arrays of records [1 + R]."""
        self.folder, self.about, self.gamma = folder, about, gamma
        self.observation_space, self.action_space = spaces
        self._mappings = [found for table in tables if (found := mapping(table)) is not None]
        self._tables = [(_as_bytes(table), table.dtype) for table in tables]
        self._fields = {name: table[name][1:] for table in tables for name in names_of(table.dtype)}
        self.observation: Tree = observation_of(spaces[0], self._fields)
        self.action, self.reward = self._fields["action"], self._fields["reward"]
        self.terminated, self.truncated = self._fields["terminated"], self._fields["truncated"]
        self.starts, self.returns = np.array(starts), np.array(returns)
        self.lengths: np.ndarray = np.diff(self.starts) - 1
        self.return_to_go: np.ndarray = self._fields["return_to_go"]
        if gamma != 1.0:
            self.return_to_go = returns_to_go(self.reward, self.starts, gamma)
        self._places: _Places | None = None
        self._bins: list[EpisodeDataset] = []

    @classmethod
    def open(cls, folder: str | Path, gamma: float = 1.0) -> "EpisodeDataset":
        """The dataset in `folder`, its `return_to_go` discounted by `gamma`.

        Undiscounted ones are in the files; others are computed here from all rewards.

        Raises UserError for a folder that holds no dataset or a damaged one, and for a `gamma` outside [0, 1].
        """
        folder = Path(folder)
        if not 0.0 <= gamma <= 1.0:
            raise UserError(f"gamma is {gamma}: give a discount from 0 to 1")
        index = read_index(folder)
        try:
            spaces = (space_from_json(index["observation_space"]), space_from_json(index["action_space"]))
            dtypes = layout(*spaces)
            same = index["files"] == describe(dtypes) and isinstance(index["about"], dict)
            num_episodes, num_rows = int(index["num_episodes"]), int(index["num_rows"])
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, AssertionError) as error:
            raise UserError(f"{folder / INDEX} is damaged ({error!r}): {AGAIN}") from None
        if not same:
            raise UserError(f"{folder / INDEX} is damaged (its files do not fit its spaces): {AGAIN}")
        tables = [mapped(folder / f"{name}.bin", dtype, num_rows + 1) for name, dtype in dtypes.items()]
        starts = mapped(folder / "starts.bin", np.dtype("<i8"), num_episodes + 1)
        returns = mapped(folder / "returns.bin", np.dtype("<f8"), num_episodes)
        if starts[0] != 0 or starts[-1] != num_rows or (np.diff(starts) < 2).any():
            raise UserError(f"{folder / 'starts.bin'} is damaged (no rising first rows): {AGAIN}")
        return cls(folder, index["about"], spaces, tables, starts, returns, gamma)

    def __len__(self) -> int:
        """The decisions that windows may be drawn from."""
        return int(self.lengths.sum())

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    def episode(self, k: int) -> Episode:
        """Episode `k` of this dataset, whole; its arrays are views of the files."""
        first, last = int(self.starts[k]), int(self.starts[k] + self.lengths[k])
        observation = tree_map(lambda leaf: leaf[first : last + 1], self.observation)
        ends = (bool(self.terminated[last - 1]), bool(self.truncated[last - 1]))
        return Episode(observation, self.action[first:last], self.reward[first:last], *ends)

    def subset(self, episodes: np.ndarray) -> "EpisodeDataset":
        """The same files, with windows drawn from these episodes only, counted as in this dataset; at least one."""
        chosen = np.unique(np.asarray(episodes, dtype=np.int64))
        if not len(chosen) or chosen[0] < 0 or chosen[-1] >= self.num_episodes:
            raise UserError(f"a subset of {self.folder} needs episodes from 0 to {self.num_episodes - 1}, at least one")
        other = copy.copy(self)
        other.starts = np.append(self.starts[:-1][chosen], self.starts[-1])
        other.lengths, other.returns = self.lengths[chosen], self.returns[chosen]
        other._places, other._bins = None, []
        return other

    def balanced(self, num_bins: int) -> "EpisodeDataset":
        """The same episodes, with windows drawn from all bins of return equally often, however few episodes they hold.

        The range of `returns` is cut into `num_bins` bins of equal width. A window draws one of those that hold
        episodes, and then a place in that bin's episodes, as `windows` does. Who is told the return learns the same
        probabilities, P(action | history, return), but sees rare returns sooner; who is not would learn others.
        An episode whose return is a border belongs to the bin below. Raises UserError for fewer than one bin.
        """
        if num_bins < 1:
            raise UserError(f"{num_bins} bins of returns: give at least 1")
        ends = np.linspace(self.returns.min(), self.returns.max(), num_bins + 1)[1:-1]
        number = np.searchsorted(ends, self.returns)
        other = copy.copy(self)
        other._bins = [self.subset(np.flatnonzero(number == k)) for k in np.unique(number)]
        return other

    def warm(self) -> None:
        """Map the files' pages now, 40 ms a GB that is in memory already: draws would otherwise wait for them.

        For who is about to draw some hundred times or more. What is drawn does not change. Does nothing where the files
        take more than a quarter of the machine's memory (`populate`).
        """
        populate(self._mappings)

    def with_returns_to_go(self, return_to_go: np.ndarray) -> "EpisodeDataset":
        """The same episodes, with other returns-to-go [R] for all rows of the files."""
        assert return_to_go.shape == self.reward.shape, "one return-to-go for each row"
        other = copy.copy(self)
        other.return_to_go = return_to_go
        return other

    def rearranged(self, rows: np.ndarray, lengths: np.ndarray) -> "EpisodeDataset":
        """Episodes of other rows of the files, in any order, copied to memory: `lengths` [M] decisions each.

        `rows` [Σ (length + 1)] are counted in the files, and each episode's last is a final observation there. The
        episode ends as that one does; flags before are cleared, returns and returns-to-go computed anew.
        """
        starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        assert len(rows) == starts[-1], "a row for each decision and final observation"
        tables = []
        for table, dtype in self._tables:
            tables.append(np.zeros(1 + len(rows), dtype))
            tables[-1][1:] = table.numpy().view(dtype)[1 + rows, 0]
        fields = {name: table[name][1:] for table in tables for name in names_of(table.dtype)}
        for name in ("terminated", "truncated"):
            fields[name][:] = False
            fields[name][starts[1:] - 2] = self._fields[name][rows[starts[1:] - 1] - 1]
        fields["return_to_go"][:] = returns_to_go(fields["reward"], starts, 1.0)
        returns = np.add.reduceat(fields["reward"], starts[:-1], dtype=np.float64)
        spaces = (self.observation_space, self.action_space)
        return EpisodeDataset(self.folder, self.about, spaces, tables, starts, returns, self.gamma)

    def split(self, held_out: float, seed: int) -> tuple["EpisodeDataset", "EpisodeDataset"]:
        """Two datasets, for training and held out: the latter with a share `held_out` of the episodes, drawn by `seed`.

        Each has at least one episode. Raises UserError for a share outside (0, 1), or a dataset of one episode.
        """
        if not 0.0 < held_out < 1.0:
            raise UserError(f"the share of held-out episodes is {held_out}: give one between 0 and 1")
        if self.num_episodes < 2:
            raise UserError(f"{self.folder} has one episode, which cannot be split: log at least two")
        number = min(max(round(held_out * self.num_episodes), 1), self.num_episodes - 1)
        order = np.random.default_rng(seed).permutation(self.num_episodes)
        return self.subset(order[number:]), self.subset(order[:number])

    def best(self, share: float) -> "EpisodeDataset":
        """The `share` of episodes with the highest returns, at least one; of equal returns the earlier ones."""
        if not 0.0 < share <= 1.0:
            raise UserError(f"the share of best episodes is {share}: give one above 0, up to 1")
        number = max(round(share * self.num_episodes), 1)
        return self.subset(np.argsort(-self.returns, kind="stable")[:number])

    def windows(self, batch_size: int, length: int, generator: torch.Generator) -> Windows:
        """`batch_size` windows of `length` rows, drawn with replacement from `generator`, which is on the CPU.

        A window starts at a place drawn uniformly from the places −(length − 1) … T − 1 of all episodes, so that every
        decision is in as many windows as every other, unless they are `balanced`. The cost does not depend on the
        number of rows or of episodes.
        """
        return self._windows(*self._draw(batch_size, length, generator), length)

    def _draw(
        self, batch_size: int, length: int, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each window its episode's first row, that episode's decisions, and the place where the window starts."""
        if self._bins:
            counts = torch.randint(len(self._bins), (batch_size,), generator=generator).bincount().tolist()
            drawn = [part._draw(n, length, generator) for part, n in zip(self._bins, counts, strict=False) if n]
            begin, last, start = (np.concatenate(each) for each in zip(*drawn, strict=True))
            return begin, last, start
        if self._places is None or self._places.length != length:
            self._places = _places(self.starts, self.lengths, length)
        _, episodes, width, guide = self._places
        place = torch.randint(int(episodes[-1, 0]), (batch_size,), generator=generator).numpy()
        episode = guide[place // width]
        episode += episodes[episode + 1, 0] <= place
        before, begin, last = episodes[episode].T
        return begin, last, place - before - (length - 1)

    def windows_at(self, episode: np.ndarray, start: np.ndarray, length: int) -> Windows:
        """The windows of these episodes [N], counted as in this dataset, from the places `start` [N] on.

        A window at place s shows the rows max(s, 0) … min(s + length − 1, T) of its episode's T + 1, and pads behind
        them. Places go from −(length − 1) to T − 1: each window has a decision to learn from.
        """
        last = self.lengths[episode]
        assert ((start > -length) & (start < last)).all(), "a window without a decision"
        return self._windows(self.starts[episode], last, start, length)

    def _windows(self, begin: np.ndarray, last: np.ndarray, start: np.ndarray, length: int) -> Windows:
        """`windows_at`, of episodes that begin at the rows `begin` [N] and have `last` [N] decisions."""
        first = np.maximum(start, 0)
        offset = np.arange(length)[:, None]
        timestep = first + offset
        pad = timestep > np.minimum(start + (length - 1), last)
        timestep[pad] = 0
        mask = (timestep < last) & ~pad
        pads = np.nonzero(pad)
        leaves: dict[str, np.ndarray] = {}
        begin = begin + first
        for table, dtype in self._tables:
            block = _blocks(table, begin, length + 1)  # from the row before each window on
            block[1:][pads] = 0
            records = block.view(dtype)[..., 0]
            leaves |= {name: records[name] for name in names_of(dtype)}

        def row_before(name: str) -> Tensor:
            previous = leaves[name][:-1].copy()
            previous[pads] = 0
            return torch.from_numpy(previous)

        rest = {name: torch.from_numpy(leaf[1:]) for name, leaf in leaves.items()}
        if self.return_to_go is not self._fields["return_to_go"]:
            to_go = self.return_to_go[begin + np.where(pad, 0, offset)]
            to_go[pads] = 0
            rest["return_to_go"] = torch.from_numpy(to_go)
        pad[0] = True
        inputs = AgentInput(
            observation_of(self.observation_space, rest),
            row_before("action"),
            row_before("reward"),
            torch.from_numpy(pad),  # a memory begins there
        )
        parts = {name: rest[name] for name in ("action", "reward", "terminated", "truncated", "return_to_go")}
        return Windows(inputs, **parts, timestep=torch.from_numpy(timestep), mask=torch.from_numpy(mask))


def _blocks(table: Tensor, first: np.ndarray, length: int) -> np.ndarray:
    """Records first … first + length − 1 [length, N, bytes] of a table's bytes; behind the last one, the last."""
    if int(first.max()) + length <= len(table):
        return gather(table, torch.from_numpy(first), length).numpy()
    rows = np.minimum(first + np.arange(length)[:, None], len(table) - 1)
    return table.index_select(0, torch.from_numpy(rows.reshape(-1))).view(*rows.shape, -1).numpy()


def _as_bytes(table: np.ndarray) -> Tensor:
    """An array of records as a tensor [records, bytes], which is only ever read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it must not be written to
        return torch.from_numpy(table.view(np.uint8).reshape(len(table), -1))


def returns_to_go(reward: np.ndarray, starts: np.ndarray, gamma: float, chunk: int = 1 << 20) -> np.ndarray:
    """R_t = r_t + γ R_{t+1} within each episode, [R] float32; 0 on the final rows, where `reward` [R] is 0.

    In ⌈log₂ T⌉ passes: after pass k a row holds the sum of its next 2^k discounted rewards, to which the next pass adds
    γ^(2^k) times that of the row 2^k on. In float64, and about `chunk` rows at a time, so that memory does not grow.
    """
    result = np.zeros(len(reward), dtype=np.float32)
    begin = 0
    while begin < len(starts) - 1:
        end = max(int(np.searchsorted(starts, starts[begin] + chunk, side="right")) - 1, begin + 1)
        rows = slice(int(starts[begin]), int(starts[end]))
        length = np.diff(starts[begin : end + 1])
        behind = np.repeat(starts[begin + 1 : end + 1], length) - np.arange(rows.start, rows.stop)  # rows to the end
        total, step = reward[rows].astype(np.float64), 1
        while step < length.max() and gamma**step > 0:
            total[:-step] += np.where(behind[:-step] > step, gamma**step * total[step:], 0.0)
            step *= 2
        result[rows] = total
        begin = end
    return result
