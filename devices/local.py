"""This computer as a device. Facts that can't be read stay None."""

import os
import platform
import re

from edgebench.core.cpu import cpu_flags
from edgebench.core.types import DeviceProfile
from edgebench.devices.environment import cpu_name as cpu_name
from edgebench.devices.environment import local_environment as local_environment
from edgebench.devices.environment import usable_cores


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


def default_threads() -> int:
    """Physical cores this process may use: llama.cpp's own default, and the fastest on most machines."""
    import psutil

    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(physical, usable_cores()))
