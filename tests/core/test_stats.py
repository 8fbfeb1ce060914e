"""The statistics against scipy, and by their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgebench.core import stats

COUNTS = st.integers(min_value=0, max_value=400)
TIMES = st.floats(min_value=0.01, max_value=100)
GROUPS = st.lists(st.lists(TIMES, min_size=1, max_size=5), min_size=1, max_size=4)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_exact_binomial_test(n_lost: int, n_won: int) -> None:
    expected = binomtest(n_lost, n_lost + n_won, 0.5).pvalue if n_lost + n_won else 1.0
    assert stats.mcnemar_p(n_lost, n_won) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_survives_counts_beyond_a_float() -> None:
    assert stats.mcnemar_p(3000, 3000) == 1.0
    assert 0 < stats.mcnemar_p(2900, 3100) < 0.05


@given(COUNTS, COUNTS)
def test_wilson_interval_is_scipys(n_hits: int, n_misses: int) -> None:
    n = n_hits + n_misses
    found = stats.wilson(n_hits, n)
    if n == 0:
        assert found is None
        return
    expected = binomtest(n_hits, n).proportion_ci(method="wilson")
    assert found is not None
    assert found.ci_low == pytest.approx(expected.low, abs=1e-9)
    assert found.ci_high == pytest.approx(expected.high, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(GROUPS)
def test_median_lies_in_its_interval_and_the_interval_among_the_values(groups: list[list[float]]) -> None:
    found = stats.median_of_groups(groups)
    values = np.concatenate(groups)
    assert found is not None
    assert found.value == np.median(values)
    assert found.n == len(values)
    if found.ci_low is None or found.ci_high is None:
        assert len(values) < stats.MIN_FOR_MEDIAN_INTERVAL
    else:
        assert min(values) <= found.ci_low <= found.ci_high <= max(values)


@settings(deadline=None, max_examples=25)
@given(GROUPS, st.sampled_from([0.5, 2.0, 1024.0]))
def test_median_interval_scales_with_the_values(groups: list[list[float]], factor: float) -> None:
    plain = stats.median_of_groups(groups)
    scaled = stats.median_of_groups([[factor * value for value in group] for group in groups])
    assert plain is not None
    assert scaled is not None
    assert scaled.value == pytest.approx(factor * plain.value)
    if plain.ci_low is not None and plain.ci_high is not None:
        assert scaled.ci_low == pytest.approx(factor * plain.ci_low)
        assert scaled.ci_high == pytest.approx(factor * plain.ci_high)


def test_a_spread_between_processes_widens_the_interval() -> None:
    together = stats.median_of_groups([[1.0, 1.1, 1.2, 2.0, 2.1, 2.2]] * 2)
    apart = stats.median_of_groups([[1.0, 1.1, 1.2] * 2, [2.0, 2.1, 2.2] * 2])
    assert together is not None
    assert apart is not None
    assert _width(apart) > _width(together)


def test_no_values_have_no_median() -> None:
    assert stats.median_of_groups([]) is None
    assert stats.median_of_groups([[], []]) is None


@settings(deadline=None, max_examples=25)
@given(GROUPS)
def test_a_ratio_of_the_same_runs_is_one_and_its_interval_holds_one(groups: list[list[float]]) -> None:
    found = stats.ratio_of_medians(groups, groups)
    assert found is not None
    assert found.value == 1
    if found.ci_low is not None and found.ci_high is not None:
        assert found.ci_low <= 1 <= found.ci_high


def test_a_ratio_of_constants_is_exact() -> None:
    found = stats.ratio_of_medians([[2.0] * 6], [[3.0] * 7])
    assert found == stats.Estimate(value=1.5, ci_low=1.5, ci_high=1.5, n=6)


def test_a_ratio_needs_both_sides() -> None:
    assert stats.ratio_of_medians([], [[1.0]]) is None
    assert stats.ratio_of_medians([[1.0]], []) is None


def test_outliers_are_counted_beyond_the_fences() -> None:
    assert stats.n_outliers([1.0, 1.1, 0.9, 1.0, 1.05, 9.0]) == 1
    assert stats.n_outliers([1.0, 9.0, 90.0]) == 0


def test_holm_steps_down_and_never_lets_a_larger_p_become_smaller() -> None:
    assert stats.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_paired_difference_is_won_minus_lost() -> None:
    found = stats.paired_difference(10, 4, 100)
    assert found is not None
    assert found.value == pytest.approx(-0.06)
    assert found.ci_low == pytest.approx(-0.06 - 1.96 * (14 - 0.36) ** 0.5 / 100, abs=1e-5)


def _width(estimate: stats.Estimate) -> float:
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return estimate.ci_high - estimate.ci_low
