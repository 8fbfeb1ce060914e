"""The memory of another process, from /proc: high-water mark, and the anonymous/file split.

`VmHWM` is what the process itself reached. `ru_maxrss` is not used: Linux carries the parent's peak
into the child's, so a large launcher would be measured instead.
"""

from dataclasses import dataclass
from pathlib import Path

_KEYS = {"VmHWM": "peak_rss_bytes", "VmRSS": "rss_bytes", "RssAnon": "anon_bytes", "RssFile": "file_bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one process. `file_bytes` holds mapped weights, `anon_bytes` what was allocated."""

    peak_rss_bytes: int
    rss_bytes: int
    anon_bytes: int
    file_bytes: int


def read_memory(pid: int) -> Memory | None:
    """Now; None when the process is gone or the system has no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key in _KEYS:
            found[_KEYS[key]] = int(rest.split()[0]) * 1024
    return Memory(**found) if len(found) == len(_KEYS) else None  # a zombie has no memory lines


def reset_peak(pid: int) -> bool:
    """Start the high-water mark anew, so that a test's peak is its own; False where not allowed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True
