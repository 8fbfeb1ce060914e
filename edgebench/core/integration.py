"""Joules of a window from a meter's samples, with what is known of their error; or the reason for none.

Counters are read as differences, sampled meters by the trapezoid rule; both edges are interpolated.
Stamps and windows are seconds of one monotonic clock, whatever its zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgebench.core.energy import Absence, EnergyReading, MeterError, MeterFacts, Method, Sample
from edgebench.core.grouped import dependence
from edgebench.core.stats import Z95, Estimate

Floats = npt.NDArray[np.float64]

MIN_UPDATES = 100
"""A window holds at least so many updates: an edge that is off by one is off by 1 %."""
MIN_STEPS = 100
"""And a counter at least so many of its steps."""
LONG_INTERVALS = 3.0
"""An interval so many times the usual one is a gap."""
MAX_MISSING_SHARE = 0.1
"""A window with more missing is no measurement."""
MAX_DRIFT_SHARE = 0.1
"""Idle power that changed by more than this from before to after flags `idle_drift`."""
_STALE_UPDATES = 1.5
"""A value seen again within so many updates is the same reading; later, a new one that agrees."""
_RATE_UPDATES = 10.0
"""A counter's rate beyond its first and last sample is that over so many updates."""
_ROUNDING = 1e-9
"""Relative: a window of just the length asked for is long enough."""
_GAP_HINT = "keep a core free for the meter, or read it more often"
_BASELINE_HINT = "measure idle power before and after: --rigorous"


def energy_between(
    samples: Sequence[Sample], facts: MeterFacts, start_s: float, end_s: float
) -> EnergyReading:
    """Energy from `start_s` to `end_s`; `samples` in the order read, best from before to after.

    The window must last `facts.minimum_s` and 100 updates, and a counter advance by 100 steps. A value
    that a meter repeats within an update is one reading. Beyond the samples an edge is extrapolated by
    at most one usual interval (the median, or an update where that is longer).

    `u95_j` is 1.96 x the root of the sum of squares of these standard uncertainties (JCGM 100:2008):

    * step: of a counter q / sqrt(6) (a difference of two rounded values); of a sampled meter
      q T / sqrt(12) (a constant load is rounded the same way each time);
    * edges: an edge between two samples is off by at most |dP| dt / 2: that / sqrt(3) for each;
    * age, of a counter: its value is as old as the last update, P dt / sqrt(6) for two edges, dt being an
      update or the interval between samples where that is shorter;
    * accuracy, where documented: taken as limits of a rectangular distribution, a E / sqrt(3).

    What the load does between samples is not in it: repeated windows show that (`repeated`).
    """
    duration_s = end_s - start_s
    reading = EnergyReading(
        value_j=None,
        source=facts.source,
        scope=facts.scope,
        method=facts.method,
        resolution_j=facts.step if facts.method is Method.COUNTER else facts.step * max(duration_s, 0.0),
        duration_s=duration_s,
        n_samples=sum(start_s <= sample.t_s <= end_s for sample in samples),
        evidence=facts.evidence,
    )
    try:
        _check_length(facts, duration_s)
        window = _Window.of(samples, facts, start_s, end_s)
        has_gap = window.check_gaps(facts)
        if facts.method is Method.COUNTER:
            value_j, uncertainties_j = _counted(window, facts)
        else:
            value_j, uncertainties_j = _integrated(window, facts)
    except MeterError as why:
        return replace(reading, reason=why.reason, detail=why.message, hint=why.hint or "")
    accuracy_j = (facts.accuracy or 0.0) * abs(value_j) / math.sqrt(3)
    u95_j = Z95 * math.hypot(accuracy_j, *uncertainties_j)
    return replace(reading, value_j=value_j, u95_j=u95_j, flags=("gap",) if has_gap else ())


def net_of_idle(
    reading: EnergyReading, idle_before: EnergyReading, idle_after: EnergyReading
) -> EnergyReading:
    """Energy less idle power x time: E - (P_before + P_after) / 2 x T, of the same meter.

    u(E_net)^2 = u(E)^2 + T^2 u(P_idle)^2, the latter from both baselines and half their difference (idle
    power in between was somewhere between them: rectangular). A negative net stands as it is, flagged
    `negative_net`; idle power that moved by over a tenth flags `idle_drift`. A reading without a value
    comes back as it is.
    """
    if reading.value_j is None:
        return reading
    why = _no_baseline(reading, idle_before) or _no_baseline(reading, idle_after)
    before_w, after_w = idle_before.mean_w, idle_after.mean_w
    if why or before_w is None or after_w is None:
        return replace(
            reading, value_j=None, u95_j=None, reason=Absence.NO_BASELINE, detail=why, hint=_BASELINE_HINT
        )
    net_j = reading.value_j - (before_w + after_w) / 2 * reading.duration_s
    u95_j = None
    if reading.u95_j is not None and idle_before.u95_j is not None and idle_after.u95_j is not None:
        baseline_w = math.hypot(
            idle_before.u95_j / idle_before.duration_s / 2,
            idle_after.u95_j / idle_after.duration_s / 2,
            Z95 * (after_w - before_w) / 2 / math.sqrt(3),
        )
        u95_j = math.hypot(reading.u95_j, reading.duration_s * baseline_w)
    flags = [*reading.flags, *idle_before.flags, *idle_after.flags]
    if net_j < 0:
        flags.append("negative_net")
    if abs(after_w - before_w) > MAX_DRIFT_SHARE * abs(before_w):
        flags.append("idle_drift")
    return replace(reading, value_j=net_j, u95_j=u95_j, flags=tuple(dict.fromkeys(flags)))


def _no_baseline(reading: EnergyReading, idle: EnergyReading) -> str:
    """Why `idle` is no baseline of `reading`; empty where it is one."""
    if idle.mean_w is None:
        return f"no idle power: {idle.detail or idle.reason or 'not measured'}"
    if idle.source != reading.source:
        return f"idle power is of {idle.source}, energy of {reading.source}"
    return ""


def repeated(groups: Sequence[Sequence[float]], *, accuracy: float | None = None) -> Estimate | None:
    """Mean of repeated windows (J per token, per request, …) with its 95 % interval.

    `groups` are the windows' values, one list for each process; each window's energy over its count. The
    mean, because energies add up, and because a step larger than the spread averages out in it and not
    in a median. The interval is Student's, wider where processes differ (`core.grouped`): noise, steps
    and edges are in it as far as windows differ. The meter's documented `accuracy` is the same in
    all windows and does not average out: a / sqrt(3) of the value is added in squares. None when empty, no
    interval from one value. Simulated coverage as of `core.stats.median_of_groups`: 96 % of 2 x 5 and of
    6 x 5 windows; with a spread between processes as large as within 86 % and 92 %.
    """
    values = np.array([value for group in groups for value in group], dtype=float)
    if not len(values):
        return None
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(value=mean, ci_low=None, ci_high=None, n=n)
    random = dependence(groups).half_width_t * float(values.std(ddof=1)) / math.sqrt(n)
    half = math.hypot(random, Z95 * (accuracy or 0.0) * mean / math.sqrt(3))
    return Estimate(value=mean, ci_low=mean - half, ci_high=mean + half, n=n)


def _check_length(facts: MeterFacts, duration_s: float) -> None:
    needed_s = max(facts.minimum_s, MIN_UPDATES * facts.update_s)
    if not 0 < duration_s < math.inf or duration_s < needed_s * (1 - _ROUNDING):
        raise MeterError(
            Absence.WINDOW_TOO_SHORT,
            f"the window lasts {duration_s:.3g} s, {facts.source} needs {needed_s:.3g} s",
            f"repeat the request until it lasts {needed_s:.3g} s",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """The samples in a window and one on each side of it, and the curve through all of them."""

    start_s: float
    end_s: float
    t_s: Floats
    """Stamps in the window, and one on each side where there is one."""
    values: Floats
    knots_s: Floats
    """Stamps of all samples, without values seen again within an update."""
    heights: Floats

    @classmethod
    def of(cls, samples: Sequence[Sample], facts: MeterFacts, start_s: float, end_s: float) -> "_Window":
        t_s, values = np.array(samples, dtype=float).reshape(-1, 2).T
        if not np.isfinite(t_s).all() or (np.diff(t_s) < 0).any():
            raise MeterError(Absence.INCONSISTENT_SENSOR, f"stamps of {facts.source} do not rise")
        first = max(int(np.searchsorted(t_s, start_s, "right")) - 1, 0)
        last = min(int(np.searchsorted(t_s, end_s, "left")), len(t_s) - 1)
        if last <= first:
            raise MeterError(
                Absence.GAP, f"fewer than two samples of {facts.source} in the window", _GAP_HINT
            )
        near = slice(first, last + 1)
        _check_values(values[near], facts)
        # The curve is of all samples, so that it is the same one in every window over them.
        usable = np.isfinite(values) & (np.diff(t_s, prepend=-math.inf) > 0)
        knots_s, heights = _without_stale(t_s[usable], values[usable], facts.update_s)
        return cls(
            start_s=start_s,
            end_s=end_s,
            t_s=t_s[near],
            values=values[near],
            knots_s=knots_s,
            heights=heights,
        )

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def check_gaps(self, facts: MeterFacts) -> bool:
        """Whether there is a gap; raises where too much is missing.

        Within a gap a counter goes on counting: only one at an edge takes something away from it.
        """
        intervals_s = np.diff(self.t_s)
        usual_s = max(float(np.median(intervals_s)), facts.update_s)
        before_s = max(self.t_s[0] - self.start_s, 0.0)
        after_s = max(self.end_s - self.t_s[-1], 0.0)
        if max(before_s, after_s) > usual_s * (1 + _ROUNDING):
            raise MeterError(
                Absence.GAP,
                f"{facts.source} has no samples within {usual_s:.3g} s of an edge of the window",
                _GAP_HINT,
            )
        is_gap = intervals_s > LONG_INTERVALS * usual_s
        if facts.method is Method.COUNTER:
            is_gap[1:-1] = False
        inside_s = np.minimum(self.t_s[1:], self.end_s) - np.maximum(self.t_s[:-1], self.start_s)
        missing_s = before_s + after_s + float(np.maximum(inside_s - usual_s, 0)[is_gap].sum())
        if missing_s > MAX_MISSING_SHARE * self.duration_s:
            share = missing_s / self.duration_s
            raise MeterError(
                Absence.GAP, f"{share:.0%} of the window has no samples of {facts.source}", _GAP_HINT
            )
        return bool(is_gap.any())

    def edge_interval(self, edge_s: float) -> int | None:
        """Number of the knots' interval that an edge lies in (beyond them the nearest); None on a knot."""
        after = int(np.searchsorted(self.knots_s, edge_s, "left"))
        if after < len(self.knots_s) and self.knots_s[after] == edge_s:
            return None
        return min(max(after - 1, 0), len(self.knots_s) - 2)


def _check_values(values: Floats, facts: MeterFacts) -> None:
    if not np.isfinite(values).all():
        raise MeterError(Absence.INCONSISTENT_SENSOR, f"{facts.source} gave a value that is no number")
    if facts.method is Method.COUNTER:
        if (np.diff(values) < 0).any():
            raise MeterError(Absence.COUNTER_RESET, f"the counter of {facts.source} went backwards")
    # Rounding may show a load of nearly nothing one step below 0.
    elif values.min() < -facts.step:
        raise MeterError(Absence.INCONSISTENT_SENSOR, f"{facts.source} gave {values.min():.3g} W")


def _without_stale(t_s: Floats, values: Floats, update_s: float) -> tuple[Floats, Floats]:
    """Samples without those that repeat a value before the meter could have updated it.

    A constant load keeps a sample every one and a half updates, so its end stays where it is.
    """
    is_new = np.diff(values, prepend=math.nan) != 0
    run_start_s = t_s[is_new][np.cumsum(is_new) - 1]
    stale_s = _STALE_UPDATES * update_s
    place = np.floor((t_s - run_start_s) / stale_s) if stale_s > 0 else np.arange(len(t_s), dtype=float)
    kept = is_new | (np.diff(place, prepend=-1.0) != 0)
    return t_s[kept], values[kept]


def _counted(window: _Window, facts: MeterFacts) -> tuple[float, list[float]]:
    """Joules of a counter, and their standard uncertainties: step, edges, age."""
    if window.values[0] == window.values[-1]:
        raise MeterError(
            Absence.WINDOW_TOO_SHORT,
            f"the counter of {facts.source} stood still for {window.t_s[-1] - window.t_s[0]:.3g} s",
            "a longer window; if it never moves, the sensor is a stub",
        )
    start_j, end_j = _heights_at(window, facts)
    value_j = end_j - start_j
    if value_j < MIN_STEPS * facts.step * (1 - _ROUNDING):
        longer_s = window.duration_s * MIN_STEPS * facts.step / value_j if value_j > 0 else None
        raise MeterError(
            Absence.BELOW_RESOLUTION,
            f"{value_j:.3g} J is under {MIN_STEPS} steps of {facts.step:.3g} J",
            f"repeat the request until it lasts {longer_s:.3g} s" if longer_s else None,
        )
    intervals_s = np.diff(window.t_s)
    lag_s = min(facts.update_s, float(max(intervals_s[0], intervals_s[-1])))
    age_j = value_j / window.duration_s * lag_s / math.sqrt(6)
    edges_j = [_edge_of_counter(window, edge_s) / math.sqrt(3) for edge_s in (window.start_s, window.end_s)]
    return value_j, [facts.step / math.sqrt(6), *edges_j, age_j]


def _heights_at(window: _Window, facts: MeterFacts) -> tuple[float, float]:
    """The counter at both edges; beyond its knots it goes on at the rate it had there."""
    knots_s, heights = window.knots_s, window.heights
    span_s = _RATE_UPDATES * facts.update_s
    early = min(max(int(np.searchsorted(knots_s, knots_s[0] + span_s)), 1), len(knots_s) - 1)
    late = max(min(int(np.searchsorted(knots_s, knots_s[-1] - span_s, "right")) - 1, len(knots_s) - 2), 0)
    first_w = (heights[early] - heights[0]) / (knots_s[early] - knots_s[0])
    last_w = (heights[-1] - heights[late]) / (knots_s[-1] - knots_s[late])

    def at(edge_s: float) -> float:
        inside = float(np.interp(edge_s, knots_s, heights))
        before_s, after_s = max(knots_s[0] - edge_s, 0.0), max(edge_s - knots_s[-1], 0.0)
        return inside - float(before_s * first_w) + float(after_s * last_w)

    return at(window.start_s), at(window.end_s)


def _edge_of_counter(window: _Window, edge_s: float) -> float:
    """Joules an edge between two knots may be off by: |dP| dt / 2, at most what came in between."""
    i = window.edge_interval(edge_s)
    if i is None:
        return 0.0
    steps_s, steps_j = np.diff(window.knots_s), np.diff(window.heights)
    rates_w = steps_j / steps_s
    beside_w = [rates_w[j] for j in (i - 1, i + 1) if 0 <= j < len(rates_w)]
    # With nothing beside it, power may have been anything from none to twice as much.
    change_w = max((abs(rate_w - rates_w[i]) for rate_w in beside_w), default=rates_w[i])
    return float(min(change_w * steps_s[i] / 2, steps_j[i]))


def _integrated(window: _Window, facts: MeterFacts) -> tuple[float, list[float]]:
    """Joules of a sampled meter, and their standard uncertainties: step, edges."""
    knots_s, heights = window.knots_s, window.heights
    inside = (knots_s > window.start_s) & (knots_s < window.end_s)
    t_s = np.concatenate(([window.start_s], knots_s[inside], [window.end_s]))
    power_w = np.interp(t_s, knots_s, heights)  # beyond the knots, the last value holds
    value_j = float((np.diff(t_s) * (power_w[1:] + power_w[:-1])).sum() / 2)
    edges_j = []
    for edge_s in (window.start_s, window.end_s):
        i = window.edge_interval(edge_s) if len(knots_s) > 1 else None
        if i is not None:
            bound_j = abs(heights[i + 1] - heights[i]) * (knots_s[i + 1] - knots_s[i]) / 2
            edges_j.append(float(bound_j) / math.sqrt(3))
    return value_j, [facts.step * window.duration_s / math.sqrt(12), *edges_j]
