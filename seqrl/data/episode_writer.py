"""Writes logged episodes to a folder, one after the other, and checks each before any of it is written."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np

from seqrl.actions import choices, is_mixed, tensor_space
from seqrl.data.episode_files import FORMAT, INDEX, describe, layout, leaf_layout, space_tree
from seqrl.data.episodes import Episode
from seqrl.envs.agent_spaces import agent_space
from seqrl.errors import UserError
from seqrl.spaces import space_to_json
from seqrl.trajectory import ACTION_MASK, Tree, tree_leaves
from seqrl.visible import visible

REWARD = gym.spaces.Box(-np.inf, np.inf, ())


class EpisodeWriter:
    """A context manager: `add` episodes, and when the block ends without an exception, `folder` holds them all.

    They go to a temporary folder beside it, which is renamed at the end. So there is no half dataset, whatever goes
    wrong; only a process that is killed leaves the temporary folder behind (its name begins with a dot). Memory use
    does not grow with the number of episodes.

    The spaces are those of an environment, and are brought to what its agents see: floats are float32, integers int64.
    `about` says where the episodes come from; it is whatever JSON can hold.

    Raises UserError where `folder` exists, the disk is full, an episode does not fit the spaces, or none was added.
    """

    def __init__(
        self, folder: str | Path, observation_space: gym.Space, action_space: gym.Space, *, about: dict[str, Any]
    ):
        self.folder = Path(folder)
        self.observation_space = agent_space(observation_space, "observation")
        self.action_space = agent_space(action_space, "action")
        if not list(tree_leaves(space_tree(self.observation_space))):
            raise UserError(f"the observation space {observation_space} has nothing to observe: give one with a part")
        try:
            self.about = json.loads(json.dumps(about, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError(f"`about` of {folder} cannot be written as JSON ({error}): use text and numbers") from None
        if self.folder.exists():
            raise UserError(f"{folder} exists already: choose another folder for the episodes, or remove it")
        self.num_episodes = self.num_rows = 0
        self._dtypes = layout(self.observation_space, self.action_space)
        self._temporary: Path | None = None
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> "EpisodeWriter":
        with self._disk():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
            for name in (*self._dtypes, "starts", "returns"):
                self._files[name] = open(self._temporary / f"{name}.bin", "wb")
            for name, dtype in self._dtypes.items():
                self._write(name, np.zeros(1, dtype))
            self._write("starts", np.zeros(1, dtype="<i8"))
        return self

    def add(self, episode: Episode, where: str = "") -> None:
        """Check an episode and write it. Its UserError begins with `where`, or the episode's number, and the row."""
        assert self._temporary is not None, "add episodes within the `with` block"
        where = where or f"episode {self.num_episodes}"
        leaves, action, reward = checked(episode, self.observation_space, self.action_space, where)
        flags = np.zeros((2, len(reward)), dtype=bool)
        flags[:, -1] = episode.terminated, episode.truncated
        to_go = np.cumsum(reward[::-1], dtype=np.float64)[::-1]
        rows = {f"observation.{k}": leaf for k, leaf in enumerate(leaves)}
        rows |= {"action": action, "reward": reward, "terminated": flags[0], "truncated": flags[1]}
        rows["return_to_go"] = to_go
        self.num_episodes += 1
        self.num_rows += len(reward) + 1
        with self._disk():
            for name, dtype in self._dtypes.items():
                self._write(name, _records(dtype, len(reward) + 1, rows))
            self._write("starts", np.array([self.num_rows], dtype="<i8"))
            self._write("returns", to_go[:1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        if self.num_episodes == 0:
            self._discard()
            raise UserError(f"no episodes for {self.folder}: there is nothing to learn from; log at least one")
        index = {
            "format": FORMAT,
            "num_episodes": self.num_episodes,
            "num_rows": self.num_rows,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "about": self.about,
            "files": describe(self._dtypes),
        }
        with self._disk():
            assert self._temporary is not None
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            (self._temporary / INDEX).write_text(json.dumps(index, indent=2, allow_nan=False) + "\n")
            self._temporary.chmod(0o755)
            os.rename(self._temporary, self.folder)
            self._temporary = None

    def _write(self, name: str, array: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(array).data)

    def _discard(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # closing writes what is buffered, to a disk that may be full
                file.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    @contextlib.contextmanager
    def _disk(self) -> Any:
        try:
            yield
        except OSError as error:
            self._discard()
            raise UserError(
                f"cannot write episodes to {self.folder} ({error.strerror}): free some space, or choose another folder"
            ) from None


def _records(dtype: np.dtype, num_rows: int, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Records [num_rows] of those fields of `rows` that `dtype` has; zeros where a field has fewer rows."""
    records = np.zeros(num_rows, dtype)
    for name in dtype.names or ():
        records[name][: len(rows[name])] = rows[name]
    return records


def checked(
    episode: Episode, observation_space: gym.Space, action_space: gym.Space, where: str
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The leaves of its observation, its actions and its rewards, in the types that the files have.

    Raises UserError, which begins with `where`, for whatever does not fit the spaces or together.
    """
    reward = as_array(episode.reward, f"{where}: reward")
    if reward.ndim != 1:
        raise UserError(f"{where}: reward has the shape {list(reward.shape)}: give one number for each decision")
    num_rows = len(reward)
    if num_rows == 0:
        raise UserError(f"{where} is empty: leave out episodes without a decision")
    if not (episode.terminated or episode.truncated):
        raise UserError(
            f"{where} ends neither terminated nor truncated: set truncated where only the recording stopped"
        )
    reward = checked_leaf(reward, REWARD, num_rows, "reward", where)
    action = _checked_action(episode.action, action_space, num_rows, where)
    leaves = _checked_leaves(episode.observation, observation_space, num_rows + 1, "observation", where)
    if isinstance(observation_space, gym.spaces.Dict) and ACTION_MASK in observation_space.spaces:
        place = list(space_tree(observation_space)).index(ACTION_MASK)
        mask = leaves[sum(len(list(tree_leaves(s))) for s in list(space_tree(observation_space).values())[:place])]
        _check_action_mask(mask, action, action_space, where)
    return leaves, action, reward


def _checked_action(values: Any, space: gym.Space, num_rows: int, where: str) -> np.ndarray:
    """Actions as one array; mixed ones may come as a tree of their leaves too."""
    if is_mixed(space) and isinstance(values, dict | tuple):
        leaves = _checked_leaves(values, space, num_rows, "action", where)
        values = np.concatenate([leaf.reshape(num_rows, -1).astype(np.float32) for leaf in leaves], 1)
    whole = list(choices(space)) if is_mixed(space) else []
    space = tensor_space(space)
    action = checked_leaf(values, space, num_rows, "action", where)
    if isinstance(space, gym.spaces.Box):
        _check_bounds(action, space, where)
    if whole:
        good = np.ones(action.shape, dtype=bool)
        good[:, whole] = action[:, whole] == np.rint(action[:, whole])
        _check_rows(good, action, "action", where, "give whole numbers for discrete parts")
    return action


def checked_leaf(values: Any, space: gym.Space, num_rows: int, name: str, where: str) -> np.ndarray:
    """`values` [num_rows, *shape] of a leaf space in the type that its file has, finite and of values that exist."""
    array = as_array(values, f"{where}: {name}")
    dtype, shape = leaf_layout(space)
    if array.shape[1:] != shape or array.ndim == 0:
        raise UserError(
            f"{where}: {name} has the shape {list(array.shape[1:])} in a row, its space {space} has {list(shape)}: "
            "give the space that it was logged in"
        )
    if len(array) != num_rows:
        final = ", the final observation among them" if name.startswith("observation") else ""
        raise UserError(f"{where}: {name} has {len(array)} rows, not {num_rows}{final}: give as many as rewards say")
    if dtype == "|u1" and array.dtype != np.uint8:
        raise UserError(f"{where}: {name} is {array.dtype}, not uint8 as its space {space}: give whole bytes")
    if array.dtype.kind == "f":
        _check_rows(np.isfinite(array), array, name, where, "drop the episode, or mend it")
    if dtype == "<f4":
        with np.errstate(over="ignore"):
            single = array.astype(dtype)
        if array.dtype.itemsize > 4:
            _check_rows(np.isfinite(single), array, name, where, "scale it to what float32 holds")
        return single
    if array.dtype.kind == "f":
        _check_rows(array == np.rint(array), array, name, where, "give whole numbers, or a Box space")
        array = array.astype(np.int64)
    sizes = _sizes(space)
    if sizes is not None:
        limits = f"give values from 0 to {int(np.max(sizes)) - 1}, or another space"
        _check_rows((array >= 0) & (array < sizes), array, name, where, limits)
    return array.astype(dtype)


def _sizes(space: gym.Space) -> Any:
    """How many values each entry of a leaf may have, or None where that is not limited."""
    if isinstance(space, gym.spaces.Discrete):
        return space.n
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec
    return 2 if isinstance(space, gym.spaces.MultiBinary) or space.dtype == bool else None


def as_array(values: Any, what: str) -> np.ndarray:
    """`values` as numbers. Raises UserError, which begins with `what`, for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise UserError(f"{what} has rows of different shapes: give one shape for all") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"{what} is of type {array.dtype}: give numbers{_in_place_of(array)}")
    return array


def _in_place_of(array: np.ndarray) -> str:
    """Which of its values is the first that is no number, for messages; of texts that all are, the first."""

    def is_number(value: Any) -> bool:
        try:
            return not isinstance(value, complex) and math.isfinite(float(value))
        except (TypeError, ValueError):
            return False

    if array.ndim == 0 or not array.size:
        return ""
    flat = array.reshape(len(array), -1)
    row, column = next(((r, c) for (r, c), value in np.ndenumerate(flat) if not is_number(value)), (0, 0))
    return f" in place of {visible(repr(str(flat[row, column])[:40]))} (row {row})"


def _check_rows(good: np.ndarray, array: np.ndarray, name: str, where: str, way_out: str) -> None:
    if good.all():
        return
    place = tuple(np.argwhere(~good)[0].tolist())
    entry = f" at {list(place[1:])}" if len(place) > 1 else ""
    raise UserError(f"{where}, row {place[0]}: {name} is {array[place].item()}{entry}: {way_out}")


def _check_bounds(action: np.ndarray, space: gym.spaces.Box, where: str) -> None:
    """Rounding to float32 may lead out of the box by a little."""
    slack = 1e-5 * np.maximum(1.0, np.where(np.isfinite(space.high - space.low), space.high - space.low, 1.0))
    good = (action >= space.low - slack) & (action <= space.high + slack)
    _check_rows(good, action, "action", where, f"outside {space}; clip it, or give wider bounds")


def _checked_leaves(values: Tree, space: gym.Space, num_rows: int, name: str, where: str) -> list[np.ndarray]:
    """The leaves of `values`, which may be nested as `space` is."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(values, dict) or set(values) != set(space.spaces):
            found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
            raise UserError(f"{where}: {name} has the keys {found}, its space {sorted(space.spaces)}: give the same")
        children = [(values[key], child, key) for key, child in space.spaces.items()]
    elif isinstance(space, gym.spaces.Tuple):
        if not isinstance(values, tuple) or len(values) != len(space.spaces):
            raise UserError(f"{where}: {name} is no tuple of {len(space.spaces)}, as its space is: give the same")
        children = [(values[k], child, str(k)) for k, child in enumerate(space.spaces)]
    else:
        return [checked_leaf(values, space, num_rows, name, where)]
    return [
        leaf
        for value, child, key in children
        for leaf in _checked_leaves(value, child, num_rows, f"{name}.{key}", where)
    ]


def _check_action_mask(mask: np.ndarray, action: np.ndarray, space: gym.Space, where: str) -> None:
    """Each decision was allowed. Of a final observation that allows nothing, as some give, the mask allows all."""
    sizes = list(choices(space).values())
    if mask.shape[1:] != (sum(sizes),) or not sizes:
        raise UserError(f"{where}: action_mask has the shape {list(mask.shape[1:])} in a row: give one for each action")
    chosen_of = action.reshape(len(action), -1)[:, list(choices(space))].astype(np.int64).T
    for k, (part, chosen) in enumerate(zip(np.split(mask, np.cumsum(sizes)[:-1], axis=1), chosen_of, strict=True)):
        part[-1] |= ~part[-1].any()
        empty = np.flatnonzero(~part.any(1))
        if len(empty):
            raise UserError(f"{where}, row {empty[0]}: action_mask allows nothing: allow what could be chosen there")
        forbidden = np.flatnonzero(~part[np.arange(len(chosen)), chosen])
        if len(forbidden):
            row = forbidden[0]
            part_name = f"part {k} of " if len(sizes) > 1 else ""
            raise UserError(
                f"{where}, row {row}: {part_name}action {chosen[row]} is forbidden by its action_mask: mend the log"
            )
