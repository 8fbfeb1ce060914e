"""Files of rows: CSV, JSON lines, JSON, parquet. Whatever is wrong with one is said with its line."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgebench.core.errors import MissingDependency, SuiteError

KEY = "$key"
"""The field that holds the key of a row which stands in a JSON object."""

Row = Any
"""A list of cells (CSV without names), or a mapping."""

_BLANK = re.compile(r"[ \t\r\n]*")


def read_rows(
    path: Path, format_: str, *, header: bool = True, member: str | None = None
) -> Iterator[tuple[int, Row]]:
    """(line, row) of every row; of a parquet file the row's number, from 1, is its line."""
    try:
        match format_:
            case "csv":
                yield from _csv_rows(path, header)
            case "jsonl":
                yield from _jsonl_rows(path)
            case "json":
                yield from _json_rows(path, member)
            case _:
                yield from _parquet_rows(path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except OSError as error:
        told = error.strerror or (str(error).splitlines() or ["damaged"])[0][:200]
        raise SuiteError(f"{path} can't be read: {told}") from error


def read_ids(path: Path) -> set[str]:
    """The ids a JSON file lists: a list of them, or the keys of an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(found, dict | list):
        raise SuiteError(f"{path}: expected a list or an object, found {type(found).__name__}")
    return {str(one) for one in found}


def _csv_rows(path: Path, header: bool) -> Iterator[tuple[int, Row]]:
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            names = next(reader, []) if header else None
            line = reader.line_num + 1
            for row in reader:
                if row:
                    yield line, row if names is None else _named(names, row, f"{path}:{line}")
                line = reader.line_num + 1
        except csv.Error as error:
            raise SuiteError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _named(names: list[str], row: list[str], where: str) -> dict[str, str]:
    if len(row) > len(names):
        raise SuiteError(f"{where}: {len(row)} cells, but {len(names)} columns")
    return dict(zip(names, row, strict=False))


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig") as handle:
        for line, text in enumerate(handle, start=1):
            if text.strip():
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise SuiteError(f"{path}:{line}: not valid JSON: {error}") from error
                yield line, _object(row, f"{path}:{line}")


def _json_rows(path: Path, member: str | None) -> Iterator[tuple[int, Row]]:
    """Rows of a list, or of an object by their keys; each is decoded by itself, so its line is known."""
    text = path.read_text(encoding="utf-8-sig")
    at = 0
    if member is not None:
        found = next((start for key, start, _ in _Scan(text, path).values(0) if key == member), None)
        if found is None:
            raise SuiteError(f"{path}: no {member!r} in it")
        at = found
    line, counted = 1, 0
    for key, start, value in _Scan(text, path).values(at):
        line, counted = line + text.count("\n", counted, start), start
        row = _object(value, f"{path}:{line}")
        yield line, row if key is None else {**row, KEY: key}


class _Scan:
    """Walks a JSON list or object value by value."""

    def __init__(self, text: str, path: Path) -> None:
        self._text, self._path = text, path
        self._decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().raw_decode

    def values(self, at: int) -> Iterator[tuple[str | None, int, Any]]:
        """(key, place, value) of what stands at a place; keys are None in a list."""
        at = self._skip(at)
        opening = self._text[at : at + 1]
        if opening not in ("[", "{"):
            raise self._broken(at, "expected a list or an object")
        closing = "]" if opening == "[" else "}"
        at = self._skip(at + 1)
        while self._text[at : at + 1] != closing:
            key = None
            if opening == "{":
                key, at = self._value(at)
                if not isinstance(key, str):
                    raise self._broken(at, "expected a key")
                at = self._past(":", at)
            start = at
            value, at = self._value(at)
            yield key, start, value
            at = self._skip(at)
            if self._text[at : at + 1] != closing:
                at = self._past(",", at)
                if self._text[at : at + 1] == closing:
                    raise self._broken(at, "a comma before the end")

    def _value(self, at: int) -> tuple[Any, int]:
        try:
            return self._decode(self._text, at)
        except json.JSONDecodeError as error:
            raise self._broken(error.pos, error.msg) from error
        except RecursionError as error:
            raise self._broken(at, "nested too deeply") from error

    def _past(self, sign: str, at: int) -> int:
        at = self._skip(at)
        if self._text[at : at + 1] != sign:
            raise self._broken(at, f"expected {sign!r}")
        return self._skip(at + 1)

    def _skip(self, at: int) -> int:
        blank = _BLANK.match(self._text, at)
        return blank.end() if blank else at

    def _broken(self, at: int, told: str) -> SuiteError:
        line = self._text.count("\n", 0, at) + 1
        return SuiteError(f"{self._path}:{line}: not valid JSON: {told}")


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise SuiteError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency(
            f"{path.name} is a parquet file, and pyarrow is not installed", "pip install 'edgebench[parquet]'"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except arrow.ArrowException as error:
        told = (str(error).splitlines() or ["damaged"])[0]
        raise SuiteError(f"{path}:{number + 1}: not a valid parquet file: {told[:200]}") from error


def _not_utf8(path: Path) -> SuiteError:
    """Text is decoded in blocks, so the line is looked for only when there is one to tell."""
    for line, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return SuiteError(f"{path}:{line}: not UTF-8: {error.reason}")
    return SuiteError(f"{path}: not UTF-8")
