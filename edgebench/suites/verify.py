"""Are the files those a definition pins, and do they hold as many questions as it promises?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebench.core.errors import SuiteError
from edgebench.core.hashing import sha256_file
from edgebench.suites.definition import DataFile, Definition, Form
from edgebench.suites.loader import Located, locate, questions_sha256, read_questions
from edgebench.suites.rows import read_ids


def verify(definition: Definition, data: Path | None) -> Iterator[dict[str, Any]]:
    """A row for each file, and one for all scored questions; SuiteError when the files are not there.

    `ok` is False where content or count differ from what the definition says, None where it says neither.
    """
    found = locate(definition, data)
    for file in found.form.files:
        yield _checked(definition, found, file, dev=False)
    if (ids := found.form.ids) is not None:
        yield _row(definition, ids, found.paths[ids.path], n=len(read_ids(found.paths[ids.path])))
    yield _whole(definition, found)
    if found.form.dev:
        try:
            pool = locate(definition, data, dev=True)
        except SuiteError:
            return  # worked examples are no part of a score
        for file in pool.form.dev:
            yield _checked(definition, pool, file, dev=True)


def _checked(definition: Definition, found: Located, file: DataFile, *, dev: bool) -> dict[str, Any]:
    path = found.paths[file.path]
    alone = Located(_only(found.form, file, dev=dev), found.paths)
    try:
        n = len(read_questions(definition, alone, dev=dev))
    except SuiteError as error:
        return {**_row(definition, file, path, n=None), "ok": False, "why": error.message}
    return _row(definition, file, path, n=n)


def _only(form: Form, file: DataFile, *, dev: bool) -> Form:
    return replace(form, dev=(file,)) if dev else replace(form, files=(file,), dev=())


def _whole(definition: Definition, found: Located) -> dict[str, Any]:
    row: dict[str, Any] = {"suite": definition.name, "file": "(all questions)", "path": None}
    try:
        questions = read_questions(definition, found)
    except SuiteError as error:
        return {
            **row,
            "n_questions": None,
            "n_expected": None,
            "sha256": None,
            "ok": False,
            "why": error.message,
        }
    sha256 = questions_sha256(questions)
    same = sha256 == definition.sha256 if definition.sha256 else None
    return {**row, **_judged(len(questions), definition.n_questions, sha256, same)}


def _row(definition: Definition, file: DataFile, path: Path, *, n: int | None) -> dict[str, Any]:
    sha256 = sha256_file(path)
    row = {
        "suite": definition.name,
        "file": file.path + (f" ({file.member})" if file.member else ""),
        "path": str(path),
    }
    same = sha256 == file.sha256 if file.sha256 else None
    return {**row, **_judged(n, file.n_questions, sha256, same)}


def _judged(n: int | None, expected: int | None, sha256: str, same: bool | None) -> dict[str, Any]:
    counted = None if n is None or expected is None else n == expected
    why = [] if same is not False else ["the sha256 is not the pinned one"]
    why += [] if counted is not False else [f"{n} questions instead of {expected}"]
    known = [check for check in (same, counted) if check is not None]
    return {
        "n_questions": n,
        "n_expected": expected,
        "sha256": sha256,
        "ok": all(known) if known else None,
        "why": "; ".join(why) or None,
    }
