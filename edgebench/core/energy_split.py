"""Energy of reading and of writing from whole windows: for meters too slow to see one request's parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebench.core.numeric import t_quantile
from edgebench.core.stats import Z95, Estimate

Floats = npt.NDArray[np.float64]

MIN_WINDOWS = 6
MAX_CONDITION = 30.0
"""Belsley's (1980) mark of strong collinearity, of columns scaled to unit length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """One window: what it cost and what was done in it."""

    energy_j: float
    duration_s: float
    n_prompt: int
    """Prompt tokens evaluated."""
    n_output: int
    """Tokens written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergySplit:
    """E = a x prompt tokens + b x output tokens + c x time, or why it can't be told apart."""

    prompt_j_per_token: Estimate | None = None
    output_j_per_token: Estimate | None = None
    idle_w: Estimate | None = None
    reason: str = ""
    """Empty exactly when there are figures."""
    hint: str = ""


def split_prefill_decode(windows: Sequence[EnergyWindow], *, accuracy: float | None = None) -> EnergySplit:
    """Least squares of E_k = a N_prompt + b N_output + c T_k over windows of different make-up.

    a and b are J per token above the idle power c, as they come out, below 0 too. Intervals are
    Student's with n - 3 degrees of freedom: 95 % where windows err alike, 93 to 99 % where in proportion to
    their energy, in simulations of 6 to 24; robust ones (HC2, HC3) do worse with so few.
    The meter's documented `accuracy`, common to all windows, is added in squares as a / sqrt(3) of each.

    Refused with fewer than six windows, and where the make-up can't separate the parts: a device of steady
    speed takes a time that follows from its tokens, unless windows pause for different lengths.
    """
    if len(windows) < MIN_WINDOWS:
        return EnergySplit(
            reason=f"{len(windows)} windows, {MIN_WINDOWS} are the least", hint="measure more windows"
        )
    design = np.array([(w.n_prompt, w.n_output, w.duration_s) for w in windows], dtype=float)
    energy_j = np.array([w.energy_j for w in windows], dtype=float)
    condition = _condition(design)
    if not condition <= MAX_CONDITION:
        return EnergySplit(
            reason=f"prompt, output and time go together in these windows (condition {condition:.0f}, "
            f"{MAX_CONDITION:.0f} is the most)",
            hint="vary prompt and output length apart, and pause between requests for different times",
        )
    inverse = np.linalg.pinv(design)
    fitted = inverse @ energy_j
    residuals_j = energy_j - design @ fitted
    spare = len(windows) - design.shape[1]
    errors = np.sqrt(residuals_j @ residuals_j / spare * (inverse**2).sum(axis=1))
    halves = np.hypot(t_quantile(0.975, spare) * errors, Z95 * (accuracy or 0.0) * fitted / math.sqrt(3))
    prompt, output, idle = (
        Estimate(value=float(value), ci_low=float(value - half), ci_high=float(value + half), n=len(windows))
        for value, half in zip(fitted, halves, strict=True)
    )
    return EnergySplit(prompt_j_per_token=prompt, output_j_per_token=output, idle_w=idle)


def _condition(design: Floats) -> float:
    """Largest over smallest singular value of the columns scaled to unit length; infinite for a 0 column."""
    lengths = np.linalg.norm(design, axis=0)
    if not (np.isfinite(lengths).all() and lengths.all()):
        return math.inf
    singular = np.linalg.svd(design / lengths, compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else math.inf
