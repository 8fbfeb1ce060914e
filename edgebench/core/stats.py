"""The statistics edgebench prints: medians with intervals, shares with intervals, paired tests.

Everything is plain and repeats exactly; tests compare it with scipy.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edgebench.core.grouped import Dependence, dependence, t95
from edgebench.core.numeric import bisect

Z95 = 1.959963984540054
MIN_FOR_MEDIAN_INTERVAL = 6
"""Fewer values can't carry a 95 % interval of the median: [min, max] of 5 covers 93.75 %."""
N_BOOTSTRAP = 10_000
"""Draws of the cluster bootstrap (`core.resampling`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval; the interval is None when the sample can't carry one."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int


def median_of_groups(groups: Sequence[Sequence[float]]) -> Estimate | None:
    """Median over all values, with an interval between order statistics.

    `groups` are the values of each process. The interval is Hettmansperger & Sheather's (1986): exact
    for whatever distribution when values are independent, interpolated to 95 %, never outside the
    values. Where processes differ by more than chance, by the ranks of their values, it is as much
    wider as `core.grouped` says. Simulated coverage of 2 x 5 and 6 x 5 values: 96 to 97 %; with a
    spread between processes as large as that within them 84 % and 95 %: two processes can't tell how
    much processes differ. None when empty.
    """
    values = sorted(value for group in groups for value in group)
    if not values:
        return None
    low, high = _median_limits(values, dependence(_places(groups, values)))
    return Estimate(value=float(np.median(values)), ci_low=low, ci_high=high, n=len(values))


def ratio_of_medians(base: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Estimate | None:
    """Median of `new` over median of `base` (positive values), interval from those of both sides.

    The distances of the medians' limits are added in squares, as logarithms, below and above apart
    (`ratio_of`); the limits are of the spread between processes and the degrees of freedom of both
    sides together. `n` is that of the smaller side. None when a side is empty.
    """
    under, over = (sorted(value for group in side for value in group) for side in (base, new))
    if not under or not over:
        return None
    found = dependence(_places(base, under), _places(new, over))
    bottom, top = (_with_limits(float(np.median(v)), _median_limits(v, found), len(v)) for v in (under, over))
    return ratio_of(bottom, top)


def ratio_of(base: Estimate, new: Estimate) -> Estimate | None:
    """`new` over `base`, two independent figures, interval from those of both (Newcombe's MOVER).

    Without one where either has none, or one that reaches 0. None unless both figures are positive.
    """
    if base.value <= 0 or new.value <= 0:
        return None
    ratio, n = new.value / base.value, min(base.n, new.n)
    limits = (base.ci_low, base.ci_high, new.ci_low, new.ci_high)
    under_low, under_high, over_low, over_high = (limit or 0.0 for limit in limits)
    if min(under_low, under_high, over_low, over_high) <= 0:
        return Estimate(value=ratio, ci_low=None, ci_high=None, n=n)
    below = math.hypot(math.log(new.value / over_low), math.log(under_high / base.value))
    above = math.hypot(math.log(over_high / new.value), math.log(base.value / under_low))
    return Estimate(value=ratio, ci_low=ratio * math.exp(-below), ci_high=ratio * math.exp(above), n=n)


def _with_limits(value: float, limits: tuple[float | None, float | None], n: int) -> Estimate:
    return Estimate(value=value, ci_low=limits[0], ci_high=limits[1], n=n)


def _places(groups: Sequence[Sequence[float]], ordered: Sequence[float]) -> list[list[float]]:
    """Each value's place among all, 0 to 1; equal values share the middle of their places."""
    n = 2 * len(ordered)
    return [[(bisect_left(ordered, v) + bisect_right(ordered, v)) / n for v in group] for group in groups]


def _median_limits(ordered: Sequence[float], found: Dependence) -> tuple[float | None, float | None]:
    """Of the median of `ordered`, allowing for what processes do; None where there are too few values."""
    n = len(ordered)
    if n < MIN_FOR_MEDIAN_INTERVAL:
        return None, None
    return _between_order_statistics(ordered, NormalDist().cdf(-Z95 * found.half_width_t / t95(n - 1)))


def _between_order_statistics(ordered: Sequence[float], tail: float) -> tuple[float, float]:
    """Limits that the median lies outside of with probability `tail` on each side (less at the ends).

    The pair of order statistics k from each end misses with P(B < k), B the heads of n coins; between two
    pairs Hettmansperger & Sheather interpolate as is right for Laplace's distribution, and nearly for all.
    """
    n = len(ordered)
    misses, more, k = 0.5**n, _chance(1, n), 1
    while misses + more <= tail:
        misses, more, k = misses + more, _chance(k + 1, n), k + 1
    if misses > tail:
        return ordered[0], ordered[-1]
    part = (tail - misses) / more
    weight = (n - k) * part / (k + (n - 2 * k) * part)
    return _along(ordered[k - 1], ordered[k], weight), _along(ordered[n - k], ordered[n - k - 1], weight)


def _along(start: float, end: float, part: float) -> float:
    """The value at `part` of the way; rounding never takes it beyond either."""
    return min(max(start + part * (end - start), min(start, end)), max(start, end))


def _chance(k: int, n: int) -> float:
    """Of exactly `k` heads of `n` coins."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def n_outliers(values: Sequence[float]) -> int:
    """Values outside Tukey's fences (1.5 interquartile ranges); they are counted, never dropped."""
    if len(values) < 4:
        return 0
    q1, q3 = np.quantile(values, [0.25, 0.75])
    reach = 1.5 * (q3 - q1)
    return int(sum(v < q1 - reach or v > q3 + reach for v in values))


def wilson(n_hits: int, n: int) -> Estimate | None:
    """A share with Wilson's 95 % score interval; None for an empty sample."""
    if n == 0:
        return None
    low, high = share_interval(n_hits / n, n)
    return Estimate(value=n_hits / n, ci_low=low, ci_high=high, n=n)


def share_interval(p: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a share `p` seen in `n` independent answers: never outside [0, 1]."""
    z2 = z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Exactly 0 and 1 where the share is: rounding would leave 1e-18.
    return max(0.0, centre - half) if p > 0 else 0.0, min(1.0, centre + half) if p < 1 else 1.0


def mcnemar_p(n_lost: int, n_won: int) -> float:
    """Two-sided exact McNemar test on the discordant pairs: P(a split at least this uneven | fair coin)."""
    n = n_lost + n_won
    return min(1.0, 2 * _tail(min(n_lost, n_won), n) / (1 << n))


def mcnemar_mid_p(n_lost: int, n_won: int) -> float:
    """McNemar's mid-p: the exact p less the probability of the split seen (Fagerland et al. 2013).

    The exact test is too cautious with few discordant pairs; this one keeps its level on average.
    """
    n, fewer = n_lost + n_won, min(n_lost, n_won)
    return (2 * _tail(fewer, n) - math.comb(n, fewer)) / (1 << n)


def _tail(k: int, n: int) -> int:
    """Of the 2^n results of `n` coins, how many have at most `k` heads."""
    total = ways = 1
    for j in range(k):
        ways = ways * (n - j) // (j + 1)
        total += ways
    return total


def paired_difference(n_lost: int, n_won: int, n: int) -> Estimate | None:
    """Difference of two accuracies on the same `n` questions, with Tango's 95 % score interval.

    It covers with few discordant pairs too, and none: there sqrt(lost + won) / n is far too short.
    """
    if n == 0:
        return None
    low, high = difference_interval(n_lost, n_won, n)
    return Estimate(value=(n_won - n_lost) / n, ci_low=low, ci_high=high, n=n)


def difference_interval(lost: float, won: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The differences that a score test of `n` independent pairs does not reject (Tango 1998)."""

    def score(d: float) -> float:
        # The likeliest share of lost pairs, were the true difference d: a root of 2n x^2 + b x + c.
        b = (2 * n - (won - lost)) * d - (lost + won)
        c = -lost * d * (1 - d)
        share_lost = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * share_lost + d * (1 - d))
        return (n * d - (won - lost)) / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, d)

    seen = (won - lost) / n
    low = bisect(lambda d: score(d) + z, -1.0, seen) if seen > -1 else -1.0
    high = bisect(lambda d: score(d) - z, seen, 1.0) if seen < 1 else 1.0
    return low, high


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction over one table; keeps the keys."""
    adjusted: dict[str, float] = {}
    running = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for rank, (key, p) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p))
        adjusted[key] = running
    return adjusted
