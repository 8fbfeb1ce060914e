"""Jobs that outlive the link, on any host with a POSIX shell, flock and setsid.

* ROOT/lock is held by the one job that runs; whoever holds it lives, so no pid is ever guessed.
* ROOT/current has that job's name.
* ROOT/runs/JOB/ has its pid, its log (what it prints), its errors, and rc: its exit status, written last.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from edgebench.core.errors import DeviceError
from edgebench.core.host import JobLook, JobState

LOOK_BYTES = 2**20
"""Of a log, at most, in one look."""

# The lock is inherited by the job. It is opened by a redirection of the group, since mksh keeps to itself
# what `exec 9>>` opens; and flock is given the descriptor, since toybox's takes no file. A command in the
# background ignores SIGINT, so jobs are stopped by SIGTERM; its shell outlives that to write the exit status.
_START = r"""
mkdir -p "$1/runs/$2" && cd "$1/runs/$2" || exit 1
{
  flock -n 9 || { echo "busy $(cat "$1/current")"; exit 0; }
  rm -f rc pid && : >log && : >errors && echo "$2" >"$1/current" || exit 1
  shift 2
  setsid sh -c 'echo $$ >pid; trap : TERM HUP; "$@" >>log 2>>errors; echo $? >rc.part; mv rc.part rc' \
    sh "$@" </dev/null >/dev/null 2>&1 &
  echo started
} 9>>"$1/lock"
"""
_LOOK = r"""
cd "$1/runs/$2" 2>/dev/null || { echo absent; exit 0; }
state() {
  if [ -f rc ]; then echo "over $(cat rc)"; return 0; fi
  return 1
}
ours=no; [ "$(cat "$1/current" 2>/dev/null)" = "$2" ] && ours=yes
if ! state; then
  if [ $ours = yes ] && ! flock -n 9 9>>"$1/lock"; then echo running
  elif ! state; then if [ -f log ]; then echo dead; else echo absent; fi; fi
fi
[ ! -f log ] || tail -c "+$(($3 + 1))" log | head -c "$4"
"""
_STOP = r"""
cd "$1/runs/$2" 2>/dev/null || exit 0
[ "$(cat "$1/current")" = "$2" ] && ! flock -n 9 9>>"$1/lock" && [ -s pid ] || exit 0
kill -s TERM -- "-$(cat pid)" 2>/dev/null || true
"""


def start_command(argv: Sequence[str], *, root: str, job: str) -> list[str]:
    """The command that starts a job; `read_start` understands what it says."""
    return ["sh", "-c", _START, "sh", root, job, *argv]


def read_start(told: str) -> str | None:
    """None when the job was started, else the name of the one that runs."""
    word, _, name = told.strip().partition(" ")
    if word == "started":
        return None
    if word == "busy":
        return name or "unknown"
    raise DeviceError(f"a job did not start: {told.strip()[:200]!r}")


def look_command(*, root: str, job: str, offset: int) -> list[str]:
    """The command that looks at a job; `read_look` understands what it says."""
    return ["sh", "-c", _LOOK, "sh", root, job, str(offset), str(LOOK_BYTES)]


def read_look(told: bytes) -> JobLook:
    """The first line is the state, all after it the log."""
    line, _, output = told.partition(b"\n")
    word, _, status = line.decode("utf-8", "replace").partition(" ")
    if word not in set(JobState):
        raise DeviceError(f"a job's state is not understood: {line[:200]!r}")
    return JobLook(state=JobState(word), exit_status=status or None, output=output)


def stop_command(*, root: str, job: str) -> list[str]:
    """The command that asks a job and its children to end."""
    return ["sh", "-c", _STOP, "sh", root, job]


class Commands(ABC):
    """The part of `core.host.Host` that is commands alone, whatever carries them."""

    @abstractmethod
    def _bytes(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> bytes:
        """Run a command to its end; its output. HostLost for the link, DeviceError for the command."""

    def run(self, argv: Sequence[str], *, given: bytes = b"", deadline_s: float = 60.0) -> str:
        """Run a command to its end; its output. HostLost for the link, DeviceError for the command."""
        return self._bytes(argv, given=given, deadline_s=deadline_s).decode("utf-8", "replace")

    def start(self, argv: Sequence[str], *, root: str, job: str, deadline_s: float = 60.0) -> str | None:
        """Start a job that outlives the link; the job that runs already, if there is one."""
        return read_start(self.run(start_command(argv, root=root, job=job), deadline_s=deadline_s))

    def look(self, *, root: str, job: str, offset: int, deadline_s: float = 60.0) -> JobLook:
        """How a job is doing, and its log from `offset` on."""
        command = look_command(root=root, job=job, offset=offset)
        return read_look(self._bytes(command, deadline_s=deadline_s))

    def stop(self, *, root: str, job: str, deadline_s: float = 60.0) -> None:
        """Ask a job and all it started to end."""
        self.run(stop_command(root=root, job=job), deadline_s=deadline_s)
