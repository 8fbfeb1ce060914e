"""Speeds as llama-bench writes them: its table, json, jsonl or sql, with its columns and nothing else.

One row per run, test and process, as if each process had been a call of llama-bench. Columns that this
program has no setting for hold llama-bench's defaults.
"""

import json
import re
import sqlite3
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.core.paths import atomic_path
from edgebench.results.records import RunRow
from edgebench.results.store import Store

COLUMNS = {
    "build_commit": "TEXT",
    "build_number": "INTEGER",
    "cpu_info": "TEXT",
    "gpu_info": "TEXT",
    "backends": "TEXT",
    "model_filename": "TEXT",
    "model_type": "TEXT",
    "model_size": "INTEGER",
    "model_n_params": "INTEGER",
    "n_batch": "INTEGER",
    "n_ubatch": "INTEGER",
    "n_threads": "INTEGER",
    "cpu_mask": "TEXT",
    "cpu_strict": "INTEGER",
    "poll": "INTEGER",
    "type_k": "TEXT",
    "type_v": "TEXT",
    "n_gpu_layers": "INTEGER",
    "n_cpu_moe": "INTEGER",
    "split_mode": "TEXT",
    "main_gpu": "INTEGER",
    "no_kv_offload": "INTEGER",
    "flash_attn": "INTEGER",
    "devices": "TEXT",
    "tensor_split": "TEXT",
    "tensor_buft_overrides": "TEXT",
    "load_mode": "TEXT",
    "lazy_mode": "TEXT",
    "embeddings": "INTEGER",
    "no_op_offload": "INTEGER",
    "no_host": "INTEGER",
    "repack": "INTEGER",
    "fit_target": "INTEGER",
    "fit_min_ctx": "INTEGER",
    "n_prompt": "INTEGER",
    "n_gen": "INTEGER",
    "n_depth": "INTEGER",
    "test_time": "TEXT",
    "avg_ns": "INTEGER",
    "stddev_ns": "INTEGER",
    "avg_ts": "REAL",
    "stddev_ts": "REAL",
}
"""llama-bench's columns in its order -> their types in its SQL."""
BOOLEANS = ("cpu_strict", "no_kv_offload", "embeddings", "no_host", "repack")
"""Columns that are true and false in json, 1 and 0 in SQL."""
SUFFIXES = (".sqlite", ".db", ".jsonl", ".json", ".sql")

_DEFAULTS = {
    "build_number": 0,
    "gpu_info": "",
    "n_batch": 2048,
    "n_ubatch": 512,
    "cpu_mask": "0x0",
    "cpu_strict": 0,
    "poll": 50,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": 0,
    "devices": "auto",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "lazy_mode": "auto",
    "embeddings": 0,
    "no_op_offload": 0,
    "no_host": 0,
    "repack": 1,
    "fit_target": 0,
    "fit_min_ctx": 0,
}
_BACKENDS = {"cuda": "CUDA", "vulkan": "Vulkan", "metal": "Metal", "rocm": "ROCm", "blas": "BLAS"}
_FLASH = {"on": 1, "off": 0, "auto": -1}
_TEST = re.compile(r"(?=pp|tg)(pp\d+)?(\+?tg\d+)?(@d\d+)?")
_TRIALS = """
  SELECT trial.*, artifact.n_params, device.soc, device.name AS device_name, run.started_at
  FROM trial JOIN run ON run.id = trial.run_id JOIN artifact ON artifact.id = run.artifact_id
  JOIN device ON device.id = run.device_id
  WHERE run_id = ? AND phase = 'measured' ORDER BY test, process_index, repetition"""
Row = dict[str, Any]


def llama_bench_rows(store: Store, runs: Sequence[RunRow]) -> list[Row]:
    """llama-bench's rows, each with `samples_ns` and `samples_ts`; tests that it has not are left out."""
    return [row for run in runs for row in _of_run(store, run)]


def write_llama_bench(rows: Sequence[Row], out: Path) -> None:
    """Write rows to a file in the form its ending names; UsageError for an ending that names none."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out} does not end in {', '.join(SUFFIXES)}", "the ending chooses the form")
    with atomic_path(out) as part:
        match out.suffix:
            case ".jsonl":
                part.write_text("".join(f"{json.dumps(_typed(row))}\n" for row in rows), encoding="utf-8")
            case ".json":
                part.write_text(json.dumps([_typed(row) for row in rows], indent=2) + "\n", encoding="utf-8")
            case ".sql":
                part.write_text(_statements(rows), encoding="utf-8")
            case _:
                _database(rows, part)


def _of_run(store: Store, run: RunRow) -> Iterator[Row]:
    trials = [trial for trial in store.rows(_TRIALS, (run.id,)) if _TEST.fullmatch(trial["test"])]
    for _, group in groupby(trials, key=lambda trial: (trial["test"], trial["process_index"])):
        own = list(group)
        times_s = [time_s for trial in own if (time_s := _time_s(trial)) is not None]
        if times_s:
            yield {**_settings(run, own[0]), **_speeds(own[0], times_s)}


def _time_s(trial: Mapping[str, Any]) -> float | None:
    """What llama-bench would have timed: prompt and answer, without loading."""
    parts = [trial["prefill_s"]] if trial["n_prompt"] else []
    parts += [trial["decode_s"]] if trial["n_gen"] else []
    if None not in parts:
        return float(sum(parts))
    return float(trial["total_s"]) if parts == [None, None] else None


def _speeds(trial: Mapping[str, Any], times_s: Sequence[float]) -> Row:
    samples_ns = [max(1, round(time_s * 1e9)) for time_s in times_s]
    n_tokens = trial["n_prompt"] + trial["n_gen"]
    rates = [1e9 * n_tokens / sample for sample in samples_ns]
    started = datetime.fromisoformat(trial["started_at"]) + timedelta(seconds=trial["started_s"])
    several = len(rates) > 1
    return {
        **{name: trial[name] for name in ("n_prompt", "n_gen", "n_depth")},
        "test_time": started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.fmean(samples_ns)),
        "stddev_ns": round(statistics.stdev(samples_ns)) if several else 0,
        "avg_ts": statistics.fmean(rates),
        "stddev_ts": statistics.stdev(rates) if several else 0.0,
        "samples_ns": samples_ns,
        "samples_ts": rates,
    }


def _settings(run: RunRow, trial: Mapping[str, Any]) -> Row:
    """All columns but the test's own, in llama-bench's order."""
    engine = json.loads(run.engine_json) if run.engine_json else {}
    settings, n_params = run.settings, trial["n_params"] or engine.get("n_params") or 0
    # An imported run has llama-bench's own columns; of another's, those that mean the same.
    told: Row = dict(run.config.get("llama_bench") or {})
    own: Row = {
        "build_commit": run.runner_version,
        "cpu_info": trial["soc"] or trial["device_name"],
        "gpu_info": _gpus(engine.get("devices")),
        "backends": _backends(run, engine),
        "model_filename": f"{run.model}-{run.quant}" + (".gguf" if run.format == "gguf" else ""),
        "model_type": engine.get("model_description") or f"{run.model} {run.quant}",
        "model_size": _tensor_bytes(run, n_params),
        "model_n_params": n_params,
        **{name: settings[name] for name in _DEFAULTS if settings.get(name) is not None},
        "n_threads": settings.get("n_threads") or 0,
        "flash_attn": _FLASH.get(str(settings.get("flash_attn", "auto")), -1),
        "load_mode": "none" if settings.get("mmap") is False else "mmap",
    }
    known = {**_DEFAULTS, **own, **{name: told[name] for name in told if name in COLUMNS}}
    return {name: known[name] for name in COLUMNS if name in known}


def _backends(run: RunRow, engine: Mapping[str, Any]) -> str:
    """As llama-bench names them; of another engine, its own name."""
    if not run.runner.startswith("llama"):
        return run.runner
    names = engine.get("backends")
    used = [_BACKENDS.get(name, name) for name in names if name != "cpu"] if isinstance(names, list) else []
    return ",".join(map(str, used)) or "CPU"


def _gpus(devices: object) -> str:
    """What the engine says of the GPUs it uses; nothing where there are none."""
    found = [one for one in devices if isinstance(one, dict)] if isinstance(devices, list) else []
    return ", ".join(str(one.get("description")) for one in found if one.get("kind") != "cpu")


def _tensor_bytes(run: RunRow, n_params: int) -> int:
    """llama-bench counts the tensors, not the file."""
    if run.bits_per_weight and n_params:
        return round(run.bits_per_weight * n_params / 8)
    return run.size_bytes


def _typed(row: Row) -> Row:
    """A row for json, columns in order and samples last."""
    columns = {name: bool(row[name]) if name in BOOLEANS else row[name] for name in COLUMNS}
    return {**columns, "samples_ns": row["samples_ns"], "samples_ts": row["samples_ts"]}


def _create() -> str:
    columns = ",\n".join(f"  {name} {kind}" for name, kind in COLUMNS.items())
    return f"CREATE TABLE IF NOT EXISTS llama_bench (\n{columns}\n)"


def _statements(rows: Sequence[Row]) -> str:
    names = ", ".join(COLUMNS)
    values = (", ".join(_quoted(row[name]) for name in COLUMNS) for row in rows)
    lines = [f"INSERT INTO llama_bench ({names}) VALUES ({value});\n" for value in values]  # noqa: S608 - quoted
    return f"{_create()};\n\n{''.join(lines)}"


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _database(rows: Sequence[Row], path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_create())
        marks = ", ".join("?" * len(COLUMNS))
        connection.executemany(
            f"INSERT INTO llama_bench VALUES ({marks})",  # noqa: S608 - only marks
            [[row[name] for name in COLUMNS] for row in rows],
        )
