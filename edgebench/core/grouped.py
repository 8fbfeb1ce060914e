"""How much less values of a few processes tell than as many independent ones.

Values of one process are alike when processes differ: in memory layout, in clocks, in who else was
there. The one-way analysis of variance sees that: mean squares between processes over those within.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from edgebench.core.numeric import t_quantile


class Dependence(NamedTuple):
    """What an interval from grouped values has to allow for."""

    design_effect: float
    """Variance of the mean over that of as many independent values; never below 1."""
    df: float
    """Degrees of freedom of Student's t, whole or not."""
    f_ratio: float
    """Mean squares between groups over those within; infinite where there is no spread within."""

    @property
    def half_width_t(self) -> float:
        """Half of a 95 % interval, in standard errors of independent values."""
        return t95(self.df) * math.sqrt(self.design_effect)


def dependence(*sides: Sequence[Sequence[float]]) -> Dependence:
    """Of values in groups (processes), on one side or on several that are held against each other.

    While groups differ no more than chance has it (F <= 1), values count as independent. Above, the
    variance is that of the groups' means, and the degrees of freedom move from those within groups to
    those between them with the groups' part 1 - 1/F of it (Satterthwaite 1946). So nothing jumps, and an
    interval without a difference between processes gains little. Groups of one value each are
    independent. Each side has a mean of its own and at least two values; the spread is one for all.
    """
    squares_between = squares_within = 0.0
    df_between = df_within = 0
    for side in sides:
        filled = [np.asarray(group, dtype=float) for group in side if len(group)]
        mean = np.concatenate(filled).mean()
        squares_between += sum(len(group) * (group.mean() - mean) ** 2 for group in filled)
        squares_within += sum(((group - group.mean()) ** 2).sum() for group in filled)
        df_between += len(filled) - 1
        df_within += sum(map(len, filled)) - len(filled)
    df = df_between + df_within
    if df_between == 0 or df_within == 0:
        return Dependence(1.0, df, 1.0)
    between, within = squares_between / df_between, squares_within / df_within
    f_ratio = float(between / within) if within > 0 else math.inf if between > 0 else 1.0
    if f_ratio <= 1:
        return Dependence(1.0, df, f_ratio)
    part = 1 - 1 / f_ratio
    df_mixed = 1 / (part**2 / df_between + (1 - part) ** 2 / df_within)
    design_effect = between * df / (squares_between + squares_within)
    return Dependence(float(design_effect), min(df_mixed, df), f_ratio)


def t95(df: float) -> float:
    """Student's t at 0.975 for `df` >= 1, whole or not.

    Between whole ones its logarithm is drawn straight in 1 / df (3 % too wide between 1 and 2, 0.5 % above);
    from 30 on by the expansion in 1 / df (Abramowitz & Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf(0.975)
    if df >= 30:
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    below = math.floor(df)
    low, high = (math.log(t_quantile(0.975, whole)) for whole in (below, below + 1))
    part = (1 / below - 1 / df) * below * (below + 1)
    return math.exp(low + part * (high - low))
