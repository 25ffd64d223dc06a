"""The picture of a comparison on an environment: learning curves, and where it was measured, the horizon."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

from seqrl.comparison.report import Comparison, Horizon, Row
from seqrl.memory import MEMORIES
from seqrl.reports.common import smooth

COLOURS = dict(
    zip(MEMORIES, ("#888888", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"), strict=True)
)
"""Okabe and Ito's palette, which colour-blind people can tell apart."""
LINES = {"ppo": "-", "impala": "--", "r2d2": "-.", "recurrent_sac": ":"}
MARKERS = {"ppo": "o", "impala": "s", "r2d2": "^", "recurrent_sac": "D"}


def plot_comparison(result: Comparison, path: Path) -> None:
    """Write the picture: an approach is a colour for its memory and a kind of line for its algorithm."""
    panels = 1 + (result.horizon is not None)
    figure, axes = plt.subplots(
        1, panels, figsize=(8 + 3.6 * (panels - 1), 4.5), dpi=150, layout="constrained", squeeze=False,
        width_ratios=(5, 4)[:panels],
    )  # fmt: skip
    if result.horizon is not None:
        _horizon(axes[0, 1], result, result.horizon)
    _curves(axes[0, 0], result)
    figure.suptitle(result.env, fontsize=12, wrap=True)
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    if axes[0, 0].get_legend_handles_labels()[0]:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), title="return when evaluated", fontsize=9, title_fontsize=9,
            frameon=False, loc="outside right center",
        )  # fmt: skip
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    plt.close(figure)
    temporary.replace(path)


def _look(row: Row) -> tuple[str, str, str]:
    algorithm = row.approach.partition(":")[0]
    return COLOURS[row.memory], LINES[algorithm], MARKERS[algorithm]


def _curves(axes: Axes, result: Comparison) -> None:
    """Learning curves of every approach: the mean over seeds, and the range from the worst to the best seed."""
    longest = max([result.num_steps, *(row.num_steps for row in result.rows)])
    for row in result.rows:
        grid = np.linspace(0, row.num_steps or result.num_steps, 200)
        curves = [smooth(curve, grid) for curve in row.curves if curve]
        if not curves:
            continue
        with np.errstate(invalid="ignore"):
            stack = np.array(curves)
        colour, line, _ = _look(row)
        label = f"{result.name(row)} ({row.mean:.3g})"
        axes.plot(grid, stack.mean(0), color=colour, label=label, linewidth=2, linestyle=line)
        axes.fill_between(grid, stack.min(0), stack.max(0), color=colour, alpha=0.15, linewidth=0)
    same = result.optimal == result.memoryless
    levels = [(result.optimal, "optimal, even without memory" if same else "optimal", "--")]
    levels += [] if same else [(result.memoryless, "best without memory", ":")]
    for value, name, linestyle in levels:
        if value is not None:
            axes.axhline(value, color="black", linewidth=1, linestyle=linestyle, label=f"{name} ({value:.3g})")
    axes.set(xlabel="environment steps", ylabel="return of training episodes")
    axes.set_xlim(0, longest)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not any(curve for row in result.rows for curve in row.curves):
        axes.text(0.5, 0.5, "no training episode has ended", transform=axes.transAxes, ha="center")


def _horizon(axes: Axes, result: Comparison, horizon: Horizon) -> None:
    """Returns by the argument's value, up to the first that was not solved; what is not solved is hollow."""
    for row in result.rows:
        tried = horizon.tried.get(row.approach, [])
        colour, line, marker = _look(row)
        means = [float(np.mean(t.seed_means)) for t in tried]
        axes.plot([t.value for t in tried], means, color=colour, linestyle=line, linewidth=1.5)
        for t, mean in zip(tried, means, strict=True):
            face = colour if t.solved else "white"
            axes.plot(t.value, mean, marker, color=colour, markerfacecolor=face, markersize=7)
    needed = {t.value: t.needed for tried in horizon.tried.values() for t in tried}
    axes.plot(list(needed), list(needed.values()), color="black", linewidth=1, linestyle=":")
    if min(horizon.values) > 0:
        axes.set_xscale("log")
    axes.set_xticks(horizon.values, [f"{value:g}" for value in horizon.values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"{horizon.key} (filled: solved, above the dotted line)", ylabel="return when evaluated")
