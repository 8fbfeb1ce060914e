"""One job on one artifact and the run that records it: what the measuring halves of a session share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgebench.core import registry
from edgebench.core.engine import Prepares, Runner
from edgebench.core.errors import EdgebenchError, InvalidRun, RunFailed, StoreError
from edgebench.core.tool_env import ensure_tool
from edgebench.core.types import Artifact, Format, Mode, Status
from edgebench.results.performance_summary import invalid_reason
from edgebench.results.store import Store
from edgebench.results.summary import summarise
from edgebench.session_child import Child
from edgebench.session_job import Job
from edgebench.session_plan import Plan


class Watcher(Protocol):
    """Who is told how it goes."""

    def say(self, line: str) -> None:
        """A line for people."""

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None:
        """A part of the work begins; units are what its time goes by, where steps differ in size."""

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None:
        """Some of it is done."""


@dataclass(slots=True)
class Outcome:
    """What came of a plan."""

    run_ids: list[list[str]] = field(default_factory=list)
    """The runs of each plan, done now or before."""
    failures: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)

    def fail(self, error: EdgebenchError, watcher: Watcher, what: str = "") -> None:
        """Take note of a failure, and say so at once."""
        self.failures.append(what + error.message)
        watcher.say(f"failed: {self.failures[-1]}" + (f" ({error.hint})" if error.hint else ""))

    def raise_if_bad(self) -> None:
        """RunFailed (exit 1) or InvalidRun (exit 4) with the reasons, when anything went wrong."""
        if self.failures:
            raise RunFailed(
                "; ".join(self.failures), "what was measured is stored; the same command tries again"
            )
        if self.invalid:
            raise InvalidRun("; ".join(self.invalid), "the run is stored as invalid and will not rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One job on one artifact, and the run that records it."""

    job: Job
    artifact: Artifact
    run_id: str
    started_unix_s: float


def engine_of(cell: Cell, plan: Plan) -> dict[str, Any]:
    """What a measuring process must know to open the artifact."""
    path = cell.artifact.path  # behind a server it is the model's name
    return {
        "runner": plan.runner.name,
        "path": str(path if cell.artifact.quant.format is Format.SERVED else path.absolute()),
        "settings": cell.job.config["settings"],
    }


def start(job: Mapping[str, Any], plan: Plan, watcher: Watcher, *, runner: str | None = None) -> Child:
    """A measuring process for a job, in the environment its engine needs: the plan's, or another one."""
    engine: Runner = registry.load("runners", runner) if runner else plan.runner
    if isinstance(engine, Prepares):
        engine.prepare(plan.settings, watcher.say)
    tool = ensure_tool(engine.tool, watcher.say) if engine.tool else None
    return Child(job, tool)


def close(cell: Cell, store: Store) -> None:
    """Make a run whose pieces are all stored complete; nothing when it is already.

    Figures come before the status, so a run killed in between is closed by the next command. Raises
    InvalidRun when speeds can't be trusted.
    """
    run = store.run(cell.run_id)
    if run.status is Status.COMPLETE:
        return
    if run.mode is Mode.PERFORMANCE and (reason := invalid_reason(store, run)) is not None:
        raise InvalidRun(reason)
    summarise(store, cell.run_id)
    store.set_status(cell.run_id, Status.COMPLETE)


@contextmanager
def recorded(
    cell: Cell, store: Store, watcher: Watcher, outcome: Outcome, failed: set[str]
) -> Iterator[None]:
    """Whatever ends a run early is written on it, and on the outcome; what was stored stays."""
    try:
        yield
    except StoreError:
        raise
    except InvalidRun as error:
        summarise(store, cell.run_id)
        store.set_status(cell.run_id, Status.INVALID, error.message)
        failed.add(cell.run_id)
        outcome.invalid.append(f"{cell.artifact.label} {cell.job.title}: {error.message}")
        watcher.say(f"invalid: {outcome.invalid[-1]}")
    except EdgebenchError as error:
        summarise(store, cell.run_id)
        store.set_status(cell.run_id, Status.FAILED, error.message)
        failed.add(cell.run_id)
        outcome.fail(error, watcher, f"{cell.artifact.label} {cell.job.title}: ")
