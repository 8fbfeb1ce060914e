"""`run --device pixel8`: which phone that is, what is known of it, which threads it is to use.

A name is a profile's (`pixel8`: any phone of that model), `adb:SERIAL` (that one, whatever it is), or `auto`.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from edgebench.core import registry
from edgebench.core.energy import Scope
from edgebench.core.errors import DeviceError, EdgebenchError, HostLost, UsageError, nearest
from edgebench.core.hashing import sha256_text
from edgebench.core.types import Evidence, Status
from edgebench.devices import phone_facts, phone_probe
from edgebench.devices.adb import PREFIX, AdbHost, Attached, attached, find_phone
from edgebench.devices.adb import connect as connect
from edgebench.devices.adb import pair as pair
from edgebench.devices.phone_facts import PhoneFacts
from edgebench.devices.profiles import own_profile, phone_names
from edgebench.results.store import Store
from edgebench.runners.native_target import level_for
from edgebench.session_catalog import meter_row
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_native import collect_left, execute_native
from edgebench.session_native_jobs import check_native
from edgebench.session_native_place import Place
from edgebench.session_native_program import native_runner, program_for, program_level
from edgebench.session_native_store import mean_speed
from edgebench.session_plan import Request, Site
from edgebench.session_remote_deploy import prepare
from edgebench.session_remote_link import Link

_UNIT = '[ -s "$1/.edgebench-host" ] || echo "$2" >"$1/.edgebench-host"; cat "$1/.edgebench-host"'
ROOT = "/data/local/tmp/edgebench"
"""What a phone lets its shell write to and run from; EDGEBENCH_PHONE_DIR names another folder."""
SWEEP_PROMPT, SWEEP_GEN, SWEEP_REPETITIONS = 64, 32, 2
"""A trial of a number of threads: enough to tell 10 t/s from 1."""
SLOW_GAUGE_S = 100.0
"""A window of a hundred values of a battery's gauge that has a new one each second."""
NEARLY = 0.97
"""Fewer threads are taken when they are as fast as this: they leave more for what else the phone does."""


AUTO = "auto"


def is_phone(device: str) -> bool:
    """Whether a device's name is a phone's; of `auto`, whether one is attached, ready or not."""
    if device == AUTO:
        try:
            return bool(attached())
        except EdgebenchError:
            return False  # no adb, no phone
    return device.startswith(PREFIX) or device in phone_names()


def check_reachable(name: str) -> None:
    """UsageError for what is neither a phone's name nor a host's, and for devices that nothing reaches."""
    if name != AUTO and not name.startswith("ssh:") and not is_phone(name):
        own_profile(name)  # says what there is, or how it is reached
        raise UsageError(f"{name} is this computer", "ssh:user@board or a phone: pixel8, adb:SERIAL, auto")


@contextmanager
def reach_phone(name: str, watcher: Watcher) -> Iterator[tuple[Link, PhoneFacts]]:
    """The phone a name stands for, and what it says of itself; DeviceError says what to do."""
    host = _named(name)
    try:
        link = Link(host, watcher)
        yield link, phone_facts.read(lambda argv: link.run(argv))
    finally:
        host.close()


def _root() -> str:
    return os.environ.get("EDGEBENCH_PHONE_DIR", ROOT)


def _named(name: str) -> AdbHost:
    if name == PREFIX:
        raise UsageError(f"{name!r} names no phone", f"{PREFIX}SERIAL, as `adb devices` lists it")
    if name.startswith(PREFIX):
        return find_phone(name.removeprefix(PREFIX))
    if name == AUTO:
        return find_phone(None)
    if name not in phone_names():
        raise nearest(name, [*phone_names(), AUTO, f"{PREFIX}SERIAL"], kind="phone")
    seen: list[str] = []
    fitting: list[Attached] = []
    there = attached()
    if not any(one.state == "device" for one in there):
        return find_phone(None)  # says what was looked for, what was found, and what to tap
    for one in there:
        if one.state != "device":
            seen.append(f"{one.serial} ({one.state})")
            continue
        host = AdbHost(PREFIX + one.serial)
        try:
            identity = phone_facts.read_identity(host.getprop())
        except HostLost:
            seen.append(f"{one.serial} (does not answer)")
            continue
        finally:
            host.close()
        profile = phone_facts.profile_of(identity)
        seen.append(f"{one.serial} ({identity.model})")
        if profile is not None and profile.name == name:
            fitting.append(one)
    if len(fitting) == 1:
        return AdbHost(PREFIX + fitting[0].serial)
    if fitting:
        choices = ", ".join(f"--device {PREFIX}{one.serial}" for one in fitting)
        raise DeviceError(f"{len(fitting)} phones are a {name}", f"name one: {choices}")
    usable = next(one for one in there if one.state == "device")
    raise DeviceError(
        f"no {name} is attached; there {'is' if len(seen) == 1 else 'are'} {', '.join(seen)}",
        f"--device {PREFIX}{usable.serial} takes that one as what it is",
    )


@contextmanager
def phone_place(name: str, watcher: Watcher, request: Request | None = None) -> Iterator[Place]:
    """A phone, ready to be given work; without a request, llama.cpp's. Programs are built when needed."""
    with reach_phone(name, watcher) as (link, facts):
        watcher.say(f"device: {facts.told()}")
        prepare(link, _root(), "EDGEBENCH_PHONE_DIR")
        unit = link.run(["sh", "-c", _UNIT, "sh", _root(), secrets.token_hex(8)]).strip()
        asked = request or Request(device=name)
        n_threads, _ = facts.thread_candidates()[0]
        yield Place(
            link=link,
            root=_root(),
            site=Site(
                device=facts.device_profile(),
                environment=facts.environment(unit=sha256_text(unit)[:8]),
                runner=registry.load("runners", native_runner(asked)),
                n_threads=n_threads,
                evidence=Evidence.SYNTHETIC if facts.is_double else Evidence.MEASURED,
                meter=_meter(facts),
                level=program_level(asked, facts.target, facts.features),
            ),
            build=lambda: program_for(asked, facts.target, facts.features, watcher, _progress(watcher)),
            owner=unit,
            available_bytes=facts.available_bytes,
            boot_unix_s=time.time() - facts.uptime_s,
            minimum_s=facts.minimum_window_s(),
            rigorous_s=0.0 if _meter(facts) == phone_probe.RAILS else SLOW_GAUGE_S,
            candidates=facts.thread_candidates(),
        )


def _meter(facts: PhoneFacts) -> str | None:
    """What energy can be read of now; a run that could read nothing is another than one that could."""
    usable = [status.source for status in phone_probe.probe(facts).sources if status.usable]
    if not usable:
        return None
    return phone_probe.RAILS if phone_probe.RAILS in usable else Scope.BATTERY.value


def execute_phone(requests: Sequence[Request], store: Store, watcher: Watcher) -> Outcome:
    """Do requests on the phone they name; results are in `store`, as those of any other device."""
    for request in requests:
        check_native(request)
    with phone_place(requests[0].device, watcher, requests[0]) as place:
        for request in requests:
            _check_processors(request, place, watcher)
        settled = [_with_threads(request, place, store, watcher) for request in requests]
        return execute_native(settled, place, store, watcher)


def _check_processors(request: Request, place: Place, watcher: Watcher) -> None:
    """UsageError for processors the phone has not; a line for people where threads outnumber them."""
    clusters = place.site.device.facts.get("clusters") or ()
    cpus = {cpu for cluster in clusters for cpu in cluster["cpus"]}
    if not cpus:
        return  # it does not tell
    allowed = cpus
    if request.cpu_mask is not None:
        mask = int(request.cpu_mask, 16)
        allowed = {cpu for cpu in cpus if mask >> cpu & 1}
        if not allowed:
            has = f"{place.site.device.name} has processors {min(cpus)} to {max(cpus)} only"
            raise UsageError(f"-C {request.cpu_mask}: {has}", "0x1 is processor 0, 0x2 is 1, 0x3 both")
    if (request.n_threads or 0) > len(allowed):
        told = f"-t {request.n_threads} on {len(allowed)} processors"
        watcher.say(f"{told}: threads will wait for each other, which may take a hundred times as long")


def probe_phone(name: str, watcher: Watcher) -> dict[str, Any]:
    """What `devices probe` says of a phone: `meters`, `findings`, `state`."""
    with reach_phone(name, watcher) as (_, facts):
        found = phone_probe.probe(facts, level_for)
        return {
            "meters": [meter_row(status) for status in found.sources],
            "findings": [asdict(finding) for finding in found.findings],
            "state": {"now": dict(found.now)},
        }


def phone_folder(name: str, watcher: Watcher) -> tuple[str, int]:
    """Everything edgebench keeps on a phone: the folder and its bytes, 0 where there is none."""
    with reach_phone(name, watcher) as (link, _):
        root = _root()
        told = link.run(["sh", "-c", 'du -sk "$1" 2>/dev/null || true', "sh", root], deadline_s=600).split()
        return root, 1024 * int(told[0]) if told and told[0].isdecimal() else 0


def clean_phone(name: str, watcher: Watcher) -> None:
    """Remove that folder, and put back what killed batches left changed; DeviceError while one runs there."""
    script = (
        'if [ -e "$1/lock" ] && ! flock -n 9 9>>"$1/lock"; then echo busy; exit 0; fi\n'
        '[ -f "$1/.edgebench-host" ] || { echo foreign; exit 0; }\n'
        'for batch in "$1"/batches/*/; do\n'
        '  [ ! -f "$batch/changed" ] || sh "$batch/batch.sh" "${batch%/}" restore\n'
        "done\n"
        'rm -rf -- "$1" && echo removed'
    )
    with reach_phone(name, watcher) as (link, _):
        told = link.run(["sh", "-c", script, "sh", _root()], deadline_s=600).strip()
        if told == "busy":
            raise DeviceError(
                f"edgebench is at work on {name}", "wait for it, or stop it where it was started"
            )
        if told != "removed":
            raise DeviceError(f"{name}: {_root()} was not made by edgebench", "remove it by hand, if at all")


def collect_phone(name: str, store: Store, watcher: Watcher) -> Outcome:
    """Store what earlier commands left on a phone, or wait for what runs there still."""
    with phone_place(name, watcher) as place:
        return collect_left(place, store, watcher)


def _with_threads(request: Request, place: Place, store: Store, watcher: Watcher) -> Request:
    """The request with the number of threads that writes fastest: tried out, where none is named.

    The system's own default can be a hundred times slower: one thread on a core that serves interrupts, and
    every step waits for it.
    """
    if request.n_threads is not None or len(place.candidates) < 2:
        return request
    trial = replace(
        request,
        models=request.models[:1],
        quants=request.quants[:1],
        mode="performance",
        n_prompt=(SWEEP_PROMPT,),
        n_gen=(SWEEP_GEN,),
        n_depth=(0,),
        n_chat=0,
        repetitions=SWEEP_REPETITIONS,
        rounds=1,
        rigorous=False,
        sustained_s=0,
    )
    tried = [replace(trial, n_threads=n, cpu_mask=mask) for n, mask in place.candidates]
    watcher.say(
        f"trying {len(tried)} numbers of threads with {trial.quants[0] if trial.quants else 'the file'}"
    )
    outcome = execute_native(tried, place, store, watcher, tuning=True)
    if any(store.run(run_id).status is Status.INTERRUPTED for ids in outcome.run_ids for run_id in ids):
        outcome.raise_if_bad()  # a choice among a part of them would be another one than the next command's
    speeds = [_speed(store, run_ids[0]) if run_ids else None for run_ids in outcome.run_ids[: len(tried)]]
    found = [(speed, one) for speed, one in zip(speeds, tried, strict=True) if speed is not None]
    if not found:
        outcome.raise_if_bad()
        raise DeviceError("no number of threads could be measured")
    best = max(speed for speed, _ in found)
    good = [one for speed, one in found if speed >= NEARLY * best]
    chosen = min(good, key=lambda one: one.n_threads or 0)
    shown = ", ".join(f"{_threads(one)}: {s:.1f}" for s, one in found)
    watcher.say(f"threads: {_threads(chosen)} (tokens/s while writing: {shown})")
    return replace(request, n_threads=chosen.n_threads, cpu_mask=chosen.cpu_mask)


def _threads(request: Request) -> str:
    return f"{request.n_threads}" + (f" on {request.cpu_mask}" if request.cpu_mask else "")


def _progress(watcher: Watcher) -> Callable[[int, int], None]:
    n_told = 0

    def progress(n_done: int, n_total: int) -> None:
        nonlocal n_told
        if not n_told:
            watcher.stage("building the native program, once", n_total)
        watcher.step("compiled", n_done - n_told)
        n_told = n_done

    return progress


def _speed(store: Store, run_id: str) -> float | None:
    sql = "SELECT n_gen, decode_s FROM trial WHERE run_id = ? AND phase = 'measured'"
    rows: Sequence[Mapping[str, float]] = store.rows(sql, (run_id,))
    return mean_speed(rows)
