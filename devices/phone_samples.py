"""What a phone said of itself while it was measured: energy, heat and memory, from a job's sampler log.

The log is a device's and may hold anything: what is not understood is missing, and nothing here raises.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edgebench.core.energy import Absence, MeterError, MeterFacts, Sample
from edgebench.core.types import Evidence
from edgebench.devices.phone_battery import MINIMUM_S, Battery, needed_s
from edgebench.devices.phone_heat import read_states
from edgebench.devices.phone_log import BatteryFiles, Log, Tick, between, read_log
from edgebench.devices.phone_rails import Source, read_rails_meter
from edgebench.devices.phone_supply import Discharge, longest_discharge, on_battery
from edgebench.devices.state import DeviceState

RAILS, CHARGE, CURRENT = "rails", "charge_counter", "current_voltage"
_WORST_FIRST = (
    Absence.PLUGGED_IN,
    Absence.INCONSISTENT_SENSOR,
    Absence.BELOW_RESOLUTION,
    Absence.UNREADABLE,
    Absence.NO_SENSOR,
)
"""Of several reasons for no energy, the one that tells most of what to do."""
_UNPLUG = "measure over Wi-Fi with the cable out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Bytes a process held."""

    anon_bytes: int
    file_bytes: int


class Samples:
    """A job's log, read."""

    def __init__(self, log: Log, *, synthetic: bool) -> None:
        evidence = Evidence.SYNTHETIC if synthetic else Evidence.MEASURED
        self._log = log
        self._states = read_states(log)
        self._sources: dict[str, Source] = {}
        self._absences: dict[str, MeterError] = {}
        self._failures: dict[str, MeterError] = {}
        self._full_charge_j: tuple[float, float] | None = None
        self._keep(RAILS, lambda: read_rails_meter(log, evidence))
        discharge = longest_discharge(log)
        if discharge is None:
            self._absences[CHARGE] = self._absences[CURRENT] = _not_on_battery(log)
            return
        battery = Battery(discharge, evidence)
        self._keep(CHARGE, battery.charge_counter)
        self._keep(CURRENT, battery.current_voltage)
        self._full_charge_j = battery.full_charge_j()
        if not discharge.is_all:
            found = self._sources.keys() & {CHARGE, CURRENT}
            self._failures = dict.fromkeys(found, _charger(discharge))

    @classmethod
    def read(cls, text: str, *, synthetic: bool) -> "Samples":
        """Read a log; `synthetic`: of a stand-in. Never raises; a cut last line is passed over."""
        return cls(read_log(text), synthetic=synthetic)

    def meters(self) -> list[tuple[MeterFacts, list[Sample]]]:
        """Each usable source: rails, charge counter, current x voltage. Stamps are the phone's uptime."""
        return [(facts, list(samples)) for facts, samples in self._sources.values()]

    def failures(self) -> dict[str, MeterError]:
        """Sources that were silent for a part, as a charger was in: outside of their samples this is why."""
        return dict(self._failures)

    def headline(self) -> MeterFacts | None:
        """The source whose figure counts; None: see `why_no_energy`.

        The rails; else the charge counter, unless its steps or pauses ask for longer windows than the
        current does; else the current.
        """
        rails, charge, current = (self._sources.get(name) for name in (RAILS, CHARGE, CURRENT))
        if rails is not None:
            return rails.facts
        if charge is not None and current is not None:
            return (charge if needed_s(charge) <= max(needed_s(current), MINIMUM_S) else current).facts
        found = charge or current
        return found.facts if found else None

    def why_no_energy(self) -> tuple[Absence, str]:
        """Why no source could be used."""
        if not self._log.ticks:
            return Absence.UNREADABLE, "the sampler left nothing"
        reasons = sorted(self._absences.values(), key=lambda why: _WORST_FIRST.index(why.reason))
        if not reasons:
            return Absence.NO_SENSOR, ""
        return reasons[0].reason, "; ".join(dict.fromkeys(why.message for why in reasons))

    def full_charge_j(self) -> tuple[float, float] | None:
        """(uptime_s, joules that a full charge holds), to a level's step of a percent; None: not told."""
        return self._full_charge_j

    def states(self) -> list[tuple[float, DeviceState]]:
        """(uptime_s, how hot, fast and held back the phone was)."""
        return list(self._states)

    def memory(self) -> list[tuple[float, ProcessMemory]]:
        """(uptime_s, what the job's process held)."""
        told = ((tick.t_s, tick.process) for tick in self._log.ticks if tick.process is not None)
        return [
            (t_s, ProcessMemory(anon_bytes=look.anon_bytes, file_bytes=look.file_bytes))
            for t_s, look in told
            if look.anon_bytes is not None and look.file_bytes is not None
        ]

    def foreign_cpu_s(self, start_s: float, end_s: float) -> float | None:
        """CPU time in a window that was not the job's process.

        None unless the process was watched for half of it or more; the rest is taken for the same.
        """
        watched = [
            (tick.t_s, foreign) for tick in self._log.ticks if (foreign := _foreign_s(tick)) is not None
        ]
        stamps_s = [t_s for t_s, _ in watched]
        if len(watched) < 2 or not start_s < end_s:
            return None
        first_s, last_s = max(start_s, stamps_s[0]), min(end_s, stamps_s[-1])
        if last_s - first_s < (end_s - start_s) / 2:
            return None

        foreign_s = [foreign for _, foreign in watched]
        spent_s = between(stamps_s, foreign_s, last_s) - between(stamps_s, foreign_s, first_s)
        return max(0.0, spent_s) * (end_s - start_s) / (last_s - first_s)

    def _keep(self, name: str, read: Callable[[], Source]) -> None:
        try:
            self._sources[name] = read()
        except MeterError as why:
            self._absences[name] = why


def _foreign_s(tick: Tick) -> float | None:
    """CPU seconds of all but the process, so far."""
    return None if tick.busy_s is None or tick.process is None else tick.busy_s - tick.process.cpu_s


def _not_on_battery(log: Log) -> MeterError:
    if False in on_battery(log):
        return MeterError(
            Absence.PLUGGED_IN, "the phone was charging, or on a charger, all the time", _UNPLUG
        )
    if not log.said("battery") and all(tick.battery == BatteryFiles() for tick in log.ticks):
        return MeterError(Absence.NO_SENSOR, "there is no battery that tells anything")
    return MeterError(Absence.UNREADABLE, "the phone doesn't tell whether it lives on its battery")


def _charger(discharge: Discharge) -> MeterError:
    reason, what = Absence.PLUGGED_IN, "a charger was in"
    if not discharge.was_charged:
        reason, what = Absence.UNREADABLE, "the phone didn't tell whether a charger was in"
    return MeterError(
        reason,
        f"{what}, except from {discharge.start_s:.1f} to {discharge.end_s:.1f} s of the phone's uptime",
        _UNPLUG,
    )
