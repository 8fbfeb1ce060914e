import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import SuiteError
from edgebench.core.hashing import sha256_file, sha256_text
from edgebench.suites.definition import read_definition
from edgebench.suites.loader import load_suite
from edgebench.suites.verify import verify

WriteSuite = Callable[..., Path]

ROWS = "Sky?,blue,red,A\nSea?,red,blue,B\n"
PIN = sha256_text(ROWS)


def rows(definition: Path) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in verify(read_definition(definition), None)}


def test_what_is_as_pinned_is_said_to_be(write_suite: WriteSuite) -> None:
    file = {"path": "a.csv", "sha256": PIN, "n_questions": 2}
    found = rows(write_suite({"a.csv": ROWS, "d.csv": ROWS}, files=[file], dev=[{"path": "d.csv"}]))
    assert [(row["ok"], row["why"]) for row in found.values()] == [(True, None), (True, None), (None, None)]
    assert found["a.csv"]["sha256"] == PIN
    assert found["(all questions)"]["n_questions"] == found["(all questions)"]["n_expected"] == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ROWS.replace("blue", "grey"), "the sha256 is not the pinned one"),
        (ROWS[:16], "the sha256 is not the pinned one; 1 questions instead of 2"),
    ],
)
def test_other_content_and_other_counts_are_told(write_suite: WriteSuite, text: str, why: str) -> None:
    found = rows(write_suite({"a.csv": text}, files=[{"path": "a.csv", "sha256": PIN, "n_questions": 2}]))
    assert (found["a.csv"]["ok"], found["a.csv"]["why"]) == (False, why)


def test_damaged_file_is_a_row_and_not_the_end(write_suite: WriteSuite) -> None:
    files = [{"path": "a.csv", "subject": "a"}, {"path": "b.csv", "subject": "b"}]
    found = rows(write_suite({"a.csv": ROWS + "Q,x,y,Z\n", "b.csv": ROWS}, files=files))
    assert not found["a.csv"]["ok"]
    assert "a.csv:3: answer 'Z'" in found["a.csv"]["why"]
    assert found["b.csv"]["n_questions"] == 2
    assert not found["(all questions)"]["ok"]


def test_list_of_ids_is_checked_like_a_file(tmp_path: Path, write_suite: WriteSuite) -> None:
    (tmp_path / "ids.json").write_text(json.dumps(["a-001"]))
    ids = {"path": "ids.json", "n_questions": 1, "sha256": sha256_file(tmp_path / "ids.json")}
    files = [{"path": "a.csv", "subject": "a"}]
    definition = write_suite({"a.csv": ROWS}, files=files, dev=files, ids=ids)
    found = list(verify(read_definition(definition), None))
    assert [(row["file"], row["n_questions"]) for row in found] == [
        ("a.csv", 1),
        ("ids.json", 1),
        ("(all questions)", 1),
        ("a.csv", 1),
    ]


def test_hash_of_the_questions_vouches_for_any_form(write_suite: WriteSuite) -> None:
    definition = write_suite({"a.csv": ROWS})
    sha256 = load_suite(str(definition)).sha256
    definition.write_text(f'sha256 = "{sha256}"\n' + definition.read_text())
    assert rows(definition)["(all questions)"]["ok"] is True
    definition.write_text(definition.read_text().replace(sha256, "0" * 64))
    assert rows(definition)["(all questions)"]["why"] == "the sha256 is not the pinned one"


def test_files_that_are_not_there_are_an_error(write_suite: WriteSuite) -> None:
    with pytest.raises(SuiteError, match="needs its data"):
        rows(write_suite({}, root="data", files=[{"path": "a.csv"}]))
