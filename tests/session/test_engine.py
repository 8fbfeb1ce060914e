"""The real engine and the embedded model, from a name to a table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# One thread: on shared cores an engine's threads wait for each other at every token.
MODEL = ("-m", "smollm2-135m", "--quant", "q8_0,q4_0", "-t", "1")
COMMAND = ("run", *MODEL, "-p", "32", "-n", "8", "--chat", "4", "-r", "2")
SAMPLE = ("--limit", "16", "--noise-floor", "-o", "json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    done = edgebench_in(folder)(*COMMAND, *SAMPLE, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder / "levels.json").write_text(done.stdout)
    return folder


@pytest.fixture
def levels(folder: Path) -> dict[str, Any]:
    return {row["level"]: row for row in json.loads((folder / "levels.json").read_text())}


@pytest.fixture
def database(folder: Path) -> Path:
    return folder / "edgebench.sqlite"


def test_levels_made_of_a_quantized_file_say_so(levels):
    assert set(levels) == {"q8_0 (from q4_1)", "q4_0 (from q4_1)"}


def test_the_files_are_what_their_names_say(levels, database, rows):
    assert 8 < levels["q8_0 (from q4_1)"]["bits_per_weight"] < 9
    assert 4 < levels["q4_0 (from q4_1)"]["bits_per_weight"] < 6
    for artifact in rows(database, "SELECT * FROM artifact WHERE id IN (SELECT artifact_id FROM run)"):
        manifest = json.loads(artifact["manifest_json"])
        assert sum(manifest["tensor_types"].values()) > 100
        assert manifest["tensor_types"][artifact["quant"].upper()] > 100
        assert artifact["parent_quant"] == "q4_1"
        assert artifact["parent_id"]


def test_everyday_knowledge_is_well_above_chance(levels):
    for row in levels.values():
        assert (row["suite"], row["scorer"]) == ("everyday@1", "cloze")
        assert row["acc"]["value"] > 0.5
        assert row["acc"]["n"] >= 16


def test_times_and_rates_are_a_computers(levels):
    for row in levels.values():
        assert row["evidence"] == "measured"
        assert 1 < row["decode_tokens_per_s"]["value"] < 5000
        assert row["decode_tokens_per_s"]["value"] < row["prefill_tokens_per_s"]["value"] < 100_000
        assert 0 < row["tpot_s"]["value"] < row["ttft_s"]["value"] < 10


def test_peak_memory_is_that_of_the_model_and_a_little_more(levels):
    for row in levels.values():
        assert row["size_bytes"] / 2 < row["peak_rss_bytes"]["value"] < 2 * 2**30


def test_weights_are_mapped_or_allocated_as_asked(folder, edgebench_in, rows, tmp_path):
    """q8_0 is used as it lies in the file: without mmap it is memory of the process's own."""
    command = ("run", "-m", "smollm2-135m", "--quant", "q8_0", "-t", "1", "--mode", "performance")
    quick = ("-p", "16", "-n", "0", "--chat", "0", "-r", "1", "--rounds", "1")
    own = edgebench_in(tmp_path)(*command, *quick, "--no-mmap", timeout=300)
    assert own.returncode == 0, own.stderr
    sql = (
        "SELECT max(peak_rss_anon_bytes) AS anon, max(peak_rss_file_bytes) AS file, size_bytes AS size"
        " FROM trial JOIN run ON run.id = run_id JOIN artifact ON artifact.id = artifact_id"
        " WHERE quant = 'q8_0'"
    )
    (mapped,) = rows(folder / "edgebench.sqlite", sql)
    (read,) = rows(tmp_path / "edgebench.sqlite", sql)
    assert mapped["file"] > 0.9 * mapped["size"]
    assert read["anon"] - mapped["anon"] > 0.8 * mapped["size"]
    assert mapped["file"] - read["file"] > 0.8 * mapped["size"]


def test_the_cache_takes_what_the_files_metadata_say(database, rows):
    found = rows(database, "SELECT kv_cache_bytes AS seen, kv_cache_predicted_bytes AS said FROM trial")
    assert found
    assert all(row["seen"] == pytest.approx(row["said"], rel=0.01) for row in found)


def test_what_was_predicted_stands_beside_what_was_measured(folder, edgebench_in):
    shown = json.loads(edgebench_in(folder)("runs", "show", "latest", "-o", "json").stdout)
    if shown["mode"] == "accuracy":
        speeds = json.loads(edgebench_in(folder)("runs", "list", "-o", "json").stdout)
        run = next(run["id"] for run in speeds if run["mode"] == "performance")
        shown = json.loads(edgebench_in(folder)("runs", "show", run, "-o", "json").stdout)
    peak = next(p for p in shown["predictions"] if p["metric"] == "peak_rss_bytes")
    measured = next(f for f in shown["figures"] if (f["test"], f["metric"]) == ("*", "peak_rss_bytes"))
    assert peak["value"] == pytest.approx(measured["value"], rel=0.1)


def test_a_fit_needs_no_run(folder, edgebench_in):
    done = edgebench_in(folder)(
        "devices", "fit", "smollm2-135m", "-t", "1", "-p", "32", "-n", "8", "-o", "json"
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["fits"]
    assert row["peak_rss_bytes"]["evidence"] == "modelled"
    assert row["peak_rss_bytes"]["value"] > row["size_bytes"]
    low, high = (row["decode_tokens_per_s"][key] for key in ("ci_low", "ci_high"))
    assert low < row["decode_tokens_per_s"]["value"] < high
    assert row["energy_j_per_token"]["value"] is None


def test_the_noise_floor_is_known_and_small(levels):
    for row in levels.values():
        noise = row["noise_floor"]
        assert noise["n"] == row["acc"]["n"]
        assert noise["n_lost"] + noise["n_won"] <= noise["n"] / 4


def test_the_engine_and_its_settings_are_on_record(database, rows):
    runs = rows(database, "SELECT * FROM run")
    assert {(r["status"], r["evidence"], r["runner"]) for r in runs} == {
        ("complete", "measured", "llama_cpp")
    }
    assert len(runs) == 2 * 3
    for run in runs:
        assert json.loads(run["engine_json"])
        assert json.loads(run["config_json"])["settings"]["n_threads"] >= 1


def test_the_same_command_again_does_nothing(folder, edgebench_in, database, rows):
    before = rows(database, "SELECT * FROM run"), rows(database, "SELECT * FROM trial")
    again = edgebench_in(folder)(*COMMAND, *SAMPLE)
    assert again.returncode == 0, again.stderr
    assert (rows(database, "SELECT * FROM run"), rows(database, "SELECT * FROM trial")) == before
    assert json.loads(again.stdout) == json.loads((folder / "levels.json").read_text())


def test_lifting_the_limit_repeats_log_likelihoods_to_the_bit(folder, edgebench_in, rows, tmp_path):
    """A group scored in a resumed process is scored as in an uninterrupted one."""
    command = ("run", "-m", "smollm2-135m", "--quant", "q4_0", "-t", "1", "--mode", "accuracy")
    at = edgebench_in(tmp_path)
    assert at(*command, "--limit", "8").returncode == 0
    assert at(*command, "--limit", "24").returncode == 0
    assert at(*command, "--limit", "24", "--db", "whole.sqlite").returncode == 0
    answers = "SELECT question_id, logprobs_json, group_sha256 FROM answer ORDER BY question_id"
    resumed = rows(tmp_path / "edgebench.sqlite", answers)
    assert len(resumed) >= 24
    assert resumed == rows(tmp_path / "whole.sqlite", answers)


def test_medical_exams_are_asked_from_a_data_folder(edgebench, shared_data, smollm2):
    flags = (
        "--suite",
        "mmlu-medical",
        "--scorer",
        "letter",
        "--data",
        shared_data,
        "--limit",
        "8",
        "-t",
        "1",
    )
    done = edgebench("run", "-m", smollm2, "--mode", "accuracy", *flags, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "exam-style accuracy, not clinical safety; not a medical device" in done.stderr
