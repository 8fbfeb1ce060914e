"""A key of the user's own to a suite whose answers are not public."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.types import Suite
from edgebench.suites.loader import load_suite

WriteSuite = Callable[..., Path]

ROWS = "id,q,a,b,c\nq1,Sky?,blue,red,green\nq2,Sea?,red,blue,green\nq3,Sun?,red,blue,yellow\n"


@pytest.fixture
def load(tmp_path: Path, write_suite: WriteSuite) -> Callable[..., Suite]:
    """`load("q1,A\\n")`: the keyless suite with that key; without one, as it is."""
    fields = {"id": "id", "question": "q", "choices": ["a", "b", "c"]}
    definition = write_suite({"a.csv": ROWS}, header=True, answer="none", fields=fields)

    def call(key: str | None = None, *, head: str = "question_id,answer\n") -> Suite:
        if key is None:
            return load_suite(str(definition))
        path = tmp_path / "key.csv"
        path.write_text(head + key, encoding="utf-8")
        return load_suite(str(definition), key=path)

    return call


def test_without_a_key_no_question_has_an_answer(load: Any) -> None:
    suite = load()
    assert [q.answer_index for q in suite.questions] == [None] * 3
    assert not suite.has_key
    assert suite.key_sha256 is None


def test_key_gives_the_answers_and_names_the_suite(load: Any, tmp_path: Path) -> None:
    suite = load("q3,C\nq1,A\nq2,b\n")
    assert [q.answer_index for q in suite.questions] == [0, 1, 2]
    assert suite.has_key
    assert suite.key_sha256 == sha256_file(tmp_path / "key.csv")
    assert suite.id.endswith(f"+key-{suite.key_sha256[:8]}")
    assert suite.sha256 == load().sha256  # the questions are the same, whoever answers them


def test_what_a_model_answered_may_be_a_key(load: Any) -> None:
    suite = load("q1,A\nq2,B\nq3,C\n", head="question_id,predicted_answer\n")
    assert [q.answer_index for q in suite.questions] == [0, 1, 2]


def test_questions_the_key_is_silent_about_are_left_out(load: Any) -> None:
    assert [q.id for q in load("q2,B\n").questions] == ["q2"]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("q1,D\n", r"key\.csv:2: 'D' is outside the options A to C of 'q1'"),
        ("q1,A\nq9,A\n", r"key\.csv:3: the suite has no question 'q9'"),
        ("q1,A\nq1,B\n", r"key\.csv:3: 'q1' stands in line 2 already"),
        ("q1,\n", r"key\.csv:2: '' is not one letter"),
        ("", r"key\.csv:1: no rows"),
    ],
)
def test_mistake_in_a_key_is_told_with_its_line(load: Any, key: str, told: str) -> None:
    with pytest.raises(SuiteError, match=told):
        load(key)


def test_suite_with_answers_of_its_own_takes_no_key(tmp_path: Path, write_suite: WriteSuite) -> None:
    key = tmp_path / "key.csv"
    key.write_text("question_id,answer\na-000,A\n")
    definition = write_suite({"a.csv": "Q,x,y,A\n"})
    with pytest.raises(UsageError, match="suite mine has its own key"):
        load_suite(str(definition), key=key)
