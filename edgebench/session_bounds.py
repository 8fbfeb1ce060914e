"""What a run's speeds are held against: the device's limits and its files' shapes, known before it starts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.types import Evidence, Format, Mode
from edgebench.devices.limits import Limits
from edgebench.results.performance_summary import invalid_reason
from edgebench.results.store import Store
from edgebench.session_cell import Cell, Watcher
from edgebench.session_limits import limit_facts, limits_again, limits_of, model_shape
from edgebench.session_plan import Plan


def know_limits(cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher) -> None:
    """Store what the device can do at most, and what each file asks of it: where GGUF speeds are measured.

    Limits that were measured beside other work are too low to judge by, and are not stored.
    """
    speed = [cell.artifact for cell in cells if cell.job.mode is Mode.PERFORMANCE]
    files = {artifact.sha256: artifact for artifact in speed if artifact.quant.format is Format.GGUF}
    for artifact in files.values():
        try:
            store.set_shape(artifact.sha256, asdict(model_shape(artifact.path)))
        except ModelError as error:  # whether it can be run is the engine's to say
            watcher.say(f"no share of the device's limits for {artifact.label}: {error.message}")
    if not files or plan.settings.on_gpu or plan.settings.server or _stored(plan, store) is not None:
        return
    limits = limits_of(plan.settings.n_threads, watcher.say)
    if limits.noisy:
        watcher.say("other programs are busy: speeds stand without their share of the device's limits")
        return
    _store(plan, store, limit_facts(limits))


def doubt_limits(cell: Cell, plan: Plan, store: Store, watcher: Watcher) -> None:
    """Before a speed is called impossible, measure the limits once more, and keep the higher ones."""
    reason = invalid_reason(store, store.run(cell.run_id))
    known = _stored(plan, store)
    if reason is None or not reason.startswith("implausible") or known is None:
        return
    again = limits_again(Limits(**{name: known[name] for name in Limits.__dataclass_fields__}), watcher.say)
    _store(plan, store, limit_facts(again))


def _stored(plan: Plan, store: Store) -> dict[str, Any] | None:
    return store.limits(
        device_id=plan.device.id, environment_id=plan.environment.id, n_threads=plan.settings.n_threads
    )


def _store(plan: Plan, store: Store, facts: dict[str, Any]) -> None:
    store.set_limits(
        device_id=plan.device.id,
        environment_id=plan.environment.id,
        n_threads=plan.settings.n_threads,
        facts=facts,
        evidence=Evidence.MEASURED,
    )
