"""Device profiles: small TOML files of facts with sources. Unknown facts stay empty.

A profile says what a model of device is, and, of a phone, what such a phone tells of itself. What one phone
that is attached has (its memory, its processors) is read off it, not taken from here.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError, nearest
from edgebench.core.types import DeviceProfile
from edgebench.devices.local import local_device

GENERIC_PHONE = "generic-android"
"""The profile of phones that have none of their own."""
_FOLDER = Path(__file__).parent / "profiles"
_REACHED = {
    "adb": "edgebench run --device {name}, the phone attached by cable or Wi-Fi",
    "ssh": "edgebench run --device ssh:user@host: a host is named by its address",
    "import": "results of it can be imported only: edgebench import FILE",
    "local": "install edgebench there and leave --device out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A model of device."""

    name: str
    """Its file's stem: `pixel8`."""
    title: str
    """`Google Pixel 8`."""
    kind: str
    transport: str
    """`local`: edgebench runs there; `adb`, `ssh`: it is reached; `import`: only results come from there."""
    soc: str | None
    """None too where models of one name have different ones."""
    memory_bytes: int | None
    """None too where it is sold with several sizes."""
    facts: Mapping[str, Any]
    """More that is published: cores by cluster, memory type and bandwidth, what meters there are."""
    sources: Mapping[str, str]
    """Fact -> the public page it is from."""
    recognise: Mapping[str, tuple[str, ...]]
    """Patterns, as a shell's: of `manufacturers`, `devices` and `models` (ro.product.device and .model)."""

    def is_of(self, manufacturer: str | None, device: str | None, model: str | None) -> bool:
        """Whether a phone that says this of itself is one of these; what it does not say is no hindrance."""
        makers = [one.lower() for one in self.recognise.get("manufacturers", ())]
        if makers and manufacturer and manufacturer.lower() not in makers:
            return False
        told = ((device, "devices"), (model, "models"))
        return any(
            value is not None and any(fnmatchcase(value, one) for one in self.recognise.get(key, ()))
            for value, key in told
        )

    @property
    def how_reached(self) -> str:
        """What to do to measure on one."""
        return _REACHED[self.transport].format(name=self.name)


def profile_names() -> list[str]:
    """Ids of all profiles this version knows."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def phone_names() -> list[str]:
    """Those of phones that can be driven from here."""
    return [name for name in profile_names() if load_profile(name).transport == "adb"]


def find_profile(name: str) -> DeviceProfile:
    """A profile by id; `local` (and `auto`, its only candidate so far) is this computer, read now.

    The local profile can also be named by the id its facts make, as stored databases show it.
    """
    local = local_device()
    if name in ("local", "auto", local.id):
        return local
    if name not in profile_names():
        raise nearest(name, [*profile_names(), "auto"], kind="device")
    profile = load_profile(name)
    return DeviceProfile(
        id=profile.name,
        name=profile.title,
        kind=profile.kind,
        transport=profile.transport,
        soc=profile.soc,
        memory_bytes=profile.memory_bytes,
        facts={**profile.facts, "sources": dict(profile.sources)},
    )


def own_profile(name: str) -> DeviceProfile:
    """This computer's profile, by any of its names, for what is to be measured here.

    Raises:
        UsageError: nobody knows the name, or it is another device's: says how that one is reached.
    """
    found = find_profile(name)
    if found.id in profile_names():
        profile = load_profile(found.id)
        raise UsageError(f"{name} ({profile.title}) is not this computer", profile.how_reached)
    return found


def phone_profile(manufacturer: str | None, device: str | None, model: str | None) -> Profile:
    """The profile of a phone that says this of itself; `generic-android` where none is its own."""
    phones = [load_profile(name) for name in phone_names()]
    return next(
        (one for one in phones if one.is_of(manufacturer, device, model)), load_profile(GENERIC_PHONE)
    )


@cache
def load_profile(name: str) -> Profile:
    """A profile's file, as it is written."""
    raw = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return Profile(
        name=raw["id"],
        title=raw["name"],
        kind=raw["kind"],
        transport=raw["transport"],
        soc=raw.get("soc"),
        memory_bytes=raw.get("memory_bytes"),
        facts=raw.get("facts", {}),
        sources=raw.get("sources", {}),
        recognise={key: tuple(patterns) for key, patterns in raw.get("recognise", {}).items()},
    )
