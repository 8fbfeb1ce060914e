"""What a run would do, resolved before anything is measured: a list of jobs, each done on every artifact."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.energy import Absence
from edgebench.core.engine import Runner
from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.hashing import sha256_text
from edgebench.core.types import (
    DeviceProfile,
    Environment,
    Evidence,
    Mode,
    Permutation,
    Scorer,
    Settings,
    Workload,
)
from edgebench.devices.gpu import Gpu
from edgebench.devices.local import default_threads, local_environment
from edgebench.devices.profiles import own_profile
from edgebench.quantize.adopted import adopted_models
from edgebench.results.records import TUNE
from edgebench.runners.llama_backends import check_gpu_backend
from edgebench.session_energy import AUTO, Metering, open_metering
from edgebench.session_gpu import gpu_of
from edgebench.session_job import Job
from edgebench.session_models import DEFAULT_MODEL, SYNTHETIC_SUFFIX, check_levels, check_models
from edgebench.session_performance import CHAT_TEXT
from edgebench.session_questions import accuracy_jobs
from edgebench.session_served import attach

LLAMA_ENGINES = ("llama_cpp", "llama_server")
"""Those that compute with the installed llama.cpp."""
RIGOROUS_ROUNDS = RIGOROUS_REPETITIONS = 5
"""The least of each under the full protocol."""
MAX_ROUNDS = 20
"""Visits of a level at most, when an interval is asked for that does not come."""
SUSTAINED_TOKENS = 128
"""Tokens of each request of a sustained run, where no tg test names another number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for. Names and defaults are the command line's."""

    device: str = "local"
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    quants: tuple[str, ...] = ()
    runner: str | None = None
    mode: str = "both"
    suites: tuple[str, ...] = ("everyday",)
    scorer: Scorer | None = None
    data: Path | None = None
    key: Path | None = None
    num_fewshot: int = 0
    permutation: Permutation = Permutation.NONE
    apply_chat_template: bool = False
    truncate: bool = True
    limit: int | None = None
    limit_first: bool = False
    target_ci: float | None = None
    meter: str = AUTO
    tdp_w: float | None = None
    rigorous: bool = False
    cold_load: bool = False
    sustained_s: int = 0
    marker: bool = False
    noise_floor: bool = False
    n_prompt: tuple[int, ...] = (512,)
    n_gen: tuple[int, ...] = (128,)
    n_depth: tuple[int, ...] = (0,)
    n_chat: int = 64
    repetitions: int = 5
    rounds: int = 2
    n_threads: int | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    n_gpu_layers: int = 0
    flash_attn: str = "on"
    type_k: str = "f16"
    type_v: str = "f16"
    mmap: bool = True
    provider: str | None = None
    dtype: str | None = None
    gpu: str | None = None
    server: str | None = None
    cpu_mask: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A device that runs native programs and no edgebench: a phone, or this computer looked at as one."""

    device: DeviceProfile
    environment: Environment
    runner: Runner
    n_threads: int
    """Where the request names no number."""
    evidence: Evidence
    """`synthetic` of a stand-in for a device."""
    meter: str | None = None
    """What energy could be read of now; None: nothing, or a battery that is being charged."""
    level: str | None = None
    """The instructions its program uses: with others a run is another one."""
    tuning: bool = False
    """Whether its runs only try settings out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request, resolved; artifacts are named, not yet made."""

    request: Request
    device: DeviceProfile
    environment: Environment
    runner: Runner
    settings: Settings
    jobs: tuple[Job, ...]
    metering: Metering = field(default_factory=Metering)
    """What energy is measured with; open until it is closed."""
    gpu: Gpu | None = None
    """The NVIDIA GPU that computes; None: none does, or none can be watched."""
    gpu_told: str = ""
    """A line for people: which GPU, or what is not known of it."""
    absent_told: str = ""
    """A line for people: which tests can't be done, and why."""
    evidence: Evidence = Evidence.MEASURED
    """What its figures are."""
    timing_source: str = "host"
    """Whose clock times the engine's calls: ours, or its own (`engine`)."""
    tuning: bool = False
    """Whether its runs only try settings out, and stand for nothing."""
    levels: tuple[str, ...] = field(default=())
    """Levels to make of each model; empty: the files as they are."""


def make_plan(request: Request, site: Site | None = None) -> Plan:
    """Check everything that can be checked without a model. Raises UsageError or SuiteError.

    A running server is asked what it is: ServerError when it is not there. `site` is where the work is done,
    if not by this computer's engines.
    """
    check_levels(request.quants)
    device, environment = (
        (site.device, site.environment) if site else (own_profile(request.device), local_environment())
    )
    attached = attach(request.server, request.runner, levels=bool(request.quants)) if request.server else None
    if attached is None:
        check_models(request.models)
    elif attached.elsewhere is not None:
        device, environment = attached.elsewhere
    runner: Runner = site.runner if site else attached.runner if attached else _runner(request)
    if request.mode not in ("performance", "accuracy", "both"):
        raise UsageError(f"unknown mode {request.mode!r}", "performance, accuracy or both")
    settings = Settings(
        n_threads=request.n_threads or (site.n_threads if site else usual_settings(None).n_threads),
        n_batch=request.n_batch,
        n_ubatch=min(request.n_ubatch, request.n_batch),
        n_gpu_layers=request.n_gpu_layers,
        flash_attn=request.flash_attn,
        type_k=request.type_k,
        type_v=request.type_v,
        mmap=request.mmap,
        provider=request.provider,
        dtype=request.dtype,
        gpu=request.gpu,
        server=request.server,
        cpu_mask=request.cpu_mask,
    )
    if request.cpu_mask is not None and site is None:
        raise UsageError("--cpu-mask is for phones and --runner llama_native", "taskset does it here")
    if runner.name in LLAMA_ENGINES and attached is None:
        check_gpu_backend(settings.n_gpu_layers)
    here = device.transport == "local" and site is None
    gpu, gpu_told = gpu_of(settings) if here else (None, "")
    if gpu is not None:
        settings = replace(settings, gpu=gpu.uuid)
    metering = Metering(elsewhere=site.meter) if site else _metering(request, settings, gpu)
    if attached and attached.elsewhere:
        metering.close()
        metering = Metering(reason=Absence.NO_SENSOR, why="the server is on another computer")
    texts_only = attached.why_texts_only if attached else None
    jobs: list[Job] = []
    if request.mode != "accuracy":
        if workloads := [w for w in _workloads(request) if w.chat or not texts_only]:
            jobs.append(_performance_job(request, workloads, runner, settings, metering))
        if request.sustained_s and not texts_only:
            jobs.append(_sustained_job(request, runner, settings, metering))
        if not jobs:
            raise UsageError(
                f"nothing to measure{f': {texts_only}' if texts_only else ''}",
                "give -p, -n, --chat or --sustained a number above 0, or --mode accuracy",
            )
    if request.mode != "performance":
        for name in dict.fromkeys(request.suites):
            jobs += accuracy_jobs(name, request, runner, settings)
    if site and site.level:
        jobs = [replace(job, config={**job.config, "program_level": site.level}) for job in jobs]
    if site and site.tuning:
        jobs = [replace(job, config={**job.config, "protocol": TUNE}) for job in jobs]
    return Plan(
        request=request,
        device=device,
        environment=environment,
        runner=runner,
        settings=settings,
        jobs=tuple(jobs),
        metering=metering,
        gpu=gpu,
        gpu_told=gpu_told,
        absent_told=_absent(request, texts_only),
        evidence=site.evidence if site else runner.evidence,
        timing_source="engine" if site else "host",
        tuning=bool(site and site.tuning),
        levels=tuple(dict.fromkeys(request.quants)),
    )


def _metering(request: Request, settings: Settings, gpu: Gpu | None) -> Metering:
    return open_metering(
        request.meter,
        on_gpu=settings.on_gpu,
        gpu=gpu.meter if gpu else None,
        tdp_w=request.tdp_w,
        n_cores=os.cpu_count() or 1,
    )


def usual_settings(n_threads: int | None) -> Settings:
    """What an engine is told when nothing is asked for, but perhaps the threads."""
    return Settings(n_threads=n_threads or default_threads())


def _runner(request: Request) -> Runner:
    fitting = {_runner_name(model) for model in request.models}
    if len(fitting) > 1:
        raise UsageError(
            f"these models need different engines: {', '.join(sorted(fitting))}", "measure them one by one"
        )
    runner: Runner = registry.load("runners", request.runner or fitting.pop())
    if runner.tool is None and (why := runner.available()) is not None:
        raise MissingDependency(f"runner {runner.name}: {why}", runner.install)
    return runner


def _runner_name(model: str) -> str:
    """The engine for a model's format: of a folder, what lies in it tells."""
    ours = adopted_models().get(model)
    path = Path(ours.path if ours else model).expanduser()
    if model.endswith(SYNTHETIC_SUFFIX):
        return "synthetic"
    if path.is_dir():
        return "onnx" if (path / "model.onnx").is_file() else "torch"
    return "llama_cpp"


def _workloads(request: Request) -> tuple[Workload, ...]:
    tests = [Workload(n_prompt=p, n_depth=d) for d in request.n_depth for p in request.n_prompt if p]
    tests += [Workload(n_gen=n, n_depth=d) for d in request.n_depth for n in request.n_gen if n]
    tests += [Workload(n_gen=request.n_chat, chat=True)] if request.n_chat else []
    return tuple(dict.fromkeys(tests))  # a repeated number is one test


def _absent(request: Request, why: str | None) -> str:
    names = [w.name for w in _workloads(request) if not w.chat]
    names += [f"sustained{request.sustained_s}"] if request.sustained_s else []
    return f"not measured: {', '.join(names)} ({why})" if why and names and request.mode != "accuracy" else ""


def _performance_job(
    request: Request, workloads: Sequence[Workload], runner: Runner, settings: Settings, metering: Metering
) -> Job:
    n_rounds = max(request.rounds, RIGOROUS_ROUNDS) if request.rigorous else request.rounds
    n_repetitions = (
        max(request.repetitions, RIGOROUS_REPETITIONS) if request.rigorous else request.repetitions
    )
    return Job(
        mode=Mode.PERFORMANCE,
        workloads=tuple(workloads),
        n_rounds=n_rounds,
        n_repetitions=n_repetitions,
        anchored=request.rigorous,
        config={
            **_speed_config(request, runner, settings, metering),
            "tests": [w.name for w in workloads],
            "chat_text_sha256": sha256_text(CHAT_TEXT) if request.n_chat else None,
            "warmup": "one full pass",
            "repetitions": n_repetitions,
            "rounds": n_rounds,
        },
    )


def _sustained_job(request: Request, runner: Runner, settings: Settings, metering: Metering) -> Job:
    """Minutes of generation, once: a run of its own, since its heat would be in everything after it."""
    workload = Workload(n_gen=max(request.n_gen) or SUSTAINED_TOKENS, sustained_s=request.sustained_s)
    return Job(
        mode=Mode.PERFORMANCE,
        workloads=(workload,),
        config={
            **_speed_config(request, runner, settings, metering),
            "tests": [workload.name],
            "n_gen": workload.n_gen,
            "warmup": "one request",
        },
    )


def _speed_config(request: Request, runner: Runner, settings: Settings, metering: Metering) -> dict[str, Any]:
    """What decides any performance run; the meter is part of it, so one found later is worth a new run."""
    return {
        "mode": "performance",
        "runner": runner.name,
        "runner_version": runner.version(),
        "settings": settings.as_config(),
        "protocol": "rigorous" if request.rigorous else "window",
        "cold_load": request.cold_load or request.rigorous,
        "meter": metering.chosen.source if metering.chosen else metering.elsewhere,
        "seed": request.seed,
    }
