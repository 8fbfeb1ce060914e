"""NVIDIA GPUs by NVML: the energy counter, sampled power beside it, and what a run asks of a GPU.

The counter (mJ since the driver was loaded, Volta and newer) is the figure; it moves about every
100 ms, so a short window may see no change at all, and power times duration never stands in for it.
The sampled meter is its cross-check. The module `pynvml` is that of the distribution `nvidia-ml-py`.
"""

import contextlib
import importlib
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from edgebench.core.energy import Absence, Meter, MeterError, MeterFacts, Method, Sample, Scope, SourceStatus

UPDATE_S = 0.1
"""The counter "advances approximately every 100 ms" (ML.ENERGY)."""
AVERAGED_S = 1.0
"""`nvmlDeviceGetPowerUsage` is a 1 s average on Ampere and newer, GA100 excepted (NVML's text)."""
MINIMUM_S = 5.0
"""At least 50 updates of the counter."""
_MILLI = 1e-3
_THROTTLES = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
}
"""Bits of NVML's clocks event reasons that mean: slower than it could be."""
_COUNTER_DETAIL = "board without the host; A100 and H100 sample a quarter of the time (arXiv 2312.02741)"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """How a GPU runs just now; None for what it does not tell."""

    clock_hz: float | None
    """Of the streaming multiprocessors."""
    memory_clock_hz: float | None
    temperature_c: float | None
    throttle_reasons: tuple[str, ...] | None
    """Of sw_power_cap, hw_slowdown, sw_thermal, hw_thermal, power_brake; empty: none is active."""


class _Power(NamedTuple):
    """A way to ask a GPU for watts that it answers."""

    scope: Scope
    update_s: float
    detail: str
    read: Callable[[], float | None]


class Nvml:
    """The family `nvml`: a counter `nvml:0` and a sampled cross-check `nvml:0:power` for each GPU."""

    name = "nvml"

    def probe(self) -> list[SourceStatus]:
        """Two lines for each GPU, one for a partitioned or silent one, or one that says why there is none."""
        try:
            with _opened() as library:
                found = [status for status, _ in _sources(library)]
        except MeterError as error:
            return [_absent(self.name, error)]
        none = MeterError(Absence.NO_SENSOR, "the driver knows no GPU")
        return found or [_absent(self.name, none)]

    def open(self) -> list[Meter]:
        """Counters and sampled meters of all GPUs; none where probe finds nothing usable."""
        try:
            with _opened() as library:
                return [_NvmlMeter(library, s.facts, read) for s, read in _sources(library) if s.facts]
        except MeterError:
            return []


def gpu_memory_bytes(pid: int) -> int | None:
    """What process `pid` holds on all GPUs together.

    None when no GPU lists it: it uses none, or a container hides which process is which.
    """
    total = None
    with contextlib.suppress(MeterError), _opened() as library:
        for handle in _handles(library):
            listed = [p.usedGpuMemory for p in _processes(library, handle) if p.pid == pid]
            if None in listed:
                return None  # Windows' driver model does not tell
            if listed:  # a process that computes and draws stands in both lists with the same figure
                total = (total or 0) + max(listed)
    return total


def gpu_state(index: int) -> GpuState:
    """Clocks, temperature and throttle reasons of GPU `index`, as NVML counts them; never raises."""
    clock = memory_clock = temperature = bits = None
    with contextlib.suppress(MeterError), _opened() as library:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        clock = _ask(library, "nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_SM)
        memory_clock = _ask(library, "nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_MEM)
        # The older names leave NVML with CUDA 14; older drivers know only them.
        temperature = _first(
            library,
            ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"),
            handle,
            library.NVML_TEMPERATURE_GPU,
        )
        reasons = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        bits = _first(library, reasons, handle)
    return GpuState(
        clock_hz=None if clock is None else clock * 1e6,
        memory_clock_hz=None if memory_clock is None else memory_clock * 1e6,
        temperature_c=None if temperature is None else float(temperature),
        throttle_reasons=None
        if bits is None
        else tuple(name for bit, name in _THROTTLES.items() if bits & bit),
    )


def busy_with_others(index: int, own_pids: Collection[int]) -> bool | None:
    """Whether GPU `index` computes for a process that is not ours; None when it can't be asked.

    Programs that only draw (a desktop) do not count, and those of other containers are not seen.
    """
    with contextlib.suppress(MeterError), _opened() as library:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        listed = _ask(library, "nvmlDeviceGetComputeRunningProcesses", handle)
        return None if listed is None else any(p.pid not in own_pids for p in listed)
    return None


class _NvmlMeter:
    """An open counter or sampled meter; it keeps NVML initialized until it is closed."""

    def __init__(self, library: ModuleType, facts: MeterFacts, read: Callable[[], float | None]) -> None:
        self.facts = facts
        self._read = read
        self._start = 0.0
        self._start = self._value() if facts.method is Method.COUNTER else 0.0
        library.nvmlInit()  # counted by NVML: each meter holds one
        self._library: ModuleType | None = library

    def read(self) -> Sample:
        """J since the meter was opened, or W now; stamped with the middle of the call."""
        before = time.perf_counter()
        value = self._value() - self._start
        return Sample((before + time.perf_counter()) / 2, value)

    def close(self) -> None:
        """Give NVML back; a second call does nothing."""
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = None

    def _value(self) -> float:
        value = self._read()
        if value is None:
            raise MeterError(Absence.UNREADABLE, f"{self.facts.source}: the GPU no longer answers")
        if value < self._start:
            raise MeterError(Absence.COUNTER_RESET, f"{self.facts.source}: the counter went backwards")
        return value


@contextlib.contextmanager
def _opened() -> Iterator[ModuleType]:
    """The bindings with NVML initialized; every failure inside becomes a MeterError."""
    library = _library()
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise _not_initialized(library, error) from error
    try:
        yield library
    except library.NVMLError as error:
        raise MeterError(Absence.UNREADABLE, f"NVML: {error}") from error
    finally:
        library.nvmlShutdown()


def _library() -> ModuleType:
    """NVIDIA's own bindings; MeterError when they are absent or somebody else's."""
    if platform.system() == "Darwin":
        raise MeterError(Absence.OS_UNSUPPORTED, "NVIDIA makes no driver for macOS")
    try:
        library = importlib.import_module("pynvml")
    except ImportError as error:
        if shutil.which("nvidia-smi") is None:
            raise MeterError(Absence.NO_SENSOR, "no NVIDIA driver here: nvidia-smi is not found") from error
        raise MeterError(
            Absence.NOT_INSTALLED,
            "NVIDIA's Python bindings are not installed",
            "pip install 'edgebench[nvidia]'",
        ) from error
    if not hasattr(library, "_nvmlGetFunctionPointer"):
        raise MeterError(
            Absence.NOT_INSTALLED,
            "the installed module pynvml is not NVIDIA's own",
            "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py",
        )
    return library


def _not_initialized(library: ModuleType, error: Any) -> MeterError:
    if error.value in (library.NVML_ERROR_DRIVER_NOT_LOADED, library.NVML_ERROR_LIBRARY_NOT_FOUND):
        return MeterError(Absence.NO_SENSOR, f"no NVIDIA driver is loaded: {error}")
    if error.value == library.NVML_ERROR_NO_PERMISSION:
        fix = "sudo usermod -aG video,render $USER  # then log in again"
        return MeterError(Absence.PERMISSION_DENIED, f"NVML refuses: {error}", fix)
    return MeterError(Absence.UNREADABLE, f"NVML does not start: {error}")


def _sources(library: ModuleType) -> list[tuple[SourceStatus, Callable[[], float | None]]]:
    """Every source of every GPU with the call that reads it."""
    found: list[tuple[SourceStatus, Callable[[], float | None]]] = []
    for index in range(library.nvmlDeviceGetCount()):
        handle = _ask(library, "nvmlDeviceGetHandleByIndex", index)
        refused = _refused(library, index, handle)
        found += [(refused, lambda: None)] if refused else _gpu_sources(library, index, handle)
    return found


def _refused(library: ModuleType, index: int, handle: Any) -> SourceStatus | None:
    """The one line of a GPU that can't be metered at all."""
    source = f"nvml:{index}"
    if handle is None:
        return _absent(source, MeterError(Absence.UNREADABLE, f"GPU {index} does not answer"))
    modes = _ask(library, "nvmlDeviceGetMigMode", handle)
    if modes and modes[0] == library.NVML_DEVICE_MIG_ENABLE:
        why = f"GPU {index} is partitioned (MIG): its power is that of all partitions"
        return _absent(source, MeterError(Absence.MIG_PARTITION, why, f"sudo nvidia-smi -i {index} -mig 0"))
    return None


def _gpu_sources(
    library: ModuleType, index: int, handle: Any
) -> list[tuple[SourceStatus, Callable[[], float | None]]]:
    """The counter of one GPU and its sampled cross-check."""
    source, name = f"nvml:{index}", _text(_ask(library, "nvmlDeviceGetName", handle))
    who = ", ".join((name, _text(_ask(library, "nvmlDeviceGetUUID", handle)), f"driver {_driver(library)}"))
    power = _power(library, handle)
    # A superchip answers for its module only; its counter is taken for no less than that.
    scope = power.scope if power else Scope.GPU_BOARD

    def counter() -> float | None:
        raw = _ask(library, "nvmlDeviceGetTotalEnergyConsumption", handle)
        return None if raw is None else raw * _MILLI

    title = f"{name}, energy counter"
    if counter() is None:
        why = MeterError(Absence.NO_SENSOR, f"{name} has no energy counter: Volta or newer has one")
        counted = _absent(source, why, title, scope)
    else:
        facts = _facts(source, scope, Method.COUNTER, UPDATE_S, f"{who}; {_COUNTER_DETAIL}")
        counted = SourceStatus(source=source, title=title, scope=scope, facts=facts)
    source, title = f"{source}:power", f"{name}, sampled power"
    if power is None:
        why = MeterError(Absence.NO_SENSOR, f"{name} does not tell its power")
        return [(counted, counter), (_absent(source, why, title, scope), lambda: None)]
    facts = _facts(source, scope, Method.SAMPLED, power.update_s, f"{who}; {power.detail}")
    sampled = SourceStatus(source=source, title=title, scope=scope, facts=facts)
    return [(counted, counter), (sampled, power.read)]


def _facts(source: str, scope: Scope, method: Method, update_s: float, detail: str) -> MeterFacts:
    return MeterFacts(
        source=source,
        scope=scope,
        method=method,
        step=_MILLI,
        update_s=update_s,
        minimum_s=MINIMUM_S,
        detail=detail,
    )


def _power(library: ModuleType, handle: Any) -> _Power | None:
    """The first of NVML's ways to tell power that this GPU answers: 0 W is no answer."""

    def field(scope_name: str) -> float | None:
        wanted = [getattr(library, key, None) for key in ("NVML_FI_DEV_POWER_INSTANT", scope_name)]
        answers = (
            None if None in wanted else _ask(library, "nvmlDeviceGetFieldValues", handle, [tuple(wanted)])
        )
        if not answers or answers[0].nvmlReturn != library.NVML_SUCCESS:
            return None
        return float(answers[0].value.uiVal * _MILLI)

    def usage() -> float | None:
        raw = _ask(library, "nvmlDeviceGetPowerUsage", handle)
        return None if raw is None else float(raw * _MILLI)

    instant = "POWER_INSTANT, NVML scope"
    ways = (
        _Power(Scope.GPU_BOARD, UPDATE_S, f"{instant} GPU", lambda: field("NVML_POWER_SCOPE_GPU")),
        _Power(
            Scope.GPU_MODULE,
            UPDATE_S,
            f"{instant} MODULE: with the CPU",
            lambda: field("NVML_POWER_SCOPE_MODULE"),
        ),
        _Power(Scope.GPU_BOARD, AVERAGED_S, "nvmlDeviceGetPowerUsage: 1 s average since Ampere", usage),
    )
    return next((way for way in ways if way.read()), None)


def _handles(library: ModuleType) -> list[Any]:
    found = (_ask(library, "nvmlDeviceGetHandleByIndex", i) for i in range(library.nvmlDeviceGetCount()))
    return [handle for handle in found if handle is not None]


def _processes(library: ModuleType, handle: Any) -> list[Any]:
    """Entries with `pid` and `usedGpuMemory` of all programs on a GPU."""
    kinds = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
    return [process for kind in kinds for process in _ask(library, kind, handle) or []]


def _first(library: ModuleType, names: tuple[str, str], *arguments: Any) -> Any:
    """The answer of the first of two names of one function that there is."""
    answer = _ask(library, names[0], *arguments)
    return _ask(library, names[1], *arguments) if answer is None else answer


def _ask(library: ModuleType, name: str, *arguments: Any) -> Any:
    """What a call answers; None where these bindings, this driver or this GPU do not have it."""
    try:
        return getattr(library, name)(*arguments)
    except (AttributeError, library.NVMLError):
        return None


def _driver(library: ModuleType) -> str:
    return _text(_ask(library, "nvmlSystemGetDriverVersion"))


def _text(answer: str | bytes | None) -> str:
    """Older bindings give bytes."""
    if answer is None:
        return "?"
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def _absent(
    source: str, error: MeterError, title: str = "NVIDIA GPU (NVML)", scope: Scope | None = None
) -> SourceStatus:
    return SourceStatus(
        source=source, title=title, scope=scope, reason=error.reason, why=error.message, fix=error.hint or ""
    )
