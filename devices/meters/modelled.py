"""Energy by a model: the processor's design power times how busy it was. Only by an explicit flag.

It is not a measurement: it knows nothing of clocks, instructions or memory. It is kept apart from
readings by its type, so that it can't enter a ranking by accident.
"""

from dataclasses import dataclass

from edgebench.core.errors import UsageError
from edgebench.core.types import Evidence

LABEL = "MODELLED – not measured"
MODEL = "tdp_share"
FORMULA = "tdp_w * busy_core_s / n_cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelledEnergy:
    """A modelled figure with all it was made of."""

    value_j: float
    tdp_w: float
    source: str
    """Who says the design power: the user, a data sheet."""
    model: str = MODEL
    formula: str = FORMULA
    label: str = LABEL
    evidence: Evidence = Evidence.MODELLED


def tdp_energy_j(
    busy_core_s: float, n_cores: int, tdp_w: float, *, source: str = "the user"
) -> ModelledEnergy:
    """The design power's share that `busy_core_s` core seconds stand for on `n_cores` cores, in J.

    UsageError for a count or power that is not positive, or a negative time.
    """
    if n_cores < 1 or not tdp_w > 0 or not busy_core_s >= 0:
        raise UsageError(
            f"no modelled energy of {busy_core_s} core seconds, {n_cores} cores, {tdp_w} W",
            "give the processor's design power in watts, more than 0",
        )
    return ModelledEnergy(value_j=tdp_w * busy_core_s / n_cores, tdp_w=tdp_w, source=source)
