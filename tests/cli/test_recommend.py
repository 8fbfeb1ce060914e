"""`recommend` as a person and a script meet it."""

import csv
import io
import json
from typing import Any

import pytest

from edgebench.core.types import MEDICAL_NOTE

ALLOWED = ("recommend", "--allow-synthetic")


@pytest.fixture
def asked(measured, edgebench) -> Any:
    """`asked(FLAGS…)`: the answer as data."""

    def call(*flags: str, code: int = 0) -> Any:
        done = edgebench(*ALLOWED, *flags, "-o", "json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return call


def test_what_was_not_measured_is_not_recommended(measured, edgebench):
    done = edgebench("recommend")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "6 runs left out: synthetic" in done.stderr
    assert "--allow-synthetic" in done.stderr


def test_the_answer_names_file_settings_evidence_and_runner_up(measured, rows, asked):
    told = asked("--max-memory", "3GB", "--min-acc", "everyday:0.01", "--max-ttft", "1", "--prefer", "size")
    best, second = told["recommended"], told["runner_up"]
    sizes = {row["id"]: row["size_bytes"] for row in rows(measured, "SELECT id, size_bytes FROM artifact")}
    assert sizes[best["artifact_sha256"]] <= sizes[second["artifact_sha256"]]
    assert best["run_with"].startswith("--runner synthetic -t ")
    assert best["evidence"] == "synthetic"
    assert [one["verdict"] for one in best["limits"]] in (["met"] * 3, ["met", "met", "unsure"])
    cited = {figure["run_id"] for figure in best["figures"].values()} - {None}
    assert cited <= {row["id"] for row in rows(measured, "SELECT id FROM run")}
    assert best["figures"]["ttft_s"]["ci_low"] <= best["figures"]["ttft_s"]["value"]
    assert told["lost"]["verdict"] in ("separable", "equal")
    assert told["notes"] == [MEDICAL_NOTE]


@pytest.mark.parametrize("output", ["table", "md", "csv", "jsonl"])
def test_every_form_has_the_hash_the_run_and_the_note(measured, edgebench, asked, output):
    flags = ("--min-acc", "0.01")
    done = edgebench(*ALLOWED, *flags, "-o", output)
    assert done.returncode == 0, done.stderr
    best = asked(*flags)["recommended"]
    for word in (best["artifact_sha256"], best["figures"]["everyday@1"]["run_id"], MEDICAL_NOTE, "synthetic"):
        assert word in done.stdout
    if output == "csv":
        first, second = csv.DictReader(io.StringIO(done.stdout))
        assert (first["place"], second["place"]) == ("recommended", "runner_up")
        assert float(first["decode_tokens_per_s"]) >= float(second["decode_tokens_per_s"])


def test_the_nearest_miss_is_told_and_exits_1(measured, edgebench, asked):
    told = asked("--min-acc", "everyday:1", "--max-size", "1B", code=1)
    assert told["recommended"] is None
    (size, _) = told["nearest_miss"]["limits"]
    assert size["verdict"] == "missed"
    assert size["miss_share"] == told["nearest_miss"]["figures"]["size_bytes"]["value"] - 1
    done = edgebench(*ALLOWED, "--max-size", "1B")
    assert done.returncode == 1
    assert "nothing fits; the nearest on" in done.stdout
    assert "above file size ≤ 1 B" in done.stderr
    assert "Traceback" not in done.stderr


def test_limits_repeat_and_stand_in_the_configuration(measured, edgebench, asked):
    measured.with_name("edgebench.toml").write_text(
        '[recommend]\nmin-acc = ["everyday:0.02"]\nmax-ttft = "900ms"\nprefer = "prefill"\n'
    )
    told = asked()
    assert {one["metric"]: one["limit"] for one in told["limits"]} == {"everyday@1": 0.02, "ttft_s": 0.9}
    assert told["metric"] == "prefill_tokens_per_s"
    twice = edgebench(*ALLOWED, "--min-acc", "everyday:0.1", "--min-acc", "everyday@1:0.2")
    assert twice.returncode == 2
    assert "everyday@1 has two limits" in twice.stderr


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--max-memory", "3 apples"), "is not a positive quantity like 3GB"),
        (("--max-memory", "0"), "is not a positive quantity"),
        (("--max-ttft", "nan"), "is not a positive quantity like 1s"),
        (("--min-acc", "everyday:35"), "share above 0 and up to 1"),
        (("--min-acc", "everyday:nan"), "share above 0 and up to 1"),
        (("--min-acc", "evryday:0.3"), "did you mean everyday?"),
        (("--prefer", "cheapest"), "cheapest"),
        (("--scope", "package", "--prefer", "accuracy", "-m", "tooy"), "unknown model"),
    ],
)
def test_what_can_not_be_meant_is_refused(measured, edgebench, flags, why):
    done = edgebench(*ALLOWED, *flags)
    assert done.returncode == 2, done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_that_was_not_measured_gets_what_to_run(measured, edgebench):
    done = edgebench(*ALLOWED, "--device", "pixel8")
    assert done.returncode == 1
    assert "pixel8 was not measured" in done.stderr
    assert "edgebench run --device pixel8" in done.stderr
