"""Levels of a GGUF model by llama.cpp's own quantizer, called in-process through the wheel's library."""

import ctypes
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from edgebench.core.errors import ModelError, nearest
from edgebench.core.lean import import_submodule
from edgebench.core.paths import atomic_path, free_bytes
from edgebench.quantize.levels import LEVELS, NEEDS_IMATRIX

_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


class GgufQuantizer:
    """The `gguf` quantizer."""

    name: ClassVar[str] = "gguf"

    def levels(self) -> Sequence[str]:
        """llama.cpp's names, widest first."""
        return tuple(LEVELS)

    def version(self) -> str:
        """The library that quantizes is the wheel's."""
        return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"

    def quantize(
        self, source: Path, target: Path, level: str, *, n_threads: int, progress: Callable[[float], None]
    ) -> None:
        """Write `level` of `source` to `target`, which appears only when it is whole.

        A quantized source is dequantized first: the child is never better than its parent.
        """
        if level not in LEVELS:
            raise nearest(level, LEVELS, kind="level")
        if level in NEEDS_IMATRIX:
            raise ModelError(
                f"level {level} needs an importance matrix, which this version can't make",
                "q2_k, iq3_s and iq4_xs are the smallest that need none",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        room = 4 * source.stat().st_size if level in ("f32", "f16", "bf16") else 2 * source.stat().st_size
        if free_bytes(target.parent) < room:
            raise ModelError(
                f"{target.parent} has no room for {level} of {source.name} (up to {room / 1e6:.0f} MB)",
                "free some disk, or point EDGEBENCH_CACHE at another one",
            )
        with atomic_path(target) as partial:
            _call(source, partial, level, n_threads, progress)


def _call(source: Path, target: Path, level: str, n_threads: int, progress: Callable[[float], None]) -> None:
    lib = import_submodule("llama_cpp", "llama_cpp")
    lines: list[str] = []

    def write(_level: int, message: bytes, _user: object) -> None:
        line = message.decode("utf-8", "replace").strip()
        lines.append(line)
        if match := _PROGRESS.search(line):
            progress(int(match[1]) / int(match[2]))

    callback = lib.llama_log_callback(write)  # kept alive by this frame
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    params = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.allow_requantize = n_threads, LEVELS[level], True
    try:
        code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        lib.llama_log_set(lib.llama_log_callback(), ctypes.c_void_p(0))  # llama.cpp would call a freed one
    if code != 0:
        told = [line for line in lines if "fail" in line.lower() or "error" in line.lower()]
        reason = (told or lines or ["no reason given"])[-1]
        raise ModelError(f"llama.cpp could not make {level} of {source.name}: {reason}")
