"""An adb server for one run of tests: a port, a home and a key of its own, and no look at USB."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from stand_in.packages import NotHere
from stand_in.setup import HOW

MISLEADING = ("ANDROID_SERIAL", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_HOST", "ADB_SERVER_SOCKET")
"""What would lead to another server, or to one phone of several."""


class AdbServer:
    """The developer's own adb server, key and phones are not touched. It ends with this process."""

    def __init__(self, home: Path) -> None:
        if shutil.which("adb") is None:
            raise NotHere(f"adb is not there: {HOW}")
        self.home = home
        self.port = _free_port()
        self.variables = {
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "ADB_VENDOR_KEYS": str(self._key()),
            "ADB_USB": "0",
            "ADB_EMU": "0",
        }
        """What leads other processes to it; HOME is left to them, for it leads to more than adb's key."""
        kept = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        self.environment = {**kept, **self.variables, "HOME": str(home)}
        subprocess.run(
            ["adb", "keygen", str(self._key())],
            env=self.environment,
            capture_output=True,
            check=True,
            timeout=30,
        )
        self.start()

    @property
    def public_key(self) -> str:
        """What a phone has to know, to let this server in."""
        return self._key().with_suffix(".pub").read_text(encoding="utf-8")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self.home / "adb.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "adb", "nodaemon", "server"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError(
            f"adb's server does not start: {(self.home / 'adb.log').read_text(encoding='utf-8')[-200:]}"
        )

    def close(self) -> None:
        """End it, also one that some adb started in its place."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["adb", "kill-server"], env=self.environment, capture_output=True, check=False, timeout=10
            )
        self._process.kill()
        self._process.wait()

    def _key(self) -> Path:
        (self.home / ".android").mkdir(parents=True, exist_ok=True)
        return self.home / ".android" / "adbkey"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
