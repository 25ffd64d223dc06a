"""The little Markdown that our own tables are written in (table.md), as blocks for a page."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from seqrl.pages.html import Html, element, markup


class Heading(NamedTuple):
    """A line of `level` 1 to 6."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """Lines that run on."""

    text: str


class Bullets(NamedTuple):
    """A list."""

    items: list[str]


class Table(NamedTuple):
    """A header, and rows of as many cells."""

    header: list[str]
    rows: list[list[str]]


Block = Heading | Paragraph | Bullets | Table


def blocks(text: str) -> Iterator[Block]:
    """Headings, paragraphs, lists and tables, in order; what is none of the others is a paragraph."""
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.splitlines()
        while lines and (match := re.match(r"(#+)\s+(.*)", lines[0])):
            yield Heading(len(match[1]), match[2].strip())
            lines = lines[1:]
        if len(lines) > 1 and lines[0].startswith("|") and set(lines[1]) <= set("|-: "):
            header, _, *rows = map(_cells, lines)
            yield Table(header, rows)
        elif lines and all(line.startswith(("- ", "* ", "  ")) for line in lines):
            yield Bullets(re.split(r"\n[-*] ", "\n".join(lines)[2:]))
        elif lines:
            yield Paragraph(" ".join(lines))


def inline(text: str) -> Html:
    """`code` and **strong**, and --flags, which no line breaks; all else is text."""
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*|(?<![\w-])--[a-z][\w-]*)", text)
    return Html("".join(_inline(part) for part in parts))


def _inline(part: str) -> Html:
    if len(part) > 2 and part[0] == part[-1] == "`":
        return element("code", part[1:-1])
    if len(part) > 4 and part[:2] == part[-2:] == "**":
        return element("strong", part[2:-2])
    return element("span", part, class_="flag") if re.match(r"--[a-z]", part) else markup(part)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
