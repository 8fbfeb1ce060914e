"""A run all of whose pieces are stored gets closed, whatever stopped it last time; none is lost beside it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.types import Artifact, Format, QuantSpec, Settings, Workload
from edgebench.runners.synthetic import SyntheticSession
from edgebench.session import _check_fit
from edgebench.session_accuracy import score_groups
from edgebench.session_models import make_level

QUICK = ("-p", "8", "-n", "4", "--chat", "4", "-r", "2")


def _change(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for sql in statements:
            connection.execute(sql)


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_killed_before_it_was_closed_is_closed_by_the_same_command(
    toy: Any, edgebench: Any, rows: Any, tmp_path: Path, status: str
) -> None:
    database = tmp_path / "edgebench.sqlite"
    command = ("run", "-m", toy(), *QUICK, "--limit", "16", "-o", "json")
    first = edgebench(*command)
    _change(database, f"UPDATE run SET status = '{status}'", "DELETE FROM summary")
    n_before = rows(database, "SELECT count(*) AS n FROM trial")[0]["n"]
    again = edgebench(*command)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert {row["status"] for row in rows(database, "SELECT status FROM run")} == {"complete"}
    assert rows(database, "SELECT count(*) AS n FROM trial")[0]["n"] == n_before


def test_a_number_given_twice_is_one_test(toy: Any, edgebench: Any, rows: Any, tmp_path: Path) -> None:
    done = edgebench("run", "-m", toy(), "-p", "8,8,4-8*2", "-n", "4", "-d", "0,0", "--chat", "0", "-r", "1")
    assert done.returncode == 0, done.stderr
    tests = rows(tmp_path / "edgebench.sqlite", "SELECT DISTINCT test FROM trial ORDER BY 1")
    assert [row["test"] for row in tests] == ["pp4", "pp8", "tg4"]


def test_one_absent_model_does_not_stop_the_others(toy: Any, edgebench: Any) -> None:
    good = toy()
    done = edgebench("run", "-m", f"nope-q8_0.synthetic.json,{good}", *QUICK, "-o", "json")
    assert done.returncode == 1
    assert [row["model"] for row in json.loads(done.stdout)] == ["toy"]
    assert "no model file at nope" in done.stderr


def test_a_suite_whose_questions_changed_needs_another_version(
    toy: Any, edgebench: Any, tmp_path: Path
) -> None:
    suite = tmp_path / "mine.toml"
    import hashlib

    for n in (3, 5):
        lines = "".join(
            json.dumps({"q": f"What is {i}?", "o": ["one", "two"], "a": 0}) + "\n" for i in range(n)
        )
        (tmp_path / "mine.jsonl").write_text(lines)
        pin = hashlib.sha256(lines.encode()).hexdigest()
        suite.write_text(
            'name = "mine"\nversion = "1"\n[data]\nformat = "jsonl"\n'
            'fields = { question = "q", choices = "o", answer = "a" }\n'
            f'[[data.files]]\npath = "mine.jsonl"\nsha256 = "{pin}"\n'
            '[prompt.cloze]\ncontext = "{question}"\n'
        )
        done = edgebench("run", "-m", toy(), "--suite", suite, "--mode", "accuracy")
        if n == 3:
            assert done.returncode == 0, done.stderr
            assert "mine@1" in done.stdout
    assert done.returncode == 2
    assert "mine@1 stands in" in done.stderr
    assert "raise its version" in done.stderr


def test_what_does_not_fit_is_refused_before_it_is_loaded() -> None:
    artifact = Artifact(
        sha256="0" * 64,
        path=Path("x.gguf"),
        model="x",
        quant=QuantSpec(name="f16", format=Format.GGUF),
        size_bytes=2**30,
        kv_bytes_per_token=2**20,
    )

    def plan(memory_bytes: int | None, n_depth: int) -> Any:
        job = SimpleNamespace(workloads=(Workload(n_prompt=512, n_depth=n_depth),))
        device = SimpleNamespace(name="tiny", memory_bytes=memory_bytes)
        return SimpleNamespace(jobs=(job,), device=device, settings=Settings(n_threads=1))

    _check_fit(artifact, plan(2 * 2**30, 0))
    _check_fit(artifact, plan(None, 10**9))
    with pytest.raises(ModelError, match="tiny can't hold it"):
        _check_fit(artifact, plan(2 * 2**30, 4096))


def test_blanks_at_the_end_of_a_context_belong_to_the_continuation() -> None:
    prompt = {"id": "q", "context": "Answer: ", "continuations": ["yes", "no"], "rotation": 0, "n_shots": 0}
    job: dict[str, Any] = {"groups": [[prompt]], "wanted": [0], "shape": "grouped", "n_cells": 64}
    seen: list[Any] = []

    class Listening(SyntheticSession):
        def loglikelihoods(self, group: Any, **how: Any) -> Any:
            seen.extend((list(context), [list(c) for c in continuations]) for context, continuations in group)
            return super().loglikelihoods(group, **how)

    list(score_groups(Listening({}), job))
    assert seen == [(list(b"Answer:"), [list(b" yes"), list(b" no")])]
    prompt |= {"continuations": ["yes", ""], "context": "Answer:"}
    with pytest.raises(ModelError, match="adds no token"):
        list(score_groups(Listening({}), job))


def test_an_answer_longer_than_the_context_is_refused() -> None:
    prompt = {"id": "q", "context": "Answer:", "continuations": [], "rotation": 0, "n_shots": 0}
    job = {"groups": [[prompt]], "wanted": [0], "shape": "grouped", "n_cells": 64, "n_gen": 8192}
    with pytest.raises(ModelError, match="question q: its answer alone fills"):
        list(score_groups(SyntheticSession({}), job))


def test_what_a_killed_quantizer_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Callable[..., Path]
) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    parent = Artifact(
        sha256="1" * 64,
        path=tmp_path / "absent.gguf",
        model="x",
        quant=QuantSpec(name="q8_0", format=Format.GGUF),
        size_bytes=1,
    )
    folder = tmp_path / "cache" / "artifacts" / ("1" * 16)
    folder.mkdir(parents=True)
    (folder / ".part-0a1b2c3d-x-q4_0.gguf").write_bytes(b"half")
    (folder / ".part-0a1b2c3d-x-q5_0.gguf").write_bytes(b"another's")
    with pytest.raises((ModelError, UsageError)):
        make_level(parent, "q4_0", n_threads=1, progress=lambda _: None)
    assert [path.name for path in folder.iterdir()] == [".part-0a1b2c3d-x-q5_0.gguf"]


def test_a_sweep_plan_can_not_set_what_belongs_to_the_sweep(toy: Any, edgebench: Any, tmp_path: Path) -> None:
    for line in ('db = "elsewhere.sqlite"', "dry-run = true", 'output = "json"'):
        (tmp_path / "plan.toml").write_text(f'model = "{toy().name}"\n{line}\n')
        done = edgebench("sweep", "plan.toml")
        assert done.returncode == 2
        assert f"run has no option {line.split()[0]}" in done.stderr
    assert not (tmp_path / "edgebench.sqlite").exists()
