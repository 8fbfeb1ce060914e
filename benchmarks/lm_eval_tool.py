"""lm-eval as a program of its own: its environment, its tasks, its answers.

For the benchmarks beside this file and the parity tests; no user of edgebench gets it. The environment is
laid over edgebench's `export`, which brings torch and transformers, and is kept in the same cache.
"""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.core.errors import EdgebenchError, MissingDependency
from edgebench.core.hashing import sha256_json
from edgebench.core.paths import atomic_path, cache_part, exclusive, free_bytes
from edgebench.core.pip import pip, pip_reason
from edgebench.core.tool_env import Tool, ensure_tool
from edgebench.session_quantize import quantizer_of
from edgebench.session_sources import checkpoint_of, open_source, reference_gguf
from edgebench.session_tools import make_with

PINS = Path(__file__).with_name("lm_eval.txt")
SCRIPT = Path(__file__).with_name("lm_eval_script.py")
DISK_BYTES = 10**9

GROUP = "parity"
"""The group all tasks belong to; its accuracy is weighted by size, as that of lm-eval's own MMLU is."""
ACCURACIES = ("acc", "acc_norm", "acc_bytes")

GAP_LIMIT = 0.01
"""Two programs may prefer different options where the best two are closer than this, in nats."""

Say = Callable[[str], None]
Row = Mapping[str, Any]
"""A question as lm-eval reads it: id, question, choices, answer (from 0)."""


def lm_eval_tool(say: Say) -> Tool:
    """The environment, made when it is not there yet; MissingDependency when it can't be."""
    below = ensure_tool("export", say)
    key = sha256_json([PINS.read_text(encoding="utf-8"), str(below.python)])[:12]
    folder = cache_part("environments") / f"lm_eval-{key}"
    with exclusive(folder, say):
        for leaving in folder.parent.glob(f".part-*-{folder.name}"):
            shutil.rmtree(leaving, ignore_errors=True)  # of a process that was killed
        if not folder.is_dir():
            if free_bytes(folder.parent) < DISK_BYTES:
                raise MissingDependency(f"{folder.parent} has no room for lm-eval (1 GB)")
            say("making lm-eval's environment (0.2 GB to fetch): a few minutes, once")
            with atomic_path(folder) as part:
                where = ("--no-deps", "--target", str(part))
                done = pip("install", "--quiet", *where, "-r", str(PINS), python=below.python)
                if done.returncode:
                    raise MissingDependency(f"lm-eval can't be installed: {pip_reason(done.stdout)}")
    return Tool(name="lm_eval", python=below.python, overlays=(folder, *below.overlays))


def task_file(tool: Tool, path: str) -> dict[str, Any]:
    """One of lm-eval's own tasks, its questions yet to be named: `mmlu/default/mmlu_anatomy`."""
    return {"include": str(tool.overlays[0] / "lm_eval/tasks" / f"{path}.yaml")}


def mmlu_rows(data: Path, split: str, subject: str) -> list[Row]:
    """A subject's questions as the authors' file has them, with the ids edgebench gives them."""
    path = data / "mmlu" / split / f"{subject}_{split}.csv"
    with path.open(newline="", encoding="utf-8") as handle:
        return [
            {
                "id": f"{subject}-{n:03d}",
                "question": row[0],
                "choices": row[1:5],
                "answer": "ABCD".index(row[5]),
            }
            for n, row in enumerate(csv.reader(handle))
        ]


def write_tasks(
    folder: Path,
    tasks: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, Sequence[Row]],
    shots: Mapping[str, Sequence[Row]],
) -> None:
    """A folder for `--include_path`: per subject a task with questions and worked examples, and the group.

    A task's `metric_list` comes beside the three accuracies; one that generates keeps what it has.
    """
    for subject, task in tasks.items():
        files = {}
        for split, rows in (("test", asked[subject]), ("dev", shots.get(subject, ()))):
            if rows:
                files[split] = folder / f"{subject}-{split}.jsonl"
                files[split].write_text(
                    "".join(json.dumps(dict(row)) + "\n" for row in rows), encoding="utf-8"
                )
        whole = {
            "output_type": "multiple_choice",
            **task,
            "task": f"{GROUP}_{subject}",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
            "fewshot_split": "dev" if "dev" in files else None,
        }
        if whole["output_type"] == "multiple_choice":
            whole["fewshot_config"] = {"sampler": "first_n"}
            whole["metric_list"] = [
                *({"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ACCURACIES),
                *task.get("metric_list", ()),
            ]
        # JSON is YAML, and needs no library here.
        (folder / f"{GROUP}_{subject}.yaml").write_text(json.dumps(whole), encoding="utf-8")
    group = {
        "group": GROUP,
        "task": [f"{GROUP}_{subject}" for subject in tasks],
        "aggregate_metric_list": [{"metric": name, "weight_by_size": True} for name in ACCURACIES],
    }
    (folder / f"{GROUP}.yaml").write_text(json.dumps(group), encoding="utf-8")


def ask_prompts(
    tool: Tool,
    tasks: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, Sequence[Row]],
    shots: Mapping[str, Sequence[Row]],
    *,
    num_fewshot: int,
) -> dict[str, dict[str, Any]]:
    """Question -> its contexts and continuations as lm-eval makes them; no model is asked."""
    with tempfile.TemporaryDirectory(prefix="edgebench-parity-") as folder:
        write_tasks(Path(folder), tasks, asked, shots)
        job = {"model": None, "tasks": folder, "num_fewshot": num_fewshot, "batch_sizes": [1]}
        found: dict[str, dict[str, Any]] = ask(tool, job)[0]["questions"]
    return found


def ask(tool: Tool, job: Mapping[str, Any], *, script: Path = SCRIPT) -> Any:
    """What a script under lm-eval's interpreter makes of a job; EdgebenchError with the end of its stderr."""
    with tempfile.TemporaryDirectory(prefix="edgebench-lm-eval-") as name:
        paths = [Path(name) / "job.json", Path(name) / "out.json"]
        paths[0].write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [str(tool.python), "-P", str(script), *map(str, paths)],
            env={**os.environ, **tool.environment(), "HF_HOME": name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise EdgebenchError(f"lm-eval failed: {done.stderr[-3000:]}")
        return json.loads(paths[1].read_text(encoding="utf-8"))


def same_weights(say: Say, *, n_threads: int) -> dict[str, Path]:
    """SmolLM2-135M in f32: a checkpoint, a GGUF file and an ONNX folder, made into the cache once."""
    source = open_source("smollm2-135m", say)
    checkpoint = checkpoint_of(source, say)
    onnx = cache_part("artifacts") / source.sha256[:16] / f"{source.model}-onnx-fp32"
    if not onnx.exists():
        say("exporting smollm2-135m to ONNX (fp32)")
        job = {
            "checkpoint": str(checkpoint),
            "target": str(onnx),
            "level": "onnx-fp32",
            "n_threads": n_threads,
        }
        make_with(quantizer_of("onnx-fp32"), job, say, lambda _: None)
    gguf = reference_gguf(source, say, n_threads=n_threads).path
    return {"checkpoint": checkpoint, "gguf": gguf, "onnx": onnx}


@dataclass(frozen=True, slots=True)
class Answer:
    """What edgebench stored of a question."""

    logprobs: tuple[float, ...]
    n_shots: int


def ask_edgebench(
    model: Path, data: Path, *, num_fewshot: int, limit: int | None, n_threads: int
) -> dict[str, Answer]:
    """MMLU-medical by letters, as a user asks it: f32 cache, no flash attention."""
    with tempfile.TemporaryDirectory(prefix="edgebench-parity-") as name:
        db = Path(name) / "parity.sqlite"
        command = [sys.executable, "-m", "edgebench", "run", "-m", str(model), "--mode", "accuracy"]
        command += ["--suite", "mmlu-medical", "--scorer", "letter", "--data", str(data), "--db", str(db)]
        command += ["--num-fewshot", str(num_fewshot), "-t", str(n_threads)]
        command += ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
        command += ["--limit", str(limit)] if limit else []
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise EdgebenchError(f"edgebench failed: {done.stderr[-3000:]}")
        with closing(sqlite3.connect(db)) as connection:
            found = connection.execute("SELECT question_id, logprobs_json, n_shots FROM answer").fetchall()
        return {id_: Answer(tuple(json.loads(text)), n_shots) for id_, text, n_shots in found}


def ask_mmlu(
    tool: Tool,
    checkpoint: Path,
    data: Path,
    ids: Collection[str],
    *,
    num_fewshot: int,
    n_threads: int,
    batch_sizes: Sequence[int] = (1,),
) -> list[dict[str, Any]]:
    """lm-eval's `hf` backend in f32 on some questions of MMLU by its own tasks: one result a batch size."""
    wanted = set(ids)
    subjects = sorted({id_.rpartition("-")[0] for id_ in wanted})
    tasks = {subject: task_file(tool, f"mmlu/default/mmlu_{subject}") for subject in subjects}
    asked = {s: [row for row in mmlu_rows(data, "test", s) if row["id"] in wanted] for s in subjects}
    shots = {subject: mmlu_rows(data, "dev", subject) for subject in subjects}
    with tempfile.TemporaryDirectory(prefix="edgebench-parity-") as folder:
        write_tasks(Path(folder), tasks, asked, shots)
        job = {"model": str(checkpoint), "tasks": folder, "num_fewshot": num_fewshot}
        job |= {"n_threads": n_threads, "batch_sizes": list(batch_sizes)}
        found: list[dict[str, Any]] = ask(tool, job)
    return found


@dataclass(slots=True)
class Agreement:
    """Two programs' answers to the same questions."""

    n: int = 0
    n_leaking: int = 0
    """Left out: lm-eval shows the question itself as a worked example, edgebench does not."""
    largest_difference: float = 0.0
    """Of log-likelihoods."""
    gaps: dict[str, float] = field(default_factory=dict)
    """Question answered differently -> the larger of both programs' gaps between the best two options."""

    @property
    def share(self) -> float:
        """Of the answers, those that agree."""
        return 1 - len(self.gaps) / self.n if self.n else 0.0

    @property
    def unexplained(self) -> list[str]:
        """Answered differently although one of the programs was sure."""
        return [id_ for id_, gap in self.gaps.items() if gap >= GAP_LIMIT]


def agreement(
    ours: Mapping[str, Answer], theirs: Mapping[str, Mapping[str, Any]], *, num_fewshot: int
) -> Agreement:
    """How far two programs agree; ValueError unless they were asked the same."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"{len(ours.keys() ^ theirs.keys())} questions were asked of one program only")
    found = Agreement()
    for id_, answer in ours.items():
        if answer.n_shots != num_fewshot:
            found.n_leaking += 1
            continue
        found.n += 1
        rows = answer.logprobs, theirs[id_]["logprobs"]
        difference = max(abs(a - b) for a, b in zip(*rows, strict=True))
        found.largest_difference = max(found.largest_difference, difference)
        if len({max(range(len(row)), key=row.__getitem__) for row in rows}) > 1:
            best = [sorted(row, reverse=True) for row in rows]
            found.gaps[id_] = max(row[0] - row[1] for row in best)
    return found
