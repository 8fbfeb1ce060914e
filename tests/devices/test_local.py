"""Facts of this computer, and of computers whose /proc tells less."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgebench.core import cpu
from edgebench.core.errors import UsageError
from edgebench.core.hashing import sha256_json
from edgebench.devices import local, profiles
from edgebench.devices.local import default_threads, local_device, local_environment
from edgebench.devices.profiles import find_profile, profile_names


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`told(cpuinfo, {path: text})`: the system has these files and no others."""

    def tell(cpuinfo: str, files: Mapping[str, str] | None = None) -> None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(local, "_lines", lambda path: (files or {}).get(path, "").splitlines())

    return tell


def test_device_is_named_by_its_hardware() -> None:
    device = local_device()
    assert device.memory_bytes is not None
    assert device.memory_bytes > 2**28
    assert re.fullmatch(r"[a-z0-9-]+", device.id)
    assert device.id.endswith(f"-{os.cpu_count()}c-{device.memory_bytes / 2**30:.0f}gib")
    assert device.kind == "computer"
    assert device == local_device()
    json.dumps(dict(device.facts), allow_nan=False)


def test_id_leaves_out_what_varies_in_a_processors_name(told: Callable[..., None]) -> None:
    told("model name\t: Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz\nflags : b a")
    device = local_device()
    assert device.id.startswith("intel-core-i7-8550u-")
    assert device.soc == "Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"
    assert device.facts["cpu_flags"] == ["a", "b"]


def test_arm_computers_tell_it_in_other_words(told: Callable[..., None]) -> None:
    told("Features : fp asimd\nHardware\t: BCM2711")
    assert local.cpu_name() == "BCM2711"
    assert cpu.cpu_flags() == ["asimd", "fp"]


def test_what_cannot_be_read_stays_none(told: Callable[..., None]) -> None:
    told("")
    environment = local_environment()
    assert environment.governor is None
    assert environment.facts["transparent_hugepages"] is None
    assert environment.facts["virtual_machine"] is False
    assert environment.cpu
    assert cpu.cpu_flags() == []


def test_environment_is_named_by_its_facts(told: Callable[..., None]) -> None:
    first = local_environment()
    assert first == local_environment()
    assert first.id == sha256_json(first.facts)[:16]
    told("", {"/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"})
    other = local_environment()
    assert other.governor == "powersave"
    assert other.id != first.id


def test_threads_are_within_what_this_process_may_use() -> None:
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


def test_file_that_is_not_there_has_no_lines() -> None:
    assert local._first_line("/no/such/file") is None


# Profiles ---------------------------------------------------------------------------------------


def test_this_computer_goes_by_three_names() -> None:
    device = local_device()
    assert find_profile("local") == find_profile("auto") == find_profile(device.id) == device


def test_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown device 'loca'") as caught:
        find_profile("loca")
    assert caught.value.hint == "did you mean local?"
    with pytest.raises(UsageError) as caught:
        find_profile("zzz9")
    assert caught.value.hint == f"known: {', '.join(sorted([*profile_names(), 'auto']))}"


def test_every_profile_can_be_read() -> None:
    assert "local" in profile_names()
    for name in profile_names():
        profile = find_profile(name)
        assert profile.name
        assert profile.transport in {"local", "adb", "ssh"}
    assert all(path.stem in profile_names() for path in profiles._FOLDER.glob("*.toml"))
