"""Suites: what there is, what is in them, whether the files are the right ones, getting and adding them."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.types import Question, Scorer, Suite
from edgebench.suites.adopted import adopt
from edgebench.suites.definition import (
    Definition,
    Form,
    built_in_suites,
    find_definition,
    known_suites,
    read_definition,
)
from edgebench.suites.fetch import fetch
from edgebench.suites.fewshot import content_key
from edgebench.suites.groups import ordered_groups
from edgebench.suites.loader import load_suite, locate, read_questions
from edgebench.suites.prompts import build_prompt
from edgebench.suites.verify import verify

Say = Callable[[str], None]


def list_suites(data: Path | None) -> list[dict[str, Any]]:
    """Every known suite, and whether its questions are in reach; nothing of them is read."""
    return [_listed(name, path, data) for name, path in sorted(known_suites().items())]


def _listed(name: str, path: Path, data: Path | None) -> dict[str, Any]:
    try:
        definition = read_definition(path)
    except SuiteError as error:
        # One damaged file of the user's must not hide the rest.
        return {"name": name, "available": False, "why": error.message, "source": str(path)}
    return _facts(definition) | _reach(definition, data)


def show_suite(name: str, data: Path | None) -> dict[str, Any]:
    """A suite's definition, and, where the data is in reach, its content's hash and a prompt per scorer.

    Never fails for a known suite: `available` and `why` say whether the questions are there.
    """
    definition = find_definition(name)
    shown = {
        **_facts(definition),
        "citation": definition.citation,
        "categories": {name: list(subjects) for name, subjects in definition.categories.items()},
        "slices": {name: list(subjects) for name, subjects in definition.slices.items()},
        "provenance": [_provenance(form) for form in definition.forms],
    }
    try:
        suite = load_suite(name, data)
    except (SuiteError, UsageError) as error:
        return shown | _unreachable(error)
    return shown | _content(suite)


def _facts(definition: Definition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "title": definition.title,
        "n_questions": definition.n_questions,
        "licence": definition.license,
        "label": definition.label or None,
        "available": True,
        "why": None,
        "version": definition.version,
        "source": definition.source,
        "medical": definition.medical,
        "has_key": definition.has_key,
        "headline": definition.headline,
        "scorers": [scorer.value for scorer in definition.prompts],
        "default_scorer": definition.default_scorer.value,
    }


def _reach(definition: Definition, data: Path | None) -> dict[str, Any]:
    try:
        locate(definition, data)
    except SuiteError as error:
        return _unreachable(error)
    return {}


def _unreachable(error: SuiteError | UsageError) -> dict[str, Any]:
    return {"available": False, "why": error.message + (f" ({error.hint})" if error.hint else "")}


def _provenance(form: Form) -> dict[str, Any]:
    origin = f"hub:{form.hub}" if form.hub else form.url or None
    files = [
        {"path": file.path, "n_questions": file.n_questions, "sha256": file.sha256} for file in form.needed
    ]
    return {
        "format": form.format,
        "fetched_from": origin,
        "revision": form.revision or None,
        "files": files,
        "pool": [file.path for file in form.dev],
    }


def _content(suite: Suite) -> dict[str, Any]:
    first = ordered_groups(suite)[0][0]
    return {
        "n_questions": len(suite.questions),
        "n_distinct": len({_as_asked(question) for question in suite.questions}),
        "id": suite.id,
        "sha256": suite.sha256,
        "verified": suite.verified,
        "n_per_subject": dict(Counter(q.subject for q in suite.questions)),
        "sample_prompt": {scorer.value: _sample(suite, first, scorer) for scorer in suite.prompts},
    }


def _as_asked(question: Question) -> str:
    """Two questions with the same text, passage and options are one, whatever the options' order."""
    return content_key(question) + question.passage


def _sample(suite: Suite, question: Question, scorer: Scorer) -> dict[str, Any]:
    prompt = build_prompt(suite, question, scorer)
    n_gen = suite.prompts[scorer].n_gen
    return {
        "context": prompt.context,
        "continuations": list(prompt.continuations),
        **({"n_gen": n_gen} if n_gen else {}),
    }


def verify_suites(names: Sequence[str], data: Path | None) -> list[dict[str, Any]]:
    """A row per file of each suite named; without names, of every known one whose files are in reach."""
    rows: list[dict[str, Any]] = []
    for name in names or known_suites():
        definition = find_definition(name)
        if names or _reach(definition, data) == {}:
            rows += verify(definition, data)
    return rows


def fetch_suite(name: str, say: Say) -> Path:
    """Get a suite's files into the cache; the folder they are in."""
    return fetch(find_definition(name), say)


def add_suite(path: Path, data: Path | None) -> Definition:
    """Adopt a user's suite file: checked, copied with the data beside it, from now on known by its name."""
    definition = read_definition(path)
    if definition.name in built_in_suites():
        raise UsageError(f"a suite {definition.name} comes with edgebench", "give yours another `name`")
    beside: dict[str, Path] = {}
    if _reach(definition, data) == {} or definition.forms[0].root == "beside":
        found = locate(definition, data)
        read_questions(definition, found)
        beside |= found.paths if found.form.root == "beside" else {}
        if found.form.dev and found.form.root == "beside":
            pool = locate(definition, data, dev=True)
            read_questions(definition, pool, dev=True)
            beside |= pool.paths
    return read_definition(adopt(definition.name, path, beside))
