"""From a command line to rows, with the pretend engine: plan, rounds, trials, records."""

import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from edgebench.suites.groups import limited, ordered_groups
from edgebench.suites.loader import load_suite

QUICK = ("-p", "8", "-n", "4", "--chat", "4", "-r", "2")
TABLES = ("run", "trial", "token_time", "answer", "reading", "artifact", "suite", "question", "summary")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], write_toy: Callable[..., Path]
) -> Path:
    """A folder where two levels were measured, speed and accuracy; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    write_toy(folder, "q8_0", seed=1)
    write_toy(folder, "q4_0", seed=2)
    done = edgebench_in(folder)("run", "-m", "toy-q8_0.synthetic.json,toy-q4_0.synthetic.json", *QUICK)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def database(whole: Path) -> Path:
    return whole / "edgebench.sqlite"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The database in the test's own folder, models beside it, free to be changed."""
    for path in whole.glob("*.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "edgebench.sqlite"


def dump(rows: Callable[..., Any], database: Path) -> dict[str, Any]:
    return {table: rows(database, f"SELECT * FROM {table}") for table in TABLES}


def test_every_level_gets_a_complete_run_of_each_kind(database, rows):
    found = rows(
        database,
        "SELECT mode, status, evidence, quant, run.runner, run.finished_at FROM run"
        " JOIN artifact ON artifact.id = artifact_id",
    )
    assert sorted((r["mode"], r["quant"]) for r in found) == [
        ("accuracy", "q4_0"),
        ("accuracy", "q8_0"),
        ("performance", "q4_0"),
        ("performance", "q8_0"),
    ]
    assert {(r["status"], r["evidence"], r["runner"]) for r in found} == {
        ("complete", "synthetic", "synthetic")
    }
    assert all(r["finished_at"] for r in found)


def test_every_trial_is_a_row_and_the_warm_ups_are_too(database, rows):
    counted = rows(
        database,
        "SELECT run_id, test, round_index, phase, count(*) AS n, min(repetition) AS first FROM trial"
        " GROUP BY run_id, test, round_index, phase",
    )
    assert len(counted) == 2 * 3 * 2 * 2  # runs, tests, rounds, phases
    assert {r["test"] for r in counted} == {"pp8", "tg4", "chat4"}
    assert {(r["phase"], r["n"], r["first"]) for r in counted} == {("warmup", 1, 0), ("measured", 2, 0)}


def test_each_generated_token_has_its_moment(database, rows):
    counted = rows(
        database,
        "SELECT test, total_s, count(i) AS n, max(t_s) AS last FROM trial"
        " LEFT JOIN token_time ON trial_id = trial.id GROUP BY trial.id",
    )
    assert {(r["test"], r["n"]) for r in counted} == {("pp8", 0), ("tg4", 4), ("chat4", 4)}
    assert all(0 < r["last"] <= r["total_s"] for r in counted if r["n"])


def test_only_the_chat_request_has_a_time_to_first_token(database, rows):
    found = rows(database, "SELECT test, ttft_s, total_s FROM trial")
    assert {r["test"] for r in found if r["ttft_s"] is not None} == {"chat4"}
    assert all(0 < r["ttft_s"] <= r["total_s"] for r in found if r["test"] == "chat4")


def test_levels_take_turns_a_b_b_a_each_visit_in_a_fresh_process(database, rows):
    trials = rows(
        database,
        "SELECT quant, round_index, process_index FROM trial JOIN run ON run.id = run_id"
        " JOIN artifact ON artifact.id = artifact_id ORDER BY started_s",
    )
    visits = [
        key for key, _ in groupby(trials, key=lambda t: (t["quant"], t["round_index"], t["process_index"]))
    ]
    assert visits == [("q8_0", 0, 0), ("q4_0", 0, 0), ("q4_0", 1, 1), ("q8_0", 1, 1)]


def test_absent_energy_says_why_in_every_row(database, rows):
    found = rows(database, "SELECT * FROM trial")
    assert {r["energy_reason"] for r in found} == {"no_sensor"}
    columns = [c for c in found[0] if c.startswith("energy_") and c != "energy_reason"]
    assert "energy_j" in columns
    assert all(r[c] is None for r in found for c in columns)


def test_memory_is_read_while_it_runs_and_at_every_trial(database, rows):
    assert rows(database, "SELECT min(peak_rss_bytes) AS least FROM trial")[0]["least"] > 1_000_000
    channels = rows(database, "SELECT channel, unit, min(value) AS least FROM reading GROUP BY channel, unit")
    assert {(r["channel"], r["unit"]) for r in channels} == {
        ("load", "s"),
        ("rss_anon", "bytes"),
        ("rss_file", "bytes"),
        ("scoring_group", "s"),
    }
    assert all(r["least"] > 0 for r in channels)


def test_every_question_is_answered_once_by_each_level(database, rows):
    n = len(load_suite("everyday").questions)
    counted = rows(
        database, "SELECT count(*) AS n, count(DISTINCT question_id) AS different FROM answer GROUP BY run_id"
    )
    assert counted == [{"n": n, "different": n}] * 2
    assert not rows(database, "SELECT * FROM answer WHERE logprobs_json IS NULL OR group_sha256 IS NULL")
    unknown = "SELECT question_id FROM answer WHERE question_id NOT IN (SELECT id FROM question)"
    assert rows(database, unknown) == []


def test_the_database_holds_no_question_text(database):
    content = database.read_bytes()
    for question in load_suite("everyday").questions:
        assert question.text.encode() not in content


def test_the_same_command_again_does_nothing(copy, rows, edgebench):
    before = dump(rows, copy)
    again = edgebench("run", "-m", "toy-q8_0.synthetic.json,toy-q4_0.synthetic.json", *QUICK)
    assert again.returncode == 0, again.stderr
    assert dump(rows, copy) == before


def test_the_order_of_the_models_does_not_make_another_plan(copy, rows, edgebench):
    before = dump(rows, copy)
    assert edgebench("run", "-m", "toy-q4_0.synthetic.json,toy-q8_0.synthetic.json", *QUICK).returncode == 0
    assert dump(rows, copy) == before


def test_a_moved_file_is_known_by_its_content(copy, rows, edgebench, tmp_path):
    before = dump(rows, copy)
    moved = (tmp_path / "toy-q8_0.synthetic.json").rename(tmp_path / "elsewhere.synthetic.json")
    assert edgebench("run", "-m", moved, *QUICK).returncode == 0
    assert dump(rows, copy) == before


@pytest.mark.parametrize("more", [("-r", "3"), ("--rounds", "1"), ("-t", "7")])
def test_other_repetitions_rounds_or_settings_are_a_new_plan(copy, rows, edgebench, more):
    before = dump(rows, copy)
    flags = (*QUICK, *more, "--mode", "performance")
    assert edgebench("run", "-m", "toy-q8_0.synthetic.json", *flags).returncode == 0
    after = dump(rows, copy)
    assert len(after["run"]) == len(before["run"]) + 1
    assert [r for r in after["run"] if r in before["run"]] == before["run"]
    assert [t for t in after["trial"] if t in before["trial"]] == before["trial"]


def test_a_limit_takes_whole_groups_and_lifting_it_scores_only_the_rest(toy, rows, edgebench, tmp_path):
    database = tmp_path / "edgebench.sqlite"
    groups = ordered_groups(load_suite("everyday"))
    command = ("run", "-m", toy(), "--mode", "accuracy")

    assert edgebench(*command, "--limit", "10").returncode == 0
    first = rows(database, "SELECT * FROM answer")
    asked = limited(groups, 10)
    assert {a["question_id"] for a in first} == {q.id for group in asked for q in group}
    assert 10 <= len(first) < 10 + max(map(len, groups))
    assert len({a["group_sha256"] for a in first}) == len(asked)

    assert edgebench(*command).returncode == 0
    after = rows(database, "SELECT * FROM answer")
    assert [a for a in after if a in first] == first
    assert len(after) == sum(map(len, groups))
    assert len(rows(database, "SELECT id FROM run")) == 1
    assert len(rows(database, "SELECT * FROM reading WHERE channel = 'scoring_group'")) == len(groups)

    assert edgebench(*command, "--limit", "10").returncode == 0  # what is there already is not taken away
    assert rows(database, "SELECT * FROM answer") == after


def test_the_noise_floor_is_a_run_of_its_own(toy, rows, edgebench, tmp_path):
    done = edgebench("run", "-m", toy(), "--mode", "accuracy", "--limit", "16", "--noise-floor", "-o", "json")
    assert done.returncode == 0, done.stderr
    shapes = "SELECT json_extract(config_json, '$.shape') AS shape FROM run ORDER BY shape"
    found = rows(tmp_path / "edgebench.sqlite", shapes)
    assert [r["shape"] for r in found] == ["alone", "grouped"]


def test_two_files_with_the_same_content_are_measured_once(toy, rows, edgebench, tmp_path):
    path = toy()
    shutil.copy(path, tmp_path / "copy-q8_0.synthetic.json")
    models = f"{path.name},copy-q8_0.synthetic.json"
    assert edgebench("run", "-m", models, "--mode", "accuracy", "--limit", "8").returncode == 0
    assert len(rows(tmp_path / "edgebench.sqlite", "SELECT id FROM run")) == 1
