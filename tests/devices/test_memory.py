"""Another process's memory: what it allocated and what it mapped are told apart."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgebench.devices.memory import Memory, read_memory, reset_peak

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")

SIZE = 64 * 2**20
SLACK = 8 * 2**20

CHILD = f"""
import mmap, sys
def told(what):
    print(what, flush=True)
    sys.stdin.readline()
told("started")
block = bytearray(b"x") * {SIZE}
told("allocated")
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
    sum(view[i] for i in range(0, {SIZE}, 4096))
    told("mapped")
    del block
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


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with running(tmp_path) as process:
        yield Child(process)


@contextmanager
def running(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    (folder / "weights").write_bytes(os.urandom(SIZE))
    command = [sys.executable, "-S", "-c", CHILD, str(folder / "weights")]
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
    assert allocated.file_bytes - started.file_bytes == pytest.approx(0, abs=SLACK)
    mapped = child.until("mapped")
    assert mapped.file_bytes - allocated.file_bytes == pytest.approx(SIZE, abs=SLACK)
    assert mapped.anon_bytes - allocated.anon_bytes == pytest.approx(0, abs=SLACK)
    assert mapped.rss_bytes == pytest.approx(mapped.anon_bytes + mapped.file_bytes, abs=SLACK)


def test_peak_stays_until_it_is_reset(child: Child) -> None:
    child.until("started")
    child.until("allocated")
    most = child.until("mapped")
    freed = child.until("freed")
    assert freed.rss_bytes < most.rss_bytes - SIZE
    assert freed.peak_rss_bytes >= most.rss_bytes - SLACK
    if not reset_peak(child.pid):
        pytest.skip("this system does not let the mark be reset")
    again = child.until("reset")
    assert again.peak_rss_bytes == pytest.approx(again.rss_bytes, abs=SLACK)


def test_large_parent_is_not_in_its_childs_peak(child: Child) -> None:
    block = bytearray(b"x") * (2 * SIZE)
    assert child.until("started").peak_rss_bytes < SIZE
    assert len(block) == 2 * SIZE


def test_process_that_is_gone_has_no_memory(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert read_memory(process.pid) is None  # a zombie: it still has a number, and no memory
        process.wait()
        assert read_memory(process.pid) is None
        assert not reset_peak(process.pid)
