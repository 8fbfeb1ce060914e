"""A phone's cgroup: its CPU clock drives the battery model; limits of it make a slow phone, or a full one."""

import contextlib
import time
from pathlib import Path

from stand_in.packages import NotHere

TREE = Path("/sys/fs/cgroup")
LIMITS = {"cpu": ("cpu.cfs_quota_us", "cpu.max"), "memory": ("memory.limit_in_bytes", "memory.max")}
"""The files that limit them, in version 1 and in version 2."""


class Cgroup:
    """One cgroup by name: in version 2 a folder, in version 1 a folder for each controller."""

    def __init__(self, name: str) -> None:
        self.second = (TREE / "cgroup.controllers").exists()
        trees = (
            [TREE] if self.second else [TREE / c for c in ("cpuacct", "cpu", "memory") if (TREE / c).is_dir()]
        )
        self.folders = [tree / name for tree in trees]

    def make(self) -> None:
        """Make it; `NotHere` where that is not possible, or would give no CPU clock."""
        try:
            for folder in self.folders:
                folder.mkdir(exist_ok=True)
            if self.second:
                for controller in ("cpu", "memory"):
                    # Refused where this tree's own root holds processes: the CPU clock is there without.
                    with contextlib.suppress(OSError):
                        (TREE / "cgroup.subtree_control").write_text(f"+{controller}", encoding="utf-8")
            self.cpu_s()
        except (OSError, IndexError) as error:
            raise NotHere(f"no cgroup with a CPU clock can be made here: {error}") from error

    def doors(self) -> list[str]:
        """The files that a process writes 0 to, to be in it."""
        return [str(folder / "cgroup.procs") for folder in self.folders]

    def cpu_s(self) -> float:
        """CPU seconds that its processes have used."""
        if self.second:
            return int((self.folders[0] / "cpu.stat").read_text(encoding="utf-8").split()[1]) / 1e6
        return int((self.folders[0] / "cpuacct.usage").read_text(encoding="utf-8")) / 1e9

    def limit_cpus(self, n_cpus: float | None) -> None:
        """Give it so many cores' worth of time; None: all."""
        unlimited = "max 100000" if self.second else "-1"
        period = " 100000" if self.second else ""
        self.file("cpu").write_text(unlimited if n_cpus is None else f"{n_cpus * 100000:.0f}{period}")

    def limit_memory(self, n_bytes: int | None) -> None:
        """Let its processes use so many bytes together; None: all."""
        unlimited = "max" if self.second else "-1"
        self.file("memory").write_text(unlimited if n_bytes is None else str(n_bytes))

    def remove(self) -> None:
        """Remove it, once its last process is gone."""
        for folder in self.folders:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                if not folder.exists():
                    break
                time.sleep(0.05)

    def file(self, controller: str) -> Path:
        """Where its `cpu` or `memory` is limited; `NotHere` where this machine's cgroups don't do that."""
        name = LIMITS[controller][self.second]
        for folder in self.folders:
            if (folder / name).exists():
                return folder / name
        raise NotHere(f"this machine's cgroups limit no {controller}")
