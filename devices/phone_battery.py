"""Joules out of a phone's battery, two ways: by its charge counter, and by current x voltage.

Neither the unit nor the sign of the current is agreed upon, and charge counters differ in unit and in
the size of their steps: all of it is decided by what was seen, and the decision stands in the meter's words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from edgebench.core.energy import Absence, MeterError, MeterFacts, Method, Sample, Scope
from edgebench.core.types import Evidence
from edgebench.devices.phone_log import between
from edgebench.devices.phone_rails import Source
from edgebench.devices.phone_supply import Discharge, Look, renewal_s

MINIMUM_S = 5.0
FRESH_S = MINIMUM_S / 100
"""A value that is new at every look may be renewed any faster."""
_LEAST_W, _MOST_W = 0.03, 30.0
"""What a phone draws while it is awake. A thousand times apart, so one unit of two fits, or none."""
_AGREE = 0.25
"""Current and charge counter differ by less than this, or one of them is not what it seems."""
_ODD_SIGNS_SHARE = 0.1
_SAME_SHARE = 0.2
"""A counter that is seen unchanged more often moves in steps that are seen one by one."""
_FEWEST_CHANGES = 5
_COULOMB_PER_UAH = 3.6e-3
_CLOCK_STEP_S = 0.01
_FULL_C = (300 * 3.6, 20_000 * 3.6)
"""What a phone's or a tablet's battery holds, in Coulomb; not a thousand times apart: one unit fits."""
_LEAST_LEVEL_SHARE = 0.05
"""Of less, a level's step of a percent is too much."""
_WHOLE_PHONE = "the whole phone, screen included"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charge:
    """The charge counter, in Coulomb."""

    looks: list[Look]
    unit_c: float
    step_c: float
    words: str

    def between_changes(self) -> tuple[float, float, float, int]:
        """(start_s, end_s, Coulomb drawn, changes) from the first change to the last one: no step is cut."""
        changed = [later for earlier, later in pairwise(self.looks) if later.value != earlier.value]
        if len(changed) < 2:
            return 0.0, 0.0, 0.0, len(changed)
        first, last = changed[0], changed[-1]
        return first.t_s, last.t_s, (first.value - last.value) * self.unit_c, len(changed)


class Battery:
    """The two meters of a time on the battery."""

    def __init__(self, discharge: Discharge, evidence: Evidence) -> None:
        self._discharge = discharge
        self._evidence = evidence
        self._voltages = _volts(discharge.voltage)
        self._amps_per_unit: float | None = None

    def current_voltage(self) -> Source:
        """Current x voltage, in W; MeterError where it is no current."""
        looks = self._discharge.current
        if len(looks) < 2 or not self._voltages:
            raise MeterError(Absence.NO_SENSOR, f"the battery's current {self._lacks(looks)}")
        sign, sign_words = _sign(looks)
        volts = self._volts_at(looks)
        mean_w = fmean(abs(look.value) * v for look, v in zip(looks, volts, strict=True))
        unit_a = next((unit for unit in (1e-6, 1e-3) if _LEAST_W <= mean_w * unit < _MOST_W), None)
        if unit_a is None:
            raise MeterError(
                Absence.INCONSISTENT_SENSOR,
                f"{self._discharge.current_words} x voltage is {mean_w * 1e-6:.3g} W if it is in µA,"
                f" {mean_w * 1e-3:.3g} W if it is in mA: no phone draws either",
            )
        name = "µA" if unit_a == 1e-6 else "mA"
        agreed = self._check(looks, unit_a, name)
        update_s = renewal_s(looks, fresh_s=FRESH_S)
        shown = math.gcd(*(look.value for look in looks)) * unit_a
        facts = self._facts(
            "current_voltage",
            Method.SAMPLED,
            step=shown * fmean(volts),
            update_s=update_s,
            words=f"{self._discharge.current_words} in {name} ({agreed}), {sign_words}, times the voltage, "
            + _renewed(update_s),
        )
        watts = (sign * look.value * unit_a * v for look, v in zip(looks, volts, strict=True))
        return Source(facts, [Sample(look.t_s, w) for look, w in zip(looks, watts, strict=True)])

    def charge_counter(self) -> Source:
        """The charge that has left the battery x voltage, in J; MeterError where nothing is seen to leave."""
        looks = self._discharge.charge
        if len(looks) < 2 or not self._voltages:
            raise MeterError(Absence.NO_SENSOR, f"the battery's charge counter {self._lacks(looks)}")
        charge = self._charge()
        volts = self._volts_at(looks)
        energy_j, samples = 0.0, [Sample(looks[0].t_s, 0.0)]
        for (before, v0), (now, v1) in pairwise(zip(looks, volts, strict=True)):
            energy_j += (before.value - now.value) * charge.unit_c * (v0 + v1) / 2
            samples.append(Sample(now.t_s, energy_j))
        update_s = renewal_s(looks, fresh_s=FRESH_S)
        facts = self._facts(
            "charge_counter",
            Method.COUNTER,
            step=charge.step_c * fmean(volts),
            update_s=update_s,
            words=f"charge counter in {charge.words}, steps of {charge.step_c / _COULOMB_PER_UAH:.4g} µAh,"
            f" times the voltage, {_renewed(update_s)}",
        )
        return Source(facts, samples)

    def full_charge_j(self) -> tuple[float, float] | None:
        """(uptime_s, J) of a full charge: the counter over the level, times the voltage; None: not told."""
        level_share, looks = self._discharge.level_share, self._discharge.charge
        if not looks or not self._voltages or level_share is None or level_share < _LEAST_LEVEL_SHARE:
            return None
        low_c, high_c = _FULL_C
        for unit_c in (_COULOMB_PER_UAH, 1e3 * _COULOMB_PER_UAH):
            full_c = looks[-1].value * unit_c / level_share
            if low_c <= full_c <= high_c:
                return looks[-1].t_s, full_c * fmean(v for _, v in self._voltages)
        return None

    def _charge(self) -> _Charge:
        looks = self._discharge.charge
        changes = [abs(b.value - a.value) for a, b in pairwise(looks) if a.value != b.value]
        if not changes:
            raise MeterError(
                Absence.BELOW_RESOLUTION,
                f"the charge counter stood still for {looks[-1].t_s - looks[0].t_s:.3g} s",
                "measure for longer: its steps may be as large as a hundredth of the battery",
            )
        # Steps that are seen one by one are as large as the smallest of them. Else every look saw several.
        n_same = len(looks) - 1 - len(changes)
        coarse = n_same > _SAME_SHARE * (len(looks) - 1)
        step = min(changes) if coarse else math.gcd(*changes)
        unit_c, words = self._charge_unit(looks, step)
        return _Charge(looks=looks, unit_c=unit_c, step_c=step * unit_c, words=words)

    def _charge_unit(self, looks: Sequence[Look], step: int) -> tuple[float, str]:
        """Coulomb of its unit, by the power that this makes; a step more or less is what one can't see."""
        length_s = max(looks[-1].t_s - looks[0].t_s, _CLOCK_STEP_S)
        mean_v = fmean(v for _, v in self._voltages)
        drawn = looks[0].value - looks[-1].value
        for unit_c, words in ((_COULOMB_PER_UAH, "µAh"), (1e3 * _COULOMB_PER_UAH, "mAh")):
            least_w, most_w = ((drawn + spare) * unit_c * mean_v / length_s for spare in (-step, step))
            if most_w >= _LEAST_W and least_w < _MOST_W:
                return unit_c, words
        raise MeterError(
            Absence.INCONSISTENT_SENSOR,
            f"the charge counter fell by {drawn} in {length_s:.3g} s: no phone does, in µAh or mAh",
        )

    def _check(self, looks: Sequence[Look], unit_a: float, name: str) -> str:
        """What makes the unit sure; MeterError when the charge counter says otherwise."""
        by_size = "by its size alone"
        if len(self._discharge.charge) < 2:
            return by_size
        try:
            charge = self._charge()
        except MeterError:
            return by_size
        start_s, end_s, drawn_c, n_changes = charge.between_changes()
        if n_changes < _FEWEST_CHANGES or drawn_c <= 0:
            return by_size
        current_c = unit_a * _integral(looks, start_s, end_s)
        ratio = current_c / drawn_c
        # Either edge may be late by a look, which is worth a change.
        tolerance = _AGREE + 2 / n_changes
        if abs(ratio - 1) > tolerance:
            raise MeterError(
                Absence.INCONSISTENT_SENSOR,
                f"{self._discharge.current_words}, taken for {name}, makes {ratio:.3g} times the charge that"
                f" left the battery by its counter",
            )
        return f"by its size; {ratio:.2f} times what the charge counter tells"

    def _lacks(self, looks: Sequence[Look]) -> str:
        return "can't be read" if len(looks) < 2 else "has no voltage beside it"

    def _volts_at(self, looks: Sequence[Look]) -> list[float]:
        """The voltage at each of them, between those that were read."""
        stamps_s, volts = zip(*self._voltages, strict=True)
        return [between(stamps_s, volts, look.t_s) for look in looks]

    def _facts(self, source: str, method: Method, *, step: float, update_s: float, words: str) -> MeterFacts:
        level_share = self._discharge.level_share
        full = "charge unknown" if level_share is None else f"{level_share:.0%} full"
        return MeterFacts(
            source=source,
            scope=Scope.BATTERY,
            method=method,
            step=step,
            update_s=update_s,
            minimum_s=MINIMUM_S,
            detail=f"{words}; {_WHOLE_PHONE}; {full}",
            evidence=self._evidence,
        )


def needed_s(source: Source) -> float:
    """How long a window must be for a meter, at the power it showed."""
    facts, samples = source
    length_s = samples[-1].t_s - samples[0].t_s
    by_steps_s = 0.0
    if facts.method is Method.COUNTER and length_s > 0:
        mean_w = (samples[-1].value - samples[0].value) / length_s
        by_steps_s = 100 * facts.step / mean_w if mean_w > 0 else math.inf
    return max(facts.minimum_s, 100 * facts.update_s, by_steps_s)


def _renewed(update_s: float) -> str:
    return "new at each look" if update_s <= FRESH_S else f"new every {update_s:.3g} s"


def _sign(looks: Sequence[Look]) -> tuple[int, str]:
    """What makes a discharging current positive."""
    n_above, n_below = sum(look.value > 0 for look in looks), sum(look.value < 0 for look in looks)
    if not n_above + n_below:
        raise MeterError(Absence.INCONSISTENT_SENSOR, "the battery empties, and its current is 0")
    if min(n_above, n_below) > _ODD_SIGNS_SHARE * (n_above + n_below):
        raise MeterError(
            Absence.INCONSISTENT_SENSOR,
            f"while the battery emptied its current was above 0 {n_above} times and below it {n_below} times",
        )
    return (1, "above 0 while it empties") if n_above > n_below else (-1, "below 0 while it empties")


def _volts(looks: Sequence[Look]) -> list[tuple[float, float]]:
    """(t_s, V): kernels say µV, Android mV, and a few phones mix them up. A phone has one cell or two."""
    scaled = ((look.t_s, look.value * (1e-6 if look.value > 100_000 else 1e-3)) for look in looks)
    return [(t_s, v) for t_s, v in scaled if 2.0 <= v <= 20.0]


def _integral(looks: Sequence[Look], start_s: float, end_s: float) -> float:
    """Of the current's size over a time, in its unit x s."""
    stamps_s = [look.t_s for look in looks]
    sizes = [float(abs(look.value)) for look in looks]
    knots_s = [start_s, *(t_s for t_s in stamps_s if start_s < t_s < end_s), end_s]
    heights = [between(stamps_s, sizes, t_s) for t_s in knots_s]
    return sum(
        (b_s - a_s) * (a + b) / 2 for (a_s, a), (b_s, b) in pairwise(zip(knots_s, heights, strict=True))
    )
