"""`compare --by device`: whether a phone answers as the computer does, and the line that rests on it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgebench.results.store import Store
from edgebench.results.summary import rebuild

SAME_FILE = (
    "UPDATE artifact SET quant = 'f32', manifest_json = json_set(manifest_json, '$.parent_sha256', 'origin')"
)
"""Both levels as if they were one file's weights."""
MEASURED = "UPDATE run SET evidence = 'measured'"
"""Figures as if they were a real engine's."""
PHONE = (
    "INSERT INTO device SELECT 'pixel8-a1b2c3', 'Google Pixel 8', 'phone', soc, memory_bytes, profile_sha256,"
    " profile_json FROM device"
)
CARRIED = (
    "UPDATE run SET device_id = 'pixel8-a1b2c3' WHERE artifact_id ="
    " (SELECT id FROM artifact WHERE quant = 'q4_0')"
)
"""The other level's runs as if they had been made on a phone."""
COPIED = """
  UPDATE answer SET (choice_index, correct, logprobs_json, n_prompt) = (
    SELECT other.choice_index, other.correct, other.logprobs_json, other.n_prompt
    FROM answer other JOIN run ON run.id = other.run_id JOIN run own ON own.id = answer.run_id
    WHERE run.device_id <> 'pixel8-a1b2c3' AND run.config_sha256 = own.config_sha256
      AND other.question_id = answer.question_id AND other.repeat = answer.repeat)
  WHERE run_id IN (SELECT id FROM run WHERE device_id = 'pixel8-a1b2c3')"""
"""The phone gives the computer's very answers."""
SAMPLE = """
  DELETE FROM answer WHERE run_id IN (SELECT id FROM run WHERE device_id = 'pixel8-a1b2c3')
    AND question_id NOT IN (SELECT DISTINCT question_id FROM answer ORDER BY question_id LIMIT 12)"""


def change(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for sql in statements:
            connection.execute(sql)


def sampled(database: Path) -> Path:
    """The phone was asked some of the questions only."""
    change(database, SAMPLE)
    with Store.open(database) as store:
        rebuild(store)
    return database


@pytest.fixture
def apart(measured: Path) -> Path:
    """A computer and a phone with the same file; the phone was asked less, and answers otherwise."""
    change(measured, PHONE, CARRIED, SAME_FILE, MEASURED)
    return sampled(measured)


@pytest.fixture
def agreeing(apart: Path) -> Path:
    """The phone answers as the computer does."""
    change(apart, COPIED)
    return sampled(apart)


def devices(edgebench: Callable[..., Any], *more: str) -> list[dict[str, Any]]:
    done = edgebench("compare", "--by", "device", *more, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_a_sample_that_agrees_lets_the_computers_accuracy_stand_for_the_phone(
    agreeing: Path, edgebench: Callable[..., Any]
) -> None:
    computer, phone = devices(edgebench)
    assert (computer["base"], computer["parity"]) == (True, None)
    assert phone["device"] == "pixel8-a1b2c3"
    assert phone["parity"]["gate"] == "PASS"
    assert phone["parity"]["agree"]["n"] == 12
    assert phone["ratios"]
    done = edgebench("compare", "--by", "device")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "pixel8-a1b2c3" in line]
    assert f"acc {computer['acc']['value']:.3f} of 24 questions on {computer['device']} holds for" in line
    assert line.endswith("12 of 12 answers agree")
    tables = squeezed(done.stdout)
    assert f"on {computer['device']}" in tables  # whom the gate is held against
    assert "PASS" in tables
    assert "parity not shown" not in tables


def test_a_phone_that_answers_otherwise_has_neither_the_accuracy_nor_a_verdict(
    apart: Path, edgebench: Callable[..., Any]
) -> None:
    _, phone = devices(edgebench)
    assert phone["parity"]["gate"] == "FAIL"
    assert {ratio["verdict"] for ratio in phone["ratios"]} == {"parity not shown"}
    done = edgebench("compare", "--by", "device")
    assert done.returncode == 0, done.stderr
    assert "does not hold for pixel8-a1b2c3" in done.stderr
    assert "holds for" not in done.stderr


def test_a_stand_ins_answers_show_nothing_of_any_device(
    agreeing: Path, edgebench: Callable[..., Any]
) -> None:
    change(agreeing, "UPDATE run SET evidence = 'synthetic' WHERE device_id = 'pixel8-a1b2c3'")
    done = edgebench("compare", "--by", "device")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "pixel8-a1b2c3" in line]
    assert line.startswith("pixel8-a1b2c3: 12 of 12 answers agree")
    assert line.endswith("no device's, so it shows nothing")


@pytest.mark.parametrize("output", ["md", "csv", "jsonl"])
def test_the_device_stands_in_every_form(agreeing: Path, edgebench: Callable[..., Any], output: str) -> None:
    done = edgebench("compare", "--by", "device", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "pixel8-a1b2c3" in done.stdout
    assert "holds for pixel8-a1b2c3" in done.stderr
    if output == "md":
        assert done.stdout.count("| device | engine | level |") == 2


def test_the_base_is_named_by_its_id_or_as_this_computer(
    agreeing: Path, edgebench: Callable[..., Any]
) -> None:
    assert devices(edgebench, "--base", "pixel8")[0]["device"] == "pixel8-a1b2c3"
    (mine, *_) = devices(edgebench, "--base", "local")
    assert mine["device"] != "pixel8-a1b2c3"
    done = edgebench("compare", "--by", "device", "--base", "pixel9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown device in this database 'pixel9'" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "no two devices ran the same file"),
        (("--margin", "0.01"), "--margin"),
        (("--device", "pixel8"), "--by device compares devices"),
        (("-m", "another"), "unknown model"),
    ],
)
def test_what_can_not_be_compared_is_told_in_a_line(
    measured: Path, edgebench: Callable[..., Any], more: tuple[str, ...], said: str
) -> None:
    done = edgebench("compare", "--by", "device", *more)
    assert (done.returncode, done.stdout) == (2, "")
    first, *hints = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert all(line.startswith("hint: ") for line in hints)
