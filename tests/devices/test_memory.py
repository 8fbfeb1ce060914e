"""Another process's memory: what it allocated and what it mapped are told apart."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgebench.devices.memory import (
    Memory,
    Pss,
    read_faults,
    read_memory,
    read_pss,
    reset_peak,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")

SIZE = 200 * 2**20
SLACK = 0.02 * SIZE

CHILD = f"""
import mmap, sys
def told(what):
    print(what, flush=True)
    sys.stdin.readline()
told("started")
block = mmap.mmap(-1, {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, {SIZE}, 4096):
    block[i] = 1
told("allocated")
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
    sum(view[i] for i in range(0, {SIZE}, 4096))
    told("mapped")
    block.close()
    told("freed")
    told("reset")
"""


class Child:
    """A process that goes on by one step when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.pid = process.pid

    def until(self, what: str) -> Memory:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if what != "started":
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{what}\n"
        memory = read_memory(self.pid)
        assert memory is not None
        return memory

    def pss(self) -> Pss:
        pss = read_pss(self.pid)
        if pss is None or pss.pss_anon_bytes is None or pss.pss_file_bytes is None:
            pytest.skip("this kernel does not sum up a process's shares")
        return pss


def mapped_bytes(memory: Memory) -> int:
    """Where the test's folder is a tmpfs, its files count as shared memory."""
    return memory.file_bytes + memory.shmem_bytes


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of zeros: its pages are as large in memory, and quick to make."""
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(SIZE)
    return tmp_path / "weights"


@pytest.fixture
def child(weights: Path) -> Iterator[Child]:
    with running(weights) as process:
        yield Child(process)


@contextmanager
def running(weights: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-S", "-c", CHILD, str(weights)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_each_kind_shows_in_its_own_column(child: Child) -> None:
    started = child.until("started")
    allocated = child.until("allocated")
    assert allocated.anon_bytes - started.anon_bytes == pytest.approx(SIZE, abs=SLACK)
    assert mapped_bytes(allocated) - mapped_bytes(started) == pytest.approx(0, abs=SLACK)
    mapped = child.until("mapped")
    assert mapped_bytes(mapped) - mapped_bytes(allocated) == pytest.approx(SIZE, abs=SLACK)
    assert mapped.anon_bytes - allocated.anon_bytes == pytest.approx(0, abs=SLACK)
    assert mapped.rss_bytes == pytest.approx(mapped.anon_bytes + mapped_bytes(mapped), abs=SLACK)
    assert mapped.peak_rss_bytes - started.rss_bytes == pytest.approx(2 * SIZE, abs=2 * SLACK)
    assert 0 <= mapped.swap_bytes < SIZE


def test_peak_stays_until_it_is_reset(child: Child) -> None:
    child.until("started")
    child.until("allocated")
    most = child.until("mapped")
    freed = child.until("freed")
    assert freed.rss_bytes < most.rss_bytes - SIZE + SLACK
    assert freed.peak_rss_bytes >= most.rss_bytes - SLACK
    if not reset_peak(child.pid):
        pytest.skip("this system does not let the mark be reset")
    again = child.until("reset")
    assert again.peak_rss_bytes == pytest.approx(again.rss_bytes, abs=SLACK)


def test_large_parent_is_not_in_its_childs_peak(weights: Path) -> None:
    block = bytearray(b"x") * SIZE
    with running(weights) as process:
        child = Child(process)
        started = child.until("started")
        assert started.peak_rss_bytes < SIZE / 4
        assert started.anon_bytes < SIZE / 4
    assert len(block) == SIZE


def test_shared_file_counts_by_half(weights: Path) -> None:
    with ExitStack() as stack:
        one, other = (Child(stack.enter_context(running(weights))) for _ in range(2))
        one.until("started")
        before = one.pss()
        one.until("allocated")
        one.until("mapped")
        alone = one.pss()
        assert alone.pss_file_bytes is not None
        assert grown(before, alone) == pytest.approx((2 * SIZE, SIZE), abs=SLACK)
        assert alone.private_bytes - before.private_bytes == pytest.approx(2 * SIZE, abs=SLACK)
        for step in ("started", "allocated", "mapped"):
            other.until(step)
        assert grown(before, one.pss()) == pytest.approx((1.5 * SIZE, SIZE), abs=SLACK)
        assert one.pss().private_bytes - before.private_bytes == pytest.approx(SIZE, abs=SLACK)
        memory = read_memory(one.pid)
        assert memory is not None
        assert mapped_bytes(memory) > SIZE  # the resident set counts all of it in both
        other.process.kill()
        other.process.wait()
        assert grown(before, one.pss()) == pytest.approx((2 * SIZE, SIZE), abs=SLACK)


def grown(before: Pss, after: Pss) -> tuple[int, int]:
    """By how much all and the anonymous part did."""
    assert before.pss_anon_bytes is not None
    assert after.pss_anon_bytes is not None
    return after.pss_bytes - before.pss_bytes, after.pss_anon_bytes - before.pss_anon_bytes


def test_faults_of_touched_pages_are_counted(child: Child) -> None:
    child.until("started")
    before = read_faults(child.pid)
    child.until("allocated")
    after = read_faults(child.pid)
    assert before is not None
    assert after is not None
    # At least one for every huge page, at most one for every page and what Python does beside.
    assert SIZE / 2**21 <= after.n_minor - before.n_minor <= SIZE / 4096 + 2000
    assert 0 <= after.n_major - before.n_major < 50


def test_major_faults_are_those_that_read_from_storage(tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(2**20))
    code = (
        "import mmap, os, resource, sys; fd = os.open(sys.argv[1], os.O_RDONLY); os.fsync(fd)\n"
        "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "view = mmap.mmap(fd, 0, access=mmap.ACCESS_READ); view.madvise(mmap.MADV_RANDOM)\n"
        "sum(view[i] for i in range(0, len(view), 4096))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_majflt, flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-S", "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        n_major = int(process.stdout.readline())
        faults = read_faults(process.pid)
        process.kill()
    if not n_major:
        pytest.skip("the test's folder is on a file system that keeps everything in memory")
    assert faults is not None
    assert faults.n_major == pytest.approx(n_major, abs=5)  # the last words of a cold Python may cost some
    assert faults.n_minor > faults.n_major


def test_process_that_is_gone_has_no_memory(weights: Path) -> None:
    with running(weights) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert read_memory(process.pid) is None  # a zombie: it still has a number, and no memory
        assert read_pss(process.pid) is None
        process.wait()
        assert read_memory(process.pid) is None
        assert read_pss(process.pid) is None
        assert read_faults(process.pid) is None
        assert not reset_peak(process.pid)
