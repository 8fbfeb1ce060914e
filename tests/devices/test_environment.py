"""What could explain a difference: computers as their /proc and /sys tell them, and what differs."""

import json
import subprocess
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core import cpu
from edgebench.core.hashing import sha256_json
from edgebench.devices import environment, local
from edgebench.devices.environment import (
    PACKAGES,
    Difference,
    differences,
    local_environment,
    slow_facts,
    volatile_facts,
)

Tell = Callable[[Mapping[str, object]], None]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """`tell({"proc/…" or "sys/…": content})`: the system has these files and those told before, no others."""
    for name in ("proc", "sys"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setattr(environment, "PROC", tmp_path / "proc")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "proc/cpuinfo")

    def write(files: Mapping[str, object]) -> None:
        for name, value in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{value}\n")

    return write


def cgroup() -> tuple[object, object]:
    limits = slow_facts()["cgroup"]
    return limits["n_cpus_max"], limits["memory_max_bytes"]


# The id -----------------------------------------------------------------------------------------


def test_environment_is_named_by_its_slow_facts() -> None:
    first = local_environment()
    assert first == local_environment()
    assert first.id == sha256_json(first.facts)[:16]
    assert first.facts == slow_facts()
    json.dumps([dict(first.facts), volatile_facts()], allow_nan=False)
    kept = {"os", "kernel", "cpu", "governor", "python", "on_battery", "virtual_machine", "n_cores_usable"}
    assert kept | {"transparent_hugepages"} <= first.facts.keys()


def test_volatile_facts_are_not_in_the_id() -> None:
    slow = {name for name, _ in environment._flat(slow_facts())}
    volatile = {name for name, _ in environment._flat(volatile_facts())}
    assert not slow & volatile
    assert not [name for name in slow if any(w in name for w in ("load", "free", "available", "boot_id"))]


SETTINGS = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
    "sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference": "power",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
    "sys/devices/system/cpu/smt/active": "1",
    "sys/devices/system/cpu/vulnerabilities/spectre_v2": "Mitigation: Retpolines",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
    "sys/class/power_supply/BAT0/status": "Discharging",
    "sys/class/dmi/id/bios_version": "N2JET97W",
    "sys/firmware/acpi/platform_profile": "low-power",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
    "proc/cpuinfo": "microcode : 0xf4",
    "proc/sys/vm/swappiness": "10",
    "proc/sys/kernel/randomize_va_space": "2",
    "proc/meminfo": "SwapTotal:  1024 kB",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_makes_another_environment(tell: Tell, name: str) -> None:
    before = local_environment()
    if name.endswith("cfs_quota_us"):
        tell({"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"})
    tell({name: SETTINGS[name]})
    after = local_environment()
    assert after.id != before.id
    assert differences(before.facts, after.facts) != []


VOLATILE = {
    "proc/meminfo": "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable: 7 kB\nSwapFree: 3 kB",
    "proc/sys/kernel/random/boot_id": "1b2c",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1200000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2400000",
    "sys/class/thermal/thermal_zone0/temp": "45000",
}


@pytest.mark.parametrize("name", VOLATILE)
def test_what_moves_by_itself_makes_no_other_environment(tell: Tell, name: str) -> None:
    before = local_environment()
    tell({name: VOLATILE[name]})
    assert local_environment().id == before.id


def test_volatile_facts_are_read(tell: Tell) -> None:
    tell(VOLATILE)
    facts = volatile_facts()
    assert len(facts.pop("load_average")) == 3
    assert facts == {
        "boot_id": "1b2c",
        "memory_total_bytes": 100 * 1024,
        "memory_available_bytes": 7 * 1024,
        "swap_free_bytes": 3 * 1024,
        "max_frequencies_hz": [2_400_000_000],
    }


def test_variables_that_steer_an_engine_make_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = local_environment()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("ORT_API_KEY", "hunter2")
    monkeypatch.setenv("UNRELATED", "x")
    after = local_environment()
    assert differences(before.facts, after.facts) == [Difference("variables.OMP_NUM_THREADS", None, "3")]


def test_no_program_is_started(monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert local_environment().cpu  # of a computer whose /proc tells nothing
    assert volatile_facts()


# What is read -----------------------------------------------------------------------------------


def test_what_cannot_be_read_stays_none(tell: Tell) -> None:
    facts = slow_facts()
    for name in ("governor", "transparent_hugepages", "virtual_machine", "on_battery"):
        assert facts[name] is None
    assert cgroup() == (None, None)
    for group, name in [("system", "aslr"), ("system", "mitigations_sha256"), ("processor", "smt")]:
        assert facts[group][name] is None
    assert facts["processor"]["flags_sha256"] is facts["processor"]["turbo"] is None
    assert volatile_facts()["memory_total_bytes"] is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"intel_pstate/no_turbo": "0"}, True),
        ({"intel_pstate/no_turbo": "1"}, False),
        ({"cpufreq/boost": "0"}, False),
        ({"cpufreq/boost": "1"}, True),
        ({"cpufreq/boost": "?"}, None),
    ],
)
def test_turbo_is_told_in_two_ways(tell: Tell, files: Mapping[str, str], expected: bool | None) -> None:
    tell({f"sys/devices/system/cpu/{name}": value for name, value in files.items()})
    assert slow_facts()["processor"]["turbo"] is expected


@pytest.mark.parametrize(
    ("personality", "system", "expected"),
    [("00040000", 2, 0), ("00000000", 2, 2), ("00000000", 0, 0), ("?", 1, 1)],
)
def test_addresses_may_be_fixed_for_this_process_alone(
    tell: Tell, personality: str, system: int, expected: int
) -> None:
    tell({"proc/self/personality": personality, "proc/sys/kernel/randomize_va_space": system})
    assert slow_facts()["system"]["aslr"] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/cpuinfo": "flags : fpu hypervisor"}, True),
        ({"proc/cpuinfo": "flags : fpu"}, False),
        ({"proc/cpuinfo": "Features : fp", "sys/class/dmi/id/sys_vendor": "QEMU"}, True),
        ({"sys/firmware/devicetree/base/model": "linux,dummy-virt\0"}, True),
        ({"sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0"}, False),
    ],
)
def test_virtual_machine_shows_in_flags_or_firmware(
    tell: Tell, files: Mapping[str, str], expected: bool
) -> None:
    tell(files)
    assert slow_facts()["virtual_machine"] is expected


def test_board_and_computer_have_a_name(tell: Tell) -> None:
    tell({"sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    assert slow_facts()["system"]["product"] == "Raspberry Pi 5 Model B Rev 1.0"
    tell({"sys/class/dmi/id/sys_vendor": "LENOVO", "sys/class/dmi/id/product_name": "20XW"})
    assert slow_facts()["system"]["product"] == "LENOVO 20XW"


def test_packages_are_listed_whether_or_not_they_are_there() -> None:
    packages = slow_facts()["packages"]
    assert set(packages) == set(PACKAGES)
    import numpy as np

    assert packages["numpy"] == np.__version__


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_every_processor_once(numbers: set[int]) -> None:
    text = environment._ranges(numbers)
    runs = [[int(n) for n in run.split("-")] for run in text.split(",") if run]
    assert {n for run in runs for n in range(run[0], run[-1] + 1)} == numbers
    assert all(later[0] > earlier[-1] + 1 for earlier, later in pairwise(runs))


def test_names_stay_where_they_were() -> None:
    assert local.local_environment is local_environment
    assert local.cpu_name() == local_environment().cpu


# Control groups ---------------------------------------------------------------------------------


def test_narrowest_limit_above_the_process_counts(tell: Tell) -> None:
    tell(
        {
            "proc/self/cgroup": "0::/user.slice/job.scope",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/user.slice/memory.max": "4294967296",
            "sys/fs/cgroup/user.slice/job.scope/cpu.max": "max 100000",
            "sys/fs/cgroup/user.slice/job.scope/memory.max": "8589934592",
            "sys/fs/cgroup/other/cpu.max": "10000 100000",
        }
    )
    assert cgroup() == (1.5, 4294967296)


def test_no_limit_is_not_the_same_as_not_known(tell: Tell) -> None:
    tell({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/cgroup.controllers": ""})
    assert cgroup() == (None, None)
    tell({"sys/fs/cgroup/a/cpu.max": "max 100000", "sys/fs/cgroup/a/memory.max": "max"})
    assert cgroup() == ("max", "max")


def test_container_that_shows_only_its_own_group(tell: Tell) -> None:
    """The path is the host's and leads nowhere here; the root is the container's group."""
    tell(
        {
            "proc/self/cgroup": "0::/../../system.slice/docker-1f.scope",
            "sys/fs/cgroup/cgroup.controllers": "cpu",
            "sys/fs/cgroup/cpu.max": "200000 100000",
            "sys/fs/cgroup/memory.max": "1073741824",
        }
    )
    assert cgroup() == (2.0, 1073741824)
    assert slow_facts()["system"]["container"] is not None


def test_version_1_has_a_folder_for_each_controller(tell: Tell) -> None:
    tell(
        {
            "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/x\n0::/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        }
    )
    assert cgroup() == (0.5, "max")


@pytest.mark.parametrize("broken", ["", "100000", "x y", "100000 0", "1 2 3"])
def test_broken_limit_is_not_known(tell: Tell, broken: str) -> None:
    tell({"sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/cpu.max": broken})
    assert cgroup() == (None, None)


# Differences ------------------------------------------------------------------------------------

facts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=12,
)
groups = st.dictionaries(st.text("abc", min_size=1, max_size=2), facts, max_size=4)


def test_difference_is_named_by_its_way() -> None:
    before = {"os": "Debian", "packages": {"numpy": "2.0", "torch": None}, "gone": {"a": {"b": 1}}}
    after = {"os": "Debian", "packages": {"numpy": "2.1"}, "variables": {"OMP_NUM_THREADS": "2"}}
    assert differences(before, after) == [
        Difference("gone.a.b", 1, None),
        Difference("packages.numpy", "2.0", "2.1"),
        Difference("variables.OMP_NUM_THREADS", None, "2"),
    ]


@given(groups, groups)
def test_differences_are_symmetric_and_none_with_itself(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert differences(before, before) == []
    there, back = differences(before, after), differences(after, before)
    assert [(d.name, d.before, d.after) for d in there] == [(d.name, d.after, d.before) for d in back]
    assert all(d.before != d.after for d in there)
    if any(value is not None for _, value in environment._flat(before)):
        assert differences(before, {}) != []
