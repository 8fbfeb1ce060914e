"""`run --device ssh:user@board`: the same request, done by edgebench on the host, its results brought here.

The host works on its own: a job there outlives the link, this process and the ssh server. Whoever gives
the same command again finds the job, or what it left, and nothing is measured twice.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench import __version__
from edgebench.core import errors
from edgebench.core.errors import DeviceError, EdgebenchError, HostLost, RunFailed, UsageError
from edgebench.core.hashing import sha256_json
from edgebench.core.host import JobLook, JobState
from edgebench.devices.ssh import PREFIX, SshHost
from edgebench.results.merge import merge
from edgebench.results.store import Store
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_git import git_state
from edgebench.session_plan import Request
from edgebench.session_remote_cargo import Cargo, cargo_of, push_cargo
from edgebench.session_remote_deploy import (
    INSTALL_JOB,
    Board,
    deploy,
    find_board,
    json_of,
    prepare,
    worker_command,
)
from edgebench.session_remote_link import Link
from edgebench.session_remote_request import needs_llama, request_as_json
from edgebench.session_reproduce import command_of

AGAIN = "what was measured is stored; the same command goes on from there"


def is_remote(device: str) -> bool:
    """Whether a device's name is a host's."""
    return device.startswith(PREFIX)


@contextmanager
def reach(name: str, watcher: Watcher) -> Iterator[Link]:
    """A link to a host; jobs there go on when it is left."""
    host = SshHost(name)
    try:
        yield Link(host, watcher)
    finally:
        host.close()


def execute_remote(requests: Sequence[Request], store: Store, watcher: Watcher) -> Outcome:
    """Do requests on their host, bring the results into `store`: what `session.execute_all` does here.

    Raises HostLost when the host stays away (its job goes on), DeviceError for what the host can't,
    KeyboardInterrupt once the job there has been stopped and its results are here.
    """
    if len(names := {request.device for request in requests}) != 1:
        raise UsageError(f"these runs are of {len(names)} hosts", "one host at a time")
    with reach(requests[0].device, watcher) as link:
        board = find_board(link)
        cargo = [cargo_of(request, board.root, watcher) for request in requests]
        job = _Job.of(requests, cargo)
        look = link(lambda: link.host.look(root=board.root, job=job.name, offset=0))
        if look.state is JobState.RUNNING:
            watcher.say(f"{link.host.name} is at it already: following")
            python = job.python_there(link, board)
        else:
            link.check_idle(board.root, but=INSTALL_JOB)
            engine = any(needs_llama(one.request) for one in cargo)
            python = deploy(link, board, watcher, engine=engine)
            push_cargo(link, board.root, cargo, watcher)
            job.send(link, board, python)
        return _Followed(link, board, job, python, store, watcher).outcome()


@dataclass(frozen=True, slots=True)
class _Job:
    """What the worker is told; its name follows from it, so the same command finds the same job."""

    told: dict[str, Any]

    @classmethod
    def of(cls, requests: Sequence[Request], cargo: Sequence[Cargo]) -> "_Job":
        commit, dirty = git_state()
        plans = [
            {"command": command_of(request), "request": request_as_json(one.request)}
            for request, one in zip(requests, cargo, strict=True)
        ]
        return cls({"version": __version__, "git_commit": commit, "git_dirty": dirty, "plans": plans})

    @property
    def name(self) -> str:
        return sha256_json([self.told["version"], *(plan["request"] for plan in self.told["plans"])])[:16]

    def send(self, link: Link, board: Board, python: str) -> None:
        """Put it where the worker reads it."""
        link.put(f"{board.root}/runs/{self.name}/job.json", json.dumps({**self.told, "python": python}))

    def python_there(self, link: Link, board: Board) -> str:
        """The interpreter a running job was started with."""
        told = json_of(link, ["cat", f"{board.root}/runs/{self.name}/job.json"])
        return str(told.get("python"))


@dataclass(slots=True)
class _Followed:
    """A job that is started, or found running, and heard to its end."""

    link: Link
    board: Board
    job: _Job
    python: str
    store: Store
    watcher: Watcher
    _outcome: Outcome | None = field(default=None, init=False)
    _error: EdgebenchError | None = field(default=None, init=False)

    def outcome(self) -> Outcome:
        """What came of it, once its results are here."""
        root, name = self.board.root, self.job.name
        stopped = False
        try:
            command = worker_command(self.board, self.python, "run", root, name)
            look = self.link.do(command, root=root, job=name, hear=self._hear)
        except KeyboardInterrupt:
            stopped = True
            look = self._stop()
        self._collect()
        if stopped:
            raise KeyboardInterrupt
        if self._outcome is not None:
            return self._outcome
        raise self._error or self._death(look)

    def _stop(self) -> JobLook:
        self.watcher.say(f"stopping what runs on {self.link.host.name}; Ctrl-C again leaves it to itself")
        root, name = self.board.root, self.job.name
        self.link(lambda: self.link.host.stop(root=root, job=name))
        return self.link.follow(root=root, job=name, hear=lambda _: None)

    def _collect(self) -> None:
        """The job's runs from the host's database into ours."""
        command = worker_command(self.board, self.python, "collect", self.board.root, self.job.name)
        told = json_of(self.link, command)
        path, digest = told.get("path"), told.get("sha256")
        if not isinstance(path, str) or not isinstance(digest, str):
            return  # it ended before there was a database
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "collected.sqlite"
            self.link(lambda: self.link.host.pull(path, target, sha256=digest, sent=lambda _: None))
            merged = merge(self.store, target)
        self.watcher.say(f"from {self.link.host.name}: {merged.told}")

    def _hear(self, line: bytes) -> None:
        """Pass a message of the worker's on; what is none is passed over."""
        try:
            match json.loads(line):
                case {"say": str(text)}:
                    self.watcher.say(_printable(text))
                case {"stage": [str(title), int(n_steps), int() | None as n_units]}:
                    self.watcher.stage(_printable(title), n_steps, n_units)
                case {"step": [str(note), int(n_steps), int() | None as n_units]}:
                    self.watcher.step(_printable(note), n_steps, n_units)
                case {"outcome": {"run_ids": list(run_ids), "failures": list(bad), "invalid": list(invalid)}}:
                    self._outcome = Outcome(
                        run_ids=[[str(run_id) for run_id in ids] for ids in run_ids],
                        failures=[_printable(str(told)) for told in bad],
                        invalid=[_printable(str(told)) for told in invalid],
                    )
                case {"error": [str(kind), str(message), str() | None as hint]}:
                    self._error = _error(kind, _printable(message), hint and _printable(hint))
        except (ValueError, RecursionError):
            pass  # what an engine printed, or the end of a killed worker's line

    def _death(self, look: JobLook) -> EdgebenchError:
        if look.state is JobState.OVER and look.exit_status == "130":
            return RunFailed(f"the run was stopped on {self.link.host.name}", AGAIN)
        errors_there = f"{self.board.root}/runs/{self.job.name}/errors"
        said = self.link.run(["sh", "-c", 'tail -n 1 "$1" 2>/dev/null || true', "sh", errors_there])
        told = f": {_printable(said.strip())}" if said.strip() else ""
        how = (
            f"ended with status {look.exit_status}"
            if look.exit_status
            else "was killed, or the host restarted"
        )
        return RunFailed(f"the run on {self.link.host.name} {how}{told}", AGAIN)


def probe_host(name: str, watcher: Watcher) -> dict[str, Any]:
    """What `devices probe` says on a host."""
    with reach(name, watcher) as link:
        board = find_board(link)
        python = deploy(link, board, watcher, engine=False)
        return json_of(link, worker_command(board, python, "probe"))


def host_folder(name: str, watcher: Watcher) -> tuple[str, int]:
    """Everything edgebench keeps on a host: the folder and its bytes, 0 where there is none."""
    with reach(name, watcher) as link:
        root = find_board(link).root
        told = link.run(["sh", "-c", 'du -sk "$1" 2>/dev/null || true', "sh", root], deadline_s=600).split()
        return root, 1024 * int(told[0]) if told and told[0].isdecimal() else 0


def clean_host(name: str, watcher: Watcher) -> None:
    """Remove that folder; DeviceError while something runs there, or when it isn't edgebench's."""
    script = (
        'flock -n 9 9>>"$1/lock" || { echo busy; exit 0; }\n'
        '[ -f "$1/.edgebench-host" ] && rm -rf -- "$1" && echo removed'
    )
    with reach(name, watcher) as link:
        root = find_board(link).root
        prepare(link, root)
        if link.run(["sh", "-c", script, "sh", root], deadline_s=600).strip() != "removed":
            raise DeviceError(
                f"{name}: edgebench is at work there",
                "wait for it, or stop it with Ctrl-C where it was started",
            )


def _error(kind: str, message: str, hint: str | None) -> EdgebenchError:
    """An error of the worker's as what it is; a name that is none of ours is a failed run."""
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, EdgebenchError) and known is not HostLost:
        return known(message, hint)
    return RunFailed(message, hint)


def _printable(text: str) -> str:
    """Text of another computer without what would steer a terminal."""
    return "".join(c for c in text if c.isprintable())
