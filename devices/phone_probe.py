"""What a phone lets be measured: `edgebench devices probe` of a phone.

From one look (`phone_facts.read`), so nothing is known that only shows over time: how coarse the charge
counter is, how old a current is. A run decides that from its own samples; here stands what is likely.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgebench.core.energy import Absence, Scope, SourceStatus
from edgebench.core.units import data_size, significant
from edgebench.devices import phone_battery, phone_rails
from edgebench.devices.phone_cpu import Cluster
from edgebench.devices.phone_dumps import Heat, plausible, read_heat
from edgebench.devices.phone_facts import BATTERY_FOLDER, FOLDER, PhoneFacts
from edgebench.devices.phone_identity import profile_of
from edgebench.devices.phone_log import whole

Level = Callable[[str, Collection[str]], str]
"""The level of instructions a target's program is built with, of what the processors have."""

RAILS, CHARGE_COUNTER, CURRENT_VOLTAGE = "rails", "charge_counter", "current_voltage"
MICROAMPERES_FROM = 10_000
"""A current of this figure or more is µA: as mA it would be 10 A, which no phone's battery gives."""
_UNPLUG = "pull the cable: adb over Wi-Fi (edgebench devices pair, edgebench devices connect)"
_STATUS = ("charging", "discharging", "not charging", "full")
_FRACTION = 2**-23
"""The service keeps what it prints of a rail in 24 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked for."""

    name: str
    usable: bool | None
    """None: it can't be told from one look."""
    told: str
    """What was found, or why it is of no use."""
    fix: str = ""
    """What would mend it; empty where nothing would."""


class Battery(NamedTuple):
    """What the kernel's files and the battery service say; None: neither does."""

    status: str | None
    """The kernel's word: charging, discharging, not charging or full."""
    plugged: bool | None
    """Whether something else than the battery feeds the phone."""
    frozen: bool
    """Somebody made the service say what is not so, until it is reset."""
    temperature_c: float | None
    level_share: float | None
    current: int | None
    """In µA or mA."""
    voltage: int | None
    charge: int | None
    by_service: bool
    """The current is the service's, which tells it in mA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """All that one look tells."""

    sources: tuple[SourceStatus, ...]
    """Of energy, in the order in which figures are taken from them."""
    findings: tuple[Finding, ...]
    now: Mapping[str, Any]
    """Heat and state at the look, JSON-ready; None: the phone does not tell."""


def probe(facts: PhoneFacts, level_for: Level | None = None) -> Probe:
    """What can be measured on a phone, and what stands in the way. Never raises."""
    battery, heat = battery_of(facts), read_heat(facts.texts.get("thermal", "").splitlines())
    hottest = heat.hottest() if heat is not None else None
    awake = re.search(r"mWakefulness=([A-Za-z]{1,20})", facts.texts.get("screen", ""))
    return Probe(
        sources=(_rails(facts), _charge_counter(facts, battery), _current_voltage(facts, battery)),
        findings=(
            _phone(facts),
            _power(battery),
            *_program(facts, level_for),
            _room("memory", facts.available_bytes, "MemAvailable of /proc/meminfo can't be read"),
            _room(f"storage in {FOLDER}", facts.free_bytes, f"df does not tell of {FOLDER}"),
            *_heat(facts, heat),
            _screen(awake[1] if awake else None),
        ),
        now={
            "temperature_c": hottest.celsius if hottest else None,
            "temperature_sensor": hottest.name if hottest else None,
            "battery_temperature_c": battery.temperature_c,
            "throttling_level": heat.status if heat is not None else None,
            "frequency_hz": _mean_frequency_hz(facts),
            "governor": facts.governor,
            "battery": battery.status,
            "battery_level_share": battery.level_share,
            "plugged_in": battery.plugged,
            "screen": awake[1].lower() if awake else None,
        },
    )


def battery_of(facts: PhoneFacts) -> Battery:
    """The battery now: the kernel's files count before the service, which can be told to lie.

    Whoever says that a charger is in is believed: a weak one leaves the kernel's status at discharging.
    """
    service = facts.battery_service()
    word = facts.files("supply").get(f"{BATTERY_FOLDER}/status", "").lower()
    status = word if word in _STATUS else None
    fed = {None if status is None else status != "discharging"}
    if service is not None and service.discharging is not None:
        fed.add(not service.discharging)

    def number(name: str, of_service: str) -> int | None:
        told = facts.supply(name)
        return getattr(service, of_service, None) if told is None else told

    temperature, level = number("temp", "temperature"), number("capacity", "level")
    return Battery(
        status=status,
        plugged=True if True in fed else False if False in fed else None,
        frozen="UPDATES STOPPED" in facts.texts.get("battery", ""),
        temperature_c=temperature / 10 if temperature is not None and plausible(temperature / 10) else None,
        level_share=level / 100 if level is not None and 0 <= level <= 100 else None,
        current=number("current_now", "current"),
        voltage=number("voltage_now", "voltage"),
        charge=number("charge_counter", "charge"),
        by_service=facts.supply("current_now") is None,
    )


def _rails(facts: PhoneFacts) -> SourceStatus:
    title, rails = "power rails behind the battery (power stats service)", facts.rails_j
    if any(rails.values()):
        step_j = max(rails.values()) * _FRACTION
        shown = ", ".join(name.partition(":")[0].strip("[]") for name in sorted(rails)[:4])
        why = (
            f"{len(rails)} rails ({shown}{', …' if len(rails) > 4 else ''}), also while it charges; steps of"
            f" about {significant(max(step_j, 1e-5), 2)} J now, windows from {phone_rails.MINIMUM_S:.0f} s"
        )
        return SourceStatus(source=RAILS, title=title, scope=Scope.RAILS, why=why)
    if rails:
        reason, why = Absence.UNREADABLE, "every rail stands at 0"
    elif facts.texts.get("rails", "").strip():
        reason, why = Absence.NO_SENSOR, "the service names no rail with an energy"
    else:
        reason, why = Absence.NO_SENSOR, "it has no such service; Pixels from the 6 on do"
    return SourceStatus(source=RAILS, title=title, scope=Scope.RAILS, reason=reason, why=why)


def _charge_counter(facts: PhoneFacts, battery: Battery) -> SourceStatus:
    title = "charge counter of the battery, times its voltage"
    if battery.charge is None:
        return _absent(CHARGE_COUNTER, title, *_unread(facts, "charge_counter"))
    if battery.charge <= 0:
        return _absent(CHARGE_COUNTER, title, Absence.UNREADABLE, f"it stands at {battery.charge}")
    if battery.plugged:
        return _absent(CHARGE_COUNTER, title, Absence.PLUGGED_IN, _fed(battery), _UNPLUG)
    why = (
        f"{battery.charge} µAh now; its step is not known until it is seen to change (often 1000 µAh, 14 J),"
        " so for long windows"
    )
    return SourceStatus(source=CHARGE_COUNTER, title=title, scope=Scope.BATTERY, why=why)


def _current_voltage(facts: PhoneFacts, battery: Battery) -> SourceStatus:
    title = "current of the battery, times its voltage"
    if battery.current is None or battery.voltage is None:
        name = "current_now" if battery.current is None else "voltage_now"
        return _absent(CURRENT_VOLTAGE, title, *_unread(facts, name))
    if battery.voltage <= 0:
        told = f"its voltage stands at {battery.voltage}"
        return _absent(CURRENT_VOLTAGE, title, Absence.UNREADABLE, told)
    if battery.plugged:
        return _absent(CURRENT_VOLTAGE, title, Absence.PLUGGED_IN, _fed(battery), _UNPLUG)
    why = f"{_unit(battery)}; a run decides by its samples; windows from {phone_battery.MINIMUM_S:.0f} s"
    return SourceStatus(source=CURRENT_VOLTAGE, title=title, scope=Scope.BATTERY, why=why)


def _unit(battery: Battery) -> str:
    """What one look at a battery's current says of its unit and sign."""
    current = battery.current or 0
    if current == 0:
        return "it stands at 0 now, so neither unit nor sign can be told"
    if abs(current) >= MICROAMPERES_FROM:
        unit = "µA, by its size"
    elif battery.by_service:
        unit = "mA, as the battery service tells it"
    else:
        unit = "probably mA: as µA it would be less than 10 mA"
    when = " while it discharges" if battery.plugged is False else ""
    return f"{current} now: {unit}; {'negative' if current < 0 else 'positive'}{when}"


def _unread(facts: PhoneFacts, name: str) -> tuple[Absence, str]:
    path = f"{BATTERY_FOLDER}/{name}"
    value = facts.files("supply").get(path)
    if value is None:
        return Absence.NO_SENSOR, f"there is no {path}"
    if not value:
        return Absence.PERMISSION_DENIED, f"{path} is there, but adb's user may not read it"
    return Absence.UNREADABLE, f"{path} holds no number"


def _absent(source: str, title: str, reason: Absence, why: str, fix: str = "") -> SourceStatus:
    return SourceStatus(source=source, title=title, scope=Scope.BATTERY, reason=reason, why=why, fix=fix)


def _fed(battery: Battery) -> str:
    """Why the battery's figures are not the phone's."""
    return f"a cable or charger feeds the phone now (the battery is {battery.status or 'not told of'})"


def _phone(facts: PhoneFacts) -> Finding:
    profile = profile_of(facts.identity)
    known = profile is not None and bool(profile.recognise)
    told = facts.told() + (f"; profile {profile.name}" if profile is not None and known else "")
    return Finding(name="phone", usable=True, told=told)


def _power(battery: Battery) -> Finding:
    if battery.frozen:
        told = "the battery service was told to say what is not so (dumpsys battery unplug or set)"
        return Finding(name="power", usable=False, told=told, fix="adb shell dumpsys battery reset")
    if battery.plugged is None:
        return Finding(name="power", usable=None, told="it does not tell whether it charges")
    if battery.plugged:
        told = f"{_fed(battery)}: no battery figures; rails, where there are any, stay true"
        return Finding(name="power", usable=False, told=told, fix=_UNPLUG)
    return Finding(name="power", usable=True, told="it runs on its battery")


def _program(facts: PhoneFacts, level_for: Level | None) -> list[Finding]:
    """The processors, the threads to try on them, and the build that fits."""
    clusters = " + ".join(_cluster(cluster) for cluster in facts.clusters)
    tried = ", ".join(f"{n} on mask {mask}" if mask else str(n) for n, mask in facts.thread_candidates())
    threads = Finding(name="threads", usable=True, told=f"to be tried: {tried}")
    if clusters:
        found = [Finding(name="clusters", usable=True, told=clusters), threads]
    else:
        told = "the kernel does not tell of its processors"
        found = [Finding(name="clusters", usable=None, told=told), threads]
    if facts.features and level_for is not None:
        level = level_for(facts.target, facts.features)
        found.append(Finding(name="program", usable=True, told=f"{facts.target}, {level}"))
    elif level_for is not None:
        told = f"{facts.target}, {level_for(facts.target, ())}: /proc/cpuinfo names no instructions"
        found.append(Finding(name="program", usable=None, told=told))
    return found


def _cluster(cluster: Cluster) -> str:
    numbers = f"{min(cluster.cpus)}-{max(cluster.cpus)}" if len(cluster.cpus) > 1 else f"{cluster.cpus[0]}"
    clock = f" at up to {cluster.max_freq_hz / 1e9:.2f} GHz" if cluster.max_freq_hz else ""
    return f"{len(cluster.cpus)} (cpu {numbers}){clock}"


def _room(name: str, size_bytes: int | None, why_not: str) -> Finding:
    if size_bytes is None:
        return Finding(name=name, usable=None, told=why_not)
    return Finding(name=name, usable=size_bytes > 0, told=f"{data_size(size_bytes)} free")


def _heat(facts: PhoneFacts, heat: Heat | None) -> list[Finding]:
    text, zones = facts.texts.get("thermal", ""), facts.files("zones")
    names = [path for path in zones if path.endswith("/temp")]
    readable = [path for path in names if whole(zones[path]) is not None]
    if heat is not None and heat.sensors:
        hottest = heat.hottest()
        told = f"{len(heat.sensors)} sensors, throttling level {heat.status}"
        told += f", {hottest.name} {hottest.celsius:.1f} °C" if hottest else ""
    elif "HAL Ready: false" in text:
        told = "it has no vendor's part to ask (HAL Ready: false)"
    elif text.strip():
        told = "it tells temperatures in no form that is known"
    else:
        told = "there is no thermal service"
    return [
        Finding(name="thermal service", usable=heat is not None and bool(heat.sensors), told=told),
        Finding(
            name="thermal zones",
            usable=bool(readable),
            told=f"{len(readable)} of {len(names)} can be read" if names else "the kernel shows none",
        ),
    ]


def _screen(wakefulness: str | None) -> Finding:
    if wakefulness is None:
        return Finding(name="screen", usable=None, told="it does not tell whether it is on")
    told = f"{wakefulness.lower()}; a run switches it off and leaves it as it was"
    return Finding(name="screen", usable=True, told=told)


def _mean_frequency_hz(facts: PhoneFacts) -> float | None:
    found = [
        1e3 * number
        for path, value in facts.files("cpu").items()
        if path.endswith("/scaling_cur_freq") and (number := whole(value)) is not None and number > 0
    ]
    return sum(found) / len(found) if found else None
