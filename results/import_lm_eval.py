"""lm-evaluation-harness's results JSON as runs: one per task or group, its figures as the file tells them.

The file has no answer to a single question: nothing can be paired, and no table of levels takes these runs.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from edgebench.core.hashing import sha256_json
from edgebench.core.stats import wilson
from edgebench.core.types import Format, Mode
from edgebench.results.import_read import Fields, last_part, shown
from edgebench.results.import_store import Figure, ImportedRun, ImportedSuite, split_level, utc

TOOL = "lm-eval"
MAX_TASKS = 10_000
SHARES = ("acc", "acc_norm", "acc_bytes", "exact_match")
"""Metrics that are shares of right answers: an interval follows from the counts."""
_MEDICAL = re.compile(
    r"med|mmlu|mirage|clinic|health|anatomy|virology|nutrition|biology|disease|doctor|nurs|drug",
    re.IGNORECASE,
)
"""Tasks whose figures carry the note on medical suites: one too many rather than one too few."""


def lm_eval_runs(value: Any) -> list[ImportedRun]:
    """The runs of a results file; ValueError names the field that is not what it must be."""
    whole = Fields(value, "the file")
    results, groups = whole.part("results"), whole.part("group_subtasks")
    tasks = results.names()
    if len(tasks) > MAX_TASKS:
        raise ValueError(f"it has more than {MAX_TASKS} tasks")
    members = {name: _members(groups, name) for name in groups.names()}
    part_of = {member for own in members.values() for member in own}
    tops = [name for name in tasks if name not in part_of]
    runs = [run for name in tops if (run := _run(whole, name, _below(members, name)))]
    if not runs:
        raise ValueError("it has no task with a figure in results")
    return runs


def is_results(value: object) -> bool:
    """Whether an object looks like a results file."""
    if not isinstance(value, dict) or not isinstance(value.get("results"), dict):
        return False
    return bool({"versions", "n-shot", "configs", "lm_eval_version", "n-samples"} & value.keys())


def _members(groups: Fields, name: str) -> list[str]:
    found = groups.raw(name)
    if not isinstance(found, list) or any(not isinstance(one, str) for one in found):
        raise ValueError(f"{groups.where}.{shown(name)} is not a list of names")
    return [one for one in found if one != name]


def _below(members: Mapping[str, list[str]], top: str) -> dict[str, bool]:
    """Every group and task below one, each once -> whether it is a group."""
    found: dict[str, bool] = {}
    waiting = list(members.get(top, ()))
    while waiting:
        name = waiting.pop(0)
        if name not in found and name != top:
            found[name] = bool(members.get(name))
            waiting += members.get(name, ())
    return found


def _run(whole: Fields, task: str, below: Mapping[str, bool]) -> ImportedRun | None:
    config = whole.part("config")
    samples = whole.part("n-samples")
    leaves = [name for name, is_group in below.items() if not is_group]
    suite = _suite(whole, task, _n(samples, task, leaves, "original"))
    figures = list(_figures(whole, task, suite.id, _n(samples, task, leaves, "effective")))
    for name, is_group in below.items():
        kind = "category" if is_group else "subject"
        n = _n(samples, name, (), "effective")
        figures += _figures(whole, name, f"{suite.id}/{kind}/{shown(name)}", n)
    if not figures:
        return None
    named = last_part(whole.text("model_name") or config.any_text("model_args") or "unknown")
    model, level = split_level(re.split(r"pretrained=", named)[-1].partition(",")[0] or "unknown")
    date = whole.number("date")
    started_at = None
    if date is not None and 0 < date < 4e9:
        started_at = utc(datetime.fromtimestamp(date, UTC).isoformat())
    template = whole.text("chat_template_sha")
    told = {
        "task": shown(task),
        "model": model,
        "level": level,
        "date": date,
        "figures": sorted((one.test, one.metric, one.value) for one in figures),
    }
    return ImportedRun(
        mode=Mode.ACCURACY,
        tool=TOOL,
        tool_version=whole.text("lm_eval_version") or whole.text("git_hash") or "not told",
        model=model,
        level=level if level != "unknown" else (config.text("model_dtype") or "unknown"),
        format=Format.GGUF if "gguf" in (config.text("model") or "").lower() else Format.SAFETENSORS,
        size_bytes=0,
        n_params=config.count("model_num_parameters"),
        device="unknown",  # `device` is where torch computes, not what it is
        started_at=started_at,
        records=(sha256_json(told),),
        config={
            "num_fewshot": whole.part("n-shot").count(task) or 0,
            "apply_chat_template": template is not None,
            "lm_eval": {
                "model": config.any_text("model"),
                "device": config.any_text("device"),
                "dtype": config.any_text("model_dtype"),
                "batch_size": config.any_text("batch_size"),
                "limit": config.any_text("limit"),
                "git_hash": whole.text("git_hash"),
                "task_hash": whole.part("task_hashes").text(task),
                "chat_template_sha": template,
            },
        },
        figures=tuple(figures),
        suite=suite,
    )


def _suite(whole: Fields, task: str, n_questions: int) -> ImportedSuite:
    name, version = shown(task) or "unnamed", whole.part("versions").any_text(task) or "0"
    says = whole.part("configs").part(task).part("metadata").raw("medical")
    return ImportedSuite(
        name=name,
        version=f"lm-eval-{version}",
        # Not the task's hash: that is of the questions asked, which --limit chooses.
        sha256=sha256_json([TOOL, name, version]),
        n_questions=n_questions,
        medical=says is True or _MEDICAL.search(name) is not None,
    )


def _n(samples: Fields, task: str, leaves: Sequence[str], kind: str) -> int:
    """How many questions a task has; of a group, its tasks together. 0: not told."""
    if task in samples:
        return samples.part(task).count(kind) or 0
    return sum(samples.part(leaf).count(kind) or 0 for leaf in leaves)


def _figures(whole: Fields, task: str, test: str, n: int) -> Iterator[Figure]:
    found = whole.part("results").part(task)
    for key in found.names():
        metric, comma, chosen = key.partition(",")
        if not comma or not metric or isinstance(found.raw(key), str | bool):
            continue  # the task's title, its length, and "N/A"
        value = found.number(key)
        if value is None:
            continue
        name = shown(metric if chosen in ("none", "") else f"{metric}@{chosen}").replace(" ", "_")
        is_stderr = metric.endswith("_stderr")
        low = high = None
        # A share of n answers is k / n: where it is, k is known, and with it the usual interval.
        if metric in SHARES and n and math.isclose(value * n, round(value * n), abs_tol=1e-6):
            if not 0 <= value <= 1:
                raise ValueError(f"{found.where}.{shown(key)} is no share of right answers")
            share = wilson(round(value * n), n)
            low, high = (share.ci_low, share.ci_high) if share else (None, None)
        yield Figure(
            test=test,
            metric=name,
            statistic="lm_eval" if is_stderr else "mean",
            value=value,
            ci_low=low,
            ci_high=high,
            n=n,
        )
