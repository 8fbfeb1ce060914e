"""AMD GPUs by amdsmi: the energy accumulator, and power beside it.

The accumulator counts in steps of `counter_resolution` (about 15.3 µJ). On some boards it reads 0 for
ever (the second die of an MI250) or all ones: there is no counter then, only power. What an APU tells
includes its CPU cores. The hwmon family reads the same board without this library.
"""

import contextlib
import functools
import importlib
import io
import platform
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgebench.core.energy import Absence, Meter, MeterError, MeterFacts, Method, Sample, Scope, SourceStatus

UPDATE_S = 0.1
"""Not documented for every generation; taken as slow as NVIDIA's."""
MINIMUM_S = 5.0
_MICRO = 1e-6
_ALL_ONES = 2**64 - 1
_DRIVER = Path("/sys/module/amdgpu")
_DETAIL = "board without the host; of an APU, its CPU cores too"


class AmdSmi:
    """The family `amdsmi`: a counter `amdsmi:0` and a sampled cross-check `amdsmi:0:power` for each GPU."""

    name = "amdsmi"

    def probe(self) -> list[SourceStatus]:
        """Two lines for each GPU, or one that says why there is none."""
        try:
            found = [status for status, _ in _sources(_library())]
        except MeterError as error:
            return [_absent(self.name, error)]
        none = MeterError(Absence.NO_SENSOR, "amdsmi knows no GPU")
        return found or [_absent(self.name, none)]

    def open(self) -> list[Meter]:
        """Counters and sampled meters of all GPUs; none where probe finds nothing usable."""
        try:
            return [_AmdMeter(status.facts, read) for status, read in _sources(_library()) if status.facts]
        except MeterError:
            return []


class _AmdMeter:
    """An open counter or sampled meter."""

    def __init__(self, facts: MeterFacts, read: Callable[[], float | None]) -> None:
        self.facts = facts
        self._read = read
        self._start = 0.0
        self._start = self._value() if facts.method is Method.COUNTER else 0.0

    def read(self) -> Sample:
        """J since the meter was opened, or W now; stamped with the middle of the call."""
        before = time.perf_counter()
        value = self._value() - self._start
        return Sample((before + time.perf_counter()) / 2, value)

    def close(self) -> None:
        """Nothing is held: the library stays initialized for the process."""

    def _value(self) -> float:
        value = self._read()
        if value is None:
            raise MeterError(Absence.UNREADABLE, f"{self.facts.source}: the GPU no longer answers")
        if value < self._start:
            raise MeterError(Absence.COUNTER_RESET, f"{self.facts.source}: the counter went backwards")
        return value


@functools.cache  # a second amdsmi_init would list every GPU twice
def _library() -> ModuleType:
    """amdsmi, initialized; MeterError when it is absent or does not start."""
    if platform.system() != "Linux":
        raise MeterError(Absence.OS_UNSUPPORTED, "AMD's library needs Linux")
    if not _DRIVER.exists():
        raise MeterError(Absence.NO_SENSOR, "no AMD GPU here: the driver amdgpu is not loaded")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints when its C library is not there
            library = importlib.import_module("amdsmi")
    except ImportError as error:
        hint = "pip install 'edgebench[amd]'"
        raise MeterError(Absence.NOT_INSTALLED, "AMD's bindings (amdsmi) are not installed", hint) from error
    except (OSError, KeyError, AttributeError) as error:
        why = "amdsmi does not find a libamd_smi.so of its version"
        raise MeterError(Absence.NOT_INSTALLED, why, "sudo apt install amd-smi-lib") from error
    try:
        library.amdsmi_init()
    except library.AmdSmiException as error:
        raise MeterError(Absence.UNREADABLE, f"amdsmi does not start: {_line(error)}") from error
    return library


def _sources(library: ModuleType) -> list[tuple[SourceStatus, Callable[[], float | None]]]:
    """Every source of every GPU with the call that reads it."""
    handles = _ask(library, "amdsmi_get_processor_handles") or []
    return [pair for index, handle in enumerate(handles) for pair in _gpu_sources(library, index, handle)]


def _gpu_sources(
    library: ModuleType, index: int, handle: Any
) -> list[tuple[SourceStatus, Callable[[], float | None]]]:
    """The counter of one GPU and its sampled cross-check."""
    who, name = _who(library, handle)
    found: list[tuple[SourceStatus, Callable[[], float | None]]] = []
    resolution_j = _resolution_j(library, handle)

    def counter() -> float | None:
        raw = _accumulator(_ask(library, "amdsmi_get_energy_count", handle))
        return None if raw is None or resolution_j is None else raw * resolution_j

    def power() -> float | None:
        told = _ask(library, "amdsmi_get_power_info", handle) or {}
        keys = ("current_socket_power", "average_socket_power", "socket_power")
        # What a board does not have is "N/A", all ones, or 0.
        return next(
            (float(w) for key in keys if isinstance(w := told.get(key), int) and 0 < w < 0xFFFF), None
        )

    ways = (
        (f"amdsmi:{index}", "energy counter", Method.COUNTER, counter, resolution_j or 0.0),
        (f"amdsmi:{index}:power", "sampled power", Method.SAMPLED, power, 1.0),
    )
    for source, kind, method, read, step in ways:
        title = f"{name}, {kind}"
        if read() is None:
            why = MeterError(Absence.NO_SENSOR, f"{name} gives no {kind}")
            found.append((_absent(source, why, title), read))
            continue
        facts = MeterFacts(
            source=source,
            scope=Scope.GPU_BOARD,
            method=method,
            step=step,
            update_s=UPDATE_S,
            minimum_s=MINIMUM_S,
            detail=f"{who}; {_DETAIL}",
        )
        found.append((SourceStatus(source=source, title=title, scope=facts.scope, facts=facts), read))
    return found


def _accumulator(told: dict[str, Any] | None) -> int | None:
    """The raw count; its key was `power` before amdsmi 6.2."""
    raw = (told or {}).get("energy_accumulator", (told or {}).get("power"))
    return raw if isinstance(raw, int) and 0 < raw < _ALL_ONES else None


def _resolution_j(library: ModuleType, handle: Any) -> float | None:
    told = _ask(library, "amdsmi_get_energy_count", handle) or {}
    resolution = told.get("counter_resolution")
    return resolution * _MICRO if isinstance(resolution, float | int) and resolution > 0 else None


def _who(library: ModuleType, handle: Any) -> tuple[str, str]:
    """(name, UUID and driver in words; name alone)."""
    name = str((_ask(library, "amdsmi_get_gpu_asic_info", handle) or {}).get("market_name") or "AMD GPU")
    uuid = _ask(library, "amdsmi_get_gpu_device_uuid", handle) or "?"
    driver = (_ask(library, "amdsmi_get_gpu_driver_info", handle) or {}).get("driver_version") or "?"
    return f"{name}, {uuid}, driver {driver}", name


def _ask(library: ModuleType, name: str, *arguments: Any) -> Any:
    """What a call answers; None where this version or this GPU does not have it."""
    try:
        return getattr(library, name)(*arguments)
    except (AttributeError, library.AmdSmiException):
        return None


def _line(error: Exception) -> str:
    """An error's text, which has several lines, in one."""
    return " ".join(str(error).split())


def _absent(source: str, error: MeterError, title: str = "AMD GPU (amdsmi)") -> SourceStatus:
    return SourceStatus(
        source=source, title=title, scope=None, reason=error.reason, why=error.message, fix=error.hint or ""
    )
