"""What runs still lack, as jobs for native programs, whoever carries them there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgebench.core.errors import ModelError, RunFailed
from edgebench.core.types import Artifact, Mode, Status
from edgebench.core.units import data_size
from edgebench.results.store import Store
from edgebench.session import RUNTIME_BYTES, cell_of, prepare
from edgebench.session_cell import Cell, Outcome, Watcher, close, recorded
from edgebench.session_native_jobs import (
    NativeJob,
    accuracy_job,
    check_scorers,
    idle_job,
    layout,
    speed_job,
)
from edgebench.session_plan import Plan
from edgebench.session_score import finish, missing_groups
from edgebench.session_speed import missing_trials, visits_of

IDLE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a device's jobs must know of it."""

    model_path: Callable[[Artifact], str]
    """Where a model's file is, there."""
    minimum_s: float = 0.0
    """How long a test's window must be for the meter its energy comes from."""
    rigorous_s: float = 0.0
    """The same under --rigorous, which waits for gauges that are renewed once a second."""
    shares_beginnings: bool = True
    """Whether the engine evaluates what prompts begin with once."""


@dataclass(frozen=True, slots=True)
class Work:
    """A plan and the runs that record it."""

    plan: Plan
    cells: list[Cell]

    @classmethod
    def of(cls, plan: Plan, store: Store, watcher: Watcher, outcome: Outcome) -> "Work":
        """A plan's files, and its runs as they stand in the database. UsageError: not for native programs."""
        check_scorers(plan)
        artifacts = []
        for artifact in prepare(plan, store, watcher, outcome):
            if artifact.quant.format in plan.runner.formats:
                artifacts.append(artifact)
            else:
                outcome.fail(_unfit(artifact, plan), watcher)
        return cls(plan, [cell_of(plan, job, artifact, store) for job in plan.jobs for artifact in artifacts])

    def check_memory(
        self, available_bytes: int, store: Store, watcher: Watcher, outcome: Outcome, failed: set[str]
    ) -> None:
        """Fail what the device has no memory for: there a model too big takes everything else down."""
        for cell in self.cells:
            if store.run(cell.run_id).status is Status.COMPLETE:
                continue
            n_tokens = max((w.n_prompt + w.n_gen + w.n_depth for w in cell.job.workloads), default=0)
            needed_bytes = cell.artifact.size_bytes + n_tokens * (cell.artifact.kv_bytes_per_token or 0)
            with recorded(cell, store, watcher, outcome, failed):
                if needed_bytes + RUNTIME_BYTES // 4 > available_bytes:
                    raise ModelError(
                        f"{cell.artifact.label} needs {data_size(needed_bytes)}; {self.plan.device.name}"
                        f" has {data_size(available_bytes)} of memory free now",
                        "close apps there, or take a smaller model, level or depth",
                    )

    def jobs(
        self, terms: Terms, store: Store, watcher: Watcher, outcome: Outcome, failed: set[str]
    ) -> Iterator[NativeJob]:
        """What the runs lack, in the order it is to be done: levels in turn, then questions."""
        cells = [cell for cell in self.cells if cell.run_id not in failed]
        speed = [cell for cell in cells if cell.job.mode is Mode.PERFORMANCE]
        for key in dict.fromkeys(cell.job.config_sha256 for cell in speed):
            own = [cell for cell in speed if cell.job.config_sha256 == key]
            if own[0].job.anchored and len(own) > 1:
                for cell in own:
                    store.set_anchor(cell.run_id, own[0].run_id)
            for round_index, i in visits_of(len(own), own[0].job.n_rounds, anchored=own[0].job.anchored):
                missing = missing_trials(own[i], round_index, store)
                if missing and store.run(own[i].run_id).status is not Status.COMPLETE:
                    yield from self._visit(own[i], round_index, missing, terms, watcher)
        for cell in cells:
            if cell.job.mode is Mode.ACCURACY and (groups := missing_groups(cell, store)):
                with recorded(cell, store, watcher, outcome, failed):
                    laid = [m for m in layout(cell, self.plan, watcher, groups=groups) if m["type"] == "laid"]
                    yield accuracy_job(
                        cell, laid, model_there=terms.model_path(cell.artifact), whole=terms.shares_beginnings
                    )

    def _visit(
        self,
        cell: Cell,
        round_index: int,
        missing: Sequence[tuple[int, list[int]]],
        terms: Terms,
        watcher: Watcher,
    ) -> Iterator[NativeJob]:
        chats = any(cell.job.workloads[i].chat for i, _ in missing)
        told = layout(cell, self.plan, watcher, chat=True) if chats else ()
        chat = next((m for m in told if m["type"] == "chat_prompt"), {})
        rigorous = self.plan.request.rigorous
        if rigorous:
            yield idle_job(cell, round_index, "idle_before", IDLE_S)
        yield speed_job(
            cell,
            round_index,
            missing,
            model_there=terms.model_path(cell.artifact),
            chat=chat,
            minimum_s=max(terms.minimum_s, terms.rigorous_s if rigorous else 0.0),
        )
        if rigorous:
            yield idle_job(cell, round_index, "idle_after", IDLE_S)

    def close(self, store: Store, watcher: Watcher, outcome: Outcome, failed: set[str]) -> None:
        """Finish the runs whose pieces are all here."""
        for cell in self.cells:
            status = store.run(cell.run_id).status
            if cell.run_id in failed or status in (Status.COMPLETE, Status.INVALID):
                continue
            with recorded(cell, store, watcher, outcome, failed):
                if cell.job.mode is Mode.ACCURACY:
                    if not missing_groups(cell, store):
                        finish(cell, store, watcher)
                elif not any(missing_trials(cell, r, store) for r in self._rounds(cell)):
                    close(cell, store)

    def _rounds(self, cell: Cell) -> list[int]:
        """The rounds of a cell's visits: an anchor has more of them than others."""
        own = [one for one in self.cells if one.job.config_sha256 == cell.job.config_sha256]
        job = cell.job
        visits = visits_of(len(own), job.n_rounds, anchored=job.anchored)
        return sorted({r for r, i in visits if own[i] is cell})

    def tell_cut_short(self, store: Store, watcher: Watcher, outcome: Outcome) -> None:
        """Mark the runs that should be over and are not: the device went down, or killed what ran."""
        for cell in self.interrupt(store):
            what = f"{cell.artifact.label} {cell.job.title}: "
            outcome.fail(RunFailed("it was cut short there; what was measured is stored"), watcher, what)

    def interrupt(self, store: Store) -> list[Cell]:
        """Mark the runs that are not over; which those are."""
        cut = [cell for cell in self.cells if store.run(cell.run_id).status is Status.RUNNING]
        for cell in cut:
            store.set_status(cell.run_id, Status.INTERRUPTED)
        return cut


def _unfit(artifact: Artifact, plan: Plan) -> ModelError:
    wanted = " or ".join(plan.runner.formats)
    return ModelError(
        f"{artifact.model} is a model in {artifact.quant.format}; {plan.runner.name} runs {wanted}",
        "edgebench quantize makes one in another format",
    )
