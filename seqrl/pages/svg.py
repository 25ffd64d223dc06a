"""Pieces that charts are drawn from: the frame and its axes, lines, points, and keys of a legend."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from seqrl.pages.html import Html, element
from seqrl.pages.scales import Scale, tick_label
from seqrl.statistics import with_minus

SMALL, LARGE, NARROW = (360, 215), (720, 340), (340, 270)
"""Sizes in the SVG's own units, of which text is 11.5 high: a panel among others, the picture of a page, and the same
in a window less than 600 wide."""
_CLASSES = {SMALL[0]: "chart", LARGE[0]: "chart large", NARROW[0]: "chart narrow"}


class Frame(NamedTuple):
    """A chart's inner rectangle, and what its sides mean."""

    left: float
    top: float
    width: float
    height: float
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + self.width * self.x.place(x), self.top + self.height * (1 - self.y.place(y))

    def inside(self, x: float, y: float) -> tuple[float, float]:
        """The same for what may lie outside: the nearest place at the rim."""
        return self.at(min(max(x, self.x.low), self.x.high), min(max(y, self.y.low), self.y.high))


def picture(
    parts: Sequence[object], size: tuple[int, int], description: str, frame: Frame | None = None, x_label: str = ""
) -> Html:
    """The SVG. With `frame`, page.js shows the values under the pointer."""
    read_back = {}
    if frame is not None:
        read_back = {
            "data_frame": f"{frame.left:g} {frame.top:g} {frame.width:g} {frame.height:g}",
            "data_domain": f"{frame.x.low:.9g} {frame.x.high:.9g} {frame.y.low:.9g} {frame.y.high:.9g}",
            "data_scale": f"{frame.x.kind} {frame.y.kind}",
            "data_x": x_label,
        }
    return element(
        "svg", parts, class_=_CLASSES[size[0]], viewBox=f"0 0 {size[0]} {size[1]}",
        role="img", aria_label=description, **read_back,
    )  # fmt: skip


def left_margin(y: Scale, most: int, has_label: bool) -> float:
    """Room for the names of ticks, and for the axis's own."""
    ticks = y.ticks(most)
    longest = max((len(tick_label(tick, ticks)) for tick in ticks), default=1)
    return 14 + 6.8 * longest + (19 if has_label else 0)  # M and − are wider than digits


def axes(frame: Frame, size: tuple[int, int], x_label: str, y_label: str, y_ticks: bool = True) -> list[Html]:
    """Rules at round values with their names; the axes' own names."""
    bottom, right = frame.top + frame.height, frame.left + frame.width
    parts = []
    rows = frame.y.ticks(max(3, int(frame.height / 36))) if y_ticks else []
    for tick in rows:
        y = frame.at(frame.x.low, tick)[1]
        parts += [
            rule(frame.left, y, right, y, "rule"),
            text(tick_label(tick, rows), frame.left - 7, y + 4, "axis", "end"),
        ]
    columns = frame.x.ticks(max(3, int(frame.width / 78)))
    free = -math.inf
    for tick in columns:
        x, label = frame.at(tick, frame.y.low)[0], tick_label(tick, columns)
        if not y_ticks:
            parts.append(rule(x, frame.top, x, bottom, "rule"))
        half = (4 if size[0] == LARGE[0] else 3.7) * len(label)
        x = min(x, size[0] - half)  # the last is not cut at the rim
        if x - half >= free:  # else it would run into the one before
            parts.append(text(label, x, bottom + 17, "axis", "middle"))
            free = x + half + 4
    parts.append(rule(frame.left, bottom, right, bottom, "base"))
    parts.append(text(x_label, frame.left + frame.width / 2, size[1] - 6, "axis", "middle"))
    if y_label:
        place = f"translate(13 {frame.top + frame.height / 2:.4g}) rotate(-90)"
        parts.append(element("text", y_label, class_="axis", text_anchor="middle", transform=place))
    return parts


def path(points: Iterable[tuple[float, float]], frame: Frame) -> str:
    """The `d` of a line; what is not finite, or outside a logarithm, leaves a gap."""
    written, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)) or (frame.y.kind == "log" and y <= 0):
            pen = "M"
            continue
        left, top = frame.at(x, y)
        written.append(f"{pen}{left:.1f},{top:.1f}")
        pen = "L"
    return "".join(written)


def closed(rows: Sequence[tuple[float, float, float]], frame: Frame) -> str:
    """The `d` of a band between (x, low) and (x, high), cut at the frame."""
    y = frame.y
    known = [(x, *(min(max(v, y.low), y.high) for v in (low, high))) for x, low, high in rows
             if math.isfinite(low) and math.isfinite(high)]  # fmt: skip
    there, back = [frame.at(x, low) for x, low, _ in known], [frame.at(x, high) for x, _, high in reversed(known)]
    outline = "L".join(f"{left:.1f},{top:.1f}" for left, top in there + back)
    return f"M{outline}Z" if outline else ""


def rule(x1: float, y1: float, x2: float, y2: float, kind: str, colour: int | None = None) -> Html:
    """A straight line."""
    return shape("line", kind, colour, x1=x1, y1=y1, x2=x2, y2=y2)


def text(words: object, x: float, y: float, kind: str, anchor: str = "start") -> Html:
    """Words at a place."""
    return element("text", words, class_=kind, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def shape(name: str, kind: str, colour: int | None = None, **places: object) -> Html:
    """An element of a class and, where given, one of the page's colours; places with one decimal."""
    written = {key: f"{value:.1f}" if isinstance(value, float) else value for key, value in places.items()}
    return element(name, class_=kind, style=None if colour is None else f"--c:var(--c{colour})", **written)


def dot(x: float, y: float, colour: int, radius: float = 3.4, kind: str = "dot") -> Html:
    """A filled circle."""
    return shape("circle", kind, colour, cx=x, cy=y, r=radius)


def arrow(x: float, y: float, across: int, down: int, colour: int) -> Html:
    """The head of an arrow whose tip is at a place: what ends there goes on."""
    corners = [(x, y), *((x - 8 * across + s * 5 * down, y - 8 * down + s * 5 * across) for s in (-1, 1))]
    return shape("polygon", "arrow", colour, points=" ".join(f"{left:.1f},{top:.1f}" for left, top in corners))


def star(x: float, y: float, colour: int, radius: float = 9.0) -> Html:
    """Five points: what is recommended."""
    corners = []
    for k in range(10):
        angle, size = math.pi * (k / 5 - 0.5), radius if k % 2 == 0 else 0.42 * radius
        corners.append(f"{x + size * math.cos(angle):.1f},{y + size * math.sin(angle):.1f}")
    return shape("polygon", "dot", colour, points=" ".join(corners))


def key(name: object, mark: object, colour: int, figure: object = "") -> Html:
    """An entry of a legend: a mark 22 × 10, a name, a figure."""
    drawn = element("svg", mark, viewBox="0 0 22 10", aria_hidden="true", style=f"--c:var(--c{colour})")
    return element("li", drawn, element("span", name, " ", element("b", with_minus(str(figure))) if figure else ""))
