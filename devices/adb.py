"""A phone behind adb: `edgebench.core.host.Host` for Android 7 and later, over USB or Wi-Fi.

A link that was cut hangs for ever, and the adb server goes on calling the phone a `device`. So every call has
a deadline, and after one that was missed a phone on the network is connected anew before the next call.
"""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edgebench.core.errors import DeviceError, HostLost, UsageError
from edgebench.core.host import Sent
from edgebench.devices import adb_files, adb_server, adb_shell, adb_states
from edgebench.devices.adb_server import Refused
from edgebench.devices.adb_states import PREFIX, Attached
from edgebench.devices.detached import Commands

__all__ = ["PREFIX", "AdbHost", "Attached", "attached", "connect", "find_phone", "pair"]

CONNECT_S = 20.0
"""The adb server itself tries for ten seconds."""

_ADDRESS = re.compile(
    r"(?:\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):(?P<port>\d{1,5})|[\w.-]+(?: \(\d+\))?\._adb[\w-]*\._tcp\.?"
)
_PROPERTY = re.compile(r"^\[(.+?)\]: \[(.*?)\]\r?$", re.MULTILINE | re.DOTALL)
_FULL = ("No space left", "Disk quota exceeded", "ENOSPC")
_T = TypeVar("_T")


def attached() -> list[Attached]:
    """Every phone the adb server knows of, in whatever state; the server is started if need be.

    Raises MissingDependency where there is no adb.
    """
    with _plainly("the adb server"):
        return adb_states.read_attached(
            adb_server.answer("host:devices"), adb_server.answer("host:devices-l")
        )


def find_phone(serial: str | None) -> "AdbHost":
    """The phone of that serial, or the only one that can be used; DeviceError says what to tap or type."""
    if serial is not None and is_address(serial) and not _is_usable(serial):
        connect(serial)
    there = attached()
    if serial is None:
        usable = [one for one in there if one.state == "device"]
        if len(usable) > 1:
            raise adb_states.too_many(usable)
        if not usable:
            raise adb_states.none_usable(there, _where(), _on_network())
        return AdbHost(PREFIX + usable[0].serial)
    found = next((one for one in there if one.serial == serial), None)
    if found is None:
        raise adb_states.not_attached(serial, there, _where())
    if found.state != "device":
        raise adb_states.unusable(found)
    return AdbHost(PREFIX + serial)


def pair(address: str, code: str) -> str:
    """Pair with a phone's wireless debugging, by the address and code it shows; what to tell the user."""
    if _ADDRESS.fullmatch(address) is None or not code.isalnum():
        raise UsageError(
            f"{address!r} and {code!r} are no address and code",
            "as the phone shows them: edgebench devices pair 192.168.1.20:37123 123456",
        )
    with _plainly("the adb server"):
        try:
            told = adb_server.answer(f"host:pair:{code}:{address}", CONNECT_S)
        except Refused as refused:
            told = str(refused)
    if "unknown host service" in told:
        raise DeviceError(
            "the adb server that runs is too old for pairing (it needs adb 30)",
            'pip install "edgebench[android]" brings a newer one; then: adb kill-server, and once more',
        )
    if not told.startswith("Successfully"):
        raise DeviceError(
            f"{address} did not pair: {adb_states.printable(told)}",
            "the code and its port are new each time the phone shows them, and go when its page is closed",
        )
    return f"paired with {address}; now: edgebench devices connect ADDRESS, the one at the top of that page"


def connect(address: str) -> str:
    """Connect to a phone on the network; what to tell the user. DeviceError when it can't be."""
    if not is_address(address):
        raise UsageError(f"{address!r} is no address", "edgebench devices connect 192.168.1.20:41567")
    with _plainly("the adb server"):
        told = _connect(address)
        if "already" in told and not _is_usable(address):  # it was, before the phone or the network went
            _disconnect(address)
            told = _connect(address)
        if "connected to" not in told and "authenticate" not in told:
            _disconnect(address)  # the server would go on listing it
    if "connected to" not in told:
        way = "was it paired? Developer options > Wireless debugging shows the address, new after each start"
        if "authenticate" in told:
            way = adb_states.way_out("unauthorized")
        raise DeviceError(f"{address} can't be connected: {adb_states.printable(told)}", way)
    return f"connected: edgebench run --device {PREFIX}{address}"


class AdbHost(Commands):
    """`edgebench.core.host.Host` over adb. Nothing is kept open between calls."""

    def __init__(self, name: str) -> None:
        self._serial = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or not self._serial or not self._serial.isprintable():
            raise UsageError(f"{name!r} names no phone", f"{PREFIX}SERIAL, as `adb devices` lists it")
        self._name = name
        self._is_doubtful = False
        """Whether the link has to be made anew: something on it took too long, or broke off."""
        self._is_checked = False

    @property
    def name(self) -> str:
        """`adb:` and its serial."""
        return self._name

    def getprop(self) -> dict[str, str]:
        """Everything the phone tells of itself, such as its `ro.product.model`."""
        return dict(_PROPERTY.findall(self.run(["getprop"], deadline_s=20)))

    def push(self, path: Path, target: str, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """Copy a file there, on from where an earlier try ended."""
        adb_files.push(self._bytes, path, target, sha256=sha256, sent=sent, deadline_s=deadline_s)

    def pull(self, source: str, path: Path, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """Copy a file from there, on from where an earlier try ended."""
        adb_files.pull(self._bytes, source, path, sha256=sha256, sent=sent, deadline_s=deadline_s)

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """A port here, on loopback only, that leads to a port there; it is gone when the link breaks."""

        def listen() -> int:
            with adb_server.asked(f"host-serial:{self._serial}:forward:tcp:0;tcp:{port}", CONNECT_S) as wire:
                near = wire.text()
                if not near.isdecimal():
                    raise ConnectionError(f"adb forwards no port: {near[:100]!r}")
                return int(near)

        near = self._reach(listen, CONNECT_S)
        try:
            yield near
        finally:
            with (
                contextlib.suppress(Refused, OSError, DeviceError),
                adb_server.asked(f"host-serial:{self._serial}:killforward:tcp:{near}"),
            ):
                pass

    def close(self) -> None:
        """There is nothing to hang up: the adb server keeps the link."""

    def _bytes(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> bytes:
        command = shlex.join(argv)

        def run() -> adb_shell.Done:
            self._check_protocol()
            with adb_server.asked(f"host:transport:{self._serial}", deadline_s) as wire:
                return adb_shell.run(wire, command, given)

        done = self._reach(run, deadline_s)
        if done.exit_status == "0":
            return done.output
        raise self._refusal(argv, done)

    def _check_protocol(self) -> None:
        if not self._is_checked:
            features = adb_server.answer(f"host-serial:{self._serial}:features").split(",")
            if "shell_v2" not in features:
                raise DeviceError(f"{self._name} is too old: its adb has no exit codes", "Android 7 or later")
            self._is_checked = True

    def _reach(self, action: Callable[[], _T], deadline_s: float) -> _T:
        """What the action yields; whatever adb or the link did is a HostLost, or says what to tap."""
        try:
            if self._is_doubtful:
                self._connect_anew()
            try:
                return action()
            except Refused as refused:
                if not (is_address(self._serial) and _is_away(str(refused))):
                    raise
                self._connect_anew()  # it restarted, or was never connected
                return action()
        except Refused as refused:
            raise adb_states.refusal(self._name, str(refused)) from refused
        except TimeoutError as error:
            self._is_doubtful = True
            raise self._lost(f"no answer in {deadline_s:.0f} s") from error
        except OSError as error:
            self._is_doubtful = True
            raise self._lost(str(error)) from error

    def _connect_anew(self) -> None:
        """Hang up for the adb server, and connect; a phone on a cable comes and goes by itself."""
        if is_address(self._serial):
            _disconnect(self._serial)
            told = _connect(self._serial)
            if "connected to" not in told and "authenticate" not in told:
                raise ConnectionError(adb_states.printable(told))
        self._is_doubtful = False

    def _lost(self, told: str) -> HostLost:
        return HostLost(f"{self._name} can't be reached: {told}", adb_states.away(self._name))

    def _refusal(self, argv: Sequence[str], done: adb_shell.Done) -> DeviceError:
        said = done.errors.decode("utf-8", "replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        reason = f"it ended with {done.exit_status} and gave no reason"
        told = "".join(c for c in (lines or [reason])[-1] if c.isprintable())[:300]
        if any(sign in said for sign in _FULL):
            hint = f"free some there, or: edgebench devices clean {self._name}"
            return DeviceError(f"{self._name}: the storage is full ({told})", hint)
        return DeviceError(f"{self._name}: {argv[0]}: {told}")


def is_address(serial: str) -> bool:
    """Whether a serial is of a phone on the network: adb can connect to it, and has to."""
    found = _ADDRESS.fullmatch(serial)
    return found is not None and int(found["port"] or 1) in range(1, 65536)


def _connect(address: str) -> str:
    return adb_server.answer(f"host:connect:{address}", CONNECT_S)


def _disconnect(address: str) -> None:
    with contextlib.suppress(Refused):
        adb_server.answer(f"host:disconnect:{address}")


def _is_away(reason: str) -> bool:
    return "not found" in reason or "offline" in reason


def _is_usable(serial: str) -> bool:
    return any(one.serial == serial and one.state == "device" for one in attached())


def _where() -> str:
    return "{}:{}".format(*adb_server.address())


def _on_network() -> list[str]:
    """Phones that offer wireless debugging on this network; none where adb is too old to tell."""
    try:
        told = adb_server.answer("host:mdns:services")
    except (Refused, OSError):
        return []
    found = []
    for line in told.splitlines():
        name, _, rest = line.partition("\t")
        kind, _, where = rest.partition("\t")
        way = "pair" if "pairing" in kind else "connect"
        if where:
            found.append(adb_states.printable(f"{name} (edgebench devices {way} {where})"))
    return found


@contextlib.contextmanager
def _plainly(what: str) -> Iterator[None]:
    """What adb's server does not do, as an error for the user."""
    try:
        yield
    except TimeoutError as error:
        raise HostLost(f"{what} does not answer", "adb kill-server, then once more") from error
    except Refused as refused:
        raise DeviceError(f"{what}: {adb_states.printable(str(refused))}") from refused
    except OSError as error:
        raise HostLost(f"{what} does not answer: {error}", "adb kill-server, then once more") from error
