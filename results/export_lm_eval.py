"""Accuracies as lm-evaluation-harness writes them: a results JSON per model file, a task per suite.

The file says `edgebench_version` where lm-eval's says its own: what made it is not hidden.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.core.paths import atomic_path
from edgebench.core.types import Scorer, Shape
from edgebench.results.answers import is_permuted
from edgebench.results.export_runs import HAVE_OWN_KEY
from edgebench.results.import_store import PROTOCOL
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.results.summary import figures

METRICS = ("acc", "acc_norm", "acc_bytes")
SUFFIX = ".json"
Files = dict[str, dict[str, Any]]


def lm_eval_files(store: Store, runs: Sequence[RunRow]) -> tuple[Files, list[str]]:
    """Name of a model file -> lm-eval's results of it, and what was left out, for people.

    Of several runs of one suite the newest is taken.
    """
    private = {row["id"] for row in store.rows(HAVE_OWN_KEY)}
    files: Files = {}
    left_out: list[str] = []
    for run in reversed(runs):  # newest first
        if why := _unfit(run, private):
            left_out.append(f"{run.id} left out: {why}")
            continue
        name = f"{run.model}-{run.quant}"
        file = files.setdefault(name if _is_of(files.get(name), run) else f"{name}-{run.artifact_id[:8]}", {})
        if not file:
            file.update(_head(store, run, name))
        suite = _suite(store, run)
        if suite["name"] in file["results"]:
            left_out.append(f"{run.id} left out: a newer run of {suite['name']} is there")
        elif not _add(store, run, suite, file):
            left_out.append(f"{run.id} left out: it has no accuracy")
    return {name: file for name, file in files.items() if file["results"]}, left_out


def write_lm_eval(files: Files, out: Path) -> list[Path]:
    """Write one file, or one for each model into a folder; the paths. UsageError when one is too few."""
    if out.suffix == SUFFIX:
        if len(files) > 1:
            raise UsageError(
                f"a file of lm-eval holds one model, and there are {len(files)}: {', '.join(files)}",
                "name a folder with --out, or the runs to export",
            )
        paths = dict.fromkeys([out], next(iter(files.values())))
    else:
        safe = {re.sub(r"[^\w.+-]+", "_", name).lstrip("."): file for name, file in files.items()}
        paths = {out / f"results_{name}{SUFFIX}": file for name, file in safe.items()}
    for path, file in paths.items():
        with atomic_path(path) as part:
            text = json.dumps(file, indent=2, ensure_ascii=False, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
    return list(paths)


def _unfit(run: RunRow, private: set[str]) -> str | None:
    if run.suite_id in private:
        return "its suite's key is not public, and what follows from one stays here"
    if is_permuted(run):
        return "it asked every rotation of the options: lm-eval has no such figure"
    if run.shape == Shape.ALONE:
        return "a noise floor"
    return None


def _is_of(file: Mapping[str, Any] | None, run: RunRow) -> bool:
    return not file or file["config"]["model_sha"] == run.artifact_id


def _suite(store: Store, run: RunRow) -> dict[str, Any]:
    return store.rows("SELECT * FROM suite WHERE id = ?", (run.suite_id,))[0]


def _head(store: Store, run: RunRow, name: str) -> dict[str, Any]:
    n_params = store.rows("SELECT n_params FROM artifact WHERE id = ?", (run.artifact_id,))[0]["n_params"]
    return {
        "results": {},
        "groups": {},
        "group_subtasks": {},
        "configs": {},
        "versions": {},
        "n-shot": {},
        "higher_is_better": {},
        "n-samples": {},
        "config": {
            "model": run.runner,
            "model_args": f"pretrained={name}",
            "model_num_parameters": n_params,
            "model_dtype": run.quant,
            "model_sha": run.artifact_id,
            "random_seed": run.seed,
        },
        "git_hash": run.git_commit,
        "date": datetime.fromisoformat(run.started_at).timestamp(),
        "model_source": run.runner,
        "model_name": name,
        "model_name_sanitized": re.sub(r"[^\w.-]+", "_", name),
        "task_hashes": {},
        "edgebench_version": run.edgebench_version,
    }


def _add(store: Store, run: RunRow, suite: Mapping[str, Any], file: dict[str, Any]) -> bool:
    """Add a suite as a task, its subjects as the tasks of a group; False where it has no accuracy."""
    task, parts = suite["name"], dict[str, dict[str, Any]]()
    whole: dict[str, Any] = {}
    for row in figures(store, run.id):
        if row["statistic"] not in ("mean", "lm_eval"):
            continue
        prefix, _, subject = row["test"].partition("/subject/")
        if row["test"] == run.suite_id:
            whole[row["metric"]] = row
        elif subject and prefix == run.suite_id:
            parts.setdefault(f"{task}_{subject}".replace(" ", "_"), {})[row["metric"]] = row
    if "acc" not in whole:
        return False
    if run.config.get("protocol") == PROTOCOL:  # subjects have their tasks' own names
        parts = {name.removeprefix(f"{task}_"): rows for name, rows in parts.items()}
    if "acc_stderr_pooled" in whole:
        whole["acc_stderr"] = whole["acc_stderr_pooled"]
    parts = {name: rows for name, rows in parts.items() if "acc" in rows}
    for name, rows in {task: whole, **parts}.items():
        _add_task(run, suite, file, name, rows)
    file["n-samples"][task]["original"] = suite["n_questions"]
    file["group_subtasks"][task] = list(parts)
    if parts:
        file["groups"][task] = file["results"][task]
    return True


def _add_task(
    run: RunRow, suite: Mapping[str, Any], file: dict[str, Any], task: str, rows: Mapping[str, Any]
) -> None:
    metrics = [metric for metric in METRICS if metric in rows]
    told: dict[str, Any] = {"alias": task}
    for metric in metrics:
        told[f"{metric},none"] = rows[metric]["value"]
        stderr = rows.get(f"{metric}_stderr")
        told[f"{metric}_stderr,none"] = stderr["value"] if stderr else "N/A"
    n_shots, n = run.config.get("num_fewshot", 0), rows["acc"]["n"]
    file["results"][task] = told
    file["versions"][task] = suite["version"]
    file["n-shot"][task] = n_shots
    file["higher_is_better"][task] = dict.fromkeys(metrics, True)
    file["n-samples"][task] = {"original": n, "effective": n}
    file["task_hashes"][task] = suite["sha256"]
    file["configs"][task] = {
        "task": task,
        "num_fewshot": n_shots,
        "output_type": "generate_until" if run.scorer == Scorer.GENERATE else "multiple_choice",
        "metadata": {
            "version": suite["version"],
            "scorer": run.scorer,
            "medical": bool(suite["medical"]),
            "evidence": run.evidence.value,
            "run": run.id,
        },
    }
