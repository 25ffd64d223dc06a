"""The page of a comparison: its table and advice, and what its figures look like.

It is made of what lies in the folder: table.md, whatever columns it has; results.json, whose keys are shown where they
are known and left out where they are not; and the folders of runs, which get pages of their own to go on to.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

import numpy as np

from seqrl.errors import UserError, quoted
from seqrl.pages import markdown
from seqrl.pages.charts import (
    INK,
    LARGE,
    NEUTRAL,
    Estimate,
    Level,
    Line,
    Points,
    Style,
    interval_chart,
    line_chart,
    styles_of,
)
from seqrl.pages.findings import attempt, findings
from seqrl.pages.html import Html, element, figure, page, section, table, write_page
from seqrl.pages.run_page import write_run_page
from seqrl.pages.scales import Scale
from seqrl.reports.common import number, over_seeds
from seqrl.run_folder import read_json
from seqrl.statistics import with_minus

RESULTS, TABLE = "results.json", "table.md"


def write_comparison_page(folder: Path) -> Path:
    """Write report.html into a comparison's folder, and one into each run's; returns the path of the first.

    Raises UserError for a folder without results.
    """
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder} has no {RESULTS} yet: finish it with seqrl compare --resume {quoted(folder)}")
    runs = []
    for path in sorted(folder.glob("**/metrics.jsonl")):
        if (path.parent / "config.json").is_file():
            try:
                runs.append(write_run_page(path.parent))
            except UserError:
                continue  # it has logged nothing
    return write_page(folder / "report.html", comparison_page(folder, runs))


def comparison_page(folder: Path, runs: Sequence[Path] = ()) -> Html:
    """The page; `runs` are pages of runs inside the folder, to which it leads."""
    results = read_json(folder, RESULTS)
    path = folder / TABLE
    told = list(markdown.blocks(path.read_text("utf-8"))) if path.is_file() else []
    heading = next((block.text for block in told if isinstance(block, markdown.Heading)), folder.name)
    caption, advice, tables = _sorted_out(told)
    body: list[object] = (
        [element("div", [element("p", sentence) for sentence in advice], class_="note")] if advice else []
    )
    body += attempt(RESULTS, lambda: figures_of(tables, results)) if tables else []
    offline, sweep = results.get("offline") or {}, results.get("horizon") or {}
    for show, part in (
        (returns, results), (learning_curves, results), (methods, offline), (asked_for, results), (asked_for, offline),
        (horizon, sweep),
    ):  # fmt: skip
        body += attempt(RESULTS, lambda show=show, part=part: show(part)) if part else []  # type: ignore[misc]
    body += findings(folder)
    if runs:
        body.append(section("Runs", _links(folder, runs, results), about="Each run's own curves and settings."))
    return page(heading, *body, kind="comparison", subtitle=markdown.inline(caption))


def figures_of(tables: Sequence[markdown.Table], results: dict[str, Any]) -> list[Html]:
    """The tables, in each the row with the highest mean marked."""
    shown = [_table(block, results) for block in tables]
    return [section("Figures", [element("div", each, class_="card spaced") for each in shown])]


def returns(results: dict[str, Any], title: str = "Return when evaluated") -> list[Html]:
    """Each approach's mean with its interval and seeds, on one axis."""
    rows = [(name_of(row), estimates) for row in results.get("rows", ()) if (estimates := _estimates(row))]
    if not rows:
        return []
    played = any("mean" in row or row.get("returns") for row in results["rows"])
    data = results.get("data") or {}
    levels = _levels(results) + [
        Level(name=f"the log's {name}", value=data[name], dash=dash)  # type: ignore[arg-type]
        for name, dash in (("mean", "dotted"), ("highest", "dashed")) if played and _known(data.get(name))
    ]  # fmt: skip
    several = any(len(estimates) > 1 for _, estimates in rows)
    chart = interval_chart(
        rows, x_label="return" if played else "log-likelihood of held-out actions", levels=levels,
        styles=styles_of([name for name, _ in rows]),
        kinds=("asked for the log's best", "asked for what calibration recommends") if several else (),
    )  # fmt: skip
    seeds = max(len(estimate.seeds) for _, estimates in rows for estimate in estimates)
    caption = (
        f"Mean over {seeds} seeds with its 95 % interval (Student's t); small dots: each seed."
        if seeds > 1 else "One seed: without an interval."
    )  # fmt: skip
    caption += " Arrow: the interval goes on." if 'class="arrow"' in chart.picture else ""
    return [section(title, figure(chart, caption))]


def methods(results: dict[str, Any]) -> list[Html]:
    """The same of methods that learnt from what others played."""
    return returns(results, "Methods on the log")


def learning_curves(results: dict[str, Any]) -> list[Html]:
    """Each approach's mean curve with its interval over seeds, and each seed thin."""
    rows = [row for row in results.get("rows", ()) if any(row.get("curves") or ())]
    if not rows:
        return []
    styles = styles_of([name_of(row) for row in results["rows"]])
    lines = []
    for row in rows:
        curves = [[(float(x), float(y)) for x, y in curve] for curve in row["curves"] if curve]
        mean = row.get("mean")
        told = number(mean) if _known(mean) else ""
        lines.append(line_over_seeds(name_of(row), curves, styles[name_of(row)], told))
    right = max(x for line in lines for x, _ in line.points)
    chart = line_chart(
        lines, x_label="environment steps", y_label="return of training episodes", levels=_levels(results), size=LARGE,
        x_range=(0.0, right),
    )  # fmt: skip
    caption = (
        "Line: mean over seeds, smoothed over five updates. Band: its 95 % interval, pointwise. Thin: each seed. "
        "Training episodes include exploration. Beside the names: the return when evaluated."
    )
    return [section("Learning curves", figure(chart, caption))]


def line_over_seeds(name: str, curves: Sequence[Points], style: Style, told: str = "") -> Line:
    """The mean of seeds' curves, from where all have begun to where the first ends, with its interval."""
    found = over_seeds(curves)
    x, mean, half = (each.tolist() for each in found[:3])
    points = list(zip(x, mean, strict=True))
    if len(curves) == 1:
        return Line(name=name, points=points, style=style, figure=told)
    band = [(at, middle - h, middle + h) for at, middle, h in zip(x, mean, half, strict=True)]
    thin = [list(zip(x, seed, strict=True)) for seed in found.seeds.tolist()]
    return Line(name=name, points=points, style=style, figure=told, band=band, thin=thin)


def asked_for(results: dict[str, Any]) -> list[Html]:
    """What is got by what is asked for: a line for each method that can be asked, the mean of its seeds' thin ones."""
    rows = [row for row in results.get("rows", ()) if row.get("calibrations")]
    if not rows:
        return []
    styles = styles_of([name_of(row) for row in results["rows"]])
    lines = []
    for row in rows:
        thin = [list(zip(c["targets"], c["achieved"], strict=True)) for c in row["calibrations"]]
        found = [dict(curve) for curve in thin]
        common = sorted(set.intersection(*map(set, found)))  # a run's own target is asked for too
        mean = [(x, float(np.mean([achieved[x] for achieved in found]))) for x in common]
        lines.append(Line(name=name_of(row), points=mean or thin[0], thin=thin, dots=True, style=styles[name_of(row)]))
    asked = [x for line in lines for x, _ in line.points]
    ends = [(min(asked), min(asked)), (max(asked), max(asked))]
    highest = (results.get("data") or {}).get("highest")
    chart = line_chart(
        [Line(name="what is asked for", points=ends, style=Style(NEUTRAL, "dashed")), *lines], size=LARGE,
        x_label="target return", y_label="achieved return", shade_from=highest if _known(highest) else None,
    )  # fmt: skip
    caption = "Line: mean over seeds. Thin: each seed. Shaded: beyond the best that was logged."
    about = "Does the return follow the target that an agent is asked for?"
    return [section("Calibration", figure(chart, caption), about=about)]


def horizon(found: dict[str, Any]) -> list[Html]:
    """The sweep over how long must be remembered: each approach's mean return at each value that it was tried at."""
    tried = {name: rows for name, rows in found["tried"].items() if rows}
    if not tried:
        return []
    styles = styles_of([name.removeprefix("ppo:") for name in tried])
    lines: list[Line] = []
    for name, rows in ((name.removeprefix("ppo:"), rows) for name, rows in tried.items()):
        points = [(row["value"], float(np.mean(row["seed_means"]))) for row in rows]
        lines.append(Line(name=name, points=points, dots=True, style=styles[name],
                          figure=largest_solved(rows)))  # fmt: skip
    longest = max(tried.values(), key=len)
    bars, levels = _across(longest)
    asked = Scale.over(found["values"], "log", margin=0.04)
    chart = line_chart(
        [*bars, *lines], x_label=found["key"], y_label="return", x_kind=asked.kind, size=LARGE, levels=levels,
        x_range=(asked.low, asked.high), x_named=found["values"],
    )  # fmt: skip
    caption = (
        "Mean over seeds; what is equal stands side by side. An approach is tried up to the first value that it does "
        "not solve. Beside the names: the largest value solved; <: not even the smallest; ≥: no larger one was tried."
    )
    if not all(_known(row["needed"]) for row in longest):
        caption += " Where no approach is clearly above random actions, nothing counts as solved."
    about = f"How long a delay is still bridged, by {found['key']}."
    return [section("Memory horizon", figure(chart, caption), about=about)]


def _across(rows: Sequence[dict[str, Any]]) -> tuple[list[Line], list[Level]]:
    """What all approaches have in common at each value: what counts as solved, and where known, random actions."""
    lines, levels = [], []
    for name, key, dash in (("counts as solved", "needed", "dashed"), ("random actions", "random", "dotted")):
        points = [(row["value"], row[key]) for row in rows if _known(row.get(key))]
        if points and len(rows) == 1:  # across the chart: the line of a single value could not be seen
            levels.append(Level(name=name, value=points[0][1], dash=dash))  # type: ignore[arg-type]
        elif points:
            lines.append(Line(name=name, points=points, style=Style(INK, dash), dots=len(points) == 1))
    return lines, levels


def largest_solved(rows: Sequence[dict[str, Any]]) -> str:
    """What the table says of an approach's sweep (`Horizon.cell`, which pages cannot import)."""
    solved = [row["value"] for row in rows if row["solved"]]
    if not solved:
        return f"< {rows[0]['value']:g}"
    return f"≥ {solved[-1]:g}" if len(solved) == len(rows) else f"{solved[-1]:g}"


def name_of(row: dict[str, Any]) -> str:
    """What a row of results.json is about: an approach, a memory or a method. PPO goes without saying."""
    name = next((row[key] for key in ("approach", "memory", "method") if row.get(key)), "?")
    return str(name).removeprefix("ppo:")


def _estimates(row: dict[str, Any]) -> list[Estimate]:
    """Of a row: returns, and those with a calibrated target; or how well held-out actions are foreseen."""
    if _known(row.get("mean")):
        half = row.get("half_width")
        return [Estimate(row["mean"], math.nan if half is None else half, row.get("seed_means", ()))]
    scores = [row.get("returns"), row.get("calibrated")]
    if not scores[0]:
        scores = [(row.get("held_out") or {}).get("log_likelihood")]
    return [
        Estimate(s["mean"], math.nan if s.get("half_width") is None else s["half_width"], s.get("seeds", ()))
        for s in scores if s and _known(s.get("mean"))
    ]  # fmt: skip


def _levels(results: dict[str, Any]) -> list[Level]:
    best, without = results.get("optimal"), results.get("memoryless")
    levels = [Level(name="optimal", value=best)] if _known(best) else []
    if _known(without) and without != best:
        levels.append(Level(name="best without memory", value=without, dash="dotted"))
    if _known(random := results.get("random")):
        levels.append(Level(name="random actions", value=random, dash="dotted"))
    return levels


def _known(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _sorted_out(told: list[markdown.Block]) -> tuple[str, list[Html], list[markdown.Table]]:
    """The line above the first table, the sentences behind it, and all tables."""
    first = next((k for k, block in enumerate(told) if isinstance(block, markdown.Table)), len(told))
    above = [block.text for block in told[:first] if isinstance(block, markdown.Paragraph)]
    advice: list[Html] = []
    for block in told[first:]:
        if isinstance(block, markdown.Paragraph):
            advice.append(markdown.inline(with_minus(block.text)))
        elif isinstance(block, markdown.Bullets):
            advice += (markdown.inline(with_minus(item)) for item in block.items)
    return with_minus(" ".join(above)), advice, [block for block in told if isinstance(block, markdown.Table)]


def _table(block: markdown.Table, results: dict[str, Any]) -> Html:
    means = {name_of(row): estimates[-1].mean for row in results.get("rows", ()) if (estimates := _estimates(row))}
    best = max(means, key=lambda name: means[name]) if len(means) > 1 else None
    places = [k for k, row in enumerate(block.rows) if row and row[0].removeprefix("ppo:") == best]
    mark = places[0] if places else -1
    return table(block.header, [[markdown.inline(cell) for cell in row] for row in block.rows], mark=mark)


def _in_order(results: dict[str, Any]) -> list[str]:
    """What rows tell of, in the table's order: names of runs, or of methods; nothing where results.json is damaged."""
    try:
        rows = [row for part in (results, results.get("offline") or {}) for row in part.get("rows", ())]
        return [Path(name).name for row in rows for name in row.get("runs") or [row.get("method", "")]]
    except (TypeError, AttributeError):
        return []


def _links(folder: Path, runs: Sequence[Path], results: dict[str, Any]) -> Html:
    """The pages of runs, by their folders: in the table's order, and then those of its sweep from value to value."""
    known = {name: place for place, name in reversed([*enumerate(_in_order(results))])}

    def place(path: Path) -> tuple[Any, ...]:
        *above, name = path.relative_to(folder).parent.parts
        numbers = [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", "/".join(above))]
        what, _, seed = name.rpartition("_s")
        return len(above), above[:1], numbers, known.get(name, known.get(what, len(known))), what, len(seed), seed

    items = []
    for path in sorted(runs, key=place):
        inside = path.relative_to(folder)
        items.append(element("li", element("a", inside.parent.as_posix(), href=quote(inside.as_posix()))))
    return element("ul", items, class_="links card")
