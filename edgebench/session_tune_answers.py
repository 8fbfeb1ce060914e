"""Whether a setting keeps the answers: a suite asked under it and under the default, held together."""

from dataclasses import dataclass, field, replace
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.core.paired import non_inferior
from edgebench.core.stats import Estimate
from edgebench.core.types import Artifact, Settings, Status
from edgebench.results.flips import flips
from edgebench.results.records import TUNE, RunRow
from edgebench.results.store import Store
from edgebench.session import cell_of
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_job import Job
from edgebench.session_plan import Plan
from edgebench.session_questions import accuracy_jobs
from edgebench.session_score import measure_accuracy
from edgebench.session_tune_space import CHANGES_ANSWERS
from edgebench.session_visit import Sensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a setting did to the answers."""

    passed: bool
    told: str
    """In words, for people."""
    n_questions: int = 0
    n_changed: int = 0
    difference: Estimate | None = None
    """Accuracy minus the default's."""


@dataclass(slots=True, kw_only=True)
class Answers:
    """Asks the suite under one setting after the other; settings that answer alike are asked once."""

    plan: Plan
    artifact: Artifact
    margin_share: float
    """The loss of accuracy to exclude, as a share."""
    store: Store
    watcher: Watcher
    sensors: Sensors
    _kept: dict[tuple[Any, ...], Kept] = field(default_factory=dict)

    def kept(self, default: Settings, settings: Settings) -> Kept:
        """Whether `settings` lose less than the margin against `default`.

        They pass when no answer changed, or when the loss is shown to be smaller: the paired difference's
        95 % interval lies above minus the margin.
        """
        key = tuple(getattr(settings, name) for name in CHANGES_ANSWERS)
        if key not in self._kept:
            self._kept[key] = self._compare(self._asked(default), self._asked(settings))
        return self._kept[key]

    @property
    def n_failed(self) -> int:
        """Ways of answering that did not pass."""
        return sum(not kept.passed for kept in self._kept.values())

    def _asked(self, settings: Settings) -> RunRow:
        plan = replace(self.plan, settings=settings)
        job = accuracy_job(plan)
        cell = cell_of(replace(plan, jobs=(job,)), job, self.artifact, self.store)
        measure_accuracy([cell], plan, self.store, self.watcher, Outcome(), self.sensors)
        return self.store.run(cell.run_id)

    def _compare(self, before: RunRow, after: RunRow) -> Kept:
        for run in (before, after):
            if run.status is not Status.COMPLETE:
                return Kept(passed=False, told=f"its answers are not known: {run.invalid_reason}")
        found = flips(self.store, before, after)
        if found is None:
            return Kept(passed=False, told="no question was answered under both")
        passed = found.n_changed == 0 or non_inferior(found.difference, self.margin_share) is True
        return Kept(
            passed=passed,
            told=_told(found.n_changed, found.n, found.difference, self.margin_share, passed),
            n_questions=found.n_questions,
            n_changed=found.n_changed,
            difference=found.difference,
        )


def _told(n_changed: int, n: int, difference: Estimate | None, margin: float, passed: bool) -> str:
    if n_changed == 0:
        return f"none of {n} answers changed"
    low = difference.ci_low if difference else None
    lost = f"{n_changed} of {n} answers changed"
    if low is None:
        return lost
    verdict = "" if passed else f", which {n} questions can't narrow to {100 * margin:g}"
    return f"{lost}; a loss of up to {max(-100 * low, 0):.1f} points is possible{verdict}"


def accuracy_job(plan: Plan) -> Job:
    """The suite under a plan's settings. UsageError for a suite that can't be graded here."""
    (name, *more) = dict.fromkeys(plan.request.suites)
    if more:
        raise UsageError("one suite watches the answers", f"--suite {name}")
    job = accuracy_jobs(name, plan.request, plan.runner, plan.settings)[0]
    if job.suite is None or not job.suite.has_key:
        raise UsageError(f"suite {name} has no key here: accuracy is not known", "--suite everyday")
    return replace(job, config={**job.config, "protocol": TUNE})
