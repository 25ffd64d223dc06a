"""How figures are written."""

import math

import pytest

from seqrl.reports.common import mean_and_interval, number


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
