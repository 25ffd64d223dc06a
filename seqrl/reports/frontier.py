"""What a person looks at to choose how strongly to steer: a table, a plot and JSON."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, StrMethodFormatter
from rich.table import Table

from seqrl.figures import png
from seqrl.off_policy.frontier import Frontier, Mean, Point
from seqrl.reports.common import WIDTH, finite, fitting_table, mean_and_interval, write_both


def cells(found: Frontier) -> list[list[str]]:
    """Header and rows of the table, as text."""
    header = ["β", "return (95 %)", "over β = 0", "KL, dialogue", "KL, token", "turns", ""]
    return [header, *(_row(found, point) for point in found.points)]


def _row(found: Frontier, point: Point) -> list[str]:
    gain = "–" if point.beta == 0 else _short(found.gain(point))
    notes = [name for name, chosen in (("best", found.best), ("enough", found.enough)) if chosen is point]
    return [
        f"{point.beta:g}",
        _short(point.mean_return),
        gain,
        _short(point.kl_of_dialogue),
        f"{point.kl_of_token[0]:.2g}",
        f"{point.turns.mean():.2f}",
        ", ".join(notes),
    ]


def _short(pair: Mean) -> str:
    return f"{pair[0]:.3g} ± {pair[1]:.2g}"


def table(found: Frontier, title: str, width: int = WIDTH) -> Table:
    """The frontier for a terminal, a row for each β."""
    header, *rows = cells(found)
    columns = {name: list(of) for name, of in zip(header, zip(*rows, strict=True), strict=True)}
    caption = f"{found.num_dialogues:,} dialogues each, the same for all β; KL to the cloned policy in nats, exact."
    caption += " Gains over β = 0: 95 % for all together."
    return fitting_table(columns, title, caption, ["KL, token", "turns", "over β = 0"], width=width)


def sentence(found: Frontier) -> str:
    """What to steer by."""
    best, enough = found.best, found.enough
    gain = mean_and_interval(*found.gain(enough if enough.beta else best))
    if enough.beta == 0:
        nothing = "Steering gains nothing that is more than chance"
        if best is enough:
            return f"{nothing}: the cloned policy (β = 0) has the highest mean."
        return f"{nothing}: β = {best.beta:g} has the highest mean, {gain} over the cloned policy (β = 0)."
    kl = enough.kl_of_dialogue[0]
    said = f"β = {enough.beta:g} is enough: it gains {gain} at a KL of {kl:.3g} nats a dialogue"
    return f"{said}." if best is enough else f"{said}; β = {best.beta:g} has the highest mean, by no more than chance."


def as_dict(found: Frontier, about: dict[str, Any]) -> dict[str, Any]:
    """All figures for JSON."""
    points = [
        {
            "beta": point.beta,
            "return": _mean(point.mean_return),
            "gain": _mean(found.gain(point)),
            "kl_of_dialogue": _mean(point.kl_of_dialogue),
            "kl_of_token": _mean(point.kl_of_token),
            "tokens": float(point.tokens.mean()),
            "turns": float(point.turns.mean()),
        }
        for point in found.points
    ]
    counts = {"num_dialogues": found.num_dialogues, "seed": found.seed}
    chosen = {"best": found.best.beta, "enough": found.enough.beta}
    return {**about, **counts, **chosen, "points": finite(points)}


def _mean(pair: Mean) -> dict[str, float]:
    return {"mean": pair[0], "half_width": pair[1]}


def write(folder: Path, found: Frontier, about: dict[str, Any], title: str) -> list[Path]:
    """frontier.json and frontier.png into a run's folder, each whole or not at all."""
    return write_both(folder, "frontier", as_dict(found, about), plot(found, title))


def plot(found: Frontier, title: str) -> bytes:
    """A PNG: return against KL, a point for each β with both intervals, joined in the order of β."""
    figure = Figure(figsize=(7.5, 4.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    kl = np.array([point.kl_of_dialogue for point in found.points])
    value = np.array([point.mean_return for point in found.points])
    # KL grows as β² while β is small: on the scale of its root, points stand apart.
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    right = max(1.08 * float((kl[:, 0] + np.nan_to_num(kl[:, 1])).max()), 1e-3)
    axes.set_xlim(0, right)
    axes.axhline(value[0, 0], color="#888888", linewidth=1, linestyle="--", label="cloned policy (β = 0)", zorder=1)
    axes.plot(kl[:, 0], value[:, 0], color="#0072b2", linewidth=1.2, alpha=0.6, zorder=2)
    axes.errorbar(
        kl[:, 0], value[:, 0], xerr=np.nan_to_num(kl[:, 1]), yerr=np.nan_to_num(value[:, 1]), color="#0072b2",
        linestyle="none", marker="o", markersize=5, capsize=2.5, linewidth=1.2, label="steered by β (95 %)", zorder=3,
    )  # fmt: skip
    chosen = found.points.index(found.enough)
    axes.plot(kl[chosen, 0], value[chosen, 0], marker="*", markersize=16, color="#d55e00", markeredgecolor="white",
              linestyle="none", label=f"enough: β = {found.enough.beta:g}", zorder=4, clip_on=False)  # fmt: skip
    _name_points(axes, found, kl[:, 0], value[:, 0], right)
    axes.set(xlabel="KL from the cloned policy, nats a dialogue (root scale)", ylabel="return of a dialogue")
    told = f"{found.num_dialogues:,} dialogues for each β, the same for all. Numbers at the points: β."
    axes.set_title(told, fontsize=8, color="#555555", loc="left")
    axes.xaxis.set_major_locator(FixedLocator(_ticks(right)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(y=0.12)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    return png(figure)


def _name_points(axes: Axes, found: Frontier, kl: np.ndarray, value: np.ndarray, right: float) -> None:
    """β at each point; of those that stand where an earlier name is written, with it: 16–32."""
    low, high = float(value.min()), float(value.max())
    names: list[tuple[tuple[float, float], int, int]] = []
    for index, (x, y) in enumerate(zip(kl, value, strict=True)):
        place = (math.sqrt(x / right), (y - low) / max(high - low, 1e-9))
        if names and math.hypot(place[0] - names[-1][0][0], 0.5 * (place[1] - names[-1][0][1])) < 0.045:
            names[-1] = (*names[-1][:2], index)
        else:
            names.append((place, index, index))
    for _, first, last in names:
        name = "–".join(f"{found.points[index].beta:g}" for index in sorted({first, last}))
        axes.annotate(name, (kl[first], value[first]), (6, 6), textcoords="offset points", fontsize=9, color="#333333")


def _ticks(right: float) -> list[float]:
    """Places on a root scale: about evenly spaced there, of one digit each."""
    wanted = right * (np.arange(8) / 7) ** 2
    rounded = [float(f"{x:.1g}") for x in wanted]
    return sorted({x for x in rounded if x <= right})
