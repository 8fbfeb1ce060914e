"""A phone's power rails as a meter: the sum of those that do not overlap. A charger does not disturb them."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from edgebench.core.energy import Absence, MeterError, MeterFacts, Method, Sample, Scope
from edgebench.core.types import Evidence
from edgebench.devices.phone_dumps import read_rails
from edgebench.devices.phone_log import Log

SERVICES = ("android.hardware.power.stats",)
MINIMUM_S = 2.0
_UPDATE_S = MINIMUM_S / 100
"""The regulators' chips go on adding by themselves, and tell what they have when they are asked."""
_PRINTED_J = 1e-5
_FLOAT_BITS = 23
"""The HAL prints its whole µWs through a C float."""

_BATTERY = re.compile(r"\[[^\]]*VBATT?\b[^\]]*\]|.*:Battery\b", re.IGNORECASE)
_BEHIND_CONVERTER = re.compile(r"\[L[0-9]+[A-Z]_")
_FEEDS_THEM = re.compile(r"\[(?:S[0-9A-Z]+|BB)_[LMH]L?DO[0-9]*\]|\[S[^\]]*\]:LDO\b")
_DISPLAY = re.compile(r"\[VSYS_PWR_DISPLAY\]")
_PART_OF_DISPLAY = re.compile(r"\[VSYS_PWR_(?:DISP_\w+|\w+_DISPLAY)\]")


class Source(NamedTuple):
    """A meter that was read elsewhere, and all it said."""

    facts: MeterFacts
    samples: list[Sample]


def read_rails_meter(log: Log, evidence: Evidence) -> Source:
    """The rails' joules since the first answer. MeterError where they tell nothing."""
    looks = [(dump.at_s, rails) for dump in log.said(*SERVICES) if (rails := read_rails(dump.lines))]
    if not looks:
        raise MeterError(Absence.NO_SENSOR, "there is no power stats service with rails")
    # An answer may be cut; and a rail that is not in all of them would come and go with its joules.
    (names, _), *_ = Counter(frozenset(rails) for _, rails in looks).most_common(1)
    counted = _disjoint(names)
    totals = [
        (at_s, math.fsum(rails[name] for name in counted)) for at_s, rails in looks if names <= rails.keys()
    ]
    if len(totals) < 2 or totals[0][1] == totals[-1][1]:
        raise MeterError(Absence.INCONSISTENT_SENSOR, "the power rails' counters stand still")
    first_j = totals[0][1]
    last = looks[-1][1]
    step_j = math.hypot(*(_step_j(last.get(name, 0.0)) for name in counted))
    left_out = sorted(names - counted)
    detail = f"sum of {len(counted)} rails: {', '.join(sorted(counted))}"
    if left_out:
        detail += f"; in others already, so not added: {', '.join(left_out)}"
    facts = MeterFacts(
        source="rails",
        scope=Scope.RAILS,
        method=Method.COUNTER,
        step=step_j,
        update_s=_UPDATE_S,
        minimum_s=MINIMUM_S,
        detail=detail,
        evidence=evidence,
    )
    return Source(facts, [Sample(at_s, total_j - first_j) for at_s, total_j in totals])


def _disjoint(names: Iterable[str]) -> frozenset[str]:
    """Rails without those whose energy is in another one, too; names differ from one generation to the next.

    The battery's own rail holds all others. Linear regulators (L7M_…) hang on the step-down converters that
    are named after them, and a folding phone's displays on their common supply.
    """
    rails = {name for name in names if not _BATTERY.match(name)}
    if any(_FEEDS_THEM.match(name) for name in rails):
        rails = {name for name in rails if not _BEHIND_CONVERTER.match(name)}
    if any(_DISPLAY.match(name) for name in rails):
        rails = {name for name in rails if not _PART_OF_DISPLAY.match(name)}
    return frozenset(rails)


def _step_j(value_j: float) -> float:
    """The smallest change of a counter that stands at `value_j`."""
    if value_j * 1e6 < 1:
        return _PRINTED_J
    return max(_PRINTED_J, 1e-6 * 2.0 ** (math.floor(math.log2(value_j * 1e6)) - _FLOAT_BITS))
