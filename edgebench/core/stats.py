"""The statistics edgebench prints: medians with intervals, shares with intervals, paired tests.

Everything is seeded and plain; tests compare it with scipy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebench.core.numeric import bisect

Z95 = 1.959963984540054
MIN_FOR_MEDIAN_INTERVAL = 6
"""Fewer values can't carry a 95 % interval of the median: [min, max] of 5 covers 93.75 %."""
N_BOOTSTRAP = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval; the interval is None when the sample can't carry one."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int


def median_of_groups(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate | None:
    """Median over all values, interval by a hierarchical bootstrap.

    `groups` are the values of each process. Each of 10,000 draws resamples processes, then values
    within them, so a spread between processes widens the interval as it should. None when empty.
    """
    values = [value for group in groups for value in group]
    if not values:
        return None
    centre = float(np.median(values))
    if len(values) < MIN_FOR_MEDIAN_INTERVAL:
        return Estimate(value=centre, ci_low=None, ci_high=None, n=len(values))
    low, high = np.quantile(_resampled_medians(groups, np.random.default_rng(seed)), [0.025, 0.975])
    return Estimate(value=centre, ci_low=float(low), ci_high=float(high), n=len(values))


def ratio_of_medians(
    base: Sequence[Sequence[float]], new: Sequence[Sequence[float]], *, seed: int = 0
) -> Estimate | None:
    """Median of `new` over median of `base` (positive values), interval by resampling both sides.

    `n` is that of the smaller side. None when a side is empty.
    """
    over, under = median_of_groups(new, seed=seed), median_of_groups(base, seed=seed)
    if over is None or under is None:
        return None
    n, value = min(over.n, under.n), over.value / under.value
    if n < MIN_FOR_MEDIAN_INTERVAL:
        return Estimate(value=value, ci_low=None, ci_high=None, n=n)
    rng = np.random.default_rng(seed)  # one stream for both sides: they are drawn independently
    low, high = np.quantile(_resampled_medians(new, rng) / _resampled_medians(base, rng), [0.025, 0.975])
    return Estimate(value=value, ci_low=float(low), ci_high=float(high), n=n)


def _resampled_medians(
    groups: Sequence[Sequence[float]], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Medians of `N_BOOTSTRAP` draws: processes with replacement, then values within each."""
    arrays = [np.asarray(group, dtype=float) for group in groups if len(group)]
    draws = []
    for _ in arrays:
        # Process g of each draw: values picked within the process that was picked for this place.
        picked = rng.integers(len(arrays), size=N_BOOTSTRAP)
        block = np.full((N_BOOTSTRAP, max(map(len, arrays))), np.nan)
        for g, array in enumerate(arrays):
            rows = np.flatnonzero(picked == g)
            block[rows, : len(array)] = array[rng.integers(len(array), size=(len(rows), len(array)))]
        draws.append(block)
    medians: npt.NDArray[np.float64] = np.nanmedian(np.hstack(draws), axis=1)
    return medians


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
