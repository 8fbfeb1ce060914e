"""Databases flow together: each run once, with all it yielded, whatever the order and however often."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.core.errors import StoreError
from edgebench.core.types import Evidence, Mode, Status
from edgebench.results import merge as merging
from edgebench.results import schema
from edgebench.results.merge import merge
from edgebench.results.store import Store

Dump = dict[str, list[tuple[Any, ...]]]
NUMBERS = ("id", "trial_id")


def dump(path: Path) -> Dump:
    """Every table's rows, the database's own numbers left out; token times by their run's trial."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: Dump = {}
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            kept = [
                c
                for c in columns
                if table not in ("trial", "energy_window", "token_time") or c not in NUMBERS
            ]
            found[table] = sorted(connection.execute(f"SELECT {', '.join(kept)} FROM {table}"), key=repr)
        found["token_time"] = sorted(
            connection.execute(
                "SELECT run_id, test, repetition, i, t_s FROM token_time JOIN trial ON trial.id = trial_id"
            ),
            key=repr,
        )
    return found


@pytest.fixture
def another(tmp_path: Path, lab: Any) -> Callable[[str], Any]:
    """`another(name)`: a laboratory with a database of its own."""
    return lambda name: type(lab)(Store.open(tmp_path / f"{name}.sqlite"))


@pytest.fixture
def target(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "target.sqlite") as store:
        yield store


def fill(lab: Any) -> str:
    """A speed run with everything a run can have, an accuracy run, a check."""
    parent = lab.artifact("f16", 16.0)
    child = lab.artifact("q8_0", 8.5, parent_sha256=parent, parent_quant="f16")
    run_id: str = lab.run(child)
    for i in range(3):
        lab.trial(run_id, repetition=i, prefill_s=0.5, token_times_s=[0.1 * i, 0.2 * i + 0.3])
    lab.store.add_readings(run_id, "rss", "B", [(0.0, 1.0), (1.0, 2.0)])
    window = {"kind": "test", "test": "pp512", "start_s": 0.0, "end_s": 1.0, "energy_reason": "no_sensor"}
    lab.store.add_windows(run_id, [window])
    lab.finish(run_id)
    lab.accuracy(child, [0, 1, 0, 2])
    check = lab.store.begin_check(
        artifact_id=child,
        reference_id=parent,
        key_sha256=f"key of {run_id}",
        evidence=Evidence.MEASURED,
        runner="llama_cpp",
        runner_version="1",
        config={},
        text_sha256="text",
        n_chunks=1,
    )
    columns = ("nll_nats", "nll_parent_nats", "kld_nats", "same_top", "max_logprob_diff_nats")
    lab.store.add_check_tokens(check, 0, {name: [0, 1] for name in columns})
    lab.store.add_check_greedy(check, 0, n_same=3, n_tokens=4)
    lab.store.add_check_answers(
        check, [{"shape": "alone", "question_id": "q0", "choice_index": 0, "correct": 1}]
    )
    lab.store.end_check(check, Status.COMPLETE)
    return run_id


def test_everything_comes_along(lab: Any, another: Any, target: Store) -> None:
    mine = another("mine")
    mine.trial(mine.run(mine.artifact("q4_0", 4.5)))  # its numbers are taken already
    fill(lab)
    assert merge(mine.store, lab.store.path).told == "runs: 3 new"
    assert merge(target, lab.store.path).told == "runs: 3 new"
    theirs = dump(lab.store.path)
    assert dump(target.path) == theirs
    both = dump(mine.store.path)
    assert {table: set(rows) - set(both[table]) for table, rows in theirs.items()} == {
        t: set() for t in theirs
    }
    assert len(both["trial"]) == len(theirs["trial"]) + 1


def test_once_more_changes_nothing(lab: Any, target: Store) -> None:
    fill(lab)
    merge(target, lab.store.path)
    before = dump(target.path)
    assert merge(target, lab.store.path).told == "runs: 3 known already"
    assert merge(lab.store, target.path).told == "runs: 3 known already"
    assert dump(target.path) == before == dump(lab.store.path)


def test_the_side_that_went_further_wins(lab: Any, target: Store) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.trial(run_id, repetition=0)
    lab.store.set_status(run_id, Status.INTERRUPTED, "stopped")
    merge(target, lab.store.path)
    target.set_status(run_id, Status.RUNNING)
    assert merge(target, lab.store.path).n_updated + merge(target, lab.store.path).n_unchanged == 2

    lab.trial(run_id, repetition=1)
    lab.finish(run_id)
    assert merge(target, lab.store.path).told == "runs: 1 that went further"
    assert dump(target.path) == dump(lab.store.path)

    target.set_status(run_id, Status.COMPLETE)
    lab.store.rows("SELECT 1")
    lab.store.set_status(run_id, Status.FAILED, "afterwards")
    assert merge(target, lab.store.path).told == "runs: 1 known already"  # complete beats later
    assert target.run(run_id).status is Status.COMPLETE


def test_some_runs_come_with_what_they_need_and_no_more(lab: Any, target: Store) -> None:
    run_id = fill(lab)
    lab.artifact("q2_k", 3.0)
    lab.suite("unused")
    assert merge(target, lab.store.path, {run_id}).told == "runs: 1 new"
    found = dump(target.path)
    assert len(found["artifact"]) == 2
    assert (found["suite"], found["question"], found["answer"]) == ([], [], [])
    assert len(found["token_time"]) == 6


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=5))
def test_the_order_of_merging_is_no_matter(
    tmp_path_factory: pytest.TempPathFactory, lab: Any, plan: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    labs = [type(lab)(Store.open(folder / f"{i}.sqlite")) for i in range(3)]
    for which, n_trials in plan:
        run_id = labs[which].run(labs[which].artifact("q8_0", 8.5))
        for i in range(n_trials):
            labs[which].trial(run_id, repetition=i)
        labs[which].finish(run_id)
    for one in labs:
        one.store.close()
    found = []
    for order in ((0, 1, 2), (2, 0, 1, 0)):
        with Store.open(folder / f"all-{order}.sqlite") as store:
            for i in order:
                merge(store, folder / f"{i}.sqlite")
        found.append(dump(folder / f"all-{order}.sqlite"))
    assert {t: rows for t, rows in found[0].items() if t not in ("artifact", "model")} == {
        t: rows for t, rows in found[1].items() if t not in ("artifact", "model")
    }
    assert len(found[0]["run"]) == len(plan)
    assert len(found[0]["trial"]) == sum(n for _, n in plan)


def test_one_suite_with_other_questions_is_refused_whole(lab: Any, another: Any) -> None:
    mine = another("mine")
    mine.suite("everyday")
    fill(lab)
    lab.store.rows("SELECT 1")
    with closing(sqlite3.connect(lab.store.path)) as connection, connection:
        connection.execute("UPDATE suite SET sha256 = 'other'")
    before = dump(mine.store.path)
    with pytest.raises(StoreError, match="has other questions"):
        merge(mine.store, lab.store.path)
    assert dump(mine.store.path) == before


def spoil(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


REPLACE_TRIALS = ("DROP TABLE trial", "CREATE VIEW trial AS SELECT 1 AS id")
WRONG_MODE = (
    "PRAGMA ignore_check_constraints = ON",
    "UPDATE run SET mode = 'guessing' WHERE mode = 'accuracy'",
)


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        ((f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}",), "this edgebench knows up to"),
        (("PRAGMA user_version = 1",), "older schema"),
        (REPLACE_TRIALS, "has no table trial"),
        (("ALTER TABLE answer DROP COLUMN output_text",), "has no table answer"),
        (WRONG_MODE, "damaged|CHECK"),
    ],
    ids=["newer", "older", "view", "column", "value"],
)
def test_what_is_not_right_is_refused_whole(
    lab: Any, target: Store, statements: tuple[str, ...], told: str
) -> None:
    fill(lab)
    lab.store.close()
    spoil(lab.store.path, *statements)
    with pytest.raises(StoreError, match=told):
        merge(target, lab.store.path)
    assert all(rows == [] for rows in dump(target.path).values())


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, but a text" * 50, b"SQLite format 3\0" * 300]
)
def test_a_file_that_is_no_database_is_refused(target: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(StoreError):
        merge(target, tmp_path / "file")
    with pytest.raises(StoreError, match="no database at"):
        merge(target, tmp_path / "nowhere")


def test_a_damaged_page_is_found_before_anything_is_taken(lab: Any, target: Store) -> None:
    for _ in range(12):
        fill(lab)
    lab.store.close()
    content = bytearray(lab.store.path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = b"\xff" * 3000
    lab.store.path.write_bytes(content)
    with pytest.raises(StoreError):
        merge(target, lab.store.path)
    assert dump(target.path)["run"] == []


def test_every_table_of_the_schema_is_taken(store: Store) -> None:
    tables = {row["name"] for row in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    known = {*merging.SHARED, "run", *merging.OF_RUN, "token_time", "check_run", *merging.OF_CHECK}
    assert known == tables


def test_the_verb_takes_several_files(lab: Any, another: Any, tmp_path: Path, edgebench: Any) -> None:
    mine = another("mine")
    fill(lab)
    mine.finish(mine.run(mine.artifact("q4_0", 4.5), Mode.PERFORMANCE))
    for one in (lab, mine):
        one.store.close()
    done = edgebench("db", "merge", lab.store.path, mine.store.path, "--db", tmp_path / "all.sqlite")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"{lab.store.path}: runs: 3 new",
        f"{mine.store.path}: runs: 1 new",
    ]
    broken = edgebench("db", "merge", tmp_path / "nowhere.sqlite", "--db", tmp_path / "all.sqlite")
    assert broken.returncode == 1
    assert broken.stderr.startswith("error: no database at")
