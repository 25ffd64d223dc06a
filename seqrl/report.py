"""What a person looks at: tables, plots, and a sentence of advice."""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter
from rich.table import Table

from seqrl.memory import MEMORIES

COLOURS = dict(
    zip(MEMORIES, ("#888888", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"), strict=True)
)
"""Okabe and Ito's palette, which colour-blind people can tell apart."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One memory's figures: return over seeds with half its 95 % interval, cost, and where its best run is."""

    memory: str
    mean: float
    half_width: float
    seed_means: list[float]
    steps_per_second: float
    num_parameters: int
    seconds: float
    best_run: str
    curves: list[list[tuple[float, float]]]
    """For each seed, (step, mean return of the training episodes that ended)."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The figures of several memories on one problem."""

    env: str
    num_steps: int
    num_episodes: int
    optimal: float | None
    memoryless: float | None
    rows: list[Row]

    def cells(self) -> list[list[str]]:
        """Header and rows of the table, as text."""
        header = ["memory", "return (95 %)", "% of optimal", "steps/s", "parameters", "seconds"]
        return [header, *([*_figures(row, self.optimal)] for row in self.rows)]

    def markdown(self) -> str:
        """The table as Markdown, with what was measured above it and the advice below."""
        header, *rows = self.cells()
        lines = [f"# {self.env}", "", self.caption(), ""]
        lines += ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
        return "\n".join([*lines, "", advice(self), ""])

    def caption(self) -> str:
        seeds = len(self.rows[0].seed_means)
        known = [f"optimal return {self.optimal:.3g}"] if self.optimal is not None else []
        known += [f"best without memory {self.memoryless:.3g}"] if self.memoryless is not None else []
        parts = [
            f"{self.num_steps:,} steps",
            f"{seeds} seed{'s' if seeds > 1 else ''}",
            f"{self.num_episodes} episodes each",
        ]
        return "; ".join([*parts, *known]) + "."

    def table(self) -> Table:
        """The table for a terminal."""
        header, *rows = self.cells()
        table = Table(title=self.env, caption=self.caption())
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index else "left")
        for cells in rows:
            table.add_row(*cells)
        return table


def _figures(row: Row, optimal: float | None) -> list[str]:
    percent = f"{100 * row.mean / optimal:.0f} %" if optimal and optimal > 0 and row.mean >= 0 else "–"
    speed, parameters = f"{row.steps_per_second:,.0f}", f"{row.num_parameters:,}"
    return [row.memory, mean_and_interval(row.mean, row.half_width), percent, speed, parameters, f"{row.seconds:.1f}"]


def mean_and_interval(mean: float, half_width: float) -> str:
    """`mean ± half_width`; without the second where it is NaN, for want of samples."""
    return f"{mean:.4g}" if math.isnan(half_width) else f"{mean:.4g} ± {half_width:.3g}"


def advice(result: Comparison) -> str:
    """Which memory to take: the simplest that is as good as the best, up to 5 % of the spread or the interval."""
    ordered = sorted(result.rows, key=lambda row: MEMORIES.index(row.memory))
    best = max(ordered, key=lambda row: row.mean)
    spread = best.mean - min(row.mean for row in ordered)
    enough = next(row for row in ordered if row.mean >= best.mean - max(0.05 * spread, _noise(row, best)))
    short = result.optimal is not None and result.optimal - best.mean > 0.1 * abs(result.optimal)
    sentences = []
    if len(ordered) == 1:
        sentences.append(f"Only {best.memory} was tried: compare others with --memories.")
    elif enough.memory == "none":
        need = "Nothing shows a need for memory yet" if short else "No memory is needed here within this budget"
        sentences.append(f"{need}: the agent without memory is as good as the best.")
    else:
        worse = [row for row in ordered if MEMORIES.index(row.memory) < MEMORIES.index(enough.memory)]
        against = ", ".join(f"{row.memory} reaches {row.mean:.4g}" for row in worse)
        sentences.append(
            f"Take {enough.memory}: it reaches {enough.mean:.4g}" + (f", while {against}." if against else ".")
        )
        beyond = [row.memory for row in ordered if MEMORIES.index(row.memory) > MEMORIES.index(enough.memory)]
        if beyond:
            sentences.append(f"Nothing is gained by {' or '.join(beyond)}.")
    if short:
        sentences.append(
            f"The optimum, {result.optimal:.4g}, is not reached: give more --num-steps, or try other --memories."
        )
    sentences.append(f"Its best run is {enough.best_run}.")
    return " ".join(sentences)


def _noise(one: Row, other: Row) -> float:
    """The standard error of the difference of two rows' means; 0 where a single seed says nothing about it."""
    variance = sum(
        float(np.var(row.seed_means, ddof=1)) / len(row.seed_means) for row in (one, other) if row.seed_means[1:]
    )
    return math.sqrt(variance)


def plot_comparison(result: Comparison, path: Path) -> None:
    """Learning curves of every memory: the mean over seeds, and the range from the worst to the best seed."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=150, layout="constrained")
    grid = np.linspace(0, result.num_steps, 200)
    for row in result.rows:
        curves = [smooth(curve, grid) for curve in row.curves if curve]
        if not curves:
            continue
        with np.errstate(invalid="ignore"):
            stack = np.array(curves)
        colour = COLOURS[row.memory]
        axes.plot(grid, stack.mean(0), color=colour, label=f"{row.memory} ({row.mean:.3g})", linewidth=2)
        axes.fill_between(grid, stack.min(0), stack.max(0), color=colour, alpha=0.18, linewidth=0)
    same = result.optimal == result.memoryless
    levels = [(result.optimal, "optimal, even without memory" if same else "optimal", "--")]
    levels += [] if same else [(result.memoryless, "best without memory", ":")]
    for value, name, linestyle in levels:
        if value is not None:
            axes.axhline(value, color="black", linewidth=1, linestyle=linestyle, label=f"{name} ({value:.3g})")
    figure.suptitle(result.env, fontsize=12, wrap=True)
    axes.set(xlabel="environment steps", ylabel="return of training episodes")
    axes.set_xlim(0, result.num_steps)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            title="return when evaluated", fontsize=9, title_fontsize=9, frameon=False,
            loc="center left", bbox_to_anchor=(1.0, 0.5),
        )  # fmt: skip
    if not any(curve for row in result.rows for curve in row.curves):
        axes.text(0.5, 0.5, "no training episode has ended", transform=axes.transAxes, ha="center")
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    plt.close(figure)
    temporary.replace(path)


def smooth(curve: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """A curve on a grid of steps, each point the mean of the five updates around it."""
    steps, values = np.array(curve).T
    width = min(5, len(values))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.interp(grid, steps, np.convolve(padded, np.ones(width) / width, mode="valid"))
