"""What a model will take on a device, before it is run: memory, seconds a token, and how sure that is.

A token's time is a sum of parts, each an amount of work times what a unit of it costs on this device:
bytes read, weights unpacked (by type), layers begun. The costs are fitted to measurements of other
models by least squares in relative errors, none below zero; what the measurements leave open, a weak
expectation (`Prior`) fills in. With as many parts as there are types, and few measurements, that
expectation decides how the time is shared among parts that always come together, and its width is part of
the interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebench.core.stats import Z95
from edgebench.core.types import Evidence

Work = Mapping[str, float]
"""Amount of each part a token (or a prompt's token) takes, by the part's name."""
Vector = NDArray[np.float64]

MISFIT = 0.06
"""Relative error of the sum itself: what the parts leave out, and noise between sittings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A figure that was not measured: a value with its 95 % interval, or why there is none."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    basis: str
    """What it rests on, or why there is no value; a phrase."""
    evidence: Evidence = Evidence.MODELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What a unit of a part is expected to cost, and how far that may be off (a relative deviation)."""

    cost_s: float
    sd_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Fitted costs and how sure they are."""

    names: tuple[str, ...]
    cost_s: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    def seconds(self, work: Work) -> tuple[float, float]:
        """(seconds, standard deviation) of an amount of work whose parts are all known."""
        amounts = np.array([work.get(name, 0.0) for name in self.names])
        value = float(amounts @ np.array(self.cost_s))
        variance = float(amounts @ np.array(self.covariance) @ amounts)
        return value, float(np.hypot(np.sqrt(max(variance, 0.0)), MISFIT * value))


def nnls(a: Vector, b: Vector) -> Vector:
    """The x >= 0 with the least |a x - b|: Lawson and Hanson's active set (Solving Least Squares Problems).

    `a` of shape (m, n) with columns that don't depend on each other.
    """
    n = a.shape[1]
    x, free = np.zeros(n), np.zeros(n, dtype=bool)
    tolerance = 1e-12 * float(np.abs(a.T @ b).max(initial=0.0))
    for _ in range(3 * n):  # each round frees one; more rounds than that are rounding's
        gradient = a.T @ (b - a @ x)
        held = np.flatnonzero(~free)
        if not held.size or gradient[held].max() <= tolerance:
            break
        free[held[gradient[held].argmax()]] = True
        while True:
            trial = np.zeros(n)
            trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            below = free & (trial <= 0)
            if not below.any():
                x = trial
                break
            step = float((x[below] / (x[below] - trial[below])).min())
            x = x + step * (trial - x)
            free &= x > 0
            x[~free] = 0.0
    return x


def fit_costs(rows: Sequence[tuple[Work, float]], priors: Mapping[str, Prior]) -> Costs:
    """Costs of the parts named in `priors` from (work, seconds) of measurements; no rows: the priors.

    Every measurement counts alike, with a relative error of `MISFIT`.
    """
    names = tuple(priors)
    scale = np.array([priors[name].cost_s for name in names])
    # In units of the expected costs, so that one number means the same in all columns.
    seen = np.array([[work.get(name, 0.0) for name in names] for work, _ in rows]).reshape(
        len(rows), len(names)
    )
    seconds = np.array([value for _, value in rows])
    measured = seen * scale / seconds[:, None] / MISFIT
    weights = np.array([1 / priors[name].sd_share for name in names])
    a = np.vstack([measured, np.diag(weights)])
    b = np.concatenate([np.full(len(rows), 1 / MISFIT), weights])
    covariance = np.linalg.inv(a.T @ a) * np.outer(scale, scale)
    return Costs(
        names=names,
        cost_s=tuple(float(value) for value in nnls(a, b) * scale),
        covariance=tuple(tuple(float(value) for value in row) for row in covariance),
    )


def rate(n_tokens: int, seconds: float, sd_s: float, basis: str) -> Prediction:
    """Tokens a second from (seconds, standard deviation) of so many tokens; the interval is that of the time.

    It is symmetric in the logarithm: a time can be off by any factor, and can't be negative.
    """
    reach = float(np.exp(Z95 * sd_s / seconds))
    value = n_tokens / seconds
    return Prediction(value=value, ci_low=value / reach, ci_high=value * reach, basis=basis)


def absent(why: str) -> Prediction:
    """No figure, and why."""
    return Prediction(value=None, basis=why)


def quotient(amount: float, speed: Prediction, *, spread: tuple[float, float] | None = None) -> Prediction:
    """`amount` over a predicted speed (seconds of a prompt, joules of a token), with its interval.

    `spread` is the amount's own (low, high). Without a speed there is no quotient.
    """
    if speed.value is None or speed.ci_low is None or speed.ci_high is None:
        return absent(speed.basis)
    low, high = spread or (amount, amount)
    return Prediction(
        value=amount / speed.value,
        ci_low=low / speed.ci_high,
        ci_high=high / speed.ci_low,
        basis=speed.basis,
    )
