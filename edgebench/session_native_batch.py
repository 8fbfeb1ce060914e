"""Jobs for a device as one batch: brought there, followed, collected, from there or from a folder.

What a batch was for is remembered in the cache until its results are stored, so whoever gives the same
command again finds what runs, or what was left; a job's results are stored once, however often they are read.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.errors import EdgebenchError, RunFailed, UsageError
from edgebench.core.hashing import sha256_json
from edgebench.core.paths import atomic_path, cache_part
from edgebench.core.types import DeviceProfile, Environment, Evidence, Status
from edgebench.devices.phone_samples import Samples
from edgebench.results.store import Store
from edgebench.runners.native_job import explain_exit, read_lines
from edgebench.session_cell import Outcome, Watcher, recorded
from edgebench.session_native_jobs import NativeJob, as_plan, from_plan
from edgebench.session_native_store import Results, clock_of
from edgebench.session_native_work import Work
from edgebench.session_plan import Plan, Site, make_plan
from edgebench.session_remote_request import request_as_json, request_from_json

_TOLD_TO_END = "143"
_RESULTS = ("trial", "group", "idle")
Read = Callable[[str, str], str | None]
"""(job, file) -> its text; None: it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Jobs and everything needed to store what comes of them."""

    name: str
    jobs: tuple[NativeJob, ...]
    boot_unix_s: float | None
    """When the device was started, by this computer's clock; None: nobody could ask it."""
    synthetic: bool
    failed: set[str] = field(default_factory=set)
    """Runs that a job has ended early, by what was collected now."""

    def collect(
        self,
        name: str,
        read: Read,
        store: Store,
        watcher: Watcher,
        outcome: Outcome,
        *,
        stopping: bool = False,
    ) -> None:
        """Store what a job left; what ended it early is written on its run, unless we did (`stopping`)."""
        job = next((job for job in self.jobs if job.name == name), None)
        if job is None or store.run(job.cell.run_id).status is Status.COMPLETE:
            return
        out = (read(name, "out.jsonl") or "").split("\n")  # a text may hold other ends of lines
        samples = Samples.read(read(name, "samples.txt") or "", synthetic=self.synthetic)
        status = (read(name, "rc") or "").strip()
        with recorded(job.cell, store, watcher, outcome, self.failed):
            lines = list(read_lines(out))
            clock = clock_of(job, self.boot_unix_s, lines)
            Results.of(job, lines, samples, store, clock).save()
            if status == "0" and not any(line["type"] in _RESULTS for line in lines):
                raise RunFailed("what it left can't be read: out.jsonl is damaged", "the same command again")
            if status not in ("", "0") and not (stopping and status == _TOLD_TO_END):
                raise _failure(status, lines, read(name, "err.txt") or "")

    def store_answers(self, name: str, lines: Iterable[str], store: Store) -> None:
        """Store answers of a job that still works; what is wrong with it shows at its end."""
        job = next((job for job in self.jobs if job.name == name), None)
        if job is None or store.run(job.cell.run_id).status is Status.COMPLETE:
            return
        with suppress(EdgebenchError):
            told = list(read_lines(lines))
            clock = clock_of(job, self.boot_unix_s, told)
            nothing = Samples.read("", synthetic=self.synthetic)
            Results.of(job, told, nothing, store, clock).save(is_over=False)


def _failure(status: str, lines: Sequence[Mapping[str, Any]], errors: str) -> RunFailed:
    told = next((str(line["message"]) for line in lines if line["type"] == "error"), "")
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    why = "".join(c for c in (told or last) if c.isprintable())[:300]
    is_status = status.isdecimal() and len(status) <= 3
    how = explain_exit(int(status)) if is_status else f"ended with {status[:20]!r}"
    return RunFailed(f"the native program {how}" + (f": {why}" if why else ""))


def owner_of(unit: str, database: Path) -> str:
    """Whose batches they are: those of one device for one database."""
    return sha256_json([unit, str(database.resolve())])[:16]


def remember(
    plans: Sequence[Plan], jobs: Sequence[NativeJob], *, owner: str, device: str, boot_unix_s: float | None
) -> str:
    """Keep what jobs are for; the name of their batch, which follows from them."""
    name = batch_name(jobs, owner)
    told = batch_told(plans, jobs, device=device, boot_unix_s=boot_unix_s)
    with atomic_path(cache_part("batches") / f"{name}.json") as part:
        part.write_text(json.dumps({"owner": owner, **told}))
    return name


def batch_name(jobs: Sequence[NativeJob], owner: str = "") -> str:
    """The same for the same jobs."""
    return sha256_json([owner, [[job.name, job.text, job.idle_s] for job in jobs]])[:16]


def batch_told(
    plans: Sequence[Plan], jobs: Sequence[NativeJob], *, device: str, boot_unix_s: float | None
) -> dict[str, Any]:
    """A batch as JSON: requests, the device and the jobs; no question's text."""
    plan = plans[0]
    return {
        "requests": [request_as_json(one.request) for one in plans],
        "device_name": device,
        "device": asdict(plan.device),
        "environment": asdict(plan.environment),
        "runner": plan.runner.name,
        "n_threads": plan.settings.n_threads,
        "boot_unix_s": boot_unix_s,
        "evidence": plan.evidence.value,
        "meter": plan.metering.elsewhere,
        "level": plan.jobs[0].config.get("program_level") if plan.jobs else None,
        "tuning": plan.tuning,
        "jobs": [as_plan(job) for job in jobs],
    }


def remembered(owner: str) -> Iterator[str]:
    """Batches whose results are not all stored yet."""
    for file in sorted(cache_part("batches").glob("*.json")):
        if json.loads(file.read_text()).get("owner") == owner:
            yield file.stem


def recall(name: str) -> dict[str, Any]:
    """What `remember` kept."""
    told: dict[str, Any] = json.loads((cache_part("batches") / f"{name}.json").read_text())
    return told


def revive(
    name: str,
    told: Mapping[str, Any],
    store: Store,
    watcher: Watcher,
    outcome: Outcome,
    *,
    site: Site | None = None,
) -> tuple[Batch, list[Work]]:
    """A batch and the runs its results belong to; `site`: where it was done, if that is not told.

    UsageError when it was remembered by a version that remembered other things.
    """
    site = site or _site(told)
    requests = map(request_from_json, told["requests"])
    work = [Work.of(make_plan(request, site), store, watcher, outcome) for request in requests]
    cells = [cell for one in work for cell in one.cells]
    jobs = [job for one in told["jobs"] if (job := from_plan(one, cells)) is not None]
    batch = Batch(
        name=name,
        jobs=tuple(jobs),
        boot_unix_s=told["boot_unix_s"],
        synthetic=site.evidence is Evidence.SYNTHETIC,
    )
    return batch, work


def _site(told: Mapping[str, Any]) -> Site:
    try:
        return Site(
            device=DeviceProfile(**told["device"]),
            environment=Environment(**told["environment"]),
            runner=registry.load("runners", told["runner"]),
            n_threads=told["n_threads"],
            evidence=Evidence(told["evidence"]),
            meter=told["meter"],
            level=told["level"],
            tuning=told["tuning"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError("another version of edgebench asked for them") from error


def forget(name: str) -> None:
    """Everything of a batch is stored."""
    (cache_part("batches") / f"{name}.json").unlink(missing_ok=True)
