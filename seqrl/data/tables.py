"""Logs in tables: pandas data frames, .csv and .parquet files. The one file that imports pandas."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from seqrl.data.episode_writer import as_array
from seqrl.data.episodes import EpisodeDataset
from seqrl.data.packed import way_to_text
from seqrl.data.raw_episodes import (
    ALIASES,
    LEFT_OUT,
    RawEpisode,
    Unfinished,
    check_lengths,
    flat_episodes,
    parts_of,
    write_dataset,
)
from seqrl.errors import UserError, nearest

if TYPE_CHECKING:
    from pandas import DataFrame, Series

TABLES = (".csv", ".parquet")
TIMES = ("timestep", "step", "time")
"""Columns of numbers or points in time that are not read, but say whether the rows stand in the order of time."""
CHOSEN = ("observations", "actions")
"""The parts that columns may be chosen for."""


def from_pandas(
    folder: str | Path,
    frame: "DataFrame",
    *,
    episode: str = "episode",
    observation: Sequence[str] | None = None,
    action: Sequence[str] | None = None,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    unfinished: Unfinished = "error",
    about: dict[str, Any] | None = None,
    source: str = "the table",
) -> EpisodeDataset:
    """The dataset of a table with a row for each decision, in the order of time.

    The column `episode` tells the episodes apart; its values may be anything, and rows of one value stand together.
    The other columns are `observation` or `observation_0`, `observation_1`, …; `action` likewise; `reward`;
    `terminated`, `truncated` or both; perhaps `next_observation` or `next_observation_0`, …; or `final_observation`, of
    which each episode's last row counts; or other common names of these. A Dict observation has `observation.KEY` or
    `observation.KEY_0`, …. A cell may hold a list. A column `timestep`, `step` or `time` has to rise within each
    episode. Columns `infos.…` and `metadata.…` are left out; with `observation` and `action`, the names of columns in
    their order, all others are.

    Raises UserError, naming the column or the episode and the row, for whatever is missing or does not fit together.
    """
    columns = [str(name) for name in frame.columns]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"{source} has the column '{twice[0]}' twice: rename one")
    frame = frame.set_axis(columns, axis=1)
    if episode not in columns:
        known = nearest(episode, columns)
        raise UserError(f"{source} has no column '{episode}' to tell the episodes apart (--episode-column): {known}")
    again = np.flatnonzero(frame[episode] == episode)
    if len(again):  # two tables, one behind the other
        raise UserError(f"{source}, row {again[0]}: the names of the columns come again: leave that line out")
    starts, ids = _runs(frame[episode], source)
    for name in set(TIMES) & set(columns) - {*(observation or ()), *(action or ())}:
        _check_time(frame[name], starts, source)
    way_out = (
        "; or name what is observed observation_0, observation_1, …, and a column that is not to be read infos.NAME"
    )
    groups = _grouped(frame, episode, observation, action, source)
    parts_of(groups, source, way_out)  # before values are read: a column of no known name need not hold numbers
    parts = parts_of(_parts(frame, groups, starts[1:] - 1, source), source)
    check_lengths(parts, source)

    def episodes() -> Iterator[RawEpisode]:
        return flat_episodes(parts, starts, lambda k: f"{source}, episode {ids[k]} (from row {starts[k]})")

    return write_dataset(
        folder,
        episodes,
        observation_space=observation_space,
        action_space=action_space,
        unfinished=unfinished,
        about={"source": source} | (about or {}),
    )


def from_table(folder: str | Path, path: str | Path, **options: Any) -> EpisodeDataset:
    """The dataset of a .csv or a .parquet file, by `from_pandas` with these options.

    Raises UserError where pandas, or what it needs for .parquet, is not installed, and for a file that is damaged.
    """
    return from_pandas(folder, _read(Path(path)), source=str(path), **options)


def _read(path: Path) -> "DataFrame":
    try:
        import pandas
    except ImportError:
        raise UserError(f'{path} needs pandas: pip install "seqrl[offline]"') from None
    try:
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            _check_header(next(csv.reader(file), []), path)
        frame = pandas.read_csv(path, encoding="utf-8")
        return frame[[name for name in frame.columns if not name.startswith("Unnamed: ")]]  # where an index was saved
    except UserError:
        raise
    except ImportError:
        raise UserError(f"{path} needs pyarrow, which pandas reads .parquet with: pip install pyarrow") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason}): {way_to_text(error.object)}") from None
    except (ValueError, OSError, csv.Error) as error:  # pandas' and pyarrow's own are ValueErrors
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged or no {path.suffix} table ({reason}): write it again") from None


def _check_header(header: list[str], path: Path) -> None:
    """Raise UserError where the first line of a .csv file does not name its columns, each by a name of its own."""
    if not header:
        raise UserError(f"{path} has no rows: there is nothing to learn from; log at least one episode")
    parted = next((sign for sign in (";", "\t") if len(header) == 1 and sign in header[0]), None)
    if parted:
        raise UserError(f"{path} parts its columns by {parted!r}: write it with commas, and numbers with a point")
    if all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", name.strip(), re.IGNORECASE) for name in header):
        raise UserError(
            f"{path} begins with numbers, not with the names of its columns: put a line before them, such as "
            "episode,observation_0,action,reward,terminated"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:  # pandas would rename it
        raise UserError(f"{path} has the column '{twice[0]}' twice: rename one")


def _runs(column: "Series", source: str) -> tuple[np.ndarray, list[Any]]:
    """The first row of each episode and one past the last, and the episodes' names."""
    if not len(column):
        raise UserError(f"{source} has no rows: there is nothing to learn from; log at least one episode")
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise UserError(f"{source}, row {missing[0]}: the column '{column.name}' is empty: name the episode")
    try:
        codes = column.factorize()[0]
    except (TypeError, ValueError):
        raise UserError(f"{source}: column '{column.name}' is of type {column.dtype}: give numbers or names") from None
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    again = np.flatnonzero(np.diff(codes[first], prepend=-1) < 0)  # factorize numbers the values as they first come
    if len(again):
        row = first[again[0]]
        raise UserError(
            f"{source}, row {row}: episode {column.iloc[row]} goes on after another began: sort the rows by "
            f"'{column.name}', and within it by time"
        )
    return np.append(first, len(column)), column.iloc[first].tolist()


def _check_time(column: "Series", starts: np.ndarray, source: str) -> None:
    time = column.to_numpy()
    if time.dtype.kind not in "biufmM":
        import pandas

        try:
            time = pandas.to_datetime(column, format="ISO8601", utc=True).to_numpy()
        except (ValueError, TypeError, OverflowError):
            raise UserError(
                f"{source}: column '{column.name}' holds neither numbers nor times such as 2024-05-01T10:00:00: write "
                "one of them, or leave it out"
            ) from None
    falls = time[1:] <= time[:-1]
    falls[starts[1:-1] - 1] = False  # from one episode to the next
    if falls.any():
        row = int(np.argmax(falls)) + 1
        raise UserError(
            f"{source}, row {row}: '{column.name}' is {column.iloc[row]} after {column.iloc[row - 1]}: sort each "
            "episode's rows by time"
        )


def _grouped(
    frame: "DataFrame",
    episode: str,
    observation: Sequence[str] | None,
    action: Sequence[str] | None,
    source: str,
) -> dict[str, list[str]]:
    """The columns of each part of the table by its name: one, or numbered ones in their order."""
    groups: dict[str, list[str]] = {}
    for name, chosen in zip(CHOSEN, (observation, action), strict=True):
        for column in chosen or ():
            if column not in frame.columns:
                raise UserError(f"{source} has no column '{column}': {nearest(column, frame.columns)}")
            groups.setdefault(name, []).append(column)
    used = {episode, *TIMES, *(observation or ()), *(action or ())}
    numbered: dict[str, dict[int, str]] = {}
    for column in frame.columns:
        match = re.fullmatch(r"((?:next_|final_)?(?:observation|obs|action)s?(?:\..+?)?)_(\d+)", column)
        left_out = _head(column) in LEFT_OUT or (observation and action and not _is_flag_or_reward(column))
        if column in used or left_out:
            continue
        if match:
            known = numbered.setdefault(match[1], {}).setdefault(int(match[2]), column)
        else:
            known = groups.setdefault(column, [column])[0]
        if known != column:
            raise _both(known, column, source)
    for name, columns in numbered.items():
        if name in groups:
            raise _both(groups[name][0], next(iter(columns.values())), source)
        if sorted(columns) != list(range(len(columns))):
            gap = min(set(range(len(columns))) - set(columns))
            raise UserError(f"{source} has no column '{name}_{gap}': number them from 0 without a gap")
        groups[name] = [columns[k] for k in range(len(columns))]
    return groups


def _parts(frame: "DataFrame", groups: dict[str, list[str]], last: np.ndarray, source: str) -> dict[str, np.ndarray]:
    """The table's parts by name: one column as it is, several side by side. `last` [N] are the episodes' last rows."""
    parts = {}
    for name, group in groups.items():
        is_final = _head(name) in ALIASES["final_observations"]
        values = [_final(frame[column].iloc[last], source) if is_final else _values(frame[column], source)
                  for column in group]  # fmt: skip
        if len({value.shape for value in values}) > 1:
            raise UserError(f"{source}: the columns of {name} have cells of different shapes: give one shape for all")
        is_single = group == [name] or (name in CHOSEN and len(group) == 1)
        parts[name] = values[0] if is_single else np.stack(values, axis=1)
    return parts


def _both(one: str, other: str, source: str) -> UserError:
    return UserError(f"{source} has the columns '{one}' and '{other}': give one of them")


def _head(column: str) -> str:
    return column.replace("/", ".").partition(".")[0]


def _is_flag_or_reward(column: str) -> bool:
    return any(column in ALIASES[name] for name in ("rewards", "terminated", "truncated"))


def _values(column: "Series", source: str) -> np.ndarray:
    """A column's numbers, or what its cells' lists hold, stacked."""
    what = f"{source}: column '{column.name}'"
    values = column.to_numpy()
    if values.dtype == object and all(isinstance(value, list | np.ndarray) for value in values):
        return as_array([np.asarray(value).tolist() for value in values], what)
    return as_array(values, what)


def _final(column: "Series", source: str) -> np.ndarray:
    """The values of last rows; whole numbers as integers again, since other rows may have been left empty."""
    values = _values(column, source)
    whole = values.dtype.kind == "f" and (np.rint(values) == values).all() and (np.abs(values) < 2**53).all()
    return values.astype(np.int64) if whole else values
