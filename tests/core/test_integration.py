"""Joules of windows against closed forms, on samples as real meters give them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from edgebench.core.energy import Absence, EnergyReading, MeterFacts, Method, Sample, Scope
from edgebench.core.integration import energy_between, net_of_idle, repeated
from edgebench.core.types import Evidence

COUNTER = MeterFacts(
    source="rapl:package",
    scope=Scope.PACKAGE,
    method=Method.COUNTER,
    step=61e-6,
    update_s=0.001,
    minimum_s=5.0,
)
SLOW_COUNTER = MeterFacts(
    source="nvml:0", scope=Scope.GPU_BOARD, method=Method.COUNTER, step=0.001, update_s=0.1, minimum_s=5.0
)
SAMPLED = MeterFacts(
    source="hwmon:ina", scope=Scope.PLATFORM, method=Method.SAMPLED, step=0.001, update_s=0.1, minimum_s=10.0
)
EXACT = MeterFacts(
    source="ideal", scope=Scope.WALL, method=Method.SAMPLED, step=0.0, update_s=0.001, minimum_s=1.0
)

Power = Callable[[float], float]


def sampled(power_w: Power, start_s: float, end_s: float, every_s: float) -> list[Sample]:
    return [Sample(t, power_w(t)) for t in np.arange(start_s, end_s + every_s / 2, every_s).tolist()]


def counted(
    energy_j: Power, facts: MeterFacts, end_s: float, every_s: float, phase_s: float = 0.0
) -> list[Sample]:
    """A counter polled every so often, that updates every `update_s` and shows whole steps."""
    samples = []
    for t in np.arange(0.0, end_s + every_s / 2, every_s).tolist():
        updated_s = math.floor((t - phase_s) / facts.update_s + 1e-9) * facts.update_s + phase_s
        samples.append(Sample(t, math.floor(energy_j(updated_s) / facts.step) * facts.step))
    return samples


def value(reading: EnergyReading) -> float:
    assert reading.reason is None, reading.detail
    assert reading.value_j is not None
    return reading.value_j


def u95(reading: EnergyReading) -> float:
    assert reading.u95_j is not None
    return reading.u95_j


# Closed forms


@pytest.mark.parametrize("zero_s", [0.0, -7.0, 86_400.0])
def test_a_ramp_is_exact_with_edges_between_samples_wherever_the_clock_has_its_zero(zero_s: float) -> None:
    samples = sampled(lambda t: 5 + 0.5 * (t - zero_s), zero_s, zero_s + 30, 0.1)
    found = energy_between(samples, SAMPLED, zero_s + 3.033, zero_s + 20.077)
    assert value(found) == pytest.approx(5 * 17.044 + 0.25 * (20.077**2 - 3.033**2), rel=1e-6)
    assert (found.source, found.scope, found.method) == ("hwmon:ina", Scope.PLATFORM, Method.SAMPLED)
    assert (found.n_samples, found.flags, found.evidence) == (170, (), Evidence.MEASURED)
    assert found.duration_s == pytest.approx(17.044)
    assert found.mean_w == pytest.approx(value(found) / 17.044)


@pytest.mark.parametrize(("period_s", "within"), [(20.0, 2e-4), (1.0, 0.005)])
def test_a_sine_is_the_closed_form_to_the_trapezoids_error(period_s: float, within: float) -> None:
    omega = 2 * math.pi / period_s
    found = energy_between(sampled(lambda t: 10 + 5 * math.sin(omega * t), 0, 40, 0.1), SAMPLED, 2.5, 33.3)
    truth = 10 * 30.8 + 5 / omega * (math.cos(omega * 2.5) - math.cos(omega * 33.3))
    assert value(found) == pytest.approx(truth, rel=within)
    # The rule takes h^2 / 12 x |change of slope| too little or too much, and no more.
    assert abs(value(found) - truth) <= 0.1**2 / 12 * 5 * omega * 2 + 2 * 0.1**3 * 5 * omega**2


@pytest.mark.parametrize("every_s", [0.1, 0.02, 0.011])
def test_a_step_is_off_by_half_an_update_at_most_however_often_it_is_read(every_s: float) -> None:
    def shown(t: float) -> float:
        updated_s = math.floor(t / 0.1 + 1e-9) * 0.1
        return 50.0 if updated_s >= 12.05 else 10.0

    found = energy_between(sampled(shown, 0, 30, every_s), SAMPLED, 5.0, 25.0)
    # 7.1 s at 10 W and 12.9 s at 50 W, give or take one and a half updates' ramp.
    assert value(found) == pytest.approx(71 + 645, abs=40 * 0.15 / 2 + 40 * every_s)
    assert found.flags == ()


def test_a_constant_load_shows_a_constant_value_and_that_is_no_gap() -> None:
    found = energy_between(sampled(lambda _: 7.0, 0, 40, 0.02), SAMPLED, 5.0, 35.0)
    assert value(found) == pytest.approx(210.0)
    assert found.flags == ()


def test_a_stale_staircase_is_read_as_the_ramp_it_was() -> None:
    """Polled ten times an update: kept whole, each update would be held until the next one."""
    staircase = sampled(lambda t: 5 + math.floor(t / 0.1 + 1e-9) * 0.1, 0, 31, 0.01)
    found = energy_between(staircase, SAMPLED, 0.0, 30.0)
    assert value(found) == pytest.approx(5 * 30 + 450, abs=0.02)  # held, it would be 1.5 J less


# Counters


@pytest.mark.parametrize("phase_s", [0.0, 0.037, 0.093])
@pytest.mark.parametrize("every_s", [0.02, 0.1, 1.0])
def test_a_counter_is_right_within_its_uncertainty_whatever_the_phase(phase_s: float, every_s: float) -> None:
    samples = counted(lambda t: 120.0 * t, SLOW_COUNTER, 40.0, every_s, phase_s)
    found = energy_between(samples, SLOW_COUNTER, 5.25, 30.65)
    assert value(found) == pytest.approx(120 * 25.4, abs=1.5 * u95(found))
    assert u95(found) < 0.01 * value(found)
    assert found.resolution_j == 0.001


def test_uncertainty_of_counters_covers() -> None:
    """Phases of updates, edges and steps by chance; 95 % or more within u95."""
    rng, held = np.random.default_rng(3), []
    coarse = MeterFacts(
        source="battery:BAT0",
        scope=Scope.BATTERY,
        method=Method.COUNTER,
        step=2.0,
        update_s=0.05,
        minimum_s=5.0,
    )
    for _ in range(400):
        start_s, length_s = rng.uniform(1, 3), rng.uniform(6, 8)
        power_w, wave_w = rng.uniform(40, 60), rng.uniform(0, 20)

        def energy_j(t: float, power_w: float = power_w, wave_w: float = wave_w) -> float:
            return power_w * t - wave_w * math.cos(2.1 * t) / 2.1 + 100

        samples = counted(energy_j, coarse, 12.0, 0.05, rng.uniform(0, 0.05))
        found = energy_between(samples, coarse, start_s, start_s + length_s)
        truth = energy_j(start_s + length_s) - energy_j(start_s)
        held.append(abs(value(found) - truth) <= u95(found))
        assert u95(found) < 0.02 * truth
    assert np.mean(held) >= 0.95


def test_two_reads_of_a_counter_at_the_edges_are_enough() -> None:
    found = energy_between([Sample(3.0, 40.0), Sample(13.0, 640.0)], SLOW_COUNTER, 3.0, 13.0)
    assert value(found) == 600.0
    # Its step, and the age of both values: 60 W x 0.1 s.
    assert u95(found) == pytest.approx(1.96 * math.hypot(0.001, 6.0) / math.sqrt(6), rel=1e-3)


def test_edges_outside_the_samples_go_on_at_the_counters_rate() -> None:
    samples = counted(lambda t: 50.0 * t, COUNTER, 20.0, 0.1)
    assert value(energy_between(samples, COUNTER, -0.08, 20.06)) == pytest.approx(50 * 20.14, rel=1e-5)


def test_a_counter_that_stands_still_is_a_stub() -> None:
    found = energy_between([Sample(t, 12.0) for t in np.arange(0, 30, 0.1)], SLOW_COUNTER, 2.0, 25.0)
    assert (found.value_j, found.u95_j, found.reason) == (None, None, Absence.WINDOW_TOO_SHORT)
    assert "stood still" in found.detail
    assert found.resolution_j == 0.001


def test_a_counter_that_rested_between_two_loads_keeps_the_rest() -> None:
    def energy_j(t: float) -> float:
        return 100.0 * min(t, 10.0) + 100.0 * max(t - 30.0, 0.0)

    samples = counted(energy_j, SLOW_COUNTER, 45.0, 0.05)
    assert value(energy_between(samples, SLOW_COUNTER, 5.0, 20.0)) == pytest.approx(500.0, abs=11)
    assert value(energy_between(samples, SLOW_COUNTER, 20.0, 35.0)) == pytest.approx(500.0, abs=16)


def test_a_counter_that_goes_backwards_in_the_window_has_been_reset() -> None:
    samples = [Sample(t, 50 * t if t < 10 else 50 * (t - 10)) for t in np.arange(0, 40, 0.1).tolist()]
    assert energy_between(samples, COUNTER, 5.0, 15.0).reason is Absence.COUNTER_RESET
    assert value(energy_between(samples, COUNTER, 15.0, 25.0)) == pytest.approx(500.0)


def test_a_counter_counts_through_a_gap_in_the_middle_but_not_at_an_edge() -> None:
    times_s = [t for t in np.arange(0, 60, 0.1).tolist() if not 20 < t < 30]
    samples = [Sample(t, 50 * t) for t in times_s]
    inside = energy_between(samples, COUNTER, 5.0, 45.0)
    assert (value(inside), inside.flags) == (pytest.approx(2000.0), ())
    assert energy_between(samples, COUNTER, 5.0, 25.0).reason is Absence.GAP
    later = [Sample(t, 50 * t + 30 * max(t - 30, 0)) for t in times_s]
    near = energy_between(later, COUNTER, 5.0, 20.8)
    assert near.flags == ("gap",)
    # Power may have changed by 30 W at any moment of the gap.
    assert u95(near) == pytest.approx(1.96 * 30 * 10 / 2 / 3**0.5, rel=0.01)


def test_a_counter_of_few_steps_is_below_its_resolution() -> None:
    coarse = MeterFacts(
        source="battery:BAT0",
        scope=Scope.BATTERY,
        method=Method.COUNTER,
        step=36.0,
        update_s=1.0,
        minimum_s=60.0,
    )
    found = energy_between(counted(lambda t: 5.0 * t, coarse, 300.0, 1.0), coarse, 50.0, 250.0)
    assert found.reason is Absence.BELOW_RESOLUTION
    assert found.resolution_j == 36.0
    assert "s" in found.hint
    long = energy_between(counted(lambda t: 5.0 * t, coarse, 900.0, 1.0), coarse, 50.0, 850.0)
    assert value(long) == pytest.approx(4000.0, abs=36.0)


# Windows that can't be measured


@pytest.mark.parametrize(
    ("facts", "duration_s", "long_enough"),
    [(COUNTER, 4.99, False), (COUNTER, 5.0, True), (SLOW_COUNTER, 9.9, False), (SLOW_COUNTER, 10.0, True)],
)
def test_a_window_lasts_its_minimum_and_a_hundred_updates(
    facts: MeterFacts, duration_s: float, long_enough: bool
) -> None:
    samples = [Sample(t, 50 * t) for t in np.arange(0, 20, 0.1).tolist()]
    found = energy_between(samples, facts, 3.1, 3.1 + duration_s)
    assert found.reason is (None if long_enough else Absence.WINDOW_TOO_SHORT)
    assert ("repeat" in found.hint) is not long_enough


@pytest.mark.parametrize("end_s", [3.0, 2.0, math.nan, math.inf])
def test_a_window_that_is_none_has_no_energy(end_s: float) -> None:
    samples = sampled(lambda _: 5.0, 0, 30, 0.1)
    assert energy_between(samples, SAMPLED, 3.0, end_s).reason is Absence.WINDOW_TOO_SHORT


def test_a_small_gap_is_flagged_and_a_large_one_refused() -> None:
    def without(start_s: float, end_s: float) -> EnergyReading:
        samples = [s for s in sampled(lambda _: 8.0, 0, 40, 0.1) if not start_s < s.t_s < end_s]
        return energy_between(samples, SAMPLED, 5.0, 35.0)

    assert without(10.0, 10.2).flags == ()
    assert (without(10.0, 11.0).flags, value(without(10.0, 11.0))) == (("gap",), pytest.approx(240.0))
    assert without(10.0, 14.0).reason is Absence.GAP
    assert without(33.0, 50.0).reason is Absence.GAP  # it ends before the window does
    assert without(-1.0, 6.0).reason is Absence.GAP


@pytest.mark.parametrize("samples", [[], [Sample(9.0, 5.0)], [Sample(1.0, 5.0), Sample(2.0, 5.0)]])
def test_without_samples_in_the_window_there_is_only_a_gap(samples: list[Sample]) -> None:
    assert energy_between(samples, SAMPLED, 5.0, 25.0).reason is Absence.GAP


@pytest.mark.parametrize("wild", [math.nan, math.inf, -3.0])
def test_wild_values_of_the_window_are_not_integrated(wild: float) -> None:
    samples = sampled(lambda _: 8.0, 0, 40, 0.1)
    samples[150] = Sample(samples[150].t_s, wild)
    assert energy_between(samples, SAMPLED, 5.0, 25.0).reason is Absence.INCONSISTENT_SENSOR
    if not math.isfinite(wild):
        assert value(energy_between(samples, SAMPLED, 20.0, 35.0)) == pytest.approx(120.0)


def test_a_step_below_zero_is_rounding() -> None:
    assert value(energy_between(sampled(lambda _: -0.001, 0, 40, 0.1), SAMPLED, 5.0, 25.0)) < 0


@pytest.mark.parametrize("stamp_s", [9.0, math.nan])
def test_stamps_that_do_not_rise_are_no_clock(stamp_s: float) -> None:
    samples = sampled(lambda _: 8.0, 0, 40, 0.1)
    samples[150] = Sample(stamp_s, 8.0)
    assert energy_between(samples, SAMPLED, 5.0, 25.0).reason is Absence.INCONSISTENT_SENSOR


def test_two_samples_of_one_moment_are_one() -> None:
    samples = sampled(lambda t: 5 + t, 0, 40, 0.1)
    doubled = sorted([*samples, *samples[::3]])
    assert value(energy_between(doubled, SAMPLED, 5.0, 25.0)) == pytest.approx(
        value(energy_between(samples, SAMPLED, 5.0, 25.0))
    )


# Uncertainty


def test_documented_accuracy_is_rectangular() -> None:
    stated = MeterFacts(
        source="ideal",
        scope=Scope.WALL,
        method=Method.SAMPLED,
        step=0.0,
        update_s=0.001,
        minimum_s=1.0,
        accuracy=0.02,
    )
    samples = sampled(lambda _: 8.0, 0, 40, 0.1)
    assert u95(energy_between(samples, EXACT, 5.0, 25.0)) == 0
    assert u95(energy_between(samples, stated, 5.0, 25.0)) == pytest.approx(
        1.96 * 0.02 * 160 / 3**0.5, rel=1e-3
    )


def test_an_edge_on_a_steep_slope_is_less_sure() -> None:
    samples = sampled(lambda t: 10.0 if t < 9.95 else 60.0, 0, 40, 0.1)
    flat = energy_between(samples, EXACT, 5.05, 30.05)
    steep = energy_between(samples, EXACT, 9.94, 30.05)
    assert u95(flat) == 0
    assert u95(steep) == pytest.approx(1.96 * 50 * 0.1 / 2 / 3**0.5, rel=1e-3)


# Properties


POWERS = st.lists(st.floats(0.0, 100.0), min_size=30, max_size=60)
MOMENTS = st.tuples(*[st.floats(0.0, 1.0)] * 3)


def _three(powers: list[float], moments: tuple[float, float, float]) -> tuple[float, float, float]:
    """Three moments within the samples' time, a window's length apart."""
    spare_s = 0.1 * (len(powers) - 1) - 2 * EXACT.minimum_s
    a, b, c = sorted(moment * spare_s for moment in moments)
    return a, b + EXACT.minimum_s, c + 2 * EXACT.minimum_s


def _samples_of(powers: list[float], facts: MeterFacts) -> list[Sample]:
    heights = powers if facts.method is Method.SAMPLED else np.cumsum(np.add(powers, 0.1)).tolist()
    return [Sample(0.1 * i, height) for i, height in enumerate(heights)]


FINE_COUNTER = MeterFacts(
    source="fine", scope=Scope.WALL, method=Method.COUNTER, step=1e-6, update_s=0.001, minimum_s=1.0
)
each_method = pytest.mark.parametrize("facts", [EXACT, FINE_COUNTER])


@each_method
@settings(deadline=None, max_examples=60)
@given(powers=POWERS, moments=MOMENTS)
def test_windows_add_up(facts: MeterFacts, powers: list[float], moments: tuple[float, float, float]) -> None:
    a, b, c = _three(powers, moments)
    samples = _samples_of(powers, facts)
    parts = value(energy_between(samples, facts, a, b)) + value(energy_between(samples, facts, b, c))
    assert value(energy_between(samples, facts, a, c)) == pytest.approx(parts, rel=1e-9, abs=1e-9)


@each_method
@settings(deadline=None, max_examples=60)
@given(powers=POWERS, moments=MOMENTS)
def test_a_longer_window_has_no_less_energy(
    facts: MeterFacts, powers: list[float], moments: tuple[float, float, float]
) -> None:
    a, b, c = _three(powers, moments)
    samples = _samples_of(powers, facts)
    assert value(energy_between(samples, facts, a, c)) >= value(energy_between(samples, facts, a, b)) - 1e-9


@each_method
@settings(deadline=None, max_examples=60)
@given(powers=POWERS, moments=MOMENTS, factor=st.sampled_from([0.5, 3.0, 64.0]), shift_s=st.floats(-1e4, 1e4))
def test_energy_scales_with_power_and_knows_no_time_of_day(
    facts: MeterFacts, powers: list[float], moments: tuple[float, float, float], factor: float, shift_s: float
) -> None:
    a, _, c = _three(powers, moments)
    samples = _samples_of(powers, facts)
    moved = [Sample(t_s + shift_s, factor * height) for t_s, height in samples]
    plain = energy_between(samples, facts, a, c)
    other = energy_between(moved, facts, a + shift_s, c + shift_s)
    assert value(other) == pytest.approx(factor * value(plain), rel=1e-6, abs=1e-6)


# Net of idle


def _idle(power_w: float, u95_j: float = 0.0) -> EnergyReading:
    return EnergyReading(value_j=power_w * 30, u95_j=u95_j, duration_s=30.0, source="rapl:package")


GROSS = EnergyReading(value_j=1000.0, u95_j=8.0, duration_s=20.0, source="rapl:package", resolution_j=0.1)


def test_net_is_gross_less_the_mean_idle_power() -> None:
    net = net_of_idle(GROSS, _idle(10.0), _idle(10.6))
    assert value(net) == pytest.approx(1000 - 10.3 * 20)
    assert net.flags == ()
    # Idle power was anywhere between 10 and 10.6 W: rectangular, for 20 s.
    assert u95(net) == pytest.approx(math.hypot(8.0, 20 * 1.96 * 0.3 / 3**0.5), rel=1e-3)


def test_uncertainty_of_the_baselines_goes_with_the_windows_length() -> None:
    net = net_of_idle(GROSS, _idle(10.0, u95_j=9.0), _idle(10.0, u95_j=12.0))
    assert u95(net) == pytest.approx(math.hypot(8.0, 20 * math.hypot(9 / 30, 12 / 30) / 2))


def test_a_negative_net_stands_and_drift_is_flagged() -> None:
    net = net_of_idle(GROSS, _idle(50.0), _idle(56.0))
    assert value(net) == pytest.approx(-60.0)
    assert net.flags == ("negative_net", "idle_drift")


def test_without_a_baseline_there_is_no_net() -> None:
    missing = EnergyReading(value_j=None, reason=Absence.GAP, detail="no samples", source="rapl:package")
    for before, after in ((missing, _idle(10.0)), (_idle(10.0), missing)):
        net = net_of_idle(GROSS, before, after)
        assert (net.value_j, net.u95_j, net.reason) == (None, None, Absence.NO_BASELINE)
        assert "no samples" in net.detail
        assert net.resolution_j == 0.1
    other = EnergyReading(value_j=300.0, duration_s=30.0, source="nvml:0")
    assert net_of_idle(GROSS, other, _idle(10.0)).reason is Absence.NO_BASELINE


def test_without_a_gross_figure_its_reason_stands() -> None:
    gross = EnergyReading(value_j=None, reason=Absence.GAP)
    assert net_of_idle(gross, _idle(10.0), _idle(10.0)) == gross


def test_a_baseline_of_unknown_uncertainty_leaves_the_net_without_one() -> None:
    unsure = EnergyReading(value_j=300.0, duration_s=30.0, source="rapl:package")
    assert net_of_idle(GROSS, unsure, _idle(10.0)).u95_j is None


# Repeated windows


def test_repeated_windows_of_one_process_have_students_interval() -> None:
    values = [0.31, 0.33, 0.30, 0.32, 0.35]
    found = repeated([values])
    low, high = student.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / 5**0.5)
    assert found is not None
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((np.mean(values), low, high))
    assert found.n == 5


def test_accuracy_does_not_average_out() -> None:
    found = repeated([[2.0] * 500], accuracy=0.03)
    assert found is not None
    assert found.ci_high == pytest.approx(2 + 1.96 * 0.03 * 2 / 3**0.5, rel=1e-4)
    assert found.ci_low == pytest.approx(4 - found.ci_high)


def test_processes_that_differ_widen_the_interval() -> None:
    together, apart = repeated([[1.0, 1.1, 2.0, 2.1]] * 2), repeated([[1.0, 1.1] * 2, [2.0, 2.1] * 2])
    assert together is not None
    assert apart is not None
    assert together.ci_high is not None
    assert apart.ci_high is not None
    assert apart.ci_high > 2 * together.ci_high


def test_one_window_has_no_interval_and_none_no_figure() -> None:
    found = repeated([[], [0.3]])
    assert found is not None
    assert (found.value, found.ci_low, found.ci_high, found.n) == (0.3, None, None, 1)
    assert repeated([[], []]) is None
