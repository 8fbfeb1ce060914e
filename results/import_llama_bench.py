"""llama-bench's json, jsonl and sql as runs: one per build, file and settings, with a process per row.

json and jsonl carry every repetition. The SQL table carries the mean rate alone: its row becomes one
repetition of that rate, and the figures have no interval.
"""

import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edgebench.core.hashing import sha256_json
from edgebench.core.types import Format, Mode, Workload
from edgebench.results.import_read import Fields, last_part
from edgebench.results.import_store import Figure, ImportedRun, split_level, utc

TOOL = "llama-bench"
TABLES = ("llama_bench", "test")
"""The table's name, and the one it had in older versions."""
MAX_ROWS = 100_000
MAX_CELL_BYTES = 100_000

_TEST = ("n_prompt", "n_gen", "n_depth")
_COUNTS = ("n_batch", "n_ubatch", "n_threads", "build_number", "poll", "n_cpu_moe", "main_gpu")
_FLAGS = ("cpu_strict", "no_kv_offload", "embeddings", "no_op_offload", "no_host", "use_mmap", "repack")
_TEXTS = ("build_commit", "cpu_mask", "type_k", "type_v", "split_mode", "devices", "tensor_split")
_MORE_TEXTS = ("tensor_buft_overrides", "load_mode", "lazy_mode", "backends", "gpu_info")
_FLASH = {1: "on", 0: "off", -1: "auto"}
Row = dict[str, Any]


def llama_bench_runs(records: Sequence[Any], known: Container[str] = ()) -> list[ImportedRun]:
    """The runs that these rows tell of, known rows left out.

    ValueError names the row and what is wrong with it, also in a known one.
    """
    if not 0 < len(records) <= MAX_ROWS:
        raise ValueError("it has no row" if not records else f"it has more than {MAX_ROWS} rows")
    rows = {row["record"]: row for row in (_row(Fields(r, f"row {i}")) for i, r in enumerate(records, 1))}
    groups: dict[str, list[Row]] = {}
    for record, row in rows.items():
        if record not in known:
            groups.setdefault(sha256_json(row["settings"]), []).append(row)
    return [_run(own) for own in groups.values()]


def is_row(record: object) -> bool:
    """Whether an object looks like a row of llama-bench's."""
    return isinstance(record, dict) and {"n_prompt", "n_gen", "avg_ts"} <= record.keys()


def _row(fields: Fields) -> Row:
    """One row, checked: its settings, its test, its repetitions."""
    test = {name: fields.count(name) for name in _TEST}
    n_prompt, n_gen = test["n_prompt"], test["n_gen"]
    if n_prompt is None or n_gen is None or n_prompt + n_gen == 0:
        raise ValueError(f"{fields.where} has neither n_prompt nor n_gen: no test of llama-bench")
    rate = fields.number("avg_ts")
    samples_s = fields.durations("samples_ns", 1e-9)
    if not samples_s:
        if rate is None or rate <= 0:
            raise ValueError(f"{fields.where} has neither samples_ns nor a rate above 0 in avg_ts")
        # Not avg_ns: the tool's figure is the mean of the rates, which is not the rate of the mean.
        samples_s = [(n_prompt + n_gen) / rate]
    model, level = split_level(last_part(fields.text("model_filename") or ""))
    settings: Row = {
        "model": model or fields.text("model_type") or "unknown",
        "level": level,
        "model_type": fields.text("model_type"),
        "model_size": fields.count("model_size") or 0,
        "model_n_params": fields.count("model_n_params"),
        "cpu_info": fields.text("cpu_info"),
        "n_gpu_layers": fields.whole("n_gpu_layers"),
        "flash_attn": fields.whole("flash_attn"),
        **{name: fields.count(name) for name in _COUNTS},
        **{name: fields.whole(name) for name in _FLAGS},
        **{name: fields.any_text(name) for name in (*_TEXTS, *_MORE_TEXTS)},
    }
    told = {key: value for key, value in settings.items() if value is not None}
    started_at = fields.text("test_time")
    key = {**told, **test, "test_time": started_at, "avg_ns": fields.count("avg_ns")}
    return {
        "settings": told,
        "workload": Workload(n_prompt=n_prompt, n_gen=n_gen, n_depth=test["n_depth"] or 0),
        "samples_s": samples_s,
        "is_mean": "samples_ns" not in fields,
        "started_at": utc(started_at),
        "record": sha256_json(key),
    }


def _run(rows: list[Row]) -> ImportedRun:
    told = rows[0]["settings"]
    started = sorted(row["started_at"] for row in rows if row["started_at"])
    workloads = dict.fromkeys(row["workload"] for row in rows)
    gpu = f" + {told['gpu_info']}" if told.get("gpu_info") else ""
    return ImportedRun(
        mode=Mode.PERFORMANCE,
        tool=TOOL,
        tool_version=f"{told.get('build_number', '?')} ({told.get('build_commit', '?')})",
        model=told["model"],
        level=told["level"],
        format=Format.GGUF,
        size_bytes=told["model_size"],
        n_params=told.get("model_n_params") or None,
        device=f"{told.get('cpu_info') or 'unknown'}{gpu}",
        started_at=started[0] if started else None,
        records=tuple(row["record"] for row in rows),
        config={
            "tests": [workload.name for workload in workloads],
            "settings": _settings(told),
            "llama_bench": {key: value for key, value in told.items() if key not in ("model", "level")},
            "only_means": any(row["is_mean"] for row in rows),
        },
        trials=tuple(_trials(rows)),
        figures=tuple(_figures(rows)),
    )


def _settings(told: Row) -> Row:
    """Those of the row's settings that this program has, too, by its names."""
    names = ("n_threads", "n_batch", "n_ubatch", "n_gpu_layers", "type_k", "type_v")
    settings: Row = {name: told[name] for name in names if name in told}
    if "flash_attn" in told:
        settings["flash_attn"] = _FLASH.get(told["flash_attn"], str(told["flash_attn"]))
    if "use_mmap" in told or told.get("load_mode") in ("mmap", "none"):
        settings["mmap"] = bool(told["use_mmap"]) if "use_mmap" in told else told["load_mode"] == "mmap"
    return settings


def _trials(rows: list[Row]) -> Iterator[Row]:
    """A trial per repetition. Each row is a process of its own: its repetitions go together."""
    n_processes: dict[Workload, int] = {}
    for row in rows:
        workload = row["workload"]
        process_index = n_processes.setdefault(workload, 0)
        n_processes[workload] += 1
        started_s = 0.0
        for repetition, total_s in enumerate(row["samples_s"]):
            yield {
                "test": workload.name,
                "phase": "measured",
                "round_index": process_index,
                "process_index": process_index,
                "repetition": repetition,
                **{name: getattr(workload, name) for name in _TEST},
                "started_s": started_s,
                "total_s": total_s,
                # Prompt and answer together are timed as one: how they share it is not known.
                "prefill_s": None if workload.n_gen else total_s,
                "decode_s": None if workload.n_prompt else total_s,
                "energy_reason": "not_recorded",
            }
            started_s += total_s


def _figures(rows: list[Row]) -> Iterator[Figure]:
    """Rates of prompt and answer together, which no trial can tell."""
    from edgebench.core.stats import median_of_groups

    groups: dict[Workload, list[list[float]]] = {}
    for row in rows:
        workload = row["workload"]
        if workload.n_prompt and workload.n_gen:
            n_tokens = workload.n_prompt + workload.n_gen
            groups.setdefault(workload, []).append([n_tokens / total_s for total_s in row["samples_s"]])
    for workload, rates in groups.items():
        rate = median_of_groups(rates)
        if rate is not None:
            yield Figure(
                test=workload.name,
                metric="total_tokens_per_s",
                statistic="median",
                value=rate.value,
                ci_low=rate.ci_low,
                ci_high=rate.ci_high,
                n=rate.n,
            )


def rows_of_database(path: Path) -> list[Row]:
    """The rows of an SQLite file that llama-bench's statements made; it is read only. ValueError else."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return _rows_of(connection)
    except sqlite3.Error as error:
        raise ValueError(f"its SQLite refuses: {error}") from error


def rows_of_statements(text: str) -> list[Row]:
    """The rows that `-o sql` wrote, from a database in memory where these statements may do nothing else."""
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            connection.set_authorizer(_only_rows)
            connection.executescript(text)
            connection.set_authorizer(None)
            return _rows_of(connection)
    except (sqlite3.Error, ValueError) as error:
        hint = ": llama-bench does not double the quotes of names" if "syntax error" in str(error) else ""
        raise ValueError(f"it is not what llama-bench -o sql writes ({error}{hint})") from error


def _only_rows(action: int, table: str | None, _more: str | None, _db: str | None, via: str | None) -> int:
    """Let a script make llama-bench's table and fill it; no query, no function, no other file."""
    own = table in TABLES
    schema = table in ("sqlite_master", "sqlite_temp_master") and via is None
    allowed = {
        sqlite3.SQLITE_CREATE_TABLE: own,
        sqlite3.SQLITE_INSERT: own or schema,
        sqlite3.SQLITE_UPDATE: schema,
        sqlite3.SQLITE_READ: schema,
        sqlite3.SQLITE_TRANSACTION: True,
    }
    return sqlite3.SQLITE_OK if allowed.get(action, False) else sqlite3.SQLITE_DENY


def _rows_of(connection: sqlite3.Connection) -> list[Row]:
    connection.row_factory = sqlite3.Row
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE%'"
    there = {row["name"] for row in connection.execute(sql)}
    table = next((name for name in TABLES if name in there), None)
    if table is None:
        raise ValueError("it has no table llama_bench")
    found = connection.execute(f"SELECT * FROM {table} LIMIT {MAX_ROWS + 1}")  # noqa: S608 - our names
    return [dict(row) for row in found]
