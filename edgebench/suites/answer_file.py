"""CSV files of one letter per question: a key, or what a model answered. Complaints name file and line."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgebench.core.errors import SuiteError
from edgebench.suites.prompts import LETTERS

ID_COLUMN = "question_id"
PREDICTION_COLUMN = "predicted_answer"
KEY_COLUMNS = ("answer", PREDICTION_COLUMN)
"""The letter's column in a key; what a model answered may serve as one."""


def read_key(path: Path, n_choices: Mapping[str, int], *, unknown_ok: bool = False) -> dict[str, int]:
    """Question id -> the right option. `n_choices` are the suite's questions; when empty, none are known.

    `unknown_ok` passes over questions that are not the suite's: a key to more than that.
    """
    return {
        question_id: _index(letter, where)
        for question_id, letter, where in _rows(path, KEY_COLUMNS, n_choices, unknown_ok=unknown_ok)
    }


def read_predictions(path: Path, n_choices: Mapping[str, int]) -> dict[str, int | None]:
    """Question id -> the option a model named; None for an empty cell: no answer could be read off."""
    return {
        question_id: _index(letter, where) if letter else None
        for question_id, letter, where in _rows(path, (PREDICTION_COLUMN,), n_choices)
    }


def _rows(
    path: Path, columns: tuple[str, ...], n_choices: Mapping[str, int], *, unknown_ok: bool = False
) -> Iterator[tuple[str, str, str]]:
    """(id, letter, file:line) of each row, checked."""
    lines: dict[str, int] = {}
    for line, row in _table(path, columns):
        where, question_id = f"{path}:{line}", row[ID_COLUMN]
        letter = row[next(name for name in columns if name in row)].upper()
        if not question_id:
            raise SuiteError(f"{where}: {ID_COLUMN} is empty")
        if question_id in lines:
            raise SuiteError(f"{where}: {question_id!r} stands in line {lines[question_id]} already")
        lines[question_id] = line
        if n_choices and question_id not in n_choices:
            if unknown_ok:
                continue
            raise SuiteError(f"{where}: the suite has no question {question_id!r}")
        if letter and _index(letter, where) >= n_choices.get(question_id, len(LETTERS)):
            last = LETTERS[n_choices[question_id] - 1]
            raise SuiteError(f"{where}: {letter!r} is outside the options A to {last} of {question_id!r}")
        yield question_id, letter, where
    if not lines:
        raise SuiteError(f"{path}:1: no rows", "one row per question follows the names of the columns")


def _index(letter: str, where: str) -> int:
    if len(letter) != 1 or letter not in LETTERS:
        raise SuiteError(f"{where}: {letter[:20]!r} is not one letter")
    return LETTERS.index(letter)


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    wanted = f"{ID_COLUMN},{columns[0]}"
    try:
        # Text is decoded line by line, so that a wrong byte can be told by its line.
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
        reader = csv.reader(_decoded(raw, path), strict=True)
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names) or ID_COLUMN not in names or not set(columns) & set(names):
            found = ",".join(names)[:80] or "nothing"
            raise SuiteError(f"{path}:1: expected the columns {wanted}, found {found}")
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(names):
                raise SuiteError(f"{path}:{line}: {len(row)} cells, but {len(names)} columns")
            if row:
                yield line, {name: cell.strip() for name, cell in zip(names, row, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise SuiteError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
    except OSError as error:
        raise SuiteError(f"{path} can't be read: {error.strerror}") from error


def _decoded(raw: list[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(raw, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise SuiteError(f"{path}:{number}: not UTF-8: {error.reason}") from error
