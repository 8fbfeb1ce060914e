"""Stopped by hand, by the system, or by a pulled plug; and two at once."""

import json
import random
import signal
import time

import psutil
import pytest

QUICK = ("-p", "8", "-n", "4", "--chat", "4", "-r", "2")
TRIALS = "SELECT * FROM trial"
ANSWERS = "SELECT * FROM answer"


def statuses(rows, database):
    return {r["status"] for r in rows(database, "SELECT status FROM run")}


@pytest.fixture
def count(rows, tmp_path):
    """How many rows a table has so far; 0 while there is no database yet."""
    database = tmp_path / "edgebench.sqlite"

    def ask(table):
        if not database.exists() or not rows(database, "SELECT 1 FROM sqlite_master WHERE name = ?", table):
            return 0
        return rows(database, f"SELECT count(*) AS n FROM {table}")[0]["n"]

    return ask


def hanging(toy, level="q8_0", **script):
    """Ten engine calls reach the generation test of a visit, and the tenth scoring group."""
    return toy(level, dies_after=10, how="hang", **script)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("mode", "table"), [("performance", "trial"), ("accuracy", "answer")])
def test_a_signal_ends_it_cleanly(toy, rows, start, count, workers, wait_until, tmp_path, sent, mode, table):
    models = f"{hanging(toy).name},{toy('q4_0', seed=2).name}"
    running = start("run", "-m", models, *QUICK, "--mode", mode)
    wait_until(lambda: count(table) >= 3)
    children = wait_until(lambda: workers(running.pid))
    running.send_signal(sent)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.count("interrupted") == 1
    assert err.splitlines()[-1].startswith("interrupted: what was measured is stored")
    assert statuses(rows, tmp_path / "edgebench.sqlite") == {"interrupted"}
    wait_until(lambda: not any(psutil.pid_exists(child.pid) for child in children))
    assert count(table) >= 3


def test_an_interrupted_run_is_completed_by_the_same_command(
    toy, rows, start, edgebench, count, wait_until, tmp_path
):
    cause, database = tmp_path / "cause", tmp_path / "edgebench.sqlite"
    cause.touch()
    command = ("run", "-m", hanging(toy, **{"while": str(cause)}), *QUICK)
    running = start(*command)
    wait_until(lambda: count("trial") >= 3)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    before = rows(database, TRIALS)
    cause.unlink()
    assert edgebench(*command).returncode == 0
    assert statuses(rows, database) == {"complete"}
    assert rows(database, TRIALS)[: len(before)] == before
    assert sum(t["phase"] == "measured" for t in rows(database, TRIALS)) == 3 * 2 * 2


def test_a_measuring_process_ends_when_its_parent_is_killed(toy, start, count, workers, wait_until):
    running = start("run", "-m", hanging(toy), *QUICK)
    wait_until(lambda: count("trial") >= 3)
    children = wait_until(lambda: workers(running.pid))
    running.kill()  # no handler runs, nothing is told to the child
    running.wait()
    wait_until(lambda: not any(psutil.pid_exists(child.pid) for child in children))


@pytest.mark.slow
def test_killed_three_times_it_ends_where_an_undisturbed_run_ends(
    toy, rows, start, edgebench, count, workers, wait_until, tmp_path
):
    """SIGKILL at a random moment: once while speed is measured, twice while questions are scored."""
    database, undisturbed = tmp_path / "edgebench.sqlite", tmp_path / "undisturbed.sqlite"
    command = ("run", "-m", toy(token_s=2e-4), *QUICK)
    assert edgebench(*command, "--db", undisturbed).returncode == 0

    for table, at_least in (("trial", 1), ("answer", 1), ("answer", 50)):
        running = start(*command)
        wait_until(lambda table=table, at_least=at_least: count(table) >= at_least)
        time.sleep(random.uniform(0.0, 0.4))
        children = workers(running.pid)
        running.kill()
        running.wait()
        assert running.returncode == -signal.SIGKILL, "it was done before it could be killed"
        wait_until(lambda children=children: not any(psutil.pid_exists(c.pid) for c in children))

    assert edgebench(*command).returncode == 0
    assert [r["status"] for r in rows(database, "SELECT status FROM run")] == ["complete", "complete"]
    measured = (
        "SELECT test, round_index, repetition FROM trial WHERE phase = 'measured'"
        " ORDER BY test, round_index, repetition"
    )
    assert rows(database, measured) == rows(undisturbed, measured)
    answers = "SELECT question_id, logprobs_json, group_sha256, choice_index FROM answer ORDER BY question_id"
    assert rows(database, answers) == rows(undisturbed, answers)
    figures = "SELECT test, metric, value, n FROM summary WHERE metric LIKE 'acc%' OR metric LIKE 'share%'"
    assert rows(database, figures) == rows(undisturbed, figures)


def test_a_second_run_into_the_same_database_is_refused_at_once(
    toy, start, edgebench, count, wait_until, tmp_path
):
    start("run", "-m", hanging(toy), *QUICK)
    wait_until(lambda: count("trial") >= 3)
    second = edgebench("run", "-m", toy("q4_0", seed=2), *QUICK, timeout=20)
    assert second.returncode == 1
    assert second.stdout == ""
    problem, hint = second.stderr.splitlines()[-2:]
    assert problem.startswith("error: another edgebench is measuring ")
    assert str(tmp_path / "edgebench.sqlite") in problem or "edgebench.sqlite" in problem
    assert hint == "hint:  wait for it: two at once would also spoil each other's speeds"


def test_two_runs_into_two_databases_both_work(toy, start, edgebench, tmp_path):
    model = toy()
    other = start("run", "-m", model, *QUICK, "--db", "other.sqlite", "-o", "json")
    done = edgebench("run", "-m", model, *QUICK, "-o", "json")
    out, err = other.communicate(timeout=60)
    assert (done.returncode, other.returncode) == (0, 0), done.stderr + err
    assert len(json.loads(done.stdout)) == len(json.loads(out)) == 1


def test_results_can_be_read_while_a_run_goes_on(toy, start, edgebench, count, wait_until):
    done = edgebench("run", "-m", toy("q4_0", seed=2), "--mode", "accuracy", "--limit", "8")
    assert done.returncode == 0
    running = start("run", "-m", hanging(toy), *QUICK)
    wait_until(lambda: count("trial") >= 3)
    listed = edgebench("runs", "list", "-o", "json", timeout=20)
    assert {r["status"] for r in json.loads(listed.stdout)} == {"running", "complete"}
    assert edgebench("compare", "--by", "quant", timeout=20).returncode == 0
    assert edgebench("runs", "show", "latest", timeout=20).returncode == 0
    assert running.poll() is None


def test_the_place_is_free_again_after_a_kill(toy, start, edgebench, count, wait_until):
    running = start("run", "-m", hanging(toy), *QUICK)
    wait_until(lambda: count("trial") >= 3)
    running.kill()
    running.wait()
    assert edgebench("run", "-m", toy("q4_0", seed=2), *QUICK).returncode == 0
