"""What the kernel says of the processor: part of a device's facts, and of a native build's key."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpuinfo(*keys: str) -> str | None:
    """The first value under any of these keys (lower case); None where there is none."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in keys and value.strip():
            return value.strip()
    return None


def cpu_flags() -> list[str]:
    """The processor's features as the kernel names them (x86: flags, ARM: Features), sorted."""
    return sorted((cpuinfo("flags", "features") or "").split())
