"""Charts as SVG: lines with bands and seeds, points with intervals. Colours are the page's, so they follow its theme.

They are drawn by us, and not by matplotlib, because one drawing must do in light and dark, be small, scale with the
page, and tell the values under the pointer (page.js reads them back from the paths).
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from seqrl.pages.html import Chart, Html, element
from seqrl.pages.scales import Kind, Scale
from seqrl.pages.svg import (
    LARGE,
    NARROW,
    SMALL,
    Frame,
    arrow,
    axes,
    closed,
    dot,
    key,
    left_margin,
    path,
    picture,
    rule,
    shape,
    star,
    text,
)
from seqrl.reports.common import number

__all__ = [
    "BLUE",
    "INK",
    "LARGE",
    "NEUTRAL",
    "SMALL",
    "Estimate",
    "Level",
    "Line",
    "Points",
    "Style",
    "interval_chart",
    "line_chart",
    "styles_of",
]

Points = Sequence[tuple[float, float]]

NEUTRAL, MARKED, INK = 6, 4, 8
"""Among the colours --c0 … --c8 of page.css (Okabe and Ito's, lighter on dark paper): grey, what stands out, and the
text's own."""
_KNOWN = {
    "none": 6, "frame_stack": 1, "gru": 0, "lstm": 2, "linear": 3, "linear_attention": 5, "transformer": 4,
    "behaviour_cloning": 6, "bc": 6, "filtered_bc": 1, "best_bc": 1, "decision_transformer": 0, "qdt": 2, "random": 6,
}  # fmt: skip


class Style(NamedTuple):
    """How what has a name is drawn, in all charts of a page."""

    colour: int
    dash: str = ""


BLUE = Style(0)


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, no two alike up to 24: memories and methods as in other plots, others in their order.

    Of `algorithm:memory+input` the memory has the colour, and what differs besides, from the second on, a dash.
    """
    taken: dict[str, Style] = {}
    dashes = ("", "dashed", "dotted")
    free = (Style(colour, dash) for dash in dashes for colour in (0, 1, 2, 4, 3, 5, 7, 6))
    for name in names:
        wanted = _KNOWN.get(name.rpartition(":")[2].partition("+")[0])
        known = () if wanted is None else [Style(wanted, dash) for dash in dashes]
        taken[name] = next(
            (style for style in itertools.chain(known, free) if style not in taken.values()), Style(NEUTRAL, "dotted")
        )
    return taken


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve with what surrounds it. Where y is not finite there is a gap."""

    name: str
    points: Points
    style: Style = BLUE
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high): an interval or a range around it."""
    thin: Sequence[Points] = ()
    """Each seed, or the raw values of a smoothed curve."""
    whiskers: Sequence[tuple[float, float]] = ()
    """For each point half the interval in x and in y, 0 for none."""
    dots: bool = False
    labels: Sequence[str] = ()
    """A word at each point; "" for none."""
    figure: str = ""
    """What the legend says besides the name, such as the return when evaluated."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A value that is known, as a line across the chart."""

    name: str
    value: float
    dash: Literal["dashed", "dotted", ""] = "dashed"
    figure: str = ""
    """What stands beside its name; the value if empty."""


class Estimate(NamedTuple):
    """A mean, half its interval (NaN for none) or the `ends` of one with unequal halves, and what it is the mean of."""

    mean: float
    half_width: float = math.nan
    seeds: Sequence[float] = ()
    ends: tuple[float, float] | None = None


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    levels: Sequence[Level] = (),
    x_kind: Kind = "linear",
    y_kind: Kind = "linear",
    size: tuple[int, int] = SMALL,
    x_range: tuple[float, float] | None = None,
    stars: Points = (),
    shade_from: float | None = None,
    whole: bool = False,
    x_named: Sequence[float] = (),
) -> Chart:
    """Curves over one axis, with a legend where there are several. `stars` stand out; what lies right of
    `shade_from` is shaded. A logarithmic axis with values of 0 or below is linear; `whole` says that x are counts;
    `x_named` are the values that the axis names, if not round ones.

    A large one is drawn twice, for wide and for narrow windows: shrunk to half, nobody could read it.
    """
    named = f"{y_label or 'values'} over {x_label}: {', '.join(line.name for line in lines)}"

    def drawn(size: tuple[int, int]) -> Html:
        frame = _frame(lines, levels, x_kind, y_kind, size, x_range, bool(y_label))
        frame = frame._replace(x=dataclasses.replace(frame.x, whole=whole, named=tuple(x_named)))
        parts = axes(frame, size, x_label, y_label) + _inside(lines, levels, stars, shade_from, frame)
        return picture(parts, size, named, frame, x_label)

    several = len(lines) + len(levels) > 1 or any(line.figure for line in lines)
    sizes = (LARGE, NARROW) if size == LARGE else (size,)
    return Chart(Html("".join(map(drawn, sizes))), _legend(lines, levels) if several else Html())


def _inside(
    lines: Sequence[Line], levels: Sequence[Level], stars: Points, shade_from: float | None, frame: Frame
) -> list[Html]:
    """All that stands between the axes."""
    parts = []
    right = frame.left + frame.width
    if shade_from is not None and shade_from < frame.x.high:
        start = frame.at(max(shade_from, frame.x.low), frame.y.low)[0]
        parts.append(shape("rect", "shade", x=start, y=frame.top, width=right - start, height=frame.height))
    for line in lines:
        parts += _around(line, frame)
    for level in levels:
        y = frame.at(frame.x.low, level.value)[1]
        parts.append(rule(frame.left, y, right, y, f"level {level.dash}".strip()))
    for line, places in zip(lines, _side_by_side(lines, frame), strict=True):
        parts += _itself(line, frame, places)
    parts += [star(*frame.at(*place), MARKED) for place in stars]
    if not any(len(line.points) for line in lines):
        middle = (frame.left + frame.width / 2, frame.top + frame.height / 2)
        parts.append(text("nothing to show yet", *middle, "axis", "middle"))
    return parts


def interval_chart(
    rows: Sequence[tuple[str, Sequence[Estimate]]],
    *,
    x_label: str,
    styles: dict[str, Style],
    levels: Sequence[Level] = (),
    kinds: Sequence[str] = (),
) -> Chart:
    """A line for each row: its mean with the interval, and a small dot for each seed.

    Of several estimates in a row the second is hollow, and `kinds` says what they are. The axis shows all seeds and
    levels; an interval that is much wider runs out of it, with an arrow. In a narrow window names stand above rows.
    """
    several = max((len(some) for _, some in rows), default=1)
    inside = [v for _, some in rows for e in some for v in (e.mean, *e.seeds, *(e.ends or ()))] + [
        level.value for level in levels
    ]

    def drawn(width: int) -> Html:
        above = 22 if width == NARROW[0] else 0  # for a row's name
        each = 32 + 16 * (several - 1) + above
        size = (width, 62 + each * max(1, len(rows)))
        left = 14 if above else min(24 + 6.9 * max((len(name) for name, _ in rows), default=0), 260)
        frame = Frame(left, 10, size[0] - left - 20, size[1] - 58, Scale.over(inside, margin=0.12), Scale(0, 1))
        parts = axes(frame, size, x_label, "", y_ticks=False)
        for level in levels:
            x = frame.at(level.value, 0)[0]
            parts.append(rule(x, frame.top, x, frame.top + frame.height, f"level {level.dash}".strip()))
        for k, (name, some) in enumerate(rows):
            top = frame.top + (each + 4 / max(1, len(rows))) * k
            middle = top + above + (each - above) / 2
            parts.append(
                text(name, left, top + 14, "label") if above else text(name, left - 12, middle + 4, "label", "end")
            )
            for j, estimate in enumerate(some):
                y = middle + 18 * (j - (len(some) - 1) / 2)
                parts += _estimate(estimate, y, frame, styles[name].colour, j > 0)
        return picture(parts, size, f"{x_label}: {', '.join(name for name, _ in rows)}")

    marks = [shape("circle", "hollow" if k else "dot", cx=11, cy=5, r=4) for k in range(len(kinds))]
    keys = [key(name, mark, NEUTRAL) for name, mark in zip(kinds, marks, strict=True)]
    keys += [_level_key(level) for level in levels]
    pictures = Html("".join(drawn(width) for width in (LARGE[0], NARROW[0])))
    return Chart(pictures, element("ul", keys, class_="legend") if keys else Html())


def _frame(
    lines: Sequence[Line], levels: Sequence[Level], x_kind: Kind, y_kind: Kind, size: tuple[int, int],
    x_range: tuple[float, float] | None, has_label: bool,
) -> Frame:  # fmt: skip
    """Room for every line, seed and level; for bands and whiskers too, up to twice the range of the rest."""
    x, y = ([v for line in lines for points in (line.points, *line.thin) for v in _column(points, k)] for k in (0, 1))
    y += [level.value for level in levels]
    spread = max(y) - min(y) if y else 0.0
    around = [v for line in lines for _, low, high in line.band for v in (low, high)]
    around += [v for line in lines for (_, mean), (_, half) in zip(line.points, line.whiskers, strict=False)
               for v in (mean - half, mean + half)]  # fmt: skip
    if spread > 0 and y_kind != "log":
        around = [min(max(v, min(y) - spread / 2), max(y) + spread / 2) for v in around if math.isfinite(v)]
    x += [x_at + sign * half for line in lines for (x_at, _), (half, _) in zip(line.points, line.whiskers, strict=False)
          for sign in (-1, 1)]  # fmt: skip
    y_scale = Scale.over(y + ([] if y_kind == "log" else around), y_kind)
    x_scale = Scale(*x_range, x_kind) if x_range else Scale.over(x, x_kind, margin=0.0 if x_kind == "linear" else 0.04)
    if any(line.dots for line in lines) and x_kind == "linear":
        x_scale = Scale.over(x, margin=0.03)
    left = left_margin(y_scale, max(3, int((size[1] - 52) / 36)), has_label)
    return Frame(left, 10, size[0] - left - 14, size[1] - 52, x_scale, y_scale)


def _column(points: Points, index: int) -> list[float]:
    return [point[index] for point in points if math.isfinite(point[1])]


def _around(line: Line, frame: Frame) -> list[Html]:
    """What lies behind the lines: bands and seeds."""
    colour = line.style.colour
    parts = [shape("path", "band", colour, d=closed(line.band, frame))] if line.band else []
    return parts + [shape("path", "thin", colour, d=path(points, frame)) for points in line.thin]


def _side_by_side(lines: Sequence[Line], frame: Frame, step: float = 8) -> list[list[tuple[float, float]]]:
    """Where each line's dots go. Those of several lines at one place stand side by side, all inside the frame: the
    last would hide the others."""
    places = [
        [frame.at(x, y) for x, y in line.points if math.isfinite(y)] if line.dots or len(line.points) == 1 else []
        for line in lines
    ]
    together = Counter(itertools.chain(*places))
    seen: Counter[tuple[float, float]] = Counter()

    def moved(place: tuple[float, float]) -> tuple[float, float]:
        room = step * (together[place] - 1)
        first = min(max(place[0] - room / 2, frame.left), max(place[0], frame.left + frame.width) - room)
        seen[place] += 1
        return (first + step * (seen[place] - 1), place[1]) if room else place

    return [[moved(place) for place in some] for some in places]


def _itself(line: Line, frame: Frame, places: Points) -> list[Html]:
    colour, dash = line.style
    parts = [shape("path", f"line {dash}".strip(), colour, d=path(line.points, frame), data_name=line.name)]
    for (x, y), (half_x, half_y) in zip(line.points, line.whiskers, strict=False):
        for across, up in ((half_x, 0.0), (0.0, half_y)):
            if across or up:
                ends = frame.inside(x - across, y - up), frame.inside(x + across, y + up)
                parts.append(rule(*ends[0], *ends[1], "whisker", colour))
                parts += [arrow(*ends[0], 0, 1, colour)] if y - up < frame.y.low else []
                parts += [arrow(*ends[1], 0, -1, colour)] if y + up > frame.y.high else []
    parts += [dot(*place, colour) for place in places]
    return parts + _labels(line, frame)


def _labels(line: Line, frame: Frame) -> list[Html]:
    """Names at points; one that would run into an earlier one is left out."""
    ends: list[tuple[float, float]] = []
    parts = []
    for at, word in zip(line.points, line.labels, strict=False):
        x, y = frame.at(*at)
        if word and all(x >= end or abs(y - height) > 12 for end, height in ends):
            parts.append(text(word, x + 7, y - 6, "label"))
            ends.append((x + 7 * len(word) + 2, y))
    return parts


def _estimate(estimate: Estimate, y: float, frame: Frame, colour: int, hollow: bool) -> list[Html]:
    parts = [dot(frame.at(seed, 0)[0], y - 9, colour, 2.6, "seed") for seed in estimate.seeds]
    x = frame.at(estimate.mean, 0)[0]
    half = estimate.half_width
    interval = estimate.ends or ((estimate.mean - half, estimate.mean + half) if math.isfinite(half) else None)
    if interval is not None:
        right = frame.left + frame.width
        ends = [frame.at(end, 0)[0] for end in interval]
        low, high = (min(max(end, frame.left), right) for end in ends)
        parts += [rule(low, y, high, y, "whisker", colour)]
        parts += [rule(end, y - 4, end, y + 4, "whisker", colour) for end in ends if frame.left <= end <= right]
        parts += [arrow(low, y, -1, 0, colour)] if ends[0] < frame.left else []
        parts += [arrow(high, y, 1, 0, colour)] if ends[1] > right else []
    return [*parts, dot(x, y, colour, 4.6, "hollow" if hollow else "dot")]


def _legend(lines: Sequence[Line], levels: Sequence[Level]) -> Html:
    keys = []
    for line in lines:
        mark = [rule(1, 5, 21, 5, f"line {line.style.dash}".strip())]
        mark += [shape("circle", "dot", cx=11, cy=5, r=3)] if line.dots else []
        keys.append(key(line.name, mark, line.style.colour, line.figure))
    return element("ul", keys, [_level_key(level) for level in levels], class_="legend")


def _level_key(level: Level) -> Html:
    return key(
        level.name, rule(1, 5, 21, 5, f"level {level.dash}".strip()), NEUTRAL, level.figure or number(level.value)
    )
