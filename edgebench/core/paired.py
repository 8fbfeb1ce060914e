"""Two levels on the same questions: the difference under clustering, and what could have been seen.

A difference is new minus base of one answer: 1 won, -1 lost, 0 the same. Its clusters are the questions
(asked in several orders), passages or subjects. `core.stats` has the forms without clusters.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from edgebench.core.numeric import bisect, t_cdf, t_quantile
from edgebench.core.resampling import interval_of_mean
from edgebench.core.shares import independent_answers
from edgebench.core.stats import Z95, Estimate, difference_interval

Z_POWER = NormalDist().inv_cdf(0.8)
"""A difference called detectable is found in 80 % of such comparisons."""


def clustered_difference(clusters: Sequence[Sequence[float]]) -> Estimate | None:
    """Mean difference with a 95 % interval when only clusters are independent.

    Tango's score interval of as many pairs as the clusters are worth, with Student's t of G - 1 degrees
    of freedom. `n` counts differences, in all clusters. No interval from a single cluster.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    if not filled:
        return None
    lost, won, n = _lost_won(filled)
    value = (won - lost) / n
    if len(filled) < 2:
        return Estimate(value=value, ci_low=None, ci_high=None, n=n)
    pairs = _independent_pairs(filled)
    t = t_quantile(0.975, len(filled) - 1)
    low, high = difference_interval(lost * pairs / n, won * pairs / n, pairs, t)
    return Estimate(value=value, ci_low=low, ci_high=high, n=n)


def bootstrap_difference(clusters: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate | None:
    """Mean difference with the interval of 10,000 draws of whole clusters; else `clustered_difference`.

    One pair lost and one won are added to what is drawn from, each as heavy as one independent pair
    (Agresti & Min 2005): draws of a few discordant pairs, or none, would understate the doubt.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    if not filled:
        return None
    lost, won, n = _lost_won(filled)
    value = (won - lost) / n
    if len(filled) < 2:
        return Estimate(value=value, ci_low=None, ci_high=None, n=n)
    weight = n / _independent_pairs(filled)
    rows = [(sum(cluster), len(cluster)) for cluster in filled]
    low, high = interval_of_mean(np.array([*rows, (weight, weight), (-weight, weight)]), seed=seed)
    return Estimate(value=value, ci_low=low, ci_high=high, n=n)


def clustered_p(clusters: Sequence[Sequence[float]]) -> float:
    """Two-sided p of "no difference" that goes with `clustered_difference`; 1 where nothing can be said.

    McNemar's statistic of as many pairs as the clusters are worth, (won - lost) / sqrt(lost + won), held
    against Student's t.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    if len(filled) < 2:
        return 1.0
    lost, won, n = _lost_won(filled)
    if lost + won == 0:
        return 1.0
    statistic = abs(won - lost) * math.sqrt(_independent_pairs(filled) / n / (lost + won))
    return 2 * t_cdf(-statistic, len(filled) - 1)


def _lost_won(clusters: Sequence[Sequence[float]]) -> tuple[float, float, int]:
    """Sum of what was lost, of what was won, and the number of differences."""
    lost = -sum(min(d, 0.0) for cluster in clusters for d in cluster)
    return lost, sum(map(sum, clusters)) + lost, sum(map(len, clusters))


def _independent_pairs(clusters: Sequence[Sequence[float]]) -> float:
    lost, won, n = _lost_won(clusters)
    return independent_answers(clusters, (lost + won) / n - ((won - lost) / n) ** 2)


def non_inferior(difference: Estimate | None, margin: float) -> bool | None:
    """Whether new is worse than base by less than `margin`, a share declared beforehand.

    The lower limit of the two-sided 95 % interval lies above -margin: a one-sided test at 2.5 %. None
    without an interval.
    """
    if difference is None or difference.ci_low is None:
        return None
    return difference.ci_low > -margin


def n_for_difference(difference: float, discordance: float) -> int:
    """Pairs needed to find `difference` at alpha 0.05 two-sided with power 0.8 (Connor 1987).

    `discordance` is the share of pairs, one right and one wrong; at least the difference itself.
    """
    psi = max(abs(difference), discordance)
    reach = Z95 * math.sqrt(psi) + Z_POWER * math.sqrt(psi - difference**2)
    return math.ceil((reach / difference) ** 2)


def minimal_detectable_difference(n: int, discordance: float) -> float | None:
    """The smallest difference found in 80 % of comparisons of `n` pairs, alpha 0.05 two-sided.

    `discordance` is the share of pairs, one right and one wrong, as expected or as seen. Where so few
    can't carry any difference, it is the one that brings the discordant pairs itself, all to one side.
    None without pairs, 1 where not even that is found.
    """
    if n == 0:
        return None
    inside = n + Z_POWER**2 - Z95**2
    if inside > 0:
        found = math.sqrt(discordance) * (Z95 * math.sqrt(n) + Z_POWER * math.sqrt(inside)) / (n + Z_POWER**2)
        if 0 < found <= discordance:
            return found

    def beyond(d: float) -> float:
        return math.sqrt(n * d) - Z95 - Z_POWER * math.sqrt(1 - d)

    return bisect(beyond, 0.0, 1.0) if beyond(1.0) > 0 else 1.0
