"""Loading a GGUF file in llama.cpp: onto which device, and the proof of where its layers went.

llama.cpp computes on the CPU without a word when it finds no GPU, and gives a GPU part of the work when
it finds one that nobody asked for. Here exactly what was asked for happens, or the model does not open.
"""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from edgebench.core.errors import MissingDependency, ModelError, UsageError
from edgebench.core.types import Settings
from edgebench.runners.llama_backends import GPU_BACKENDS, check_gpu_backend, installed_backends

LOAD_MODE = {False: 0, True: 1}
"""llama.h's `LLAMA_LOAD_MODE_NONE` and `_MMAP`."""
_ONE_GPU = 0
"""`LLAMA_SPLIT_MODE_NONE`: the whole model on `main_gpu`, or on none when that is negative."""
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accelerator", 4: "meta"}
"""ggml's `ggml_backend_dev_type`."""
_CACHE = re.compile(r"KV buffer size = +([0-9.]+) MiB")
_WEIGHTS = re.compile(r"(\S+) model buffer size = +([0-9.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")


class Log:
    """Collects llama.cpp's log lines, so that a refusal can be told in llama.cpp's own words."""

    _held: ClassVar[Any] = None
    """What llama.cpp calls, process-wide: it must outlive its session, and ctypes does not keep it."""

    def __init__(self, lib: ModuleType) -> None:
        self.lines: list[str] = []
        self.n_cache_bytes = 0
        """Of the key-value caches made since it was last set to 0."""
        self.weights_bytes: dict[str, int] = {}
        """Buffer (`CPU_Mapped`, `CUDA0`) -> the weights in it, to 10 KiB."""
        self.offloaded: tuple[int, int] | None = None
        """Layers on a GPU, of so many that could be; None where no GPU was thought of."""

        def write(_level: int, message: bytes, _user: object) -> None:
            self.hear(message.decode("utf-8", "replace").strip())

        callback = lib.llama_log_callback(write)
        lib.llama_log_set(callback, ctypes.c_void_p(0))
        Log._held = callback

    def hear(self, line: str) -> None:
        """Take note of a line."""
        if match := _CACHE.search(line):
            self.n_cache_bytes += _n_bytes(match[1])
        elif match := _WEIGHTS.search(line):
            self.weights_bytes[match[1]] = self.weights_bytes.get(match[1], 0) + _n_bytes(match[2])
        elif match := _OFFLOADED.search(line):
            self.offloaded = int(match[1]), int(match[2])
        self.lines.append(line)
        del self.lines[:-400]

    def last_error(self) -> str:
        """The first line that tells of an error: what follows it are consequences."""
        told = [line for line in self.lines if "error" in line.lower() or "failed" in line.lower()]
        return (told or self.lines or ["llama.cpp gave no reason"])[0]


def load_model(lib: ModuleType, log: Log, path: Path, settings: Settings) -> Any:
    """The model's handle, every layer where it was asked for.

    Raises:
        MissingDependency: layers are to go to a GPU, and this build or this computer has none.
        ModelError: llama.cpp can't open the file, or put fewer layers on the GPU than it was told to.
        UsageError: there are several GPUs, and nothing says which one is the run's.
    """
    params = lib.llama_model_default_params()
    params.load_mode = LOAD_MODE[settings.mmap]
    params.n_gpu_layers = settings.n_gpu_layers
    params.split_mode = _ONE_GPU
    # On -1 llama.cpp forgets every GPU: with 0 layers it would still hand it large products.
    params.main_gpu = _main_gpu(gpus(), settings) if settings.n_gpu_layers else -1
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelError(f"llama.cpp can't open {path}: {log.last_error()}")
    try:
        check_offload(log, settings)
    except ModelError:
        lib.llama_model_free(model)
        raise
    return model


def check_offload(log: Log, settings: Settings) -> None:
    """ModelError unless as many layers went to the GPU as were asked for, with weights of theirs."""
    if not settings.n_gpu_layers:
        return
    n_there, n_all = log.offloaded or (0, 0)
    n_asked = min(settings.n_gpu_layers, n_all) if settings.n_gpu_layers > 0 else n_all
    if not n_there or n_there < n_asked or not _on_gpu(log.weights_bytes):
        raise ModelError(
            f"llama.cpp put {n_there if _on_gpu(log.weights_bytes) else 0} of {n_all} layers on the GPU,"
            f" not the {settings.n_gpu_layers} asked for: the CPU would compute the rest",
            "fewer layers (-ngl), a smaller level, or -ngl 0",
        )


def placement(log: Log, settings: Settings) -> dict[str, Any]:
    """For the record: which backends and devices there were, and what lies where."""
    n_there, n_all = log.offloaded or (0, None)
    return {
        "backends": sorted(installed_backends()),
        "devices": devices(),
        "n_layers_offloaded": n_there if settings.n_gpu_layers else 0,
        "n_layers_offloadable": n_all,
        "weights_bytes": dict(log.weights_bytes),
    }


def devices() -> list[dict[str, Any]]:
    """Every device the loaded libraries know: its name, what it is, its kind."""
    from llama_cpp._ggml import libggml

    count, at = libggml.ggml_backend_dev_count, libggml.ggml_backend_dev_get
    count.restype, at.argtypes, at.restype = ctypes.c_size_t, [ctypes.c_size_t], ctypes.c_void_p
    name, what = libggml.ggml_backend_dev_name, libggml.ggml_backend_dev_description
    kind = libggml.ggml_backend_dev_type
    for told, result in ((name, ctypes.c_char_p), (what, ctypes.c_char_p), (kind, ctypes.c_int)):
        told.argtypes, told.restype = [ctypes.c_void_p], result
    return [
        {
            "name": name(device).decode("utf-8", "replace"),
            "description": what(device).decode("utf-8", "replace"),
            "kind": _KINDS.get(kind(device), "unknown"),
        }
        for device in map(at, range(count()))
    ]


def gpus() -> list[dict[str, Any]]:
    """Those llama.cpp puts layers on, in its order: integrated ones only where there are no others."""
    found = devices()
    return [d for d in found if d["kind"] == "gpu"] or [d for d in found if d["kind"] == "igpu"]


def _main_gpu(found: list[dict[str, Any]], settings: Settings) -> int:
    """Which of llama.cpp's GPUs takes the layers."""
    if not found:
        check_gpu_backend(settings.n_gpu_layers)
        built = " and ".join(sorted(installed_backends() & GPU_BACKENDS))
        raise MissingDependency(
            f"llama.cpp's {built} backend finds no GPU: -ngl {settings.n_gpu_layers} would use the CPU",
            "nvidia-smi (CUDA) or vulkaninfo (Vulkan) shows whether the driver works; -ngl 0 takes the CPU",
        )
    told = ", ".join(f"{i}: {gpu['name']} ({gpu['description']})" for i, gpu in enumerate(found))
    if settings.gpu is None or settings.gpu.isdecimal():
        index = int(settings.gpu or 0)
        if index < len(found):
            return index
        raise UsageError(f"--main-gpu {index}: llama.cpp has no such GPU", f"known: {told}")
    if len(found) == 1:  # CUDA_VISIBLE_DEVICES leaves the one of that UUID
        return 0
    raise UsageError(
        f"llama.cpp sees several GPUs and can't tell which one is {settings.gpu}: {told}",
        "GGML_VK_VISIBLE_DEVICES=N edgebench run … leaves it Vulkan's number N",
    )


def _on_gpu(weights_bytes: Mapping[str, int]) -> int:
    """Bytes in a GPU's own buffers; `CUDA_Host` is the computer's memory."""
    return sum(n for name, n in weights_bytes.items() if not name.startswith("CPU") and "_Host" not in name)


def _n_bytes(mebibytes: str) -> int:
    return round(float(mebibytes) * 2**20)
