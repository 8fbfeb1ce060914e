"""What goes in comes out: by transaction, by key, by name."""

import json
from typing import Any

import pytest

from edgebench.core.errors import StoreError, UsageError
from edgebench.core.types import Mode, Status
from edgebench.results.store import Store


def test_adding_the_same_things_twice_keeps_one_row_each(lab: Any) -> None:
    for _ in range(2):
        lab.artifact("q8_0", 8.5)
        lab.device()
        lab.environment()
        lab.suite(n=3)
    for table, n in {
        "model": 1,
        "artifact": 1,
        "device": 1,
        "environment": 1,
        "suite": 1,
        "question": 3,
    }.items():
        assert lab.store.rows(f"SELECT count(*) AS n FROM {table}") == [{"n": n}], table


def test_question_text_is_never_stored(lab: Any) -> None:
    lab.suite()
    lab.store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"secret text" not in lab.store.path.read_bytes()


def test_a_parent_is_linked_when_it_is_there_and_named_in_any_case(lab: Any) -> None:
    parent = lab.artifact("f16", 16.0)
    child = lab.artifact("q8_0", 8.5, parent_sha256=parent, parent_quant="f16")
    orphan = lab.artifact("q4_0", 4.5, parent_sha256="f" * 64)
    rows = {row["id"]: row for row in lab.store.rows("SELECT * FROM artifact")}
    assert rows[child]["parent_id"] == parent
    assert rows[orphan]["parent_id"] is None
    assert json.loads(rows[orphan]["manifest_json"]) == {"made": "for a test", "parent_sha256": "f" * 64}


def test_a_run_is_found_again_by_its_plan_until_it_is_invalid(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    plan = {"config_sha256": "plan", "artifact_id": artifact, "device_id": "laptop", "environment_id": "env"}
    assert lab.store.find_run(**plan) is None
    older, newer = lab.run(artifact), lab.run(artifact)
    for status in (Status.RUNNING, Status.INTERRUPTED, Status.FAILED, Status.COMPLETE):
        lab.store.set_status(newer, status)
        assert lab.store.find_run(**plan).id == newer
    lab.store.set_status(newer, Status.INVALID, "too hot")
    assert lab.store.find_run(**plan).id == older
    assert lab.store.find_run(**{**plan, "config_sha256": "another"}) is None


def test_a_status_keeps_its_reason_only_where_something_went_wrong(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    started = lab.store.run(run_id)
    assert started.started_at.endswith("Z")
    assert (started.status, started.finished_at, started.config) == (Status.RUNNING, None, {"n_threads": 4})
    lab.store.set_status(run_id, Status.FAILED, "segmentation fault")
    failed = lab.store.run(run_id)
    assert failed.invalid_reason == "segmentation fault"
    assert failed.finished_at is not None
    lab.store.set_status(run_id, Status.RUNNING)
    assert (lab.store.run(run_id).invalid_reason, lab.store.run(run_id).finished_at) == (None, None)
    lab.store.set_status(run_id, Status.COMPLETE, "ignored")
    assert lab.store.run(run_id).invalid_reason is None


def test_resume_knows_what_is_stored(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    assert lab.store.next_process_index(run_id) == 0
    lab.trial(run_id, phase="warmup")
    for repetition in range(3):
        lab.trial(run_id, repetition=repetition)
    lab.trial(run_id, repetition=0, round_index=1, process_index=1)
    assert lab.store.count_trials(run_id) == {("pp512", 0): 3, ("pp512", 1): 1}
    assert lab.store.next_process_index(run_id) == 2


def test_a_trial_comes_with_its_token_times_or_not_at_all(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.trial(run_id, token_times_s=[0.5, 0.75])
    with pytest.raises(StoreError, match="refused: UNIQUE"):
        lab.trial(run_id, token_times_s=[0.5])
    assert lab.store.rows("SELECT i, t_s FROM token_time") == [{"i": 0, "t_s": 0.5}, {"i": 1, "t_s": 0.75}]


def test_an_unknown_column_is_a_programming_error(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    with pytest.raises(TypeError, match="trial has no column latency"):
        lab.trial(run_id, latency=1)
    with pytest.raises(TypeError, match="answer has no column text"):
        lab.store.add_answers(run_id, [{"question_id": "q0", "correct": True, "text": "no"}])


def test_readings_may_be_sent_again(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.store.add_readings(run_id, "rss", "bytes", [(0.0, 1.0), (1.0, 2.0)])
    lab.store.add_readings(run_id, "rss", "bytes", [(1.0, 9.0), (2.0, 3.0)])
    assert [row["value"] for row in lab.store.rows("SELECT value FROM reading ORDER BY t_s")] == [
        1.0,
        2.0,
        3.0,
    ]


def test_a_scoring_group_is_never_half_written(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5), Mode.ACCURACY, suite_id=lab.suite())
    group: list[dict[str, object]] = [
        {"question_id": "q0", "choice_index": 0, "correct": True},
        {"question_id": "q1", "choice_index": 1, "correct": 2},
    ]
    with pytest.raises(StoreError, match="CHECK"):
        lab.store.add_answers(run_id, group)
    assert lab.store.answered(run_id) == set()
    group[1]["correct"] = False
    lab.store.add_answers(run_id, group)
    lab.store.add_answers(run_id, group)
    assert lab.store.answered(run_id) == {"q0", "q1"}


def test_deleting_a_run_takes_all_it_yielded_and_nothing_else(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    speed = lab.performance(artifact, [1.0] * 6)
    lab.trial(speed, test="chat64", n_gen=64, token_times_s=[0.5, 0.6])
    lab.store.add_readings(speed, "rss", "bytes", [(0.0, 1.0)])
    answers = lab.accuracy(artifact, [0, 1])
    kept = lab.accuracy(artifact, [0, 1])
    lab.store.delete_run(speed)
    lab.store.delete_run(answers)
    for table in ("trial", "token_time", "reading"):
        assert lab.store.rows(f"SELECT * FROM {table}") == [], table
    assert {row["run_id"] for row in lab.store.rows("SELECT run_id FROM answer")} == {kept}
    assert {row["run_id"] for row in lab.store.rows("SELECT run_id FROM summary")} == {kept}
    assert lab.store.rows("SELECT id FROM artifact") == [{"id": artifact}]


def test_a_run_answers_to_latest_and_to_a_unique_beginning(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    runs = [lab.run(artifact) for _ in range(3)]
    assert lab.store.run("latest").id == runs[-1]
    assert lab.store.run(runs[0]).id == runs[0]
    assert lab.store.run(runs[1].lower()).id == runs[1]
    with pytest.raises(UsageError, match="3 runs begin with '0'") as several:
        lab.store.run("0")
    assert all(run in str(several.value.hint) for run in runs)
    with pytest.raises(UsageError, match="no run begins with 'zzz'"):
        lab.store.run("zzz")


def test_no_runs_at_all_is_told(store: Store) -> None:
    for name in ("latest", "0"):
        with pytest.raises(UsageError, match="no runs in"):
            store.run(name)


def test_runs_are_listed_newest_first_by_mode_and_status(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    first, second = lab.run(artifact), lab.performance(artifact, [1.0])
    third = lab.accuracy(artifact, [0])
    assert [run.id for run in lab.store.runs()] == [third, second, first]
    assert [run.id for run in lab.store.runs(mode=Mode.ACCURACY)] == [third]
    assert [run.id for run in lab.store.runs(status=Status.RUNNING)] == [first]


def test_engine_facts_are_kept(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.store.set_engine(run_id, {"backend": "CPU"})
    assert lab.store.run(run_id).engine_json == '{"backend":"CPU"}'
