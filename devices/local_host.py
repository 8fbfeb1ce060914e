"""This computer as a host: what works on a phone or a board can be tried here, by the same scripts."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgebench.core.errors import DeviceError
from edgebench.core.hashing import sha256_file
from edgebench.core.host import Sent
from edgebench.core.paths import atomic_path
from edgebench.devices.detached import Commands


class LocalHost(Commands):
    """`edgebench.core.host.Host` on this computer: there is no link to lose."""

    name = "this computer"

    def push(self, path: Path, target: str, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """A link to the file where one can be made, else a copy."""
        there = Path(target)
        if there.exists() and sha256_file(there) == sha256:
            return
        with atomic_path(there) as part:
            try:
                os.link(path.resolve(), part)
            except OSError:
                shutil.copy2(path, part)
        sent(path.stat().st_size)

    def pull(self, source: str, path: Path, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """A copy."""
        with atomic_path(path) as part:
            shutil.copyfile(source, part)
        sent(path.stat().st_size)

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """The port itself."""
        yield port

    def close(self) -> None:
        """There is nothing to hang up."""

    def _bytes(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> bytes:
        try:
            done = subprocess.run(argv, input=given, capture_output=True, timeout=deadline_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DeviceError(f"{argv[0]} can't be run here: {error}") from error
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise DeviceError(f"{argv[0]}: {lines[-1] if lines else f'it ended with {done.returncode}'}")
        return done.stdout
