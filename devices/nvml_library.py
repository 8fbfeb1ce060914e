"""NVML, held open: NVIDIA's own bindings, or a recorded trace that answers in their place.

The module `pynvml` is that of the distribution `nvidia-ml-py`. The environment variable `EDGEBENCH_NVML`
names a trace (`edgebench.devices.nvml_trace`); what is read from it is `replayed`, never `measured`.
"""

import contextlib
import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgebench.core.energy import Absence, MeterError
from edgebench.core.types import Evidence
from edgebench.devices.nvml_trace import replay

VARIABLE = "EDGEBENCH_NVML"


def evidence() -> Evidence:
    """What a figure read now would be: `replayed` from a trace, `measured` from this computer's GPUs."""
    return Evidence.REPLAYED if os.environ.get(VARIABLE) else Evidence.MEASURED


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """The bindings with NVML initialized; every failure inside becomes a MeterError."""
    library = initialized()
    try:
        yield library
    except library.NVMLError as error:
        raise MeterError(Absence.UNREADABLE, f"NVML: {error}") from error
    finally:
        library.nvmlShutdown()


def initialized() -> Any:
    """The bindings with NVML initialized, which counts its users: each calls `nvmlShutdown` once."""
    library = _library()
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise _not_initialized(library, error) from error
    return library


def ask(library: Any, name: str, *arguments: Any) -> Any:
    """What a call answers; None where these bindings, this driver or this GPU do not have it."""
    try:
        return getattr(library, name)(*arguments)
    except (AttributeError, library.NVMLError):
        return None


def ask_either(library: Any, names: tuple[str, str], *arguments: Any) -> Any:
    """The answer of the first of two names of one function that there is."""
    answer = ask(library, names[0], *arguments)
    return ask(library, names[1], *arguments) if answer is None else answer


def text(answer: str | bytes | None) -> str | None:
    """Older bindings give bytes."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def is_partitioned(library: Any, handle: Any) -> bool:
    """Whether a GPU is cut into MIG instances, whose power and clocks nobody can tell apart."""
    modes = ask(library, "nvmlDeviceGetMigMode", handle)
    return bool(modes) and modes[0] == library.NVML_DEVICE_MIG_ENABLE


def _library() -> Any:
    """NVIDIA's own bindings, or the trace; MeterError when they are absent or somebody else's."""
    if trace := os.environ.get(VARIABLE):
        return replay(Path(trace))
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


def _not_initialized(library: Any, error: Any) -> MeterError:
    if error.value in (library.NVML_ERROR_DRIVER_NOT_LOADED, library.NVML_ERROR_LIBRARY_NOT_FOUND):
        return MeterError(Absence.NO_SENSOR, f"no NVIDIA driver is loaded: {error}")
    if error.value == library.NVML_ERROR_NO_PERMISSION:
        fix = "sudo usermod -aG video,render $USER  # then log in again"
        return MeterError(Absence.PERMISSION_DENIED, f"NVML refuses: {error}", fix)
    return MeterError(Absence.UNREADABLE, f"NVML does not start: {error}")
