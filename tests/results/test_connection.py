"""Opening a database: fresh, newer, foreign, locked, read-only, full."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import StoreError
from edgebench.results import schema
from edgebench.results.store import Store


def test_a_fresh_database_has_every_table_and_the_newest_schema(store: Store) -> None:
    names = {
        row["name"] for row in store.rows("SELECT name FROM sqlite_master WHERE type IN ('table','view')")
    }
    assert names == {
        *("model", "artifact", "device", "environment", "suite", "question", "run", "trial"),
        *("token_time", "reading", "answer", "summary", "paired_answer"),
        *("check_run", "check_token", "check_greedy", "check_answer"),
        *("energy_window", "device_limit", "prediction"),
    }
    assert store.rows("PRAGMA user_version") == [{"user_version": len(schema.MIGRATIONS)}]
    assert store.rows("PRAGMA journal_mode") == [{"journal_mode": "wal"}]
    assert store.rows("PRAGMA foreign_keys") == [{"foreign_keys": 1}]


def test_every_table_is_strict(store: Store) -> None:
    assert store.rows(
        "SELECT name FROM pragma_table_list WHERE type = 'table' AND NOT strict AND schema = 'main'"
    ) == [{"name": "sqlite_schema"}]


def test_a_failing_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "db"
    Store.open(path).close()
    broken = ("CREATE TABLE half (x) STRICT", "SELECT * FROM no_such_table")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(StoreError):
        Store.open(path)
    monkeypatch.undo()
    with Store.open(path) as store:
        assert store.rows("SELECT name FROM sqlite_master WHERE name = 'half'") == []


def test_an_older_database_is_migrated_when_it_is_opened_to_write(
    tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("ALTER TABLE run ADD COLUMN note TEXT",)))
    with pytest.raises(StoreError, match="older schema"):
        Store.open_readonly(lab.store.path)
    with Store.open(lab.store.path) as store:
        assert store.rows("SELECT id FROM artifact") == [{"id": artifact}]
        assert store.rows("SELECT note FROM run") == []


def test_a_newer_database_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    for opening in (Store.open, Store.open_readonly):
        with pytest.raises(StoreError, match=r"schema 99") as caught:
            opening(path)
        assert "upgrade edgebench" in str(caught.value.hint)


def test_someone_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmark (url)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not one of edgebench's"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_missing_database_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    for opening in (lambda: Store.open(path, create=False), lambda: Store.open_readonly(path)):
        with pytest.raises(StoreError, match=r"no database at .*none\.sqlite") as caught:
            opening()
        assert "edgebench run" in str(caught.value.hint)
    assert not path.exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and rather long ones\n" * 50)
    for opening in (Store.open, Store.open_readonly):
        with pytest.raises(StoreError, match=r"notes\.txt is not an SQLite database"):
            opening(path)


def test_a_folder_is_no_database_and_a_missing_folder_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent" / "db"):
        with pytest.raises(StoreError, match="can't be opened"):
            Store.open(path)


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=ro#b %20 é.sqlite"
    Store.open(path).close()
    assert path.exists()
    Store.open_readonly(path).close()


def test_a_lock_held_by_another_is_told(lab: Any) -> None:
    with closing(sqlite3.connect(lab.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked by another process"):
            lab.device()
        assert lab.store.runs() == []  # reading goes on


def test_a_full_disk_is_told_and_what_was_stored_stays(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.store.rows("PRAGMA max_page_count = 1")  # SQLite takes the present size as the least
    with pytest.raises(StoreError, match="disk is full"):
        lab.store.add_readings(run_id, "rss", "bytes", [(float(i), 1.0) for i in range(50_000)])
    assert lab.store.rows("SELECT count(*) AS n FROM reading") == [{"n": 0}]
    assert lab.store.run("latest").id == run_id


def test_a_reading_store_refuses_to_write(tmp_path: Path, lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    with Store.open_readonly(lab.store.path) as reading, pytest.raises(StoreError, match="is read-only"):
        reading.delete_run(run_id)


def test_a_bad_query_does_not_leak_sqlites_error(store: Store) -> None:
    with pytest.raises(StoreError, match="no such table"):
        store.rows("SELECT * FROM absent")


def test_a_read_only_file_in_a_read_only_folder_can_be_read_but_not_written(closed_folder: Path) -> None:
    Store.open(closed_folder / "db").close()
    with _unprivileged(closed_folder):
        with Store.open_readonly(closed_folder / "db") as store:
            assert store.runs() == []
        for path in (closed_folder / "db", closed_folder / "new"):
            with pytest.raises(StoreError, match=r"can't be opened|is read-only"):
                Store.open(path)


def test_writes_that_wait_in_a_log_nobody_can_read_are_told(closed_folder: Path, lab: Any) -> None:
    lab.device()  # still in the log: the store is open
    for suffix in ("", "-wal"):
        shutil.copy(f"{lab.store.path}{suffix}", closed_folder / f"copy{suffix}")
    with _unprivileged(closed_folder), pytest.raises(StoreError, match="writes waiting in copy-wal"):
        Store.open_readonly(closed_folder / "copy")


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder other users can reach: pytest's own can't be."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def _unprivileged(folder: Path) -> Iterator[None]:
    """Close a folder, and become an ordinary user: chmod binds nobody who is root."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
