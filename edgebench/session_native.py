"""Runs on a device that has no Python: planned and stored here, computed there by native programs.

The whole of what is missing goes there as one batch, which needs no link while it works. What an earlier
command left there is collected first, so nothing is measured twice.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebench.core.errors import DeviceError, EdgebenchError, HostLost
from edgebench.core.host import JobState
from edgebench.core.types import Status
from edgebench.devices.phone_batch import BatchJob, restore_argv, write_batch
from edgebench.results.store import Store
from edgebench.runners.native_job import read_lines
from edgebench.session import alone
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_native_batch import (
    Batch,
    batch_name,
    forget,
    owner_of,
    recall,
    remember,
    remembered,
    revive,
)
from edgebench.session_native_jobs import NativeJob, check_native
from edgebench.session_native_place import Place
from edgebench.session_native_work import Work
from edgebench.session_plan import Plan, Request, make_plan

COLLECT_EVERY_S = 60.0
"""How often answers are fetched while a job works: whoever kills this process loses no more than that."""


def execute_native(
    requests: Sequence[Request], place: Place, store: Store, watcher: Watcher, *, tuning: bool = False
) -> Outcome:
    """Do requests on a device, bring the results into `store`: what `session.execute_all` does here.

    What is `tuning` stands for no level's speed in any comparison.

    Raises HostLost when the device stays away (what runs there goes on), DeviceError for what it can't,
    KeyboardInterrupt once what runs there has been stopped and its results are here.
    """
    for request in requests:
        check_native(request)
    outcome = Outcome()
    with alone(store.path, place.site.device.id):
        _collect_left(place, store, watcher, Outcome())
        site = replace(place.site, tuning=tuning)
        plans = [make_plan(request, site) for request in requests]
        work = [Work.of(plan, store, watcher, outcome) for plan in plans]
        outcome.run_ids += [[cell.run_id for cell in one.cells] for one in work]
        failed: set[str] = set()
        if place.available_bytes is not None:
            for one in work:
                one.check_memory(place.available_bytes, store, watcher, outcome, failed)
        jobs = [job for one in work for job in one.jobs(place.terms, store, watcher, outcome, failed)]
        try:
            if jobs:
                _measure(plans, jobs, work, place, store, watcher, outcome, failed)
        except HostLost:
            raise  # what runs there goes on
        except BaseException:
            for one in work:
                one.interrupt(store)
            raise
        for one in work:
            one.close(store, watcher, outcome, failed)
            one.tell_cut_short(store, watcher, outcome)
    return outcome


def collect_left(place: Place, store: Store, watcher: Watcher) -> Outcome:
    """Store what earlier commands left on a device; what they ran is finished by the same command again."""
    outcome = Outcome()
    with alone(store.path, place.site.device.id):
        _collect_left(place, store, watcher, outcome)
    return outcome


def _collect_left(place: Place, store: Store, watcher: Watcher, outcome: Outcome) -> None:
    """Store what earlier batches left on the device; one that runs still is followed to its end."""
    for name in remembered(owner_of(place.owner, store.path)):
        look = place.link(lambda name=name: place.link.host.look(root=place.root, job=name, offset=0))  # type: ignore[misc]
        if look.state is JobState.ABSENT:
            forget(name)
            continue
        watcher.say(f"{place.link.host.name} has results of an earlier command: collecting them")
        try:
            batch, work = revive(name, recall(name), store, watcher, Outcome())
        except EdgebenchError as error:
            watcher.say(f"they can't be taken: {error.message}; devices clean removes them")
            forget(name)
            continue
        watcher.stage(f"collecting {len(batch.jobs)} jobs", sum(map(_n_steps, batch.jobs)))
        # What was told to end then is no failure now.
        _follow(batch, place, store, watcher, outcome, stopping=True)
        for one in work:
            one.close(store, watcher, outcome, batch.failed)
            one.interrupt(store)
            outcome.run_ids.append([cell.run_id for cell in one.cells])
        if len(batch.jobs) < len(recall(name)["jobs"]):
            watcher.say("some of them were asked for by other versions, and stay there until devices clean")
        else:
            place.drop_batch(name)
        forget(name)


def _measure(
    plans: Sequence[Plan],
    jobs: Sequence[NativeJob],
    work: Sequence[Work],
    place: Place,
    store: Store,
    watcher: Watcher,
    outcome: Outcome,
    failed: set[str],
) -> None:
    owner = owner_of(place.owner, store.path)
    name = batch_name(jobs, owner)
    place.link.check_idle(place.root, but=name)
    remember(
        plans,
        jobs,
        owner=owner,
        device=plans[0].request.device,
        boot_unix_s=place.boot_unix_s,
    )
    artifacts = {job.cell.artifact.sha256: job.cell.artifact for job in jobs}
    place.bring_programs(watcher)
    place.bring_models(list(artifacts.values()), watcher)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        write_batch(
            folder,
            [batch_job(job) for job in jobs],
            settings=place.batch_settings(plans[0].request),
        )
        place.bring_folder(folder, f"{place.root}/batches/{name}")
    for job in jobs:
        store.set_status(job.cell.run_id, Status.RUNNING)
    batch = Batch(
        name=name,
        jobs=tuple(jobs),
        boot_unix_s=place.boot_unix_s,
        synthetic=place.synthetic,
        failed=failed,
    )
    watcher.stage(f"measuring on {place.site.device.name}, {len(jobs)} jobs", sum(map(_n_steps, jobs)))
    try:
        place.start_batch(name)
        _follow(batch, place, store, watcher, outcome)
    except KeyboardInterrupt:
        watcher.say("stopping what runs there; Ctrl-C again leaves it to itself")
        place.link(lambda: place.link.host.stop(root=place.root, job=name))
        _follow(batch, place, store, watcher, Outcome(), stopping=True)
        raise
    place.drop_batch(name)
    forget(name)


def _follow(
    batch: Batch,
    place: Place,
    store: Store,
    watcher: Watcher,
    outcome: Outcome,
    *,
    stopping: bool = False,
) -> None:
    """Hear a batch to its end and store what each job left as soon as it is over, answers earlier."""
    ended: set[str] = set()
    current, collected_s = "", time.monotonic()
    by_name = {job.name: job for job in batch.jobs}
    answers = b""
    """What the job that works has answered so far."""

    def path_of(job: str, file: str) -> str:
        return f"{place.root}/batches/{batch.name}/jobs/{job}/{file}"

    def read(job: str, file: str) -> str | None:
        found = place.read(path_of(job, file))
        return None if found is None else found.decode("utf-8", "replace")

    def collect(job: str) -> None:
        batch.collect(job, read, store, watcher, outcome, stopping=stopping)

    def hear(line: bytes) -> None:
        nonlocal current, collected_s, answers
        try:
            heard = list(read_lines([line.decode("utf-8", "replace")]))
        except DeviceError:
            return  # its job's run fails of it, when that is collected
        for told in heard:
            match told["type"]:
                case "begin":
                    current, answers = told["job"], b""
                case "wait":
                    watcher.say(f"cooling down: {told['temperature_c']:.0f} °C, to {told['target_c']:.0f} °C")
                case "trial" | "group" if current in by_name:
                    watcher.step(_note(by_name[current]), int(_counts(told, by_name[current])))
                    if told["type"] == "group" and time.monotonic() - collected_s > COLLECT_EVERY_S:
                        answers += place.read(path_of(current, "out.jsonl"), len(answers)) or b""
                        batch.store_answers(current, answers.decode("utf-8", "replace").split("\n"), store)
                        collected_s = time.monotonic()
                case "end":
                    collect(told["job"])
                    ended.add(told["job"])

    place.link.follow(root=place.root, job=batch.name, hear=hear)
    if place.is_phone:
        place.link.run(restore_argv(f"{place.root}/batches/{batch.name}"))  # it may have been killed
    for job in batch.jobs:  # the batch was killed, or the device went down in the middle of one
        if job.name not in ended:
            collect(job.name)


def batch_job(job: NativeJob) -> BatchJob:
    """A job as `batch.sh` is given it."""
    mask = job.cell.job.config["settings"].get("cpu_mask")
    plain = mask.lower().removeprefix("0x") if mask else None  # as taskset wants it
    return BatchJob(name=job.name, text=job.text or None, idle_s=job.idle_s, cpu_mask=plain)


def _note(job: NativeJob) -> str:
    return f"{job.cell.artifact.quant.name} {job.cell.job.title}"


def _counts(told: Mapping[str, Any], job: NativeJob) -> bool:
    """Whether a line is a step of the work: repetitions that only make a window longer are not."""
    return bool(told["type"] == "group" or told["repetition"] < job.cell.job.n_repetitions)


def _n_steps(job: NativeJob) -> int:
    """What a job's progress is counted in: repetitions with their warm-up, or groups."""
    ops = [line.split(" ", 1)[0] for line in job.text.splitlines()]
    n_tests = sum(op in ("test", "chat", "ask", "sustained") for op in ops)
    if not ops and not job.idle_kind:  # of an earlier command, whose job file is there only
        n_tests = len(job.cell.job.workloads)
    return len(job.groups) or n_tests * (1 + job.cell.job.n_repetitions)
