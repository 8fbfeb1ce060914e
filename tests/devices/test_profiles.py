"""Profiles: every fact has a source, every phone is recognised by what it says, and by nothing less."""

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.devices import profiles
from edgebench.devices.local import local_device
from edgebench.devices.profiles import (
    GENERIC_PHONE,
    find_profile,
    load_profile,
    own_profile,
    phone_names,
    phone_profile,
    profile_names,
)

FOLDER = Path(profiles.__file__).parent / "profiles"
PHONES = ["galaxy-s23", "galaxy-s24", "generic-android", "oneplus12", "pixel8", "pixel8-pro", "pixel9"]
TOLD = [
    ("pixel8", ("Google", "shiba", "Pixel 8")),
    ("pixel8-pro", ("Google", "husky", "Pixel 8 Pro")),
    ("pixel9", ("Google", "tokay", "Pixel 9")),
    ("galaxy-s23", ("samsung", "dm1q", "SM-S911B")),
    ("galaxy-s24", ("samsung", "e1s", "SM-S921B")),
    ("galaxy-s24", ("samsung", "e1q", "SM-S921U1")),
    ("oneplus12", ("OnePlus", "OP0000", "CPH2581")),
    ("oneplus12", ("OnePlus", None, "PJD110")),
]


def raw(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def test_the_phones_are_those_with_adb() -> None:
    assert phone_names() == PHONES
    assert load_profile("iphone15").transport == "import"
    assert {load_profile(name).transport for name in ("raspberry-pi-5", "jetson-orin-nano")} == {"ssh"}


@pytest.mark.parametrize("name", [name for name in profile_names() if name != "local"])
def test_facts_have_sources_and_a_profile_is_named_after_its_file(name: str) -> None:
    told = raw(name)
    assert told["id"] == name
    assert set(told) <= {
        *("id", "name", "kind", "transport", "soc", "memory_bytes"),
        *("recognise", "facts", "sources"),
    }
    facts = [key for key in ("soc", "memory_bytes", "recognise") if told.get(key)]
    facts += [key for key in told.get("facts", {}) if key not in ("meters", "memory_bandwidths_bytes_per_s")]
    facts = [key for key in facts if name != "iphone15" or key != "recognise"]  # nothing is attached by it
    assert not {key for key in facts if not told["sources"].get(key)}
    assert all(re.search(r"https://\S+", source) for source in told.get("sources", {}).values())
    if "memory_bandwidths_bytes_per_s" in told.get("facts", {}):
        assert told["sources"]["memory_bandwidth"]
        assert all(1e10 < n < 1e12 for n in told["facts"]["memory_bandwidths_bytes_per_s"].values())
    assert told.get("memory_bytes", 2**30) % 2**30 == 0
    assert all(cluster["n_cores"] > 0 for cluster in told.get("facts", {}).get("clusters", ()))


@pytest.mark.parametrize("name", [name for name in profile_names() if name != "local"])
def test_a_profile_is_a_device_that_can_be_listed(name: str) -> None:
    device = find_profile(name)
    assert device.id == name
    assert device.name != name
    json.dumps(dict(device.facts), allow_nan=False)
    assert load_profile(name).how_reached


def test_two_chips_under_one_name_leave_the_chip_open() -> None:
    assert load_profile("galaxy-s24").soc is None
    assert load_profile("galaxy-s23").soc is not None
    assert load_profile("oneplus12").memory_bytes is None


@pytest.mark.parametrize(("name", "told"), TOLD)
def test_a_phone_is_recognised_by_what_it_says(name: str, told: tuple[str, str | None, str]) -> None:
    assert phone_profile(*told).name == name


@pytest.mark.parametrize(
    "told",
    [
        ("Google", "akita", "Pixel 8a"),
        ("Google", "caiman", "Pixel 9 Pro"),
        ("samsung", "dm2q", "SM-S916B"),
        ("Somebody", "shiba", "Pixel 8"),
        ("Google", "SHIBA", "pixel 8"),
        (None, None, None),
    ],
)
def test_others_are_not(told: tuple[str | None, str | None, str | None]) -> None:
    assert phone_profile(*told).name == GENERIC_PHONE


def test_no_phone_is_of_two_profiles() -> None:
    found = Counter(
        (name, told) for name in phone_names() for _, told in TOLD if load_profile(name).is_of(*told)
    )
    assert Counter(told for _, told in found) == Counter(told for _, told in TOLD)


def test_only_this_computer_is_measured_on_this_computer() -> None:
    assert own_profile("local") == own_profile("auto") == own_profile(local_device().id) == local_device()
    for name in profile_names():
        if name != "local":
            with pytest.raises(UsageError, match=f"^{name} .* is not this computer$") as caught:
                own_profile(name)
            assert caught.value.hint == load_profile(name).how_reached
    assert "ssh:user@host" in load_profile("raspberry-pi-5").how_reached
    assert "--device pixel8" in load_profile("pixel8").how_reached
    with pytest.raises(UsageError, match="unknown device"):
        own_profile("pixle8")
