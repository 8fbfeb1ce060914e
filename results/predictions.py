"""What a run answered, and what the database knows of the questions: no text, so this may be shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgebench.core.errors import UsageError
from edgebench.results.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A suite as far as grading needs it. Empty maps: nothing is known of its questions."""

    name: str
    subjects: Mapping[str, str]
    """Question id -> its subject."""
    n_choices: Mapping[str, int]
    """Question id -> how many options it has."""
    categories: Mapping[str, Sequence[str]]
    slices: Mapping[str, Sequence[str]]
    label: str = ""
    medical: bool = False


def predictions(store: Store, run_id: str) -> dict[str, int | None]:
    """Question id -> the choice a run made with the options as stored; None where none could be read off."""
    sql = "SELECT question_id, choice_index FROM answer WHERE run_id = ? AND repeat = 0 ORDER BY question_id"
    return {row["question_id"]: row["choice_index"] for row in store.rows(sql, (run_id,))}


def asked(store: Store, suite_id: str) -> Asked:
    """A stored suite; UsageError when it is not there."""
    found = store.rows("SELECT * FROM suite WHERE id = ?", (suite_id,))
    if not found:
        raise UsageError(f"no suite {suite_id} in {store.path}")
    facts = json.loads(found[0]["facts_json"])
    sql = "SELECT id, subject, n_choices FROM question WHERE suite_id = ? ORDER BY id"
    questions = store.rows(sql, (suite_id,))
    return Asked(
        name=found[0]["name"],
        subjects={row["id"]: row["subject"] or "" for row in questions},
        n_choices={row["id"]: row["n_choices"] for row in questions},
        categories=facts.get("categories", {}),
        slices=facts.get("slices", {}),
        label=facts.get("label", ""),
        medical=bool(found[0]["medical"]),
    )


def fullest_suite(store: Store, name: str) -> str | None:
    """The id of the stored suite of this name with the most questions: one asked with a key may lack some."""
    sql = "SELECT id FROM suite WHERE name = ? ORDER BY n_questions DESC, rowid DESC LIMIT 1"
    found = store.rows(sql, (name,))
    return found[0]["id"] if found else None
