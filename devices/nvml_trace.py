"""Recorded NVML: what a computer's GPUs answered, call by call, and a library that answers the same again.

A trace is JSON. Every call is kept under its name and plain arguments, in NVML's own units:

    {"edgebench": "nvml trace",
     "system": {"nvmlSystemGetDriverVersion": "580.65.06"},
     "gpus": [{"nvmlDeviceGetName": "NVIDIA H100", "nvmlDeviceGetClockInfo:1": [[0.0, 1980], [0.1, 1965]]}]}

A list of [seconds, answer] pairs is an answer that changed: it holds from then on, and the last one for
ever. A call that is not in the trace is one the GPU does not know. `python -m edgebench.devices.nvml_trace
SECONDS > trace.json` records this computer's; who else computes there is not recorded.
"""

import ctypes
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgebench.core.energy import Absence, MeterError

KIND = "nvml trace"
STEP_S = 0.05
"""Seconds between two looks of a recording: twice as often as the counter moves."""
_SYSTEM = ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion")
_STILL: tuple[tuple[str, tuple[Any, ...]], ...] = (
    *((f"nvmlDeviceGet{name}", ()) for name in ("Name", "UUID", "VbiosVersion", "MigMode", "EccMode")),
    *((f"nvmlDeviceGet{name}", ()) for name in ("PersistenceMode", "EnforcedPowerLimit")),
)
_MOVING: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("nvmlDeviceGetTotalEnergyConsumption", ()),
    ("nvmlDeviceGetPowerUsage", ()),
    ("nvmlDeviceGetFieldValues", ([(186, 0)],)),
    ("nvmlDeviceGetFieldValues", ([(186, 1)],)),
    ("nvmlDeviceGetClockInfo", (1,)),
    ("nvmlDeviceGetTemperature", (0,)),
    ("nvmlDeviceGetUtilizationRates", ()),
    ("nvmlDeviceGetMemoryInfo", ()),
    ("nvmlDeviceGetCurrentClocksEventReasons", ()),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", ()),
)


class ReplayedError(Exception):
    """What the replaying library raises where NVML raises its NVMLError."""

    def __init__(self, value: int) -> None:
        super().__init__("not in the trace")
        self.value = value


class Replay:
    """A trace with the functions and constants of NVIDIA's bindings; its clock starts when it is made."""

    NVMLError = ReplayedError
    NVML_SUCCESS = 0
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE = 0, 1

    def __init__(self, trace: Mapping[str, Any]) -> None:
        self._system: Mapping[str, Any] = trace["system"]
        self._gpus: list[Mapping[str, Any]] = trace["gpus"]
        self._start_s = time.perf_counter()

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names, here and below
        """Nothing to hold."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Nothing to give back."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """How many GPUs the trace has."""
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Mapping[str, Any]:  # noqa: N802
        """A GPU's part of the trace."""
        if not 0 <= index < len(self._gpus):
            raise ReplayedError(self.NVML_ERROR_NOT_SUPPORTED)
        return self._gpus[index]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return functools.partial(self._answer, name)

    def _answer(self, name: str, handle: Mapping[str, Any] | None = None, *arguments: Any) -> Any:
        answers = self._system if handle is None else handle
        told = answers.get(_key(name, arguments))
        if told is None:
            raise ReplayedError(self.NVML_ERROR_NOT_SUPPORTED)
        return _revived(self._now(told) if _is_series(told) else told)

    def _now(self, series: list[list[Any]]) -> Any:
        passed_s = time.perf_counter() - self._start_s
        return next((answer for at_s, answer in reversed(series) if at_s <= passed_s), series[0][1])


@functools.cache
def replay(path: Path) -> Replay:
    """The library that answers from a trace, one for a process; MeterError when it is no trace."""
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeterError(Absence.UNREADABLE, f"{path} can't be read: {error}") from error
    match trace:
        case {"edgebench": str(kind), "system": dict(), "gpus": list(gpus)} if kind == KIND:
            if all(isinstance(gpu, dict) for gpu in gpus):
                return Replay(trace)
    raise MeterError(Absence.UNREADABLE, f"{path} is no {KIND}")


def record(library: Any, seconds: float) -> dict[str, Any]:
    """Ask the initialized bindings everything a run asks, for so long; a trace."""
    handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
    system = {name: told for name in _SYSTEM if (told := _asked(library, name)) is not None}
    gpus: list[dict[str, Any]] = [
        {name: told for name, _ in _STILL if (told := _asked(library, name, handle)) is not None}
        for handle in handles
    ]
    start_s = time.perf_counter()
    while (now_s := time.perf_counter() - start_s) < seconds:
        for gpu, handle in zip(gpus, handles, strict=True):
            for name, arguments in _MOVING:
                answer = _asked(library, name, handle, *arguments)
                series = gpu.setdefault(_key(name, arguments), []) if answer is not None else []
                if not series or series[-1][1] != answer:
                    series.append([round(now_s, 4), answer])
        time.sleep(STEP_S)
    return {"edgebench": KIND, "system": system, "gpus": gpus}


def _key(name: str, arguments: tuple[Any, ...]) -> str:
    """`nvmlDeviceGetClockInfo:1`, `nvmlDeviceGetFieldValues:186:0`."""
    flat = [part for one in arguments for part in (one[0] if isinstance(one, list) else [one])]
    return ":".join([name, *map(str, flat)])


def _is_series(told: Any) -> bool:
    """A list of pairs; what NVML itself answers as a list holds numbers or structures."""
    return isinstance(told, list) and bool(told) and all(isinstance(at, list) and len(at) == 2 for at in told)


def _asked(library: Any, name: str, *arguments: Any) -> Any:
    """A call's answer in plain JSON; None where there is none."""
    try:
        return _plain(getattr(library, name)(*arguments))
    except (AttributeError, library.NVMLError):
        return None


def _plain(answer: Any) -> Any:
    if isinstance(answer, bytes):
        return answer.decode("utf-8", "replace")
    if isinstance(answer, list | tuple | ctypes.Array):
        return [_plain(one) for one in answer]
    if isinstance(answer, int | float | str):
        return answer
    if hasattr(answer, "nvmlReturn"):  # a field's value: a union, of which watts are the whole number
        return {"nvmlReturn": answer.nvmlReturn, "value": {"uiVal": answer.value.uiVal}}
    fields = [name for name, *_ in getattr(answer, "_fields_", ())] or vars(answer)
    return {name: _plain(getattr(answer, name)) for name in fields}


def _revived(told: Any) -> Any:
    if isinstance(told, dict):
        return SimpleNamespace(**{name: _revived(value) for name, value in told.items()})
    return [_revived(one) for one in told] if isinstance(told, list) else told


def main() -> None:
    """Record this computer's GPUs for the seconds that the command line names."""
    from edgebench.devices.nvml_library import opened

    with opened() as library:
        json.dump(record(library, float(sys.argv[1])), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
