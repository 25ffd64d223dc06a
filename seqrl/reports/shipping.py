"""What a person looks at before a policy ships: the verdict with its reasons, a page with plots, and JSON."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from rich.table import Table

from seqrl.checkpoint import write_json
from seqrl.figures import png
from seqrl.off_policy import Check, Evaluation, Interval, Requirements, ships
from seqrl.reports.common import finite, write_both
from seqrl.statistics import with_minus
from seqrl.tables import plain_table

GOOD, BAD, POLICY, LOG, GREY = "#007a5a", "#b03a00", "#0072b2", "#444444", "#888888"
"""From Okabe and Ito's palette, the first two darkened to be read as text."""


class Judged(NamedTuple):
    """What was found of a policy, and what of that holds."""

    found: Evaluation
    results: list[Check]


def verdict(results: list[Check]) -> str:
    """The checks in two words, or three."""
    return "SHIP" if ships(results) else "DO NOT SHIP"


def figures_table(found: Evaluation, title: str) -> Table:
    """The estimates for a terminal."""
    table = plain_table(title, _caption(found))
    for index, name in enumerate(("mean return of a dialogue", "estimate", "95 % interval")):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    rows = [("logged: the policy that was logged", found.logged), *found.estimates.items(), ("gain", found.gain)]
    for index, (name, interval) in enumerate(rows):
        span = f"{interval.low:.4g} to {interval.high:.4g}" if math.isfinite(interval.low) else "–"
        table.add_row(name, f"{interval.value:.4g}", span, end_section=index in (0, len(rows) - 2))
    return table


def betas_table(judged: Mapping[float, Judged], title: str) -> Table:
    """A row for each β, with what does not hold."""
    first = next(iter(judged.values())).found
    logged = f"the log's mean: {first.logged.value:.4g} ({first.logged.low:.4g} to {first.logged.high:.4g})"
    table = plain_table(title, f"{logged}. Intervals: 95 %, over resampled dialogues.")
    for name in ("β", "estimate", "95 % interval", "dialogues are worth"):
        table.add_column(name, justify="right", no_wrap=name != "dialogues are worth")
    table.add_column("verdict")
    for beta, (found, results) in judged.items():
        best = next(iter(found.estimates.values()))
        failed = ", ".join(check.name for check in results if not check.passed)
        table.add_row(
            f"{beta:g}", f"{best.value:.4g}", f"{best.low:.4g} to {best.high:.4g}", f"{found.effective_size:.1f}",
            verdict(results) + (f"; fails: {failed}" if failed else ""),
        )  # fmt: skip
    return table


def checks_table(results: list[Check]) -> Table:
    """What must hold, and whether it does."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    for check in results:
        table.add_row("yes" if check.passed else "NO", check.name, check.reason)
    return table


def _caption(found: Evaluation) -> str:
    return (
        f"{found.num_dialogues:,} dialogues with {found.num_turns:,} turns of the agent, worth "
        f"{found.effective_size:.1f} after weighting. Intervals: over resampled dialogues."
    )


def as_dict(found: Evaluation, results: list[Check], wanted: Requirements, about: dict[str, Any]) -> dict[str, Any]:
    """All figures for JSON, null where one is not finite."""
    figures = {
        name: value._asdict() if isinstance(value, Interval) else value
        for name, value in vars(found).items()
        if name not in ("estimates", "shares")
    }
    figures["estimates"] = {name: interval._asdict() for name, interval in found.estimates.items()}
    content = {
        **about,
        "verdict": verdict(results).lower(),
        "checks": [asdict(check) for check in results],
        "requirements": asdict(wanted),
        **figures,
    }
    return {key: finite(value) for key, value in content.items()}


def write(
    folder: Path, found: Evaluation, results: list[Check], wanted: Requirements, about: dict[str, Any], title: str,
    name: str = "shipping",
) -> list[Path]:  # fmt: skip
    """`name`.json and `name`.png into a run's folder, each whole or not at all."""
    return write_both(folder, name, as_dict(found, results, wanted, about), plot(found, results, wanted, title))


def write_betas(folder: Path, judged: Mapping[float, Judged], wanted: Requirements, about: dict[str, Any]) -> Path:
    """shipping_betas.json: all figures of each β."""
    rows = [as_dict(found, results, wanted, {"beta": beta}) for beta, (found, results) in judged.items()]
    path = folder / "shipping_betas.json"
    write_json(path, finite({**about, "betas": rows}))
    return path


def plot(found: Evaluation, results: list[Check], wanted: Requirements, title: str) -> bytes:
    """A page, as PNG: the verdict, the estimates with the log's mean, what weighting left, and the reasons."""
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.08)
    figure = Figure(figsize=(9.5, 7.4), dpi=150, layout=layout)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=(3, 2)))
    panels = top.subplots(1, 2, width_ratios=(5, 3))
    _forest(panels[0], found, wanted)
    _sizes(panels[1], found, wanted)
    _reasons(bottom.subplots(), results)
    passed = ships(results)
    figure.suptitle(verdict(results), fontsize=20, fontweight="bold", color=GOOD if passed else BAD)
    about = "\n".join([*textwrap.wrap(title, 110), _caption(found)])
    top.suptitle(_plain(about), fontsize=9, color=LOG)
    return png(figure)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")


def _forest(axes: Axes, found: Evaluation, wanted: Requirements) -> None:
    """A line for each estimate, the log's own mean on top with its band through all."""
    rows = [("logged", found.logged, LOG)]
    rows += [(name, interval, POLICY) for name, interval in found.estimates.items()]
    axes.axvspan(found.logged.low, found.logged.high, color=LOG, alpha=0.1, linewidth=0)
    axes.axvline(found.logged.value, color=LOG, linewidth=1, linestyle=":")
    if wanted.baseline is not None:
        axes.axvline(wanted.baseline, color=BAD, linewidth=1.2, linestyle="--", label=f"baseline {wanted.baseline:.4g}")
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    for place, (_, interval, colour) in enumerate(reversed(rows)):
        first = place == len(rows) - 2
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.6 if first else 1.6)
        axes.plot(interval.value, place, "o", color=colour, markersize=8 if first else 6)
        axes.annotate(with_minus(f"{interval.value:.4g}"), (interval.value, place), (0, 7), textcoords="offset points",
                      ha="center", fontsize=8, color=colour,
                      bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5})  # fmt: skip
    labels = [textwrap.fill(name, 20) for name, _, _ in reversed(rows)]
    labels[-2] += "\n(to go by)"
    axes.set_yticks(range(len(rows)), labels, fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_xlabel("mean return of a dialogue (95 % intervals)")
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _sizes(axes: Axes, found: Evaluation, wanted: Requirements) -> None:
    """What dialogues are worth after each further turn is weighed."""
    sizes = np.array(found.effective_size_by_turn)
    turns = np.arange(1, len(sizes) + 1)
    axes.axhline(found.num_dialogues, color=LOG, linewidth=1, linestyle=":", label="all dialogues")
    marker = "o" if len(sizes) <= 30 else ""
    axes.plot(turns, sizes, marker, linestyle="-", markersize=4, color=POLICY, linewidth=1.8, label="after weighting")
    axes.axhline(wanted.min_effective_size, color=BAD, linewidth=1.2, linestyle="--", label="needed at the end")
    axes.set_yscale("log")
    axes.set_ylim(0.8, 3 * found.num_dialogues)
    axes.set(xlabel="the agent's turns weighed", ylabel="effective number of dialogues")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=1)


def _reasons(axes: Axes, results: list[Check]) -> None:
    axes.set_axis_off()
    wrapped = [textwrap.wrap(check.reason, 92) or [""] for check in results]
    height = 1 / max(sum(len(lines) + 0.35 for lines in wrapped), 10)
    y = 1.0
    for check, lines in zip(results, wrapped, strict=True):
        colour = GOOD if check.passed else BAD
        style: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "fontsize": 9}
        axes.text(0.0, y, "✓" if check.passed else "✗", color=colour, fontweight="bold", **style)
        axes.text(0.025, y, check.name, color=colour, fontweight="bold", **style)
        axes.text(0.25, y, _plain("\n".join(lines)), color="black", **style)
        y -= height * (len(lines) + 0.35)
