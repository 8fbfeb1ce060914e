"""Percentiles that have their sample, trends, warnings, and when a figure is good enough."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress, norm
from scipy.stats import t as student

from edgebench.core.grouped import dependence, t95
from edgebench.core.latency import (
    MIN_FOR_PERCENTILE,
    enough,
    gaps_s,
    is_not_steady,
    percentile,
    relative_half_width,
    slope_of_log,
    total_change_share,
    tpot_s,
    warnings_of,
)
from edgebench.core.stats import Estimate


def limits(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return estimate.ci_low, estimate.ci_high


# Percentiles


@pytest.mark.parametrize(("percent", "least"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_its_sample(percent: int, least: int) -> None:
    values = np.random.default_rng(percent).lognormal(size=least)
    found = percentile([[v] for v in values], percent)
    low, high = limits(found)
    assert found is not None
    assert (found.value, found.n) == (np.quantile(values, percent / 100), least)
    assert min(values) < low < found.value < high <= max(values)
    assert percentile([[v] for v in values[1:]], percent) is None


def test_the_samples_are_those_of_mlperfs_early_stopping() -> None:
    """With no value above allowed: p^n <= 1 - 0.99 has to hold for the n values but one."""
    for percent, least in MIN_FOR_PERCENTILE.items():
        share = percent / 100
        # h values below and t = 1 above: the chance of one or fewer above, were the percentile higher.
        chance = [share**n + n * (1 - share) * share ** (n - 1) for n in (least - 1, least)]
        assert chance[1] <= 0.01 < chance[0]


def test_an_unknown_percentile_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        percentile([[1.0]] * 1000, 75)


def test_gaps_of_requests_that_differ_tell_less() -> None:
    rng = np.random.default_rng(2)
    alike = rng.normal(1, 0.1, (20, 50))
    apart = alike + rng.normal(0, 0.1, (20, 1))
    mixed = rng.permuted(apart.ravel()).reshape(20, 50)
    one, other = (limits(percentile(requests.tolist(), 50)) for requests in (mixed, apart))
    assert other[1] - other[0] > 2 * (one[1] - one[0])


def test_one_request_has_a_percentile_without_interval() -> None:
    found = percentile([np.linspace(0, 1, 101).tolist(), []], 90)
    assert found == Estimate(value=pytest.approx(0.9), ci_low=None, ci_high=None, n=101)
    assert percentile([], 50) is None


def test_a_tail_that_few_requests_make_has_no_interval() -> None:
    requests = [[1.0 + i] * 100 for i in range(10)]
    found = percentile(requests, 99)
    assert found is not None
    assert (found.value, found.ci_high) == (10.0, None)


@pytest.mark.parametrize(
    ("percent", "n_requests", "n_gaps"), [(50, 10, 64), (90, 30, 64), (95, 20, 64), (90, 64, 1)]
)
def test_intervals_of_percentiles_cover(percent: int, n_requests: int, n_gaps: int) -> None:
    """Gaps of a request are alike: its sd is a third of theirs."""
    rng, held = np.random.default_rng(percent), []
    truth = math.hypot(1, 0.33) * norm.ppf(percent / 100)
    for _ in range(400):
        gaps = 0.33 * rng.normal(size=(n_requests, 1)) + rng.normal(size=(n_requests, n_gaps))
        low, high = limits(percentile(gaps.tolist(), percent))
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 0.985


# Tokens


def test_time_per_token_is_the_mean_gap() -> None:
    times_s = [0.5, 0.6, 0.9, 1.0]
    assert gaps_s(times_s) == pytest.approx([0.1, 0.3, 0.1])
    assert tpot_s(times_s) == pytest.approx(np.mean(gaps_s(times_s)))
    assert (tpot_s([0.5]), tpot_s([]), gaps_s([0.5])) == (None, None, [])


# Trends


def test_slope_is_linear_regressions_of_the_logarithm_per_minute() -> None:
    rng = np.random.default_rng(4)
    times_s = np.sort(rng.uniform(0, 300, 40))
    # Neighbours' residuals that do not correlate, in this draw: then nothing is widened.
    values = 50 * np.exp(-0.001 * times_s + 0.02 * rng.choice([-1, 1]) * (-1.0) ** np.arange(40))
    expected = linregress(times_s / 60, np.log(values))
    found = slope_of_log(times_s.tolist(), values.tolist())
    assert found is not None
    half = student.ppf(0.975, 38) * expected.stderr
    assert found.value == pytest.approx(math.expm1(expected.slope))
    assert limits(found) == pytest.approx(
        (math.expm1(expected.slope - half), math.expm1(expected.slope + half)), rel=1e-4
    )


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.01, 0.01), st.floats(0.1, 1000.0), st.floats(-1e4, 1e4))
def test_an_exact_trend_is_found_whatever_scale_and_clock(rate: float, scale: float, zero_s: float) -> None:
    times_s = [zero_s + 10 * i for i in range(12)]
    found = slope_of_log(times_s, [scale * math.exp(rate * 10 * i) for i in range(12)])
    assert found is not None
    assert found.value == pytest.approx(math.expm1(60 * rate), abs=1e-6)
    assert total_change_share(found, 110.0) == pytest.approx(math.expm1(110 * rate), abs=1e-5)
    if abs(rate) > 0.001:
        assert is_not_steady(found, 110.0)


@pytest.mark.parametrize("rate", [-2000.0, -1.0, 1.0, 2000.0])
def test_a_trend_within_a_blink_has_a_slope_and_an_end(rate: float) -> None:
    times_s = [1e-3 * i for i in range(8)]
    found = slope_of_log(times_s, [math.exp(rate * t) * (1 + 0.01 * (i % 2)) for i, t in enumerate(times_s)])
    assert found is not None
    assert (found.value > 0) == (rate > 0)
    assert math.isfinite(total_change_share(found, 0.007))


def test_a_trend_is_one_when_sure_and_large() -> None:
    sure = Estimate(value=-0.01, ci_low=-0.011, ci_high=-0.009, n=40)
    unsure = Estimate(value=-0.05, ci_low=-0.11, ci_high=0.01, n=40)
    assert is_not_steady(sure, 240.0)
    assert not is_not_steady(sure, 60.0)  # 1 % in all
    assert not is_not_steady(unsure, 600.0)
    assert not is_not_steady(None, 600.0)


def test_waves_are_less_sure_than_noise() -> None:
    rng = np.random.default_rng(8)
    wave = np.exp(0.1 * np.sin(np.arange(60) / 6))
    times_s = [10.0 * i for i in range(60)]
    calm, mixed = (slope_of_log(times_s, values.tolist()) for values in (wave, rng.permutation(wave)))
    assert limits(calm)[1] - limits(calm)[0] > 2 * (limits(mixed)[1] - limits(mixed)[0])


def test_noise_is_seldom_a_trend() -> None:
    rng = np.random.default_rng(6)
    times_s = [10.0 * i for i in range(30)]
    slopes = [slope_of_log(times_s, np.exp(0.1 * rng.normal(size=30)).tolist()) for _ in range(600)]
    held = [low <= 0 <= high for low, high in map(limits, slopes)]
    assert 0.93 <= np.mean(held) <= 0.985


@pytest.mark.parametrize(
    ("times_s", "values"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5),
        ([3.0] * 6, [1.0] * 6),
        (list(range(6)), [1.0] * 5 + [0.0]),
        ([], []),
    ],
)
def test_without_a_sample_a_span_or_positive_values_there_is_no_slope(
    times_s: list[float], values: list[float]
) -> None:
    assert slope_of_log(times_s, values) is None


# Enough


def test_enough_is_half_the_interval_over_the_value() -> None:
    estimate = Estimate(value=50.0, ci_low=49.0, ci_high=52.0, n=10)
    assert relative_half_width(estimate) == pytest.approx(0.03)
    assert enough(estimate, 0.03)
    assert not enough(estimate, 0.029)
    without = Estimate(value=50.0, ci_low=None, ci_high=None, n=5)
    assert relative_half_width(without) is None
    assert not enough(without, 10.0)
    assert not enough(None, 10.0)


# Warnings


TIMES = [[10.0 * i for i in range(5)], [100 + 10.0 * i for i in range(5)]]


def codes(samples: list[list[float]], times_s: list[list[float]] = TIMES) -> set[str]:
    found = warnings_of(samples, times_s)
    assert all(warning.text and warning.remedy for warning in found)
    return {warning.code for warning in found}


def test_quiet_repetitions_have_no_warning() -> None:
    assert codes([[50.0, 50.5, 49.8, 50.2, 49.9], [50.1, 50.3, 49.7, 50.0, 50.4]]) == set()
    assert codes([[], []], [[], []]) == set()
    assert codes([[50.0]], [[1.0]]) == set()


def test_each_trouble_has_its_warning() -> None:
    quiet = [50.0, 50.5, 49.8, 50.2, 49.9]
    assert codes([[50, 60, 40, 55, 45], [60, 40, 50, 44, 56]]) == {"spread"}
    assert codes([[50.0, 50.5, 23.0, *quiet * 4], quiet * 4], _even(23, 20)) == {"outlier"}
    assert codes([quiet, [v * 1.2 for v in quiet]], [TIMES[0], TIMES[0]]) == {"processes_differ"}
    falling = [50 * math.exp(-0.001 * t) for t in TIMES[0] + TIMES[1]]
    assert "drift" in codes([falling[:5], falling[5:]])


def _even(*sizes: int) -> list[list[float]]:
    """Processes one after the other, a repetition each ten seconds."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [[10.0 * i for i in range(a, b)] for a, b in pairwise(ends)]


def test_a_warning_says_how_much() -> None:
    (warning,) = warnings_of([[50.0, 50.5, 49.8, 50.2, 80.0] * 4], _even(20))[1:]
    assert (warning.code, warning.text) == ("outlier", "a repetition is 59% off the median")


def test_noise_alone_hardly_ever_warns_of_processes_or_drift() -> None:
    rng = np.random.default_rng(3)
    found = [codes(rng.normal(50, 1.5, (2, 5)).tolist()) for _ in range(300)]
    assert np.mean(["processes_differ" in c for c in found]) < 0.05
    assert np.mean(["drift" in c for c in found]) < 0.08


# Values of several processes


def test_t_of_whole_and_other_degrees_of_freedom() -> None:
    for df in (1, 1.5, 2, 2.3, 5, 8.7, 29.9, 30, 44.4, 1e4):
        assert t95(df) == pytest.approx(student.ppf(0.975, df), rel=0.03 if df < 2 else 0.005)


def test_dependence_is_the_analysis_of_variance() -> None:
    groups = [[1.0, 1.2, 1.1], [1.5, 1.4, 1.7], [0.9, 1.2, 1.3]]
    found = dependence(groups)
    means = np.mean(groups, axis=1)
    between = 3 * np.var(means, ddof=1)
    within = np.mean(np.var(groups, axis=1, ddof=1))
    assert found.f_ratio == pytest.approx(between / within)
    assert found.design_effect == pytest.approx(between / np.var(groups, ddof=1))
    assert 2 < found.df < 8


@pytest.mark.parametrize(
    "groups",
    [[[1.0, 2.0, 4.0]], [[1.0], [2.0], [4.0]], [[1.0, 3.0], [1.5, 2.5], []], [[2.0, 2.0], [2.0, 2.0]]],
)
def test_what_shows_no_difference_counts_as_independent(groups: list[list[float]]) -> None:
    found = dependence(groups)
    assert (found.design_effect, found.df) == (1.0, sum(map(len, groups)) - 1)


def test_values_equal_within_groups_are_as_many_as_groups() -> None:
    found = dependence([[1.0] * 5, [2.0] * 5, [3.0] * 5])
    assert found.df == 2
    assert found.design_effect == pytest.approx(5 * 14 / 10)
