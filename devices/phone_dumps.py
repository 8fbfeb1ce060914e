"""What Android's services say of battery, rails and heat, read from their text; none of it raises."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgebench.devices.phone_log import whole

_FIELD = re.compile(r"\s+([A-Za-z][A-Za-z _]{0,40}):\s*(\S{1,40})\s*")
_RAIL = re.compile(r"\s*(\[[^\[\]]{1,80}\]:\S{0,80})\s+([0-9]{1,15}(?:\.[0-9]{1,6})?) mWs\b.*")
_SENSOR = re.compile(
    r"\s*Temperature\{mValue=(\S{1,30}), mType=(-?[0-9]{1,3}), mName=([^,}]{1,60}), mStatus=([0-9])\}"
)
_HAL_SENSOR = re.compile(
    r".*?\bType: (\S{1,40}) Name: (\S{1,60}) CurrentValue: (\S{1,30}) ThrottlingStatus: ([A-Z]{1,20})\b.*"
)
_DECIMAL = re.compile(r"-?[0-9]{1,6}(?:\.[0-9]{1,12})?")
_GLOBAL_STATUS = re.compile(r"\s*Thermal Status: ([0-9])\s*")
_CPU, _SKIN = 0, 3
_TYPES = {"CPU": _CPU, "SKIN": _SKIN}
_STATUSES = ("NONE", "LIGHT", "MODERATE", "SEVERE", "CRITICAL", "EMERGENCY", "SHUTDOWN")
_PLAUSIBLE_C = (-40.0, 125.0)


class BatteryService(NamedTuple):
    """What `dumpsys battery` says."""

    discharging: bool | None
    """False: a charger feeds the phone, or the battery does not say that it empties."""
    current: int | None
    """Samsung's `current now`, in mA."""
    voltage: int | None
    charge: int | None
    level: int | None
    temperature: int | None
    """In 0.1 °C."""


class Sensor(NamedTuple):
    """One thermometer of the thermal HAL."""

    kind: int
    """Android's number of what it measures: 0 CPU, 3 skin."""
    name: str
    celsius: float
    status: int
    """0 none, 1 light, 2 moderate, 3 severe, … 6 shutdown."""


class Heat(NamedTuple):
    """What the thermal service or HAL tells of now."""

    sensors: tuple[Sensor, ...]
    status: int
    """The highest of all sensors' and the global one, which may be 0 while the skin throttles."""

    def hottest(self) -> Sensor | None:
        """Of the skin; without one, of the processor."""
        for kind in (_SKIN, _CPU):
            if found := [sensor for sensor in self.sensors if sensor.kind == kind]:
                return max(found, key=lambda sensor: sensor.celsius)
        return None


def plausible(celsius: float) -> bool:
    """Whether a thermometer may say so; exactly 0 is one that has not been read yet."""
    low, high = _PLAUSIBLE_C
    return celsius != 0 and low <= celsius < high


def read_battery(lines: Sequence[str]) -> BatteryService | None:
    """`dumpsys battery`; None where it is frozen (`dumpsys battery unplug`) and so tells nothing of now.

    Makers add fields and whole sections: only Android's own section counts, where it has its heading.
    """
    told: dict[str, str] = {}
    for line in _section(lines):
        if "UPDATES STOPPED" in line:
            return None
        if found := _FIELD.fullmatch(line):
            told.setdefault(found[1].lower(), found[2])
    if not told:
        return None
    powered = {word.lower() for name, word in told.items() if name.endswith("powered")}
    status = whole(told.get("status"))
    if "true" in powered or status in (2, 4, 5):  # charging, not charging, full
        discharging: bool | None = False
    elif status == 3 or (status == 1 and powered == {"false"}):
        discharging = True
    else:
        discharging = None
    return BatteryService(
        discharging=discharging,
        current=whole(told.get("current now")),
        voltage=whole(told.get("voltage")),
        charge=whole(told.get("charge counter")),
        level=whole(told.get("level")),
        temperature=whole(told.get("temperature")),
    )


def read_rails(lines: Iterable[str]) -> dict[str, float]:
    """Joules since boot of each rail, by its name `[S2M_VDD_CPUCL2]:CPU(BIG)` (a row's mWs are mJ)."""
    found = [row for line in lines if (row := _RAIL.fullmatch(line))]
    return {row[1]: float(row[2]) * 1e-3 for row in reversed(found)}  # the first of a name counts


def read_heat(lines: Sequence[str]) -> Heat | None:
    """`dumpsys thermalservice`, or the text of Pixel's thermal HAL; None where neither tells anything.

    Of the service only what it has from its HAL now: the part it calls cached may be hours old.
    """
    sensors: list[Sensor] = []
    statuses: list[int] = []
    current = False
    for line in lines:
        if found := _GLOBAL_STATUS.fullmatch(line):
            statuses.append(int(found[1]))
        elif line.startswith("Current temperatures from HAL"):
            current = True
        elif line[:1].strip():  # a heading of something else
            current = False
        if current and (found := _SENSOR.match(line)):
            sensors.append(Sensor(int(found[2]), found[3], _celsius(found[1]), int(found[4])))
        elif found := _HAL_SENSOR.fullmatch(line):
            status = _STATUSES.index(found[4]) if found[4] in _STATUSES else 0
            sensors.append(Sensor(_TYPES.get(found[1], -1), found[2], _celsius(found[3]), status))
    statuses += [sensor.status for sensor in sensors]
    if not statuses:
        return None
    known = tuple(sensor for sensor in sensors if plausible(sensor.celsius))
    return Heat(sensors=known, status=max(statuses))


def _celsius(word: str) -> float:
    return float(word) if _DECIMAL.fullmatch(word) else 0.0


def _section(lines: Sequence[str]) -> Sequence[str]:
    for i, line in enumerate(lines):
        if line.startswith("Current Battery Service state"):
            rest = lines[i + 1 :]
            end = next((n for n, row in enumerate(rest) if row[:1].strip()), len(rest))
            return rest[:end]
    return lines
