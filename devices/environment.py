"""Everything about this computer's software and settings that could explain a difference.

Slow facts make the environment's id: when one changes, a new run begins instead of mixing. Volatile ones
(load, free memory, what a boot decides) are kept beside a run and never enter the id. Facts that can't be
read stay None. No program is started for them: all is in /proc, in /sys, in NVML and in Python.
"""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.cpu import cpu_flags, cpuinfo
from edgebench.core.energy import MeterError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import Environment
from edgebench.devices.gpu import list_gpus
from edgebench.devices.state import ac_online, cpu_setting, on_battery
from edgebench.devices.sysfs import read_int, read_text, sysfs

PROC = Path("/proc")
PACKAGES = ("llama-cpp-python", "numpy", "onnxruntime", "torch")
"""Whose versions can move a figure."""
_VARIABLES = (
    *("OMP_", "GOMP_", "KMP_", "GGML_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "VECLIB_", "NUMEXPR_", "ORT_"),
    *("CUDA_", "HIP_", "ROCR_", "HSA_", "GPU_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"),
)
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_ADDR_NO_RANDOMIZE = 0x0040000
_NO_LIMIT_BYTES = 1 << 60
"""Version 1 of control groups writes its largest number where there is no limit."""
_CONTAINERS = ("docker", "podman", "libpod", "kubepods", "containerd", "lxc", "machine.slice")
_VIRTUAL = ("qemu", "kvm", "vmware", "virtual", "innotek", "xen", "bochs", "dummy-virt")


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that differs; its name leads to it: `packages.numpy`."""

    name: str
    before: Any
    after: Any


def local_environment() -> Environment:
    """The software and slow state around a run; changes of it start new runs instead of mixing."""
    facts = slow_facts()
    return Environment(
        id=sha256_json(facts)[:16],
        os=facts["os"],
        kernel=facts["kernel"],
        cpu=facts["cpu"],
        governor=facts["governor"],
        on_battery=facts["on_battery"],
        facts=facts,
    )


def slow_facts() -> dict[str, Any]:
    """What makes the environment's id: JSON-ready, some plain, some in groups."""
    return {
        "os": _os_name(),
        "kernel": platform.release(),
        "cpu": cpu_name(),
        "n_cores_usable": usable_cores(),
        "governor": cpu_setting("cpufreq/scaling_governor"),
        "transparent_hugepages": read_text(sysfs("kernel", "mm", "transparent_hugepage", "enabled")),
        "python": platform.python_version(),
        "virtual_machine": _virtual_machine(),
        "on_battery": on_battery(),
        "system": _system(),
        "processor": _processor(),
        "power": {
            "ac_online": ac_online(),
            "platform_profile": read_text(sysfs("firmware", "acpi", "platform_profile")),
        },
        "cgroup": _cgroup(),
        "interpreter": {
            "implementation": platform.python_implementation(),
            "build": " ".join(platform.python_build()),
            "compiler": platform.python_compiler(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": _variables(),
        **_gpus(),
    }


def volatile_facts() -> dict[str, Any]:
    """What a run should be remembered with, but not told apart by.

    Also the size of the memory: kernels and hypervisors move it by a little; the device's id has it in GiB.
    """
    memory = _memory()
    # Not a setting only: a thermal daemon moves it too.
    frequencies_khz = (cpu_setting("cpufreq/scaling_max_freq") or "").split(",")
    return {
        "boot_id": read_text(PROC / "sys/kernel/random/boot_id"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_total_bytes": memory.get("MemTotal"),
        "memory_available_bytes": memory.get("MemAvailable"),
        "swap_free_bytes": memory.get("SwapFree"),
        "max_frequencies_hz": [1000 * int(khz) for khz in frequencies_khz if khz.isdecimal()] or None,
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What differs between two sets of facts, by name; a fact that is absent on one side is None there."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        Difference(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def cpu_name() -> str:
    """The processor's marketing name, or the architecture."""
    # Not platform.processor(): it starts a program, which says no more than this.
    return cpuinfo("model name", "hardware") or platform.machine() or "unknown"


def usable_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _system() -> dict[str, Any]:
    """The kernel and what it was told, libc, the firmware, and whether all of it is in a container."""
    vulnerabilities = sysfs("devices", "system", "cpu", "vulnerabilities")
    mitigations = {path.name: read_text(path) for path in vulnerabilities.glob("*")}
    return {
        "kernel_build": platform.version(),
        "architecture": platform.machine(),
        "libc": _libc(),
        "aslr": _aslr(),
        "swappiness": read_int(PROC / "sys/vm/swappiness"),
        "swap_total_bytes": _memory().get("SwapTotal"),
        "mitigations_sha256": sha256_json(mitigations)[:16] if mitigations else None,
        "container": _container(),
        "product": _product(),
        "firmware": read_text(sysfs("class", "dmi", "id", "bios_version")),
    }


def _processor() -> dict[str, Any]:
    smt = read_text(sysfs("devices", "system", "cpu", "smt", "active"))
    flags = cpu_flags()
    return {
        "microcode": cpuinfo("microcode"),
        "flags_sha256": sha256_json(flags)[:16] if flags else None,
        "n_cores_online": os.cpu_count(),
        "smt": None if smt is None else smt == "1",
        "n_numa_nodes": len(list(sysfs("devices", "system", "node").glob("node[0-9]*"))) or None,
        "affinity": _ranges(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "isolated": read_text(sysfs("devices", "system", "cpu", "isolated")),
        "frequency_driver": cpu_setting("cpufreq/scaling_driver"),
        "energy_performance_preference": cpu_setting("cpufreq/energy_performance_preference"),
        "turbo": _turbo(),
    }


def _turbo() -> bool | None:
    """Intel's driver says whether turbo is off, all others whether it is on."""
    off = read_text(sysfs("devices", "system", "cpu", "intel_pstate", "no_turbo"))
    on = read_text(sysfs("devices", "system", "cpu", "cpufreq", "boost"))
    return {"0": True, "1": False}.get(off or "", {"1": True, "0": False}.get(on or ""))


def _aslr() -> int | None:
    """0: addresses are not random, for all or (setarch -R) for this process; 1, 2: they are."""
    try:
        if int(read_text(PROC / "self/personality") or "", 16) & _ADDR_NO_RANDOMIZE:
            return 0
    except ValueError:
        pass  # not everybody may read it, and then it is as the system has it
    return read_int(PROC / "sys/kernel/randomize_va_space")


def _libc() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return None  # musl, macOS, Windows


def _product() -> str | None:
    """The computer's name: of its firmware (PCs), or of its device tree (boards)."""
    names = [read_text(sysfs("class", "dmi", "id", name)) for name in ("sys_vendor", "product_name")]
    board = read_text(sysfs("firmware", "devicetree", "base", "model"))
    return " ".join(name for name in names if name) or (board or "").rstrip("\0") or None


def _virtual_machine() -> bool | None:
    """None where neither the processor nor the firmware says anything."""
    flags, product = cpu_flags(), _product()
    if "hypervisor" in flags or any(word in (product or "").lower() for word in _VIRTUAL):
        return True
    return False if flags or product else None


def _container() -> str | None:
    """The kind of container this process is in; None: no sign of one."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    groups = read_text(PROC / "self/cgroup") or ""
    named = next((word for word in _CONTAINERS if word in groups), None)
    return read_text(Path("/run/systemd/container")) or named


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _variables() -> dict[str, str]:
    """Those set that steer threads, kernels and allocators of the engines."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_VARIABLES) and not any(word in name for word in _SECRETS)
    }


def _gpus() -> dict[str, Any]:
    """NVIDIA's GPUs by UUID; nothing at all where there are none, so that ids made without them stay."""
    with contextlib.suppress(MeterError):
        return {"gpus": found} if (found := {gpu.uuid: gpu.facts() for gpu in list_gpus()}) else {}
    return {}


def _memory() -> dict[str, int]:
    """Bytes by name, from /proc/meminfo."""
    found = {}
    for line in (read_text(PROC / "meminfo") or "").splitlines():
        match line.split():
            case [name, count, "kB"] if count.isdecimal():
                found[name.rstrip(":")] = int(count) * 1024
    return found


def _cgroup() -> dict[str, Any]:
    """The narrowest limits of this process's control groups: processors, bytes; `max` is no limit."""
    root = sysfs("fs", "cgroup")
    groups = _groups()
    if (root / "cgroup.controllers").exists():
        folders = _upwards(root, groups.get("", "/"))
        cpus = [_quota(read_text(folder / "cpu.max") or "") for folder in folders]
        sizes = [_limit(read_text(folder / "memory.max")) for folder in folders]
    else:
        cpu = _upwards(root / "cpu", groups.get("cpu", "/"))
        both = [[read_text(f / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")] for f in cpu]
        cpus = [_quota(" ".join(one)) for one in both]
        memory = _upwards(root / "memory", groups.get("memory", "/"))
        sizes = [_limit(read_text(folder / "memory.limit_in_bytes")) for folder in memory]
    return {"n_cpus_max": _narrowest(cpus), "memory_max_bytes": _narrowest(sizes)}


def _groups() -> dict[str, str]:
    """Controller -> path of this process's group; version 2 has one, under the empty name."""
    found: dict[str, str] = {}
    for line in (read_text(PROC / "self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _upwards(root: Path, path: str) -> list[Path]:
    """A group's folder and all above it. Those a container doesn't show are left out."""
    parts = [part for part in path.split("/") if part and part != ".."]
    folders = [root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
    return [folder for folder in folders if folder.is_dir()]


def _quota(limit: str) -> float | None:
    """Processors, of `quota period`; infinite without a limit, None where nothing is told."""
    match limit.split():
        case ["max" | "-1", *_]:
            return float("inf")
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
            return int(quota) / int(period)
    return None


def _limit(size: str | None) -> float | None:
    """Bytes, likewise."""
    if size == "max":
        return float("inf")
    if size is None or not size.isdecimal():
        return None
    return int(size) if int(size) < _NO_LIMIT_BYTES else float("inf")


def _narrowest(limits: Iterable[float | None]) -> float | str | None:
    least = min((limit for limit in limits if limit is not None), default=None)
    return "max" if least == float("inf") else least


def _ranges(numbers: Iterable[int]) -> str:
    """`0-3,8` of {0, 1, 2, 3, 8}, as the kernel writes it."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
