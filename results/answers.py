"""A run's answers beside what the database knows of their questions, and what a suite says of itself."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgebench.core.types import MEDICAL_NOTE, Permutation
from edgebench.results.records import RunRow
from edgebench.results.store import Store

HEADLINES = {"acc": "acc", "mean_of_subjects": "acc_mean_of_subjects", "macro_f1": "macro_f1"}
"""What a suite calls its headline -> the metric."""

HEADLINE_TITLES = {
    "acc": "Accuracy",
    "acc_mean_of_subjects": "Accuracy, mean of subjects",
    "macro_f1": "Macro-F1",
}

_ANSWERS = """
  SELECT answer.*, question.answer_index, question.n_choices, coalesce(question.subject, '') AS subject
  FROM answer JOIN run ON run.id = answer.run_id
  LEFT JOIN question ON question.suite_id = run.suite_id AND question.id = answer.question_id
  WHERE answer.run_id = ? AND (answer.repeat = 0 OR ?) ORDER BY answer.question_id, answer.repeat"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a run. Options are counted as the suite stores them."""

    question_id: str
    subject: str
    repeat: int
    """The rotation: place j showed option (j + repeat) mod n_choices."""
    choice_index: int | None
    """None: no answer could be read off."""
    answer_index: int | None
    """None: the suite has no key."""
    n_choices: int | None
    correct: int | None
    correct_norm: int | None
    correct_bytes: int | None
    logprobs: tuple[float, ...] | None
    n_prompt: int | None
    """Tokens of the prompt as the engine got it."""
    n_cut: int

    @property
    def place_index(self) -> int | None:
        """The place at which the chosen option was shown."""
        if self.choice_index is None or self.repeat == 0:
            return self.choice_index
        return (self.choice_index - self.repeat) % self.n_choices if self.n_choices else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteFacts:
    """What a suite says of itself, questions left out."""

    headline: str = "acc"
    """The metric it is known by."""
    categories: Mapping[str, Sequence[str]]
    slices: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()
    """What must stand under everything that shows its accuracy."""


def is_permuted(run: RunRow) -> bool:
    """Whether a run asked each question in all rotations of its options."""
    return bool(run.config.get("permute") == Permutation.CYCLIC)


def answers(store: Store, run: RunRow) -> list[Answer]:
    """A run's answers by question and rotation; without permutation the first of each question only."""
    return [
        Answer(
            **{
                name: row[name]
                for name in (
                    *("question_id", "subject", "repeat", "choice_index", "answer_index", "n_choices"),
                    *("correct", "correct_norm", "correct_bytes", "n_prompt", "n_cut"),
                )
            },
            logprobs=_logprobs(row["logprobs_json"], row["n_choices"]),
        )
        for row in store.rows(_ANSWERS, (run.id, is_permuted(run)))
    ]


def by_question(found: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Question id -> its answers, in the order of their rotations."""
    questions: dict[str, list[Answer]] = {}
    for answer in found:
        questions.setdefault(answer.question_id, []).append(answer)
    return questions


def suite_facts(store: Store, suite_id: str | None) -> SuiteFacts:
    """What the database has of a suite; nothing in particular of one it does not know."""
    rows = store.rows("SELECT name, medical, facts_json FROM suite WHERE id = ?", (suite_id,))
    if not rows:
        return SuiteFacts(categories={}, slices={})
    facts, name = json.loads(rows[0]["facts_json"]), rows[0]["name"]
    notes = [MEDICAL_NOTE] if rows[0]["medical"] else []
    notes += [f"{name}: {facts['label']}"] if facts.get("label") else []
    return SuiteFacts(
        headline=HEADLINES.get(facts.get("headline", ""), "acc"),
        categories=facts.get("categories") or {},
        slices=facts.get("slices") or {},
        notes=tuple(notes),
    )


def _logprobs(text: str | None, n_choices: int | None) -> tuple[float, ...] | None:
    """One finite number per option, or None."""
    values = json.loads(text) if text else None
    if not isinstance(values, list) or len(values) != n_choices or len(values) < 2:
        return None
    whole = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return tuple(map(float, values)) if whole else None
