"""A suite's files to questions. Every complaint names the file and the line."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.paths import cache_part
from edgebench.core.types import Question, Suite
from edgebench.suites.answer_file import read_key
from edgebench.suites.definition import DataFile, Definition, Form, find_definition
from edgebench.suites.fields import is_wanted, make_question, own_id, subject_of
from edgebench.suites.published import PART_OF
from edgebench.suites.rows import read_ids, read_rows


@dataclass(frozen=True, slots=True)
class Located:
    """The form a suite's questions are there in, and where its files lie."""

    form: Form
    paths: dict[str, Path]


def load_suite(name: str, data: Path | None = None, *, key: Path | None = None) -> Suite:
    """A suite with its questions, from the data folder or from what was fetched.

    `key` is a user's answers to a suite whose own are not public; questions it has none for are left out.
    """
    definition = find_definition(name)
    found = locate(definition, data)
    questions = read_questions(definition, found)
    if not questions:
        raise SuiteError(f"suite {definition.name} has no questions")
    sha256 = questions_sha256(questions)
    return Suite(
        name=definition.name,
        version=definition.version,
        title=definition.title,
        sha256=sha256,
        questions=_with_key(definition, questions, key) if key else tuple(questions),
        default_scorer=definition.default_scorer,
        prompts=definition.prompts,
        license=definition.license,
        citation=definition.citation,
        source=definition.source,
        medical=definition.medical,
        # A definition without pins can't tell one content from another, so its id carries the hash.
        verified=sha256 == definition.sha256 or _is_pinned(found),
        seed=definition.seed,
        categories=definition.categories,
        slices=definition.slices,
        headline=definition.headline,
        label=definition.label,
        first_shots=definition.first_shots,
        key_sha256=sha256_file(key) if key else None,
        asks_for_submission=definition.submission,
    )


def load_pool(name: str, data: Path | None = None) -> tuple[Question, ...]:
    """The questions worked examples are taken from, as they are published; none where a suite has none."""
    definition = find_definition(name)
    if not any(form.dev for form in definition.forms):
        return ()
    found = locate(definition, data, dev=True)
    return tuple(read_questions(definition, found, dev=True))


def load_dev(name: str, data: Path | None = None) -> list[Question]:
    """The questions a suite sets apart from those it scores; SuiteError when there are none.

    A question that is scored as well is left out (published suites have such): what is tuned on must not be
    what is measured.
    """
    pool = load_pool(name, data)
    if not pool:
        raise SuiteError(
            f"suite {find_definition(name).name} has no train or dev questions",
            "calibrate with another suite or a text",
        )
    scored = {(q.text, q.choices) for q in load_suite(name, data).questions}
    kept = [question for question in pool if (question.text, question.choices) not in scored]
    if not kept:
        raise SuiteError(
            f"suite {find_definition(name).name}: every dev question is also one of those scored"
        )
    return kept


def questions_sha256(questions: Sequence[Question]) -> str:
    """Of everything that is asked and graded, in the order of the ids."""
    return sha256_json(
        sorted(
            [q.id, q.text, list(q.choices), q.answer_index, q.subject, *([q.passage] if q.passage else [])]
            for q in questions
        )
    )


def locate(definition: Definition, data: Path | None, *, dev: bool = False) -> Located:
    """The first form whose files are all there and whose first row can be read; SuiteError when none is."""
    unfit: Located | None = None
    missing: Path | None = None
    for form in definition.forms:
        files = (*form.dev, *((form.ids,) if form.ids else ())) if dev else form.needed
        for root, exact in _roots(definition, form, data) if files and (not dev or form.dev) else ():
            paths = {file.path: _find(root, form, file, exact=exact) for file in files}
            if lost := [path for path, there in paths.items() if there is None]:
                missing = missing or root / lost[0]
                continue
            found = Located(form, {path: there for path, there in paths.items() if there is not None})
            if _fits(found, form.dev if dev else form.files):
                return found
            unfit = unfit or found
    if unfit is not None:
        return unfit  # reading it tells what is wrong, and where
    hint = "give --data DIR" + (f"; its source: {definition.source}" if definition.source else "")
    if any(form.hub or form.url for form in definition.forms):
        hint = f"edgebench suites fetch {definition.name}, or give --data DIR"
    if missing is None or (data is None and definition.forms[0].root == "data"):
        some = next(files for form in definition.forms if (files := form.dev if dev else form.files))
        raise SuiteError(f"suite {definition.name} needs its data: {some[0].path}, …", hint)
    raise SuiteError(f"suite {definition.name}: {missing} is not there", hint)


def _roots(definition: Definition, form: Form, data: Path | None) -> Iterator[tuple[Path, bool]]:
    """Folders to look in, and whether the files are where the source has them."""
    if form.root == "beside":
        yield definition.file.parent, False
        return
    if data is not None:
        yield data, False
    if form.hub or form.url:
        yield fetched_folder(form), True


def fetched_folder(form: Form) -> Path:
    """Where in the cache a source's files are kept: suites of one source share them."""
    key = sha256_json([form.hub, form.url, form.revision])[:12]
    return cache_part("suites") / f"{form.folder or 'data'}-{key}"


def _find(root: Path, form: Form, file: DataFile, *, exact: bool) -> Path | None:
    """A file under a root: in the source's own folder or not, by its whole path or its last parts."""
    if exact:
        path = root / file.path
        return path if path.is_file() else None
    parts = PurePosixPath(file.path).parts
    for folder in (root / form.folder, root) if form.folder else (root,):
        for start in range(len(parts)):
            path = folder.joinpath(*parts[start:])
            if path.is_file():
                return path
    return None


def _fits(found: Located, files: Sequence[DataFile]) -> bool:
    file = files[0]
    try:
        for _, row in read_rows(
            found.paths[file.path], found.form.format, header=found.form.header, member=file.member
        ):
            make_question(found.form, row, question_id="first", subject=subject_of(found.form, file, row))
            return True
    except (SuiteError, KeyError, TypeError, ValueError):
        return False
    return False


def read_questions(definition: Definition, found: Located, *, dev: bool = False) -> list[Question]:
    """Every question of the files, with ids of their own."""
    form = found.form
    ids = read_ids(found.paths[form.ids.path]) if form.ids else None
    questions: list[Question] = []
    seen: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for file in form.dev if dev else form.files:
        for where, question in _read(form, file, found.paths[file.path], counts):
            if ids is not None and (question.id in ids) == dev:
                continue
            if question.id in seen:
                raise SuiteError(
                    f"{where}: the id {question.id!r} stands in {seen[question.id]} already",
                    f"suite {definition.name}: two questions can't have one id",
                )
            seen[question.id] = where
            questions.append(question)
    if ids is not None and not dev and (absent := sorted(ids - seen.keys())):
        raise SuiteError(
            f"suite {definition.name}: {len(absent)} of the questions to score are not there, "
            f"{absent[0]!r} for one"
        )
    return questions


def _read(form: Form, file: DataFile, path: Path, counts: Counter[str]) -> Iterator[tuple[str, Question]]:
    for line, row in read_rows(path, form.format, header=form.header, member=file.member):
        where = f"{path}:{line}"
        try:
            if not is_wanted(form, row):
                continue
            subject = subject_of(form, file, row)
            question_id = own_id(form, row)
            if question_id is None:
                question_id = f"{subject or 'q'}-{counts[subject]:03d}"
                counts[subject] += 1
            yield where, make_question(form, row, question_id=question_id, subject=subject)
        except (KeyError, IndexError) as error:
            raise SuiteError(f"{where}: no column {error.args[0]!r}") from error
        except (TypeError, ValueError) as error:
            raise SuiteError(f"{where}: {error}") from error


def _is_pinned(found: Located) -> bool:
    """Whether every file that scoring needs is the one the definition knows."""
    pins = {(file.path, file.sha256) for file in found.form.needed}
    return all(pin is not None and sha256_file(found.paths[path]) == pin for path, pin in pins)


def _with_key(definition: Definition, questions: Sequence[Question], key: Path) -> tuple[Question, ...]:
    if definition.has_key:
        raise UsageError(f"suite {definition.name} has its own key", "leave out --key")
    answers = read_key(key, {q.id: len(q.choices) for q in questions}, unknown_ok=definition.name in PART_OF)
    keyed = tuple(replace(q, answer_index=answers[q.id]) for q in questions if q.id in answers)
    if not keyed:
        raise SuiteError(f"{key} has none of the questions of {definition.name}")
    return keyed
