"""Where running phones are noted, and how they are taken down, also after a run that was killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from stand_in.cgroup import Cgroup
from stand_in.packages import NotHere, run

NOTED = Path("/run/edgebench-phones")
"""A folder for each phone that is on, named by its number: its network is 10.214.NUMBER.0/30."""


def name_of(state: Path) -> str:
    """The name of a phone's namespace, cgroup and cable."""
    return f"ebphone{state.name}"


def claim() -> Path:
    """A folder of state that nobody else has; what killed runs left is swept first."""
    NOTED.mkdir(exist_ok=True)
    sweep()
    taken = run("ip", "-o", "addr")
    for number in range(1, 251):
        if f"10.214.{number}." in taken:
            continue
        with contextlib.suppress(FileExistsError):
            state = NOTED / str(number)
            state.mkdir()
            (state / "owner").write_text(f"{os.getpid()} {_born(os.getpid())}", encoding="utf-8")
            return state
    raise NotHere(f"250 phones are on: see {NOTED}")


def sweep() -> None:
    """Take down every phone whose owner is gone."""
    for state in NOTED.iterdir():
        with contextlib.suppress(OSError):
            pid, born = (state / "owner").read_text(encoding="utf-8").split()
            if _born(int(pid)) != born:
                take_down(state)


def take_down(state: Path) -> None:
    """End a phone's processes, remove its network, cgroup, file system and state; done twice it is fine."""
    end(state, "init")
    end(state, "physics")
    subprocess.run(["ip", "netns", "del", name_of(state)], capture_output=True, check=False)
    Cgroup(name_of(state)).remove()
    with contextlib.suppress(OSError):
        root = Path((state / "root").read_text(encoding="utf-8"))
        if root.name.startswith(name_of(state)):
            shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)


def end(state: Path, name: str) -> None:
    """Kill process 1 and with it all of the phone's (`init`), or the battery model (`physics`), if not us."""
    noted = state / f"{name}.pid"
    with contextlib.suppress(OSError, ValueError):
        pid = int(noted.read_text(encoding="utf-8"))
        # A number may be somebody else's by now: ours names the folder of state.
        ours = os.fsencode(state) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if ours and pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
            _wait_for_end(pid)
    noted.unlink(missing_ok=True)


def _wait_for_end(pid: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] != "Z":
                time.sleep(0.02)
                continue
        return


def _born(pid: int) -> str:
    """When a process began, in ticks since boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[19]
    except OSError:
        return ""
