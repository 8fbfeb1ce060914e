"""Roots and Student's t against scipy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from edgebench.core.numeric import bisect, t_cdf, t_quantile

DEGREES = st.integers(min_value=1, max_value=2000)


@given(st.floats(min_value=-50, max_value=50), DEGREES)
def test_the_distribution_of_t_is_scipys(t: float, df: int) -> None:
    assert t_cdf(t, df) == pytest.approx(student.cdf(t, df), abs=1e-12)


@given(st.floats(min_value=0.5, max_value=0.9999), DEGREES)
def test_quantiles_of_t_are_scipys(p: float, df: int) -> None:
    assert t_quantile(p, df) == pytest.approx(student.ppf(p, df), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 3, 49, 50, 1088, 14041])
def test_the_quantile_of_95_percent_intervals_is_exact_to_ten_digits(df: int) -> None:
    assert t_quantile(0.975, df) == pytest.approx(student.ppf(0.975, df), rel=1e-10)


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_bisection_ends_at_the_root(root: float) -> None:
    assert bisect(lambda x: x - root, -1e6 - 1, 1e6 + 1) == pytest.approx(root, abs=1e-9)


def test_bisection_ends_even_when_nothing_lies_between() -> None:
    assert bisect(lambda x: x, 0.0, math.ulp(0.0)) in (0.0, math.ulp(0.0))
