"""The other end: edgebench on a host, told by a client what to do.

`python -m edgebench.session_remote_worker` and

    facts                      what a client must know of this installation, as JSON
    probe                      what `devices probe` says here, as JSON
    run ROOT JOB               do ROOT/runs/JOB/job.json, and tell how it goes in lines of JSON:
                               {"say": line}  {"stage": [title, n_steps, n_units]}
                               {"step": [note, n_steps, n_units]}, and last {"outcome": …} or {"error": …}
    collect ROOT JOB           the job's runs into a database of their own; its size and sha256 as JSON

Results stand in ROOT/edgebench.sqlite, so the same job again does only what is missing.
"""

import json
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgebench import __version__
from edgebench.core.errors import EdgebenchError
from edgebench.core.hashing import sha256_file
from edgebench.results.merge import merge
from edgebench.results.store import Store
from edgebench.runners import engine_build

if TYPE_CHECKING:  # a small board takes seconds to load them, and only a run needs them
    from edgebench.session_cell import Outcome
    from edgebench.session_plan import Plan, Request

EXIT_INTERRUPTED = 130


class Lines:
    """A watcher whose messages are lines of JSON, for the one who follows the job."""

    def __init__(self) -> None:
        # Whatever an engine prints must not end up between the messages.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def tell(self, **message: object) -> None:
        """One message, at once."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def say(self, line: str) -> None:
        """A line for people."""
        self.tell(say=line)

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None:
        """A part of the work begins."""
        self.tell(stage=[title, n_steps, n_units])

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None:
        """Some of it is done."""
        self.tell(step=[note, n_steps, n_units])


def run(root: Path, job: str) -> int:
    """Do a job and tell how it goes; the exit status."""
    from edgebench.session import execute_all
    from edgebench.session_plan import make_plan
    from edgebench.session_remote_request import needs_llama, request_from_json

    lines = Lines()

    def stop(_signal: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    folder = root / "runs" / job
    (folder / "outcome.json").unlink(missing_ok=True)
    try:
        told = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        requests = [request_from_json(one["request"]) for one in told["plans"]]
        if any(needs_llama(request) for request in requests):
            _ensure_engine(lines)
        plans = [_over_ssh(make_plan(request)) for request in requests]
        with Store.open(root / "edgebench.sqlite") as store:
            outcome = execute_all(plans, store, lines)
            _name_origins(store, told, requests, outcome)
        (folder / "outcome.json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        lines.tell(outcome=asdict(outcome))
    except EdgebenchError as error:
        lines.tell(error=[type(error).__name__, error.message, error.hint])
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _over_ssh(plan: "Plan") -> "Plan":
    return replace(plan, device=replace(plan.device, transport="ssh"))


def _ensure_engine(lines: Lines) -> None:
    """llama-cpp-python, from a wheel the client pushed, or built here: minutes, with progress."""
    n_done = 0

    def progress(done: int, total: int) -> None:
        nonlocal n_done
        if not n_done:
            lines.stage("building llama-cpp-python", total)
        lines.step("compiled", done - n_done)
        n_done = done

    engine_build.ensure(lines.say, progress)


def _name_origins(
    store: Store, told: Mapping[str, Any], requests: "Sequence[Request]", outcome: "Outcome"
) -> None:
    """Runs made by this job are remembered with the client's command and code, not with this end's."""
    from edgebench.session_reproduce import command_of

    asked = {
        command_of(request): plan["command"] for request, plan in zip(requests, told["plans"], strict=True)
    }
    code = {"git_commit": told["git_commit"], "git_dirty": told["git_dirty"]}
    for run_id in {run_id for run_ids in outcome.run_ids for run_id in run_ids}:
        if command := asked.get(store.run(run_id).command or ""):
            store.set_origin(run_id, command=command, **code)


def collect(root: Path, job: str) -> dict[str, Any]:
    """The job's runs in `collected.sqlite`; all of the host's where it ended before it could tell."""
    folder = root / "runs" / job
    try:
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        only = {run_id for run_ids in outcome["run_ids"] for run_id in run_ids}
    except FileNotFoundError:
        only = None
    source, target = root / "edgebench.sqlite", folder / "collected.sqlite"
    if not source.is_file():
        return {"size_bytes": 0}
    for leaving in folder.glob(".part-*"):
        leaving.unlink()  # of a collection that was cut short
    part = folder / f".part-{os.getpid()}.sqlite"
    with Store.open(part) as store:
        merge(store, source, only)
    part.replace(target)
    return {"size_bytes": target.stat().st_size, "sha256": sha256_file(target), "path": str(target)}


def facts() -> dict[str, Any]:
    """The version, and which build of the engine would run here."""
    try:
        engine = engine_build.wheel_key(engine_build.pinned_version())
    except EdgebenchError:
        engine = None
    return {"version": __version__, "engine_key": engine, "libc": list(platform.libc_ver())}


def main(words: Sequence[str]) -> int:
    """Do what the words say."""
    match words:
        case ["facts"]:
            print(json.dumps(facts()))  # noqa: T201 - the client reads it
        case ["probe"]:
            from edgebench.session_catalog import probe_meters, probe_state

            print(json.dumps({"meters": probe_meters(), "state": probe_state()}))  # noqa: T201
        case ["collect", root, job]:
            print(json.dumps(collect(Path(root), job)))  # noqa: T201
        case ["run", root, job]:
            return run(Path(root), job)
        case _:
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
