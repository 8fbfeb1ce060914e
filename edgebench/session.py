"""plan → rounds → trials → records: does what a plan still lacks, and stores each piece as it comes.

A process that dies fails its run with the reason and the rest goes on. Killed at any moment, the same
command finds what is stored and does only what is missing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from edgebench.core.errors import EdgebenchError, ModelError, ServerError, StoreError
from edgebench.core.hashing import sha256_text
from edgebench.core.paths import cache_dir
from edgebench.core.types import Artifact, Mode, Status
from edgebench.quantize.manifest import manifest_of
from edgebench.results.store import Store
from edgebench.session_bounds import know_limits
from edgebench.session_cell import Cell, Outcome, Watcher
from edgebench.session_git import git_state
from edgebench.session_gpu import refuse_shared
from edgebench.session_job import Job
from edgebench.session_models import make_level, peek_level, resolve
from edgebench.session_plan import Plan
from edgebench.session_power import pulse, store_marker
from edgebench.session_predict import predict_cell
from edgebench.session_recorder import Clock
from edgebench.session_reproduce import command_of
from edgebench.session_score import measure_accuracy
from edgebench.session_served import resolve_served
from edgebench.session_speed import measure_speed
from edgebench.session_visit import Sensors

RUNTIME_BYTES = 256 * 2**20
"""What an engine takes beside weights and cache: code, compute buffers."""


def execute_all(plans: Sequence[Plan], store: Store, watcher: Watcher) -> Outcome:
    """Do plans in turn; where there are several, one that can't be done does not stop the rest."""
    total = Outcome()
    told: set[str] = set()
    for plan in plans:
        device = f"device: {plan.device.name} ({plan.environment.os})"
        for line in (device, plan.gpu_told, plan.metering.told(), plan.absent_told):
            if line and line not in told:
                watcher.say(line)
            told.add(line)
        try:
            outcome = execute(plan, store, watcher)
        except StoreError:
            raise
        except EdgebenchError as error:
            if len(plans) == 1:
                raise
            total.fail(error, watcher)
            continue
        total.run_ids += outcome.run_ids
        total.failures += outcome.failures
        total.invalid += outcome.invalid
    return total


def execute(plan: Plan, store: Store, watcher: Watcher) -> Outcome:
    """Do everything the plan lacks. Failures of single runs are collected, not raised.

    Raises StoreError when nothing can be stored, KeyboardInterrupt after marking the run interrupted.
    """
    outcome = Outcome()
    with alone(store.path, plan.device.id):
        if plan.gpu is not None:
            refuse_shared(plan.gpu)
        artifacts = prepare(plan, store, watcher, outcome)
        cells = [cell_of(plan, job, artifact, store) for job in plan.jobs for artifact in artifacts]
        run_ids = [cell.run_id for cell in cells]
        outcome.run_ids.append(run_ids)
        speed = [cell for cell in cells if cell.job.mode is Mode.PERFORMANCE]
        accuracy = [cell for cell in cells if cell.job.mode is Mode.ACCURACY]
        sensors = Sensors.of(plan)
        try:
            know_limits(cells, plan, store, watcher)
            for cell in speed:
                if store.run(cell.run_id).status is not Status.COMPLETE:
                    predict_cell(cell, plan, store)
            unfinished = any(store.run(run_id).status is not Status.COMPLETE for run_id in run_ids)
            if plan.request.marker and unfinished:
                _mark(cells, store, watcher)
            measure_speed(speed, plan, store, watcher, outcome, sensors)
            measure_accuracy(accuracy, plan, store, watcher, outcome, sensors)
        except KeyboardInterrupt:
            for run_id in run_ids:  # those that still wait for their turn, too
                if store.run(run_id).status is Status.RUNNING:
                    store.set_status(run_id, Status.INTERRUPTED)
            raise
        finally:
            sensors.state.close()
            plan.metering.close()
    return outcome


def _mark(cells: Sequence[Cell], store: Store, watcher: Watcher) -> None:
    """Load pulses before everything, for the log of an external meter."""
    watcher.say("three load pulses for an external meter's log")
    pulses = pulse()
    for cell in cells:
        store_marker(store, cell.run_id, pulses, Clock.of_run(cell.started_unix_s))


def prepare(plan: Plan, store: Store, watcher: Watcher, outcome: Outcome) -> list[Artifact]:
    """The files to measure: each model as it is, or its levels, made where the cache lacks them."""
    artifacts: list[Artifact] = []
    for name in plan.request.models:
        try:
            server = plan.settings.server
            parent = resolve_served(name, server, watcher.say) if server else resolve(name, watcher.say)
        except (ModelError, ServerError) as error:
            if len(plan.request.models) == 1:
                raise
            outcome.fail(error, watcher)
            continue
        store.add_artifact(parent, manifest_of(parent))  # its levels name it, measured or not
        for artifact in _levels(parent, plan, watcher, outcome) if plan.levels else [parent]:
            try:
                _check_fit(artifact, plan)
            except ModelError as error:
                outcome.fail(error, watcher)
            else:
                artifacts.append(artifact)
    return list({artifact.sha256: artifact for artifact in artifacts}.values())


def _levels(parent: Artifact, plan: Plan, watcher: Watcher, outcome: Outcome) -> Iterator[Artifact]:
    """The plan's levels of a model; one that can't be made is a failure, and the others follow."""
    missing = [level for level in plan.levels if peek_level(parent, level) is None]
    if missing:
        watcher.stage(f"quantizing {parent.model} ({parent.quant.name}), % done", 100 * len(missing))
    for level in plan.levels:
        n_done = 0

        def progress(share: float, level: str = level) -> None:
            nonlocal n_done
            watcher.step(level, int(100 * share) - n_done)
            n_done = int(100 * share)

        try:
            artifact = make_level(parent, level, n_threads=plan.settings.n_threads, progress=progress)
        except ModelError as error:
            outcome.fail(error, watcher)
            continue
        if level in missing:
            watcher.step(level, 100 - n_done)
            watcher.say(_made_line(artifact))
        yield artifact


def _made_line(artifact: Artifact) -> str:
    fallback = (
        f", {artifact.quant.n_fallback} tensors fell back to other types" if artifact.quant.n_fallback else ""
    )
    return f"{artifact.label}: {artifact.quant.bits_per_weight:.2f} bits per weight{fallback}"


def _check_fit(artifact: Artifact, plan: Plan) -> None:
    """Weights, cache and runtime against the device's memory, before anything is loaded here."""
    if plan.settings.server is not None:
        return
    n_tokens = max((w.n_prompt + w.n_gen + w.n_depth for job in plan.jobs for w in job.workloads), default=0)
    cache_bytes = n_tokens * (artifact.kv_bytes_per_token or 0)
    needed_bytes = artifact.size_bytes + cache_bytes + RUNTIME_BYTES
    memory_bytes = plan.device.memory_bytes
    if memory_bytes and needed_bytes > memory_bytes:
        raise ModelError(
            f"{artifact.model} {artifact.label} needs {needed_bytes / 2**30:.1f} GiB (weights, cache of"
            f" {n_tokens} tokens, runtime); {plan.device.name} can't hold it",
            "take a smaller model, level or depth",
        )


def cell_of(plan: Plan, job: Job, artifact: Artifact, store: Store) -> Cell:
    """The run of a job: the stored one where there is one, else a new record."""
    store.add_device(plan.device)
    store.add_environment(plan.environment)
    store.add_artifact(artifact, manifest_of(artifact))
    if job.suite is not None:
        store.add_suite(job.suite)
    known = store.find_run(
        config_sha256=job.config_sha256,
        artifact_id=artifact.sha256,
        device_id=plan.device.id,
        environment_id=plan.environment.id,
    )
    if known is not None:
        started = datetime.fromisoformat(known.started_at).timestamp()
        return Cell(job=job, artifact=artifact, run_id=known.id, started_unix_s=started)
    commit, dirty = git_state()
    run_id = store.create_run(
        mode=job.mode,
        evidence=plan.evidence,
        timing_source=plan.timing_source,
        artifact_id=artifact.sha256,
        device_id=plan.device.id,
        environment_id=plan.environment.id,
        suite_id=job.suite.id if job.suite else None,
        runner=plan.runner.name,
        runner_version=plan.runner.version(),
        config=job.config,
        config_sha256=job.config_sha256,
        seed=job.config["seed"],
        scorer=job.scorer.value if job.scorer else None,
        scheme_sha256=job.scheme_sha256,
        git_commit=commit,
        git_dirty=dirty,
        command=command_of(plan.request),
    )
    return Cell(job=job, artifact=artifact, run_id=run_id, started_unix_s=time.time())


@contextmanager
def alone(database: Path, device_id: str) -> Iterator[None]:
    """Only one process at a time fills a device's runs in a database: two would do the same work twice."""
    import fcntl

    folder = cache_dir() / "locks"
    folder.mkdir(exist_ok=True)
    key = sha256_text(f"{database.resolve()}:{device_id}")[:16]
    with (folder / key).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"another edgebench is measuring {device_id} into {database}",
                "wait for it: two at once would also spoil each other's speeds",
            ) from None
        yield
