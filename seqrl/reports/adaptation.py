"""What a person looks at after an agent adapted: a table, a plot by inner episode, and the same figures as JSON."""

import itertools
import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from seqrl.adaptation import AGENT, OPTIMAL, RANDOM, Adaptation
from seqrl.figures import png
from seqrl.reports.common import WIDTH, finite, fitting_table, mean_and_interval, number, write_both
from seqrl.statistics import mean_and_half_width, with_minus

SMOOTHED_ABOVE = 60
"""Inner episodes above which a curve is drawn as a running mean."""
FEW = 20
"""Inner episodes up to which each has its marker."""

_REFERENCES = itertools.product(("-", "-."), ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"))
STYLES = [{"color": colour, "linestyle": line} for line, colour in _REFERENCES]
"""Of the references in their order: Okabe and Ito's palette twice. The agent's blue and random's grey are not in it."""


def cells(found: Adaptation) -> list[list[str]]:
    """Header and rows of the table, as text."""
    last = "last" if found.num_last == 1 else f"last {found.num_last}"
    header = ["policy", "return of a trial", "first episode", last]
    rows = [[name, _total(found, name), *_ends(found, name)] for name in found.returns]
    if OPTIMAL in found.returns:
        header += ["of optimal", "regret"]
        for row in rows:
            share, regret = found.share_of_optimal(row[0]), found.regret(row[0])
            row.append("–" if share is None else f"{100 * share:.1f} %")
            row.append("–" if regret is None or row[0] == OPTIMAL else mean_and_interval(*regret))
    if len(found.returns) > 1:
        header.append("agent − it")
        for row in rows:
            row.append("–" if row[0] == AGENT else mean_and_interval(*found.difference(AGENT, row[0])))
    return [header, *rows]


def _total(found: Adaptation, name: str) -> str:
    return mean_and_interval(*mean_and_half_width(found.total(name).tolist()))


def _ends(found: Adaptation, name: str) -> list[str]:
    return [f"{found.first(name).mean():.4g}", f"{found.last(name).mean():.4g}"]


def table(found: Adaptation, title: str, width: int = WIDTH) -> Table:
    """The table for a terminal, the agent on top; where that is narrow, without what the JSON has as well."""
    header, *rows = cells(found)
    columns = {name: list(of) for name, of in zip(header, zip(*rows, strict=True), strict=True)}
    left_out = ["of optimal", "regret", "first episode"]
    return fitting_table(columns, title, caption(found), left_out, ends=range(len(rows) > 1), width=width)


def caption(found: Adaptation) -> str:
    """What was played, and what the intervals are of."""
    paired = " Differences are paired." if len(found.returns) > 1 else ""
    return f"{_trials(found)}.{paired} Intervals: 95 % over trials."


def _trials(found: Adaptation) -> str:
    trials = f"{found.num_trials:,} trials" if found.num_trials > 1 else "1 trial"
    episodes = f"{found.num_episodes:,} inner episodes" if found.num_episodes > 1 else "one inner episode"
    return f"{trials} of {episodes}" + (", the same tasks for all" if len(found.returns) > 1 else "")


def sentence(found: Adaptation) -> str:
    """Whether the agent's returns rise within a trial."""
    gain, half_width = found.gain()
    if found.num_episodes == 1:
        return (
            "A trial of one inner episode cannot show learning in context: ask for more, --env-kwargs num_episodes=N."
        )
    last = "the last inner episode" if found.num_last == 1 else f"the last {found.num_last} inner episodes"
    if math.isnan(half_width):
        return (
            f"From the first to {last} the agent's return changes by {number(gain)}, in one trial: give --num-trials."
        )
    how = "rises" if gain > half_width else "falls" if gain < -half_width else "stays, up to chance,"
    by = f"by {mean_and_interval(abs(gain), half_width)}" if how in ("rises", "falls") else (
        f"where it is ({mean_and_interval(gain, half_width)})"
    )  # fmt: skip
    return f"From the first to {last} the agent's return {how} {by}."


def as_dict(found: Adaptation, about: dict[str, Any]) -> dict[str, Any]:
    """All figures for JSON, null where one has no interval: `about`, and for each policy its curve and totals."""
    policies = {}
    for name in found.returns:
        regret, so_far = found.regret(name), found.regret_curve(name)
        policies[name] = {
            "total": _interval(mean_and_half_width(found.total(name).tolist())),
            "first": float(found.first(name).mean()),
            "last": float(found.last(name).mean()),
            "share_of_optimal": found.share_of_optimal(name),
            "regret": None if regret is None else _interval(regret),
            "agent_minus_this": _interval(found.difference(AGENT, name)),
            "curve": _curve(found.curve(name)),
            "regret_curve": None if so_far is None else _curve(so_far),
            "totals": found.total(name).tolist(),
        }
    counts = {"num_trials": found.num_trials, "num_episodes": found.num_episodes, "num_last": found.num_last}
    figures = {"digest": found.digest, "gain": _interval(found.gain()), "policies": policies}
    return {**about, **counts, **finite(figures)}


def _interval(pair: tuple[float, float]) -> dict[str, float]:
    return dict(zip(("mean", "half_width"), pair, strict=True))


def _curve(pair: tuple[np.ndarray, np.ndarray]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in zip(("mean", "half_width"), pair, strict=True)}


def write(folder: Path, found: Adaptation, about: dict[str, Any], title: str) -> list[Path]:
    """adaptation.json and adaptation.png into a run's folder, each whole or not at all."""
    return write_both(folder, "adaptation", as_dict(found, about), plot(found, title))


def plot(found: Adaptation, title: str) -> bytes:
    """A PNG of the mean return by inner episode: the agent with its 95 % band, references thinner, and a dashed line
    for who knows the task. Trials of more than `SMOOTHED_ABOVE` inner episodes are smoothed, and the axis says so.
    Below it the regret that has come together, where somebody knows the task and there is more than one inner episode;
    without that of random actions, beside which all others would lie on the ground."""
    has_regret = OPTIMAL in found.returns and found.num_episodes > 1
    figure = Figure(figsize=(8, 7.2 if has_regret else 4.5), dpi=150, layout="constrained")
    upper, *lower = figure.subplots(1 + has_regret, sharex=True, squeeze=False).ravel()
    width = smoothing_width(found.num_episodes)
    styles = _styles(found)
    lines = []
    for name in found.returns:
        if name == OPTIMAL:  # its task stays the same: a level, not a curve
            level = float(np.nanmean(found.returns[OPTIMAL]))
            lines.append(upper.axhline(level, label=_label(found, name), **styles[name]))
        else:
            lines.append(_line(upper, found.curve(name, width), name, styles[name], _label(found, name)))
    upper.set_ylabel("return of an inner episode" + (f",\nrunning mean of {width}" if width > 1 else ""))
    for axes in lower:
        for name in (name for name in found.returns if name not in (OPTIMAL, RANDOM)):
            so_far = found.regret_curve(name)
            assert so_far is not None
            _line(axes, so_far, name, styles[name])
        axes.axhline(0, **styles[OPTIMAL])
        without = ",\nwithout random actions" if RANDOM in found.returns else ""
        axes.set_ylabel(f"cumulative regret{without}")
    band = " Band: 95 %." if found.num_trials > 1 else ""
    under = f"{_trials(found)}. Weights frozen (sha256 {found.digest[:8]}…).{band}"
    upper.set_title(under, fontsize=8, color="#555555", loc="left")
    margin = 0.5 if found.num_episodes == 1 else min(0.015 * (found.num_episodes - 1), 0.9)  # leaves no place for 0
    for axes in (upper, *lower):
        axes.set_xlim(1 - margin, found.num_episodes + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.margins(y=0.08)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    axes.set_xlabel("inner episode")
    upper.legend(handles=lines, title="return of a trial", fontsize=9, title_fontsize=9, frameon=False,
                 loc="center left", bbox_to_anchor=(1.0, 0.5))  # fmt: skip
    figure.suptitle(textwrap.fill(title, 90).replace("$", r"\$"), fontsize=11, x=0.01, ha="left")
    return png(figure)


def _styles(found: Adaptation) -> dict[str, dict[str, Any]]:
    """How each policy is drawn: the agent thick and in front, references in their order, random actions grey."""
    known = {
        AGENT: {"linewidth": 2.4, "color": "#0072b2", "zorder": 3},
        RANDOM: {"linewidth": 1.1, "color": "#999999", "linestyle": "-"},
        OPTIMAL: {"linewidth": 1.2, "color": "black", "linestyle": "--"},
    }
    others = (name for name in found.returns if name not in known)
    return known | {name: {"linewidth": 1.1, **style} for name, style in zip(others, itertools.cycle(STYLES))}


def smoothing_width(num_episodes: int) -> int:
    """The window of running means in the plot: an odd twentieth of the trial; 1, none, for short ones."""
    return 1 if num_episodes <= SMOOTHED_ABOVE else 2 * (num_episodes // 40) + 1


def _line(
    axes: Axes, curve: tuple[np.ndarray, np.ndarray], name: str, style: dict[str, Any], label: str | None = None
) -> Line2D:
    """A policy's curve, with the band of its interval if it is the agent."""
    mean, half_width = curve
    place = np.arange(1, len(mean) + 1)
    marker = {"marker": "o", "markersize": 2 + style["linewidth"]} if len(mean) <= FEW else {}
    [line] = axes.plot(place, mean, label=label, **style, **marker)
    if name == AGENT and len(mean) == 1:
        axes.errorbar(place, mean, yerr=np.nan_to_num(half_width), color=style["color"], capsize=4)
    elif name == AGENT:
        axes.fill_between(place, mean - half_width, mean + half_width, color=style["color"], alpha=0.2, linewidth=0)
    return line


def _label(found: Adaptation, name: str) -> str:
    return f"{name} ({with_minus(f'{found.total(name).mean():.4g}')})"
