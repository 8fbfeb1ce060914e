"""The adb server of this computer: started when it is not there, asked in its own words, by a deadline.

Every phone is reached through it. A client sends a request with its length before it; the answer is OKAY, or
FAIL and why. The server takes a dead link for alive and lets its clients wait for ever, so each connection
here has a moment by which everything on it must be over.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from edgebench.core.errors import DeviceError, MissingDependency, UsageError

PORT = 5037
ANSWER_S = 10.0
"""For what the server knows by itself."""
START_S = 20.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(Exception):
    """The server, or the phone through it, said FAIL; the text is its reason."""


class Wire:
    """A connection to the adb server: TimeoutError when its time is over, ConnectionError when it breaks."""

    def __init__(self, connection: socket.socket, ends_s: float) -> None:
        self.socket = connection
        self._ends_s = ends_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def left_s(self) -> float:
        """How much time there still is; TimeoutError when there is none."""
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def ask(self, request: str) -> None:
        """Make a request, and wait for its OKAY; Refused when it fails."""
        told = request.encode("utf-8", "surrogateescape")
        if len(told) > 0xFFFF:
            raise DeviceError(f"a command of {len(told)} bytes is too long for adb")
        self.socket.settimeout(self.left_s())
        self.socket.sendall(f"{len(told):04x}".encode() + told)
        self.okay()

    def okay(self) -> None:
        """Wait for OKAY; Refused for FAIL."""
        word = self.exactly(4)
        if word == b"FAIL":
            raise Refused(self.text())
        if word != b"OKAY":
            raise ConnectionError("what listens there does not speak adb's language")

    def text(self) -> str:
        """A text that has its length before it; some services say OKAY or FAIL once more, before that."""
        while (told := self.exactly(4)) == b"OKAY":
            pass
        if told == b"FAIL":
            raise Refused(self.text())
        try:
            size_bytes = int(told, 16)
        except ValueError:
            raise ConnectionError("what listens there does not speak adb's language") from None
        return self.exactly(size_bytes).decode("utf-8", "replace")

    def exactly(self, n_bytes: int) -> bytes:
        """So many bytes."""
        got = bytearray()
        while len(got) < n_bytes:
            self.socket.settimeout(self.left_s())
            piece = self.socket.recv(n_bytes - len(got))
            if not piece:
                raise ConnectionError("the connection was closed")
            got += piece
        return bytes(got)


def address() -> tuple[str, int]:
    """Where the server listens, or would: `ANDROID_ADB_SERVER_ADDRESS` and `_PORT`, as adb has them."""
    host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS") or LOOPBACK[0]
    told = os.environ.get("ANDROID_ADB_SERVER_PORT") or str(PORT)
    if not told.isdecimal() or not 0 < int(told) < 65536:
        raise UsageError(f"ANDROID_ADB_SERVER_PORT is {told!r}, not a port", f"{PORT} is the usual one")
    return host, int(told)


@contextlib.contextmanager
def asked(request: str, deadline_s: float = ANSWER_S) -> Iterator[Wire]:
    """A connection on which a request was granted; what follows on it has what is left of the deadline.

    Raises Refused, TimeoutError, ConnectionError, and DeviceError where there is no server and none starts.
    """
    connection = _connected()
    with Wire(connection, time.monotonic() + deadline_s) as wire:
        wire.ask(request)
        yield wire


def answer(request: str, deadline_s: float = ANSWER_S) -> str:
    """What the server answers to a request."""
    with asked(request, deadline_s) as wire:
        return wire.text()


def _connected() -> socket.socket:
    where = address()
    try:
        return socket.create_connection(where, ANSWER_S)
    except TimeoutError:
        pass
    except OSError:
        if where[0] in LOOPBACK:
            _start(where[1])
            with contextlib.suppress(OSError):
                return socket.create_connection(where, ANSWER_S)
    raise DeviceError(
        f"no adb server answers at {where[0]}:{where[1]}",
        "start it: adb start-server; or see ANDROID_ADB_SERVER_ADDRESS and ANDROID_ADB_SERVER_PORT",
    )


def _start(port_index: int) -> None:
    """Start adb's server; it stays, as it does after any adb command."""
    program = find_adb()
    if program is None:
        raise MissingDependency("phones need adb, and there is none", 'pip install "edgebench[android]"')
    environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(port_index)}
    with tempfile.TemporaryFile() as told:  # a pipe would stay open in the server
        try:
            done = subprocess.run(
                [program, "start-server"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                timeout=START_S,
                check=False,
                start_new_session=True,  # an interrupt here is not for the server
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DeviceError(f"adb's server does not start: {error}") from error
        if done.returncode:
            told.seek(0)
            lines = told.read(10_000).decode("utf-8", "replace").split("\n")
            reason = next(
                (line for line in lines if "rror" in line or "annot" in line), f"rc {done.returncode}"
            )
            raise DeviceError(
                f"adb's server does not start at port {port_index}: {reason.strip()}",
                f"what does `{program}` say?",
            )


def find_adb() -> str | None:
    """The program: the one adbutils brings, since older ones know no pairing; else the one in PATH."""
    try:
        spec = importlib.util.find_spec("adbutils")
    except ValueError:
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        brought = Path(folder) / "binaries" / ("adb.exe" if os.name == "nt" else "adb")
        if brought.is_file() and os.access(brought, os.X_OK) and _runs(str(brought)):
            return str(brought)
    return shutil.which("adb")


def _runs(program: str) -> bool:
    """Whether it runs here: a wheel may carry a program of another kind of computer."""
    try:
        done = subprocess.run([program, "version"], capture_output=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
