"""NVIDIA GPUs by NVML: the energy counter, and sampled power beside it.

The counter (mJ since the driver was loaded, Volta and newer) is the figure; it moves about every
100 ms, so a short window may see no change at all, and power times duration never stands in for it.
The sampled meter is its cross-check.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from edgebench.core.energy import Absence, Meter, MeterError, MeterFacts, Method, Sample, Scope, SourceStatus
from edgebench.devices.nvml_library import ask, evidence, is_partitioned, opened, text

UPDATE_S = 0.1
"""The counter "advances approximately every 100 ms" (ML.ENERGY)."""
AVERAGED_S = 1.0
"""`nvmlDeviceGetPowerUsage` is a 1 s average on Ampere and newer, GA100 excepted (NVML's text)."""
MINIMUM_S = 5.0
"""At least 50 updates of the counter."""
_MILLI = 1e-3
_COUNTER_DETAIL = "board without the host; A100 and H100 sample a quarter of the time (arXiv 2312.02741)"


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
            with opened() as library:
                found = [status for status, _ in _sources(library)]
        except MeterError as error:
            return [_absent(self.name, error)]
        none = MeterError(Absence.NO_SENSOR, "the driver knows no GPU")
        return found or [_absent(self.name, none)]

    def open(self) -> list[Meter]:
        """Counters and sampled meters of all GPUs; none where probe finds nothing usable."""
        try:
            with opened() as library:
                return [_NvmlMeter(library, s.facts, read) for s, read in _sources(library) if s.facts]
        except MeterError:
            return []


class _NvmlMeter:
    """An open counter or sampled meter; it keeps NVML initialized until it is closed."""

    def __init__(self, library: Any, facts: MeterFacts, read: Callable[[], float | None]) -> None:
        self.facts = facts
        self._read = read
        self._start = 0.0
        self._start = self._value() if facts.method is Method.COUNTER else 0.0
        library.nvmlInit()  # counted by NVML: each meter holds one
        self._library: Any | None = library

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


def _sources(library: Any) -> list[tuple[SourceStatus, Callable[[], float | None]]]:
    """Every source of every GPU with the call that reads it."""
    found: list[tuple[SourceStatus, Callable[[], float | None]]] = []
    for index in range(library.nvmlDeviceGetCount()):
        handle = ask(library, "nvmlDeviceGetHandleByIndex", index)
        refused = _refused(library, index, handle)
        found += [(refused, lambda: None)] if refused else _gpu_sources(library, index, handle)
    return found


def _refused(library: Any, index: int, handle: Any) -> SourceStatus | None:
    """The one line of a GPU that can't be metered at all."""
    source = f"nvml:{index}"
    if handle is None:
        return _absent(source, MeterError(Absence.UNREADABLE, f"GPU {index} does not answer"))
    if is_partitioned(library, handle):
        why = f"GPU {index} is partitioned (MIG): its power is that of all partitions"
        return _absent(source, MeterError(Absence.MIG_PARTITION, why, f"sudo nvidia-smi -i {index} -mig 0"))
    return None


def _gpu_sources(
    library: Any, index: int, handle: Any
) -> list[tuple[SourceStatus, Callable[[], float | None]]]:
    """The counter of one GPU and its sampled cross-check."""
    source, name = f"nvml:{index}", text(ask(library, "nvmlDeviceGetName", handle)) or "?"
    told = (ask(library, "nvmlDeviceGetUUID", handle), ask(library, "nvmlSystemGetDriverVersion"))
    uuid, driver = (text(one) or "?" for one in told)
    who = f"{name}, {uuid}, driver {driver}"
    power = _power(library, handle)
    # A superchip answers for its module only; its counter is taken for no less than that.
    scope = power.scope if power else Scope.GPU_BOARD

    def counter() -> float | None:
        raw = ask(library, "nvmlDeviceGetTotalEnergyConsumption", handle)
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
        evidence=evidence(),
    )


def _power(library: Any, handle: Any) -> _Power | None:
    """The first of NVML's ways to tell power that this GPU answers: 0 W is no answer."""

    def field(scope_name: str) -> float | None:
        wanted = [getattr(library, key, None) for key in ("NVML_FI_DEV_POWER_INSTANT", scope_name)]
        answers = (
            None if None in wanted else ask(library, "nvmlDeviceGetFieldValues", handle, [tuple(wanted)])
        )
        if not answers or answers[0].nvmlReturn != library.NVML_SUCCESS:
            return None
        return float(answers[0].value.uiVal * _MILLI)

    def usage() -> float | None:
        raw = ask(library, "nvmlDeviceGetPowerUsage", handle)
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


def _absent(
    source: str, error: MeterError, title: str = "NVIDIA GPU (NVML)", scope: Scope | None = None
) -> SourceStatus:
    return SourceStatus(
        source=source, title=title, scope=scope, reason=error.reason, why=error.message, fix=error.hint or ""
    )
