"""Pages of HTML that stand alone: everything is escaped, nothing is loaded from anywhere, light and dark, on paper too.

`Html` is text that is markup already. All functions here take plain strings too and escape them, so that what comes
from data can only ever be text: an environment called `<script>` is a name on the page.
"""

import html as standard
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from seqrl.checkpoint import write_atomically
from seqrl.statistics import with_minus
from seqrl.visible import visible

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""What the browser may load for a page: what stands in it, and nothing else."""
VOID = ("meta", "input", "br", "img", "hr")


class Html(str):
    """Text that is markup, and is not escaped again."""

    __slots__ = ()


def _seen(text: object) -> str:
    """Line ends and tabs stay, which HTML shows as spaces."""
    return visible(str(text), keep="\n\t")


def markup(content: object) -> Html:
    """`content` as markup: what is no `Html` yet is escaped; of a list or a tuple, all parts one after the other."""
    if isinstance(content, Html):
        return content
    if isinstance(content, list | tuple):
        return Html("".join(map(markup, content)))
    return Html("" if content is None else standard.escape(_seen(content)))


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """<name …>children</name>. Of attributes, `_` is written as `-`, but not at their end (class_, for_); True stands
    alone, None and False are left out."""
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{standard.escape(_seen(value))}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in VOID else f"{start}{markup(children)}</{name}>")


def section(title: str, *children: object, about: object = "") -> Html:
    """A part of a page under its heading, with a line `about` what is seen."""
    head = [element("h2", title), element("p", about, class_="about") if about else ""]
    return element("section", head, children)


def grid(cards: Iterable[object]) -> Html:
    """Cards side by side, as many as fit."""
    return element("div", list(cards), class_="grid")


class Chart(NamedTuple):
    """A drawing, and what its lines mean."""

    picture: Html
    legend: Html


def figure(chart: Chart, caption: object = "", title: object = "") -> Html:
    """A chart in a box, with its legend and what it shows below it, or beside it where there is room."""
    return element(
        "figure",
        element("h3", title) if title else "",
        element("div", chart.picture, class_="scroll"),
        element("div", chart.legend, element("figcaption", caption) if caption else "", class_="beside"),
        class_="card",
    )


def figures(pairs: Iterable[tuple[str, object]]) -> Html:
    """A few numbers that come first: (what, how much) side by side."""
    cells = [element("div", element("dt", name), element("dd", _figure(value))) for name, value in pairs]
    return element("dl", cells, class_="figures")


def definitions(pairs: Iterable[tuple[str, object]]) -> Html:
    """A list of settings: name and value."""
    return element("dl", [element("div", element("dt", k), element("dd", v)) for k, v in pairs], class_="settings")


SHORT = 24
"""Characters up to which a cell of words is not broken: an environment's name, at its hyphen."""


def table(header: Sequence[object], rows: Iterable[Sequence[object]], caption: object = "", mark: int = -1) -> Html:
    """A table whose first column stays in sight; columns of figures are aligned right. Row `mark` stands out."""
    rows = [list(row) for row in rows]
    numeric = [
        index > 0 and all(is_figure(row[index]) for row in rows if index < len(row)) for index in range(len(header))
    ]

    def cells(name: str, row: Sequence[object]) -> list[Html]:
        return [
            element(
                name,
                _figure(cell) if numeric[k] else cell,
                class_="number" if numeric[k] else "short" if name == "td" and len(str(cell)) <= SHORT else None,
                scope="col" if name == "th" else None,
            )
            for k, cell in enumerate(row)
        ]

    body = [element("tr", cells("td", row), class_="marked" if k == mark else None) for k, row in enumerate(rows)]
    whole = element(
        "table",
        element("caption", caption) if caption else "",
        element("thead", element("tr", cells("th", header))),
        element("tbody", body),
    )
    return element("div", whole, class_="scroll", tabindex="0")


def _figure(cell: object) -> object:
    """A figure with the minus sign of the axes."""
    text = with_minus(str(cell))
    return Html(text) if isinstance(cell, Html) else text


_FIGURE = re.compile(r"[-+−±–—~≈<>≤≥]?\s*[\d.][\d.,]*\s*(e[-+]?\d+)?([kMG%]|±|\s|s|×|[\d.,]|[-+−]|e[-+]?\d|/|inf|nan)*")


def is_figure(cell: object) -> bool:
    """Whether a cell is a number, with its interval or unit; yes or no; or nothing, or the dash that stands for it."""
    text = (standard.unescape(cell) if isinstance(cell, Html) else str(cell)).strip()
    return (
        text in ("", "–", "-", "—", "n/a", "yes", "no")
        or isinstance(cell, int | float)
        or bool(_FIGURE.fullmatch(text))
    )


def data_script(name: str, data: Any) -> Html:
    """Data for a script of the page, as JSON that no HTML parser can mistake for markup. Raises ValueError for NaN."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    return element("script", Html(text), type="application/json", id=name)


def plain(data: Any) -> Any:
    """`data` for JSON: what is not finite is null, and strings can be seen."""
    if isinstance(data, dict):
        return {_seen(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return _seen(data) if isinstance(data, str) else data


def page(title: str, *body: object, subtitle: object = "", kind: str = "", scripts: Sequence[str] = ()) -> Html:
    """A whole document. `kind` is the line above the title; `scripts` are files in static/, run after page.js.

    Each script of ours runs once the document stands, and a policy in the head has the browser refuse what would come
    from anywhere else.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(static("charts.css") + static("page.css"))),
    )
    toggle = element(
        "button", "◐", id="theme", type="button", title="light, dark, or as the system is", aria_label="theme"
    )
    top = element(
        "header",
        element("div", element("p", kind, class_="kind") if kind else "", element("h1", title)),
        toggle,
        element("p", subtitle, class_="subtitle") if subtitle else "",
    )
    code = [element("script", Html(static(name))) for name in ("page.js", *scripts)]
    whole = element("html", head, element("body", top, element("main", body), code), lang="en")
    return Html(f"<!doctype html>\n{whole}\n")


def write_page(path: Path, document: Html) -> Path:
    """Write a page, whole or not at all."""
    write_atomically(path, document.encode())
    return path


@cache
def static(name: str) -> str:
    """A file of ours that goes into pages as it is."""
    return (files("seqrl.pages") / "static" / name).read_text("utf-8")
