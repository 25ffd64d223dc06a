"""The picture of a comparison: its curves are the page's."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from seqrl.comparison.plot import _curves, _horizon, _look
from seqrl.comparison.report import Comparison, Horizon, Row, Tried
from seqrl.pages.charts import Style
from seqrl.pages.comparison_page import line_over_seeds

CURVES = [[(10.0, 1.0), (50.0, 2.0), (90.0, 4.0)], [(20.0, 3.0), (80.0, 3.0)]]


def row(memory):
    return Row(approach=f"ppo:{memory}", memory=memory, mean=1.0, half_width=0.1, seed_means=[1.0, 1.0], num_steps=60,
               steps_per_second=1, num_parameters=1, seconds=1, best_run="", curves=CURVES)  # fmt: skip


def result(*memories, **changes):
    given = {"env": "e", "num_steps": 60, "num_episodes": 1, "optimal": None, "memoryless": None}
    return Comparison(rows=[row(memory) for memory in memories], **given | changes)


# Break: colours by `row.memory`, or kinds of line by the algorithm alone.
def test_a_memory_has_its_colour_whatever_is_read_besides():
    both = result("gru", "gru+reward", "lstm+reward")
    (one, line, marker), (same, other, another), (lstm, *as_other) = (_look(both, row) for row in both.rows)
    assert one == same != lstm
    assert line != other
    assert marker != another
    assert as_other == [other, another]


@pytest.fixture
def axes():
    return Figure().subplots()


# Break: a grid from 0 to the steps that were asked for, or a band from `seeds.min(0)` to `seeds.max(0)`.
def test_curves_are_those_of_the_page(axes):
    _curves(axes, result("gru"))
    line = line_over_seeds("gru", CURVES, Style(0))
    np.testing.assert_allclose(axes.lines[0].get_xydata(), line.points)
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(max(high for _, _, high in line.band))
    assert "95 %" in axes.get_title(loc="left")


# Break: `set_ylim` left out: two seeds' bands flatten the curves.
def test_a_wide_band_leaves_room_for_the_curves(axes):
    _curves(axes, result("gru"))
    low, high = axes.get_ylim()
    assert high - low <= 2 * 2.0 + 1e-9  # the seeds, smoothed, lie between 1 and 3


# Break: `aside` left out: the last marker hides the others.
def test_equal_means_stand_side_by_side(axes):
    tried = [Tried(value=5, needed=0.9, seed_means=[0.4], solved=False)]
    sweep = Horizon(key="length", values=[5, 10], tried={f"ppo:{name}": tried for name in ("none", "gru", "lstm")})
    _horizon(axes, result("none", "gru", "lstm"), sweep)
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    places = [float(line.get_transform().transform(line.get_xydata())[0, 0]) for line in dots]
    assert np.diff(places) == pytest.approx([7 / 72 * axes.figure.dpi] * 2)


# Break: a line from the first bar to the third, where the second is not known; NaN across the panel.
def test_a_bar_only_where_something_counts_as_solved(axes):
    tried = [Tried(value=5, needed=0.8, seed_means=[0.9], solved=True, random=0.1),
             Tried(value=10, needed=math.nan, seed_means=[0.3], solved=False, random=0.2)]  # fmt: skip
    _horizon(axes, result("gru"), Horizon(key="length", values=[5, 10, 20], tried={"ppo:gru": tried}))
    bar, floor = axes.lines[-2:]
    assert (bar.get_linestyle(), bar.get_marker(), bar.get_xydata().tolist()) == ("-", "_", [[5, 0.8]])
    assert (floor.get_linestyle(), floor.get_xydata().tolist()) == ("-.", [[5, 0.1], [10, 0.2]])
    assert [(text.get_text(), text.xy) for text in axes.texts][-1] == ("random actions", (10, 0.2))
    _horizon(axes, result("gru"), Horizon(key="length", values=[10], tried={"ppo:gru": tried[1:]}))
    assert axes.lines[-1].get_ydata() == [0.2, 0.2]
    assert axes.lines[-2].get_linestyle() != "-"


# Break: `axhline` or `set_xlim` left out: the bar is a line through one point, and the axis is from 116 to 120.
def test_one_value_tried(axes):
    tried = [Tried(value=116, needed=0.9, seed_means=[0.4], solved=False)]
    _horizon(axes, result("none"), Horizon(key="length", values=[116], tried={"ppo:none": tried}))
    bar = axes.lines[-1]
    assert (bar.get_linestyle(), *bar.get_ydata()) == ("-", 0.9, 0.9)
    assert [text.get_text() for text in axes.texts] == ["counts as solved"]
    assert list(bar.get_xdata()) == [0, 1]  # of the panel's width
    assert axes.get_xlim() == pytest.approx((58, 232))
