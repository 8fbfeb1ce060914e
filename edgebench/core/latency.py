"""Latencies: what a sample can say of percentiles, of steadiness, and whether it is enough.

Times are seconds. Gaps between the tokens of one request are alike: only requests are independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev

import numpy as np

from edgebench.core.grouped import dependence, t95
from edgebench.core.shares import independent_answers
from edgebench.core.stats import Estimate, share_interval

MIN_FOR_PERCENTILE = {50: 11, 90: 64, 95: 130, 99: 662}
"""Percentile -> samples it needs (MLPerf's early stopping at 99 % confidence, no sample above allowed)."""

MIN_CHANGE_SHARE = 0.02
"""A smaller change over the whole span is no trend to speak of, however sure."""
MAX_SPREAD_SHARE = 0.10
"""Standard deviation over mean; pyperf's bound."""
MAX_OUTLIER_SHARE = 0.50
"""Distance of a value from the median, over the median; pyperf's bound."""
MAX_PROCESS_SHARE = 0.05
"""Difference between the medians of processes, over the smallest."""
_MIN_F_RATIO = 4.0
"""Mean squares between processes over those within: below, chance alone does it too often."""
_MIN_FOR_SLOPE = 6
_PER_MINUTE = 60.0
_STEEPEST = 30.0
"""Of a logarithm, per minute: what changes faster has gone to nothing, or past all numbers, in rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityWarning:
    """What makes a figure doubtful, and what to do."""

    code: str
    """`spread`, `outlier`, `drift` or `processes_differ`."""
    text: str
    remedy: str


def tpot_s(token_times_s: Sequence[float]) -> float | None:
    """Seconds per output token after the first: (last - first) / (n - 1); None below two tokens."""
    if len(token_times_s) < 2:
        return None
    return (token_times_s[-1] - token_times_s[0]) / (len(token_times_s) - 1)


def gaps_s(token_times_s: Sequence[float]) -> list[float]:
    """Seconds between each token and the one before: one fewer than tokens."""
    return [later - earlier for earlier, later in pairwise(token_times_s)]


def percentile(requests: Sequence[Sequence[float]], percent: int) -> Estimate | None:
    """A percentile of all values, its 95 % interval clustered by request.

    `requests` holds the values of each request: its gaps, or its one TTFT. `percent` is a key of
    `MIN_FOR_PERCENTILE`; None with fewer values than that. The interval is Woodruff's (1952): the share of
    values below has a clustered interval (Wilson's, of as many values as the requests are worth, Student's
    t of R - 1), whose limits are read off the values. Where they are worth too few for an upper limit of
    97.5 % (p^n > 0.025) there is no interval. Simulated coverage: 94
    to 99 % while requests differ by a third of what gaps within them do; by as much, 95 % at the median,
    92 % of p90 from 30 requests, and 74 to 88 % of tails that few requests make.
    """
    values = np.sort(np.array([value for request in requests for value in request], dtype=float))
    n, share = len(values), percent / 100
    if n < MIN_FOR_PERCENTILE[percent]:
        return None
    value = float(np.quantile(values, share))
    filled = [request for request in requests if len(request)]
    # Of values equal to the percentile so many count as below that the share comes out.
    first, after = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
    tied = (share * n - first) / (after - first) if after > first else 0.0
    below = [[1.0 if v < value else tied if v == value else 0.0 for v in request] for request in filled]
    worth = independent_answers(below, share * (1 - share)) if len(filled) > 1 else 0.0
    if share**worth > 0.025:
        return Estimate(value=value, ci_low=None, ci_high=None, n=n)
    low, high = share_interval(share, worth, t95(len(filled) - 1))
    # Between the places of n values in n + 1 parts: a share of values, not of the way between the ends.
    limits = np.quantile(values, [low, high], method="weibull")
    return Estimate(value=value, ci_low=float(limits[0]), ci_high=float(limits[1]), n=n)


def slope_of_log(times_s: Sequence[float], values: Sequence[float]) -> Estimate | None:
    """Relative change per minute of positive values, from the slope of their logarithm against time.

    -0.02 loses 2 % a minute. Least squares, Student's interval of n - 2 degrees of freedom, wider by
    sqrt((1 + r) / (1 - r)) where neighbours' residuals correlate (r > 0). None below six values, without
    a span of time, or where a value is not positive. Values in order of time.
    """
    if len(values) < _MIN_FOR_SLOPE or min(values) <= 0 or max(times_s) == min(times_s):
        return None
    since = np.asarray(times_s, dtype=float) / _PER_MINUTE
    since -= since.mean()
    logs = np.log(np.asarray(values, dtype=float))
    squares = float(since @ since)
    slope = float(since @ logs) / squares
    residuals = logs - logs.mean() - slope * since
    rest, df = float(residuals @ residuals), len(values) - 2
    alike = float(residuals[1:] @ residuals[:-1]) / rest if rest > 0 else 0.0
    inflation = (1 + max(alike, 0.0)) / (1 - max(alike, 0.0))
    half = t95(df) * math.sqrt(rest / df / squares * inflation)
    rates = (min(max(rate, -_STEEPEST), _STEEPEST) for rate in (slope - half, slope, slope + half))
    low, value, high = map(math.expm1, rates)
    return Estimate(value=value, ci_low=low, ci_high=high, n=len(values))


def is_not_steady(slope: Estimate | None, span_s: float) -> bool:
    """Whether there is a trend: the interval of `slope_of_log` excludes 0, and the span changes by 2 %."""
    if slope is None or slope.ci_low is None or slope.ci_high is None or slope.ci_low <= 0 <= slope.ci_high:
        return False
    return abs(total_change_share(slope, span_s)) > MIN_CHANGE_SHARE


def total_change_share(slope: Estimate, span_s: float) -> float:
    """Relative change over `span_s` at that change per minute."""
    return math.expm1(span_s / _PER_MINUTE * math.log1p(slope.value))


def relative_half_width(estimate: Estimate) -> float | None:
    """Half of the interval over the value; None without an interval."""
    if estimate.ci_low is None or estimate.ci_high is None or not estimate.value:
        return None
    return (estimate.ci_high - estimate.ci_low) / 2 / abs(estimate.value)


def enough(estimate: Estimate | None, target: float) -> bool:
    """Whether the interval is there and its relative half width is `target` or less.

    Who stops as soon as it is has looked often, and covers a little less than 95 %.
    """
    width = relative_half_width(estimate) if estimate is not None else None
    return width is not None and width <= target


def warnings_of(
    samples_by_process: Sequence[Sequence[float]], times_by_process: Sequence[Sequence[float]]
) -> list[StabilityWarning]:
    """What is wrong with the repetitions of one test: spread, outliers, drift, processes that differ.

    Positive values (seconds, or tokens per second) and when each was measured (seconds, one clock for
    all processes). The bounds of spread and outliers are pyperf's.
    """
    values = [value for process in samples_by_process for value in process]
    if len(values) < 2:
        return []
    found = (
        _spread(values),
        _outlier(values),
        _drift(samples_by_process, times_by_process),
        _processes(samples_by_process),
    )
    return [warning for warning in found if warning]


def _spread(values: Sequence[float]) -> StabilityWarning | None:
    share = stdev(values) / abs(fmean(values)) if fmean(values) else 0.0
    if share <= MAX_SPREAD_SHARE:
        return None
    return StabilityWarning(
        code="spread",
        text=f"the standard deviation is {share:.0%} of the mean",
        remedy="close other programs, fix the processor's clock, or measure more repetitions",
    )


def _outlier(values: Sequence[float]) -> StabilityWarning | None:
    middle = median(values)
    share = max(abs(value - middle) for value in values) / abs(middle) if middle else 0.0
    if share <= MAX_OUTLIER_SHARE:
        return None
    return StabilityWarning(
        code="outlier",
        text=f"a repetition is {share:.0%} off the median",
        remedy="look for a program that ran at times, and measure more repetitions",
    )


def _drift(
    samples_by_process: Sequence[Sequence[float]], times_by_process: Sequence[Sequence[float]]
) -> StabilityWarning | None:
    pairs = sorted(
        (time_s, value)
        for times_s, values in zip(times_by_process, samples_by_process, strict=True)
        for time_s, value in zip(times_s, values, strict=True)
    )
    times, values = [time_s for time_s, _ in pairs], [value for _, value in pairs]
    slope, span_s = slope_of_log(times, values), times[-1] - times[0]
    if slope is None or not is_not_steady(slope, span_s):
        return None
    share = total_change_share(slope, span_s)
    return StabilityWarning(
        code="drift",
        text=f"values moved by {share:+.0%} from the first to the last repetition",
        remedy="let the device settle first, and cool down between repetitions",
    )


def _processes(samples_by_process: Sequence[Sequence[float]]) -> StabilityWarning | None:
    middles = sorted(median(process) for process in samples_by_process if len(process))
    if len(middles) < 2 or middles[0] <= 0:
        return None
    share = middles[-1] / middles[0] - 1
    if share <= MAX_PROCESS_SHARE or dependence(samples_by_process).f_ratio <= _MIN_F_RATIO:
        return None
    return StabilityWarning(
        code="processes_differ",
        text=f"the medians of the processes lie {share:.0%} apart",
        remedy="measure in more processes: repetitions within one can't tell how much they differ",
    )
