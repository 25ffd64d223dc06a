"""The files of logged episodes: packed once, flat, memory-mapped.

A dataset is a folder. An episode of T decisions takes T + 1 rows: row t holds o_t, a_t and the r_t, terminated_t and
truncated_t that a_t caused, and the last row holds the final observation alone (zeros and False elsewhere). Files are
raw numbers without a header:

========================  ======================================================================================
`index.json`              format, spaces, numbers of episodes and rows, `about`; what stands where in a record
`rows.bin`                a record for each row, of all episodes behind each other: the leaves below, side by side
`observation.0.bin`, …    a file of its own for each leaf of the observation space that is large (`LARGE`)
`starts.bin`              the first row of each episode and one past the last, int64
`returns.bin`             of each episode, undiscounted, float64
========================  ======================================================================================

A record holds the leaves of the observation space (`observation.0`, …, in its order), `action` as agents give it
(discrete ones count from 0, mixed ones are one vector: `seqrl.actions`), `reward`, `terminated`, `truncated`, and
`return_to_go`: the undiscounted sum of the rewards from a row to its episode's end, float32. Before the first row is a
record of zeros. So a window is one block of memory, with the row before it, which is blank at an episode's beginning:
the cache misses that a draw waits for are those of one block a window, however many leaves and steps there are.

Nothing of a row is read before it is drawn: opening costs the same for any number of rows. Who is going to draw often
may have the pages mapped at once (`populate`): otherwise most draws from a long log wait for a page.
"""

import itertools
import json
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.actions import tensor_space
from seqrl.errors import UserError, quoted
from seqrl.trajectory import Tree, tree_leaves, tree_map

FORMAT = "seqrl-episodes-2"
INDEX = "index.json"
AGAIN = "import or collect the episodes again"
LARGE = 4096
"""Bytes of an observation's leaf from which on it has a file of its own: a page, which it touches wherever it lies. Who
reads the rewards of a million frames does not read the frames."""

MADV_POPULATE_READ = 22
"""Linux's number, which Python's `mmap` has no name for."""


def space_tree(space: gym.Space) -> Tree:
    """The leaves of a space as a tree: dicts and tuples of Box, Discrete, MultiDiscrete and MultiBinary spaces."""
    if isinstance(space, gym.spaces.Dict):
        return {key: space_tree(child) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(space_tree(child) for child in space.spaces)
    return space


def observation_of(space: gym.Space, leaves: Mapping[str, Any]) -> Tree:
    """The tree of an observation, from its leaves by their names in the records."""
    numbered = (leaves[f"observation.{k}"] for k in itertools.count())
    return tree_map(lambda _: next(numbered), space_tree(space))


def leaf_layout(space: gym.Space) -> tuple[str, tuple[int, ...]]:
    """The dtype and the shape of one value of a leaf space, as agents see it."""
    shape = tuple(space.shape or ())
    if isinstance(space, gym.spaces.MultiBinary):
        return "|b1", shape
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return "<i8", shape
    return np.dtype(space.dtype).newbyteorder("<").str, shape


def layout(observation: gym.Space, action: gym.Space) -> dict[str, np.dtype]:
    """The record of every file of rows, by its name without the suffix."""
    spaces: list[Any] = list(tree_leaves(space_tree(observation)))
    fields: dict[str, np.dtype] = {f"observation.{k}": np.dtype(leaf_layout(space)) for k, space in enumerate(spaces)}
    large = {name: record({name: field}) for name, field in fields.items() if field.itemsize >= LARGE}
    fields |= {
        "action": np.dtype(leaf_layout(tensor_space(action))),
        "reward": np.dtype("<f4"),
        "return_to_go": np.dtype("<f4"),
    }
    fields |= {"terminated": np.dtype("|b1"), "truncated": np.dtype("|b1")}
    return {"rows": record({name: field for name, field in fields.items() if name not in large})} | large


def record(fields: dict[str, np.dtype]) -> np.dtype:
    """These fields side by side, the widest first; its size is a multiple of theirs, so that all are aligned."""
    widest = max(field.base.itemsize for field in fields.values())
    names = sorted(fields, key=lambda name: -fields[name].base.itemsize)
    ends = np.cumsum([fields[name].itemsize for name in names]).tolist()
    return np.dtype(
        {
            "names": names,
            "formats": [fields[name] for name in names],
            "offsets": [0, *ends[:-1]],
            "itemsize": -(-ends[-1] // widest) * widest,
        }
    )


def names_of(dtype: np.dtype) -> tuple[str, ...]:
    """The fields of a record."""
    assert dtype.names is not None
    return dtype.names


def mapping(array: np.ndarray) -> mmap.mmap | None:
    """What maps the file that `array` is of; None for an array in memory."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base


def populate(files: list[mmap.mmap]) -> None:
    """Map all pages of `files` at once, and read those that the system does not have in memory.

    Does nothing where the files are larger together than a quarter of the machine's memory, where they would drive out
    what others need, nor on systems without the call (Linux has it from 5.14 on).
    """
    if sys.platform != "linux" or sum(map(len, files)) > _memory() / 4:
        return
    for file in files:
        try:
            file.madvise(MADV_POPULATE_READ)
        except OSError:
            return  # an older system: pages come one by one, as they are read


def _memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe(dtypes: dict[str, np.dtype]) -> dict[str, Any]:
    """`layout` as the index keeps it: of each file its record's bytes; of its fields, type, shape and first byte."""

    def of(dtype: np.dtype) -> dict[str, Any]:
        assert dtype.fields is not None
        return {
            name: {"dtype": field.base.str, "shape": list(field.shape), "offset": offset}
            for name, (field, offset, *_) in dtype.fields.items()
        }

    return {name: {"bytes": dtype.itemsize, "fields": of(dtype)} for name, dtype in dtypes.items()}


def lack(folder: Path, name: str) -> str:
    """Why there is no file `name` in `folder`, in words."""
    return f"it has no {name}" if folder.is_dir() else "it is a file" if folder.exists() else "there is none"


def read_index(folder: Path) -> dict[str, Any]:
    """What `index.json` says. Raises UserError where it is missing, damaged or of another format."""
    path = folder / INDEX
    if not path.is_file():
        missing, way_out = lack(folder, INDEX), "give a folder that they were logged to"
        if folder.is_file():
            way_out = f"seqrl import {quoted(folder)} makes a folder of what another program logged"
        raise UserError(f"{folder} holds no logged episodes ({missing}): {way_out}")
    try:
        index = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): {AGAIN}") from None
    if not isinstance(index, dict):
        raise UserError(f"{path} is damaged (not an object): {AGAIN}")
    if index.get("format") != FORMAT:
        raise UserError(f"{path} has the format {index.get('format')!r}, not {FORMAT!r}: {AGAIN}")
    return index


def mapped(path: Path, dtype: np.dtype, number: int) -> np.ndarray:
    """A file's `number` records or numbers, read-only. Raises UserError where it is missing or of another size."""
    size = number * dtype.itemsize
    if not path.is_file():
        raise UserError(f"{path} is missing: {AGAIN}")
    if path.stat().st_size != size:
        raise UserError(f"{path} holds {path.stat().st_size:,} bytes, not {size:,}: {AGAIN}")
    # As a plain array, which it still maps: np.memmap's own indexing is slower.
    return np.memmap(path, dtype, "r", shape=(number,)).view(np.ndarray)
