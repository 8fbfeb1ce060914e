"""Apple silicon: the firmware's energy counters, and the system power of the SMC through `macmon`.

What IOReport counts is a model of the vendor's firmware, comparable within one chip only, and it leaves
out the screen, the drive and the fans: scope `soc_model`. `macmon`'s `sys_power` is the SMC key PSTR,
the only sensor of the whole Mac that needs no rights: scope `platform`. `powermetrics` is not used; its
own manual forbids comparisons between devices.
"""

import importlib
import json
import platform
import re
import subprocess
import sys
import threading
import time
from types import ModuleType
from typing import Any

from edgebench.core.energy import Absence, Meter, MeterError, MeterFacts, Method, Sample, Scope, SourceStatus

COUNTER_MINIMUM_S = 5.0
COUNTER_UPDATE_S = 0.01
"""Windows shorter than this are quantisation noise (zeus-apple-silicon's text)."""
SYSTEM_MINIMUM_S = 20.0
"""A hundred lines."""
INTERVAL_S = 0.2
"""Between two lines of macmon; its least is 0.1 s, and each costs the Mac a little."""
SYSTEM_STEP_W = 0.01
"""Not documented; seen figures have more digits than a sensor can mean."""
SILENT_S = 3.0
"""A stream without a line for so long has stopped."""
_START_S = 5.0
_MILLI = 1e-3
_PARTS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "dram_mj", "ane_mj")
_VERSION = re.compile(r"^macmon v?\d+\.\d+\.\d+\s*$")
_COUNTER, _SYSTEM = "apple:soc", "apple:system"
_COUNTER_TITLE = "Apple silicon energy counters (IOReport)"
_SYSTEM_TITLE = "Apple system power (SMC, by macmon)"


class Apple:
    """The family `apple`: the counter `apple:soc` and the sampled `apple:system`."""

    name = "apple"

    def probe(self) -> list[SourceStatus]:
        """One line for each source, or a single one off Apple silicon."""
        if reason := _foreign():
            return [_absent(self.name, "Apple silicon", reason)]
        return [_counter_status(), _system_status()]

    def open(self) -> list[Meter]:
        """The usable ones of the two; macmon runs until its meter is closed."""
        if _foreign():
            return []
        meters: list[Meter] = []
        for kind in (SocCounter, SystemPower):
            try:
                meters.append(kind())
            except MeterError:  # probe tells why
                continue
        return meters


class SocCounter:
    """An open counter of all parts of the chip that it counts."""

    def __init__(self) -> None:
        self._monitor = _monitor()
        self._start = _parts(self._monitor)
        self._start_s = time.perf_counter()
        self.facts = _counter_facts(self._start)

    def read(self) -> Sample:
        """J since the meter was opened.

        MeterError `inconsistent_sensor` when the processor's own part stands still: this call needs it.
        """
        before = time.perf_counter()
        parts = _parts(self._monitor)
        t_s = (before + time.perf_counter()) / 2
        if parts.keys() != self._start.keys():
            raise MeterError(Absence.UNREADABLE, f"{_COUNTER}: other parts than at the start")
        gained = {part: parts[part] - self._start[part] for part in parts}
        if min(gained.values()) < 0:
            raise MeterError(Absence.COUNTER_RESET, f"{_COUNTER}: a counter went backwards")
        if gained.get("cpu_total_mj", 1) == 0 and t_s - self._start_s > COUNTER_MINIMUM_S:
            why = f"{_COUNTER}: the processor's counter stands still"
            raise MeterError(Absence.INCONSISTENT_SENSOR, why, "brew install macmon")
        return Sample(t_s, sum(gained.values()) * _MILLI)

    def close(self) -> None:
        """Nothing is held open."""


class SystemPower:
    """A running `macmon pipe`: a thread keeps its newest line."""

    def __init__(self) -> None:
        self.facts = _system_facts(_macmon_version())
        self._newest: Sample | None = None
        self._first = threading.Event()
        self._process = subprocess.Popen(
            ["macmon", "pipe", "-i", str(round(INTERVAL_S * 1000))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._follow, name="macmon", daemon=True)
        self._reader.start()
        self._first.wait(_START_S)
        if self._newest is None:
            self.close()
            raise MeterError(Absence.NO_SENSOR, f"{_SYSTEM}: macmon tells no system power")

    def read(self) -> Sample:
        """The newest line's W, stamped with its arrival: asked faster than it comes, it repeats."""
        sample = self._newest
        if sample is None or self._process.poll() is not None:
            raise MeterError(Absence.UNREADABLE, f"{_SYSTEM}: macmon has ended")
        if time.perf_counter() - sample.t_s > SILENT_S:
            raise MeterError(Absence.UNREADABLE, f"{_SYSTEM}: macmon has been silent for {SILENT_S:.0f} s")
        return sample

    def close(self) -> None:
        """End macmon; a second call does nothing."""
        self._process.terminate()
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()  # its pipe has ended
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _follow(self) -> None:
        for line in self._process.stdout or ():
            watt = system_w(line)
            if watt is not None:
                self._newest = Sample(time.perf_counter(), watt)
                self._first.set()
        self._first.set()  # ended: nobody waits for more


def system_w(line: str) -> float | None:
    """`sys_power` of a line of `macmon pipe`, in W; None for another line, or where the Mac has none (0)."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    watt = told.get("sys_power") if isinstance(told, dict) else None
    if isinstance(watt, bool) or not isinstance(watt, float | int):
        return None
    return float(watt) if 0 < watt <= sys.float_info.max else None


def _foreign() -> MeterError | None:
    """Why this computer is not of this family."""
    if platform.system() != "Darwin":
        return MeterError(Absence.OS_UNSUPPORTED, "Apple's sensors need macOS on Apple silicon")
    if platform.machine() != "arm64":
        return MeterError(Absence.OS_UNSUPPORTED, "needs Apple silicon and a Python built for arm64")
    return None


def _counter_status() -> SourceStatus:
    try:
        facts = _counter_facts(_parts(_monitor()))
    except MeterError as error:
        return _absent(_COUNTER, _COUNTER_TITLE, error, Scope.SOC_MODEL)
    return SourceStatus(source=_COUNTER, title=_COUNTER_TITLE, scope=facts.scope, facts=facts)


def _counter_facts(parts: dict[str, int]) -> MeterFacts:
    counted = ", ".join(part.removesuffix("_mj") for part in parts)
    return MeterFacts(
        source=_COUNTER,
        scope=Scope.SOC_MODEL,
        method=Method.COUNTER,
        step=_MILLI,
        update_s=COUNTER_UPDATE_S,
        minimum_s=COUNTER_MINIMUM_S,
        detail=f"{counted}; estimates of the firmware's model: compare within one chip only",
    )


def _monitor() -> Any:
    """IOReport's monitor; MeterError where the library is absent or finds no channels."""
    try:
        library: ModuleType = importlib.import_module("zeus_apple_silicon")
    except ImportError as error:
        fix = "pip install 'edgebench[apple]'"
        raise MeterError(Absence.NOT_INSTALLED, "zeus-apple-silicon is not installed", fix) from error
    try:
        return library.AppleEnergyMonitor()
    except RuntimeError as error:
        raise MeterError(Absence.NO_SENSOR, f"IOReport gives no energy channels: {error}") from error


def _parts(monitor: Any) -> dict[str, int]:
    """Part -> mJ of all that this chip counts."""
    try:
        told = monitor.get_cumulative_energy()
    except RuntimeError as error:
        raise MeterError(Absence.UNREADABLE, f"{_COUNTER}: {error}") from error
    found = {part: getattr(told, part, None) for part in _PARTS}
    parts = {part: int(value) for part, value in found.items() if value is not None}
    if not parts:
        raise MeterError(Absence.NO_SENSOR, "IOReport counts no part of this chip that is known")
    return parts


def _system_status() -> SourceStatus:
    """Whether macmon is the right program and this Mac has the sensor."""
    try:
        version = _macmon_version()
        lines = _printed(["macmon", "pipe", "-s", "1", "-i", "100"]).splitlines()
        if not any(system_w(line) for line in lines):
            raise MeterError(Absence.NO_SENSOR, "this Mac's SMC tells no system power (PSTR)")
    except MeterError as error:
        return _absent(_SYSTEM, _SYSTEM_TITLE, error, Scope.PLATFORM)
    facts = _system_facts(version)
    return SourceStatus(source=_SYSTEM, title=_SYSTEM_TITLE, scope=facts.scope, facts=facts)


def _system_facts(version: str) -> MeterFacts:
    return MeterFacts(
        source=_SYSTEM,
        scope=Scope.PLATFORM,
        method=Method.SAMPLED,
        step=SYSTEM_STEP_W,
        update_s=INTERVAL_S,
        minimum_s=SYSTEM_MINIMUM_S,
        detail=f"SMC key PSTR by {version}; its own step and refresh are not documented",
    )


def _macmon_version() -> str:
    """`macmon 0.8.2`. A package of the same name on Python's index is another program."""
    fix = "brew install macmon"
    try:
        version = _printed(["macmon", "--version"])
    except FileNotFoundError as error:
        raise MeterError(Absence.NOT_INSTALLED, "macmon is not installed", fix) from error
    if not _VERSION.match(version):
        why = "the macmon on the PATH is another program of that name"
        raise MeterError(Absence.NOT_INSTALLED, why, f"pip uninstall -y macmon && {fix}")
    return version.strip()


def _printed(command: list[str]) -> str:
    """What a short command prints; FileNotFoundError when it is not there."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_START_S,
            check=False,
        )
    except FileNotFoundError:
        raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeterError(Absence.UNREADABLE, f"{' '.join(command)} does not answer") from error
    return done.stdout


def _absent(source: str, title: str, error: MeterError, scope: Scope | None = None) -> SourceStatus:
    return SourceStatus(
        source=source, title=title, scope=scope, reason=error.reason, why=error.message, fix=error.hint or ""
    )
