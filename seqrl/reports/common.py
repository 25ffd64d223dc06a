"""What all pictures and tables share: how a mean is written, a curve made smooth, and a table that fits."""

import math
from collections.abc import Collection, Sequence

import numpy as np
from rich import box
from rich.table import Table

WIDTH = 120
"""Columns of a terminal that tables fit, if nothing else is said."""


def mean_and_interval(mean: float, half_width: float) -> str:
    """`mean ± half_width`; without the second where it is NaN, for want of samples."""
    return f"{mean:.4g}" if math.isnan(half_width) else f"{mean:.4g} ± {half_width:.3g}"


def smooth(curve: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """A curve on a grid of steps, each point the mean of the five updates around it."""
    steps, values = np.array(curve).T
    width = min(5, len(values))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.interp(grid, steps, np.convolve(padded, np.ones(width) / width, mode="valid"))


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
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, (name, cells) in enumerate(columns.items()):
        table.add_column(name, justify="right" if index else "left", width=_width({name: cells}) - 2)
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
