"""This computer as a device and an environment. Facts that can't be read stay None."""

import os
import platform
import re
from pathlib import Path

from edgebench.core.cpu import cpu_flags, cpuinfo
from edgebench.core.hashing import sha256_json
from edgebench.core.types import DeviceProfile, Environment


def local_device() -> DeviceProfile:
    """The computer's hardware; the id (`amd-epyc-2c-23gib`) follows from it, so databases can merge."""
    import psutil

    cpu = cpu_name()
    cores = os.cpu_count() or 1
    memory_bytes = int(psutil.virtual_memory().total)
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor|cpu|@.*", "", cpu.lower())).strip("-")
    return DeviceProfile(
        id=f"{slug[:40].strip('-')}-{cores}c-{memory_bytes / 2**30:.0f}gib",
        name=f"{cpu}, {cores} cores, {memory_bytes / 2**30:.0f} GiB",
        kind="computer",
        transport="local",
        soc=cpu,
        memory_bytes=memory_bytes,
        facts={"machine": platform.machine(), "n_cores": cores, "cpu_flags": cpu_flags()},
    )


def local_environment() -> Environment:
    """The software and slow state around a run; changes of it start new runs instead of mixing."""
    facts = {
        "os": _os_name(),
        "kernel": platform.release(),
        "cpu": cpu_name(),
        "n_cores_usable": _usable_cores(),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "transparent_hugepages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "python": platform.python_version(),
        "virtual_machine": "hypervisor" in cpu_flags(),
        "on_battery": _on_battery(),
    }
    return Environment(
        id=sha256_json(facts)[:16],
        os=str(facts["os"]),
        kernel=platform.release(),
        cpu=cpu_name(),
        governor=facts["governor"] if isinstance(facts["governor"], str) else None,
        on_battery=_on_battery(),
        facts=facts,
    )


def cpu_name() -> str:
    """The processor's marketing name, or the architecture."""
    return cpuinfo("model name", "hardware") or platform.processor() or platform.machine() or "unknown"


def default_threads() -> int:
    """Physical cores this process may use: llama.cpp's own default, and the fastest on most machines."""
    import psutil

    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(physical, _usable_cores()))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _on_battery() -> bool | None:
    """True when a battery discharges; None where there is no power supply to ask."""
    states = [_first_line(str(p)) for p in Path("/sys/class/power_supply").glob("*/status")]
    return any(state == "Discharging" for state in states) if states else None


def _first_line(path: str) -> str | None:
    return next(iter(_lines(path)), None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
