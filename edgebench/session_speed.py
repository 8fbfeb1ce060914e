"""Speed, memory and energy: levels in turn (A B C, then C B A), a fresh process each visit."""

from collections.abc import Sequence

from edgebench.core.latency import enough
from edgebench.core.stats import median_of_groups
from edgebench.results.performance_summary import samples
from edgebench.results.store import Store
from edgebench.session_bounds import doubt_limits
from edgebench.session_cell import Cell, Outcome, Watcher, close, recorded
from edgebench.session_plan import MAX_ROUNDS, Plan
from edgebench.session_recorder import Clock, Recorder
from edgebench.session_visit import UNITS, Sensors, Visit

VisitKey = tuple[int, int]
"""(round, number of the cell)."""


def measure_speed(
    cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher, outcome: Outcome, sensors: Sensors
) -> None:
    """Every visit the runs lack; a run whose visit fails is not visited again."""
    failed: set[str] = set()
    for job in dict.fromkeys(cell.job.config_sha256 for cell in cells):
        own = [cell for cell in cells if cell.job.config_sha256 == job]
        _measure_job(own, plan, store, watcher, outcome, sensors, failed)


def _measure_job(
    cells: Sequence[Cell],
    plan: Plan,
    store: Store,
    watcher: Watcher,
    outcome: Outcome,
    sensors: Sensors,
    failed: set[str],
) -> None:
    job = cells[0].job
    visits = visits_of(len(cells), job.n_rounds, anchored=job.anchored)
    if job.anchored and len(cells) > 1:
        for cell in cells:
            store.set_anchor(cell.run_id, cells[0].run_id)
    _visit_all(cells, visits, plan, store, watcher, outcome, sensors, failed)
    for round_index in range(job.n_rounds, MAX_ROUNDS if plan.request.target_ci else 0):
        wide = [
            i for i, cell in enumerate(cells) if cell.run_id not in failed and _is_wide(cell, plan, store)
        ]
        if not wide:
            break
        watcher.say(f"{len(wide)} of {len(cells)} levels wider than ± {plan.request.target_ci:g}: once more")
        again = [(_EXTRA + round_index, i) for i in wide]
        _visit_all(cells, again, plan, store, watcher, outcome, sensors, failed)
    for cell in cells:
        if cell.run_id not in failed:
            with recorded(cell, store, watcher, outcome, failed):
                doubt_limits(cell, plan, store, watcher)
                close(cell, store)


_EXTRA = 1000
"""Rounds that an interval asked for are numbered from here, so that they are known from planned ones."""


def visits_of(n_cells: int, n_rounds: int, *, anchored: bool) -> list[VisitKey]:
    """(round, cell) in the order of visits: A B C, then C B A; anchored: the first one between all others.

    The anchor's extra visits are rounds of their own, so that each is resumed by itself.
    """
    if not anchored or n_cells == 1:
        return [
            (r, i)
            for r in range(n_rounds)
            for i in (range(n_cells) if r % 2 == 0 else reversed(range(n_cells)))
        ]
    visits: list[VisitKey] = []
    n_anchor = 0
    for r in range(n_rounds):
        others = range(1, n_cells) if r % 2 == 0 else reversed(range(1, n_cells))
        for i in others:
            visits += [(n_anchor, 0), (r, i)]
            n_anchor += 1
    return [*visits, (n_anchor, 0)]


def _visit_all(
    cells: Sequence[Cell],
    keys: Sequence[VisitKey],
    plan: Plan,
    store: Store,
    watcher: Watcher,
    outcome: Outcome,
    sensors: Sensors,
    failed: set[str],
) -> None:
    visits = [(cells[i], r, missing_trials(cells[i], r, store)) for r, i in keys]
    visits = [visit for visit in visits if visit[2]]
    if not visits:
        return
    n_steps = sum(len(repetitions) + 1 for _, _, missing in visits for _, repetitions in missing)
    what = "speed, memory and energy" if sensors.metering.chosen else "speed and memory"
    n_units = UNITS * n_steps if cells[0].job.is_sustained else None
    watcher.stage(f"measuring {what}, {len(visits)} visits", n_steps, n_units)
    for cell, round_index, missing in visits:
        if cell.run_id not in failed:
            visit(cell, round_index, missing, plan, store, watcher, outcome, sensors, failed)


def visit(
    cell: Cell,
    round_index: int,
    missing: Sequence[tuple[int, list[int]]],
    plan: Plan,
    store: Store,
    watcher: Watcher,
    outcome: Outcome,
    sensors: Sensors,
    failed: set[str],
) -> None:
    """One visit in a fresh process; what ends it early is written on its run, which is then in `failed`."""
    with (
        recorded(cell, store, watcher, outcome, failed),
        Recorder(sensors.metering.meters, sensors.state) as recorder,
    ):
        sensors.thermostat.begin(recorder)
        Visit(
            cell=cell,
            plan=plan,
            store=store,
            watcher=watcher,
            sensors=sensors,
            round_index=round_index,
            process_index=store.next_process_index(cell.run_id),
            clock=Clock.of_run(cell.started_unix_s),
            recorder=recorder,
        ).run(missing)


def missing_trials(cell: Cell, round_index: int, store: Store) -> list[tuple[int, list[int]]]:
    """(workload's number, repetitions still to do) of one visit."""
    done = store.count_trials(cell.run_id)
    n_repetitions = cell.job.n_repetitions
    return [
        (i, list(range(n, n_repetitions)))
        for i, workload in enumerate(cell.job.workloads)
        if (n := done.get((workload.name, round_index), 0)) < n_repetitions
    ]


def _is_wide(cell: Cell, plan: Plan, store: Store) -> bool:
    """Whether a figure of the run is known less well than was asked for."""
    target = plan.request.target_ci or 0.0
    estimates = [median_of_groups(groups) for groups in samples(store, cell.run_id).values()]
    return any(not enough(estimate, target) for estimate in estimates)
