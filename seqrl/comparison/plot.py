"""The picture of a comparison on an environment: learning curves, and where it was measured, the horizon."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from seqrl.checkpoint import write_atomically
from seqrl.comparison.report import Comparison, Horizon, Row
from seqrl.figures import png
from seqrl.memory import MEMORIES
from seqrl.reports.common import number, over_seeds
from seqrl.statistics import with_minus

COLOURS = dict(
    zip(MEMORIES, ("#888888", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"), strict=True)
)
"""Okabe and Ito's palette, which colour-blind people can tell apart."""
OWN = ("#8c564b", "#332288", "#999933")
"""Memories of one's own, in the order of the rows."""
LINES = {"ppo": "-", "impala": "--", "r2d2": "-.", "recurrent_sac": ":"}
MARKERS = {"ppo": "o", "impala": "s", "r2d2": "^", "recurrent_sac": "D"}
OWN_LINES = ((0, (3, 1, 1, 1, 1, 1)), (0, (7, 3)), (0, (1, 3)))
OWN_MARKERS = ("v", "P", "X")
"""Of algorithms of one's own, in the order of the rows."""


def plot_comparison(result: Comparison, path: Path) -> None:
    """Write the picture: an approach is a colour for its memory and a kind of line for its algorithm and inputs."""
    panels = 1 + (result.horizon is not None)
    figure = Figure(figsize=(8 + 3.6 * (panels - 1), 4.5), dpi=150, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, width_ratios=(5, 4)[:panels])
    if result.horizon is not None:
        _horizon(axes[0, 1], result, result.horizon)
    _curves(axes[0, 0], result)
    figure.suptitle(result.env, fontsize=12, x=0.01, ha="left", wrap=True)
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    if axes[0, 0].get_legend_handles_labels()[0]:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), title="return when evaluated", fontsize=9, title_fontsize=9,
            frameon=False, alignment="left", handlelength=2.8, loc="outside right center",
        )  # fmt: skip
    write_atomically(path, png(figure))


def _look(result: Comparison, row: Row) -> tuple[str, str | tuple[int, tuple[int, ...]], str]:
    """Colour, kind of line and marker."""
    memory, kind = _parted(row)
    memories, kinds = map(dict.fromkeys, zip(*map(_parted, result.rows), strict=True))
    return (
        _with_own(COLOURS, memories, OWN)[memory],
        _with_own(LINES, kinds, OWN_LINES)[kind],
        _with_own(MARKERS, kinds, OWN_MARKERS)[kind],
    )


def _parted(row: Row) -> tuple[str, str]:
    """Its memory, and what has a kind of line: its algorithm, with what it reads besides observations."""
    memory, plus, inputs = row.memory.partition("+")
    return memory, row.algorithm + plus + inputs


def _with_own(looks: Mapping[str, Any], names: Iterable[str], free: Sequence[Any]) -> dict[str, Any]:
    """`looks`, and for those of `names` that are not among them, one's own, those of `free` in turn."""
    own = (name for name in names if name not in looks)
    return {**looks, **dict(zip(own, itertools.cycle(free), strict=False))}


def _curves(axes: Axes, result: Comparison) -> None:
    """Learning curves of every approach, the same as on its page: the mean over seeds with its interval, and each
    seed thin."""
    shown: list[float] = []
    longest = 0.0
    for row in result.rows:
        if not any(row.curves):
            continue
        steps, mean, half, seeds = over_seeds([curve for curve in row.curves if curve])
        longest = max(longest, float(steps[-1]))
        shown += seeds.ravel().tolist()
        colour, line, _ = _look(result, row)
        label = f"{result.name(row)} ({with_minus(number(row.mean))})"
        axes.plot(steps, mean, color=colour, label=label, linewidth=2, linestyle=line)
        if len(seeds) > 1:
            axes.plot(steps, seeds.T, color=colour, linewidth=0.8, alpha=0.38)
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    same = result.optimal == result.memoryless
    levels = [(result.optimal, "optimal, even without memory" if same else "optimal", "--")]
    levels += [] if same else [(result.memoryless, "best without memory", ":")]
    levels += [(result.random, "random actions", ":")]
    for value, name, linestyle in levels:
        if value is not None:
            axes.axhline(
                value, color="black", linewidth=1, linestyle=linestyle, label=f"{name} ({with_minus(number(value))})"
            )
            shown.append(value)
    axes.set(xlabel="environment steps", ylabel="return of training episodes")
    axes.set_xlim(0, longest or result.num_steps)
    if shown and max(shown) > min(shown):  # few seeds have bands so wide that they would flatten all else
        low, high = axes.get_ylim()
        room = (max(shown) - min(shown)) / 2
        axes.set_ylim(max(low, min(shown) - room), min(high, max(shown) + room))
    if any(len([curve for curve in row.curves if curve]) > 1 for row in result.rows):
        what = "line: mean over seeds; band: its 95 % interval; thin: each seed"
        axes.set_title(what, fontsize=9, color="#555555", loc="left")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not any(curve for row in result.rows for curve in row.curves):
        axes.text(0.5, 0.5, "no training episode has ended", transform=axes.transAxes, ha="center")


def _horizon(axes: Axes, result: Comparison, horizon: Horizon) -> None:
    """Returns by the argument's value, up to the first that was not solved; what is not solved is hollow."""
    together: Counter[tuple[float, float]] = Counter()
    for row in result.rows:
        tried = horizon.tried.get(row.approach, [])
        colour, line, marker = _look(result, row)
        means = [float(np.mean(t.seed_means)) for t in tried]
        axes.plot([t.value for t in tried], means, color=colour, linestyle=line, linewidth=1.5)
        for t, mean in zip(tried, means, strict=True):
            face = colour if t.solved else "white"
            aside = ScaledTranslation(together[t.value, mean] * 7 / 72, 0, axes.figure.dpi_scale_trans)
            together[t.value, mean] += 1  # what is equal stands side by side: the last would hide the others
            axes.plot(t.value, mean, marker, color=colour, markerfacecolor=face, markersize=7, clip_on=False,
                      transform=axes.transData + aside)  # fmt: skip
    at = {t.value: t for tried in horizon.tried.values() for t in tried}  # what all approaches have in common
    _across(axes, {value: t.needed for value, t in at.items()}, "-", "counts as solved")
    _across(axes, {value: t.random for value, t in at.items()}, "-.", "random actions")
    low, high = min(horizon.values), max(horizon.values)
    if low > 0:
        axes.set_xscale("log")
        room = (high / low) ** 0.06 if high > low else 2.0
        axes.set_xlim(low / room, high * room)  # all that was asked for, wherever the approaches ended
    axes.set_xticks(horizon.values, [f"{value:g}" for value in horizon.values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"{horizon.key} (filled: solved)", ylabel="return when evaluated")


def _across(axes: Axes, levels: Mapping[float, float | None], line: str, name: str) -> None:
    """A line through what is known at each of the sweep's values, with its name above its end."""
    known = {value: level for value, level in levels.items() if level is not None and math.isfinite(level)}
    if len(levels) == len(known) == 1:  # across the panel: the line of a single value could not be seen
        [level] = known.values()
        axes.axhline(level, color="black", linewidth=1, linestyle=line)
        axes.annotate(name, (1, level), (0, 3), axes.get_yaxis_transform(), "offset points", ha="right", fontsize=8)
    elif known:
        marker = "_" if len(known) == 1 else ""
        axes.plot(list(known), list(known.values()), color="black", linewidth=1, linestyle=line, marker=marker)
        axes.annotate(name, max(known.items()), (0, 3), textcoords="offset points", ha="right", fontsize=8)
