"""batch.sh, in every shell that is here: its jobs, its end, what it changes and puts back."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.devices.phone_batch import BatchJob, batch_argv, restore_argv, write_batch

PROGRAM = """#!/bin/sh
# Says what a native program says; `long` in its job keeps it busy.
echo '{"type":"loaded"}' >>"$2"
read -r what <"$1"
[ "$what" != long ] || exec sleep 600
echo '{"type":"answer","group":0}' >>"$2"
printf '{"type":"gro' >>"$2"; sleep 1.2; echo 'up"}' >>"$2"
echo complaint >&2
[ "$what" != fails ] || exit 7
"""
DUMPSYS = """#!/bin/sh
here=${0%/*}
case $1 in
  power) echo "  mWakefulness=$(cat "$here/wakefulness")" ;;
  thermalservice)
    echo 'Cached temperatures:'; echo 'Temperature{mValue=99.0, mType=3, mName=SKIN, mStatus=0}'
    echo 'Current temperatures from HAL:'
    echo "Temperature{mValue=$(cat "$here/celsius").7, mType=3, mName=SKIN, mStatus=0}"
    echo 'Temperature{mValue=70.1, mType=0, mName=CPU, mStatus=0}' ;;
esac
"""
SETTINGS = """#!/bin/sh
here=${0%/*}
case $1 in
  get) cat "$here/stayon" ;;
  put) echo "$4" >"$here/stayon" ;;
esac
"""
INPUT = """#!/bin/sh
here=${0%/*}
case $2 in
  223) echo Asleep >"$here/wakefulness" ;;
  224) echo Awake >"$here/wakefulness" ;;
esac
"""


@pytest.fixture(params=["sh", "mksh"])
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param}, Android's shell, is not here: apt install mksh")
    return str(request.param)


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """A folder of the framework's commands, on which a screen is on and stays on."""
    folder = tmp_path / "phone"
    folder.mkdir()
    scripts = {"dumpsys": DUMPSYS, "settings": SETTINGS, "input": INPUT, "program": PROGRAM}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name, text in {"wakefulness": "Awake", "stayon": "7", "celsius": "30"}.items():
        (folder / name).write_text(text + "\n")
    return folder


def start(shell: str, folder: Path, phone: Path) -> "subprocess.Popen[str]":
    _, *words = batch_argv(str(folder), str(phone / "program"))
    environment = {**os.environ, "PATH": f"{phone}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [shell, *words], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def lines(told: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.splitlines()]


def until(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")


def jobs(*texts: str | None) -> list[BatchJob]:
    return [BatchJob(name=f"job-{i}", text=text, idle_s=1) for i, text in enumerate(texts)]


def test_jobs_are_done_in_turn_and_watched(shell: str, phone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "batch"
    write_batch(folder, jobs("works\n", None, "fails\n"), settings={"screen": "off"})
    (folder / "jobs" / "job-1").rmdir()  # nothing is in it, so it is not brought to a phone
    told, _ = start(shell, folder, phone).communicate(timeout=60)
    assert [(line["type"], line.get("rc")) for line in lines(told)] == [
        *(("begin", None), ("loaded", None), ("group", None), ("end", 0)),  # answers are too many for the log
        *(("begin", None), ("end", 0)),
        *(("begin", None), ("loaded", None), ("group", None), ("end", 7)),
    ]
    left = folder / "jobs"
    assert [(left / f"job-{i}" / "rc").read_text() for i in range(3)] == ["0\n", "0\n", "7\n"]
    assert (left / "job-0" / "err.txt").read_text() == "complaint\n"
    assert '{"type":"answer","group":0}\n' in (left / "job-0" / "out.jsonl").read_text()
    idle = json.loads((left / "job-1" / "out.jsonl").read_text())
    assert idle["type"] == "idle"
    assert 0.9 <= idle["end_s"] - idle["start_s"] < 5
    for i in range(3):
        assert (left / f"job-{i}" / "samples.txt").read_text().count("\nt ") >= 3
    assert (phone / "wakefulness").read_text() == "Awake\n"
    assert (phone / "stayon").read_text() == "7\n"


def test_told_to_end_it_ends_its_program_and_puts_everything_back(
    shell: str, phone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "batch"
    write_batch(folder, jobs("long\n", "works\n"), settings={"screen": "off"})
    batch = start(shell, folder, phone)
    until(lambda: (folder / "jobs/job-0/pid").exists())
    assert (phone / "wakefulness").read_text() == "Asleep\n"
    assert (phone / "stayon").read_text() == "0\n"
    batch.terminate()  # the batch alone: it has to end the others
    told, _ = batch.communicate(timeout=30)
    assert lines(told)[-1] == {"type": "end", "job": "job-0", "rc": 143}
    assert batch.returncode == 143
    assert not (folder / "jobs/job-1/rc").exists()
    assert (phone / "wakefulness").read_text() == "Awake\n"
    assert (phone / "stayon").read_text() == "7\n"


def test_killed_it_goes_on_where_it_was_and_what_it_changed_can_be_put_back(
    shell: str, phone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "batch"
    write_batch(folder, jobs("works\n", "long\n"), settings={"screen": "off"})
    batch = start(shell, folder, phone)
    until(lambda: (folder / "jobs/job-1/pid").exists())
    os.killpg(batch.pid, signal.SIGKILL)
    batch.communicate(timeout=30)
    assert (phone / "wakefulness").read_text() == "Asleep\n"
    environment = {**os.environ, "PATH": f"{phone}:{os.environ['PATH']}"}
    for _ in range(2):  # the second time there is nothing left to do
        subprocess.run([shell, *restore_argv(str(folder))[1:]], env=environment, check=True, timeout=30)
        assert (phone / "wakefulness").read_text() == "Awake\n"
        assert (phone / "stayon").read_text() == "7\n"
    first = (folder / "jobs/job-0/out.jsonl").read_bytes()
    (folder / "jobs/job-1/job.txt").write_text("works\n")
    told, _ = start(shell, folder, phone).communicate(timeout=60)
    assert [line["type"] for line in lines(told)] == ["end", "begin", "loaded", "group", "end"]
    assert (folder / "jobs/job-0/out.jsonl").read_bytes() == first
    assert (folder / "jobs/job-1/rc").read_text() == "0\n"


def test_a_phone_that_stays_hot_is_waited_for_so_long_and_the_job_says_so(
    shell: str, phone: Path, tmp_path: Path
) -> None:
    """The skin now counts: not what the service remembers, not the chip's inside."""
    folder = tmp_path / "batch"
    write_batch(folder, jobs("works\n", "works\n"), settings={"cool_cap_s": "5"})
    batch = start(shell, folder, phone)
    until(lambda: (folder / "jobs/job-0/pid").exists())
    (phone / "celsius").write_text("41\n")
    told, _ = batch.communicate(timeout=60)
    waits = [line for line in lines(told) if line["type"] == "wait"]
    assert waits == [{"type": "wait", "temperature_c": 41, "target_c": 31}]
    assert '{"type":"hot","temperature_c":41,"target_c":31}' in (folder / "jobs/job-1/out.jsonl").read_text()
    assert "hot" not in (folder / "jobs/job-0/out.jsonl").read_text()
    assert (phone / "wakefulness").read_text() == "Awake\n"  # nobody asked for a dark screen
