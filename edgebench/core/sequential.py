"""When to stop asking: a confidence sequence, valid at every look together."""

import math

from edgebench.core.numeric import bisect
from edgebench.core.stats import Estimate


def share_sequence(n_hits: int, n: int, *, alpha: float = 0.05) -> Estimate | None:
    """A share with limits that hold at all n at once: P(the share ever lies outside) <= alpha.

    So one may look after every answer and stop when it pleases. Robbins' mixture: those p at which
    the likelihood ratio of a Beta(1/2, 1/2) mixture against p, a martingale under p, stays below
    1 / alpha (Ville's inequality). Answers are independent; wider than Wilson's by half or more. None
    for an empty sample.
    """
    if n == 0:
        return None
    n_misses, value = n - n_hits, n_hits / n
    mixture = math.lgamma(n_hits + 0.5) + math.lgamma(n_misses + 0.5) - math.lgamma(n + 1) - math.log(math.pi)

    def excess(p: float) -> float:
        """Log of the ratio over its bound: positive where p is rejected."""
        likelihood = n_hits * math.log(p) if n_hits else 0.0
        likelihood += n_misses * math.log1p(-p) if n_misses else 0.0
        return mixture - likelihood + math.log(alpha)

    tiny = 1e-300  # log(0) is not a number; 1 - 2^-53 is the largest p below 1
    low = bisect(lambda p: -excess(p), tiny, value) if n_hits else 0.0
    high = bisect(excess, value, 1 - 2**-53) if n_misses else 1.0
    return Estimate(value=value, ci_low=low, ci_high=high, n=n)


def narrow_enough(found: Estimate | None, half_width: float) -> bool:
    """Whether the interval is there and its half width is `half_width` or less."""
    if found is None or found.ci_low is None or found.ci_high is None:
        return False
    return (found.ci_high - found.ci_low) / 2 <= half_width
