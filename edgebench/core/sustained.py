"""Minutes of continuous generation: the first rate, the rate that lasts, and when and how hot it fell.

The rate is taken in bins of 10 s. Burst is the median of the first three (30 s), sustained that of the
last six (60 s): an outlier of a bin moves neither. Times are seconds since the generation began.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgebench.core.energy import Absence, Sample
from edgebench.core.numeric import t_quantile
from edgebench.core.stats import Estimate, median_of_groups

BIN_S = 10.0
N_BURST = 3
"""Bins of the burst: the first 30 s."""
N_SUSTAINED = 6
"""Bins of the sustained part: the last 60 s."""
FALL_SHARE = 0.9
"""Of the burst's rate: below this it has fallen …"""
N_FALL = 3
"""… when so many bins in a row are: one alone may be a neighbour's doing."""
NEVER = "never below 90 %"
"""Why there is no time to 90 %: the good reason."""
STALLED = "stalled"
"""Why there is no ratio and no slope: no token came in a bin."""

_N_SLOPE_POINTS = 10
_MIN_SLOPE_POINTS = 6
_MEDIAN_VARIANCE = {N_BURST: 0.4487, N_SUSTAINED: 0.2147}
"""Variance of the median of so many normal values, in theirs."""
_MIN_CHANGES = 5
"""A counter that moved more rarely within a window says too little of it."""
_LONG_INTERVALS = 3.0
"""An interval so many times the usual one between samples is a gap."""
_MAX_MISSING_SHARE = 0.1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """What a sustained run shows; what can't be said is None, and `reasons` says why."""

    n_bins: int
    burst_tokens_per_s: Estimate | None
    """Median of the first three bins; too few of them for an interval."""
    sustained_tokens_per_s: Estimate | None
    """Median of the last six bins."""
    retained_share: Estimate | None
    """Sustained over burst."""
    time_to_90_s: float | None
    """Start of the first three bins in a row below 90 % of the burst."""
    temperature_max_c: float | None
    burst_w: float | None
    """Mean power of the burst."""
    sustained_w: float | None
    burst_j_per_token: float | None
    sustained_j_per_token: float | None
    slope: Estimate | None
    """Of ln(rate) against time, in 1/s: -0.001 is a loss of 6 % a minute."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Name of each figure that is None -> why."""

    @property
    def not_steady(self) -> bool:
        """Whether the rate has a trend: the slope's 95 % interval excludes 0."""
        slope = self.slope
        if slope is None or slope.ci_low is None or slope.ci_high is None:
            return False
        return not slope.ci_low <= 0 <= slope.ci_high


def bin_edges(duration_s: float, width_s: float = BIN_S) -> list[float]:
    """Where bins begin, and where the last one ends.

    A last bin that is not whole is kept when it is at least half as wide, with its true length;
    a shorter one would be noisier than the others and count as much, and is dropped.
    """
    n_whole = max(0, math.floor(duration_s / width_s))
    edges = [i * width_s for i in range(n_whole + 1)]
    return [*edges, duration_s] if duration_s - edges[-1] >= width_s / 2 else edges


def bins(token_times_s: Sequence[float], duration_s: float, width_s: float = BIN_S) -> list[float]:
    """Tokens per second in each bin of `bin_edges`.

    A token counts in the bins in which it was worked on: from the token before it to its own moment. So
    2 tokens/s are not 20 tokens in one bin and 21 in the next.
    """
    edges = np.array(bin_edges(duration_s, width_s))
    rates: list[float] = (np.diff(_n_tokens(token_times_s, edges)) / np.diff(edges)).tolist()
    return rates


def retained(burst: Sequence[float], sustained: Sequence[float]) -> Estimate:
    """Median of the last six rates over that of the first three, each above 0; with a 95 % interval.

    The interval is Student's, on logarithms, with a variance of each part's own and Welch's degrees of
    freedom: it holds the truth in 96 of 100 runs whose bins are normal and independent, whichever part
    is noisier. (A percentile bootstrap of 3 and 6 bins does in 78 to 94.) A bin of 10 s is a block: what
    lasts shorter is inside. It tells of noise within this run, not of what another run would retain.
    """
    before, after = np.log(burst), np.log(sustained)
    centre = float(np.median(after) - np.median(before))
    parts = [_MEDIAN_VARIANCE[len(part)] * float(part.var(ddof=1)) for part in (before, after)]
    half = 0.0
    if (variance := sum(parts)) > 0:
        df = variance**2 / (parts[0] ** 2 / (N_BURST - 1) + parts[1] ** 2 / (N_SUSTAINED - 1))
        half = t_quantile(0.975, math.floor(df + 1e-9)) * math.sqrt(variance)
    return Estimate(
        value=math.exp(centre),
        ci_low=math.exp(centre - half),
        ci_high=math.exp(centre + half),
        n=len(burst) + len(sustained),
    )


def time_below_s(rates: Sequence[float], level_tokens_per_s: float, width_s: float = BIN_S) -> float | None:
    """Start of the first `N_FALL` bins in a row below a level; None when there are none."""
    for i in range(len(rates) - N_FALL + 1):
        if all(rate < level_tokens_per_s for rate in rates[i : i + N_FALL]):
            return i * width_s
    return None


def log_slope(rates: Sequence[float], width_s: float = BIN_S) -> Estimate | None:
    """Slope of ln(rate) against time in 1/s with Student's 95 % interval; rates above 0.

    Neighbouring bins resemble each other, which would make the interval too short: the line is laid
    through the means of at most ten stretches. None with fewer than six bins.
    """
    n = min(len(rates), _N_SLOPE_POINTS)
    if n < _MIN_SLOPE_POINTS:
        return None
    stretches = np.array_split(np.arange(len(rates)), n)
    x = np.array([(stretch.mean() + 0.5) * width_s for stretch in stretches])
    logs = np.log(np.asarray(rates))
    y = np.array([logs[stretch].mean() for stretch in stretches])
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    residual = dy - slope * dx
    half = t_quantile(0.975, n - 2) * math.sqrt(float(residual @ residual) / (n - 2) / float(dx @ dx))
    return Estimate(value=slope, ci_low=slope - half, ci_high=slope + half, n=len(rates))


def counter_of(watts: Sequence[Sample]) -> list[Sample]:
    """Sampled watts as a counter of joules: trapezoids between the samples."""
    total_j, counted = 0.0, []
    for i, sample in enumerate(watts):
        if i:
            before = watts[i - 1]
            total_j += (sample.t_s - before.t_s) * (sample.value + before.value) / 2
        counted.append(Sample(sample.t_s, total_j))
    return counted


def mean_w(
    counter: Sequence[Sample], start_s: float, end_s: float, *, minimum_s: float = 0.0
) -> float | Absence:
    """Mean power over a window from samples of a counter in J, in order of time; or why there is none.

    Both edges are interpolated between changes of the counter: samples that repeat a value are stale.
    A window below `minimum_s`, or with fewer than five changes, is too short for its meter.
    """
    if not counter:
        return Absence.NO_SENSOR
    if end_s - start_s < minimum_s:
        return Absence.WINDOW_TOO_SHORT
    at_s, joules = np.array(counter, dtype=float).T
    if _missing_share(at_s, start_s, end_s) > _MAX_MISSING_SHARE:
        return Absence.GAP
    changed = np.concatenate(([True], np.diff(joules) != 0))
    at_s, joules = at_s[changed], joules[changed]
    if np.count_nonzero((at_s >= start_s) & (at_s <= end_s)) < _MIN_CHANGES:
        return Absence.WINDOW_TOO_SHORT
    low_s, high_s = max(start_s, at_s[0]), min(end_s, at_s[-1])
    first = np.searchsorted(at_s, low_s, side="right") - 1
    last = np.searchsorted(at_s, high_s)
    if np.any(np.diff(joules[first : last + 1]) < 0):
        return Absence.COUNTER_RESET
    low_j, high_j = np.interp([low_s, high_s], at_s, joules)
    return float((high_j - low_j) / (high_s - low_s))


def sustained(
    token_times_s: Sequence[float],
    duration_s: float,
    *,
    energy: Sequence[Sample] | str = Absence.NO_SENSOR,
    minimum_s: float = 0.0,
    temperatures: Sequence[Sample] = (),
) -> Sustained:
    """The figures of a run of `duration_s` whose tokens came at these moments.

    Args:
        token_times_s: When each token was there.
        duration_s: How long the run took. Below 30 s there is no burst, below 90 s no sustained part:
            the two would overlap.
        energy: Samples of one meter's counter in J (`counter_of` makes one of watts), or the reason why
            there are none.
        minimum_s: The shortest window that meter is trusted for.
        temperatures: Samples in °C.
    """
    rates, edges = bins(token_times_s, duration_s), bin_edges(duration_s)
    whole = len(rates) >= N_BURST + N_SUSTAINED
    burst = rates[:N_BURST] if len(rates) >= N_BURST else []
    last = rates[-N_SUSTAINED:] if whole else []
    reasons: dict[str, str] = {}
    burst_rate, last_rate = median_of_groups([burst]), median_of_groups([last])
    for name, figure in (("burst_tokens_per_s", burst_rate), ("sustained_tokens_per_s", last_rate)):
        if figure is None:
            reasons[name] = Absence.WINDOW_TOO_SHORT
    first_span = (edges[0], edges[N_BURST]) if burst else None
    last_span = (edges[-N_SUSTAINED - 1], edges[-1]) if whole else None
    burst_w, last_w = (_part_w(energy, span, minimum_s) for span in (first_span, last_span))
    burst_j = _j_per_token("burst", burst_w, first_span, token_times_s, reasons)
    last_j = _j_per_token("sustained", last_w, last_span, token_times_s, reasons)
    return Sustained(
        n_bins=len(rates),
        burst_tokens_per_s=burst_rate,
        sustained_tokens_per_s=last_rate,
        retained_share=_retained(burst, last, reasons),
        time_to_90_s=_time_to_90_s(rates, burst_rate, reasons),
        temperature_max_c=_hottest_c(temperatures, duration_s, reasons),
        burst_w=None if isinstance(burst_w, str) else burst_w,
        sustained_w=None if isinstance(last_w, str) else last_w,
        burst_j_per_token=burst_j,
        sustained_j_per_token=last_j,
        slope=_slope(rates, reasons),
        reasons=reasons,
    )


def _n_tokens(token_times_s: Sequence[float], at_s: Floats) -> Floats:
    """Tokens made up to some moments, fractions included; none are made after the last one."""
    stamps = np.concatenate(([0.0], np.clip(np.sort(np.asarray(token_times_s, dtype=float)), 0.0, None)))
    counted: Floats = np.interp(at_s, stamps, np.arange(len(stamps), dtype=float))
    return counted


def _missing_share(at_s: Floats, start_s: float, end_s: float) -> float:
    """How much of a window lies outside the samples, or in their gaps."""
    intervals = np.diff(at_s)
    if not len(intervals):
        return 1.0
    gaps = intervals > _LONG_INTERVALS * np.median(intervals)
    inside_s = np.minimum(at_s[1:], end_s) - np.maximum(at_s[:-1], start_s)
    missing_s = np.clip(inside_s[gaps], 0.0, None).sum()
    covered_s = max(0.0, min(end_s, at_s[-1]) - max(start_s, at_s[0]))
    return float(1 - (covered_s - missing_s) / (end_s - start_s))


def _part_w(
    energy: Sequence[Sample] | str, span: tuple[float, float] | None, minimum_s: float
) -> float | str:
    """Mean power of a part of the run, or why there is none."""
    if isinstance(energy, str):
        return energy
    return Absence.WINDOW_TOO_SHORT if span is None else mean_w(energy, *span, minimum_s=minimum_s)


def _j_per_token(
    part: str,
    power_w: float | str,
    span: tuple[float, float] | None,
    token_times_s: Sequence[float],
    reasons: dict[str, str],
) -> float | None:
    """J per token of a part; why there is none, and no power, is written to `reasons`."""
    if isinstance(power_w, str) or span is None:
        reasons[f"{part}_w"] = reasons[f"{part}_j_per_token"] = str(power_w)
        return None
    n_tokens = float(np.diff(_n_tokens(token_times_s, np.array(span)))[0])
    if not n_tokens:
        reasons[f"{part}_j_per_token"] = STALLED
        return None
    return power_w * (span[1] - span[0]) / n_tokens


def _retained(burst: Sequence[float], last: Sequence[float], reasons: dict[str, str]) -> Estimate | None:
    if not last:
        reasons["retained_share"] = Absence.WINDOW_TOO_SHORT
    elif min(*burst, *last) <= 0:
        reasons["retained_share"] = STALLED
    else:
        return retained(burst, last)
    return None


def _time_to_90_s(rates: Sequence[float], burst: Estimate | None, reasons: dict[str, str]) -> float | None:
    found = None if burst is None else time_below_s(rates, FALL_SHARE * burst.value)
    if found is None:
        reasons["time_to_90_s"] = Absence.WINDOW_TOO_SHORT if burst is None else NEVER
    return found


def _hottest_c(temperatures: Sequence[Sample], duration_s: float, reasons: dict[str, str]) -> float | None:
    hottest_c = max((t.value for t in temperatures if 0 <= t.t_s <= duration_s), default=None)
    if hottest_c is None:
        reasons["temperature_max_c"] = Absence.NO_SENSOR
    return hottest_c


def _slope(rates: Sequence[float], reasons: dict[str, str]) -> Estimate | None:
    stalled = any(rate <= 0 for rate in rates)
    slope = None if stalled else log_slope(rates)
    if slope is None:
        reasons["slope"] = STALLED if stalled else Absence.WINDOW_TOO_SHORT
    return slope
