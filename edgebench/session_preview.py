"""`--dry-run`: what a plan would do, and how much of it is stored already."""

from typing import Any

from edgebench.core.types import Artifact
from edgebench.results.store import Store
from edgebench.session_job import Job
from edgebench.session_models import peek, peek_level
from edgebench.session_plan import Plan
from edgebench.session_served import resolve_served


def plan_rows(plan: Plan, store: Store | None) -> list[dict[str, Any]]:
    """`--dry-run`: what each level and job would do, and how much of it is stored already."""
    rows: list[dict[str, Any]] = []
    for name in plan.request.models:
        server = plan.settings.server
        parent = resolve_served(name, server, lambda _: None) if server else peek(name)
        levels: list[tuple[str, Artifact | None]] = [
            (level, peek_level(parent, level) if parent else None) for level in plan.levels
        ] or [(parent.quant.name if parent else "as shipped", parent)]
        for level, artifact in levels:
            rows += [_plan_row(plan, job, name, level, artifact, store) for job in plan.jobs]
    return rows


def _plan_row(
    plan: Plan, job: Job, model: str, level: str, artifact: Artifact | None, store: Store | None
) -> dict[str, Any]:
    n_total = (
        sum(len(g) for g in job.groups[: job.n_groups])
        if job.suite
        else len(job.workloads) * job.n_repetitions * job.n_rounds
    )
    n_done = _n_stored(plan, job, artifact, store) if artifact is not None and store is not None else 0
    return {
        "model": model,
        "level": level,
        "file": "ready" if artifact is not None else "to make",
        "mode": job.mode.value,
        "what": job.title,
        "unit": "questions" if job.suite else "repetitions",
        "n_total": n_total,
        "n_stored": min(n_done, n_total),
        "n_todo": max(n_total - n_done, 0),
    }


def _n_stored(plan: Plan, job: Job, artifact: Artifact, store: Store) -> int:
    known = store.find_run(
        config_sha256=job.config_sha256,
        artifact_id=artifact.sha256,
        device_id=plan.device.id,
        environment_id=plan.environment.id,
    )
    if known is None:
        return 0
    if job.suite is None:
        return sum(store.count_trials(known.id).values())
    asked = {q.id for group in job.groups[: job.n_groups] for q in group}
    return len(asked & store.answered(known.id))
