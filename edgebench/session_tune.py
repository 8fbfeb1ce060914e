"""`tune`: the best setting for a goal by successive halving; every trial is in a run of the database.

A setting has one run, and each visit of it is one of that run's rounds: what is stored is not measured
again, so the same command goes on where it was stopped. The order of everything follows from the command.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from edgebench.core.errors import RunFailed
from edgebench.core.halving import ANCHOR, Visit, anchored, halving, last_visits
from edgebench.core.setting_flags import as_flags
from edgebench.core.stats import Estimate, median_of_groups, ratio_of_medians
from edgebench.core.types import Artifact, Status
from edgebench.results.compare import MIN_SPEED_DIFFERENCE, ratio_verdict
from edgebench.results.store import Store
from edgebench.results.tuning import VisitFigures, visit_figures
from edgebench.session import alone, cell_of, prepare
from edgebench.session_cell import Cell, Outcome, Watcher, close, recorded
from edgebench.session_gpu import refuse_shared
from edgebench.session_speed import missing_trials, visit
from edgebench.session_tune_answers import Answers, Kept
from edgebench.session_tune_plan import TunePlan, under
from edgebench.session_tune_result import Ranked, Side, Tuned
from edgebench.session_tune_space import Goal, answers_differ
from edgebench.session_visit import Sensors

SLOWNESS = 4.0
"""What a setting loses for each e-fold it is too slow by: a bad look alone does not put it out."""
MAX_CHECKS = 4
"""Ways of answering that may fail before only settings that can't change answers are left."""


def tune(found: TunePlan, store: Store, watcher: Watcher) -> Tuned:
    """Search, look after what must be kept, hold the winner against the default.

    Raises RunFailed when the default itself can't be measured, StoreError when nothing can be stored.
    """
    plan = found.plan
    for line in (f"device: {plan.device.name} ({plan.environment.os})", plan.gpu_told, plan.metering.told()):
        if line:
            watcher.say(line)
    with alone(store.path, plan.device.id):
        sensors = Sensors.of(plan)
        try:
            if plan.gpu is not None:
                refuse_shared(plan.gpu)
            outcome = Outcome()
            artifacts = prepare(plan, store, watcher, outcome)
            outcome.raise_if_bad()
            search = _Search(
                found=found, artifact=artifacts[0], store=store, watcher=watcher, sensors=sensors
            )
            return search.tuned()
        finally:
            sensors.state.close()
            plan.metering.close()


Seen = list[tuple[int, VisitFigures]]
"""Visits in the order of time: (candidate, what was measured)."""


@dataclass(slots=True, kw_only=True)
class _Search:
    """The state of one search; `tuned` does it."""

    found: TunePlan
    artifact: Artifact
    store: Store
    watcher: Watcher
    sensors: Sensors
    outcome: Outcome = field(default_factory=Outcome)
    cells: dict[int, Cell] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    n_visits: Counter[int] = field(default_factory=Counter)
    rungs: list[Seen] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    n_repetitions: int = 0
    n_passes: int = 0
    n_measured: int = 0
    n_flagged: int = 0

    def tuned(self) -> Tuned:
        try:
            ranking = self._search()
            winner, kept = self._choose(ranking)
            last = [] if winner is None else self._compare(winner)
        except KeyboardInterrupt:
            for cell in self.cells.values():
                if self.store.run(cell.run_id).status is Status.RUNNING:
                    self.store.set_status(cell.run_id, Status.INTERRUPTED)
            raise
        self._close()
        return self._told(ranking, winner, kept, last)

    # Rung by rung.

    def _search(self) -> list[int]:
        """All candidates, the best first."""
        found = self.found.schedule
        steps = halving(found, seed=self.found.plan.request.seed)
        if found.rungs:
            n_passes = found.n_search_repetitions + found.n_search_visits
            self.watcher.stage(f"tuning {len(self.found.space.settings)} settings", n_passes)
        try:
            visits = next(steps)
            while True:
                self.rungs.append(self._measure(visits))
                scores = self._scores()
                self._tell(len(visits), scores)
                visits = steps.send(scores)
        except StopIteration as end:
            ranking: list[int] = end.value
            return ranking

    def _tell(self, n_visits: int, scores: dict[int, float]) -> None:
        best = min(scores, key=lambda c: scores[c], default=None)
        if best is not None:
            told = f"{self._flags(best)} at {math.exp(self._value(best)):.2f} of the default"
            self.watcher.say(f"rung {len(self.rungs)}: {n_visits} visits; so far the best: {told}")

    def _compare(self, winner: int) -> Seen:
        """Pairs of visits that helped nobody to be chosen; as many again where the gain is not sure."""
        goal, seen = self.found.asked.goal, Seen()
        for half in last_visits(self.found.schedule, winner):
            ratio = _ratio(goal, seen, winner)
            promising = ratio is None or ratio.value < 1 - MIN_SPEED_DIFFERENCE
            if half and promising and not (ratio and _is_better(goal, ratio)):
                self.watcher.stage(f"{self._flags(winner)} against the default", _n_passes(half))
                seen += self._measure(half)
        return seen

    def _measure(self, visits: Iterable[Visit]) -> Seen:
        seen: Seen = []
        for one in visits:
            cell = self._cell(one.candidate_index, one.n_repetitions)
            round_index = self.n_visits[one.candidate_index]
            self.n_visits[one.candidate_index] += 1
            missing = missing_trials(cell, round_index, self.store)
            if cell.run_id in self.failed:
                continue
            if missing:
                plan = under(self.found.plan, self.found.space.settings[one.candidate_index])
                visit(
                    cell,
                    round_index,
                    missing,
                    plan,
                    self.store,
                    self.watcher,
                    self.outcome,
                    self.sensors,
                    self.failed,
                )
            else:
                self.watcher.step("stored already", one.n_passes)
            if cell.run_id in self.failed:
                self._failed(one.candidate_index, cell)
                continue
            self.n_repetitions += one.n_repetitions
            self.n_passes += one.n_passes
            figures = visit_figures(self.store, cell.run_id, round_index)
            self.n_measured += len(figures.request_s)
            self.n_flagged += figures.n_flagged
            seen.append((one.candidate_index, figures))
        return seen

    def _failed(self, candidate: int, cell: Cell) -> None:
        why = self.store.run(cell.run_id).invalid_reason or "failed"
        if candidate == ANCHOR:
            raise RunFailed(f"the default setting can't be measured: {why}", "mend that first: edgebench run")
        self.dropped[self._flags(candidate)] = why

    def _cell(self, candidate: int, n_repetitions: int) -> Cell:
        if candidate not in self.cells:
            plan = under(self.found.plan, self.found.space.settings[candidate])
            shared = plan.jobs[0]
            job = replace(shared, config={**shared.config, "settings": plan.settings.as_config()})
            self.cells[candidate] = cell_of(plan, job, self.artifact, self.store)
        cell = self.cells[candidate]
        return replace(cell, job=replace(cell.job, n_repetitions=n_repetitions))

    # What was seen so far.

    def _scores(self) -> dict[int, float]:
        """Log of the figure over the default's, and a fine for what is too slow; lower is better."""
        ratios = self._ratios(self.found.asked.goal)
        if not ratios:
            reason = next((f.energy_reason for seen in self.rungs for _, f in seen if f.energy_reason), None)
            raise RunFailed(
                f"no figure to tune by: the meter told nothing of a request ({reason or 'no reason'})",
                "longer requests give it more to measure: -p 1024 -n 512",
            )
        return {
            candidate: median(values) + SLOWNESS * self._excess(candidate)
            for candidate, values in ratios.items()
            if self.cells[candidate].run_id not in self.failed
        }

    def _value(self, candidate: int) -> float:
        return median(self._ratios(self.found.asked.goal)[candidate])

    def _ratios(self, goal: Goal) -> dict[int, list[float]]:
        found: dict[int, list[float]] = defaultdict(list)
        for seen in self.rungs:
            for candidate, ratios in anchored([(c, _values(goal, f)) for c, f in seen]).items():
                found[candidate] += ratios
        return found

    def _excess(self, candidate: int) -> float:
        """By how much more than allowed a request takes longer than the default's, as a logarithm."""
        allowed = self.found.asked.keep_speed_share
        if allowed is None:
            return 0.0
        return max(0.0, median(self._ratios(Goal.SPEED)[candidate]) - math.log1p(allowed))

    # The choice.

    def _choose(self, ranking: Sequence[int]) -> tuple[int | None, Kept | None]:
        """The best candidate that is better than the default and keeps what must be kept."""
        scores = self._scores() if self.rungs else dict.fromkeys(ranking, -1.0)
        answers = self._answers()
        for candidate in ranking:
            if candidate not in scores:
                continue
            if scores[candidate] >= 0:
                break
            if self.rungs and self._excess(candidate) > 0:
                self._drop(candidate, "too slow")
                continue
            if answers is None or not self._may_differ(candidate):
                return candidate, None
            if answers.n_failed >= MAX_CHECKS:
                self._drop(candidate, f"{MAX_CHECKS} others changed the answers: not asked")
                continue
            plans = [under(self.found.plan, self.found.space.settings[c]) for c in (ANCHOR, candidate)]
            kept = answers.kept(plans[0].settings, plans[1].settings)
            if kept.passed:
                return candidate, kept
            self._drop(candidate, kept.told)
        return None, None

    def _answers(self) -> Answers | None:
        margin = self.found.asked.keep_acc
        if margin is None:
            return None
        return Answers(
            plan=self.found.plan,
            artifact=self.artifact,
            margin_share=margin,
            store=self.store,
            watcher=self.watcher,
            sensors=self.sensors,
        )

    def _may_differ(self, candidate: int) -> bool:
        settings = self.found.space.settings
        return answers_differ(settings[ANCHOR], settings[candidate])

    def _drop(self, candidate: int, why: str) -> None:
        self.dropped[self._flags(candidate)] = why
        self.watcher.say(f"dropped: {self._flags(candidate)} ({why})")

    # The end.

    def _close(self) -> None:
        for cell in self.cells.values():
            if cell.run_id not in self.failed:
                with recorded(cell, self.store, self.watcher, self.outcome, self.failed):
                    close(cell, self.store)

    def _told(self, ranking: Sequence[int], winner: int | None, kept: Kept | None, last: Seen) -> Tuned:
        goal, allowed = self.found.asked.goal, self.found.asked.keep_speed_share
        sides = [c for c in (ANCHOR, winner) if c is not None]
        ratio, separable = None, False
        if winner is not None:
            ratio = _ratio(goal, last, winner)
            separable = ratio is not None and _is_better(goal, ratio)
            slower = _ratio(Goal.SPEED, last, winner)
            if allowed is not None and slower is not None and slower.value > 1 + allowed:
                separable = False
                self._drop(winner, f"a request takes {slower.value:.2f} times as long")
        values = {c: math.exp(median(ratios)) for c, ratios in self._ratios(goal).items()}
        run_ids = {c: cell.run_id for c, cell in self.cells.items()}
        invalid = [r for c in sides if (r := self.store.run(run_ids[c])).status is Status.INVALID]
        return Tuned(
            artifact=self.artifact,
            default=self._side(ANCHOR, last or [one for seen in self.rungs for one in seen]),
            candidate=None if winner is None else self._side(winner, last),
            ratio=ratio,
            separable=separable,
            kept=kept,
            dropped=tuple(self.dropped.items()),
            ranking=tuple(
                Ranked(flags=self._flags(c), run_id=run_ids.get(c), value=values.get(c)) for c in ranking
            ),
            n_repetitions=self.n_repetitions,
            n_passes=self.n_passes,
            n_measured=self.n_measured,
            n_flagged=self.n_flagged,
            run_ids=tuple(run_ids.values()),
            invalid=tuple(f"{run.id}: {run.invalid_reason}" for run in invalid),
        )

    def _side(self, candidate: int, seen: Seen) -> Side:
        settings = under(self.found.plan, self.found.space.settings[candidate]).settings
        return Side(
            settings=settings.as_config(),
            flags=self._flags(candidate),
            run_id=self.cells[candidate].run_id,
            request_s=median_of_groups(_groups(Goal.SPEED, seen, candidate)),
            energy_j_per_request=median_of_groups(_groups(Goal.ENERGY, seen, candidate)),
            peak_bytes=median_of_groups(_groups(Goal.MEMORY, seen, candidate)),
        )

    def _flags(self, candidate: int) -> str:
        return as_flags(self.found.space.settings[candidate], self.found.space.tried)


def _n_passes(visits: Iterable[Visit]) -> int:
    return sum(one.n_passes for one in visits)


def _values(goal: Goal, figures: VisitFigures) -> list[float]:
    """What a visit says of a goal: a value a repetition, or one of the visit; none where it is not known."""
    match goal:
        case Goal.SPEED:
            return list(figures.request_s)
        case Goal.ENERGY:
            return [] if figures.request_j is None else [figures.request_j]
        case Goal.MEMORY:
            return [] if figures.peak_bytes is None else [float(figures.peak_bytes)]


def _groups(goal: Goal, seen: Seen, candidate: int) -> list[list[float]]:
    """The values of each process of a candidate."""
    return [values for c, figures in seen if c == candidate and (values := _values(goal, figures))]


def _ratio(goal: Goal, seen: Seen, candidate: int) -> Estimate | None:
    return ratio_of_medians(_groups(goal, seen, ANCHOR), _groups(goal, seen, candidate))


def _is_better(goal: Goal, ratio: Estimate) -> bool:
    """Whether less is surely taken than by the default, by more than what nobody would call a difference."""
    return ratio_verdict(goal, ratio) == "better"
