"""What a device can do at most: bytes read from memory a second, f32 operations a second.

Decoding reads every weight once a token, so the bandwidth that counts is that of reading, from a buffer
that no cache holds. No kernel is the fastest everywhere: several run, the best one counts. One thread
does not saturate memory, so the buffer is cut into slices, a thread each, and only kernels that give
up Python's lock take part. Measured in a process of its own, as BLAS learns its number of threads once:

    python -P -m edgebench.devices.limits --threads N
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgebench.devices.contention import NOISY_SHARE, CpuTimes
from edgebench.devices.sysfs import entries, read_text, sysfs

if TYPE_CHECKING:  # `devices list` does without numpy
    import numpy as np
    from numpy.typing import NDArray

SMALLEST_BUFFER_BYTES = 256 * 2**20
N_CACHES = 4
"""The buffer is this many times the last-level cache: a cache can't be what is measured."""
FREE_SHARE = 0.25
"""Of the free memory, the most a buffer takes."""
N_BEST = 10
"""The best of so many passes counts, after one that is dropped (pages, clocks)."""
MATRIX_S = 1.0
"""Seconds of matrix products of the final size, at least two of them."""
TIMEOUT_S = 120.0
_FIRST_SIZE, _LARGEST_SIZE = 512, 2048
_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device reached with so many threads; None is told of in `reason`."""

    n_threads: int
    read_bandwidth_bytes_per_s: float | None = None
    copy_bandwidth_bytes_per_s: float | None = None
    """For the record: bytes read plus bytes written, as STREAM counts; a core that reads a line before
    it writes it moves half as much again."""
    matrix_flops_per_s: float | None = None
    """f32 matrix product, a multiply-add counted as two."""
    last_level_cache_bytes: int | None = None
    """Of all of them together; None where the system does not tell."""
    buffer_bytes: int | None = None
    kernel: str | None = None
    """The one that read fastest."""
    foreign_cpu_share: float | None = None
    """Processor time that others had meanwhile, as a share of what all processors have."""
    reason: str | None = None
    """Why figures are missing, in a sentence."""

    @property
    def noisy(self) -> bool:
        """Whether others had so much of the processor that the device can do more than this."""
        return self.foreign_cpu_share is not None and self.foreign_cpu_share > NOISY_SHARE


def measure_limits(n_threads: int) -> Limits:
    """Measure in a fresh process (about 5 s). Never raises: what fails is a reason."""
    command = [sys.executable, "-P", "-m", "edgebench.devices.limits", "--threads", str(n_threads)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Limits(n_threads=n_threads, reason=f"the measuring process failed: {error}")
    try:
        return Limits(**json.loads(done.stdout))
    except (ValueError, TypeError):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = said[-1] if said else f"it ended with code {done.returncode}"
        return Limits(n_threads=n_threads, reason=f"the measuring process failed: {told}")


def last_level_cache_bytes() -> int | None:
    """Bytes of all distinct caches of the highest level; None where sysfs does not tell."""
    found: dict[tuple[int, str], int] = {}
    for folder in entries(sysfs("devices/system/cpu"), "cpu[0-9]*/cache/index[0-9]*"):
        size_bytes, level = _size_bytes(read_text(folder / "size")), read_text(folder / "level")
        if size_bytes and level and level.isdecimal() and read_text(folder / "type") != "Instruction":
            shared = read_text(folder / "shared_cpu_list") or folder.parent.parent.name
            found[int(level), shared] = size_bytes
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest) or None


def _size_bytes(text: str | None) -> int | None:
    """`32768K` or `36M` as the kernel writes cache sizes."""
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    if not text or not text[:-1].isdecimal() or text[-1] not in factors:
        return None
    return int(text[:-1]) * factors[text[-1]]


def buffer_bytes(cache_bytes: int | None) -> int:
    """How large a buffer must be to stay out of every cache."""
    return max(SMALLEST_BUFFER_BYTES, N_CACHES * (cache_bytes or 0))


def compute_headroom(cpu_flags: Collection[str], tensor_types: Collection[str]) -> float:
    """How many times the f32 matrix rate a quantized matrix product could reach on this processor.

    The ratio of multiply-adds per instruction of the widest fitting instruction to f32's FMA (vendors'
    manuals: Intel SDM, Arm ARM), so a bound that no honest figure passes, not an expectation. `cpu_flags` are
    the kernel's names; tensor types are ggml's.
    """
    flags = set(cpu_flags)
    floats = set(tensor_types) <= {"F32", "F16", "BF16"}
    table = _FLOAT_HEADROOM if floats else _INTEGER_HEADROOM
    if set(tensor_types) <= {"F32"}:
        return 1.0
    return max([factor for flag, factor in table.items() if flag in flags], default=1.0)


_INTEGER_HEADROOM = {
    "avx2": 2.0,  # vpmaddubsw + vpmaddwd: 32 multiply-adds in two instructions, FMA 8 in one
    "ssse3": 2.0,
    "avx_vnni": 4.0,
    "avx512_vnni": 4.0,
    "amx_int8": 32.0,  # 1024 multiply-adds a cycle, AVX-512's FMA 32
    "asimd": 2.0,  # smull/smlal of eight
    "asimddp": 4.0,
    "i8mm": 8.0,
    "sme": 64.0,  # a matrix unit beside the cores that NEON's FMA does not show
}
_FLOAT_HEADROOM = {
    "avx512_bf16": 2.0,
    "avx512_fp16": 2.0,
    "amx_bf16": 16.0,
    "asimdhp": 2.0,
    "bf16": 4.0,
    "sme": 64.0,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure here and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -P -m edgebench.devices.limits")
    parser.add_argument("--threads", type=int, required=True)
    n_threads = max(1, parser.parse_args(argv).threads)
    os.environ |= dict.fromkeys(_THREAD_VARIABLES, str(n_threads))  # BLAS reads them once, when it is loaded
    sys.stdout.write(json.dumps(asdict(_measured(n_threads))) + "\n")


def _measured(n_threads: int) -> Limits:
    import psutil

    cache_bytes, free_bytes = last_level_cache_bytes(), int(psutil.virtual_memory().available)
    size_bytes = buffer_bytes(cache_bytes)
    facts: dict[str, Any] = {"n_threads": n_threads, "last_level_cache_bytes": cache_bytes}
    before, start = CpuTimes.read(os.getpid()), time.perf_counter()
    facts["matrix_flops_per_s"] = _matrix_flops_per_s()
    if size_bytes > FREE_SHARE * free_bytes:
        needed = f"{size_bytes / FREE_SHARE / 2**20:.0f} MiB"
        facts["reason"] = (
            f"no bandwidth: {free_bytes / 2**20:.0f} MiB of memory are free, {needed} are needed"
        )
    else:
        kernel, read, copy = _bandwidths(size_bytes, n_threads)
        facts |= {"buffer_bytes": size_bytes, "kernel": kernel}
        facts |= {"read_bandwidth_bytes_per_s": read, "copy_bandwidth_bytes_per_s": copy}
    after, taken_s = CpuTimes.read(os.getpid()), time.perf_counter() - start
    if before and after:
        facts["foreign_cpu_share"] = after.foreign_since(before) / (taken_s * (os.cpu_count() or 1))
    return Limits(**facts)


def _bandwidths(size_bytes: int, n_threads: int) -> tuple[str, float, float]:
    """(fastest kernel, its bytes read a second, bytes copied a second)."""
    import numpy as np

    n_each = size_bytes // n_threads // 16 * 2  # int64 elements to a slice; two slices are copied
    slices = [np.empty(n_each, np.int64) for _ in range(n_threads)]
    # Untouched pages are all one page of zeros, which the cache holds: everything is written first.
    _span_s(lambda part: part.fill(1), slices)
    n_bytes = n_each * 8 * n_threads
    rates = {name: n_bytes / _best_s(kernel, slices) for name, kernel in _kernels().items()}
    best = max(rates, key=lambda name: rates[name])
    return best, rates[best], n_bytes / _best_s(_copy, slices)


def _kernels() -> dict[str, "Callable[[NDArray[np.int64]], object]"]:
    """Ways to read a slice, all of which let other threads run meanwhile."""
    import numpy as np

    kernels: dict[str, Callable[[NDArray[np.int64]], object]] = {
        "max int64": np.maximum.reduce,
        "add int64": np.add.reduce,
        "or uint8": lambda part: np.bitwise_or.reduce(part.view(np.uint8)),
        "max float32": lambda part: np.maximum.reduce(part.view(np.float32)),
    }
    if memchr := _memchr():
        # Looks for a byte that is not there: a library's own loop, as fast as it could be written.
        kernels["memchr"] = lambda part: memchr(part.ctypes.data, 0xFF, part.nbytes)
    return kernels


def _memchr() -> Callable[[int, int, int], object] | None:
    """The C library's; None where it can't be had by name (Windows)."""
    try:
        function = ctypes.CDLL(None).memchr
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    return function


def _copy(part: "NDArray[np.int64]") -> None:
    """The first half onto the second: as many bytes move as the slice has."""
    half = len(part) // 2
    part[half:] = part[:half]


def _best_s(kernel: "Callable[[NDArray[np.int64]], object]", slices: "list[NDArray[np.int64]]") -> float:
    _span_s(kernel, slices)
    return min(_span_s(kernel, slices) for _ in range(N_BEST))


def _span_s(kernel: "Callable[[NDArray[np.int64]], object]", slices: "list[NDArray[np.int64]]") -> float:
    """Seconds from the first thread's start to the last one's end."""
    gate = threading.Barrier(len(slices))
    spans: list[tuple[float, float]] = []

    def work(part: "NDArray[np.int64]") -> None:
        gate.wait()
        start = time.perf_counter()
        kernel(part)
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=work, args=(part,)) for part in slices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _matrix_flops_per_s() -> float:
    """The best of several products; matrices grow while a product is too short to time well."""
    import numpy as np

    best, n, spent_s, n_done = 0.0, _FIRST_SIZE, 0.0, 0
    a = np.ones((n, n), np.float32)
    while spent_s < MATRIX_S or n_done < 2:
        start = time.perf_counter()
        a @ a
        taken_s = time.perf_counter() - start
        best = max(best, 2 * n**3 / taken_s)
        spent_s, n_done = spent_s + taken_s, n_done + 1
        if taken_s < 0.05 and n < _LARGEST_SIZE:
            n, n_done = 2 * n, 0
            a = np.ones((n, n), np.float32)
    return best


if __name__ == "__main__":
    main()
