"""NVIDIA GPUs: which there are, which one a run takes, whether it is free, how it runs just now.

Indexes are NVML's and nvidia-smi's own (the order of the PCI bus). Programs of other containers are not
listed by NVML; that somebody computes shows in the utilisation then.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.core.energy import Absence, MeterError
from edgebench.core.errors import UsageError
from edgebench.devices.nvml_library import ask, ask_either, initialized, is_partitioned, opened, text

BUSY_SHARE = 0.1
"""A GPU that nobody computes on stays below this share of the time; a desktop takes a few hundredths."""
SLOWED = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "power_brake"})
"""Reasons for slower clocks that mean heat or a failing supply."""
POWER_CAP = "sw_power_cap"
"""The reason that is the board's own limit: many GPUs meet it at full load."""
_REASONS = {
    0x04: POWER_CAP,
    0x08: "hw_slowdown",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
}
"""Bits of NVML's clocks event reasons that mean: slower than it could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A program that computes on a GPU."""

    id: int
    """Its process id, as the host counts."""
    memory_bytes: int | None
    """None where the driver does not tell (WSL)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as it is now; None for what it does not tell."""

    gpu_index: int
    uuid: str
    name: str
    driver: str | None = None
    cuda: str | None = None
    """The newest CUDA the driver knows: `13.0`."""
    vbios: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    power_limit_w: float | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    partitioned: bool = False
    """Cut into MIG instances."""
    busy_share: float | None = None
    """Of the last second or so, the time in which something computed."""
    processes: tuple[GpuProcess, ...] | None = None
    """Programs that compute; one that only draws is not among them."""

    @property
    def meter(self) -> str:
        """Its energy counter's name; the cross-check's begins with it."""
        return f"nvml:{self.gpu_index}"

    @property
    def title(self) -> str:
        """`GPU 0 (NVIDIA H100, GPU-1a2b…)`."""
        return f"GPU {self.gpu_index} ({self.name}, {self.uuid})"

    def facts(self) -> dict[str, Any]:
        """What of it is slow to change and moves figures, JSON-ready."""
        names = ("name", "driver", "cuda", "vbios", "power_limit_w", "persistence", "ecc", "partitioned")
        return {name: getattr(self, name) for name in (*names, "memory_total_bytes")}

    def in_the_way(self) -> str | None:
        """None when it is free, else a clause: who or what keeps a run off it."""
        if self.partitioned:
            return "is partitioned (MIG): energy, clocks and heat are those of all partitions together"
        if self.processes:
            held = [f"pid {p.id}" + _held(p.memory_bytes) for p in self.processes]
            return f"is in use by {', '.join(held)}"
        if (self.busy_share or 0.0) > BUSY_SHARE:
            return f"is {100 * (self.busy_share or 0.0):.0f} % busy with a program NVML does not name"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """How a GPU runs just now; None for what it does not tell."""

    frequency_hz: float | None = None
    """Of the streaming multiprocessors."""
    temperature_c: float | None = None
    busy_share: float | None = None
    reasons: tuple[str, ...] | None = None
    """For slower clocks: of sw_power_cap, hw_slowdown, sw_thermal, hw_thermal, power_brake; empty: none."""


def list_gpus() -> list[Gpu]:
    """Every GPU that answers; MeterError where there is none, or no NVML to ask."""
    with opened() as library:
        n_gpus = library.nvmlDeviceGetCount()
        handles = [ask(library, "nvmlDeviceGetHandleByIndex", i) for i in range(n_gpus)]
        found = [_gpu(library, i, handle) for i, handle in enumerate(handles) if handle is not None]
    if not found:
        raise MeterError(Absence.NO_SENSOR, "the driver knows no GPU that answers")
    return found


def choose_gpu(gpus: Sequence[Gpu], wanted: str | None, visible: str | None = None) -> Gpu:
    """The GPU of a run: by index, UUID or the beginning of one; else the first that is free.

    `visible` is what CUDA_VISIBLE_DEVICES leaves of them (None: all), for a choice that is ours. With
    none free it is the first, whose owners are named when the run begins.

    Raises:
        UsageError: no such GPU, or several; the hint lists them.
    """
    if wanted is not None:
        return _named(gpus, wanted)
    ours = _visible(gpus, visible)
    if not ours:
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES={visible!r} leaves none of {len(gpus)} GPUs",
            f"--main-gpu {gpus[0].gpu_index} takes one all the same",
        )
    return next((gpu for gpu in ours if gpu.in_the_way() is None), ours[0])


class GpuReader:
    """Looks at one GPU, many times a second if need be; it keeps NVML initialized until it is closed."""

    def __init__(self, uuid: str) -> None:
        self._library: Any = None
        self._handle: Any = None
        try:
            self._library = initialized()
        except MeterError:
            return
        for index in range(ask(self._library, "nvmlDeviceGetCount") or 0):
            handle = ask(self._library, "nvmlDeviceGetHandleByIndex", index)
            if handle is not None and text(ask(self._library, "nvmlDeviceGetUUID", handle)) == uuid:
                self._handle = handle

    def read(self) -> GpuState:
        """Now; all None when the GPU does not answer (any more)."""
        library, handle = self._library, self._handle
        if handle is None:
            return GpuState()
        clock = ask(library, "nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_SM)
        # The older names leave NVML with CUDA 14; older drivers know only them.
        heat = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
        temperature = ask_either(library, heat, handle, library.NVML_TEMPERATURE_GPU)
        reasons = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        bits = ask_either(library, reasons, handle)
        return GpuState(
            frequency_hz=None if clock is None else clock * 1e6,
            temperature_c=None if temperature is None else float(temperature),
            busy_share=_busy_share(library, handle),
            reasons=None if bits is None else tuple(name for bit, name in _REASONS.items() if bits & bit),
        )

    def memory_bytes(self, pid: int) -> int | None:
        """What process `pid` holds of this GPU.

        None when it is not listed: it holds nothing, or a container hides which process is which.
        """
        if self._handle is None:
            return None
        listed = [p.usedGpuMemory for p in _listed(self._library, self._handle) if p.pid == pid]
        # A process that computes and draws stands in both lists with the same figure.
        return None if not listed or None in listed else int(max(listed))

    def is_shared(self, pid: int) -> bool:
        """Whether others compute there beside process `pid`; False where its own id is not listed."""
        if self._handle is None:
            return False
        listed = ask(self._library, "nvmlDeviceGetComputeRunningProcesses", self._handle) or []
        pids = {process.pid for process in listed}
        return pid in pids and len(pids) > 1

    def close(self) -> None:
        """Give NVML back; a second call does nothing."""
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = self._handle = None


def _gpu(library: Any, index: int, handle: Any) -> Gpu:
    cuda = ask(library, "nvmlSystemGetCudaDriverVersion")
    memory = ask(library, "nvmlDeviceGetMemoryInfo", handle)
    limit = ask(library, "nvmlDeviceGetEnforcedPowerLimit", handle)
    persistence, ecc = (ask(library, f"nvmlDeviceGet{n}Mode", handle) for n in ("Persistence", "Ecc"))
    processes = ask(library, "nvmlDeviceGetComputeRunningProcesses", handle)
    return Gpu(
        gpu_index=index,
        uuid=text(ask(library, "nvmlDeviceGetUUID", handle)) or f"index-{index}",
        name=text(ask(library, "nvmlDeviceGetName", handle)) or "GPU without a name",
        driver=text(ask(library, "nvmlSystemGetDriverVersion")),
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        vbios=text(ask(library, "nvmlDeviceGetVbiosVersion", handle)),
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_free_bytes=None if memory is None else int(memory.free),
        power_limit_w=None if limit is None else limit * 1e-3,
        persistence=None if persistence is None else bool(persistence),
        ecc=None if ecc is None else bool(ecc[0]),
        partitioned=is_partitioned(library, handle),
        busy_share=_busy_share(library, handle),
        processes=None
        if processes is None
        else tuple(GpuProcess(id=p.pid, memory_bytes=p.usedGpuMemory) for p in processes),
    )


def _busy_share(library: Any, handle: Any) -> float | None:
    told = ask(library, "nvmlDeviceGetUtilizationRates", handle)
    return None if told is None else told.gpu / 100


def _listed(library: Any, handle: Any) -> list[Any]:
    """Entries with `pid` and `usedGpuMemory` of all programs on a GPU."""
    kinds = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
    return [process for kind in kinds for process in ask(library, kind, handle) or []]


def _named(gpus: Sequence[Gpu], wanted: str) -> Gpu:
    if wanted.upper().startswith("MIG-"):
        raise UsageError(
            f"{wanted!r} is a part of a GPU: its energy, clocks and heat can't be told from the others'",
            "take a whole GPU: sudo nvidia-smi -i INDEX -mig 0 ends the partitioning",
        )
    if wanted.isdecimal():
        found = [gpu for gpu in gpus if gpu.gpu_index == int(wanted)]
    else:
        found = [gpu for gpu in gpus if _begins(gpu.uuid, wanted)]
    if len(found) != 1:
        told = "there is no such GPU" if not found else f"{len(found)} GPUs begin so"
        raise UsageError(f"--main-gpu {wanted!r}: {told}", "known: " + "; ".join(gpu.title for gpu in gpus))
    return found[0]


def _begins(uuid: str, beginning: str) -> bool:
    """With or without NVML's own `GPU-` before it."""
    plain = re.sub(r"^gpu-", "", beginning.lower())
    return bool(plain) and uuid.lower().removeprefix("gpu-").startswith(plain)


def _visible(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Those CUDA would show, in its order; like CUDA, what comes after an unknown name is not shown."""
    if visible is None:
        return list(gpus)
    ours: list[Gpu] = []
    for name in (part.strip() for part in visible.split(",")):
        found = [g for g in gpus if (g.gpu_index == int(name) if name.isdecimal() else _begins(g.uuid, name))]
        if len(found) != 1:
            break
        ours += found
    return ours


def _held(memory_bytes: int | None) -> str:
    return "" if memory_bytes is None else f" ({memory_bytes / 2**30:.1f} GiB)"
