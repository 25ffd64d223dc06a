"""What a person looks at after methods were compared on a log: a table, a plot, and a verdict in sentences."""

import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from seqrl.checkpoint import write_atomically
from seqrl.figures import png
from seqrl.reports.common import WIDTH, fitting_table, markdown_table, mean_and_interval
from seqrl.statistics import mean_and_half_width, with_minus

COLOURS = {
    "behaviour_cloning": "#888888",
    "filtered_bc": "#e69f00",
    "decision_transformer": "#0072b2",
    "qdt": "#009e73",
}
TOLERANCE = 0.02
"""Share of the span of the log's returns below which a difference is none, whatever its interval."""


LEFT_OUT = ("parameters", "seconds", "of best", "beyond log", "asked/got")
"""Columns that the terminal does without where there are too many, in this order. `table.md` has them all."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over seeds with half its 95 % interval, and what it is the mean of."""

    mean: float
    half_width: float
    seeds: list[float]

    @classmethod
    def of(cls, seeds: list[float]) -> "Score":
        return cls(**dict(zip(("mean", "half_width"), mean_and_half_width(seeds), strict=True)), seeds=seeds)

    def __str__(self) -> str:
        return mean_and_interval(self.mean, self.half_width)

    def __sub__(self, other: "Score") -> "Score":
        """The difference, seed by seed: of one seed, both learnt from the same episodes and played the same ones."""
        return Score.of([a - b for a, b in zip(self.seeds, other.seeds, strict=True)])

    def __neg__(self) -> "Score":
        return Score.of([-seed for seed in self.seeds])

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 where a single seed says nothing about it."""
        return float(np.std(self.seeds, ddof=1)) / math.sqrt(len(self.seeds)) if len(self.seeds) > 1 else 0.0

    def sign(self, tolerance: float) -> int:
        """1 or −1 for a mean beyond its interval, and beyond `tolerance`, of 0; else 0."""
        margin = max(tolerance, 0.0 if math.isnan(self.half_width) else self.half_width)
        return (self.mean > margin) - (self.mean < -margin)

    def may_be_more(self, small: float) -> bool:
        """Whether a mean whose sign is 0 may well be above it: more than `small`, or its interval reaches five times
        as far. Within a wide interval alone, no difference is none."""
        return self.mean > small or self.mean + self.half_width > 5 * small


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method's figures. Where nothing was played there are no returns."""

    method: str
    returns: Score | None
    """Of one that is asked for a return: asked for the best that its log shows."""
    calibrated: Score | None
    """Asked for what brought most in other episodes, played for each of a grid of targets."""
    asked_for: Score | None
    """These targets."""
    held_out: dict[str, Score]
    """How well held-out actions are foreseen."""
    promise: dict[str, Score] | None
    """Of relabelled returns: `promised` at the beginnings of episodes, and `logged`, the best from the same ones."""
    calibrations: list[dict[str, Any]]
    """For each seed, its `targets` and what they `achieved`."""
    follows: Score | None = None
    """Does what is got follow what is asked for? Spearman's correlation of the two, over the targets of each seed."""
    seconds: float
    num_parameters: int
    best_run: str

    @property
    def best(self) -> Score:
        """The returns that count: those with the better target, where targets were tried."""
        score = self.calibrated or self.returns
        assert score is not None, "nothing was played"
        return score


@dataclass(frozen=True, kw_only=True)
class OfflineComparison:
    """The figures of several methods on one log."""

    dataset: str
    env: str
    """"" where nothing was played."""
    num_steps: int
    num_seeds: int
    num_episodes: int
    best_share: float
    data: dict[str, Any]
    """Of the log: `episodes`, `decisions`, returns (`mean`, `lowest`, `highest`), how many come `near_best`, how often
    an observation and action was `seen_again` and `followed_by_another`, and the coverage of actions."""
    differences: dict[str, Score]
    """Of returns, seed by seed: what the verdict rests on."""
    rows: list[MethodRow]
    failed: list[str] = field(default_factory=list)
    """What was wrong with runs that failed. Methods without all of their runs are left out of `rows`."""

    @property
    def span(self) -> float:
        """Between the log's lowest and highest return."""
        return self.data["highest"] - self.data["lowest"]

    def row(self, method: str) -> MethodRow | None:
        return next((row for row in self.rows if row.method == method), None)

    def beyond(self, row: MethodRow, optimal: float | None = None) -> str:
        """Does a method bring more than the best logged episode? yes, no, or – where the log holds the optimum."""
        tolerance, highest = TOLERANCE * self.span, self.data["highest"]
        if optimal is not None and highest >= optimal - tolerance:
            return "–"
        return "yes" if Score.of([seed - highest for seed in row.best.seeds]).sign(tolerance) > 0 else "no"

    def cells(self) -> list[list[str]]:
        """Header and rows of the table, as text; the log's own returns come last."""
        if not self.env:
            return self._foreseen()
        lines = [["method", "return (95 %)", "of best", "calibrated (95 %)", "asked for", "asked/got", "beyond log",
                  "seconds", "parameters"]]  # fmt: skip
        for row in self.rows:
            assert row.returns is not None, "one that was not played"
            calibrated = [str(row.calibrated), f"{row.asked_for.mean:.4g}"] if row.asked_for else ["–", "–"]
            calibrated += ["–" if row.follows is None else f"{row.follows.mean:.2f}", self.beyond(row)]
            returns = [str(row.returns), self._percent(row.returns.mean), *calibrated]
            lines.append([row.method, *returns, f"{row.seconds:.1f}", f"{row.num_parameters:,}"])
        for name in ("mean", "highest"):
            lines.append([f"(the log's {name})", f"{self.data[name]:.4g}", self._percent(self.data[name]), *[""] * 6])
        return lines

    def _foreseen(self) -> list[list[str]]:
        measure = next(name for name in ("accuracy", "squared_error") if name in self.rows[0].held_out)
        header = ["method", "log-likelihood (95 %)", f"{measure.replace('_', ' ')} (95 %)", "seconds", "parameters"]
        return [header] + [
            [row.method, str(row.held_out["log_likelihood"]), str(row.held_out[measure]), f"{row.seconds:.1f}",
             f"{row.num_parameters:,}"]
            for row in self.rows
        ]  # fmt: skip

    def _percent(self, value: float) -> str:
        best = self.data["highest"]
        return f"{100 * value / best:.0f} %" if best > 0 and value >= 0 else "–"

    def caption(self) -> str:
        seeds = f"{self.num_seeds} seed{'s' if self.num_seeds > 1 else ''}"
        played = [f"{self.num_episodes} episodes each"] if self.env else ["of held-out actions; nothing was played"]
        share = f"filtered_bc learns from the best {100 * self.best_share:.3g} % of episodes"
        parts = [f"{self.num_steps:,} updates", seeds, *played, *([share] if self.row("filtered_bc") else [])]
        if any(row.calibrated for row in self.rows):
            parts.append("calibrated: asked for what brought most in other episodes")
            parts.append("asked/got: their rank correlation; beyond log: whether it brings more than the best episode")
        return "; ".join(parts) + "."

    def title(self) -> str:
        data = self.data
        return (
            f"{Path(self.dataset).name}: {data['episodes']:,} episodes, {data['decisions']:,} decisions"
            + (f" of {self.env}" if self.env else "")
        )  # fmt: skip

    def markdown(self, verdict: list[str]) -> str:
        header, *rows = self.cells()
        columns = {name: list(cells) for name, *cells in zip(header, *rows, strict=True)}
        lines = [f"# {self.title()}", "", self.caption(), "", *markdown_table(columns)]
        return "\n".join([*lines, "", *(f"- {sentence}" for sentence in verdict), ""])

    def table(self, width: int = WIDTH) -> Table:
        """The table for a terminal of that `width`: as many columns as fit it."""
        header, *rows = self.cells()
        columns = {name: list(cells) for name, *cells in zip(header, *rows, strict=True)}
        ends = {len(self.rows) - 1} if len(rows) > len(self.rows) else set()
        return fitting_table(columns, self.title(), self.caption(), LEFT_OUT, ends, width)


def plot_offline(result: OfflineComparison, path: Path) -> None:
    """Returns by method against the log's, and what is got by what is asked for; or how well actions are foreseen."""
    curves = any(row.calibrations for row in result.rows)
    size = (6.4 + 4.4 * curves, 1.6 + 0.75 * max(len(result.rows), 3))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(1, 1 + curves, squeeze=False, width_ratios=(3, 2)[: 1 + curves])
    _points(axes[0, 0], result)
    if curves:
        _targets(axes[0, 1], result)
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    title = textwrap.fill(result.title(), 70 + 40 * curves)
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    write_atomically(path, png(figure))


def _points(axes: Axes, result: OfflineComparison) -> None:
    """A line for each method: its mean with the interval, above it each seed, below it the calibrated ones."""
    for place, row in enumerate(reversed(result.rows)):
        colour = COLOURS[row.method]
        default = row.returns or row.held_out["log_likelihood"]
        for score, height, marker, filled in ((default, 0.0, "o", True), (row.calibrated, -0.28, "D", False)):
            if score is None:
                continue
            half = None if math.isnan(score.half_width) else score.half_width
            face = colour if filled else "white"
            axes.errorbar(score.mean, place + height, xerr=half, color=colour, marker=marker, markersize=8,
                          markerfacecolor=face, capsize=4, linewidth=2, linestyle="none", zorder=3)  # fmt: skip
            axes.plot(score.seeds, [place + height + 0.13] * len(score.seeds), ".", color=colour, alpha=0.5)
    if result.env:
        for name, style in (("mean", ":"), ("highest", "--")):
            label = f"the log's {name} ({with_minus(f'{result.data[name]:.4g}')})"
            axes.axvline(result.data[name], color="black", linewidth=1, linestyle=style, label=label)
    if any(row.calibrated for row in result.rows):
        for marker, face, label in (("o", "black", "asked for the log's best"), ("D", "white", "calibrated target")):
            axes.plot([], [], marker, color="black", markerfacecolor=face, label=label)
    axes.set_yticks(range(len(result.rows)), [row.method for row in reversed(result.rows)])
    axes.set_ylim(-0.6, len(result.rows) - 0.4)
    low, high = _extent(result)
    axes.set_xlim(low - 0.15 * (high - low), high + 0.15 * (high - low))
    axes.set_xlabel("return (95 % interval over seeds)" if result.env else "log-likelihood of held-out actions (95 %)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _extent(result: OfflineComparison) -> tuple[float, float]:
    """What the plot must show: every seed, and the log's mean and best; wider intervals run out of it."""
    values = [result.data["mean"], result.data["highest"]] if result.env else []
    for row in result.rows:
        values += (row.returns or row.held_out["log_likelihood"]).seeds
        values += row.calibrated.seeds if row.calibrated else []
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _targets(axes: Axes, result: OfflineComparison) -> None:
    """What is got by what is asked for, a line for each seed."""
    everything = [t for row in result.rows for c in row.calibrations for t in c["targets"]]
    ends = np.array([min(everything), max(everything)])
    axes.plot(ends, ends, color="#888888", linestyle="--", linewidth=1, label="what is asked for")
    for row in result.rows:
        for k, calibration in enumerate(row.calibrations):
            axes.plot(calibration["targets"], calibration["achieved"], color=COLOURS[row.method], marker=".",
                      linewidth=1.2, alpha=0.7, label=row.method if k == 0 else None)  # fmt: skip
    axes.axvline(result.data["highest"], color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="target return", ylabel="achieved return")
    axes.legend(fontsize=8, frameon=False)
