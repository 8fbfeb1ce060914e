"""A real OpenSSH server for tests: keys and configuration of its own, on a port of its own.

Where the system allows it (root), it stands in a network namespace behind a veth pair, so that its cable can
be pulled; elsewhere on loopback, where only its connections can be cut.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")


class SshServer:
    """An sshd, the home of a user who may log in, and that user's way there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.board = folder / "board"
        (self.home / ".ssh").mkdir(parents=True)
        self.board.mkdir()
        self.name = f"eb{os.getpid() % 10000}{id(self) % 97}"
        self.cable = _lay_cable(self.name)
        self.host = self.cable or "127.0.0.1"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._write()
        self.start()

    @property
    def device(self) -> str:
        """As a user names it."""
        return f"ssh:{self.host}:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where its unprivileged half lives; a service makes it
        command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if self.cable:
            command = ["ip", "netns", "exec", self.name, *command]
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text(encoding="utf-8"))

    def kill(self) -> None:
        """Kill the server and every session of it, as a crash would; what sessions started goes on."""
        if self._process is None:
            return
        victims = [psutil.Process(self._process.pid)]
        victims += [p for p in victims[0].children(recursive=True) if p.name().startswith("sshd")]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self._process.wait()
        self._process = None

    def cut(self) -> None:
        """Pull the cable; where there is none, cut every connection."""
        if self.cable:
            _ip("link", "set", f"{self.name}a", "down")
        else:
            self.drop()

    def mend(self) -> None:
        """Put the cable back."""
        if self.cable:
            _ip("link", "set", f"{self.name}a", "up")

    def drop(self) -> None:
        """Kill the sessions, and leave the server."""
        if self._process is not None:
            for session in psutil.Process(self._process.pid).children():
                for process in [*session.children(recursive=True), session]:
                    if process.name().startswith("sshd"):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.send_signal(signal.SIGKILL)

    def small_disk(self, folder: Path) -> bool:
        """Put a disk of 8 MiB over a folder, for the server and what it starts; False where that can't be."""
        if not self.cable or self._process is None:
            return False
        inside = ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt"]  # a namespace has mounts of its own
        mount = [*inside, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """Stop everything, and take the cable away."""
        self.kill()
        if self.cable:
            _ip("netns", "del", self.name)

    def _write(self) -> None:
        for name in ("host_key", "user_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True
            )
        shutil.copy(self.folder / "user_key", self.home / ".ssh" / "id_ed25519")
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        (self.folder / "sshd_config").write_text(
            f"ListenAddress {self.host}\nPort {self.port}\nHostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv HOME={self.board}\nLogLevel ERROR\n",
            encoding="utf-8",
        )
        self.trust()

    def trust(self) -> None:
        """Put the host's key where the user's ssh looks for it."""
        key = (self.folder / "host_key.pub").read_text(encoding="utf-8")
        known = self.home / ".ssh" / "known_hosts"
        known.write_text(f"[{self.host}]:{self.port} {key}", encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lay_cable(name: str) -> str | None:
    """A namespace and a veth pair into it; the address at its end, None where that is not permitted."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return None
    taken = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=False).stdout
    net = next(n for i in range(250) if f"10.213.{(n := 1 + (os.getpid() + i) % 250)}." not in taken)
    steps = [
        ("netns", "add", name),
        ("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b"),
        ("link", "set", f"{name}b", "netns", name),
        ("addr", "add", f"10.213.{net}.1/24", "dev", f"{name}a"),
        ("link", "set", f"{name}a", "up"),
        ("-n", name, "addr", "add", f"10.213.{net}.2/24", "dev", f"{name}b"),
        ("-n", name, "link", "set", f"{name}b", "up"),
        ("-n", name, "link", "set", "lo", "up"),
    ]
    for step in steps:
        if not _ip(*step):
            _ip("netns", "del", name)
            return None
    return f"10.213.{net}.2"


def _ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
