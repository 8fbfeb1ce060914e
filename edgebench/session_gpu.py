"""The GPU of a run: chosen and said before it starts, refused while others use it, alone in sight."""

import os
import time
from collections.abc import Mapping
from typing import Any

from edgebench.core.energy import MeterError
from edgebench.core.errors import RunFailed, UsageError
from edgebench.core.types import Evidence, Settings
from edgebench.devices.gpu import Gpu, choose_gpu, list_gpus
from edgebench.devices.nvml_library import evidence

NVIDIA = ("cuda", "tensorrt")
"""Providers that compute on NVIDIA's GPUs."""
PATIENCE_S = 3.0
"""How long a GPU may take to forget the process before: its utilisation is averaged over a second or so."""
_LOOK_S = 0.25


def gpu_of(settings: Settings) -> tuple[Gpu | None, str]:
    """The NVIDIA GPU a run on this computer takes, and a line about it for people.

    None and an empty line where none of the work is a GPU's. Where NVML can't be asked there is no choice
    to make: an index is the engine's own then (Vulkan's, Metal's), and the line says what is not known.

    Raises:
        UsageError: no such GPU, or a UUID where nobody knows UUIDs.
    """
    if not settings.on_gpu or settings.server or (settings.provider or NVIDIA[0]).lower() not in NVIDIA:
        return None, ""
    try:
        gpus = list_gpus()
    except MeterError as error:
        if settings.gpu is not None and not settings.gpu.isdecimal():
            raise UsageError(f"--main-gpu {settings.gpu!r}: {error.message}", error.hint) from error
        mend = f"; {error.hint}" if error.hint else ""
        return None, f"gpu: not watched, its energy and memory stay empty ({error.message}{mend})"
    gpu = choose_gpu(gpus, settings.gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))
    others = f", the first that is free of {len(gpus)}; --main-gpu takes another"
    return gpu, _told(gpu) + (others if settings.gpu is None and len(gpus) > 1 else "")


def refuse_shared(gpu: Gpu) -> None:
    """RunFailed with the owners' process ids while others use a GPU, or when it is partitioned."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        gpus = _gpus_now()
        now = next((one for one in gpus if one.uuid == gpu.uuid), None)
        if now is None:
            raise RunFailed(f"{gpu.title} is not there any more", "nvidia-smi tells what became of it")
        why = now.in_the_way()
        if why is None:
            return
        if now.partitioned or time.monotonic() > until_s:
            raise RunFailed(f"{now.title} {why}", _mend(now, gpus))
        time.sleep(_LOOK_S)


def gpu_variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """What a measuring process is told, so that every engine sees the run's GPU as the only one.

    A run on the CPU sees none: builds for CUDA would give it part of the work unasked.
    """
    own = Settings(**settings)
    if not own.on_gpu:
        return {"CUDA_VISIBLE_DEVICES": ""}
    if own.gpu is None or own.gpu.isdecimal():
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": own.gpu}


def _gpus_now() -> list[Gpu]:
    try:
        return list_gpus()
    except MeterError:
        return []


def _told(gpu: Gpu) -> str:
    replayed = "" if evidence() is Evidence.MEASURED else " (replayed from a trace: no GPU is asked)"
    return f"gpu: {gpu.title}{replayed}"


def _mend(gpu: Gpu, gpus: list[Gpu]) -> str:
    free = next((other for other in gpus if other.in_the_way() is None), None)
    other = f"--main-gpu {free.gpu_index} is free; or " if free else ""
    if gpu.partitioned:
        return f"{other}sudo nvidia-smi -i {gpu.gpu_index} -mig 0"
    pids = " ".join(str(process.id) for process in gpu.processes or ())
    return f"{other}stop them (kill {pids})" if pids else f"{other}wait until nvidia-smi shows it idle"
