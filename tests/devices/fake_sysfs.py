"""Trees that stand for /sys: EDGEBENCH_SYSFS=ROOT.

The RAPL tree draws a known power, so that joules can be compared with the curve:

    P(t) = power_w * (1 + SWING * sin(2 pi t / PERIOD_S))        watts of a zone, t in seconds from 0
    E(t) = integral of P from 0 to t                             `joules_of(zone, t)`

    python tests/devices/fake_sysfs.py ROOT SECONDS

drives a tree of `standard_zones(SECONDS)` in real time: each counter starts at a quarter of its range
and wraps twice on the way. It prints `ready T0` once the tree stands; T0 is t = 0 on the clock of
time.perf_counter, the same one in every process of a computer. It ends after SECONDS, or when killed.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SWING = 0.4
PERIOD_S = 2.0
STEP_S = 0.01
"""How often the runnable form writes."""


@dataclass
class Zone:
    """One counter: `intel-rapl:0:1` named `core`, drawing `power_w` on average."""

    folder: str
    name: str
    power_w: float
    start_j: float = 0.0
    range_j: float = 262_143.328_850
    """The kernel's own figure for 32 bits of 61.0 µJ."""


def joules_of(zone: Zone, t_s: float) -> float:
    """What the zone has drawn since t = 0."""
    turn = 2 * math.pi / PERIOD_S
    return zone.power_w * (t_s + SWING / turn * (1 - math.cos(turn * t_s)))


def standard_zones(seconds: float) -> list[Zone]:
    """Two sockets with cores, graphics and memory, their platform, and one socket once more by MMIO.

    Ranges are such that every counter wraps twice within `seconds`. Those that count for
    `rapl:package` draw 65 + 45 + 6 + 4 = 120 W on average, psys draws 150 W.
    """
    powers = [
        ("intel-rapl:0", "package-0", 65.0),
        ("intel-rapl:0:0", "core", 40.0),
        ("intel-rapl:0:1", "uncore", 5.0),
        ("intel-rapl:0:2", "dram", 6.0),
        ("intel-rapl:1", "package-1", 45.0),
        ("intel-rapl:1:0", "core", 30.0),
        ("intel-rapl:1:1", "dram", 4.0),
        ("intel-rapl:2", "psys", 150.0),
        ("intel-rapl-mmio:0", "package-0", 65.0),
    ]
    zones = []
    for folder, name, power_w in powers:
        range_j = power_w * seconds / 2.5
        zones.append(Zone(folder, name, power_w, start_j=range_j / 4, range_j=range_j))
    return zones


@dataclass
class RaplTree:
    """A tree with `class/powercap`; `write(t_s)` sets every counter to its value at t_s."""

    root: Path
    zones: Sequence[Zone]
    stuck: set[str] = field(default_factory=set)
    """Folders whose counter no longer moves."""

    def __post_init__(self) -> None:
        for zone in self.zones:
            files = {"name": zone.name, "max_energy_range_uj": round(zone.range_j * 1e6)}
            write_files(self.folder(zone.folder), files)
        self.write(0.0)

    def folder(self, name: str) -> Path:
        return Path(self.root) / "class" / "powercap" / name

    def write(self, t_s: float) -> None:
        for zone in self.zones:
            if zone.folder not in self.stuck:
                counter_j = (zone.start_j + joules_of(zone, t_s)) % zone.range_j
                write_files(self.folder(zone.folder), {"energy_uj": int(counter_j * 1e6)})

    def joules(self, t_s: float, *folders: str) -> float:
        """What these zones have drawn since t = 0."""
        return sum(joules_of(zone, t_s) for zone in self.zones if zone.folder in folders)


def write_files(folder: Path, files: dict[str, object]) -> Path:
    """Files with a value each, whole at every moment for who reads meanwhile; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        draft = folder / f".{name}"
        draft.write_text(f"{value}\n")
        draft.replace(folder / name)
    return folder


def hwmon(root: Path, i: int, name: str, **files: object) -> Path:
    """`class/hwmon/hwmonI` of a driver."""
    return write_files(root / "class" / "hwmon" / f"hwmon{i}", {"name": name, **files})


def battery(root: Path, name: str = "BAT0", **files: object) -> Path:
    """`class/power_supply/NAME`, discharging at 83 % unless told otherwise."""
    told = {"type": "Battery", "status": "Discharging", "capacity": 83, **files}
    return write_files(root / "class" / "power_supply" / name, told)


def drive(root: Path, seconds: float) -> None:
    """The runnable form."""
    tree = RaplTree(root, standard_zones(seconds))
    start_s = time.perf_counter()
    print("ready", start_s, flush=True)
    while (t_s := time.perf_counter() - start_s) < seconds:
        tree.write(t_s)
        time.sleep(STEP_S)
    tree.write(seconds)


if __name__ == "__main__":
    drive(Path(sys.argv[1]), float(sys.argv[2]))
