"""An older database is brought up to date with every answer it held."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import StoreError
from edgebench.results.schema import MIGRATIONS
from edgebench.results.store import Store
from edgebench.results.summary import rebuild

RUN = "01JDAAAAAAAAAAAAAAAAAAAAAA"
OLD_COLUMNS = (
    "run_id, question_id, repeat, choice_index, choice_norm_index, correct, correct_norm, logprobs_json,"
    " output_text, n_prompt, n_gen, ttft_s, total_s, group_sha256"
)
ANSWERS = [
    (RUN, "q0", 0, 0, 1, 1, 0, "[-0.5, -1.25]", None, 40, None, None, None, "g1"),
    (RUN, "q0", 1, 1, None, 0, None, None, "B", 40, 3, 0.25, 0.5, "g1"),
    (RUN, "q1", 0, None, None, 0, None, None, "no idea", 41, 2, 0.5, 0.75, None),
]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database as version 2 left it."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in (*MIGRATIONS[0], *MIGRATIONS[1]):
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 2")
        connection.execute("INSERT INTO model (id, name, source) VALUES ('tiny', 'tiny', 'file')")
        connection.execute(
            "INSERT INTO artifact (id, model_id, format, quant, size_bytes, tool, tool_version, created_at)"
            " VALUES ('a', 'tiny', 'gguf', 'q8_0', 10, 'none', '', 'then')"
        )
        connection.execute(
            "INSERT INTO device (id, name, kind, profile_sha256, profile_json)"
            " VALUES ('d', 'd', 'x', '', '{}')"
        )
        connection.execute("INSERT INTO environment (id, os, facts_json) VALUES ('e', 'Linux', '{}')")
        connection.execute(
            "INSERT INTO suite (id, name, version, sha256, n_questions) VALUES ('s@1', 's', '1', 'x', 2)"
        )
        connection.executemany(
            "INSERT INTO question (suite_id, id, subject, n_choices, answer_index, sha256)"
            " VALUES ('s@1', ?, '', 2, 0, 'x')",
            [("q0",), ("q1",)],
        )
        connection.execute(
            "INSERT INTO run (id, mode, status, evidence, artifact_id, device_id, environment_id, suite_id,"
            " runner, runner_version, config_sha256, config_json, seed, started_at, edgebench_version,"
            " scorer)"
            " VALUES (?, 'accuracy', 'complete', 'measured', 'a', 'd', 'e', 's@1', 'llama_cpp', '1', 'plan',"
            """ '{"shape": "grouped"}', 0, 'then', '0.1.0', 'letter')""",
            (RUN,),
        )
        marks = ", ".join("?" * len(ANSWERS[0]))
        connection.executemany(f"INSERT INTO answer ({OLD_COLUMNS}) VALUES ({marks})", ANSWERS)
    return path


def _answers(store: Store) -> list[tuple[Any, ...]]:
    rows = store.rows(f"SELECT {OLD_COLUMNS} FROM answer ORDER BY question_id, repeat")
    return [tuple(row.values()) for row in rows]


def test_every_answer_is_kept(old: Path) -> None:
    with pytest.raises(StoreError, match="older schema"):
        Store.open_readonly(old)
    with Store.open(old) as store:
        assert store.rows("PRAGMA user_version")[0]["user_version"] == len(MIGRATIONS)
        assert _answers(store) == ANSWERS
        fresh = store.rows("SELECT DISTINCT n_cut, n_shots, choice_bytes_index, extraction_rule FROM answer")
        assert [tuple(row.values()) for row in fresh] == [(0, 0, None, None)]
        assert store.rows("SELECT facts_json FROM suite") == [{"facts_json": "{}"}]
        assert store.rows("PRAGMA foreign_key_check") == []
        assert store.rows("SELECT * FROM paired_answer") == []


def test_its_runs_are_summarised_and_answers_without_a_key_can_be_added(old: Path) -> None:
    with Store.open(old) as store:
        rebuild(store)
        rows = store.rows("SELECT value, n FROM summary WHERE metric = 'acc'")
        assert rows == [{"value": 0.5, "n": 2}]  # the first answer to each question
        store.add_answers(RUN, [{"question_id": "q2", "choice_index": 1, "correct": None}])
        assert store.rows("SELECT correct FROM answer WHERE question_id = 'q2'") == [{"correct": None}]


def test_deleting_a_run_still_takes_its_answers(old: Path) -> None:
    with Store.open(old) as store:
        store.delete_run(RUN)
        assert _answers(store) == []


def test_a_migration_that_fails_leaves_everything(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("CREATE TABLE answer_3 (x)")  # in the way
    with pytest.raises(StoreError):
        Store.open(old)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        kept = connection.execute(f"SELECT {OLD_COLUMNS} FROM answer ORDER BY question_id, repeat").fetchall()
        assert kept == ANSWERS
