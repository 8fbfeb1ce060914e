"""Facts of this computer, and of computers whose /proc tells less."""

import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.core import cpu
from edgebench.core.errors import UsageError
from edgebench.devices import local, profiles
from edgebench.devices.local import default_threads, local_device
from edgebench.devices.profiles import find_profile, profile_names


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`told(cpuinfo)`: what the kernel says of the processor, and all that it says."""

    def tell(cpuinfo: str) -> None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")

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


def test_unknown_processor_goes_by_its_architecture(told: Callable[..., None]) -> None:
    told("")
    assert local.cpu_name() == platform.machine()
    assert cpu.cpu_flags() == []


def test_threads_are_within_what_this_process_may_use() -> None:
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


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
        assert profile.transport in {"local", "adb", "ssh", "import"}
    assert all(path.stem in profile_names() for path in profiles._FOLDER.glob("*.toml"))
