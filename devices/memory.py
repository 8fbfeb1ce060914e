"""The memory of another process, from /proc: high-water mark, the anonymous/file split, its fair share.

`VmHWM` is what the process itself reached. `ru_maxrss` is not used: Linux carries the parent's peak
into the child's, so a large launcher would be measured instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_KEYS = {
    "VmHWM": "peak_rss_bytes",
    "VmRSS": "rss_bytes",
    "RssAnon": "anon_bytes",
    "RssFile": "file_bytes",
    "RssShmem": "shmem_bytes",
    "VmSwap": "swap_bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one process. `file_bytes` holds mapped weights, `anon_bytes` what was allocated.

    From Linux 6.2 on the kernel sums these counters loosely (by up to a few MiB on a few processors, more
    on many), until 6.16 made them exact again; `read_pss` is exact on all.
    """

    peak_rss_bytes: int
    rss_bytes: int
    anon_bytes: int
    file_bytes: int
    shmem_bytes: int
    """Mapped files of a tmpfs (a model in /dev/shm, often in /tmp) stand here, not in `file_bytes`."""
    swap_bytes: int
    """What was allocated and is swapped out now: the process needs it too."""
    gpu_bytes: int | None = None
    """What it holds of a GPU's own memory, where somebody who can tell put it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pss:
    """Bytes of one process where a page that n processes share counts as 1/n."""

    pss_bytes: int
    pss_anon_bytes: int | None
    """None before Linux 5.3, as is the next."""
    pss_file_bytes: int | None
    private_bytes: int
    """What would be free if the process ended (USS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Page faults of a process since it began. Major ones waited for storage: speed is not the model's."""

    n_major: int
    n_minor: int


def read_memory(pid: int) -> Memory | None:
    """Now; None when the process is gone or the system has no /proc."""
    found = {_KEYS[key]: n for key, n in _sizes(f"/proc/{pid}/status").items() if key in _KEYS}
    return Memory(**found) if len(found) == len(_KEYS) else None  # a zombie has no memory lines


def read_pss(pid: int) -> Pss | None:
    """Now; None when the process is gone or another user's, or the kernel is older than 4.14.

    The kernel walks every page for it (some 10 ms a GiB, during which the process can't map memory):
    only between timed regions.
    """
    sizes = _sizes(f"/proc/{pid}/smaps_rollup")
    if "Pss" not in sizes:
        return None
    return Pss(
        pss_bytes=sizes["Pss"],
        pss_anon_bytes=sizes.get("Pss_Anon"),
        pss_file_bytes=sizes.get("Pss_File"),
        private_bytes=sum(sizes.get(f"Private_{kind}", 0) for kind in ("Clean", "Dirty", "Hugetlb")),
    )


def read_faults(pid: int) -> Faults | None:
    """Since the process began, its threads included; None when it is gone or the system has no /proc."""
    try:
        # Fields after the command name, which may hold blanks: minflt and majflt are 10th and 12th.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Faults(n_minor=int(fields[7]), n_major=int(fields[9]))
    except (OSError, ValueError, IndexError):
        return None


def reset_peak(pid: int) -> bool:
    """Start the high-water mark anew, so that a test's peak is its own; False where not allowed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _sizes(path: str) -> Mapping[str, int]:
    """Bytes by name, of the lines that read `Name:   123 kB`; empty when the file can't be read."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        match line.split():
            case [name, count, "kB"] if count.isdecimal():
                found[name.rstrip(":")] = int(count) * 1024
    return found
