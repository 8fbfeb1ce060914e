"""What a device can do: sizes from fake trees, rates from this computer, failures as reasons."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgebench.devices import limits
from edgebench.devices.limits import (
    FREE_SHARE,
    SMALLEST_BUFFER_BYTES,
    Limits,
    buffer_bytes,
    compute_headroom,
    last_level_cache_bytes,
    measure_limits,
)

Tree = Callable[..., None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """`cache(cpu, index, level=, size=, kind=, shared=)`: one entry of a made-up /sys."""
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(tmp_path))

    def make(cpu: int, index: int, **attributes: str) -> None:
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/cache/index{index}"
        folder.mkdir(parents=True)
        for name, text in attributes.items():
            (folder / name).write_text(text + "\n")

    return make


def test_last_level_is_counted_once_for_all_who_share_it(cache: Tree) -> None:
    for cpu, pair in enumerate(("0-1", "0-1", "2-3", "2-3")):
        cache(cpu, 0, level="1", size="32K", type="Data", shared_cpu_list=str(cpu))
        cache(cpu, 1, level="1", size="32K", type="Instruction", shared_cpu_list=str(cpu))
        cache(cpu, 3, level="3", size="16M", type="Unified", shared_cpu_list=pair)
    assert last_level_cache_bytes() == 2 * 16 * 2**20


def test_two_level_processor_has_its_second_as_the_last(cache: Tree) -> None:
    cache(0, 0, level="1", size="64K", type="Data", shared_cpu_list="0")
    cache(0, 2, level="2", size="512K", type="Unified", shared_cpu_list="0-3")
    assert last_level_cache_bytes() == 512 * 2**10


@pytest.mark.parametrize("size", ["", "large", "12", "K", "-4K", "1.5M"])
def test_size_that_is_none_is_not_guessed(cache: Tree, size: str) -> None:
    cache(0, 0, level="3", size=size, type="Unified", shared_cpu_list="0")
    assert last_level_cache_bytes() is None


def test_no_tree_no_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(tmp_path))
    assert last_level_cache_bytes() is None


def test_buffer_is_larger_than_every_cache() -> None:
    assert buffer_bytes(None) == SMALLEST_BUFFER_BYTES
    assert buffer_bytes(2**20) == SMALLEST_BUFFER_BYTES
    assert buffer_bytes(2**30) == 4 * 2**30


@pytest.mark.parametrize(
    ("flags", "types", "factor"),
    [
        (["avx2", "fma"], ["F32"], 1.0),
        (["avx2", "avx512_vnni", "amx_int8"], ["F32"], 1.0),
        (["avx2"], ["Q4_0", "F32"], 2.0),
        (["avx2", "avx_vnni"], ["Q8_0"], 4.0),
        (["avx2", "avx512_vnni", "amx_int8"], ["Q4_0"], 32.0),
        (["avx2", "avx512_bf16"], ["BF16", "F32"], 2.0),
        (["asimd", "asimddp"], ["Q4_K"], 4.0),
        (["asimd", "asimddp", "i8mm"], ["Q4_K"], 8.0),
        ([], ["Q4_0"], 1.0),
    ],
)
def test_headroom_is_the_widest_instruction_that_fits(
    flags: list[str], types: list[str], factor: float
) -> None:
    assert compute_headroom(flags, types) == factor


def test_process_measures_and_prints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-P", "-m", "edgebench.devices.limits", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found = Limits(**json.loads(done.stdout))
    assert done.stdout.count("\n") == 1
    assert found.n_threads == 1
    assert found.reason is None
    assert found.matrix_flops_per_s is not None
    assert found.read_bandwidth_bytes_per_s is not None
    assert found.copy_bandwidth_bytes_per_s is not None
    # Slower than a bus of 1990, or faster than the fastest accelerator's memory: the unit would be wrong.
    assert 1e8 < found.read_bandwidth_bytes_per_s < 1e13
    assert 1e8 < found.copy_bandwidth_bytes_per_s < 1e13
    assert 1e8 < found.matrix_flops_per_s < 1e15
    assert found.buffer_bytes == buffer_bytes(found.last_level_cache_bytes)
    assert found.foreign_cpu_share is None or found.foreign_cpu_share >= 0


def test_every_kernel_reads_to_the_end() -> None:
    """A kernel that stopped early would make a wonderful bandwidth."""
    part = np.ones(4096, np.int64)
    kernels = limits._kernels()
    assert {"max int64", "add int64", "or uint8", "max float32"} <= set(kernels)
    before = {name: kernel(part) for name, kernel in kernels.items()}
    part[-1] = -1  # all bits set: it changes every result
    assert {name for name, kernel in kernels.items() if kernel(part) == before[name]} <= {"max int64"}
    part[-1] = 2
    assert kernels["max int64"](part) == 2


def test_copy_moves_the_first_half_onto_the_second() -> None:
    part = np.arange(8, dtype=np.int64)
    limits._copy(part)
    assert part.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_little_free_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SMALLEST_BUFFER_BYTES", 2**60)
    monkeypatch.setattr(limits, "MATRIX_S", 0.0)
    found = limits._measured(1)
    assert found.read_bandwidth_bytes_per_s is None
    assert found.matrix_flops_per_s is not None
    assert found.reason is not None
    assert f"{2**60 / FREE_SHARE / 2**20:.0f} MiB are needed" in found.reason


def test_process_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dies = tmp_path / "python"
    dies.write_text("#!/bin/sh\necho 'no BLAS here' >&2\nexit 3\n")
    dies.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dies))
    found = measure_limits(2)
    assert found == Limits(n_threads=2, reason="the measuring process failed: no BLAS here")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    assert "absent" in (measure_limits(2).reason or "")


def test_a_busy_neighbour_makes_limits_noisy() -> None:
    assert Limits(n_threads=1, foreign_cpu_share=0.5).noisy
    assert not Limits(n_threads=1, foreign_cpu_share=0.01).noisy
    assert not Limits(n_threads=1).noisy
