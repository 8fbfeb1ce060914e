"""CSV files of letters: keys and answers, and everything that can be wrong with one."""

import re
from pathlib import Path

import pytest

from edgebench.core.errors import SuiteError
from edgebench.suites.answer_file import read_key, read_predictions

KNOWN = {"q1": 4, "q2": 4, "q3": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.csv"


def test_a_key_is_read(path: Path) -> None:
    path.write_text("question_id,answer\nq1,A\nq2, d \nq3,B\n")
    assert read_key(path, KNOWN) == {"q1": 0, "q2": 3, "q3": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfquestion_id,answer\r\nq1,B\r\n",
        b'answer,note,question_id\nB,"two\nlines, quoted",q1\n\n',
        b"question_id,predicted_answer\nq1,B",
    ],
    ids=["BOM and CRLF", "other columns", "a submission"],
)
def test_a_key_of_another_make_is_read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_key(path, KNOWN) == read_key(path, {}) == {"q1": 1}


def test_an_empty_prediction_is_an_unparsed_answer(path: Path) -> None:
    path.write_text("question_id,predicted_answer\nq1,\nq2,C\n")
    assert read_predictions(path, KNOWN) == {"q1": None, "q2": 2}


def test_a_key_to_more_than_the_suite_may_be_passed_over(path: Path) -> None:
    path.write_text("question_id,answer\nq1,A\nother,D\n")
    assert read_key(path, KNOWN, unknown_ok=True) == {"q1": 0}


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", 1, "expected the columns question_id,predicted_answer, found nothing"),
        (b"\xef\xbb\xbf", 1, "found nothing"),
        (b"\n\n", 1, "found nothing"),
        (b"id,letter\nq1,A\n", 1, "found id,letter"),
        (b"q1,A\nq2,B\n", 1, "found q1,A"),
        (b"question_id,question_id,predicted_answer\nq1,q1,A\n", 1, "expected the columns"),
        (b"question_id,answer\nq1,A\n", 1, "found question_id,answer"),
        (b"question_id,predicted_answer\n", 1, "no rows"),
        (b"question_id,predicted_answer\nq1,A\nq2\n", 3, "1 cells, but 2 columns"),
        (b"question_id,predicted_answer\nq1,A\nq2,B,C\n", 3, "3 cells, but 2 columns"),
        (b"question_id,predicted_answer\nq1,A\nq2,B\nq1,A\n", 4, "'q1' stands in line 2 already"),
        (b"question_id,predicted_answer\nq9,A\n", 2, "the suite has no question 'q9'"),
        (b"question_id,predicted_answer\n,A\n", 2, "question_id is empty"),
        (b"question_id,predicted_answer\nq1,E\n", 2, "'E' is outside the options A to D of 'q1'"),
        (b"question_id,predicted_answer\nq1,D\nq3,C\n", 3, "'C' is outside the options A to B of 'q3'"),
        (b"question_id,predicted_answer\nq1,1\n", 2, "'1' is not one letter"),
        (b"question_id,predicted_answer\nq1,B. Paris is the capital of France\n", 2, "is not one letter"),
        (b"question_id,predicted_answer\nq1,\xc3\x84\n", 2, "is not one letter"),
        (b"question_id,predicted_answer\nq1,A\nq2,\xff\n", 3, "not UTF-8"),
        (b"\xff\xfeq\x00u\x00", 1, "not UTF-8"),
        (b'question_id,predicted_answer\nq1,"A\nq2,B\n', 3, "not valid CSV"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_its_line(
    path: Path, content: bytes, line: int, words: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(SuiteError, match=re.escape(f"file.csv:{line}: ")) as told:
        read_predictions(path, KNOWN)
    assert words in told.value.message
    assert "\n" not in told.value.message


def test_a_key_leaves_no_question_open(path: Path) -> None:
    path.write_text("question_id,answer\nq1,A\nq2,\n")
    with pytest.raises(SuiteError, match=r"file\.csv:3: '' is not one letter"):
        read_key(path, KNOWN)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(SuiteError, match=r"file\.csv can't be read"):
        read_key(path, KNOWN)
