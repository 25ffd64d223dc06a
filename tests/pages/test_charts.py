"""Axes, lines and intervals: where values stand, and that all of them are shown."""

import itertools
import math
import re

import numpy as np
import pytest
from markup_reading import EVIL, Page

from seqrl.pages.charts import LARGE, SMALL, Estimate, Level, Line, interval_chart, line_chart, styles_of
from seqrl.pages.html import figure
from seqrl.pages.png import grey_or_colour, pictures, png, shrunk
from seqrl.pages.scales import Scale, nice_step, tick_label


@pytest.mark.parametrize(("rough", "nice"), [(0.9, 1.0), (1.1, 2.0), (2.1, 2.5), (2.6, 5.0), (7, 10.0), (130, 200.0)])
def test_steps_are_round(rough, nice):
    assert nice_step(rough) == pytest.approx(nice)


# Must break: `_labels` without its condition: the names of points that stand close would be one blot.
def test_names_at_points_do_not_run_into_each_other():
    points = [(0.0, 5.0), (0.001, 5.0), (0.002, 5.0), (0.0025, 6.0), (0.9, 5.0), (1.0, 5.0)]
    line = Line(name="x", points=points, labels=["a", "b", "c", "up", "d", "e"])
    chart = line_chart([line], x_label="KL", size=LARGE)
    labels = {name for name in Page(chart.picture).within("text") if name in line.labels}
    assert labels == {"a", "up", "d", "e"}


# Must break: `if len(ticks) < 2` left out: 20,000 alone is named, as of a short run on a narrow page.
def test_an_axis_names_two_values_at_least():
    assert Scale(2_048, 38_912).ticks(3) == [10_000, 20_000, 30_000]
    assert all(len(Scale(low, low + 1).ticks(most)) > 1 for low in np.linspace(0, 9, 50) for most in (2, 3, 5))


# Breaks if: `low == high == 0` is not asked for, and what is always 0, such as a policy's lag, has an axis from −1.
def test_what_is_always_zero_is_not_drawn_as_if_it_could_be_negative():
    scale = Scale.over([0.0, 0.0])
    assert scale.ticks(4)[0] == 0
    assert scale.ticks(4)[-1] == 1
    assert 0 < scale.place(0) < 0.1
    assert Scale.over([-3.0, -3.0]).high < 0


# Breaks if: the place of a name is not kept inside the picture: of 8000 at the right end, half of the last 0 is cut.
def test_the_last_value_at_an_axis_is_not_cut():
    for size, half in ((LARGE, 4.0), (SMALL, 3.65)):  # half a digit's width at most, in units of the picture
        picture = line_chart([Line(name="x", points=[(320, 9.0), (8000, 13.0)])], x_label="steps", size=size).picture
        read = Page(picture)
        axis = zip(read.classed("text", "axis"), read.within("text"), strict=True)
        place = next(float(attributes["x"]) for attributes, word in axis if word == "8000")
        assert size[0] - 20 < place <= size[0] - half * len("8000")


# Breaks if: `_powers` returns `inside` however few they are (a panel of gradients that hardly change has no number at
# its axis), or `_apart` returns all values (9 and 10 are written into each other).
def test_narrow_and_crowded_axes_can_be_read():
    assert len(Scale.over([0.052, 0.09], "log").ticks(3)) > 1
    assert len(Scale.over([1.2, 2.4], "log").ticks(3)) > 1
    scale = Scale.over([0.0, 34.2], "root", margin=0.04)
    places = [scale.place(tick) for tick in scale.ticks(8)]
    assert np.diff(places).min() >= 0.5 / 8


@pytest.mark.parametrize("kind", ["linear", "log", "root"])
@pytest.mark.parametrize(("low", "high"), [(0.001, 0.004), (3.0, 900.0), (1.0, 1.0), (10.0, 12.0), (0.0, 5.0)])
def test_scales_hold_their_values_and_ticks(kind, low, high):
    scale = Scale.over([low, high, math.nan], kind)
    assert 0 <= scale.place(low) <= scale.place(high) <= 1
    assert scale.place(scale.low) == pytest.approx(0)
    assert scale.place(scale.high) == pytest.approx(1)
    ticks = scale.ticks(5)
    assert 1 <= len(ticks) <= 9
    assert all(-1e-9 <= scale.place(tick) <= 1 + 1e-9 for tick in ticks)
    assert len({tick_label(tick, ticks) for tick in ticks}) == len(ticks)


# Break: the fall back to a linear axis in `Scale.over`.
def test_a_logarithm_of_zero_is_not_asked_for():
    assert Scale.over([0.0, 1.0], "log").kind == "linear"
    assert Scale.over([1e-9, 1.0], "log").kind == "log"


@pytest.mark.parametrize(
    ("value", "largest", "label"),
    [
        (0.25, 1, "0.25"),
        (-1, 2, "−1"),
        (200_000, 300_000, "200k"),
        (1.5e6, 2e6, "1.5M"),
        (1e-5, 5e-5, "1e−05"),
        (0, 9, "0"),
    ],
)
def test_labels(value, largest, label):
    assert tick_label(value, [value, largest]) == label


def numbers(d):
    return [tuple(map(float, pair.split(","))) for pair in re.findall(r"-?[\d.]+,-?[\d.]+", d or "")]


# Break: `1 -` left out of `Frame.at`, or a frame and a domain that page.js could not read the values back from.
@pytest.mark.parametrize(("x_kind", "y_kind"), [("linear", "linear"), ("root", "log")])
def test_values_can_be_read_back_from_the_picture(x_kind, y_kind):
    points = [(1.0, 2.0), (4.0, 30.0), (9.0, math.nan), (16.0, 500.0)]
    chart = line_chart([Line(name=EVIL, points=points)], x_label="x", x_kind=x_kind, y_kind=y_kind)
    read = Page(figure(chart, EVIL, EVIL))
    svg = read.classed("svg", "chart")[0]
    left, top, width, height = map(float, svg["data-frame"].split())
    x0, x1, y0, y1 = map(float, svg["data-domain"].split())
    assert svg["data-scale"] == f"{x_kind} {y_kind}"
    line = read.classed("path", "line")[0]
    assert line["d"].count("M") == 2  # a gap where there is no number
    forward = {"linear": lambda v: v, "root": math.sqrt, "log": math.log10}
    for (x, y), (want_x, want_y) in zip(numbers(line["d"]), [p for p in points if p[1] == p[1]], strict=True):
        f, g = forward[x_kind], forward[y_kind]
        assert f(x0) + (x - left) / width * (f(x1) - f(x0)) == pytest.approx(f(want_x), abs=0.02 * f(x1))
        assert g(y0) + (1 - (y - top) / height) * (g(y1) - g(y0)) == pytest.approx(g(want_y), abs=0.01 * g(y1))


def test_everything_has_its_mark():
    line = Line(name="a", points=[(0, 1), (1, 2)], band=[(0, 0, 2), (1, 1, 3)], thin=[[(0, 1), (1, 1)]], dots=True,
                whiskers=[(0.0, 0.5), (0.1, 0.0)], labels=["one", ""], figure="2.5")  # fmt: skip
    chart = line_chart(
        [line],
        x_label="steps",
        y_label="return",
        levels=[Level(name="best", value=9.0)],
        stars=[(1, 2)],
        shade_from=0.5,
    )
    read = Page(chart.picture + chart.legend)
    counts = {
        "band": 1,
        "thin": 1,
        "line": 2,
        "whisker": 2,
        "dot": 4,
        "level": 2,
        "shade": 1,
    }  # those of the legend too
    found = {kind: sum(kind in (a.get("class") or "").split() for _, a in read.tags) for kind in counts}
    assert found == counts
    assert all(word in read.text for word in ("one", "2.5", "best", "9", "steps", "return"))


def test_an_empty_chart_says_so():
    read = Page(line_chart([Line(name="a", points=[])], x_label="x").picture)
    assert "nothing to show yet" in read.text


def wide(chart):
    """The first of a large chart's two drawings."""
    return Page(chart.picture.partition("</svg>")[0] + "</svg>")


# Break: `sizes = (size,)` in `line_chart`, or a width of LARGE alone in `interval_chart`: nobody could read it.
def test_a_large_chart_has_a_drawing_for_narrow_windows():
    line = line_chart([Line(name="a", points=[(0, 1), (100_000, 2)])], x_label="steps", size=LARGE)
    rows = [("a name of some length", [Estimate(0.5, 0.1)])]
    for chart in (line, interval_chart(rows, x_label="return", styles=styles_of([rows[0][0]]))):
        svgs = Page(chart.picture).classed("svg", "chart")
        assert [svg["class"] for svg in svgs] == ["chart large", "chart narrow"]
        assert [float(svg["viewbox"].split()[2]) for svg in svgs] == [720, 340]


# Break: `if x - 3.3 * len(label) >= free` left out of `axes`.
def test_names_of_values_do_not_run_into_each_other():
    values = [1, 2, 4, 8, 16, 32, 64]
    line = Line(name="a", points=[(v, 1.0) for v in values], dots=True)
    named = Page(line_chart([line], x_label="delay", x_named=values).picture)
    spans = [(float(a["x"]) - 3.3 * len(w), float(a["x"]) + 3.3 * len(w)) for a, w in axis_names(named)]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def axis_names(read):
    """The named values of x: attributes and words."""
    labels = [a for a in read.classed("text", "axis") if a.get("text-anchor") == "middle" and "transform" not in a]
    return list(zip(labels[:-1], [w for w in read.words if w.isdigit()], strict=False))


# Break: `x_named` not handed to the scale: 2 and 5 are named, and neither 4 nor 8 was tried at 5.
def test_the_values_that_were_tried_are_named():
    line = Line(name="a", points=[(2, -1.0), (4, -2.0), (8, -3.0)], dots=True)
    words = wide(line_chart([line], x_label="delay", x_kind="log", size=LARGE, x_named=[2, 4, 8])).words
    assert [word for word in words if word.isdigit()] == ["2", "4", "8"]


# Break: `return place` alone in `moved`: the last dot hides the others.
@pytest.mark.parametrize("x", [0.0, 5.0, 10.0])
def test_equal_values_stand_side_by_side(x):
    lines = [Line(name=name, points=[(x, 1.0)], dots=True) for name in "abcde"]
    lines.append(Line(name="f", points=[(0.0, 2.0), (10.0, 3.0)], dots=True))
    read = wide(line_chart(lines, x_label="x", size=LARGE))
    left, _, width, _ = map(float, read.classed("svg", "chart")[0]["data-frame"].split())
    places = [float(dot["cx"]) for dot in read.classed("circle", "dot")][:5]
    assert np.diff(places) == pytest.approx([8] * 4)
    assert left <= min(places) <= max(places) <= left + width


# Break: an arrow left out of `_estimate`, or drawn where the interval ends inside.
def test_what_goes_on_beyond_the_chart_has_an_arrow():
    rows = [("a", [Estimate(0.5, ends=(0.4, 0.9))]), ("b", [Estimate(0.6, 100.0)])]
    rows += [("c", [Estimate(0.45, 0.01)])]
    read = wide(interval_chart(rows, x_label="return", styles=styles_of("abc")))
    tips = [float(a["points"].split(",")[0]) for a in read.classed("polygon", "arrow")]
    assert len(tips) == 2
    assert tips[0] < 60
    assert tips[1] > 650


# Break: whiskers that are not cut at the frame.
def test_wide_intervals_run_out_of_the_chart():
    rows = [("gru", [Estimate(0.5, 100.0, [0.4, 0.6])]), ("none", [Estimate(0.2), Estimate(0.3)])]
    chart = interval_chart(rows, x_label="return", styles=styles_of(["gru", "none"]), kinds=("one", "other"))
    read = Page(chart.picture.split("</svg>")[0] + "</svg>" + chart.legend)
    ends = [float(a[name]) for a in read.classed("line", "whisker") for name in ("x1", "x2")]
    assert min(ends) >= 0
    assert max(ends) <= 720
    assert len(read.classed("circle", "seed")) == 2
    assert len(read.classed("circle", "hollow")) == 2  # a mean, and its key


def test_no_two_names_look_alike():
    names = ["none", "gru", "r2d2:gru", "gru+reward", "lstm", *"abcdefghij"]
    styles = styles_of(names)
    assert len(set(styles.values())) == len(names)
    assert styles["gru"].colour == styles["r2d2:gru"].colour
    assert styles["gru"].colour == styles["gru+reward"].colour
    assert styles["gru"].dash != styles["r2d2:gru"].dash


def decoded(data):
    import io

    import matplotlib.image

    pixels = matplotlib.image.imread(io.BytesIO(data))
    return np.round(255 * pixels[..., :3]).astype(np.uint8)


# Break: filter 2 without the row above, or the palette's order.
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (64, 33, 3), (1, 1)])
def test_pictures_come_back_pixel_by_pixel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    want = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
    np.testing.assert_array_equal(decoded(png(pixels)), want)


def test_pictures_fit_and_each_is_there_once():
    """Breaks if frames are not made smaller, or numbered by place and not by content."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (100, 120, 3), dtype=np.uint8) for _ in range(3)]
    uris, numbers_ = pictures([*frames, frames[1]], 40_000)
    assert sum(map(len, uris)) <= 40_000
    assert numbers_ == [0, 1, 2, 1]
    assert shrunk(np.full((4, 4, 3), 77, np.uint8), 2).tolist() == [[[80] * 3] * 2] * 2
    squares = frames[0][:99, :117].reshape(33, 3, 39, 3, 3).mean((1, 3))  # what is left over is cut off
    assert np.array_equal(shrunk(frames[0][:, :119], 3), np.minimum(np.round(squares / 8) * 8, 255))
    assert grey_or_colour(np.zeros((4, 20, 30))).shape == (20, 30)
    assert grey_or_colour(np.zeros((20, 30, 3))).shape == (20, 30, 3)
