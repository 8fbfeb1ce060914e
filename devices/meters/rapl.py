"""The processor's own energy counters: RAPL of Intel and AMD, by the kernel's powercap.

The tree counts energy more than once: psys holds package holds core and uncore; dram stands beside
the package; `intel-rapl-mmio` shows the same domains again (Linux, power/powercap.rst). So packages
(or their dies) and their dram make one meter of scope `package`, psys is another of scope
`platform`, core and uncore are never read.
"""

import math
import platform
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgebench.core.cpu import cpu_flags
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
    must_read_int,
    read_int,
    read_text,
    sysfs,
)

UPDATE_S = 0.001
"""The counters advance about once a millisecond, without a time stamp."""
MINIMUM_S = 5.0
ABSURD_W = 5000.0
"""No socket draws this much: a counter that seems to have wrapped at such a power was reset."""
UNITS_J = (2.0**-14, 2.0**-16)
"""What one count of the register is worth: 61.0 µJ, or 15.3 µJ (AMD, memory of servers)."""
_MOST_COUNTS = 2**32 - 1

_FOLDER = re.compile(r"intel-rapl(-mmio)?:\d+(:\d+)?")
_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
_PSYS = re.compile(r"psys(-\d+)?")
_SIDE_CHANNEL = (
    "since CVE-2020-8694 (PLATYPUS) these counters are for root alone: whoever reads them can infer what "
    "other programs compute; the command gives that side channel to every user until the next boot"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One energy counter."""

    name: str
    """`package-0`, `package-0-die-1`, `package-0/dram`, `psys`."""
    file: Path
    """Its `energy_uj`."""
    range_j: float | None
    """Where it wraps; None where the kernel does not tell."""

    @property
    def unit_j(self) -> float | None:
        """What one count is worth, from the range of its 32 bits; None where that fits no known unit."""
        if self.range_j is None:
            return None
        count_j = self.range_j / _MOST_COUNTS
        return next((unit for unit in UNITS_J if math.isclose(unit, count_j, rel_tol=1e-3)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Zones whose sum is one meter."""

    source: str
    title: str
    scope: Scope
    zones: tuple[Zone, ...]


class RaplMeter:
    """An open group of zones: joules since it was opened, wraps undone zone by zone."""

    def __init__(self, facts: MeterFacts, zones: Sequence[Zone]) -> None:
        self.facts = facts
        self._zones = tuple(zones)
        self._seen_j = self._counters_j()
        self._seen_s = time.perf_counter()
        self._total_j = 0.0
        self._lost = ""

    def read(self) -> Sample:
        """Joules since it was opened.

        Raises:
            MeterError: `permission_denied` or `unreadable` while a zone can't be read (the counters go on,
                a later read may be right again); `counter_reset` now and ever after when one was cleared.
        """
        if self._lost:
            raise self._reset()
        counters_j = self._counters_j()
        now_s = time.perf_counter()
        for zone, before_j, now_j in zip(self._zones, self._seen_j, counters_j, strict=True):
            gained_j = advance_j(before_j, now_j, zone.range_j, now_s - self._seen_s)
            if gained_j is None:
                self._lost = f"{self.facts.source}: the counter of {zone.name} was reset"
                raise self._reset()
            self._total_j += gained_j
        self._seen_j, self._seen_s = counters_j, now_s
        return Sample(now_s, self._total_j)

    def close(self) -> None:
        """Nothing is held open: files are opened anew for each read, as permissions may change."""

    def _reset(self) -> MeterError:
        return MeterError(Absence.COUNTER_RESET, self._lost, "measure again, and do not suspend meanwhile")

    def _counters_j(self) -> list[float]:
        return [must_read_int(zone.file) * 1e-6 for zone in self._zones]


class Rapl:
    """Powercap's RAPL zones as meters `rapl:package` and `rapl:psys`."""

    name = "rapl"

    def probe(self) -> list[SourceStatus]:
        """The package's meter and psys, or why there is none."""
        return [_status(group) for group in groups()] or [_absent()]

    def open(self) -> list[Meter]:
        """The meters that can be read now."""
        meters: list[Meter] = []
        for group in groups():
            if facts := _status(group).facts:
                with suppress(MeterError):  # gone since it was probed
                    meters.append(RaplMeter(facts, group.zones))
        return meters


def advance_j(before_j: float, now_j: float, range_j: float | None, elapsed_s: float) -> float | None:
    """Joules between two readings of one counter that wrapped once at most; None when it was reset.

    A reset looks like a wrap; it is told by the absurd power that a wrap would mean. The two updates
    of slack are for readings so close that one update alone makes the power between them absurd.
    """
    gained_j = now_j - before_j
    if gained_j >= 0:
        return gained_j
    if range_j is None:
        return None
    gained_j += range_j
    return gained_j if 0 <= gained_j <= ABSURD_W * (elapsed_s + 2 * UPDATE_S) else None


def groups() -> list[Group]:
    """What could be metered here, readable or not."""
    if not has_sysfs():
        return []
    zones = _zones()
    package = tuple(zone for zone in zones if not _PSYS.fullmatch(zone.name))
    found = []
    if package:
        title = "RAPL, processor packages" + (
            " and memory" if any("/dram" in z.name for z in package) else ""
        )
        found.append(Group(source="rapl:package", title=title, scope=Scope.PACKAGE, zones=package))
    # A board of several sockets may show one psys for each; whether they add up isn't documented.
    for zone in (zone for zone in zones if _PSYS.fullmatch(zone.name)):
        title = f"RAPL, whole platform ({zone.name})"
        found.append(Group(source=f"rapl:{zone.name}", title=title, scope=Scope.PLATFORM, zones=(zone,)))
    return found


def _zones() -> list[Zone]:
    """Every counter that is used, once: of the two ways to a domain the readable one, else the MSR's."""
    folders = [f for f in entries(sysfs("class", "powercap"), "intel-rapl*:*") if _FOLDER.fullmatch(f.name)]
    found: dict[str, Zone] = {}
    for folder in sorted(folders, key=lambda folder: "-mmio" in folder.name):
        name = _zone_name(folder)
        if name is None:
            continue
        most = read_int(folder / "max_energy_range_uj")
        zone = Zone(name=name, file=folder / "energy_uj", range_j=most * 1e-6 if most and most > 0 else None)
        if name not in found or (read_int(found[name].file) is None and read_int(zone.file) is not None):
            found[name] = zone
    return list(found.values())


def _zone_name(folder: Path) -> str | None:
    """`package-0`, `psys`, `package-0/dram`; None for a zone that is inside another one."""
    name = read_text(folder / "name") or ""
    if _PACKAGE.fullmatch(name) or _PSYS.fullmatch(name):
        return name
    parent = read_text(folder.with_name(folder.name.rpartition(":")[0]) / "name") or ""
    return f"{parent}/dram" if name == "dram" and _PACKAGE.fullmatch(parent) else None


def _status(group: Group) -> SourceStatus:
    status = partial(SourceStatus, source=group.source, title=group.title, scope=group.scope)
    refusal = blocked(zone.file for zone in group.zones)
    if refusal is None:
        return status(facts=_facts(group))
    denied = refusal.reason is Absence.PERMISSION_DENIED
    return status(reason=refusal.reason, why=_SIDE_CHANNEL if denied else refusal.why, fix=refusal.fix)


def _facts(group: Group) -> MeterFacts:
    units_j = [zone.unit_j for zone in group.zones]
    told = [unit for unit in units_j if unit is not None]
    step_j = max(told) if len(told) == len(units_j) else max(UNITS_J)
    return MeterFacts(
        source=group.source,
        scope=group.scope,
        method=Method.COUNTER,
        step=step_j,
        update_s=UPDATE_S,
        minimum_s=MINIMUM_S,
        detail="; ".join(
            (
                " + ".join(zone.name for zone in group.zones),
                "core and uncore are inside" if group.scope is Scope.PACKAGE else "packages are inside",
                _step_detail(step_j, len(told) == len(units_j)),
                _wrap_detail(group.zones),
            )
        ),
        evidence=evidence(),
    )


def _step_detail(step_j: float, told: bool) -> str:
    """Powercap prints whole µJ, but the register behind it counts in coarser units."""
    why = "as its range tells" if told else "the coarser of the two usual ones, as the range tells neither"
    return f"step {step_j * 1e6:.1f} µJ, the register's unit, {why}"


def _wrap_detail(zones: Sequence[Zone]) -> str:
    ranges_j = [zone.range_j for zone in zones if zone.range_j is not None]
    if not ranges_j:
        return "no range is told: a counter that falls counts as reset"
    return (
        f"wraps at {min(ranges_j):.0f} J: one wrap at most between two reads is assumed, which holds while "
        f"they are less than {min(ranges_j) / ABSURD_W:.3g} s apart, even at {ABSURD_W:.0f} W"
    )


def _absent() -> SourceStatus:
    reason, why, fix = Absence.NO_SENSOR, "", ""
    if not has_sysfs():
        reason, why = Absence.OS_UNSUPPORTED, "powercap is Linux's"
    elif "hypervisor" in cpu_flags():
        why = "a virtual machine: the host keeps the processor's energy counters to itself"
    else:
        why = (
            f"no package or psys zone under {sysfs('class', 'powercap')}: the processor has none, a "
            "container hides them, or the kernel module is not loaded"
        )
        fix = "sudo modprobe intel_rapl_msr" if platform.machine() == "x86_64" else ""
    return SourceStatus(
        source="rapl", title="RAPL, Intel and AMD processors", scope=None, reason=reason, why=why, fix=fix
    )
