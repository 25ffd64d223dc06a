"""Escaping, and the page around everything."""

import json
import math

import pytest
from markup_reading import EVIL, Page

from seqrl.pages.html import (
    Html,
    data_script,
    definitions,
    element,
    figures,
    is_figure,
    markup,
    page,
    plain,
    section,
    table,
    write_page,
)


# Break: `standard.escape` left out of `markup`, or of attributes in `element`.
def test_whatever_comes_from_data_is_text():
    body = [
        section(EVIL, element("p", EVIL, title=EVIL), about=EVIL),
        table([EVIL, EVIL], [[EVIL, 1.0]], EVIL),
        figures([(EVIL, EVIL)]),
        definitions([(EVIL, EVIL)]),
        data_script("data", plain({EVIL: EVIL})),
    ]
    read = Page(page(EVIL, *body, subtitle=EVIL, kind=EVIL))
    assert read.count("script") == 2  # page.js and the data
    assert read.count("img") == 0
    assert read.text.count("<script>alert(1)</script>") == 15
    assert "\u202e" not in read.text
    assert r"\u202e" in read.text  # to be seen
    assert list(read.data().values()) == [EVIL.replace("\u202e", r"\u202e")]


def test_a_page_allows_nothing_from_elsewhere(tmp_path):
    """Breaks if the policy is left out, or something of ours names another host."""
    path = write_page(tmp_path / "page.html", page("title", "body"))
    document = path.read_text()
    read = Page(document)
    policy = next(a["content"] for name, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy
    addresses = [word for word in document.replace('"', " ").split() if word.startswith(("http:", "https:", "//cdn"))]
    assert addresses == ["http://www.w3.org/2000/svg"]  # a name, never asked for
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_elements():
    assert element("a", "x", href="y", class_="z", data_a=1, hidden=True, id=None) == (
        '<a href="y" class="z" data-a="1" hidden>x</a>'
    )
    assert element("br") == "<br>"
    assert markup([None, "<", Html("<b>")]) == "&lt;<b>"
    assert "<" not in str(data_script("x", "</script>"))[32:-9]
    with pytest.raises(ValueError, match="JSON"):
        data_script("x", math.nan)
    assert json.dumps(plain({"a": (math.inf, "\ud800", [1])})) == '{"a": [null, "\\\\ud800", [1]]}'


@pytest.mark.parametrize(
    "cell",
    ["1", "0.53 ± 0.163", "53 %", "~57.3k", "≥ 80", "–", "1e-05", "−3", "18,420", "2/3", 4.0, "no", Html("&lt; 5")],
)
def test_cells_of_figures_are_aligned_right(cell):
    read = Page(table(["name", "figure"], [["a", cell]]))
    assert len(read.classed("td", "number")) == 1


def test_words_are_not_figures():
    assert not any(map(is_figure, ("gru", "2 layers of it", "not measured", "e", "5 apples")))


# Breaks if: no cell is "short": an environment's name is broken at its hyphen; or all are: sentences widen the table.
def test_short_words_are_not_broken():
    read = Page(table(["run", "env", "n"], [["a", "seqrl/TMaze-v0", 1], ["b", "words " * 9, 2]]))
    assert [a.get("class") for name, a in read.tags if name == "td"] == [
        "short",
        "short",
        "number",
        "short",
        None,
        "number",
    ]
