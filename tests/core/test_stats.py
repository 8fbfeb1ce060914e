"""The statistics against scipy, and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

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
@example([[1.0, 1.0, 2.0, 4.0, 5.0], [3.0, 0.01], [0.01], [0.01]])
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


@given(COUNTS, COUNTS)
def test_mid_p_is_the_exact_p_less_the_probability_of_what_was_seen(n_lost: int, n_won: int) -> None:
    n = n_lost + n_won
    doubled = 2 * binom.cdf(min(n_lost, n_won), n, 0.5)
    found = stats.mcnemar_mid_p(n_lost, n_won)
    assert found == pytest.approx(doubled - binom.pmf(n_lost, n, 0.5), rel=1e-9)
    assert found <= stats.mcnemar_p(n_lost, n_won)


def test_the_exact_test_holds_its_level_and_mid_p_is_near_it() -> None:
    """Both sizes for every number of discordant pairs; then for shares of them, as they come in suites."""
    exact, mid = [], []
    for n in range(151):
        chance = binom.pmf(range(n + 1), n, 0.5)
        exact.append(sum(p for k, p in enumerate(chance) if stats.mcnemar_p(k, n - k) <= 0.05))
        mid.append(sum(p for k, p in enumerate(chance) if stats.mcnemar_mid_p(k, n - k) <= 0.05))
    assert max(exact) <= 0.05
    for n, discordance in ((100, 0.15), (100, 0.3), (500, 0.08), (500, 0.2), (1089, 0.03), (1089, 0.08)):
        weights = binom.pmf(range(151), n, discordance)
        assert weights.sum() > 0.999
        assert weights @ exact < 0.042
        assert 0.044 < weights @ mid < 0.052


def test_paired_difference_is_won_minus_lost() -> None:
    found = stats.paired_difference(10, 4, 100)
    assert found is not None
    assert found.value == pytest.approx(-0.06)
    assert found.n == 100
    assert stats.paired_difference(0, 0, 0) is None


@settings(deadline=None, max_examples=60)
@given(COUNTS, COUNTS, COUNTS)
def test_the_limits_of_a_difference_are_where_a_score_test_turns(
    n_lost: int, n_won: int, n_same: int
) -> None:
    n = n_lost + n_won + n_same
    found = stats.paired_difference(n_lost, n_won, n)
    if n == 0:
        return
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert -1 <= found.ci_low <= found.value <= found.ci_high <= 1
    for limit, sign in ((found.ci_low, 1), (found.ci_high, -1)):
        if abs(limit) < 1 - 1e-9:
            assert sign * _score(n_lost, n_won, n, limit) == pytest.approx(stats.Z95, abs=2e-3)


def _score(n_lost: int, n_won: int, n: int, difference: float) -> float:
    """Tango's statistic with the restricted likelihood maximised by scipy instead of by formula."""

    def unlikely(lost: float) -> float:
        won, same = lost + difference, 1 - 2 * lost - difference
        pairs = ((n_lost, lost), (n_won, won), (n - n_lost - n_won, same))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in pairs if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    lost = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * lost + difference - difference**2)
    return float((n_won - n_lost - n * difference) / math.sqrt(variance))


def test_without_a_discordant_pair_there_is_still_doubt() -> None:
    found = stats.paired_difference(0, 0, 100)
    assert found is not None
    assert found.ci_high == pytest.approx(3.8415 / 103.8415, abs=1e-5)  # z^2 / (n + z^2)
    assert found.ci_low == pytest.approx(-3.8415 / 103.8415, abs=1e-5)


def _width(estimate: stats.Estimate) -> float:
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return estimate.ci_high - estimate.ci_low
