"""A laptop's batteries, from the kernel's power_supply class: the whole device, screen included.

Units are µWh, µW, µAh, µA and µV (Linux, ABI/testing/sysfs-class-power). The kernel's sign of a
current or power is negative while discharging, but many drivers give the magnitude, so the sign is
dropped: only a discharging battery is metered at all.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgebench.core.energy import (
    Absence,
    Meter,
    MeterError,
    MeterFacts,
    Method,
    Sample,
    Scope,
    SourceStatus,
)
from edgebench.devices.sysfs import (
    Refusal,
    blocked,
    entries,
    evidence,
    has_sysfs,
    must_read_int,
    read_int,
    read_text,
    sysfs,
)

UPDATE_S = 30.0
"""ACPI refreshes a battery every 1 to 30 s and does not tell which: the longest is assumed."""
MINIMUM_S = 20 * UPDATE_S
"""Each edge of a window is late by one refresh at most: 5 % of 600 s. At the 6 W of an idle laptop that
is also a hundred of the 10 mWh steps that gauges count in."""
_UNPLUG = "unplug the charger and wait until the battery discharges"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How joules or watts are read off a battery: by one file, or by one file and the voltage."""

    files: tuple[str, ...]
    method: Method
    scale: float
    """From the product of the files' numbers to J or W."""
    step: float
    """J or W; for each volt where the voltage is a factor."""
    words: str


WAYS = (
    Way(
        files=("energy_now",),
        method=Method.COUNTER,
        scale=3.6e-3,
        step=36.0,
        words="differences of energy_now, step 10 mWh as most gauges count",
    ),
    Way(files=("power_now",), method=Method.SAMPLED, scale=1e-6, step=1e-3, words="power_now"),
    Way(
        files=("current_now", "voltage_now"),
        method=Method.SAMPLED,
        scale=1e-12,
        step=1e-3,
        words="current_now x voltage_now, instant and not averaged",
    ),
    Way(
        files=("charge_now", "voltage_now"),
        method=Method.COUNTER,
        scale=3.6e-9,
        step=3.6,
        words="differences of charge_now x the voltage between them, step 1 mAh",
    ),
)
"""Best first."""


class BatteryMeter:
    """All batteries of the device, while they discharge."""

    def __init__(self, facts: MeterFacts, folders: Sequence[Path], way: Way) -> None:
        self.facts = facts
        self._folders = tuple(folders)
        self._way = way
        self._plugged_in: Refusal | None = None
        self._total_j = 0.0
        self._check_discharging()
        self._seen = self._numbers()

    def read(self) -> Sample:
        """Joules since it was opened, or watts.

        Raises:
            MeterError: `plugged_in` now and ever after once a battery does not discharge; `unreadable` or
                `permission_denied` while a file can't be read; `inconsistent_sensor` for a discharge of 0 W.
        """
        self._check_discharging()
        start_s = time.perf_counter()
        numbers = self._numbers()
        t_s = (start_s + time.perf_counter()) / 2
        if self._way.method is Method.SAMPLED:
            return Sample(t_s, self._watts(numbers))
        for before, now in zip(self._seen, numbers, strict=True):
            self._total_j += (before[0] - now[0]) * _mean_voltage(before, now) * self._way.scale
        self._seen = numbers
        return Sample(t_s, self._total_j)

    def close(self) -> None:
        """Nothing is held open."""

    def _watts(self, numbers: Sequence[Sequence[int]]) -> float:
        power_w = sum(abs(one[0]) * _mean_voltage(one, one) for one in numbers) * self._way.scale
        if not power_w:
            message = f"{self.facts.source}: discharging, and {self._way.words} is 0"
            raise MeterError(Absence.INCONSISTENT_SENSOR, message, "wait for the battery's next refresh")
        return power_w

    def _check_discharging(self) -> None:
        refusal = self._plugged_in or _not_discharging(self._folders)
        if refusal is None:
            return
        if refusal.reason is Absence.PLUGGED_IN:
            self._plugged_in = refusal
        raise MeterError(refusal.reason, f"{self.facts.source}: {refusal.why}", refusal.fix)

    def _numbers(self) -> list[list[int]]:
        """For each battery what the way's files hold."""
        return [[must_read_int(folder / file) for file in self._way.files] for folder in self._folders]


class Battery:
    """The meter `battery:BAT0`; a device with two batteries has one of both, `battery:BAT0+BAT1`."""

    name = "battery"

    def probe(self) -> list[SourceStatus]:
        """The batteries' meter, or why there is none."""
        return [_status(_folders())]

    def open(self) -> list[Meter]:
        """The meter, if it can be read now."""
        folders = _folders()
        facts, way = _status(folders).facts, _best_way(folders)
        if facts is None or way is None:
            return []
        meters: list[Meter] = []
        with suppress(MeterError):  # plugged in since it was probed
            meters.append(BatteryMeter(facts, folders, way))
        return meters


def _folders() -> list[Path]:
    """The batteries that feed this device: not those of a mouse (`scope`), no empty bay (`present`)."""
    if not has_sysfs():
        return []
    return [
        folder
        for folder in entries(sysfs("class", "power_supply"), "*")
        if (read_text(folder / "type") == "Battery" or folder.name.startswith("BAT"))
        and read_text(folder / "scope") != "Device"
        and read_int(folder / "present") != 0
    ]


def _not_discharging(folders: Sequence[Path]) -> Refusal | None:
    """Why the batteries' energy isn't the device's now; None while it is.

    Of two batteries one rests while the other one feeds the device, so one that discharges is enough.
    """
    states = {folder: read_text(folder / "status") for folder in folders}
    for folder, state in states.items():
        if not state:
            return Refusal(Absence.UNREADABLE, f"{folder / 'status'} tells nothing", "")
    if "Discharging" in states.values() and "Charging" not in states.values():
        return None
    words = ", ".join(f"{folder.name} is {str(state).lower()}" for folder, state in states.items())
    return Refusal(Absence.PLUGGED_IN, f"{words}, not discharging", _UNPLUG)


def _best_way(folders: Sequence[Path]) -> Way | None:
    """The best way that all batteries know."""
    for way in WAYS:
        if all(read_int(folder / file) is not None for folder in folders for file in way.files):
            return way
    return None


def _status(folders: Sequence[Path]) -> SourceStatus:
    if not folders:
        reason, why = Absence.NO_SENSOR, "this device has no battery"
        if not has_sysfs():
            reason, why = Absence.OS_UNSUPPORTED, "power_supply is Linux's"
        return SourceStatus(source="battery", title="battery", scope=None, reason=reason, why=why)
    names = "+".join(folder.name for folder in folders)
    way = _best_way(folders)
    status = partial(
        SourceStatus,
        source=f"battery:{names}",
        title=f"battery {names}, the whole device",
        scope=Scope.BATTERY,
    )
    refusal = _not_discharging(folders)
    if way is None and refusal is None:
        refusal = blocked(folder / file for way in WAYS for folder in folders for file in way.files)
    if refusal is not None:
        return status(reason=refusal.reason, why=refusal.why, fix=refusal.fix)
    return status(facts=None if way is None else _facts(names, folders, way))


def _mean_voltage(before: Sequence[int], now: Sequence[int]) -> float:
    """The factor beside a battery's first number: the mean of the second ones (µV), 1 without any."""
    return (before[1] + now[1]) / 2 if len(now) > 1 else 1.0


def _facts(names: str, folders: Sequence[Path], way: Way) -> MeterFacts:
    volts = [abs(read_int(folder / "voltage_now") or 0) * 1e-6 for folder in folders]
    return MeterFacts(
        source=f"battery:{names}",
        scope=Scope.BATTERY,
        method=way.method,
        step=way.step * (max(volts) if len(way.files) > 1 else 1.0),
        update_s=UPDATE_S,
        minimum_s=MINIMUM_S,
        detail="; ".join([way.words, "screen included", *(_charge(folder) for folder in folders)]),
        evidence=evidence(),
    )


def _charge(folder: Path) -> str:
    """`BAT0 at 83 %`, for the record: how full a battery is bends its voltage and its gauge."""
    capacity = read_int(folder / "capacity")
    return f"{folder.name} at {'an unknown charge' if capacity is None else f'{capacity} %'}"
