"""A database that is given away names nobody's machine: looked for in the bytes of the file."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import StoreError, UsageError
from edgebench.core.types import DeviceProfile, Environment
from edgebench.results.anonymize import anonymize, cleaner
from edgebench.results.store import Store
from edgebench.results.summary import figures

HOME = "/" + "home/grace"
SECRETS = (
    *("grace", "hopper-laptop", "lab-board-7", "28131JEHN12345", "AA:BB:CC:11:22:33", "192.168.7.42"),
    *("ProjectX", "corp.example", "Clients", "acme", "machine-4711", "moonbase", "secret answer"),
)
"""What stands in the database below, and must not stand in its copy."""


def fill(lab: Any) -> str:
    """A run whose every free text tells something."""
    artifact = lab.artifact("q8_0", 8.5, source=f"{HOME}/models/tiny.gguf")
    lab.store.add_device(
        DeviceProfile(
            id="grace-pc",
            name="grace's PC",
            kind="computer",
            facts={
                "hostname": "hopper-laptop",
                "serial": "28131JEHN12345",
                "cores": 8,
                "mac": "AA:BB:CC:11:22:33",
            },
        )
    )
    facts = {
        "os": "Linux",
        "variables": {"OMP_NUM_THREADS": "1", "HF_HOME": "/mnt/ProjectX/hub"},
        "kernel_build": "1 SMP (grace@hopper-laptop)",
        "machine_id": "machine-4711",
        f"{HOME}/key": 1,
    }
    lab.store.add_environment(Environment(id="env-1", os="Linux", kernel="6.1 moonbase", facts=facts))
    run_id: str = lab.run(
        artifact,
        device_id="grace-pc",
        environment_id="env-1",
        config={
            "tests": ["pp512@d4096"],
            "suite": "everyday@1",
            "server": "http://corp.example:8080/v1",
            "settings": {"n_threads": 4},
            "path": "C:\\Users\\grace\\Clients\\acme.gguf",
        },
        command=f"edgebench run --device ssh:grace@lab-board-7 -m '{HOME}/My Models/a b.gguf',work/acme.gguf",
    )
    store = lab.store
    store.set_engine(run_id, {"model": f"{HOME}/x.gguf", "note": "asked adb:28131JEHN12345 at 192.168.7.42"})
    store.set_meters(run_id, {"headline": None, "meters": [], "why": "no /dev/grace/rapl for grace"})
    window = {"kind": "test", "test": "pp512", "start_s": 0.0, "end_s": 1.0, "energy_reason": "no_sensor"}
    store.add_windows(run_id, [window | {"energy_detail": "read ~/ProjectX/log of hopper-laptop"}])
    store.add_readings(run_id, "power:hopper-laptop", "W", [(0.0, 1.0)])
    lab.trial(run_id, prefill_s=0.5, test="pp512@d4096", n_depth=4096)
    lab.finish(run_id)
    suite = lab.asked("exam", n=4)
    answered = lab.answered(artifact, suite, lambda question, _: 0)
    with store.transaction() as connection:
        connection.execute("UPDATE answer SET output_text = 'secret answer' WHERE run_id = ?", (answered,))
    return run_id


def test_no_secret_is_left_in_the_bytes(lab: Any, tmp_path: Path) -> None:
    fill(lab)
    source, out = lab.store.path, tmp_path / "public.sqlite"
    lab.store.close()
    there = source.read_bytes().lower()
    assert [word for word in SECRETS if word.lower().encode() not in there] == []
    assert anonymize(source, out, ["moonbase"]) > 10
    left = out.read_bytes().lower()
    assert [word for word in SECRETS if word.lower().encode() in left] == []
    assert b"/home/" not in left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edgebench.sqlite", "public.sqlite"]


def test_figures_and_settings_stay(lab: Any, tmp_path: Path) -> None:
    run_id, out = fill(lab), tmp_path / "public.sqlite"
    anonymize(lab.store.path, out)
    with Store.open(out) as copy:
        assert figures(copy, run_id) == figures(lab.store, run_id)
        run = copy.run(run_id)
        assert run.config["tests"] == ["pp512@d4096"]
        assert run.config["suite"] == "everyday@1"
        assert run.settings == {"n_threads": 4}
        assert (run.command or "").startswith("edgebench run --device (removed) -m ")
        assert run.artifact_id == lab.store.run(run_id).artifact_id
        assert copy.rows("PRAGMA foreign_key_check") == []
        assert copy.rows("SELECT name FROM device WHERE id = ?", (run.device_id,))


def test_the_source_is_not_touched(lab: Any, tmp_path: Path) -> None:
    fill(lab)
    source = lab.store.path
    lab.store.close()
    before = source.read_bytes()
    anonymize(source, tmp_path / "public.sqlite")
    assert source.read_bytes() == before


def test_keys_that_are_not_public_and_their_grades_stay_behind(lab: Any, tmp_path: Path) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    suite = lab.asked("secret", n=8, key_sha256="a" * 64)
    run_id = lab.answered(artifact, suite, lambda question, _: question.answer_index)
    public = lab.accuracy(artifact, [0, 1, 0, 2])
    out = tmp_path / "public.sqlite"
    anonymize(lab.store.path, out)
    with Store.open(out) as copy:
        graded = "SELECT count(correct) AS n, count(choice_index) AS choices FROM answer WHERE run_id = ?"
        assert copy.rows(graded, (run_id,))[0] == {"n": 0, "choices": 8}
        keyed = "SELECT count(answer_index) AS n FROM question WHERE suite_id = ?"
        assert copy.rows(keyed, (suite.id,))[0]["n"] == 0
        assert not {row["metric"] for row in figures(copy, run_id)} & {"acc", "acc_stderr"}
        assert copy.rows(graded, (public,))[0]["n"] == 4


def test_tables_and_columns_of_others_are_left_behind(lab: Any, tmp_path: Path) -> None:
    fill(lab)
    source = lab.store.path
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE TABLE diary (words TEXT)")
        connection.execute("INSERT INTO diary VALUES ('dear grace')")
        connection.execute("ALTER TABLE run ADD COLUMN mine TEXT DEFAULT 'hopper-laptop'")
        connection.commit()
    out = tmp_path / "public.sqlite"
    anonymize(source, out)
    assert b"diary" not in out.read_bytes()
    assert b"hopper-laptop" not in out.read_bytes()


def test_nothing_is_replaced_and_nothing_left_of_a_failure(lab: Any, tmp_path: Path) -> None:
    fill(lab)
    with pytest.raises(UsageError, match="is there already"):
        anonymize(lab.store.path, lab.store.path)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    for source in (broken, tmp_path / "none.sqlite"):
        with pytest.raises(StoreError):
            anonymize(source, tmp_path / "public.sqlite")
    assert sorted(p.name for p in tmp_path.iterdir() if "wal" not in p.name and "shm" not in p.name) == [
        "broken.sqlite",
        "edgebench.sqlite",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "pp512+tg128@d4096 at 12.5 tokens/s",
        "edgebench run -m smollm2-135m --quant q8_0,q4_k_m -p 512 -n 128",
        "everyday@1 medqa@2+1a2b3c4d mmlu@lm-eval-1",
        "org/Tiny-1B, org/Tiny-1B:q8_0",
        "CUDA 12.4.131, driver 550.54.15, glibc 2.36, n/a, I/O, 1/2",
        "2026-01-02T03:04:05Z",
        "always [madvise] never",
        "3f2a9c014bd7" * 5,
    ],
)
def test_what_names_nobody_is_left_as_it_is(text: str) -> None:
    assert cleaner(set())(text) == text


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("--db=/srv/data/x.sqlite", "srv"),
        ("-m=~/models/x.gguf,/opt/own/y.gguf", "own"),
        ("opened ../work/notes/x.bin now", "notes"),
        ("work/project/x.gguf", "project"),
        ("\\\\server\\share\\x.gguf", "server"),
        ("D:/own/x.gguf", "own"),
        ("mail ada@lab.example.org", "ada"),
        ("scp ada@board:/data/x .", "board"),
        ("https://ada:pass@lab.example/x?y=1", "lab"),
        ("at fe80:0:0:0:1:2:3:4", "fe80"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "123e4567"),
        ("file '/data/my own/x y.gguf'", "own"),
    ],
)
def test_what_leads_to_a_machine_goes(text: str, gone: str) -> None:
    assert gone not in cleaner(set())(text)


def test_names_go_where_they_stand_alone() -> None:
    clean: Callable[[str], str] = cleaner({"ada"})
    assert clean("ada's, Ada_1, adaptive") == "(removed)'s, (removed)_1, adaptive"


@pytest.mark.parametrize(
    "cell",
    [
        '{"a":NaN,"b":"ada@lab"}',
        '{"a":"ada@lab \\ud800"}',
        '{"a":' * 600 + '"ada@lab"' + "}" * 600,
        "[" * 20_000 + "ada@lab",
        '{"a": "ada@lab"',
        '{"path": "x y/ada@lab"}',
        '{"kept": "~/My Own (new)/ada@lab.gguf"}',
    ],
    ids=["nan", "surrogate", "deep", "deeper", "cut", "key", "whole path"],
)
def test_strange_texts_are_cleaned_too(lab: Any, tmp_path: Path, cell: str) -> None:
    run_id, out = fill(lab), tmp_path / "public.sqlite"
    with lab.store.transaction() as connection:
        connection.execute("UPDATE run SET engine_json = ? WHERE id = ?", (cell, run_id))
    anonymize(lab.store.path, out)
    with Store.open(out) as copy:
        left = copy.rows("SELECT engine_json AS cell FROM run WHERE id = ?", (run_id,))[0]["cell"]
    assert "ada" not in left
    assert "Own" not in left
