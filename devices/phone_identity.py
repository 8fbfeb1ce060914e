"""What a phone says it is: its properties, as `getprop` has them. All of it is the phone's word: text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgebench.core.errors import DeviceError
from edgebench.devices.profiles import GENERIC_PHONE, Profile, phone_profile

PROPERTIES = (
    *("ro.product.model", "ro.product.manufacturer", "ro.product.device", "ro.product.cpu.abi"),
    *("ro.product.cpu.abilist", "ro.soc.manufacturer", "ro.soc.model", "ro.board.platform", "ro.hardware"),
    *("ro.build.fingerprint", "ro.build.version.release", "ro.build.version.sdk"),
    *("ro.build.version.security_patch", "ro.edgebench.double"),
)
"""Those that are asked for. Others tell serial numbers and addresses, which are nobody's business."""
TARGETS = {"arm64-v8a": "android-arm64", "x86_64": "android-x86_64"}
"""A phone's ABI -> what its native program is built for."""
_OF_MACHINE = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}
_LINE = re.compile(r"^\[([^\]\s]{1,100})\]: \[(.*)\]$", re.MULTILINE)
_LONGEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A model of phone and its system; None: it does not tell."""

    model: str | None = None
    """`Pixel 8`."""
    manufacturer: str | None = None
    device: str | None = None
    """The model's code name: `shiba`."""
    soc_manufacturer: str | None = None
    """From Android 12 on, as is the next."""
    soc_model: str | None = None
    platform: str | None = None
    """The board's name (`zuma`), where an older system names no chip."""
    abi: str | None = None
    """`arm64-v8a`."""
    android: str | None = None
    """`14`."""
    sdk: str | None = None
    fingerprint: str | None = None
    """Of the system's build, without a serial number."""
    security_patch: str | None = None
    is_double: bool = False
    """A stand-in for a phone: its figures are nobody's."""

    @property
    def title(self) -> str:
        """What a person calls it."""
        profile = profile_of(self)
        if profile is not None and profile.recognise:
            return profile.title
        maker, model = self.manufacturer, self.model or self.device
        if model is None:
            return f"a device of {maker}" if maker else "a device that does not tell its model"
        return model if maker is None or model.lower().startswith(maker.lower()) else f"{maker} {model}"

    @property
    def soc(self) -> str | None:
        """The chip, as its profile or the phone itself names it."""
        profile = profile_of(self)
        if profile is not None and profile.soc:
            return profile.soc
        if self.soc_model is None:
            return self.platform
        return f"{self.soc_manufacturer} {self.soc_model}" if self.soc_manufacturer else self.soc_model


def read_identity(props: Mapping[str, str]) -> Identity:
    """Who the phone is, from its properties. Never raises."""
    told = {key: cleaned(value) for key, value in props.items()}
    abis = (told.get("ro.product.cpu.abi") or "", *(told.get("ro.product.cpu.abilist") or "").split(","))
    return Identity(
        model=told.get("ro.product.model"),
        manufacturer=told.get("ro.product.manufacturer"),
        device=told.get("ro.product.device"),
        soc_manufacturer=told.get("ro.soc.manufacturer"),
        soc_model=told.get("ro.soc.model"),
        platform=told.get("ro.board.platform") or told.get("ro.hardware"),
        abi=next((abi for abi in abis if abi in TARGETS), abis[0] or None),
        android=told.get("ro.build.version.release"),
        sdk=told.get("ro.build.version.sdk"),
        fingerprint=told.get("ro.build.fingerprint"),
        security_patch=told.get("ro.build.version.security_patch"),
        is_double=told.get("ro.edgebench.double") == "1",
    )


def profile_of(identity: Identity) -> Profile | None:
    """The profile of a phone, `generic-android` of one that has none of its own; None of what is no phone."""
    profile = phone_profile(identity.manufacturer, identity.device, identity.model)
    is_android = identity.sdk is not None or identity.device is not None
    return profile if is_android or profile.name != GENERIC_PHONE else None


def read_properties(text: str) -> dict[str, str]:
    """Properties by name, of what `getprop` prints; lines that are not of its form are passed over."""
    return {key: value for key, value in _LINE.findall(text) if value}


def target_of(identity: Identity, machine: str | None) -> str:
    """What a native program for it is built for; `machine` is the kernel's word where it tells no ABI.

    Raises:
        DeviceError: its system has 32 bits, or does not tell.
    """
    abi = identity.abi or _OF_MACHINE.get(machine or "")
    if abi in TARGETS:
        return TARGETS[abi]
    told = f"its ABI is {abi}" if abi else "it tells no ABI"
    raise DeviceError(
        f"{identity.title} can't be measured: {told}",
        f"edgebench runs on 64 bits: {', '.join(sorted(TARGETS))}",
    )


def cleaned(text: str) -> str | None:
    """One line of what a device wrote, without control characters and not too long; None of nothing."""
    words = "".join(char if char.isprintable() else " " for char in text[: 4 * _LONGEST]).split()
    return " ".join(words)[:_LONGEST].strip() or None
