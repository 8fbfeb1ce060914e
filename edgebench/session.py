"""plan → rounds → trials → records: does what a plan still lacks, and stores each piece as it comes.

Levels are visited in turn (A B C, then C B A), each visit in a fresh process. A process that dies
fails its run with the reason and the rest goes on. Killed at any moment, the same command finds what
is stored and does only what is missing.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from edgebench.core.errors import EdgebenchError, InvalidRun, ModelError, RunFailed, StoreError
from edgebench.core.hashing import sha256_text
from edgebench.core.paths import cache_dir
from edgebench.core.types import Artifact, Mode, Status
from edgebench.quantize.manifest import manifest_of
from edgebench.results.store import Store
from edgebench.results.summary import summarise
from edgebench.session_child import Child
from edgebench.session_models import make_level, peek, peek_level, resolve
from edgebench.session_plan import Job, Plan, interleaved
from edgebench.suites.scoring import grade

NO_METER = "no_meter"
"""Why every energy figure is absent so far: this version reads no energy meter."""


class Watcher(Protocol):
    """Who is told how it goes."""

    def say(self, line: str) -> None:
        """A line for people."""

    def stage(self, title: str, n_steps: int) -> None:
        """A part of the work begins."""

    def step(self, note: str, n_steps: int = 1) -> None:
        """Some of it is done."""


@dataclass(slots=True)
class Outcome:
    """What came of a plan."""

    run_ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)

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


def execute(plan: Plan, store: Store, watcher: Watcher) -> Outcome:
    """Do everything the plan lacks. Failures of single runs are collected, not raised.

    Raises StoreError when nothing can be stored, KeyboardInterrupt after marking the run interrupted.
    """
    outcome = Outcome()
    with _alone(store.path, plan.device.id):
        artifacts = prepare(plan, store, watcher, outcome)
        cells = [_cell(plan, job, artifact, store) for job in plan.jobs for artifact in artifacts]
        outcome.run_ids += [cell.run_id for cell in cells]
        _measure_speed([c for c in cells if c.job.mode is Mode.PERFORMANCE], plan, store, watcher, outcome)
        _measure_accuracy([c for c in cells if c.job.mode is Mode.ACCURACY], plan, store, watcher, outcome)
    return outcome


def prepare(plan: Plan, store: Store, watcher: Watcher, outcome: Outcome) -> list[Artifact]:
    """The files to measure: each model as it is, or its levels, made where the cache lacks them."""
    artifacts: list[Artifact] = []
    for name in plan.request.models:
        parent = resolve(name, watcher.say)
        _check_fit(parent, plan)
        store.add_artifact(parent, manifest_of(parent))  # its levels name it, measured or not
        if not plan.levels:
            artifacts.append(parent)
            continue
        missing = [level for level in plan.levels if peek_level(parent, level) is None]
        if missing:
            watcher.stage(f"quantizing {parent.model} ({parent.quant.name})", len(missing))
        for level in plan.levels:
            try:
                artifact = make_level(
                    parent, level, n_threads=plan.settings.n_threads, progress=lambda *_: None
                )
            except ModelError as error:
                outcome.failures.append(error.message)
                watcher.say(f"failed: {error.message}" + (f" ({error.hint})" if error.hint else ""))
                continue
            artifacts.append(artifact)
            if level in missing:
                watcher.step(_made_line(artifact))
    return list({artifact.sha256: artifact for artifact in artifacts}.values())


def _made_line(artifact: Artifact) -> str:
    fallback = (
        f", {artifact.quant.n_fallback} tensors fell back to other types" if artifact.quant.n_fallback else ""
    )
    return f"{artifact.label}: {artifact.quant.bits_per_weight:.2f} bits per weight{fallback}"


def _check_fit(artifact: Artifact, plan: Plan) -> None:
    memory_bytes = plan.device.memory_bytes
    if memory_bytes and artifact.size_bytes > 0.9 * memory_bytes:
        raise ModelError(
            f"{artifact.model} ({artifact.size_bytes / 2**30:.1f} GiB) does not fit {plan.device.name}",
            "take a smaller model or level",
        )


def _cell(plan: Plan, job: Job, artifact: Artifact, store: Store) -> Cell:
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
    commit, dirty = _git_state()
    run_id = store.create_run(
        mode=job.mode,
        evidence=plan.runner.evidence,
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
    )
    return Cell(job=job, artifact=artifact, run_id=run_id, started_unix_s=time.time())


# Speed -----------------------------------------------------------------------------------------


def _measure_speed(
    cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher, outcome: Outcome
) -> None:
    request = plan.request
    visits = [
        (cells[i], round_index, _missing_trials(cells[i], round_index, plan, store))
        for round_index, i in interleaved(len(cells), request.rounds)
    ]
    visits = [visit for visit in visits if visit[2]]
    if not visits:
        return
    n_steps = sum(len(repetitions) + 1 for _, _, missing in visits for _, repetitions in missing)
    watcher.stage(f"measuring speed and memory, {len(visits)} visits", n_steps)
    failed: set[str] = set()
    for cell, round_index, missing in visits:
        if cell.run_id in failed:
            continue
        with _recorded(cell, store, watcher, outcome, failed):
            _visit(cell, round_index, missing, plan, store, watcher)
            last = all(not _missing_trials(cell, r, plan, store) for r in range(request.rounds))
            store.set_status(cell.run_id, Status.COMPLETE if last else Status.RUNNING)
            summarise(store, cell.run_id)


def _missing_trials(cell: Cell, round_index: int, plan: Plan, store: Store) -> list[tuple[int, list[int]]]:
    """(workload's number, repetitions still to do) of one visit."""
    done = store.count_trials(cell.run_id)
    return [
        (i, list(range(n, plan.request.repetitions)))
        for i, workload in enumerate(cell.job.workloads)
        if (n := done.get((workload.name, round_index), 0)) < plan.request.repetitions
    ]


def _visit(
    cell: Cell,
    round_index: int,
    missing: Sequence[tuple[int, list[int]]],
    plan: Plan,
    store: Store,
    watcher: Watcher,
) -> None:
    """One fresh process, one level, the repetitions that are missing."""
    store.set_status(cell.run_id, Status.RUNNING)
    process_index = store.next_process_index(cell.run_id)
    seed = cell.job.config["seed"]
    workloads = [_workload_todo(cell.job, i, repetitions, seed + round_index) for i, repetitions in missing]
    load_s: float | None = None
    with Child({"kind": "performance", **_engine(cell, plan), "workloads": workloads}) as child:
        for message in child.messages():
            memory = message["memory"]
            if message["type"] == "loaded":
                load_s = message["load_s"]
                store.set_engine(cell.run_id, message["facts"])
                continue
            trial = _trial_columns(message, cell)
            trial |= {
                "round_index": round_index,
                "process_index": process_index,
                "load_s": load_s,
                "peak_rss_bytes": memory.peak_rss_bytes if memory else None,
                **_split(child),
            }
            _store_readings(child, cell, store)
            store.add_trial(cell.run_id, trial, message["token_times_s"])
            watcher.step(f"{cell.artifact.quant.name} {message['test']}")


def _workload_todo(job: Job, i: int, repetitions: list[int], seed: int) -> dict[str, Any]:
    w = job.workloads[i]
    fields = {"n_prompt": w.n_prompt, "n_gen": w.n_gen, "n_depth": w.n_depth, "chat": w.chat}
    return {"workload": fields, "repetitions": repetitions, "seed": seed}


def _trial_columns(message: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    copied = (
        *("test", "phase", "repetition", "n_prompt", "n_gen", "n_depth", "prefill_s", "decode_s", "ttft_s"),
        *("total_s", "foreign_cpu_s", "canary_before_s", "canary_after_s"),
    )
    return {
        **{key: message[key] for key in copied},
        "started_s": message["started_unix_s"] - cell.started_unix_s,
        "flags_json": json.dumps(message["flags"]),
        "energy_reason": NO_METER,
    }


def _split(child: Child) -> dict[str, int | None]:
    """The highest anonymous and mapped-file memory among the looks taken since the last message."""
    seen = [memory for _, memory in child.readings]
    return {
        "peak_rss_anon_bytes": max((m.anon_bytes for m in seen), default=None),
        "peak_rss_file_bytes": max((m.file_bytes for m in seen), default=None),
    }


def _store_readings(child: Child, cell: Cell, store: Store) -> None:
    taken = child.readings[:]
    del child.readings[: len(taken)]
    for channel, key in (("rss_anon", "anon_bytes"), ("rss_file", "file_bytes")):
        rows = [(at - cell.started_unix_s, float(getattr(memory, key))) for at, memory in taken]
        store.add_readings(cell.run_id, channel, "bytes", rows)


# Accuracy --------------------------------------------------------------------------------------


def _measure_accuracy(
    cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher, outcome: Outcome
) -> None:
    todo = [(cell, missing) for cell in cells if (missing := _missing_groups(cell, store))]
    if not todo:
        return
    n_steps = sum(len(cell.job.groups[i]) for cell, missing in todo for i in missing)
    watcher.stage(f"scoring {n_steps} answers", n_steps)
    for cell, missing in todo:
        with _recorded(cell, store, watcher, outcome, set()):
            _score(cell, missing, plan, store, watcher)
            store.set_status(cell.run_id, Status.COMPLETE)
            summarise(store, cell.run_id)


def _missing_groups(cell: Cell, store: Store) -> list[int]:
    """Groups asked for and not stored; a group is stored whole or not at all."""
    answered = store.answered(cell.run_id)
    asked = cell.job.groups[: cell.job.n_groups]
    return [i for i, group in enumerate(asked) if any(q.id not in answered for q in group)]


def _score(cell: Cell, missing: Sequence[int], plan: Plan, store: Store, watcher: Watcher) -> None:
    store.set_status(cell.run_id, Status.RUNNING)
    job = {
        "kind": "accuracy",
        **_engine(cell, plan),
        "groups": [
            [{"id": p.question_id, "context": p.context, "continuations": p.continuations} for p in group]
            for group in cell.job.prompts()
        ],
        "wanted": list(missing),
        "shape": cell.job.shape.value,
        "n_cells": cell.job.config["n_cells"],
    }
    with Child(job) as child:
        for message in child.messages():
            if message["type"] == "loaded":
                store.set_engine(cell.run_id, message["facts"])
                continue
            store.add_answers(cell.run_id, _graded(message, cell))
            at_s = time.time() - cell.started_unix_s
            store.add_readings(cell.run_id, "scoring_group", "s", [(at_s, message["group_s"])])
            _store_readings(child, cell, store)
            watcher.step(f"{cell.artifact.quant.name} {cell.job.title}", len(message["answers"]))


def _graded(message: Mapping[str, Any], cell: Cell) -> list[dict[str, Any]]:
    questions = {q.id: q for q in cell.job.groups[message["group"]]}
    rows = []
    for answer in message["answers"]:
        question = questions[answer["question_id"]]
        try:
            graded = grade(question, answer["logprobs"], letters=cell.job.config["scorer"] == "letter")
        except ValueError as error:
            raise InvalidRun(str(error), "the weights are damaged, or the engine overflowed") from error
        rows.append(
            {
                "question_id": question.id,
                "choice_index": graded.choice_index,
                "choice_norm_index": graded.choice_norm_index,
                "correct": int(graded.correct),
                "correct_norm": int(graded.correct_norm),
                "logprobs_json": json.dumps(answer["logprobs"]),
                "n_prompt": answer["n_prompt"],
                "group_sha256": message["group_sha256"],
            }
        )
    return rows


# Both ------------------------------------------------------------------------------------------


def _engine(cell: Cell, plan: Plan) -> dict[str, Any]:
    return {
        "runner": plan.runner.name,
        "path": str(cell.artifact.path.absolute()),
        "settings": cell.job.config["settings"],
    }


@contextmanager
def _recorded(
    cell: Cell, store: Store, watcher: Watcher, outcome: Outcome, failed: set[str]
) -> Iterator[None]:
    """Whatever ends a run early is written on it, and on the outcome; what was stored stays."""
    try:
        yield
    except KeyboardInterrupt:
        store.set_status(cell.run_id, Status.INTERRUPTED)
        raise
    except StoreError:
        raise
    except InvalidRun as error:
        store.set_status(cell.run_id, Status.INVALID, error.message)
        outcome.invalid.append(f"{cell.artifact.label} {cell.job.title}: {error.message}")
        watcher.say(f"invalid: {outcome.invalid[-1]}")
    except EdgebenchError as error:
        store.set_status(cell.run_id, Status.FAILED, error.message)
        failed.add(cell.run_id)
        outcome.failures.append(f"{cell.artifact.label} {cell.job.title}: {error.message}")
        watcher.say(f"failed: {outcome.failures[-1]}" + (f" ({error.hint})" if error.hint else ""))


@contextmanager
def _alone(database: Path, device_id: str) -> Iterator[None]:
    """Only one run at a time measures a device into a database: two would spoil each other's figures."""
    import fcntl

    folder = cache_dir() / "locks"
    folder.mkdir(exist_ok=True)
    key = sha256_text(f"{database.absolute()}:{device_id}")[:16]
    with (folder / key).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                f"another edgebench is measuring {device_id} into {database}",
                "wait for it, or give this run another --db",
            ) from None
        yield


def _git_state() -> tuple[str | None, bool | None]:
    """The commit edgebench runs from, when it runs from a checkout of its own."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        state = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(state.stdout.strip())


def plan_rows(plan: Plan, store: Store | None) -> list[dict[str, Any]]:
    """`--dry-run`: what each level and job would do, and how much of it is stored already."""
    rows: list[dict[str, Any]] = []
    for name in plan.request.models:
        parent = peek(name)
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
        else len(job.workloads) * plan.request.repetitions * plan.request.rounds
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
