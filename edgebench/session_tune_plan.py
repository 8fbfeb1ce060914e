"""What `tune` would do, resolved before anything is measured: the goal, the settings, the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgebench.core.errors import DeviceError, UsageError
from edgebench.core.halving import Schedule, schedule
from edgebench.core.hashing import sha256_json
from edgebench.core.paired import non_inferior
from edgebench.core.stats import paired_difference
from edgebench.core.types import Mode, Workload
from edgebench.results.records import TUNE
from edgebench.session_job import Job
from edgebench.session_plan import Plan, Request, make_plan
from edgebench.session_tune_answers import accuracy_job
from edgebench.session_tune_space import Goal, Space, space_of

KEEP_SPEED_SHARE = 0.1
"""For the goal memory: a request may take so much longer, unless another share is given."""
SPEED_PAIRS = {"n_pairs": 3, "least_repetitions": 2, "wanted_repetitions": 4}
"""The last comparison of speeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What the user asks for."""

    request: Request
    """Model, level, engine, length of the request (first of -p, -n, -d), meter, suite."""
    goal: Goal
    names: tuple[str, ...] = ()
    """Settings to try, by llama-bench's letters; none: the goal's usual ones."""
    given: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Field of `Settings` -> the values to try, or the one to keep."""
    keep_acc: float | None = None
    """The loss of accuracy a setting must exclude, as a share."""
    keep_speed_share: float | None = None
    """A request may take so much longer than under the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePlan:
    """A request, resolved."""

    asked: TuneRequest
    plan: Plan
    """Under the default setting, with the job that all settings share."""
    space: Space
    schedule: Schedule
    remarks: tuple[str, ...]
    """What is left out, and what the suite can't show."""

    @property
    def measure(self) -> str:
        """What is made small, in words."""
        tokens = f"a request of {self.workload.n_prompt} tokens in, {self.workload.n_gen} out"
        match self.asked.goal:
            case Goal.SPEED:
                return f"seconds of {tokens}"
            case Goal.ENERGY:
                return f"joules of {tokens}"
            case Goal.MEMORY:
                limit = 100 * (self.asked.keep_speed_share or 0)
                return f"peak memory of {tokens}, at most {limit:g} % slower than the default"

    @property
    def workload(self) -> Workload:
        """The request."""
        return self.plan.jobs[0].workloads[0]

    @property
    def n_sweep(self) -> int:
        """Repetitions `run` would take for all settings."""
        return len(self.space.settings) * self.asked.request.rounds * self.asked.request.repetitions

    @property
    def n_sweep_passes(self) -> int:
        """The same with the warm-up of each visit."""
        return self.n_sweep + len(self.space.settings) * self.asked.request.rounds


def plan_tune(asked: TuneRequest) -> TunePlan:
    """Check everything that can be checked without a model.

    Raises UsageError for what is unknown or leaves nothing to choose, DeviceError for energy without a meter.
    """
    if len(asked.request.models) > 1 or len(asked.request.quants) > 1:
        raise UsageError("one file is tuned at a time", "-m MODEL, and one --quant LEVEL at most")
    if asked.request.server:
        raise UsageError("a server that runs already has its settings", "leave out --server")
    if asked.goal is Goal.MEMORY and asked.keep_speed_share is None:
        asked = replace(asked, keep_speed_share=KEEP_SPEED_SHARE)
    request = replace(asked.request, mode="performance", n_chat=0)
    plan = make_plan(request)
    try:
        space = space_of(
            request,
            asked.goal,
            plan.runner.name,
            names=asked.names,
            given=asked.given,
            keeps_answers=asked.keep_acc is not None,
        )
        remarks = (*space.remarks, *_check(plan, asked))
    except BaseException:
        plan.metering.close()
        raise
    # Six values a side carry an interval, twelve one that an outlier does not stretch; of joules and bytes
    # a visit gives one.
    pairs = SPEED_PAIRS if asked.goal is Goal.SPEED else {"n_pairs": 6}
    found = TunePlan(
        asked=asked,
        plan=under(plan, space.settings[0]),
        space=space,
        schedule=schedule(
            len(space.settings), n_rounds=request.rounds, n_repetitions=request.repetitions, **pairs
        ),
        remarks=remarks,
    )
    return replace(found, plan=replace(found.plan, jobs=(_job(found, plan.jobs[0]),)))


def _check(plan: Plan, asked: TuneRequest) -> list[str]:
    """Refuses what can't be done here; remarks on what can hardly be."""
    if plan.device.transport != "local":
        raise UsageError("tune works on this computer", "--device local")
    metering = plan.metering
    if asked.goal is Goal.ENERGY and metering.chosen is None:
        raise DeviceError(
            f"no joules to tune for: {metering.why} ({metering.reason})",
            metering.fix or "edgebench devices probe tells what there could be; --goal speed needs no meter",
        )
    if asked.keep_acc is None:
        return []
    job = accuracy_job(plan)
    n = sum(map(len, job.groups[: job.n_groups]))
    same = paired_difference(0, 0, n)
    if non_inferior(same, asked.keep_acc):
        return []
    least = f", which takes --keep-acc {-same.ci_low:.3f}" if same and same.ci_low is not None else ""
    return [f"{n} questions can't exclude so small a loss{least}: only settings that change no answer pass"]


def under(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan with these settings, fields of `Settings`."""
    return replace(
        plan,
        request=replace(plan.request, **settings),
        settings=replace(plan.settings, **settings),
    )


def _job(found: TunePlan, usual: Job) -> Job:
    """One request, in place of the separate tests of a usual run; the whole command is part of the key."""
    request = found.asked.request
    workload = Workload(n_prompt=request.n_prompt[0], n_gen=request.n_gen[0], n_depth=request.n_depth[0])
    if not workload.n_prompt or not workload.n_gen:
        raise UsageError("a request has tokens in and out", "-p 512 -n 128")
    config = {key: value for key, value in usual.config.items() if key not in ("repetitions", "rounds")}
    command = {
        "goal": found.asked.goal.value,
        "settings": list(found.space.settings),
        "schedule": asdict(found.schedule),
        "keep_speed_share": found.asked.keep_speed_share,
    }
    return Job(
        mode=Mode.PERFORMANCE,
        workloads=(workload,),
        config={**config, "protocol": TUNE, "tests": [workload.name], "tune_sha256": sha256_json(command)},
    )
