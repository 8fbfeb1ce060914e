"""Processor time that is not ours: real processes, real counters."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgebench.devices.contention import CpuTimes, is_noisy, spin_s

pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc on this system")

BUSY_S = 0.6


@contextmanager
def busy_process() -> Iterator[int]:
    """Another process that never rests."""
    code = "print('on', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def read(*pids: int) -> CpuTimes:
    times = CpuTimes.read(*pids)
    assert times is not None
    return times


def test_busy_process_of_others_shows_and_of_ours_does_not() -> None:
    with busy_process() as other:
        before, before_both = read(os.getpid()), read(os.getpid(), other)
        time.sleep(BUSY_S)
        after, after_both = read(os.getpid()), read(os.getpid(), other)
    as_foreign, as_own = after.foreign_since(before), after_both.foreign_since(before_both)
    assert as_foreign > 0.3 * BUSY_S
    # The same interval, told to be ours: what is left is the rest of the computer.
    assert as_foreign - as_own > 0.3 * BUSY_S


def test_own_work_is_own() -> None:
    before, before_nobody = read(os.getpid()), read()
    start = time.process_time()
    while time.process_time() - start < BUSY_S:
        pass
    after, after_nobody = read(os.getpid()), read()
    assert after.own_s - before.own_s == pytest.approx(BUSY_S, abs=0.05)
    # The same interval with nobody of ours: the difference is our work.
    ours = after_nobody.foreign_since(before_nobody) - after.foreign_since(before)
    assert ours == pytest.approx(BUSY_S, abs=0.1)


def test_ended_child_and_thread_are_own_and_a_living_child_is_not(
    wait_until: Callable[[Callable[[], bool]], bool],
) -> None:
    before = read(os.getpid())
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-S", "-c", work], check=True)
    child = read(os.getpid())
    assert child.own_s - before.own_s > 0.25

    def work_too() -> None:
        start = time.thread_time()
        while time.thread_time() - start < 0.3:
            pass

    thread = threading.Thread(target=work_too)
    thread.start()
    thread.join()
    both = read(os.getpid())
    assert both.own_s - child.own_s > 0.25
    with busy_process() as other:
        ours, others = read(os.getpid()), read(other)
        wait_until(lambda: read(other).own_s - others.own_s > 0.3)
        assert read(os.getpid()).own_s - ours.own_s < 0.15


def test_rounding_never_makes_a_negative_share() -> None:
    assert CpuTimes(busy_s=10.0, own_s=5.02).foreign_since(CpuTimes(busy_s=9.0, own_s=4.0)) == 0.0


def test_process_that_is_gone_gives_no_reading() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    assert CpuTimes.read(process.pid) is None


def test_name_of_a_process_may_hold_blanks_and_brackets(tmp_path: Path) -> None:
    program = tmp_path / "a) b (c"
    program.symlink_to(sys.executable)
    code = "print('on', flush=True)\nwhile True: pass"
    with subprocess.Popen([program, "-S", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        own = 0.0
        for _ in range(300):  # on a busy machine it gets little time
            time.sleep(0.1)
            if (own := read(process.pid).own_s) > 0.1:
                break
        process.kill()
    assert "(a) b (c)" in stat
    assert 0.1 < own < 5


@pytest.mark.parametrize(
    ("foreign_s", "wall_s", "noisy"),
    [(0.0, 1.0, False), (0.12, 1.0, False), (0.14, 1.0, True), (0.02, 0.01, False), (5.0, 10.0, True)],
)
def test_noise_is_a_tenth_of_the_wall_time_and_the_counters_steps(
    foreign_s: float, wall_s: float, noisy: bool
) -> None:
    assert is_noisy(foreign_s, wall_s) is noisy


def test_spin_takes_time_that_repeats() -> None:
    spins = sorted(spin_s() for _ in range(9))
    assert 0.001 < spins[0] < 1
    assert spins[2] < 2 * spins[0]
