"""Logs of other programs become datasets: flat arrays, .npz files, folders of .npy files, JSON lines; and all by name.

`seqrl.data.tables` has pandas' tables, `seqrl.data.minari` has Minari's datasets and D4RL's HDF5 files. All take what
the parts of a log are commonly called (`seqrl.data.raw_episodes.ALIASES`), and nothing is ever unpickled.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.data.episode_files import INDEX
from seqrl.data.episode_writer import as_array
from seqrl.data.episodes import EpisodeDataset
from seqrl.data.minari import MINARI, from_minari, open_d4rl
from seqrl.data.packed import SUFFIXES, way_to_text
from seqrl.data.raw_episodes import (
    RawEpisode,
    Unfinished,
    check_lengths,
    ends_of,
    flags_of,
    flat_episodes,
    one_line,
    parts_of,
    with_arrays,
    write_dataset,
)
from seqrl.data.tables import TABLES, from_table
from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_leaves
from seqrl.visible import visible

UNREADABLE = (
    *(ValueError, EOFError, OSError, AttributeError, TypeError, KeyError, RuntimeError),  # NotImplementedError too
    *(zipfile.BadZipFile, zlib.error),
)
"""What NumPy and the modules below it raise over a damaged file."""


def import_episodes(source: str | Path, folder: str | Path, **options: Any) -> EpisodeDataset:
    """The dataset in `folder` of the episodes in `source`: a file by its suffix, or `minari:ID`.

    ==============================  ==================================================================================
    `minari:ID`, `minari:PATH`      a Minari dataset on this machine (`from_minari`)
    .npz, a folder of .npy files    flat arrays (`from_arrays`); the folder's are mapped, not loaded
    .hdf5, .h5                      flat arrays in D4RL's layout
    .jsonl                          an episode a line (`from_json_lines`)
    .csv, .parquet                  a decision a row (`from_table`)
    ==============================  ==================================================================================

    `options` are those of the function that reads it: `observation_space`, `action_space`, `unfinished` and `about` for
    all (Minari knows its spaces, and those given have to fit them); `episode`, the column of the episodes, for tables.
    """
    text, path = str(source), Path(source)
    if text.startswith(MINARI):
        return from_minari(folder, text.removeprefix(MINARI), **options)
    if not path.exists():
        raise UserError(f"{text} does not exist: give a file of episodes, or minari:ID for a Minari dataset")
    if path.suffix in TABLES:
        return from_table(folder, path, **options)
    if path.suffix == ".jsonl":
        return from_json_lines(folder, path, **options)
    if path.suffix in (".hdf5", ".h5"):
        with open_d4rl(path) as arrays:
            return from_arrays(folder, arrays, source=text, **options)
    if path.suffix == ".npz" or path.is_dir():
        return from_arrays(folder, load_arrays(path), source=text, **options)
    known = ", ".join([".npz", ".jsonl", ".hdf5", *TABLES])
    unpacked = "unpack it first, " if path.suffix in SUFFIXES else ""
    raise UserError(f"{text} is of no known kind: {unpacked}give {known}, a folder of .npy files, or minari:ID")


def from_arrays(
    folder: str | Path,
    arrays: Mapping[str, Any],
    *,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    unfinished: Unfinished = "error",
    about: dict[str, Any] | None = None,
    source: str = "arrays",
) -> EpisodeDataset:
    """The dataset of flat arrays [R, ...], R decisions of all episodes behind each other, as D4RL has them.

    `arrays` has observations, actions, rewards, and terminals or timeouts or both, under these or other common names;
    perhaps next_observations [R, ...] or final_observations [N, ...], one for each episode. Observations may be trees,
    or have flat names such as `observations.image`. An episode goes on to the row with a flag. Entries whose names
    begin with `infos` or `metadata` are left out.

    Raises UserError for whatever does not fit together, naming `source`, the episode and the row.
    """
    parts = with_arrays(parts_of(arrays, source), source)
    starts = _starts(parts, source)

    def episodes() -> Iterator[RawEpisode]:
        return flat_episodes(parts, starts, lambda k: f"{source}, episode {k} (from row {starts[k]})")

    return write_dataset(
        folder,
        episodes,
        observation_space=observation_space,
        action_space=action_space,
        unfinished=unfinished,
        about={"source": source} | (about or {}),
    )


def _starts(parts: dict[str, Any], source: str) -> np.ndarray:
    """The first row of each episode and one past the last, [N + 1]: an episode goes on to the row with a flag."""
    num_rows = check_lengths(parts, source)
    ends = np.zeros(num_rows, dtype=bool)
    for name in {"terminated", "truncated"} & set(parts):
        ends |= flags_of(parts[name], name, source)
    last = np.flatnonzero(ends) + 1
    starts = np.unique(np.concatenate([[0], last, [num_rows]]))
    final = parts.get("final_observations")
    for leaf in tree_leaves(final) if final is not None else ():
        if tuple(leaf.shape[:1]) != (len(starts) - 1,):
            found = f"{leaf.shape[0]} rows" if leaf.shape else "no rows"
            raise UserError(
                f"{source}: final_observations has {found} for {len(starts) - 1} episodes: give one for each"
            )
    return starts


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or of the .npy files in a folder, which are mapped and not loaded."""
    files = sorted(path.glob("*.npy")) if path.is_dir() else []
    if (path / INDEX).is_file():
        raise UserError(f"{path} is a dataset already: use it as it is")
    if path.is_dir() and not files:
        raise UserError(f"{path} holds no .npy files: give a folder with observations.npy, actions.npy and so on")
    name = path
    try:
        arrays = {}
        for name in files:
            arrays[name.stem] = np.load(name, mmap_mode="r", allow_pickle=False)
        if not files:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
    except UNREADABLE as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise UserError(
                f"{name} holds a pickle, which could run code and is never loaded: save arrays of numbers"
            ) from None
        raise UserError(f"{name} is damaged or no NumPy file ({one_line(error)}): save it again") from None
    return arrays


def from_json_lines(
    folder: str | Path,
    path: str | Path,
    *,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    unfinished: Unfinished = "error",
    about: dict[str, Any] | None = None,
) -> EpisodeDataset:
    """The dataset of a file that has an episode in each line, a JSON object.

    Its `observations` are a list of T + 1, or of T where the final one is not known; `actions` and `rewards` are lists
    of T; `terminated` and `truncated` are true or false, or lists of T. Of a Dict space, the observations are an object
    of such lists, or a list of objects; of a Tuple space, which has to be given, a list of such lists. Actions of such
    spaces, which have to be given, are likewise. Blank lines are left out, and entries named `infos` or `metadata`. The
    file is read once, or twice where a space is inferred.

    Raises UserError, naming the line, for whatever is no such object, or does not fit together.
    """
    path = Path(path)

    def episodes() -> Iterator[RawEpisode]:
        number, is_empty = 0, True
        try:
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        is_empty = False
                        yield _json_episode(line, f"{path}, line {number}")
        except UnicodeDecodeError as error:
            way_out = way_to_text(error.object)
            raise UserError(f"{path}, line {number + 1} is no text in UTF-8 ({error.reason}): {way_out}") from None
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}): give a file of JSON lines") from None
        if is_empty:
            raise UserError(f"{path}: there are no episodes, so nothing to learn from; log at least one")

    return write_dataset(
        folder,
        episodes,
        observation_space=observation_space,
        action_space=action_space,
        unfinished=unfinished,
        about={"source": str(path)} | (about or {}),
    )


def _json_episode(line: str, where: str) -> RawEpisode:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            twice = next(key for k, (key, _) in enumerate(pairs) if key in dict(pairs[:k]))
            raise UserError(f"{where} has the key {visible(repr(twice))} twice in one object: keep one")
        return dict(pairs)

    try:
        data = json.loads(line, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is damaged JSON ({error.msg} at column {error.colno}): write it again") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply: give an object of lists of numbers") from None
    if not isinstance(data, dict):
        raise UserError(f"{where} is no object: give one with observations, actions, rewards and the flags")
    parts = parts_of(data, where)
    for name in ("next_observations", "final_observations"):
        if name in parts:
            raise UserError(f"{where} has {name}: put the final one behind the other observations instead")
    reward = as_array(parts["rewards"], f"{where}: rewards")
    flags = (ends_of(parts.get(name, False), np.shape(reward), name, where) for name in ("terminated", "truncated"))
    terminated, truncated = flags
    observation, action = (_columns(parts[f"{name}s"], name, where) for name in ("observation", "action"))
    return RawEpisode(observation, action, reward, terminated, truncated, where)


def _columns(values: Tree, name: str, where: str) -> Tree:
    """Of a list of objects, an object of lists."""
    if isinstance(values, dict):
        return {key: _columns(child, name, where) for key, child in values.items()}
    if not isinstance(values, list) or not values or not isinstance(values[0], dict):
        return values
    for row, value in enumerate(values):
        if not isinstance(value, dict) or value.keys() != values[0].keys():
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise UserError(
                f"{where}, row {row}: the {name} has the keys {found}, and {sorted(values[0])} before: give the "
                "same in all rows"
            )
    return {key: _columns([value[key] for value in values], name, where) for key in values[0]}
