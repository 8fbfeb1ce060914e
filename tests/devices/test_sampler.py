"""The sampler that runs on a phone, under the shells that are here: what it writes of this computer."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgebench.devices import phone_samples
from edgebench.devices.phone_log import Log, read_log
from edgebench.devices.phone_samples import Samples

SAMPLER = Path(phone_samples.__file__).parent / "phone" / "sampler.sh"
SHELLS = [shell for shell in ("mksh", "dash", "bash") if shutil.which(shell)]
pytestmark = pytest.mark.skipif(
    not Path("/proc/uptime").exists() or not SHELLS, reason="the sampler reads /proc, with a POSIX shell"
)
HAL = "Current temperatures from HAL:\n\tTemperature{mValue=38.25, mType=3, mName=SKIN, mStatus=0}\n"
DUMPSYS = """#!/bin/sh
echo "$*" >>"$ASKED"
ok="ThrottlingStatus: NONE"
case $1 in
  battery) printf '%s\\n' 'Current Battery Service state:' '  status: 3' '  odd: \\c * \\n' ;;
  thermalservice) cat "$SAID"; echo '  TemperatureThreshold{mType=3}' ;;
  android.hardware.thermal*) printf '%s\\n' noise 'Type: SKIN Name: VIRTUAL-SKIN CurrentValue: 28.5 '"$ok" ;;
  *) echo "Can't find service: $1" >&2 ;;
esac
"""


class Sampled:
    """A sampler that runs in a folder, and what it has written."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.process = process

    @property
    def text(self) -> str:
        path = self.folder / "samples.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def log(self) -> Log:
        return read_log(self.text)

    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def wait_for(self, condition: Callable[[], bool]) -> None:
        for _ in range(600):
            if condition():
                return
            assert self.process.poll() is None
            time.sleep(0.05)
        pytest.fail(f"the sampler has not come so far: {self.text[-500:]}")

    def wait_for_ticks(self, n: int) -> None:
        self.wait_for(lambda: self.text.count("\nt ") >= n)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0


@contextmanager
def sampler(shell: str, folder: Path, said: str | None = HAL) -> Iterator[Sampled]:
    """`said`: what a dumpsys of this phone answers for thermalservice; None: there is no dumpsys."""
    environment = {**os.environ, "ASKED": str(folder / "asked"), "SAID": str(folder / "said")}
    if said is not None:
        (folder / "said").write_text(said, encoding="utf-8")
        (folder / "bin").mkdir()
        (folder / "bin" / "dumpsys").write_text(DUMPSYS, encoding="utf-8")
        (folder / "bin" / "dumpsys").chmod(0o755)
        environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    with (folder / "err.txt").open("wb") as err:
        words = [shell, str(SAMPLER), "samples.txt", "pid"]
        process = subprocess.Popen(words, cwd=folder, env=environment, stderr=err)
    try:
        yield Sampled(folder, process)
    finally:
        process.kill()
        process.wait()
    assert (folder / "err.txt").read_text(encoding="utf-8") == ""


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_whole_ticks_from_the_first_to_the_last(shell: str, tmp_path: Path) -> None:
    with sampler(shell, tmp_path) as sampled:
        sampled.wait_for(lambda: sampled.text != "")
        first = sampled.text
        assert first.startswith("edgebench-samples 1\nt ")
        assert first.splitlines()[-1].startswith("< ")  # as soon as there is anything, it is a whole tick
        sampled.wait_for_ticks(4)
        sampled.end()
        log = sampled.log()
        assert sampled.text.endswith("\n")
    last = log.ticks[-1].t_s
    for service in ("battery", "thermalservice"):
        stamps_s = [dump.at_s for dump in log.said(service)]
        assert stamps_s[0] >= log.ticks[0].t_s
        assert stamps_s[-1] >= last
        assert len(stamps_s) < len(log.ticks)
    assert all(tick.busy_s is not None for tick in log.ticks)
    assert all(tick.available_bytes for tick in log.ticks)
    assert all(a.t_s < b.t_s for a, b in zip(log.ticks, log.ticks[1:], strict=False))


def test_what_services_say_arrives_as_it_was(shell: str, tmp_path: Path) -> None:
    with sampler(shell, tmp_path) as sampled:
        sampled.wait_for_ticks(2)
        sampled.end()
        battery, *_ = sampled.log().said("battery")
        heat, *_ = sampled.log().said("thermalservice")
    assert battery.lines == [
        "Current Battery Service state:",
        "  status: 3",
        "  odd: \\c * \\n",
    ]
    assert heat.lines == HAL.splitlines()  # without its thresholds


def test_a_service_that_is_not_there_is_left_alone(shell: str, tmp_path: Path) -> None:
    power = "android.hardware.power.stats.IPowerStats/default"
    with sampler(shell, tmp_path) as sampled:
        sampled.wait_for(lambda: sampled.asked().count(power) == 2)
        n = sampled.text.count("\nt ")
        sampled.wait_for_ticks(n + 5)
        sampled.end()
        assert sampled.asked().count(power) == 2
        assert sampled.asked().count("battery") > 2
        assert not any("thermal.IThermal" in asked for asked in sampled.asked())


def test_the_hal_itself_is_asked_where_the_service_has_nothing_of_it(shell: str, tmp_path: Path) -> None:
    with sampler(shell, tmp_path, said="Thermal Status: 0\nHAL Ready: false\n") as sampled:
        sampled.wait_for_ticks(2)
        sampled.end()
        samples = Samples.read(sampled.text, synthetic=True)
    (_, state), *_ = samples.states()
    assert (state.temperature_c, state.temperature_sensor) == (28.5, "thermalservice:VIRTUAL-SKIN")


def test_the_process_once_it_has_been_started(shell: str, tmp_path: Path) -> None:
    work = "x = bytearray(40_000_000)\nwhile True: pass"
    with sampler(shell, tmp_path, said=None) as sampled:
        sampled.wait_for_ticks(2)
        with subprocess.Popen([sys.executable, "-c", work]) as process:
            try:
                (tmp_path / "pid").write_text(f"{process.pid}\n", encoding="utf-8")
                n = len(sampled.log().ticks)
                sampled.wait_for_ticks(n + 6)
            finally:
                process.kill()
        n = len(sampled.log().ticks)
        sampled.wait_for_ticks(n + 2)
        sampled.end()
        samples = Samples.read(sampled.text, synthetic=True)
        ticks = sampled.log().ticks
    assert ticks[0].process is None
    assert ticks[-1].process is None
    memory = samples.memory()
    assert len(memory) >= 4
    assert memory[-1][1].anon_bytes > 40_000_000
    looks = [tick.process for tick in ticks if tick.process is not None]
    assert looks[-1].cpu_s > looks[0].cpu_s
    foreign_s = samples.foreign_cpu_s(memory[0][0], memory[-1][0])
    assert foreign_s is not None
    assert foreign_s <= (os.cpu_count() or 1) * (memory[-1][0] - memory[0][0])


def test_without_android_there_is_still_the_kernel(shell: str, tmp_path: Path) -> None:
    with sampler(shell, tmp_path, said=None) as sampled:
        sampled.wait_for_ticks(2)
        sampled.end()
        log = sampled.log()
    assert log.dumps == []
    assert log.ticks[-1].busy_s is not None


def test_it_ends_when_whoever_started_it_is_gone(shell: str, tmp_path: Path) -> None:
    wait = "while [ ! -s samples.txt ]; do sleep 0.1; done"
    script = f"'{shell}' '{SAMPLER}' samples.txt pid & echo $! >number; {wait}"
    subprocess.run([shell, "-c", script], cwd=tmp_path, check=True, timeout=60, stdin=subprocess.DEVNULL)
    pid = int((tmp_path / "number").read_text(encoding="utf-8"))
    for _ in range(600):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the sampler goes on by itself")
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8").endswith("\n")
