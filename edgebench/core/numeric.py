"""Roots by bisection and Student's t: what intervals need, without scipy."""

import math
from collections.abc import Callable
from functools import lru_cache


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """Where `f` crosses 0 between `low` (f <= 0) and `high` (f > 0), to the last bit or nearly."""
    while low < (middle := (low + high) / 2) < high:
        if f(middle) > 0:
            high = middle
        else:
            low = middle
    return middle


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t with `df` >= 1 degrees of freedom.

    The finite series for whole degrees of freedom: Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    theta = math.atan(abs(t) / math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0 if df == 1 else term
    for j in range(2 + odd, df - 1, 2):
        term *= cos2 * (j - 1) / j
        total += term
    inside = math.sin(theta) * total  # P(|T| <= |t|)
    if odd:
        inside = (theta + inside) * 2 / math.pi
    return (1 + math.copysign(inside, t)) / 2


@lru_cache(maxsize=256)
def t_quantile(p: float, df: int) -> float:
    """The value that Student's t stays below with probability `p`, 0.5 <= p < 1."""
    high = 1.0
    while t_cdf(high, df) < p:
        high *= 2
    return bisect(lambda t: t_cdf(t, df) - p, 0.0, high)
