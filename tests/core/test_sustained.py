"""Rates in bins, burst against what lasts, and watts from a counter; truths are built into the runs."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.energy import Absence, Sample
from edgebench.core.sustained import (
    NEVER,
    STALLED,
    bin_edges,
    bins,
    counter_of,
    log_slope,
    mean_w,
    retained,
    sustained,
    time_below_s,
)


def run_of(*stretches: tuple[float, float]) -> tuple[list[float], float]:
    """(moments of the tokens, duration) of stretches of (seconds, tokens/s)."""
    moments: list[float] = []
    start_s = 0.0
    for length_s, rate in stretches:
        moments += (start_s + np.arange(1, round(length_s * rate) + 1) / rate).tolist()
        start_s += length_s
    return moments, start_s


def counter(power: Callable[[float], float], until_s: float, step_s: float = 0.1) -> list[Sample]:
    t_s = np.arange(-5, until_s + 5, step_s)
    joules = np.cumsum([power(t) * step_s for t in t_s])
    return [Sample(float(t), float(j)) for t, j in zip(t_s, joules, strict=True)]


def test_a_steady_rate_is_the_same_in_every_bin_though_tokens_do_not_fit() -> None:
    moments, duration_s = run_of((100, 2.05))
    assert bins(moments, duration_s) == pytest.approx([2.05] * 10)


@pytest.mark.parametrize(
    ("duration_s", "edges"),
    [
        (0.0, [0]),
        (4.9, [0]),
        (5.0, [0, 5]),
        (24.9, [0, 10, 20]),
        (25.0, [0, 10, 20, 25]),
        (29.99, [0, 10, 20, 29.99]),
        (30.2, [0, 10, 20, 30]),
    ],
)
def test_a_last_bin_is_kept_when_it_is_half_a_bin_or_more(duration_s: float, edges: list[float]) -> None:
    assert bin_edges(duration_s) == edges
    assert len(bins([1.0], duration_s)) == len(edges) - 1


def test_a_last_bin_has_the_rate_of_its_true_length() -> None:
    moments, duration_s = run_of((26, 8.0))
    assert bins(moments, duration_s) == pytest.approx([8.0, 8.0, 8.0])


@given(
    st.lists(st.floats(0.001, 120), max_size=60),
    st.floats(5, 120),
    st.sampled_from([1.0, 7.5, 10.0]),
)
def test_no_token_is_counted_twice_or_lost(moments: list[float], duration_s: float, width_s: float) -> None:
    edges = bin_edges(duration_s, width_s)
    rates = bins(moments, duration_s, width_s)
    counted = sum(rate * (b - a) for rate, a, b in zip(rates, edges, edges[1:], strict=False))
    done = sum(moment <= edges[-1] for moment in moments)
    assert done - 1e-6 <= counted <= min(done + 1, len(moments)) + 1e-6
    assert min(rates, default=0) >= 0


def test_burst_and_what_lasts_of_a_run_that_throttles() -> None:
    moments, duration_s = run_of((120, 50.0), (60, 44.0), (420, 30.0))
    found = sustained(moments, duration_s)
    assert found.n_bins == 60
    assert found.burst_tokens_per_s is not None
    assert found.sustained_tokens_per_s is not None
    assert found.retained_share is not None
    assert found.burst_tokens_per_s.value == pytest.approx(50)
    assert (found.burst_tokens_per_s.ci_low, found.burst_tokens_per_s.n) == (None, 3)
    assert found.sustained_tokens_per_s.value == pytest.approx(30)
    assert found.retained_share.value == pytest.approx(0.6)
    assert found.retained_share.n == 9
    assert found.time_to_90_s == 120  # 44 is below 45
    assert found.not_steady


def test_a_dip_of_two_bins_is_no_fall_and_moves_no_median() -> None:
    moments, duration_s = run_of((10, 50.0), (10, 20.0), (70, 50.0), (20, 10.0), (30, 50.0))
    found = sustained(moments, duration_s)
    assert found.burst_tokens_per_s is not None
    assert found.burst_tokens_per_s.value == pytest.approx(50)
    assert found.sustained_tokens_per_s is not None
    assert found.sustained_tokens_per_s.value == pytest.approx(50)
    assert found.time_to_90_s is None
    assert found.reasons["time_to_90_s"] == NEVER


def test_three_bins_in_a_row_are_a_fall_also_when_it_recovers() -> None:
    assert time_below_s([10, 8, 8, 10, 8, 8, 8, 10], 9) == 40
    assert time_below_s([10, 9, 9, 9, 10], 9) is None
    assert time_below_s([8, 8], 9) is None


@pytest.mark.parametrize(
    ("duration_s", "known"),
    [(20, set()), (30, {"burst"}), (80, {"burst"}), (84.9, {"burst"}), (85, {"burst", "sustained"})],
)
def test_a_short_run_says_what_it_can(duration_s: float, known: set[str]) -> None:
    moments, _ = run_of((duration_s, 20.0))
    found = sustained(moments, duration_s, energy=counter(lambda _: 5.0, duration_s))
    assert (found.burst_tokens_per_s is not None) == ("burst" in known)
    assert (found.burst_w is not None) == ("burst" in known)
    assert (found.sustained_tokens_per_s is not None) == ("sustained" in known)
    assert (found.sustained_j_per_token is not None) == ("sustained" in known)
    assert (found.retained_share is not None) == ("sustained" in known)
    fields = ("burst_tokens_per_s", "sustained_tokens_per_s", "retained_share", "time_to_90_s", "slope")
    fields += ("temperature_max_c", "burst_w", "sustained_w", "burst_j_per_token", "sustained_j_per_token")
    assert found.reasons.keys() == {name for name in fields if getattr(found, name) is None}


def test_an_interval_holds_the_ratio_about_95_times_in_100_whichever_part_is_noisier() -> None:
    rng = np.random.default_rng(0)
    for noise in ((0.02, 0.02), (0.01, 0.05), (0.05, 0.01)):
        held = []
        for _ in range(2000):
            before = 50 * np.exp(noise[0] * rng.standard_normal(3))
            after = 30 * np.exp(noise[1] * rng.standard_normal(6))
            found = retained(before.tolist(), after.tolist())
            assert found.ci_low is not None
            assert found.ci_high is not None
            held.append(found.ci_low <= 0.6 <= found.ci_high)
        assert 0.94 <= np.mean(held) <= 0.98


@given(
    st.lists(st.floats(0.01, 1e4), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 1e4), min_size=6, max_size=6),
    st.floats(0.1, 10),
)
def test_the_ratio_lies_within_its_interval_and_knows_no_unit(
    before: list[float], after: list[float], scale: float
) -> None:
    found = retained(before, after)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0 <= found.ci_low <= found.value * (1 + 1e-9)
    assert found.value <= found.ci_high * (1 + 1e-9)
    scaled = retained([scale * rate for rate in before], [scale * rate for rate in after])
    assert scaled.value == pytest.approx(found.value, rel=1e-6)


def test_a_stall_is_told_and_nothing_is_divided_by_it() -> None:
    moments, _ = run_of((40, 20.0))
    found = sustained(moments, 100, energy=counter(lambda _: 5.0, 100))
    assert (found.retained_share, found.slope, found.sustained_j_per_token) == (None, None, None)
    assert {found.reasons[name] for name in ("retained_share", "slope", "sustained_j_per_token")} == {STALLED}
    assert found.sustained_w == pytest.approx(5)
    assert found.time_to_90_s == 40
    assert not found.not_steady


def test_the_slope_is_that_of_the_logarithm() -> None:
    rates = [50 * math.exp(-0.001 * (10 * i + 5)) for i in range(60)]
    slope = log_slope(rates)
    assert slope is not None
    assert slope.value == pytest.approx(-0.001)
    assert log_slope(rates[:5]) is None


def test_noise_is_called_steady_19_times_in_20_even_when_neighbours_are_alike() -> None:
    rng = np.random.default_rng(1)
    blamed = []
    for _ in range(1000):
        wander = np.zeros(60)
        for i in range(1, 60):
            wander[i] = 0.5 * wander[i - 1] + 0.02 * rng.standard_normal()
        slope = log_slope((40 * np.exp(wander)).tolist())
        assert slope is not None
        assert slope.ci_low is not None
        assert slope.ci_high is not None
        blamed.append(not slope.ci_low <= 0 <= slope.ci_high)
    # A line through the bins themselves is blamed one time in five.
    assert np.mean(blamed) < 0.10


def test_power_and_energy_of_both_parts() -> None:
    moments, duration_s = run_of((150, 50.0), (150, 25.0))
    found = sustained(moments, duration_s, energy=counter(lambda t: 10.0 if t < 150 else 4.0, duration_s))
    assert found.burst_w == pytest.approx(10)
    assert found.burst_j_per_token == pytest.approx(0.2)
    assert found.sustained_w == pytest.approx(4)
    assert found.sustained_j_per_token == pytest.approx(0.16)


def test_a_part_that_is_too_short_for_its_meter_has_no_power() -> None:
    moments, duration_s = run_of((120, 20.0))
    found = sustained(moments, duration_s, energy=counter(lambda _: 5.0, duration_s), minimum_s=60)
    assert (found.burst_w, found.reasons["burst_w"]) == (None, Absence.WINDOW_TOO_SHORT)
    assert found.sustained_w == pytest.approx(5)


def test_the_reason_for_no_energy_is_passed_on() -> None:
    moments, duration_s = run_of((120, 20.0))
    found = sustained(moments, duration_s, energy=Absence.PLUGGED_IN)
    names = ("burst_w", "sustained_w", "burst_j_per_token", "sustained_j_per_token")
    assert {found.reasons[name] for name in names} == {"plugged_in"}


def test_the_hottest_moment_is_within_the_run() -> None:
    moments, duration_s = run_of((100, 20.0))
    heat = [Sample(-1, 95.0), Sample(0, 50.0), Sample(60, 81.5), Sample(100, 70.0), Sample(130, 99.0)]
    assert sustained(moments, duration_s, temperatures=heat).temperature_max_c == 81.5
    without = sustained(moments, duration_s, temperatures=heat[:1])
    assert (without.temperature_max_c, without.reasons["temperature_max_c"]) == (None, Absence.NO_SENSOR)


def test_sampled_watts_are_integrated_by_trapezoids() -> None:
    ramp = [Sample(0.5 * i, 2.0 * 0.5 * i) for i in range(41)]  # 2 W/s for 20 s
    assert counter_of(ramp)[-1] == Sample(20.0, pytest.approx(400.0))
    assert mean_w(counter_of(ramp), 5, 15) == pytest.approx(20)
    assert counter_of([]) == []


def test_a_coarse_counter_is_read_between_its_changes() -> None:
    fine = counter(lambda _: 7.0, 100)
    coarse = [Sample(sample.t_s, sample.value // 36 * 36) for sample in fine]  # 36 J, as a battery's gauge
    found = mean_w(coarse, 20, 80)
    assert isinstance(found, float)
    assert found == pytest.approx(7, rel=0.02)
    assert mean_w(coarse, 20, 40) is Absence.WINDOW_TOO_SHORT  # three or four changes


def test_why_a_counter_says_nothing() -> None:
    steady = counter(lambda _: 5.0, 100)
    assert mean_w([], 0, 10) is Absence.NO_SENSOR
    assert mean_w(steady[:1], 0, 10) is Absence.GAP
    assert mean_w([sample for sample in steady if sample.t_s < 50], 40, 60) is Absence.GAP
    assert mean_w([s for s in steady if not 50 < s.t_s < 53], 40, 60) is Absence.GAP
    assert mean_w([s for s in steady if not 50 < s.t_s < 51], 40, 60) == pytest.approx(5)
    assert mean_w([Sample(s.t_s, 3.0) for s in steady], 40, 60) is Absence.WINDOW_TOO_SHORT
    wrapped = [Sample(s.t_s, s.value if s.t_s < 50 else s.value - 200) for s in steady]
    assert mean_w(wrapped, 40, 60) is Absence.COUNTER_RESET
    assert mean_w(wrapped, 60, 80) == pytest.approx(5)
