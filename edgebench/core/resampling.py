"""The cluster bootstrap: whole clusters are drawn again, 10,000 times, from a seed.

Answers within a cluster (one question in several orders, one passage, one subject) are not independent:
only clusters are.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgebench.core.numeric import t_quantile
from edgebench.core.stats import N_BOOTSTRAP

Floats = npt.NDArray[np.float64]

_CELLS_AT_ONCE = 4_000_000
"""Draws are made in blocks of about so many counts: memory stays in the tens of megabytes."""


def resampled_totals(rows: Floats, *, seed: int = 0) -> Floats:
    """Column totals of `N_BOOTSTRAP` draws of as many rows with replacement: one draw to a row.

    Rows that are equal are drawn together, as a multinomial: thousands of questions are a few kinds.
    """
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // len(kinds))
    sizes = [min(block, N_BOOTSTRAP - start) for start in range(0, N_BOOTSTRAP, block)]
    drawn = [rng.multinomial(len(rows), counts / len(rows), size=size) @ kinds for size in sizes]
    totals: Floats = np.concatenate(drawn)
    return totals


def percentile_interval(draws: Floats, n_clusters: int) -> tuple[float, float]:
    """The 95 % percentile interval, widened for few clusters as Student's t widens a normal one.

    Plain percentiles are too short by the factor sqrt((G - 1) / G) and know no t (Hesterberg 2015).
    """
    widened = math.sqrt(n_clusters / (n_clusters - 1)) * t_quantile(0.975, n_clusters - 1)
    tail = NormalDist().cdf(-widened)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def interval_of_mean(rows: Floats, *, seed: int = 0) -> tuple[float, float]:
    """The bootstrap's 95 % interval of sum / size; a row is the sum and the size of a cluster."""
    totals = resampled_totals(rows, seed=seed)
    return percentile_interval(totals[:, 0] / totals[:, 1], len(rows))
