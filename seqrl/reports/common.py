"""What all pictures and tables share: how a mean is written, a curve made smooth, and a table that fits."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from seqrl.checkpoint import write_atomically
from seqrl.statistics import largest_unseen_share, mean_and_half_width, percent
from seqrl.tables import plain_table

WIDTH = 120
"""Columns of a terminal that tables fit, if nothing else is said."""


def mean_and_interval(mean: float, half_width: float) -> str:
    """`mean ± half_width`, both with an exponent or neither; without the second where it is NaN, of one sample."""
    if math.isnan(half_width):
        return number(mean)
    large = max(abs(mean), half_width)
    return f"{number(mean, 4, large)} ± {number(half_width, 3, large)}"


def no_proof(returns: Sequence[float], what: str) -> str:
    """A line on what the interval of returns that are all the same, ± 0, does not say of `what` they are; else ""."""
    if len(returns) < 2 or min(returns) < max(returns):
        return ""
    share = percent(largest_unseen_share(len(returns)))
    may = f"another may still come in up to {share} of {what} (95 %)"
    return f"All {len(returns)} returns are the same. That is no proof: {may}."


def finite(value: Any) -> Any:
    """`value` as JSON may hold it: null for a number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_both(folder: Path, name: str, figures: dict[str, Any], picture: bytes) -> list[Path]:
    """`name`.json and `name`.png into a run's folder, each whole or not at all: both are made before one is written."""
    content = json.dumps(figures, indent=1, allow_nan=False)
    files = {folder / f"{name}.json": f"{content}\n".encode(), folder / f"{name}.png": picture}
    for path, data in files.items():
        write_atomically(path, data)
    return list(files)


def number(value: float, digits: int = 4, size: float | None = None) -> str:
    """A value of so many digits, written out (−2624, not −2.62e+03) unless its `size`, else its own, is extreme."""
    size = abs(value) if size is None else size
    if size != 0 and not 1e-4 <= size < 1e7:
        return f"{value:.{digits - 1}e}"
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")


def smooth(curve: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """A curve on a grid of steps, each point the mean of the five updates around it."""
    steps, values = np.array(curve).T
    width = min(5, len(values))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.interp(grid, steps, np.convolve(padded, np.ones(width) / width, mode="valid"))


class Curve(NamedTuple):
    """A learning curve over seeds, [n] each: how all pictures draw it."""

    steps: np.ndarray
    mean: np.ndarray
    half_width: np.ndarray
    """Half the 95 % interval of the mean at each step by itself, by Student's t; NaN for a single seed."""
    seeds: np.ndarray
    """[seeds, n], each smoothed."""


def over_seeds(curves: Sequence[Sequence[tuple[float, float]]]) -> Curve:
    """The mean of seeds' curves, from where all have begun to where the first ends."""
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    steps = np.linspace(first, max(first, last), 120 if last > first else 1)
    seeds = np.stack([smooth(list(curve), steps) for curve in curves])
    mean, half_width = np.array([mean_and_half_width(column) for column in seeds.T.tolist()]).T
    return Curve(steps, mean, half_width, seeds)


def fitting_table(
    columns: dict[str, list[str]],
    title: str,
    caption: str,
    left_out: Sequence[str] = (),
    ends: Collection[int] = (),
    width: int = WIDTH,
) -> Table:
    """A table for a terminal: a row for each cell of the columns, with a gap after the rows `ends`.

    Headers break between words, cells do not. Where it would be wider than `width`, it does without columns of
    `left_out`, in their order.
    """
    columns = dict(columns)
    for name in left_out:
        if _width(columns) <= width:
            break
        columns.pop(name, None)
    table = plain_table(title, caption)
    for index, (name, cells) in enumerate(columns.items()):
        own = _width({name: cells}) - 2
        heading = name if len(name) <= own else name.replace(" (", "\n(")  # not "return (95" above "%)"
        table.add_column(heading, justify="right" if index else "left", width=own)
    for index, line in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(*line, end_section=index in ends)
    return table


def _width(columns: dict[str, list[str]]) -> int:
    """Of the terminal's table, with two spaces a column: headers break between words, cells do not."""
    return sum(2 + max(len(text) for text in (*name.split(), *cells)) for name, cells in columns.items())


def markdown_table(columns: dict[str, list[str]]) -> list[str]:
    """Lines of Markdown: a row for each cell of the columns."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cells) + " |" for cells in zip(*columns.values(), strict=True)]
