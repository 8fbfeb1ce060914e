"""The built-in suite keeps the rules it was written by."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from edgebench.core.types import Suite
from edgebench.suites.definition import BUILT_IN
from edgebench.suites.loader import load_suite

HEALTH = {"nutrition", "body_basics", "sleep_and_rest", "exercise", "hygiene_and_prevention"}
DOSE = re.compile(
    r"\d\s*(mg|ml|mcg|µg|milligrams?|millilitres?)\b|\b(mg|ml|tablets?|pills?|dos(e|es|age))\b", re.IGNORECASE
)
MOST_LENGTH_RATIO = 1.5


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("everyday")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BUILT_IN / "everyday.jsonl").read_text("utf-8").splitlines()]


def test_it_is_the_pinned_one_and_large_enough(suite: Suite) -> None:
    assert suite.verified
    assert suite.id == "everyday@1"
    assert len(suite.questions) >= 120
    assert suite.medical


def test_ids_and_questions_are_unique(suite: Suite) -> None:
    assert len({q.id for q in suite.questions}) == len(suite.questions)
    assert len({q.text.lower() for q in suite.questions}) == len(suite.questions)
    assert all(q.id.rpartition("-")[0] == q.subject for q in suite.questions)


def test_options_are_four_and_distinct(suite: Suite) -> None:
    for question in suite.questions:
        assert len({choice.casefold() for choice in question.choices}) == 4, question.id


def test_key_is_in_every_place_equally_often(suite: Suite) -> None:
    places = Counter(q.answer_index for q in suite.questions)
    assert max(places.values()) - min(places.values()) <= 1
    for subject in {q.subject for q in suite.questions}:
        of_subject = Counter(q.answer_index for q in suite.questions if q.subject == subject)
        assert len(of_subject) == 4
        assert max(of_subject.values()) - min(of_subject.values()) <= 1, subject


def test_options_are_of_similar_length(suite: Suite) -> None:
    for question in suite.questions:
        lengths = [len(choice) for choice in question.choices]
        assert max(lengths) <= MOST_LENGTH_RATIO * min(lengths), question.id


def test_length_does_not_give_the_key_away(suite: Suite) -> None:
    """Always taking the longest option, or the shortest, must stay near a guess."""
    for pick in (max, min):
        hits = sum(q.choices.index(pick(q.choices, key=len)) == q.answer_index for q in suite.questions)
        assert hits / len(suite.questions) < 0.35


def test_text_is_ready_to_be_asked(suite: Suite) -> None:
    for question in suite.questions:
        assert question.text.endswith("?"), question.id
        for text in (question.text, *question.choices):
            assert text == " ".join(text.split()), question.id
            assert text.isprintable(), question.id


def test_key_is_not_in_its_question(suite: Suite) -> None:
    for q in suite.questions:
        assert q.choices[q.answer_index].casefold() not in q.text.casefold(), q.id


def test_each_health_question_has_a_public_source(rows: list[dict[str, Any]]) -> None:
    health = [row for row in rows if row["subject"] in HEALTH]
    assert len(health) == 40
    assert [row["id"] for row in health if not row.get("source", "").startswith("https://")] == []


def test_nothing_is_about_doses(suite: Suite) -> None:
    for question in suite.questions:
        assert not DOSE.search(" ".join((question.text, *question.choices))), question.id


@pytest.mark.parametrize("text", ["take 500 mg", "two tablets", "5ml", "the right dose"])
def test_the_guard_sees_a_dose(text: str) -> None:
    assert DOSE.search(text)
