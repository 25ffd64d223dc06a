"""What was measured of a run after its training, a section of a page for each JSON file that a command wrote."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrl.adaptation import AGENT, OPTIMAL, RANDOM
from seqrl.pages.charts import BLUE, LARGE, NEUTRAL, Level, Line, Style, line_chart
from seqrl.pages.html import Html, element, figure, section, table
from seqrl.pages.judgements import held_out, shipping
from seqrl.reports.common import mean_and_interval


def findings(folder: Path) -> list[Html]:
    """Sections for what is in a run's folder; a file that is damaged, or of another version, says so in its place."""
    sections = []
    for name, show in SECTIONS.items():
        path = folder / name
        if path.is_file():
            sections += attempt(name, lambda path=path, show=show: show(json.loads(path.read_text("utf-8"))))  # type: ignore[misc]
    return sections


def attempt(name: str, show: Callable[[], list[Html]]) -> list[Html]:
    """What `show` makes of a file, or a line that says why it cannot: one file must not cost the whole page."""
    try:
        return show()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        return [section(name, element("p", f"{name} cannot be shown ({reason}): run its command again."))]


def calibration(data: dict[str, Any]) -> list[Html]:
    """Which return to ask for: target against achieved return."""
    found, bins = data["calibration"], data["bins"]
    parts = []
    if found is not None:
        targets, achieved = found["targets"], found["achieved"]
        asked = [Line(name="what is asked for", points=[(t, t) for t in (min(targets), max(targets))],
                      style=Style(NEUTRAL, "dashed"))] if found["gamma"] == 1 else []  # fmt: skip
        got = Line(
            name="what is achieved (95 %)", points=list(zip(targets, achieved, strict=True)), dots=True,
            whiskers=[(0.0, half) for half in found["half_width"]],
        )  # fmt: skip
        best = found["recommended"]
        chart = line_chart(
            [*asked, got], x_label="target return", y_label="achieved return", size=LARGE,
            stars=[(best, achieved[targets.index(best)])], shade_from=found["data_range"][1],
        )  # fmt: skip
        follows = found["rank_correlation"]
        told = "" if follows is None else f" Rank correlation of target and achieved return: {follows:.2f}."
        caption = (
            f"{found['num_episodes']:,} episodes for each target. The star is the recommended one, {best:.4g}: the "
            f"lowest that is as good as the best. Shaded: beyond what the log shows.{told}"
        )
        parts.append(figure(chart, caption))
    if bins:
        measure = "accuracy" if bins[0]["accuracy"] is not None else "squared_error"
        rows = [
            [
                f"{b['low']:.4g} to {b['high']:.4g}",
                f"{b['decisions']:,}",
                f"{b['log_likelihood']:.3f}",
                f"{b[measure]:.3f}",
            ]
            for b in bins
        ]
        is_relabelled = data.get("relabelled", False)  # files of before do not say so
        first = "relabelled return-to-go" if is_relabelled else "return-to-go"
        header = [first, "decisions", "log-likelihood", measure.replace("_", " ")]
        rest = (
            "what values of the log promise for the rest" if is_relabelled else "what the rest of their episode brought"
        )
        caption = f"How well held-out actions are foreseen, by {rest}."
        parts.append(element("div", table(header, rows, caption), class_="card spaced"))
    about = "Does the return follow the target that the agent is asked for?"
    return [section("Calibration", parts, about=about)] if parts else []


def adaptation(data: dict[str, Any]) -> list[Html]:
    """In-context curves: the return of inner episodes, by their place in the trial, and the regret up to there."""
    policies = data["policies"]
    free = itertools.cycle(Style(colour, dash) for dash in ("", "dashed", "dotted") for colour in (1, 2, 4, 3, 5, 7))
    styles = {AGENT: BLUE, RANDOM: Style(NEUTRAL)}  # the agent's blue is in no other's dashes either
    styles |= {name: next(free) for name in policies if name not in (AGENT, RANDOM, OPTIMAL)}
    lines, regrets, levels, rows = [], [], [], []
    for name, found in policies.items():
        total, so_far = found["total"], found.get("regret_curve")
        share, regret = found["share_of_optimal"], found.get("regret")
        rows.append([name, _interval(total), f"{found['first']:.4g}", f"{found['last']:.4g}",
                     "–" if share is None else f"{100 * share:.1f} %",
                     "–" if regret is None or name == OPTIMAL else _interval(regret)])  # fmt: skip
        if name == OPTIMAL:  # its task stays the same: a level, not a curve
            known = [value for value in found["curve"]["mean"] if value is not None]
            levels.append(Level(name="optimal", value=sum(known) / len(known), figure=f"{total['mean']:.4g}"))
            continue
        lines.append(_by_episode(name, found["curve"], styles[name], f"{total['mean']:.4g}"))
        if so_far is not None and regret is not None and name != RANDOM and data["num_episodes"] > 1:
            regrets.append(_by_episode(name, so_far, styles[name], f"{regret['mean']:.4g}"))
    chart = line_chart(
        lines, x_label="inner episode", y_label="return of an inner episode", levels=levels, size=LARGE, whole=True
    )
    caption = (
        f"{data['num_trials']:,} trials of {data['num_episodes']:,} inner episodes, the same tasks for all. Weights "
        f"frozen (sha256 {data['digest'][:8]}…). Band: 95 % over trials. Beside the names: the return of a trial."
    )
    parts = [figure(chart, caption)]
    if regrets:
        chart = line_chart(
            regrets, x_label="inner episode", y_label="cumulative regret", size=LARGE, whole=True,
            levels=[Level(name="optimal", value=0.0)],
        )  # fmt: skip
        caption = "What was brought less, up to each inner episode, than by who knows the task; what levels off has "
        caption += "learnt the task. Beside the names: the regret of a trial."
        if RANDOM in policies:
            caption += " Without random actions, beside which the others would lie flat."
        parts.append(figure(chart, caption))
    header = ["policy", "return of a trial (95 %)", "first episode", "last tenth", "of optimal", "regret (95 %)"]
    parts.append(element("div", table(header, rows), class_="card spaced"))
    about = "Held-out tasks, weights at rest: what rises from left to right was learnt in memory alone."
    return [section("Learning inside the context", *parts, about=about)]


def _by_episode(name: str, curve: dict[str, list[float | None]], style: Style, figure: str) -> Line:
    """A policy's curve by inner episode, with the band of its interval if it is the agent."""
    mean, half = curve["mean"], curve["half_width"]
    points = [(k + 1, math.nan if value is None else value) for k, value in enumerate(mean)]
    band = [(k + 1, m - h, m + h) for k, (m, h) in enumerate(zip(mean, half, strict=True))
            if m is not None and h is not None] if name == AGENT else []  # fmt: skip
    return Line(name=name, points=points, band=band, style=style, figure=figure)


def frontier(data: dict[str, Any]) -> list[Html]:
    """What steering a speaker brings, against how far it leads from the cloned policy."""
    points = data["points"]
    places = [(p["kl_of_dialogue"]["mean"], p["return"]["mean"]) for p in points]
    halves = [(p["kl_of_dialogue"]["half_width"] or 0.0, p["return"]["half_width"] or 0.0) for p in points]
    enough = next(place for place, p in zip(places, points, strict=True) if p["beta"] == data["enough"])
    line = Line(name="steered by β (95 %)", points=places, whiskers=halves, dots=True,
                labels=[f"{p['beta']:g}" for p in points])  # fmt: skip
    chart = line_chart(
        [line], x_label="KL from the cloned policy, nats a dialogue", y_label="return of a dialogue",
        x_kind="root", levels=[Level(name="cloned policy (β = 0)", value=places[0][1])], stars=[enough], size=LARGE,
    )  # fmt: skip
    caption = (
        f"{data['num_dialogues']:,} dialogues for each β, the same for all; numbers at the points are β. Root scale. "
        f"The star, β = {data['enough']:g}, is the least steered that the best does not beat by more than chance."
    )
    rows = [[f"{p['beta']:g}", *(_interval(p[name]) for name in ("return", "gain", "kl_of_dialogue")),
             f"{p['kl_of_token']['mean']:.2g}", f"{p['turns']:.2f}"] for p in points]  # fmt: skip
    header = ["β", "return (95 %)", "over β = 0", "KL, dialogue", "KL, token", "turns"]
    whole = element("div", table(header, rows), class_="card spaced")
    about = "How much is gained by steering, and how far the speaker is led from the one that was cloned."
    return [section("Return against distance", figure(chart, caption), whole, about=about)]


def _interval(pair: dict[str, float | None]) -> str:
    mean, half = pair["mean"], pair["half_width"]
    assert mean is not None
    return mean_and_interval(mean, math.nan if half is None else half)


SECTIONS: dict[str, Callable[[dict[str, Any]], list[Html]]] = {
    "calibration.json": calibration,
    "adaptation.json": adaptation,
    "frontier.json": frontier,
    "shipping.json": shipping,
    "held_out.json": held_out,
}
"""By file, what shows it."""
