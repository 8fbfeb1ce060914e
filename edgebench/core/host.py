"""Another computer as edgebench needs it: commands, detached jobs, files, a port.

Commands are argument lists; whoever implements this quotes them. Every call has a deadline of its own and
may be made again after it failed: nothing is done twice that must not be.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

Sent = Callable[[int], None]
"""Told how many bytes of the file are across by now."""


class JobState(StrEnum):
    """Where a detached job stands."""

    ABSENT = "absent"
    """Never started."""
    RUNNING = "running"
    OVER = "over"
    """It ended by itself: its exit status is there."""
    DEAD = "dead"
    """It was killed outright, or its computer went down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLook:
    """A glance at a detached job."""

    state: JobState
    exit_status: str | None
    """`0`, `1`, … of a job that is over."""
    output: bytes
    """What it wrote from the offset on; perhaps not all of it yet."""


class Host(Protocol):
    """A computer that can be reached. All calls raise HostLost when it can't, DeviceError when it refuses."""

    @property
    def name(self) -> str:
        """What the user calls it: `ssh:pi@board`."""

    def run(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> str:
        """Run a command to its end, `given` on its input; its output. DeviceError when it fails."""

    def start(self, argv: Sequence[str], *, root: str, job: str, deadline_s: float = 60.0) -> str | None:
        """Start a job that outlives the link, in `root/runs/job`; one at a time under a root.

        None when it was started, else the name of the job that runs already.
        """

    def look(self, *, root: str, job: str, offset: int, deadline_s: float = 60.0) -> JobLook:
        """How a job is doing, and what it wrote from byte `offset` on."""

    def stop(self, *, root: str, job: str, deadline_s: float = 60.0) -> None:
        """Ask a job, and all it started, to end; nothing when it does not run."""

    def push(self, path: Path, target: str, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """Copy a file there: goes on where an earlier try ended; it appears whole, its hash checked.

        The deadline is that of each piece, and of the check.
        """

    def pull(self, source: str, path: Path, *, sha256: str, sent: Sent, deadline_s: float = 120.0) -> None:
        """Copy a file from there, in the same way."""

    def forward(self, port: int) -> AbstractContextManager[int]:
        """A port on this computer that leads to a port there, on its loopback."""

    def close(self) -> None:
        """Hang up; jobs go on."""
