"""`import`, `export` and `db anonymize` as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Edgebench = Callable[..., Any]


@pytest.fixture
def edgebench(edgebench_in: Callable[[Path], Edgebench], tmp_path: Path) -> Edgebench:
    return edgebench_in(tmp_path)


@pytest.mark.usefixtures("measured")
def test_out_and_in_again(edgebench: Edgebench, tmp_path: Path) -> None:
    refused = edgebench("export", "--format", "llama-bench", "--out", "bench.jsonl")
    assert refused.returncode == 2
    assert "not measured here but synthetic" in refused.stderr
    flags = ("--allow-synthetic",)
    assert edgebench("export", "--format", "llama-bench", "--out", "bench.jsonl", *flags).returncode == 0
    assert edgebench("export", "--format", "lm-eval", "--out", "lm", *flags).returncode == 0
    files = ["bench.jsonl", *(f"lm/{path.name}" for path in sorted((tmp_path / "lm").iterdir()))]
    done = edgebench("import", *files, "--db", "in.sqlite", "-o", "json")
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert [run["tool"] for run in runs] == ["llama-bench"] * 2 + ["lm-eval"] * 2
    assert {run["evidence"] for run in runs} == {"replayed"}
    again = edgebench("import", *files, "--db", "in.sqlite", "-o", "json")
    assert json.loads(again.stdout) == []
    assert "known already" in again.stderr

    shown = json.loads(edgebench("runs", "show", runs[-1]["id"], "--db", "in.sqlite", "-o", "json").stdout)
    assert shown["headline"]["metric"] == "acc"
    assert any("not a medical device" in note for note in shown["notes"])
    before = shown["figures"]
    assert edgebench("db", "rebuild", "--db", "in.sqlite").returncode == 0
    shown = json.loads(edgebench("runs", "show", runs[-1]["id"], "--db", "in.sqlite", "-o", "json").stdout)
    assert shown["figures"] == before
    assert edgebench("reproduce", runs[0]["id"], "--db", "in.sqlite").returncode == 0


@pytest.mark.usefixtures("measured")
def test_tables_are_written_once(edgebench: Edgebench, tmp_path: Path) -> None:
    ask = ("export", "--format", "csv", "--out", "figures.csv")
    done = edgebench(*ask)
    assert done.returncode == 0, done.stderr
    assert "not a medical device" in done.stderr
    assert (tmp_path / "figures.csv").read_text().startswith("run_id,")
    assert edgebench(*ask).returncode == 2
    assert edgebench(*ask, "--force").returncode == 0
    assert edgebench("export", "--format", "csv", "--out", "edgebench.sqlite", "--force").returncode == 2


def test_a_hostile_file_is_one_line(edgebench: Edgebench, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"n_prompt": 512, "n_gen": 0, "avg_ts": NaN}]')
    done = edgebench("import", "bad.json")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: bad.json can't be imported: it is not whole JSON (NaN is no number)"
    )
    assert "Traceback" not in done.stderr
    assert json.loads(edgebench("runs", "list", "-o", "json").stdout) == []


def test_a_database_is_given_away(edgebench: Edgebench, measured: Path, tmp_path: Path) -> None:
    done = edgebench("db", "anonymize", measured.name, "--out", "public.sqlite", "--also", "xeon")
    assert done.returncode == 0, done.stderr
    assert b"xeon" not in (tmp_path / "public.sqlite").read_bytes().lower()
    runs = json.loads(edgebench("runs", "list", "--db", "public.sqlite", "-o", "json").stdout)
    assert len(runs) == 6
    assert edgebench("compare", "--by", "quant", "--db", "public.sqlite").returncode == 0
    assert edgebench("db", "anonymize", measured.name, "--out", "public.sqlite").returncode == 2
