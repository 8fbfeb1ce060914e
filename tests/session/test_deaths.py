"""Engines that die, and engines that talk nonsense: the reason is kept, and so is everything else."""

import json

import pytest

QUICK = ("-p", "8", "-n", "4", "--chat", "4", "-r", "2")

# Ten engine calls reach the generation test of a visit, and the tenth scoring group.
DEATHS = {"kill": "SIGKILL", "segfault": "SIGSEGV", "error": "the script says: fail now"}


@pytest.mark.parametrize("how", DEATHS)
def test_a_dying_engine_fails_its_own_runs_and_heals(toy, rows, edgebench, tmp_path, how):
    database, cause = tmp_path / "edgebench.sqlite", tmp_path / "cause"
    cause.touch()
    sick = toy("q8_0", seed=1, dies_after=10, how=how, **{"while": str(cause)})
    healthy = toy("q4_0", seed=2)
    command = ("run", "-m", f"{sick.name},{healthy.name}", *QUICK)

    done = edgebench(*command)
    assert done.returncode == 1
    assert DEATHS[how] in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\nerror: ") == 1
    runs = {
        (r["quant"], r["mode"]): r
        for r in rows(database, "SELECT run.*, quant FROM run JOIN artifact ON artifact.id = artifact_id")
    }
    for mode in ("performance", "accuracy"):
        assert runs["q8_0", mode]["status"] == "failed"
        assert DEATHS[how] in runs["q8_0", mode]["invalid_reason"]
        assert runs["q4_0", mode]["status"] == "complete"
        assert runs["q4_0", mode]["invalid_reason"] is None
    trials = "SELECT * FROM trial WHERE run_id = ? ORDER BY id"
    answers = "SELECT * FROM answer WHERE run_id = ?"
    kept_trials = rows(database, trials, runs["q8_0", "performance"]["id"])
    kept_answers = rows(database, answers, runs["q8_0", "accuracy"]["id"])
    assert {t["test"] for t in kept_trials if t["phase"] == "measured"} == {"pp8", "tg4"} - {"tg4"}
    assert 0 < len(kept_answers) < 136

    cause.unlink()
    healed = edgebench(*command)
    assert healed.returncode == 0, healed.stderr
    again = rows(database, "SELECT id, status, invalid_reason FROM run")
    assert {r["id"] for r in again} == {r["id"] for r in runs.values()}
    assert {(r["status"], r["invalid_reason"]) for r in again} == {("complete", None)}
    all_trials = rows(database, trials, runs["q8_0", "performance"]["id"])
    all_answers = rows(database, answers, runs["q8_0", "accuracy"]["id"])
    assert all_trials[: len(kept_trials)] == kept_trials
    assert [a for a in all_answers if a in kept_answers] == kept_answers
    assert len(all_answers) == 136
    assert sum(t["phase"] == "measured" for t in all_trials) == 3 * 2 * 2


def test_a_failed_run_is_not_compared(toy, edgebench):
    done = edgebench("run", "-m", toy(dies_after=3), "--mode", "accuracy", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == []
    compared = edgebench("compare", "--by", "quant")
    assert compared.returncode == 2
    assert compared.stderr.startswith("error: no complete runs")


def test_log_likelihoods_that_are_no_numbers_make_the_run_invalid(toy, rows, edgebench, tmp_path):
    database, cause = tmp_path / "edgebench.sqlite", tmp_path / "cause"
    cause.touch()
    sick = toy("q8_0", seed=1, nan=True, **{"while": str(cause)})
    healthy = toy("q4_0", seed=2)
    command = ("run", "-m", f"{sick.name},{healthy.name}", "--mode", "accuracy", "--limit", "24")

    done = edgebench(*command)
    assert done.returncode == 4
    assert "not finite" in done.stderr
    assert "Traceback" not in done.stderr
    status = (
        "SELECT quant, status, invalid_reason FROM run JOIN artifact ON artifact.id = artifact_id"
        " ORDER BY run.id"
    )
    found = rows(database, status)
    assert [(r["quant"], r["status"]) for r in found] == [("q8_0", "invalid"), ("q4_0", "complete")]
    assert "not finite" in found[0]["invalid_reason"]

    compared = edgebench("compare", "--by", "quant", "-o", "json")
    assert [row["level"] for row in json.loads(compared.stdout)] == ["q4_0"]
    assert "invalid" in edgebench("runs", "list", "-o", "csv").stdout

    cause.unlink()
    assert edgebench(*command).returncode == 0  # a new run; the invalid one stays for the record
    assert [r["status"] for r in rows(database, status)] == ["invalid", "complete", "complete"]


def test_a_failed_run_outweighs_an_invalid_one(toy, edgebench):
    models = f"{toy('q8_0', nan=True).name},{toy('q4_0', dies_after=1).name}"
    done = edgebench("run", "-m", models, "--mode", "accuracy", "--limit", "8")
    assert done.returncode == 1
    assert "not finite" in done.stderr


def test_a_script_that_is_no_script_fails_with_its_reason(tmp_path, edgebench):
    (tmp_path / "toy-q8_0.synthetic.json").write_text("not json")
    done = edgebench("run", "-m", "toy-q8_0.synthetic.json", "--mode", "accuracy", "--limit", "8")
    assert done.returncode == 1
    assert "is not a synthetic model" in done.stderr
    assert "Traceback" not in done.stderr
