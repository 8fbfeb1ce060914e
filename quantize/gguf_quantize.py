"""Levels of a GGUF model by llama.cpp's own quantizer, called in-process through the wheel's library."""

import ctypes
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from edgebench.core.errors import ModelError, UsageError, nearest
from edgebench.core.lean import import_submodule
from edgebench.core.paths import atomic_path, free_bytes
from edgebench.quantize.gguf_file import check_magic
from edgebench.quantize.gguf_header import DamagedError, read_header
from edgebench.quantize.imatrix import Imatrix, check_fits, read_imatrix
from edgebench.quantize.levels import LEVELS, NEEDS_IMATRIX

Progress = Callable[[float], None]

TENSOR_TYPES: dict[str, int] = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q6_k": 14,
    "q5_k": 13,
    "q5_1": 7,
    "q5_0": 6,
    "q4_k": 12,
    "q4_1": 3,
    "q4_0": 2,
    "iq4_nl": 20,
    "iq4_xs": 23,
    "q3_k": 11,
    "iq3_s": 21,
    "iq3_xxs": 18,
    "q2_k": 10,
    "iq2_s": 22,
    "iq2_xs": 17,
    "iq2_xxs": 16,
    "q2_0": 42,
    "tq2_0": 35,
    "tq1_0": 34,
    "iq1_m": 29,
    "iq1_s": 19,
    "q1_0": 41,
    "mxfp4": 39,
}
"""Tensor type -> ggml.h's number, for overrides."""

_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_FALLBACK = re.compile(r"warning: (\S+)\s+- ncols .*required for type\s+(\w+)\)")
_FALLBACK_TO = re.compile(r"falling back to\s+(\w+)")
_BPW = re.compile(r"quant size\s*=.*\(([\d.]+) BPW\)")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_KV_INT, _KV_STR = 0, 3


class GgufQuantizer:
    """The `gguf` quantizer."""

    name: ClassVar[str] = "gguf"
    tool: ClassVar[str | None] = None

    def levels(self) -> Sequence[str]:
        """llama.cpp's names, widest first."""
        return tuple(LEVELS)

    def version(self) -> str:
        """The library that quantizes is the wheel's."""
        return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"

    def make(self, job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """See `quantize`."""
        return quantize(job, progress)


def quantize(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Write one level of a GGUF file, which appears only when it is whole.

    The job: `source`, `target`, `level`, `n_threads`, and where wanted `imatrix` (a file),
    `tensor_types` ([pattern, type] pairs; the first pattern found in a tensor's name wins),
    `output_type`, `embedding_type`, `dry_run` (nothing is written; what would be is told).

    The result: `fallbacks` ([tensor, type wanted, type got] where a row did not fit the type's blocks),
    `size_bytes` and `bits_per_weight` of the tensors as llama.cpp counts them.

    A quantized source is dequantized first: the child is never better than its parent. The same source
    and job give the same bytes, whatever `n_threads` is.
    """
    source, target, level = Path(job["source"]), Path(job["target"]), job["level"]
    if level not in LEVELS:
        raise nearest(level, LEVELS, kind="level")
    check_magic(source)
    dry_run = bool(job.get("dry_run"))
    if level in NEEDS_IMATRIX and not job.get("imatrix") and not dry_run:
        raise ModelError(
            f"level {level} needs an importance matrix",
            "--calibration FILE makes one; q2_k, iq3_s and iq4_xs are the smallest levels that need none",
        )
    types = [(pattern, _type(kind)) for pattern, kind in job.get("tensor_types") or ()]
    for pattern, _ in types:
        _check_pattern(pattern)
    imatrix = _imatrix(Path(job["imatrix"]), source) if job.get("imatrix") else None
    if dry_run:
        return _call(source, target, job, types, imatrix, progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = (4 if level in ("f32", "f16", "bf16") else 2) * source.stat().st_size
    if free_bytes(target.parent) < room:
        raise ModelError(
            f"{target.parent} has no room for {level} of {source.name} (up to {room / 1e6:.0f} MB)",
            "free some disk, or write to another one (--out, EDGEBENCH_CACHE)",
        )
    with atomic_path(target) as partial:
        return _call(source, partial, job, types, imatrix, progress)


def check_types(pairs: Sequence[tuple[str, str]], *types: str | None) -> None:
    """UsageError for the first tensor type or pattern that can't be used."""
    for pattern, kind in pairs:
        _check_pattern(pattern)
        _type(kind)
    for named in types:
        if named is not None:
            _type(named)


def _type(name: str) -> int:
    if name not in TENSOR_TYPES:
        raise nearest(name, TENSOR_TYPES, kind="tensor type")
    return TENSOR_TYPES[name]


def _check_pattern(pattern: str) -> None:
    # llama.cpp hands it to C++'s std::regex, whose own complaint names neither the pattern nor the place.
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--tensor-type {pattern!r} is no regular expression: {error}",
            "a part of a tensor's name will do: ffn_down, blk.0., attn_v",
        ) from error


def _imatrix(path: Path, source: Path) -> Imatrix:
    imatrix = read_imatrix(path)
    try:
        check_fits(imatrix, path, read_header(source), source)
    except DamagedError as error:
        raise ModelError(f"{source} is damaged or cut short: {error}", "fetch or convert it again") from error
    return imatrix


def _call(
    source: Path,
    target: Path,
    job: Mapping[str, Any],
    types: Sequence[tuple[str, int]],
    imatrix: Imatrix | None,
    progress: Progress,
) -> dict[str, Any]:
    lib = import_submodule("llama_cpp", "llama_cpp")
    lines: list[str] = []
    fragments: list[str] = []

    def write(_level: int, message: bytes, _user: object) -> None:
        fragments.append(message.decode("utf-8", "replace"))
        if fragments[-1].endswith("\n"):  # one line can come in several calls
            lines.append("".join(fragments).strip())
            fragments.clear()
            if match := _PROGRESS.search(lines[-1]):
                progress(int(match[1]) / int(match[2]))

    callback = lib.llama_log_callback(write)  # kept alive by this frame
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    params = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.allow_requantize = job["n_threads"], LEVELS[job["level"]], True
    params.dry_run = bool(job.get("dry_run"))
    for field, key in (("output_tensor_type", "output_type"), ("token_embedding_type", "embedding_type")):
        if job.get(key):
            setattr(params, field, _type(job[key]))
    held = _attach(lib, params, types, imatrix)
    try:
        code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        lib.llama_log_set(lib.llama_log_callback(), ctypes.c_void_p(0))  # llama.cpp would call a freed one
        del held
    if code != 0:
        told = [line for line in lines if "fail" in line.lower() or "error" in line.lower()]
        reason = (told or lines or ["no reason given"])[-1].rpartition("failed to quantize: ")[2]
        raise ModelError(f"llama.cpp could not make {job['level']} of {source.name}: {reason}")
    return _told(lines)


def _attach(
    lib: ModuleType, params: Any, types: Sequence[tuple[str, int]], imatrix: Imatrix | None
) -> list[Any]:
    """Point the parameters at overrides and importances; what is returned must outlive the call."""
    held: list[Any] = []

    def point(field: str, array: Any, kind: Any) -> None:
        held.append(array)
        setattr(params, field, ctypes.cast(array, ctypes.POINTER(kind)))

    if types:
        overrides = (lib.llama_model_tensor_override * (len(types) + 1))()  # an empty entry ends the list
        for entry, (pattern, number) in zip(overrides, types, strict=False):
            entry.pattern, entry.type = pattern.encode(), number
        point("tt_overrides", overrides, lib.llama_model_tensor_override)
    if imatrix is not None:
        entries = (lib.llama_model_imatrix_data * (len(imatrix.rows) + 1))()
        for entry, (name, row) in zip(entries, imatrix.rows.items(), strict=False):
            entry.name, entry.size = name.encode(), row.size
            entry.data = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        point("imatrix", entries, lib.llama_model_imatrix_data)
        notes = {
            "quantize.imatrix.file": f"sha256:{imatrix.sha256}",
            "quantize.imatrix.entries_count": len(imatrix.rows),
            "quantize.imatrix.chunks_count": imatrix.n_chunks or 0,
        }
        pairs = (lib.llama_model_kv_override * (len(notes) + 1))()
        for pair, (key, value) in zip(pairs, notes.items(), strict=False):
            pair.key, pair.tag = key.encode(), _KV_STR if isinstance(value, str) else _KV_INT
            if isinstance(value, str):
                pair.value.val_str = value.encode()[:127]
            else:
                pair.value.val_i64 = value
        point("kv_overrides", pairs, lib.llama_model_kv_override)
    return held


def _told(lines: Sequence[str]) -> dict[str, Any]:
    """What llama.cpp's log says of the outcome; its return code is 0 whatever it changed."""
    fallbacks = [
        [match[1], match[2].lower(), to[1].lower()]
        for line in lines
        if (match := _FALLBACK.search(line)) and (to := _FALLBACK_TO.search(line))
    ]
    bits = next((float(m[1]) for line in lines if (m := _BPW.search(line))), None)
    size = next((round(float(m[1]) * 2**20) for line in lines if (m := _SIZE.search(line))), None)
    return {"fallbacks": fallbacks, "bits_per_weight": bits, "size_bytes": size}
