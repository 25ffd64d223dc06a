"""How figures are written."""

import io
import math

import pytest
from rich.console import Console

from seqrl.reports.common import fitting_table, mean_and_interval, no_proof, number


# Break: `.3g` for the interval, which writes −2624 ± 3.98e+03.
@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (-2624.3, 3984.0, "-2624 ± 3980"),
        (0.5, 0.00001234, "0.5 ± 0.0000123"),
        (12345.6, math.nan, "12350"),
        (0.0, 0.0, "0 ± 0"),
        (2e8, 5e3, "2.000e+08 ± 5.00e+03"),
        (-1e-6, 2e-6, "-1.000e-06 ± 2.00e-06"),
    ],
)
def test_a_figure_and_its_interval_have_one_format(mean, half, text):
    assert mean_and_interval(mean, half) == text


def test_what_is_no_number_is_written():
    assert number(math.inf) == "inf"
    assert number(math.nan) == "nan"


def test_returns_that_are_all_the_same_are_no_proof():
    """`1 ± 0` of 20 episodes is what one who succeeds in 97 % of them has every other time.

    Must break: `no_proof` that is silent where returns are the same, or speaks where they are not."""
    words = no_proof([1.0] * 100, "episodes")
    assert (
        words
        == "All 100 returns are the same. That is no proof: another may still come in up to 2.95 % of episodes (95 %)."
    )
    assert no_proof([1.0] * 99 + [0.0], "episodes") == ""
    assert no_proof([1.0], "episodes") == ""


def test_what_stands_in_brackets_stays_together():
    """Breaks if: the heading is given as it is, which is broken between 95 and %."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(fitting_table({"β": ["0"], "return (95 %)": ["6.95 ± 2.2"]}, "", ""))
    assert "(95 %)" in console.export_text()
