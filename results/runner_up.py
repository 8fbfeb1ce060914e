"""Why the runner-up is not the one: surely, or only by what the measurement can't tell apart."""

from dataclasses import dataclass, replace

from edgebench.core.stats import Estimate, ratio_of, ratio_of_medians
from edgebench.results.candidates import ENERGY, MEMORY, Figure
from edgebench.results.compare import MIN_SPEED_DIFFERENCE, anchor_drift, ratio_verdict
from edgebench.results.flips import NOT_SEPARABLE, flips
from edgebench.results.levels import asking
from edgebench.results.performance_summary import samples
from edgebench.results.records import RunRow
from edgebench.results.store import Store

SEPARABLE, EQUAL, NOT_COMPARABLE = "separable", "equal", "not comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Why the runner-up is not the one."""

    verdict: str
    """`separable`, `not separable`, `equal` or `not comparable`."""
    ratio: Estimate | None = None
    """The runner-up's figure over the recommended one's."""
    difference: Estimate | None = None
    """Of accuracies: the runner-up's less the recommended one's, on the same questions."""
    reason: str | None = None
    """Why they can't be compared."""
    differs: tuple[str, ...] = ()
    """What else was not the same in the two runs: `environment_id`, `runner_version`."""


def why_it_lost(store: Store, key: str, base: Figure, new: Figure) -> Lost:
    """The runner-up's figure against the recommended one's; `key` is what ranks."""
    if base.run_id is None or base.run_id == new.run_id or key == MEMORY:
        return _plainly(base, new)
    one, other = store.run(str(base.run_id)), store.run(str(new.run_id))
    names = ("device_id", "environment_id", "runner_version", "evidence")
    differs = tuple(name for name in names if getattr(one, name) != getattr(other, name))
    if one.suite_id is not None:
        return replace(_by_answers(store, one, other), differs=differs)
    ratio = ratio_of(base.estimate, new.estimate)
    test = (base.test or "", key)
    if key != ENERGY:
        before, after = samples(store, one.id), samples(store, other.id)
        if test in before and test in after:
            ratio = ratio_of_medians(before[test], after[test]) or ratio
    if ratio is None:
        return Lost(verdict=NOT_COMPARABLE, reason="a figure is 0", differs=differs)
    least = max(MIN_SPEED_DIFFERENCE, *(anchor_drift(store, run, test) for run in (one, other)))
    verdict = ratio_verdict(key, ratio, least)
    verdict = NOT_SEPARABLE if verdict == NOT_SEPARABLE else SEPARABLE
    return Lost(verdict=verdict, ratio=ratio, differs=differs)


def _plainly(base: Figure, new: Figure) -> Lost:
    """Of figures without an interval: sizes differ, or are equal; peaks by as much as speeds."""
    ratio = ratio_of(base.estimate, new.estimate)
    if base.estimate.value == new.estimate.value or ratio is None:
        return Lost(verdict=EQUAL, ratio=ratio)
    least = MIN_SPEED_DIFFERENCE if base.run_id else 0.0
    return Lost(verdict=SEPARABLE if abs(ratio.value - 1) > least else NOT_SEPARABLE, ratio=ratio)


def _by_answers(store: Store, base: RunRow, new: RunRow) -> Lost:
    """Accuracies on the same questions, beyond the noise floor of either file."""
    if base.runner == new.runner and base.scheme_sha256 != new.scheme_sha256:
        return Lost(verdict=NOT_COMPARABLE, reason="questions were scored in different groups or batches")
    found = flips(store, base, new)
    if found is None:
        return Lost(verdict=NOT_COMPARABLE, reason="no shared answers")
    noise = [flips(store, run, alone) for run in (base, new) if (alone := _alone(store, run))]
    verdict = found.verdict(found.p, *noise)
    return Lost(
        verdict=SEPARABLE if verdict in ("better", "worse") else NOT_SEPARABLE, difference=found.difference
    )


def _alone(store: Store, run: RunRow) -> RunRow | None:
    """The newest run that asked the same file the same questions one by one."""
    sql = """SELECT id FROM run WHERE artifact_id = ? AND runner = ? AND suite_id = ? AND status = 'complete'
      AND json_extract(config_json, '$.shape') = 'alone' ORDER BY started_at DESC, id DESC"""
    for row in store.rows(sql, (run.artifact_id, run.runner, run.suite_id)):
        if asking(alone := store.run(row["id"])) == asking(run):
            return alone
    return None
