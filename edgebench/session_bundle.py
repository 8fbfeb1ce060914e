"""A batch in a folder: written here, done on a device that no link reaches, brought back and stored.

What the device is, it writes down itself when the batch is started there; runs begin to exist when the
folder is collected.
"""

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import DeviceError, UsageError
from edgebench.core.paths import atomic_path
from edgebench.core.types import Artifact, DeviceProfile, Environment, Evidence
from edgebench.core.units import data_size
from edgebench.devices import phone_facts
from edgebench.devices.phone_batch import SCRIPTS, write_batch
from edgebench.devices.profiles import find_profile
from edgebench.results.store import Store
from edgebench.runners.llama_native import LlamaNative
from edgebench.runners.native_build import NATIVE, build
from edgebench.runners.native_target import LEVELS, abi_of, find_level
from edgebench.session import alone
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_native import batch_job
from edgebench.session_native_batch import batch_name, batch_told, revive
from edgebench.session_native_jobs import check_native
from edgebench.session_native_place import COOL_CAP_S, RIGOROUS_COOL_CAP_S
from edgebench.session_native_program import native_runner
from edgebench.session_native_work import Terms, Work
from edgebench.session_plan import Request, Site, make_plan
from edgebench.session_remote_cargo import model_files
from edgebench.session_remote_request import request_from_json

PLAN = "plan.json"
FORMAT = "edgebench-bundle 1"
USUAL_THREADS = 4
"""Where `-t` names no number and nobody can try: a phone has about so many cores that are quick."""
MINIMUM_S = 5.0
"""Of a test's window: which meters there will be is not known here, and current x voltage wants so much."""
_MOST_BYTES = 2**30
"""Of a file that comes back."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")


def write_bundle(
    requests: Sequence[Request], folder: Path, target: str, watcher: Watcher, *, levels: Sequence[str] = ()
) -> list[str]:
    """Everything requests need, in a new folder: programs, models, jobs. What was done, line by line.

    `levels` are the kinds of processor to have a program for; none: all of the target's.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", "name a new folder")
    for request in requests:
        check_native(request)
        if native_runner(request) != LlamaNative.name:
            raise UsageError("a bundle carries GGUF files and their program only", "edgebench run --device")
    abi_of(target)
    for level in levels:
        find_level(target, level)
    site = _unknown_site(requests[0])
    with atomic_path(folder) as part, tempfile.TemporaryDirectory() as scratch:
        part.mkdir()
        # A database of its own: what is stored of that very device is not known before it is reached.
        with Store.open(Path(scratch) / "bundle.sqlite") as store:
            outcome = Outcome()
            work = [Work.of(make_plan(request, site), store, watcher, outcome) for request in requests]
            terms = Terms(model_path=_model_path, minimum_s=MINIMUM_S)
            jobs = [job for one in work for job in one.jobs(terms, store, watcher, outcome, set())]
            outcome.raise_if_bad()
        name = batch_name(jobs)
        rigorous = any(request.rigorous for request in requests)
        write_batch(
            part / "batches" / name,
            [batch_job(job) for job in jobs],
            settings={"cool_cap_s": str(RIGOROUS_COOL_CAP_S if rigorous else COOL_CAP_S), "screen": "off"},
        )
        artifacts = list({job.cell.artifact.sha256: job.cell.artifact for job in jobs}.values())
        for artifact in artifacts:
            _copy_model(artifact, part)
        put_programs(part, target, levels, watcher)
        for script in ("start.sh", "pick.sh"):
            shutil.copyfile(SCRIPTS / script, part / script)
        (part / "facts.sh").write_text(phone_facts.SCRIPT, encoding="utf-8")
        (part / "batch.txt").write_text(f"{name}\n", encoding="ascii")
        told = batch_told([one.plan for one in work], jobs, device=requests[0].device, boot_unix_s=None)
        whole = {"format": FORMAT, "batch": name, **told, "device": None, "environment": None}
        (part / PLAN).write_text(json.dumps(whole, indent=1), encoding="utf-8")
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [f"{folder}: {len(jobs)} jobs, {data_size(size_bytes)}", *_how_to_start(folder)]


def _how_to_start(folder: Path) -> tuple[str, ...]:
    there = "/data/local/tmp/bundle"
    return (
        "bring it there, start it, bring it back when there is a file `done` in it:",
        f"  adb push {shlex.quote(str(folder))} {there} && adb shell sh {there}/start.sh",
        f"  adb pull {there} && edgebench collect bundle",
    )


def put_programs(folder: Path, target: str, levels: Sequence[str], watcher: Watcher) -> None:
    """The native program for each level, and the list by which pick.sh chooses among them."""
    rows = []
    for level in LEVELS[abi_of(target)]:
        if levels and level.name not in levels:
            continue
        made = build(target, level.name, say=watcher.say)
        place = folder / "bin" / level.name
        place.mkdir(parents=True)
        shutil.copyfile(made.files[NATIVE], place / NATIVE)
        (place / NATIVE).chmod(0o755)
        rows.append(" ".join([level.name, *sorted(level.needs)]) + "\n")
    (folder / "levels.txt").write_text("".join(rows), encoding="ascii")


def collect_bundle(folder: Path, store: Store, watcher: Watcher) -> Outcome:
    """Store what a device left in a bundle. DeviceError for a folder that is none, or was never started."""
    told = _read_plan(folder)
    facts_text = _text(folder / "facts.txt")
    if facts_text is None:
        raise DeviceError(
            f"{folder} was not started on a device yet: it has no facts.txt", _how_to_start(folder)[1].strip()
        )
    facts = phone_facts.read_text(facts_text)
    name = str(told["batch"])
    evidence = Evidence.SYNTHETIC if facts.is_double else Evidence.MEASURED
    site = Site(
        device=facts.device_profile(),
        environment=facts.environment(),
        runner=LlamaNative(),
        n_threads=told["n_threads"],
        evidence=evidence,
        meter=told["meter"],
    )
    told = {**told, "boot_unix_s": _boot_unix_s(_text(folder / "clock.txt"))}
    place = folder / "batches" / name

    def read(job: str, file: str) -> str | None:
        return _text(place / "jobs" / job / file)

    if not (folder / "done").exists():
        watcher.say("this batch was not over when the folder was copied: what is there is stored")
    outcome = Outcome()
    with alone(store.path, site.device.id):
        batch, work = revive(name, told, store, watcher, outcome, site=site)
        if n_others := len(told["jobs"]) - len(batch.jobs):
            watcher.say(f"{n_others} jobs are not what this version asks of these files: not collected")
        watcher.stage(f"collecting {len(batch.jobs)} jobs of {site.device.name}", len(batch.jobs))
        for job in batch.jobs:
            batch.collect(job.name, read, store, watcher, outcome)
            watcher.step(job.name)
        for one in work:
            one.close(store, watcher, outcome, batch.failed)
            one.interrupt(store)
            outcome.run_ids.append([cell.run_id for cell in one.cells])
    return outcome


def _unknown_site(request: Request) -> Site:
    """A device that is only known by its profile's name, if at all."""
    profile = find_profile(request.device)
    return Site(
        device=DeviceProfile(id=profile.id, name=profile.name, kind=profile.kind, transport="adb"),
        environment=Environment(id="unknown", os="unknown"),
        runner=LlamaNative(),
        n_threads=request.n_threads or USUAL_THREADS,
        evidence=Evidence.MEASURED,
    )


def _model_path(artifact: Artifact) -> str:
    """As a job says it, whose folder is the batch's."""
    return f"../../models/{artifact.sha256}/{artifact.path.name}"


def _copy_model(artifact: Artifact, folder: Path) -> None:
    target = folder / "models" / artifact.sha256 / artifact.path.name
    for file in model_files(artifact, str(target)):
        Path(file.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, file.target)


def _read_plan(folder: Path) -> dict[str, Any]:
    """What was planned. It was away, and is believed no more than what came with it."""
    try:
        told: Any = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        names = [told["batch"], *(job["name"] for job in told["jobs"])]
        if told["format"] != FORMAT or not all(map(_NAME.fullmatch, names)):
            raise ValueError
        if not isinstance(told["meter"], str | None):
            raise ValueError
        for request in told["requests"]:
            check_native(request_from_json(request))
        return {**told, "n_threads": int(told["n_threads"])}
    except FileNotFoundError:
        raise DeviceError(f"{folder} is no bundle: it has no {PLAN}", "edgebench plan writes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
        raise DeviceError(f"{folder / PLAN} can't be read", "it is of another version, or damaged") from None


def _text(path: Path) -> str | None:
    """A file a device wrote; None when it is not there."""
    if path.is_symlink() or not path.is_file():
        return None
    if path.stat().st_size > _MOST_BYTES:
        raise DeviceError(f"{path} has {data_size(path.stat().st_size)}: no results are that large")
    return path.read_text(encoding="utf-8", errors="replace")


def _boot_unix_s(clock: str | None) -> float | None:
    try:
        now, uptime = (clock or "").split()
        return float(now) - float(uptime)
    except ValueError:
        return None
