"""Power and energy sensors of the kernel's hwmon: INA3221 (Jetson), amdgpu, amd_energy.

A driver is used only where it is documented what its watts are of; `probe` lists the others. Units
are hwmon's: mV, mA, µW, µJ (Linux, hwmon/sysfs-interface.rst). The INA3221 is known in two forms:
hwmon's (`inN_input` x `currN_input`), and the one of JetPack 4 (`in_powerN_input`, mW, as an iio device).
"""

import math
import time
from collections.abc import Iterable, Sequence
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
    blocked,
    entries,
    evidence,
    has_sysfs,
    look,
    must_read_int,
    read_int,
    read_text,
    sysfs,
)

INA_CHANNELS = (1, 2, 3)
"""Rails of an INA3221. `in4` to `in6` are voltages over shunts, `in7` and `curr4` are sums of those."""
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that carry the whole board."""
INA_UPDATE_S = 0.1
"""Assumed where the chip tells no update interval (JetPack 4)."""
INA_MINIMUM_S = 10.0
_SHUNT_LSB_UV = 40
"""One count of the INA3221's current is 40 µV over its shunt (data sheet)."""

GPU_UPDATE_S = 0.1
"""Assumed: amdgpu documents no update interval."""
GPU_MINIMUM_S = 5.0
GPU_STEP_W = 1.0
"""Many firmwares of AMD's GPUs tell whole watts."""

SOCKET_UPDATE_S = 0.001
SOCKET_MINIMUM_S = 5.0
SOCKET_STEP_J = 2.0**-16

_ATTRIBUTES = ("power*_input", "power*_average", "energy*_input")
_TITLE = "hwmon power and energy sensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a meter's sum: the product of what its files hold, in W or J after scaling."""

    files: tuple[Path, ...]
    scale: float

    def value(self) -> float:
        """Now, in W or J. Raises MeterError where a file can't be read."""
        return self.scale * math.prod(must_read_int(file) for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """A labelled rail of an INA3221."""

    label: str
    term: Term
    step_w: float
    update_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A meter that could be opened if all its files can be read."""

    title: str
    facts: MeterFacts
    terms: tuple[Term, ...]


class HwmonMeter:
    """An open sum of terms: watts now, or joules since it was opened."""

    def __init__(self, facts: MeterFacts, terms: Sequence[Term]) -> None:
        self.facts = facts
        self._terms = tuple(terms)
        self._counts = facts.method is Method.COUNTER
        self._first = self._last = self._values()
        self._lost = False

    def read(self) -> Sample:
        """Watts, or joules since it was opened; stamped in the middle of the reading.

        Raises:
            MeterError: `permission_denied` or `unreadable` while a file can't be read; `counter_reset` now
                and ever after when a counter fell (hwmon's are 64 bits wide and do not wrap).
        """
        start_s = time.perf_counter()
        values = self._values()
        t_s = (start_s + time.perf_counter()) / 2  # an INA3221 takes some 10 ms for each channel
        if not self._counts:
            return Sample(t_s, sum(values))
        self._lost = self._lost or any(now < before for now, before in zip(values, self._last, strict=True))
        if self._lost:
            raise MeterError(
                Absence.COUNTER_RESET, f"{self.facts.source}: a counter was reset", "measure again"
            )
        self._last = values
        return Sample(t_s, sum(values) - sum(self._first))

    def close(self) -> None:
        """Nothing is held open."""

    def _values(self) -> list[float]:
        return [term.value() for term in self._terms]


class Hwmon:
    """Meters `hwmon:ina3221`, `hwmon:amdgpu:0`, …, `hwmon:amd_energy`."""

    name = "hwmon"

    def probe(self) -> list[SourceStatus]:
        """Every meter, the sensors that are not used and why, or why there is none."""
        if not has_sysfs():
            return [_nothing(Absence.OS_UNSUPPORTED, "hwmon is Linux's")]
        found = [_status(candidate) for candidate in _candidates()]
        return found + _unused() or [_nothing(Absence.NO_SENSOR, "no sensor here tells power or energy")]

    def open(self) -> list[Meter]:
        """The meters that can be read now."""
        meters: list[Meter] = []
        for candidate in _candidates():
            if _status(candidate).usable:
                with suppress(MeterError):  # gone since it was probed
                    meters.append(HwmonMeter(candidate.facts, candidate.terms))
        return meters


def _candidates() -> list[Candidate]:
    if not has_sysfs():
        return []
    return [*_ina3221(), *_amdgpu(), *_amd_energy()]


def _folders(driver: str) -> list[Path]:
    """The hwmon folders of a driver; variants of it may carry a suffix (`ina3221x`)."""
    everything = entries(sysfs("class", "hwmon"), "hwmon*")
    return [folder for folder in everything if (read_text(folder / "name") or "").startswith(driver)]


def _ina3221() -> list[Candidate]:
    """One meter: the rail that carries the whole board, else the sum of what is measured."""
    rails = _hwmon_rails() or _iio_rails()
    total = [rail for rail in rails if rail.label in TOTAL_RAILS][:1]
    used = total or rails
    if not used:
        return []
    names = " + ".join(rail.label for rail in used)
    detail = (
        f"{names}: the whole board, other rails are inside"
        if total
        else f"{names}: an under-estimate of the board, without unmeasured parts and the converter's loss"
    )
    facts = MeterFacts(
        source="hwmon:ina3221",
        scope=Scope.PLATFORM if total else Scope.SOC_RAILS,
        method=Method.SAMPLED,
        step=max(rail.step_w for rail in used),
        update_s=max(rail.update_s for rail in used),
        minimum_s=INA_MINIMUM_S,
        detail=detail,
        evidence=evidence(),
    )
    title = f"INA3221 power monitor, {names}"
    return [Candidate(title=title, facts=facts, terms=tuple(rail.term for rail in used))]


def _hwmon_rails() -> list[Rail]:
    """Labelled, enabled rails of every INA3221. A chip may be found by its class and by its driver."""
    by_driver = entries(sysfs("bus", "i2c", "drivers"), "ina3221*/*/hwmon/hwmon*")
    chips = {folder.name: folder for folder in [*by_driver, *_folders("ina3221")]}
    rails = []
    for folder in chips.values():
        interval_ms = read_int(folder / "update_interval")
        for channel in INA_CHANNELS:
            label = read_text(folder / f"in{channel}_label")
            if not _connected(label) or read_int(folder / f"in{channel}_enable") == 0:
                continue
            voltage = folder / f"in{channel}_input"
            rails.append(
                Rail(
                    label=str(label),
                    term=Term(files=(voltage, folder / f"curr{channel}_input"), scale=1e-6),
                    step_w=_ina_step_w(read_int(voltage), read_int(folder / f"shunt{channel}_resistor")),
                    update_s=interval_ms * 1e-3 if interval_ms and interval_ms > 0 else INA_UPDATE_S,
                )
            )
    return rails


def _iio_rails() -> list[Rail]:
    """Labelled rails of every INA3221 as JetPack 4 shows them."""
    rails = []
    for folder in entries(sysfs("bus", "i2c", "drivers"), "ina3221x/*/iio:device*"):
        for channel in INA_CHANNELS:
            label = read_text(folder / f"rail_name_{channel - 1}")
            if _connected(label):
                term = Term(files=(folder / f"in_power{channel - 1}_input",), scale=1e-3)
                rails.append(Rail(label=str(label), term=term, step_w=1e-3, update_s=INA_UPDATE_S))
    return rails


def _connected(label: str | None) -> bool:
    """Whether a rail is known and in use; `NC` stands for not connected."""
    return bool(label) and label != "NC"


def _ina_step_w(voltage_mv: int | None, shunt_uohm: int | None) -> float:
    """One count of current at the rail's voltage; 1 mA, the file's unit, where the shunt isn't told."""
    step_a = _SHUNT_LSB_UV / shunt_uohm if shunt_uohm and shunt_uohm > 0 else 1e-3
    return step_a * abs(voltage_mv or 0) * 1e-3


def _amdgpu() -> list[Candidate]:
    """One meter for each GPU: the firmware's average where there is one, else its instant power."""
    found = []
    for i, folder in enumerate(_folders("amdgpu")):
        looks = {name: look(folder / name) for name in ("power1_average", "power1_input")}
        there = [name for name, seen in looks.items() if not seen.absent]
        readable = [name for name in there if looks[name].number is not None]
        file = next((folder / name for name in [*readable, *there]), None)
        if file is None:
            continue
        # The driver shows the north bridge's voltage for an APU only, and its power holds the CPU.
        apu = read_text(folder / "in1_label") is not None
        inside = "an APU: the whole package, CPU included" if apu else "the board, without the host"
        facts = MeterFacts(
            source=f"hwmon:amdgpu:{i}",
            scope=Scope.PACKAGE if apu else Scope.GPU_BOARD,
            method=Method.SAMPLED,
            step=GPU_STEP_W,
            update_s=GPU_UPDATE_S,
            minimum_s=GPU_MINIMUM_S,
            detail=f"{file.name} of {folder.name}: {inside}; its update interval and step are assumed",
            evidence=evidence(),
        )
        terms = (Term(files=(file,), scale=1e-6),)
        found.append(Candidate(title=f"AMD GPU {i}, amdgpu", facts=facts, terms=terms))
    return found


def _amd_energy() -> list[Candidate]:
    """The sockets' counters of AMD's own driver (Linux 5.8 to 5.12); its cores are inside them."""
    files = [
        label.with_name(label.name.replace("_label", "_input"))
        for folder in _folders("amd_energy")
        for label in entries(folder, "energy*_label")
        if (read_text(label) or "").startswith("Esocket")
    ]
    if not files:
        return []
    facts = MeterFacts(
        source="hwmon:amd_energy",
        scope=Scope.PACKAGE,
        method=Method.COUNTER,
        step=SOCKET_STEP_J,
        update_s=SOCKET_UPDATE_S,
        minimum_s=SOCKET_MINIMUM_S,
        detail=f"sum of {len(files)} sockets without memory; step 15.3 µJ, the register's unit",
        evidence=evidence(),
    )
    terms = tuple(Term(files=(file,), scale=1e-6) for file in files)
    return [Candidate(title="AMD processor sockets, amd_energy", facts=facts, terms=terms)]


def _status(candidate: Candidate) -> SourceStatus:
    facts = candidate.facts
    status = partial(SourceStatus, source=facts.source, title=candidate.title, scope=facts.scope)
    refusal = blocked(file for term in candidate.terms for file in term.files)
    if refusal is None:
        return status(facts=facts)
    return status(reason=refusal.reason, why=refusal.why, fix=refusal.fix)


def _unused() -> list[SourceStatus]:
    """Sensors that tell power or energy of something that isn't documented well enough."""
    found: dict[str, SourceStatus] = {}
    for folder in entries(sysfs("class", "hwmon"), "hwmon*"):
        name = read_text(folder / "name") or folder.name
        if name.startswith("ina3221"):
            why = "" if _hwmon_rails() else "no rail has a label: what they feed isn't known"
        elif name in ("amdgpu", "amd_energy") or read_text(sysfs("class", "power_supply", name, "type")):
            why = ""  # metered here, or by the battery's meter
        else:
            files = _names(file for pattern in _ATTRIBUTES for file in entries(folder, pattern))
            why = (
                f"not used: what {files} of this driver is the power of isn't documented here"
                if files
                else ""
            )
        if why:
            found[name] = SourceStatus(
                source=f"hwmon:{name}", title=_TITLE, scope=None, reason=Absence.NO_SENSOR, why=why
            )
    return list(found.values())


def _names(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)


def _nothing(reason: Absence, why: str) -> SourceStatus:
    return SourceStatus(source="hwmon", title=_TITLE, scope=None, reason=reason, why=why)
