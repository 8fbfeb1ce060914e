"""A file of another program's results into the database: which program's it is, and what of it is new."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.results import import_llama_bench as llama_bench
from edgebench.results import import_lm_eval as lm_eval
from edgebench.results import import_optimum as optimum
from edgebench.results.import_read import parse_json, read_bytes
from edgebench.results.import_store import ImportedRun, keep_runs, known_records
from edgebench.results.store import Store

KNOWN = (
    "known: json, jsonl, sql and SQLite of llama-bench, results JSON of lm-eval, report JSON of"
    " optimum-benchmark"
)
_STATEMENTS = ("create table", "insert into")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an import."""

    tool: str
    run_ids: tuple[str, ...]
    """The new runs."""
    n_known: int
    """Rows or tasks that were in the database already, and were left as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a file tells."""

    tool: str
    runs: list[ImportedRun]
    n_records: int


def import_file(store: Store, path: Path) -> Outcome:
    """Store what a file tells; UsageError, with nothing stored, when any of it is not what it must be."""
    data = read_bytes(path)
    known = known_records(store)
    try:
        found = _read(path, data, known)
    except (ValueError, RecursionError, OverflowError) as error:
        raise UsageError(f"{path} can't be imported: {error or 'it is nested too deeply'}", KNOWN) from error
    new = {run.id: run for run in found.runs if not known.issuperset(run.records)}
    ids = keep_runs(store, list(new.values()), path, hashlib.sha256(data).hexdigest()) if new else []
    n_new = sum(len(run.records) for run in new.values())
    return Outcome(tool=found.tool, run_ids=tuple(ids), n_known=found.n_records - n_new)


def _read(path: Path, data: bytes, known: Container[str]) -> _Found:
    """What a file tells, by what is inside it: names end in anything. ValueError says what is wrong."""
    if data.startswith(b"SQLite format 3\0"):
        return _rows(llama_bench.rows_of_database(path), known)
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError("it is neither text nor SQLite") from error
    if text[:20].lower().startswith(_STATEMENTS):
        return _rows(llama_bench.rows_of_statements(text), known)
    value = _value(text)
    if isinstance(value, list) and value and all(llama_bench.is_row(one) for one in value):
        return _rows(value, known)
    if lm_eval.is_results(value):
        return _whole(lm_eval.TOOL, lm_eval.lm_eval_runs(value))
    if optimum.is_report(value):
        return _whole(optimum.TOOL, optimum.optimum_runs(value))
    raise ValueError("it is not a file of results of a known program")


def _rows(rows: Sequence[Any], known: Container[str]) -> _Found:
    runs = llama_bench.llama_bench_runs(rows, known)
    return _Found(tool=llama_bench.TOOL, runs=runs, n_records=len(rows))


def _whole(tool: str, runs: list[ImportedRun]) -> _Found:
    return _Found(tool=tool, runs=runs, n_records=sum(len(run.records) for run in runs))


def _value(text: str) -> Any:
    """A file's JSON: a value, or the objects of its lines."""
    try:
        value = parse_json(text)
    except ValueError as whole:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or not lines[0].lstrip().startswith("{") or not lines[0].rstrip().endswith("}"):
            raise ValueError(f"it is not whole JSON ({whole})") from whole
        value = [_line(number, line) for number, line in enumerate(lines, start=1)]
    return [value] if isinstance(value, Mapping) and llama_bench.is_row(value) else value


def _line(number: int, line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not whole JSON ({error})") from error
