"""Shares of right answers: lm-eval's standard errors, and intervals that know about clusters.

A cluster is what belongs together: one question in all its orders, the questions of one passage or of
one subject. Only clusters are independent.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from edgebench.core.numeric import t_quantile
from edgebench.core.resampling import Floats, percentile_interval, resampled_totals
from edgebench.core.stats import Estimate, share_interval


def acc_stderr(n_hits: int, n: int) -> float | None:
    """lm-eval's standard error of an accuracy, sqrt(p (1 - p) / (n - 1)); None below two answers."""
    if n < 2:
        return None
    p = n_hits / n
    return math.sqrt(p * (1 - p) / (n - 1))


def pooled_stderr(stderrs: Sequence[float], sizes: Sequence[int]) -> float | None:
    """lm-eval's standard error of a group of tasks, weighted by size.

    sqrt(sum((n_i - 1) n_i se_i^2) / (sum(n_i) - k) / sum(n_i)): the pooled variance within tasks. It
    leaves out the spread between them, so it is printed to agree with lm-eval, not to be believed.
    """
    n, spare = sum(sizes), sum(sizes) - len(sizes)
    if spare < 1:
        return None
    squares = sum((size - 1) * size * se**2 for se, size in zip(stderrs, sizes, strict=True))
    return math.sqrt(squares / spare / n)


def mean_of_parts_stderr(stderrs: Sequence[float]) -> float | None:
    """Standard error of the unweighted mean of independent parts, as MIRAGE's: sqrt(sum(se^2)) / k."""
    return math.sqrt(sum(se**2 for se in stderrs)) / len(stderrs) if stderrs else None


def mean_of_parts(parts: Sequence[Estimate]) -> Estimate | None:
    """Unweighted mean of independent parts; its interval is put together from theirs.

    The distances from each part's value to its limits are added in squares, below and above apart
    (Newcombe's MOVER): skewed parts keep their skew, and shares stay in [0, 1]. Parts of a dozen answers
    make it a little short: 92 to 93 % in simulations. `n` counts all answers.
    """
    if not parts:
        return None
    k, value = len(parts), sum(part.value for part in parts) / len(parts)
    below = above = 0.0
    for part in parts:
        if part.ci_low is None or part.ci_high is None:
            return Estimate(value=value, ci_low=None, ci_high=None, n=sum(part.n for part in parts))
        below += (part.value - part.ci_low) ** 2
        above += (part.ci_high - part.value) ** 2
    return Estimate(
        value=value,
        ci_low=value - math.sqrt(below) / k,
        ci_high=value + math.sqrt(above) / k,
        n=sum(part.n for part in parts),
    )


def clustered_stderr(clusters: Sequence[Sequence[float]]) -> float | None:
    """Standard error of the mean of all values when only clusters are independent.

    sqrt(G / (G - 1) sum_c(sum_i(s_i - mean))^2) / n (Miller, arXiv 2411.00640, with the correction for
    few clusters). None below two clusters.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    if len(filled) < 2:
        return None
    n = sum(map(len, filled))
    mean = sum(map(sum, filled)) / n
    squares = math.fsum((sum(cluster) - len(cluster) * mean) ** 2 for cluster in filled)
    return math.sqrt(len(filled) / (len(filled) - 1) * squares) / n


def independent_answers(clusters: Sequence[Sequence[float]], variance: float) -> float:
    """How many independent answers the clusters are worth: n / design effect, never more than n.

    `variance` is that of one answer, were all independent. Without any variance the clusters say
    nothing of the design effect: then it is as if the answers of a cluster were one and the same.
    """
    sizes = [len(cluster) for cluster in clusters]
    n = sum(sizes)
    stderr = clustered_stderr(clusters) or 0.0
    if variance <= 0:
        return n * n / sum(size * size for size in sizes)
    return min(float(n), variance / stderr**2) if stderr > 0 else float(n)


def clustered_share(clusters: Sequence[Sequence[float]]) -> Estimate | None:
    """Share of right answers (1, 0 or between), with a 95 % interval when only clusters are independent.

    Wilson's interval of as many answers as the clusters are worth, with Student's t of G - 1 degrees of
    freedom: it stays in [0, 1] and covers at small shares. `n` counts answers, in all clusters. No
    interval from a single cluster.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    if not filled:
        return None
    n = sum(map(len, filled))
    p = min(1.0, sum(map(sum, filled)) / n)
    if len(filled) < 2:
        return Estimate(value=p, ci_low=None, ci_high=None, n=n)
    worth = independent_answers(filled, p * (1 - p))
    low, high = share_interval(p, worth, t_quantile(0.975, len(filled) - 1))
    return Estimate(value=p, ci_low=low, ci_high=high, n=n)


def macro_f1(gold: Sequence[int], chosen: Sequence[int | None]) -> float | None:
    """Mean of the F1 of each class that is the key or the choice of an answer; None without answers.

    F1 = 2 hits / (times it was right + times it was chosen). An answer without a choice is a miss of
    its class and a choice of none.
    """
    if not gold:
        return None
    return float(_macro_f1(_confusion(gold, chosen).sum(axis=0))[0])


def macro_f1_estimate(
    gold: Sequence[int],
    chosen: Sequence[int | None],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate | None:
    """Macro-F1 with a bootstrap interval; `clusters` names the cluster of each answer, if there are any."""
    value = macro_f1(gold, chosen)
    if value is None:
        return None
    rows = _confusion(gold, chosen)
    if clusters is not None:
        place = {name: g for g, name in enumerate(dict.fromkeys(clusters))}
        rows, answers = np.zeros((len(place), rows.shape[1])), rows
        np.add.at(rows, [place[name] for name in clusters], answers)
    if len(rows) < 2:
        return Estimate(value=value, ci_low=None, ci_high=None, n=len(gold))
    low, high = percentile_interval(_macro_f1(resampled_totals(rows, seed=seed)), len(rows))
    return Estimate(value=value, ci_low=low, ci_high=high, n=len(gold))


def _confusion(gold: Sequence[int], chosen: Sequence[int | None]) -> Floats:
    """A row per answer: hit, right and chosen of each class, 0 or 1."""
    n_classes = 1 + max([*gold, *(c for c in chosen if c is not None)])
    one_of = np.eye(n_classes + 1)[:, :-1]  # its last row, of no class, is all 0
    right, choice = one_of[list(gold)], one_of[[n_classes if c is None else c for c in chosen]]
    return np.hstack([right * choice, right, choice])


def _macro_f1(totals: Floats) -> Floats:
    hits, right, chosen = np.moveaxis(totals.reshape(-1, 3, totals.shape[-1] // 3), 1, 0)
    seen = right + chosen
    f1 = 2 * hits / np.maximum(seen, 1)
    means: Floats = f1.sum(axis=1) / np.maximum((seen > 0).sum(axis=1), 1)
    return means
