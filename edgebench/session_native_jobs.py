"""What a device without edgebench is given to do: job files for the native programs, and what they were for.

A job is one process there: a visit of a level, or the questions a run lacks. Texts are made into tokens
here, by this computer's engine on the same file; the device sees token ids.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebench.core.errors import DeviceError, UsageError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import Format, Mode, Scorer, Settings
from edgebench.runners.native_job import JobFile
from edgebench.session_cell import Cell, Watcher, start
from edgebench.session_energy import AUTO
from edgebench.session_performance import CHAT_TEXT
from edgebench.session_plan import Plan, Request

LAYOUT_RUNNERS = {Format.GGUF: "llama_cpp", Format.ONNX: "onnx"}
"""Whose tokenizer makes a format's prompts here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeJob:
    """One process on the device, and what its results are results of."""

    name: str
    cell: Cell
    text: str = ""
    """The job file; empty: the device is only watched for `idle_s`."""
    idle_s: float = 0.0
    idle_kind: str = ""
    round_index: int = 0
    groups: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Group -> what is stored of it, but for what the engine finds."""


def check_native(request: Request) -> None:
    """UsageError for what native programs don't do."""
    refused = {
        "--provider": request.provider,
        "--dtype": request.dtype,
        "--main-gpu": request.gpu,
        "--server": request.server,
        "-ngl": request.n_gpu_layers,
        "--target-ci": request.target_ci,
        "--cold-load": request.cold_load,
        "--marker": request.marker,
        "--tdp": request.tdp_w,
        f"--energy {request.meter}": request.meter != AUTO,
        "-C without -t": request.cpu_mask is not None and request.n_threads is None,
    }
    if given := [flag for flag, value in refused.items() if value]:
        way = "name both: -t 4 -C 0xf0" if given == ["-C without -t"] else "leave it out"
        raise UsageError(f"{', '.join(given)}: not on a device that runs native programs", way)
    mask = request.cpu_mask
    if mask is not None and not (re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,32}", mask) and int(mask, 16)):
        raise UsageError(f"--cpu-mask {mask!r} is no hexadecimal number above 0", "0xf0: CPUs 4 to 7")
    if request.scorer is Scorer.GENERATE and request.mode != "performance":
        raise _cannot_write()


def check_scorers(plan: Plan) -> None:
    """UsageError for a suite that is to be answered in words, if only because that is its own way."""
    if any(job.scorer is Scorer.GENERATE for job in plan.jobs):
        raise _cannot_write()


def _cannot_write() -> UsageError:
    return UsageError(
        "--scorer generate needs the whole of edgebench where the model is", "--scorer letter or cloze"
    )


def layout(
    cell: Cell, plan: Plan, watcher: Watcher, *, groups: Sequence[int] = (), chat: bool = False
) -> Iterator[Mapping[str, Any]]:
    """`chat_prompt` and `laid` messages of a job's texts, from a process that holds the file's tokenizer."""
    runner = LAYOUT_RUNNERS[cell.artifact.quant.format]
    job = {
        "kind": "layout",
        "runner": runner,
        "path": str(cell.artifact.path.absolute()),
        "settings": Settings(n_threads=1).as_config(),
        "chat_text": CHAT_TEXT if chat else None,
        **(cell.job.as_work() if groups else {}),
        "wanted": list(groups),
    }
    with start(job, plan, watcher, runner=runner) as child:
        for message in child.messages():
            if message["type"] in ("chat_prompt", "laid"):
                yield message


def speed_job(
    cell: Cell,
    round_index: int,
    missing: Sequence[tuple[int, list[int]]],
    *,
    model_there: str,
    chat: Mapping[str, Any],
    minimum_s: float,
) -> NativeJob:
    """A visit: the repetitions that are missing of each test; `chat` is the `chat_prompt` message."""
    file = JobFile(model_there, Settings(**cell.job.config["settings"]))
    seed = cell.job.config["seed"] + round_index
    for i, repetitions in missing:
        workload = cell.job.workloads[i]
        first, n_rep = repetitions[0], len(repetitions)
        if workload.chat and cell.artifact.quant.format is Format.ONNX:
            tokens, enders = chat["tokens"], chat["enders"]
            file.ask(workload, tokens=tokens, enders=enders, first=first, n_rep=n_rep, min_s=minimum_s)
        elif workload.chat:
            file.chat(workload, text=chat["text"], first=first, n_rep=n_rep, min_s=minimum_s)
        elif workload.sustained_s:
            file.sustained(workload, seed=seed)
        else:
            file.test(workload, seed=seed, first=first, n_rep=n_rep, min_s=minimum_s)
    text = file.text()
    return NativeJob(
        name=_name("speed", cell, text, round_index), cell=cell, text=text, round_index=round_index
    )


def idle_job(cell: Cell, round_index: int, kind: str, idle_s: float) -> NativeJob:
    """A baseline: nothing runs, and the sensors are watched."""
    name = _name(kind.replace("_", "-"), cell, kind, round_index)
    return NativeJob(name=name, cell=cell, idle_s=idle_s, idle_kind=kind, round_index=round_index)


def accuracy_job(
    cell: Cell, laid: Sequence[Mapping[str, Any]], *, model_there: str, whole: bool
) -> NativeJob:
    """The groups a run lacks; `whole`: the engine shares beginnings, as llama.cpp does."""
    file = JobFile(model_there, Settings(**cell.job.config["settings"]))
    n_cells = int(cell.job.config["n_cells"])
    n_open, told = 0, {}
    for one in laid:
        if one["n_ctx"] > n_open:
            n_open = one["n_ctx"]
            file.context(n_open, one["n_seq_max"])
        items = [(context, ends) for context, ends in one["items"]]
        if whole:
            file.group(one["group"], items, shared=one["shared"], n_cells=n_cells)
        else:
            file.plain_group(one["group"], items)
        told[one["group"]] = {key: one[key] for key in ("group", "group_sha256", "answers")}
    text = file.text()
    return NativeJob(name=_name("score", cell, text, 0), cell=cell, text=text, groups=told)


def as_plan(job: NativeJob) -> dict[str, Any]:
    """What is remembered of a job until its results are stored; no question's text is in it."""
    return {
        "name": job.name,
        "artifact": job.cell.artifact.sha256,
        "config_sha256": job.cell.job.config_sha256,
        "idle_kind": job.idle_kind,
        "round_index": job.round_index,
        "groups": [job.groups[index] for index in job.groups],
    }


def from_plan(told: Mapping[str, Any], cells: Sequence[Cell]) -> NativeJob | None:
    """The job that `as_plan` remembered; None when none of these cells asked for it.

    DeviceError for what it can't have written: it may come back from a device.
    """
    try:
        key = told["artifact"], told["config_sha256"]
        cell = next((one for one in cells if (one.artifact.sha256, one.job.config_sha256) == key), None)
        if cell is None:
            return None
        groups = {group["group"]: group for group in told["groups"]}
        for index, group in groups.items():
            asked = [(q.id, r) for q in cell.job.groups[index] for r in range(cell.job.n_rotations(q))]
            rows = [(row["question_id"], row["rotation"]) for row in group["answers"]]
            counts = [row[name] for row in group["answers"] for name in ("n_prompt", "n_cut", "n_shots")]
            if rows != asked or not all(isinstance(count, int) for count in counts):
                raise ValueError
        return NativeJob(
            name=told["name"],
            cell=cell,
            idle_kind=str(told["idle_kind"]),
            round_index=int(told["round_index"]),
            groups=groups,
        )
    except (KeyError, IndexError, TypeError, ValueError):
        raise DeviceError("a job of the plan is not as it was written", "bring the folder again") from None


def is_speed(job: NativeJob) -> bool:
    """Whether the job measures speed, or the idle time beside it."""
    return job.cell.job.mode is Mode.PERFORMANCE


def _name(what: str, cell: Cell, text: str, round_index: int) -> str:
    key = sha256_json([cell.artifact.sha256, cell.job.config_sha256, round_index, text])[:10]
    return f"{what}-{cell.artifact.quant.name}-r{round_index}-{key}"
