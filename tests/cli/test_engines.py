"""`compare --by engine`: parity first, costs after it, and no verdict where parity was not shown."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

SAME = (
    "UPDATE artifact SET quant = 'f32', manifest_json = json_set(manifest_json, '$.parent_sha256', 'origin')"
)
"""Both files as if made of one checkpoint."""
RENAME = "UPDATE run SET runner = ? WHERE artifact_id = (SELECT id FROM artifact WHERE quant = ?)"
COPY = """
  UPDATE answer SET (choice_index, correct, logprobs_json, n_prompt) = (
    SELECT other.choice_index, other.correct, other.logprobs_json, other.n_prompt
    FROM answer other JOIN run ON run.id = other.run_id JOIN run own ON own.id = answer.run_id
    WHERE run.runner = 'torch' AND run.config_sha256 = own.config_sha256
      AND other.question_id = answer.question_id AND other.repeat = answer.repeat)
  WHERE run_id IN (SELECT id FROM run WHERE runner = 'llama_cpp')"""
"""The other engine gives the very same answers."""


def change(database: Path, *statements: tuple[str, tuple[str, ...]]) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for sql, values in statements:
            connection.execute(sql, values)


@pytest.fixture
def apart(measured: Path) -> Path:
    """Two engines on weights that are said to be the same; their answers are not."""
    names = [(RENAME, ("torch", "q8_0")), (RENAME, ("llama_cpp", "q4_0"))]
    change(measured, *names, (SAME, ()))
    return measured


@pytest.fixture
def agreeing(apart: Path) -> Path:
    change(apart, (COPY, ()))
    return apart


def engines(edgebench: Any, *more: str) -> dict[str, dict[str, Any]]:
    done = edgebench("compare", "--by", "engine", *more, "-o", "json")
    assert done.returncode == 0, done.stderr
    return {row["engine"]: row for row in json.loads(done.stdout)}


def test_no_verdict_on_speed_without_parity(apart, edgebench):
    found = engines(edgebench)
    assert list(found) == ["torch", "llama_cpp"]  # the base first
    assert found["torch"]["parity"] is None
    other = found["llama_cpp"]
    assert other["parity"]["gate"] == "FAIL"
    assert len(other["parity"]["disagreements"]) > 1
    assert other["parity"]["agree"]["n"] == 24
    assert other["flips"]["n_changed"] == len(other["parity"]["disagreements"])
    assert {ratio["metric"] for ratio in other["ratios"]} >= {"prefill_tokens_per_s", "peak_rss_bytes"}
    assert {ratio["verdict"] for ratio in other["ratios"]} == {"parity not shown"}
    assert all(row["noise_floor"] for row in found.values())

    shown = edgebench("compare", "--by", "engine")
    assert shown.returncode == 0, shown.stderr
    parity, _, costs = shown.stdout.partition("speed, memory, energy")
    assert "FAIL" in parity
    assert "agree (limit 99 %)" in " ".join(parity.split())
    assert "t/s" not in parity
    assert "parity not shown" in costs
    assert "not separable" not in costs
    assert "×" not in costs
    assert "warning" not in shown.stderr


def test_who_gives_the_same_answers_is_compared_in_costs(agreeing, edgebench):
    other = engines(edgebench)["llama_cpp"]
    assert other["parity"]["gate"] == "PASS"
    assert other["parity"]["largest_nats"] == 0
    assert other["parity"]["disagreements"] == []
    assert {ratio["verdict"] for ratio in other["ratios"]} <= {"better", "worse", "not separable"}
    costs = edgebench("compare", "--by", "engine").stdout.partition("speed, memory, energy")[2]
    assert "×" in costs
    assert "parity not shown" not in costs


def test_the_base_can_be_another_engine_or_one_of_its_runs(agreeing, edgebench):
    found = engines(edgebench, "--base", "llama_cpp")
    assert found["llama_cpp"]["base"]
    run = found["torch"]["runs"]["accuracy"]
    assert engines(edgebench, "--base", run)["torch"]["base"]
    done = edgebench("compare", "--by", "engine", "--base", "lama_cpp")
    assert done.returncode == 2
    assert "did you mean llama_cpp?" in done.stderr


@pytest.mark.parametrize("output", ["md", "csv", "jsonl"])
def test_the_tables_are_printed_in_every_form(agreeing, edgebench, output):
    done = edgebench("compare", "--by", "engine", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout
    if output == "md":
        assert done.stdout.count("| engine | level | parity |") == 2
    assert "parity: PASS where" in done.stderr


def test_settings_that_make_costs_unequal_are_named(agreeing, edgebench):
    told = "UPDATE run SET config_json = json_set(config_json, '$.settings.n_threads', 64) WHERE runner = ?"
    change(agreeing, (told, ("torch",)))
    done = edgebench("compare", "--by", "engine")
    assert "warning: costs were measured under different conditions: n_threads" in done.stderr
    assert "-t 64" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ((), 2, "no two engines ran the same weights of toy"),
        (("--margin", "0.01"), 2, "--margin"),
        (("-m", "another"), 2, "unknown model"),
    ],
)
def test_what_can_not_be_compared_is_told_in_a_line(measured, edgebench, more, code, said):
    done = edgebench("compare", "--by", "engine", *more)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
