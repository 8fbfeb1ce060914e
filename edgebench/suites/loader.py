"""Rows of a suite's files to questions. Every complaint names the file and the line."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import SuiteError
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.types import Question, Suite
from edgebench.suites.definition import DataFile, Definition, find_definition
from edgebench.suites.prompts import LETTERS


def load_suite(name: str, data: Path | None = None) -> Suite:
    """A suite with its questions. `data` is the folder for suites whose questions are not shipped."""
    definition = find_definition(name)
    questions: list[Question] = []
    verified = True
    for file in definition.files:
        path = locate(definition, file, data)
        verified &= file.sha256 is None or sha256_file(path) == file.sha256
        questions += _read(definition, file, path)
    if not questions:
        raise SuiteError(f"suite {definition.name} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise SuiteError(f"suite {definition.name}: two questions have the id {question.id!r}")
        seen.add(question.id)
    content = sorted([q.id, q.text, list(q.choices), q.answer_index, q.subject] for q in questions)
    return Suite(
        name=definition.name,
        version=definition.version,
        title=definition.title,
        sha256=sha256_json(content),
        questions=tuple(questions),
        default_scorer=definition.default_scorer,
        prompts=definition.prompts,
        license=definition.license,
        citation=definition.citation,
        source=definition.source,
        medical=definition.medical,
        # A definition without pins can't tell one content from another, so its id carries the hash.
        verified=verified and all(f.sha256 for f in definition.files),
        seed=definition.seed,
    )


def load_dev(name: str, data: Path | None = None) -> list[Question]:
    """The questions a suite sets apart from those it scores; SuiteError when there are none.

    A question that is scored as well is left out (published suites have such): what is tuned on must not be
    what is measured.
    """
    definition = find_definition(name)
    if not definition.dev_files:
        raise SuiteError(
            f"suite {definition.name} has no train or dev questions", "calibrate with another suite or a text"
        )
    scored = {(q.text, q.choices) for q in load_suite(name, data).questions}
    found: list[Question] = []
    for file in definition.dev_files:
        found += _read(definition, file, locate(definition, file, data))
    kept = [question for question in found if (question.text, question.choices) not in scored]
    if not kept:
        raise SuiteError(f"suite {definition.name}: every dev question is also one of those scored")
    return kept


def locate(definition: Definition, file: DataFile, data: Path | None) -> Path:
    """Where a data file is: beside the definition, or under the data folder (also by its last parts)."""
    if not definition.beside and data is None:
        raise SuiteError(
            f"suite {definition.name} needs its data folder",
            f"give --data DIR or set EDGEBENCH_DATA; DIR holds {file.path}",
        )
    root = definition.file.parent if definition.beside or data is None else data
    parts = Path(file.path).parts
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.is_file():
            return path
    raise SuiteError(
        f"suite {definition.name}: {root / file.path} is not there", f"{definition.source}".strip() or None
    )


def _read(definition: Definition, file: DataFile, path: Path) -> Iterator[Question]:
    rows = _csv_rows(path, definition.header) if definition.format == "csv" else _json_rows(path)
    for number, (line, row) in enumerate(rows):
        try:
            yield _question(definition, file, number, row)
        except (KeyError, IndexError) as error:
            raise SuiteError(f"{path}:{line}: no column {error.args[0]!r}") from error
        except (TypeError, ValueError) as error:
            raise SuiteError(f"{path}:{line}: {error}") from error


def _csv_rows(path: Path, header: bool) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            names = next(reader, []) if header else None
            line = reader.line_num + 1
            for row in reader:
                if row:
                    yield line, (dict(zip(names, row, strict=False)) if names is not None else row)
                line = reader.line_num + 1
    except csv.Error as error:
        raise SuiteError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for line, text in enumerate(handle, start=1):
                if text.strip():
                    yield line, _json_object(text, f"{path}:{line}")
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise SuiteError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise SuiteError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def _not_utf8(path: Path) -> SuiteError:
    """Text is decoded in blocks, so the line is looked for only when there is one to tell."""
    for line, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return SuiteError(f"{path}:{line}: not UTF-8: {error.reason}")
    return SuiteError(f"{path}: not UTF-8")


def _question(definition: Definition, file: DataFile, number: int, row: Any) -> Question:
    fields = definition.fields
    choices = _choices(row, fields["choices"])
    text = str(_cell(row, fields["question"])).strip()
    if not text:
        raise ValueError("the question is empty")
    if not 2 <= len(choices) <= len(LETTERS) or not all(choices):
        raise ValueError(f"a question needs 2 to {len(LETTERS)} options, none of them empty")
    subject = file.subject or (str(_cell(row, fields["subject"])) if "subject" in fields else "")
    own_id = str(_cell(row, fields["id"])) if "id" in fields else f"{subject or 'q'}-{number:03d}"
    answer = _answer(_cell(row, fields["answer"]), definition.answer, len(choices))
    return Question(id=own_id, text=text, choices=choices, answer_index=answer, subject=subject)


def _cell(row: Any, key: int | str) -> Any:
    if isinstance(row, list) and isinstance(key, int):
        if not 0 <= key < len(row):
            raise KeyError(key)
        return row[key]
    if isinstance(row, Mapping):
        if (cell := row[str(key)]) is None:
            raise ValueError(f"{key!r} is null")
        return cell
    raise ValueError(f"field {key!r} does not fit this file: name columns when it has names")


def _choices(row: Any, key: int | str | Sequence[int | str]) -> tuple[str, ...]:
    cells = _cell(row, key) if isinstance(key, int | str) else [_cell(row, k) for k in key]
    if not isinstance(cells, list):
        raise ValueError(f"the options are not a list but {type(cells).__name__}")
    if None in cells:
        raise ValueError("an option is null")
    return tuple(str(cell).strip() for cell in cells)


def _answer(value: Any, form: str, n_choices: int) -> int:
    text = str(value).strip()
    if form == "letter":
        index = LETTERS.find(text.upper()) if len(text) == 1 else -1
    else:
        index = int(text) - (form == "number") if text.lstrip("-").isdigit() else -1
    if not 0 <= index < n_choices:
        raise ValueError(f"answer {text!r} is outside the {n_choices} options")
    return index
