"""A host across a link that may break: every step is tried again for some minutes, a job is followed."""

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from edgebench.core.errors import DeviceError, HostLost, UsageError
from edgebench.core.host import Host, JobLook, JobState
from edgebench.session_cell import Watcher

PATIENCE_S = 300.0
"""For a host that was there and is gone; EDGEBENCH_HOST_PATIENCE names another."""
LOOK_S = 0.5
LOOK_AT_MOST_S = 5.0
"""Between looks at a job: rarer while it says nothing, since each takes a little of the host's time."""

_T = TypeVar("_T")


class Link:
    """A host, and the patience with it."""

    def __init__(self, host: Host, watcher: Watcher) -> None:
        self.host = host
        self._watcher = watcher
        self._patience_s = _patience_s()
        self._met = False

    def __call__(self, action: Callable[[], _T]) -> _T:
        """What the action yields, tried again while the link is down; HostLost when that lasts too long.

        A host that never answered is not waited for.
        """
        began_s, pause_s, lost = time.monotonic(), 1.0, False
        while True:
            try:
                result = action()
            except HostLost as error:
                if not self._met or time.monotonic() - began_s > self._patience_s:
                    raise self._given_up(error) from error
                if not lost:
                    self._watcher.say(f"{error.message}; trying again, what runs there goes on")
                lost = True
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 30.0)
            else:
                if lost:
                    self._watcher.say(f"{self.host.name} is back")
                self._met = True
                return result

    def run(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> str:
        """A command that may be run twice; its output."""
        return self(lambda: self.host.run(argv, given=given, deadline_s=deadline_s))

    def put(self, target: str, text: str) -> None:
        """A small file, whole or not at all."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1.part" && mv "$1.part" "$1"'
        self.run(["sh", "-c", script, "sh", target], given=text.encode())

    def do(
        self, argv: Sequence[str], *, root: str, job: str, hear: Callable[[bytes], None] = lambda _: None
    ) -> JobLook:
        """Run a detached job to its end, or follow it when it runs already; DeviceError for a busy host."""
        running = self(lambda: self.host.start(argv, root=root, job=job))
        if running not in (None, job):
            raise self._busy(running)
        return self.follow(root=root, job=job, hear=hear)

    def check_idle(self, root: str, *, but: str) -> None:
        """DeviceError when a job runs there, unless it is `but`: not even files are sent beside one."""
        script = '[ ! -e "$1/lock" ] || flock -n 9 9>>"$1/lock" || cat "$1/current"'
        running = self.run(["sh", "-c", script, "sh", root]).strip()
        if running not in ("", but):
            raise self._busy(running)

    def follow(self, *, root: str, job: str, hear: Callable[[bytes], None]) -> JobLook:
        """Hear every line a job writes, from its first, until it is over."""
        offset, rest, pause_s = 0, b"", LOOK_S
        while True:
            look = self(lambda: self.host.look(root=root, job=job, offset=offset))  # noqa: B023 - called now
            offset += len(look.output)
            *lines, rest = (rest + look.output).split(b"\n")
            for line in lines:
                hear(line)
            if look.output:
                pause_s = LOOK_S
            elif look.state is not JobState.RUNNING:
                return look
            else:
                time.sleep(pause_s)
                pause_s = min(1.5 * pause_s, LOOK_AT_MOST_S)

    def _busy(self, job: str | None) -> DeviceError:
        return DeviceError(
            f"{self.host.name} is busy with another command of edgebench ({job})",
            "wait for it, or stop it where it was started: two at once would spoil each other",
        )

    def _given_up(self, error: HostLost) -> HostLost:
        if not self._met:
            return error
        return HostLost(
            f"{error.message}, for {self._patience_s:.0f} s now",
            "what runs there goes on; the same command finds it again",
        )


def _patience_s() -> float:
    told = os.environ.get("EDGEBENCH_HOST_PATIENCE")
    try:
        return float(told) if told else PATIENCE_S
    except ValueError:
        raise UsageError(f"EDGEBENCH_HOST_PATIENCE is {told!r}, not a number of seconds") from None
