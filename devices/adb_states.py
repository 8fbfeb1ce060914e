"""What a phone's state means, and what to tap or type: for whoever sees a phone and no result."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.core.errors import DeviceError, HostLost

PREFIX = "adb:"

_PLUG = "pull the cable and plug it in again"
_UDEV = f"""Linux lets only root use it. Rules for all makers:
  sudo apt install android-sdk-platform-tools-common
or one for yours (18d1 is Google; lsusb tells others):
  echo 'SUBSYSTEM=="usb", ATTR{{idVendor}}=="18d1", MODE="0660", TAG+="uaccess"' |
    sudo tee /etc/udev/rules.d/51-android.rules && sudo udevadm control --reload
then {_PLUG}"""
_UNAUTHORIZED = f"""unlock the phone: it asks 'Allow USB debugging?'; tick 'Always allow', tap Allow
if it does not ask: Developer options > Revoke USB debugging authorizations, then {_PLUG}"""
_RESTART = "Android does not run on it: hold the power button until it starts"
_WAYS = {
    "unauthorized": _UNAUTHORIZED,
    "no permissions": _UDEV,
    "offline": f"adb lost touch with it: {_PLUG}; over Wi-Fi: edgebench devices connect ADDRESS",
    "authorizing": "it is just being let in: unlock it, and try again in a moment",
    "connecting": "it is just coming up: try again in a moment",
    "bootloader": _RESTART,
    "recovery": _RESTART,
    "sideload": _RESTART,
}
_ENABLE = """on the phone: Settings > About phone: tap 'Build number' seven times;
  then Settings > System > Developer options: switch 'USB debugging' on"""
_CABLE = """plug it in with a cable that carries data (many only charge), unlock it,
  and tap Allow when it asks 'Allow USB debugging?'"""
_WIFI = """or by Wi-Fi: Developer options > Wireless debugging > Pair device with pairing code; here
  edgebench devices pair ADDRESS CODE, then edgebench devices connect ADDRESS (at the top of that page)"""


@dataclass(frozen=True, slots=True)
class Attached:
    """A phone the adb server knows of."""

    serial: str
    state: str
    """`device` is one that can be used; `unauthorized`, `offline`, `no permissions`, …"""
    model: str | None


def read_attached(devices: str, devices_long: str) -> list[Attached]:
    """The server's two lists: one has the states, the other the models."""
    models: dict[str, str] = {}
    for line in devices_long.splitlines():
        words = line.split()
        model = next((word.removeprefix("model:") for word in words if word.startswith("model:")), "")
        if model:
            models[words[0]] = printable(model.replace("_", " "))
    attached = []
    for line in devices.splitlines():
        serial, tab, state = line.partition("\t")
        if tab and serial.strip() and state.strip():
            if state.startswith("no permissions"):  # and why
                state = "no permissions"
            attached.append(Attached(printable(serial), printable(state), models.get(serial.split()[0])))
    return attached


def way_out(state: str) -> str:
    """What to tap or type for a phone in that state."""
    return _WAYS.get(state, f"its state is {state!r}: start Android on it, and plug it in again")


def told(one: Attached) -> str:
    """A phone in a few words."""
    what = f" ({one.model})" if one.model else ""
    return f"{one.serial}{what}" if one.state == "device" else f"{one.serial}{what}: {one.state}"


def none_usable(attached: Sequence[Attached], where: str, on_network: Sequence[str]) -> DeviceError:
    """No phone can be used: what was looked for, what was found, what to do."""
    lines = [f"looked for: phones on USB, emulators, and Wi-Fi phones known to the adb server at {where}"]
    if attached:
        lines.append("found: " + ", ".join(told(one) for one in attached))
        lines += [f"{one.serial}: {way_out(one.state)}" for one in attached]
    else:
        steps = [_ENABLE, _CABLE, _WIFI]
        lines.append("found: nothing")
        lines += [f"{number}. {step}" for number, step in enumerate(steps, 1)]
        if sys.platform == "linux":
            lines.append(f"if `lsusb` shows it and adb does not: {_UDEV}")
    if on_network:
        lines.append("on this network: " + ", ".join(on_network))
    what = f"{len(attached)} seen, none of them ready" if attached else "none is attached"
    return DeviceError(f"no phone can be used: {what}", "\n".join(lines))


def too_many(usable: Sequence[Attached]) -> DeviceError:
    """Several phones can be used, and none was named."""
    choices = "\n".join(f"--device {PREFIX}{told(one)}" for one in usable)
    return DeviceError(f"{len(usable)} phones are attached", f"name one:\n{choices}")


def not_attached(serial: str, attached: Sequence[Attached], where: str) -> DeviceError:
    """The phone that was named is not there."""
    found = ", ".join(told(one) for one in attached) or "nothing"
    return DeviceError(
        f"no phone {serial} is attached",
        f"the adb server at {where} knows: {found}\n1. {_CABLE}\n2. {_WIFI}",
    )


def unusable(one: Attached) -> DeviceError:
    """The phone that was named is there, and not ready."""
    return DeviceError(f"{told(one)}: it can't be used so", way_out(one.state))


def refusal(name: str, reason: str) -> DeviceError:
    """What the adb server's FAIL is for us: a HostLost where a later try may do."""
    if "unauthorized" in reason:
        return DeviceError(f"{name} does not let this computer in (unauthorized)", way_out("unauthorized"))
    if "permissions" in reason:
        return DeviceError(f"{name}: this user may not use the USB device (no permissions)", _UDEV)
    return HostLost(f"{name} can't be reached: {printable(reason)}", away(name))


def away(name: str) -> str:
    """What to look at when a phone does not answer."""
    serial = name.removeprefix(PREFIX)
    if ":" in serial or "._adb" in serial:
        return f"is it on, awake and on this network, with debugging on? edgebench devices connect {serial}"
    return "is the cable in, and the phone on and unlocked?"


def printable(text: str) -> str:
    """The first line of what a device says, fit for a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(c for c in (lines or ["it gives no reason"])[0] if c.isprintable())[:300]
