"""Logged episodes on disk, packed once into flat memory-mapped files, and windows of them to learn from.

A dataset is a folder. An episode of T decisions takes T + 1 rows: row t holds o_t, a_t and the r_t, terminated_t and
truncated_t that a_t caused, and the last row holds the final observation alone (zeros and False elsewhere). Each file
holds one of these for all episodes behind each other, as raw numbers without a header:

====================================  ==========================================================================
`index.json`                          format, spaces, numbers of episodes and rows, `about`; each file's dtype, shape
`observation.0.bin`, …                the leaves of the observation space, in its order
`action.bin` `reward.bin`             actions as agents give them: discrete ones count from 0
`terminated.bin` `truncated.bin`      one byte a row
`return_to_go.bin`                    the undiscounted sum of the rewards from a row to its episode's end, float32
`starts.bin` `returns.bin`            the first row of each episode and one past the last, int64; returns, float64
====================================  ==========================================================================

Nothing of a row is read before it is drawn: opening costs the same for any number of rows.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.spaces import space_from_json
from seqrl.trajectory import AgentInput, Tree, tree_leaves, tree_map

FORMAT = "seqrl-episodes-1"
INDEX = "index.json"


class Episode(NamedTuple):
    """One logged episode of T decisions, leaves as agents see and give them: discrete values count from 0."""

    observation: Tree
    """Arrays [T + 1, ...]: the final observation is the last row."""
    action: np.ndarray
    """[T, ...]; Box actions in the space's own units."""
    reward: np.ndarray
    """[T] float32."""
    terminated: bool
    """Whether the task itself ended after the last decision."""
    truncated: bool
    """Whether something else ended it: a limit of time, or the recording."""


class Windows(NamedTuple):
    """N windows of logged episodes, time first: leaves [length, N, ...].

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


class EpisodeDataset:
    """N episodes in one folder, memory-mapped, or a subset of them; `open` makes one.

    `observation` (a tree), `action`, `reward`, `terminated`, `truncated` and `return_to_go` are arrays [R, ...] of all
    rows of the folder's files, read-only. `starts` [N + 1], `lengths` [N] and `returns` [N] (undiscounted) are of this
    dataset's own episodes, in the order of the files: episode k has the rows starts[k] … starts[k] + lengths[k], the
    last for the final observation. Between those of a subset lie other episodes' rows, so starts[k + 1] is the end of
    episode k only in a whole dataset; the last entry is R.
    """

    def __init__(
        self,
        folder: Path,
        index: dict[str, Any],
        spaces: tuple[gym.Space, gym.Space],
        arrays: dict[str, Any],
        gamma: float,
    ):
        """Takes what `open` has checked."""
        self.folder, self.about, self.gamma = folder, index["about"], gamma
        self.observation_space, self.action_space = spaces
        self.observation: Tree = arrays["observation"]
        self.action, self.reward = arrays["action"], arrays["reward"]
        self.terminated, self.truncated = arrays["terminated"], arrays["truncated"]
        self.starts: np.ndarray = np.array(arrays["starts"])
        self.lengths: np.ndarray = np.diff(self.starts) - 1
        self.returns: np.ndarray = np.array(arrays["returns"])
        self.return_to_go: np.ndarray = (
            arrays["return_to_go"] if gamma == 1.0 else returns_to_go(self.reward, self.starts, gamma)
        )
        self._set_places()

    def _set_places(self) -> None:
        self._decisions = np.concatenate([[0], np.cumsum(self.lengths)])  # before each episode, and in all
        self._places: tuple[int, np.ndarray] = (1, self._decisions)

    @classmethod
    def open(cls, folder: str | Path, gamma: float = 1.0) -> "EpisodeDataset":
        """The dataset in `folder`, its `return_to_go` discounted by `gamma`.

        Undiscounted ones are in the files; others are computed here from all rewards.

        Raises UserError for a folder that holds no dataset or a damaged one, and for a `gamma` outside [0, 1].
        """
        folder = Path(folder)
        if not 0.0 <= gamma <= 1.0:
            raise UserError(f"gamma is {gamma}: give a discount from 0 to 1")
        index = _read_index(folder)
        try:
            spaces = (space_from_json(index["observation_space"]), space_from_json(index["action_space"]))
            files = layout(*spaces, index["num_episodes"], index["num_rows"])
            same = index["files"] == describe(files) and isinstance(index["about"], dict)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, AssertionError) as error:
            raise UserError(f"{folder / INDEX} is damaged ({error!r}): import the episodes again") from None
        if not same:
            raise UserError(f"{folder / INDEX} is damaged (its files do not fit its spaces): import the episodes again")
        arrays: dict[str, Any] = {name: _mapped(folder / f"{name}.bin", *files[name]) for name in files}
        leaves = iter([arrays[name] for name in files if name.startswith("observation.")])
        arrays["observation"] = tree_map(lambda _: next(leaves), space_tree(spaces[0]))
        starts = arrays["starts"]
        if starts[0] != 0 or starts[-1] != index["num_rows"] or (np.diff(starts) < 2).any():
            raise UserError(f"{folder / 'starts.bin'} is damaged (no rising first rows): import the episodes again")
        return cls(folder, index, spaces, arrays, gamma)

    def __len__(self) -> int:
        """The decisions that windows may be drawn from."""
        return int(self._decisions[-1])

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
        other._set_places()
        return other

    def with_returns_to_go(self, return_to_go: np.ndarray) -> "EpisodeDataset":
        """The same episodes, with other returns-to-go [R] for all rows of the files."""
        assert return_to_go.shape == self.reward.shape, "one return-to-go for each row"
        other = copy.copy(self)
        other.return_to_go = return_to_go
        return other

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
        decision is in as many windows as every other. The cost does not depend on the number of rows.
        """
        if self._places[0] != length:  # the places before each episode, which has T + length − 1 of them
            self._places = (length, self._decisions + np.arange(len(self._decisions)) * (length - 1))
        before = self._places[1]
        place = torch.randint(int(before[-1]), (batch_size,), generator=generator).numpy()
        episode = np.searchsorted(before, place, side="right") - 1
        return self.windows_at(episode, place - before[episode] - (length - 1), length)

    def windows_at(self, episode: np.ndarray, start: np.ndarray, length: int) -> Windows:
        """The windows of these episodes [N], counted as in this dataset, from the places `start` [N] on.

        A window at place s shows the rows max(s, 0) … min(s + length − 1, T) of its episode's T + 1, and pads behind
        them. Places go from −(length − 1) to T − 1: each window has a decision to learn from.
        """
        last = self.lengths[episode]
        assert ((start > -length) & (start < last)).all(), "a window without a decision"
        first = np.maximum(start, 0)
        offset = np.arange(length)[:, None]
        timestep = first + offset
        pad = timestep > np.minimum(start + (length - 1), last)
        timestep[pad] = 0
        mask = (timestep < last) & ~pad
        rows = self.starts[episode] + timestep
        pads = np.nonzero(pad)

        def read(array: np.ndarray) -> Tensor:
            leaf = array.take(rows, axis=0)
            if len(pads[0]):
                leaf[pads] = 0
            return torch.from_numpy(leaf)

        action, reward = read(self.action), read(self.reward)
        is_first = pad
        is_first[0] = True
        inside = np.nonzero(first)[0]  # windows that begin behind their episode's first row

        def row_before(leaf: Tensor, array: np.ndarray) -> Tensor:
            previous = torch.zeros_like(leaf)
            previous[1:] = leaf[:-1]
            previous.numpy()[pads] = 0
            previous.numpy()[0, inside] = array.take(rows[0, inside] - 1, axis=0)
            return previous

        inputs = AgentInput(
            tree_map(read, self.observation),
            row_before(action, self.action),
            row_before(reward, self.reward),
            torch.from_numpy(is_first),
        )
        ends = read(self.terminated), read(self.truncated), read(self.return_to_go)
        return Windows(inputs, action, reward, *ends, torch.from_numpy(timestep), torch.from_numpy(mask))


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


def space_tree(space: gym.Space) -> Tree:
    """The leaves of a space as a tree: dicts and tuples of Box, Discrete, MultiDiscrete and MultiBinary spaces."""
    if isinstance(space, gym.spaces.Dict):
        return {key: space_tree(child) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(space_tree(child) for child in space.spaces)
    return space


def leaf_layout(space: gym.Space) -> tuple[str, tuple[int, ...]]:
    """The dtype and the shape of one value of a leaf space, as agents see it."""
    shape = tuple(space.shape or ())
    if isinstance(space, gym.spaces.MultiBinary):
        return "|b1", shape
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return "<i8", shape
    return np.dtype(space.dtype).newbyteorder("<").str, shape


def layout(observation: gym.Space, action: gym.Space, episodes: int, rows: int) -> dict[str, tuple[str, tuple]]:
    """The dtype and the whole shape of every file, by its name without the suffix."""
    spaces: list[Any] = list(tree_leaves(space_tree(observation)))
    leaves = [leaf_layout(space) for space in spaces]
    files = {f"observation.{k}": (dtype, (rows, *shape)) for k, (dtype, shape) in enumerate(leaves)}
    dtype, shape = leaf_layout(action)
    files |= {"action": (dtype, (rows, *shape)), "reward": ("<f4", (rows,))}
    files |= {"terminated": ("|b1", (rows,)), "truncated": ("|b1", (rows,)), "return_to_go": ("<f4", (rows,))}
    return files | {"starts": ("<i8", (episodes + 1,)), "returns": ("<f8", (episodes,))}


def describe(files: dict[str, tuple[str, tuple]]) -> dict[str, Any]:
    """`layout` as the index keeps it."""
    return {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in files.items()}


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise UserError(
            f"{folder} holds no logged episodes (it has no {INDEX}): give a folder that they were logged to"
        )
    try:
        index = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): import the episodes again") from None
    if not isinstance(index, dict):
        raise UserError(f"{path} is damaged (not an object): import the episodes again")
    if index.get("format") != FORMAT:
        raise UserError(f"{path} has the format {index.get('format')!r}, not {FORMAT!r}: import the episodes again")
    return index


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not path.is_file():
        raise UserError(f"{path} is missing: import the episodes again")
    if path.stat().st_size != size:
        raise UserError(f"{path} holds {path.stat().st_size:,} bytes, not {size:,}: import the episodes again")
    if size == 0:
        return np.zeros(shape, dtype)
    # As a plain array, which it still maps: np.memmap's own indexing is slower.
    return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)
