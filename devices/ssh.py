"""A host behind SSH, by asyncssh: keys, agents, `~/.ssh/config` and known_hosts as `ssh` has them.

Nothing is ever asked: no password, no passphrase, no unknown key is taken. One connection is kept and made
again when it is gone; its event loop has a thread of its own, so that callers need know nothing of it.
"""

import asyncio
import contextlib
import re
import shlex
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgebench.core.errors import DeviceError, HostLost, MissingDependency, UsageError
from edgebench.core.host import Sent
from edgebench.devices import ssh_files
from edgebench.devices.detached import Commands

if TYPE_CHECKING:
    import asyncssh

PREFIX = "ssh:"
CONNECT_S = 15.0
"""For a connection to come up, and again for the login."""
KEEPALIVE_S = 5.0
"""Between signs of life; a link without three of them is dead."""

_ADDRESS = re.compile(
    r"ssh:(?:(?P<user>[^@\s/:]+)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@\s/:\[\]]+)(?::(?P<port>\d{1,5}))?"
)
_FULL = ("No space left", "Disk quota exceeded")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host is; what is not given is `~/.ssh/config`'s, or ssh's own default."""

    host: str
    user: str | None = None
    port_index: int | None = None


def read_address(name: str) -> Address:
    """`ssh:user@board:22` taken apart; UsageError when it is no such thing."""
    found = _ADDRESS.fullmatch(name)
    if found is None or found["host"].startswith("-") or int(found["port"] or 1) not in range(1, 65536):
        raise UsageError(f"{name!r} names no host", "ssh:board, ssh:user@board or ssh:user@board:2222")
    port = int(found["port"]) if found["port"] else None
    return Address(found["host"].strip("[]"), found["user"], port)


class SshHost(Commands):
    """`edgebench.core.host.Host` over SSH. Hang up with `close`."""

    def __init__(self, name: str) -> None:
        try:
            import asyncssh
        except ImportError as error:
            raise MissingDependency("hosts need asyncssh", 'pip install "edgebench[ssh]"') from error
        self._name = name
        self._address = read_address(name)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self._name

    def push(self, path: Path, target: str, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """Copy a file there, on from where an earlier try ended."""
        ssh_files.push(self._bytes, path, target, sha256=sha256, sent=sent, deadline_s=deadline_s)

    def pull(self, source: str, path: Path, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """Copy a file from there, on from where an earlier try ended."""
        ssh_files.pull(self._bytes, source, path, sha256=sha256, sent=sent, deadline_s=deadline_s)

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """A port here, on loopback only, that leads to a port there."""
        connection = self._wait(self._connected(), 2 * CONNECT_S)

        async def listen() -> "asyncssh.SSHListener":
            return await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", port)

        listener = self._wait(listen(), CONNECT_S)
        try:
            yield listener.get_port()
        finally:
            self._loop.call_soon_threadsafe(listener.close)

    def close(self) -> None:
        """Hang up, and end the thread."""
        if self._loop.is_closed():
            return
        ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        with contextlib.suppress(OutOfTime):
            ending.result(CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=CONNECT_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _bytes(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> bytes:
        import asyncssh

        connection = self._wait(self._connected(), 2 * CONNECT_S)
        # An empty input would be none at all: the command would wait for it.
        fed: dict[str, Any] = {"input": given} if given else {"stdin": asyncssh.DEVNULL}
        done = self._wait(connection.run(shlex.join(argv), encoding=None, **fed), deadline_s)
        if done.exit_status == 0:
            return _raw(done.stdout)
        if done.exit_status is None or done.exit_status < 0:
            self._hang_up()
            raise HostLost(f"{self._name}: the link broke while a command ran")
        raise self._refusal(argv, _raw(done.stderr).decode("utf-8", "replace"))

    def _refusal(self, argv: Sequence[str], said: str) -> DeviceError:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        told = "".join(c for c in (lines or ["it failed and gave no reason"])[-1] if c.isprintable())[:300]
        if any(sign in said for sign in _FULL):
            hint = f"free some there, or: edgebench devices clean {self._name}"
            return DeviceError(f"{self._name}: the disk is full ({told})", hint)
        return DeviceError(f"{self._name}: {argv[0]}: {told}")

    async def _connected(self) -> "asyncssh.SSHClientConnection":
        import asyncssh

        if self._connection is None or self._connection.is_closed():
            options: dict[str, Any] = {"username": self._address.user, "port": self._address.port_index}
            self._connection = await asyncssh.connect(
                self._address.host,
                **{key: value for key, value in options.items() if value is not None},
                password_auth=False,
                kbdint_auth=False,
                connect_timeout=CONNECT_S,
                login_timeout=CONNECT_S,
                keepalive_interval=KEEPALIVE_S,
                keepalive_count_max=3,
            )
        return self._connection

    def _wait(self, work: Coroutine[Any, Any, _T], deadline_s: float) -> _T:
        """A coroutine's result, in this thread; whatever the link did is a HostLost."""
        import asyncssh

        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(deadline_s)
        except OutOfTime as error:
            raise self._lost(f"no answer in {deadline_s:.0f} s") from error
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._unknown_key(str(error)) from error
        except asyncssh.PermissionDenied as error:
            raise DeviceError(
                f"{self._name} does not let this user in with any key at hand",
                f"ssh-copy-id {self._as_ssh()}; a key with a passphrase: ssh-add first",
            ) from error
        except (asyncssh.KeyImportError, asyncssh.ConfigParseError) as error:
            raise DeviceError(f"{self._name}: {error}", "see ~/.ssh/config and the keys it names") from error
        except (asyncssh.Error, OSError) as error:
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._lost(told) from error
        except BaseException:
            future.cancel()
            raise

    def _lost(self, told: str) -> HostLost:
        self._hang_up()
        return HostLost(
            f"{self._name} can't be reached: {told}", f"does `ssh {self._as_ssh()} true` work from here?"
        )

    def _unknown_key(self, told: str) -> DeviceError:
        port = f"-p {self._address.port_index} " if self._address.port_index else ""
        return DeviceError(
            f"{self._name}: its host key is not in known_hosts, or has changed ({told})",
            f"ssh-keyscan {port}{self._address.host} >> ~/.ssh/known_hosts, once you have compared the"
            " fingerprint; a key that changed: ssh-keygen -R first",
        )

    def _as_ssh(self) -> str:
        user = f"{self._address.user}@" if self._address.user else ""
        port = f"-p {self._address.port_index} " if self._address.port_index else ""
        return f"{port}{user}{self._address.host}"

    async def _end(self) -> None:
        """Close the connection and everything that waits on it."""
        if self._connection is not None:
            self._connection.abort()
            await self._connection.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._loop.call_soon_threadsafe(connection.abort)


def _raw(output: bytes | str | None) -> bytes:
    return output if isinstance(output, bytes) else b""
