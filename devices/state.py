"""How hot, how fast and how held back the processor that computes is now: what /sys and NVML tell, no more.

A reader finds its files once and only reads them afterwards, so it may be polled a few times a second.
What a system does not tell stays None: a virtual machine tells nothing, AMD and ARM count no throttling.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.devices.gpu import POWER_CAP, SLOWED, GpuReader
from edgebench.devices.sysfs import entries, evidence, read_int, read_text, sysfs

SETTLED_C_PER_S = 0.5 / 60
"""A temperature that moves slower than this (0.5 °C a minute) is at rest."""
SETTLED_WITHIN_C = 2.0
"""How far from the start's temperature a settled one may be."""
WINDOW_S = 30.0
"""Seconds a slope is taken over: long enough that a sensor of 1 °C steps shows more than its steps."""
_FEWEST_SAMPLES = 6
_PLAUSIBLE_C = (-40.0, 125.0)
"""Outside of it a sensor that is not connected speaks, not a processor; exactly 0 is one not read yet."""

_CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "k8temp", "via_cputemp", "cpu_thermal", "soc_thermal")
_CPU_ZONES = ("cpu", "soc", "core", "cluster", "pkg", "package", "tj", "b0d4")
_FOREIGN_ZONES = ("batt", "charg", "wifi", "iwl", "nvme", "modem", "skin", "usb", "pmic", "gpu", "npu")
_COOLS_CPU = ("processor", "cpufreq", "thermal-cpufreq", "thermal-idle", "intel_powerclamp")
_PI_THROTTLED = ("devices", "platform", "soc", "soc:firmware", "get_throttled")
_PI_HELD_NOW = 0b1110
"""Frequency capped, throttled, at the soft temperature limit; bit 0 is the supply's voltage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One look. None: this system does not tell."""

    temperature_c: float | None = None
    """The hottest of the processor's sensors; of the GPU for a run on one."""
    temperature_sensor: str | None = None
    """Which one that was."""
    frequency_hz: float | None = None
    """Mean of all processors that are on; of the GPU's multiprocessors for a run on one."""
    n_throttle_events: int | None = None
    """Packages and cores held back for heat, since some time in the past: only differences mean anything."""
    governor: str | None = None
    """`schedutil`; `powersave,schedutil` where the processors differ."""
    on_battery: bool | None = None
    cooling_share: float | None = None
    """How much of its passive cooling (slower clocks, forced idling) the kernel applies, 0 to 1."""
    throttled_now: bool | None = None
    """What a Raspberry Pi's firmware says of itself, and a GPU's driver of it; others have no such word."""
    power_capped: bool | None = None
    """A GPU's clocks are held down by its own power limit."""
    gpu_busy_share: float | None = None
    """Of the last moments, those in which the GPU computed."""


class StateReader:
    """Finds the sensors once; `read` looks at them. One reader for the whole of a run.

    `gpu` is the UUID of the GPU that computes, which then stands for the processor.
    """

    def __init__(self, gpu: str | None = None) -> None:
        self._gpu_sensor = f"nvml:{gpu}"
        self._gpu = GpuReader(gpu) if gpu else None
        self._sensors = _find_sensors()
        self._frequencies = _cpus("cpufreq/scaling_cur_freq")
        self._governors = _cpus("cpufreq/scaling_governor")
        self._cooling = [d for d in entries(sysfs("class", "thermal"), "cooling_device*") if _cools_cpu(d)]
        self._throttles = _Throttles()

    def read(self) -> DeviceState:
        """Now: some 20 µs a file, three files a processor."""
        read = [(t, name) for name, path in self._sensors if (t := _temperature(path)) is not None]
        hottest = max(read, default=None)
        frequencies_hz = [1e3 * khz for path in self._frequencies if (khz := read_int(path)) is not None]
        cooling = [share for device in self._cooling if (share := _cooling_share(device)) is not None]
        state = DeviceState(
            temperature_c=hottest[0] if hottest else None,
            temperature_sensor=hottest[1] if hottest else None,
            frequency_hz=statistics.fmean(frequencies_hz) if frequencies_hz else None,
            n_throttle_events=self._throttles.read(),
            governor=_joined(self._governors),
            on_battery=on_battery(),
            cooling_share=max(cooling, default=None),
            throttled_now=_pi_throttled(),
        )
        return state if self._gpu is None else self._of_gpu(self._gpu, state)

    def _of_gpu(self, reader: GpuReader, state: DeviceState) -> DeviceState:
        now = reader.read()
        reasons = None if now.reasons is None else frozenset(now.reasons)
        return replace(
            state,
            temperature_c=now.temperature_c,
            temperature_sensor=None if now.temperature_c is None else self._gpu_sensor,
            frequency_hz=now.frequency_hz,
            throttled_now=state.throttled_now if reasons is None else bool(reasons & SLOWED),
            power_capped=None if reasons is None else POWER_CAP in reasons,
            gpu_busy_share=now.busy_share,
        )

    def gpu_memory_bytes(self, pid: int) -> int | None:
        """What process `pid` holds of the GPU's memory; None where no GPU computes, or none tells."""
        return None if self._gpu is None else self._gpu.memory_bytes(pid)

    def gpu_is_shared(self, pid: int) -> bool:
        """Whether others compute on the GPU beside process `pid`."""
        return self._gpu is not None and self._gpu.is_shared(pid)

    def close(self) -> None:
        """Give back what is held of the GPU."""
        if self._gpu is not None:
            self._gpu.close()

    def facts(self) -> dict[str, Any]:
        """What is read, JSON-ready, for the record: an empty list or 0 is why a value is None."""
        return {
            "temperature_sensors": [name for name, _ in self._sensors],
            "n_frequencies": len(self._frequencies),
            "n_throttle_counters": self._throttles.n_counters,
            "cooling_devices": [f"{d.name}:{read_text(d / 'type')}" for d in self._cooling],
            "power_supplies": [d.name for d in _power_supplies()],
            "gpu": self._gpu_sensor if self._gpu else None,
            "evidence": str(evidence()),
        }


def settled(history: Sequence[tuple[float, float]], target_c: float) -> bool:
    """Whether the device rests at the temperature it had at the start: (t_s, temperature_c), oldest first.

    A straight line through the last WINDOW_S must fall or rise by less than 0.5 °C a minute and end within
    2 °C of `target_c`. False while there is not a whole window to judge by.
    """
    if not history or history[-1][0] - history[0][0] < WINDOW_S:
        return False
    end_s = history[-1][0]
    window = [(t, c) for t, c in history if t >= end_s - WINDOW_S]
    if len(window) < _FEWEST_SAMPLES or window[-1][0] - window[0][0] < WINDOW_S / 2:
        return False  # a gap: the device was busy, or asleep
    slope, end_c = statistics.linear_regression([t - end_s for t, _ in window], [c for _, c in window])
    return abs(slope) < SETTLED_C_PER_S and abs(end_c - target_c) <= SETTLED_WITHIN_C


def flags_between(before: DeviceState, after: DeviceState) -> list[str]:
    """What was wrong with the time between two looks of one reader.

    `throttled` (events were counted, or the kernel, the firmware or the GPU's driver holds the clocks down at
    either look), `power_capped`, `on_battery`, `governor_changed`. What is not known raises no flag.
    """
    flags = []
    earlier, later = before.n_throttle_events, after.n_throttle_events
    counted = earlier is not None and later is not None and later > earlier
    if counted or any(state.throttled_now or state.cooling_share for state in (before, after)):
        flags.append("throttled")
    if before.power_capped or after.power_capped:
        flags.append("power_capped")
    if before.on_battery or after.on_battery:
        flags.append("on_battery")
    if before.governor and after.governor and before.governor != after.governor:
        flags.append("governor_changed")
    return flags


def cpu_setting(name: str) -> str | None:
    """The different values of a file below every `cpuN` of /sys, joined by commas; None where none is."""
    return _joined(_cpus(name))


def on_battery() -> bool | None:
    """True when the computer's battery discharges; None where there is no supply to ask.

    Where no battery tells (`Unknown`), the adapter does. Those of mice and headsets don't count.
    """
    states = {read_text(supply / "status") for supply in _power_supplies()} - {None, "", "Unknown"}
    if states:
        return "Discharging" in states
    online = ac_online()
    return None if online is None else not online


def ac_online() -> bool | None:
    """Whether a power adapter is plugged in; None where none is known to the system."""
    adapters = [supply for supply in _power_supplies() if read_text(supply / "type") != "Battery"]
    states = {read_text(adapter / "online") for adapter in adapters}
    known = states & {"0", "1", "2"}  # 2: programmable supplies of USB PD
    return bool(known & {"1", "2"}) if known else None


def _cpus(name: str) -> list[Path]:
    return [path for cpu in _cpu_folders() if (path := cpu / name).exists()]


def _cpu_folders() -> list[Path]:
    return entries(sysfs("devices", "system", "cpu"), "cpu[0-9]*")


def _joined(paths: Iterable[Path]) -> str | None:
    return ",".join(sorted({value for path in paths if (value := read_text(path))})) or None


def _power_supplies() -> list[Path]:
    """Those that feed this computer; a mouse's battery has the scope `Device`."""
    return [d for d in entries(sysfs("class", "power_supply"), "*") if read_text(d / "scope") != "Device"]


def _temperature(path: Path) -> float | None:
    """°C; None for what no processor can have."""
    value = read_int(path)
    low, high = _PLAUSIBLE_C
    return value / 1000 if value and low <= value / 1000 < high else None


def _find_sensors() -> list[tuple[str, Path]]:
    """(name, file) of the processor's own sensors; without any, of what is not known to be elsewhere."""
    own: list[tuple[str, Path]] = []
    others: list[tuple[str, Path]] = []
    for chip in entries(sysfs("class", "hwmon"), "hwmon*"):
        if (kind := read_text(chip / "name") or "").startswith(_CPU_CHIPS):
            own += _chip_sensors(kind, chip)
    for zone in entries(sysfs("class", "thermal"), "thermal_zone*"):
        kind = read_text(zone / "type") or ""
        sensor = (f"{zone.name}:{kind}", zone / "temp")
        if any(word in kind.lower() for word in _FOREIGN_ZONES):
            continue
        (own if any(word in kind.lower() for word in _CPU_ZONES) else others).append(sensor)
    for sensors in (own, others):
        if found := [sensor for sensor in sensors if _temperature(sensor[1]) is not None]:
            return found
    return []


def _chip_sensors(kind: str, chip: Path) -> list[tuple[str, Path]]:
    """AMD's Tctl is, on some models, some 10 or 27 °C above the truth: Tdie or Tccd where they are given."""
    inputs = entries(chip, "temp*_input")
    labels = [path.with_name(path.name.replace("_input", "_label")) for path in inputs]
    named = [(read_text(label) or path.name, path) for label, path in zip(labels, inputs, strict=True)]
    real = [one for one in named if one[0] != "Tctl"]
    return [(f"{kind}:{label}", path) for label, path in real or named]


def _cools_cpu(device: Path) -> bool:
    return (read_text(device / "type") or "").lower().startswith(_COOLS_CPU)


def _cooling_share(device: Path) -> float | None:
    now, most = read_int(device / "cur_state"), read_int(device / "max_state")
    if now is None or not most or most < 0:
        return None
    return min(1.0, max(0, now) / most)  # a powerclamp that is off says -1


def _pi_throttled() -> bool | None:
    """From the firmware's bits in hex; those from 16 on are of the past."""
    word = read_text(sysfs(*_PI_THROTTLED))
    try:
        return None if word is None else bool(int(word.rpartition("=")[2], 16) & _PI_HELD_NOW)
    except ValueError:
        return None


class _Throttles:
    """Intel's counters of heat events. Every processor has its own copy of its core's and its package's.

    An event of a package shows in the copies of all its processors, but not surely in each: of every group
    the largest step since the last look counts.
    """

    def __init__(self) -> None:
        self._groups = _throttle_groups()
        self._last: dict[Path, int] = {}
        self._n_events = 0
        self.n_counters = len(self._groups)

    def read(self) -> int | None:
        """Events so far; None where nothing counts. At first that is all since boot."""
        if not self._groups:
            return None
        for paths in self._groups.values():
            now = {path: n for path in paths if (n := read_int(path)) is not None}
            self._n_events += max((0, *(n - self._last.get(path, 0) for path, n in now.items())))
            self._last |= now
        return self._n_events


def _throttle_groups() -> Mapping[tuple[str, ...], list[Path]]:
    """The files that count the same thing."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for cpu in _cpu_folders():
        package = read_text(cpu / "topology/physical_package_id") or "?"
        core = read_text(cpu / "topology/core_id") or cpu.name
        die = read_text(cpu / "topology/die_id") or "?"
        for key, name in (
            (("package", package), "package_throttle_count"),
            (("core", package, die, core), "core_throttle_count"),
        ):
            if read_int(path := cpu / "thermal_throttle" / name) is not None:
                groups.setdefault(key, []).append(path)
    return groups
