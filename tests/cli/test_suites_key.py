"""`suites score` and `suites calibrate-key`, as a user meets them."""

import json

import pytest

MODELS = ("qwen2.5-3b-instruct", "llama-3.2-3b-instruct", "gemma-2-2b-it")


@pytest.fixture
def write(tmp_path):
    def to(name, letters, column="predicted_answer"):
        lines = [f"question_id,{column}", *(f"{q},{letter}" for q, letter in letters.items())]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return name

    return to


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")]
    for word in words:
        assert word in done.stderr


# score


def test_a_run_graded_with_the_suites_own_key_is_the_run(measured, edgebench, rows, write):
    (run,) = rows(measured, "SELECT id, suite_id FROM run WHERE mode = 'accuracy' ORDER BY id DESC LIMIT 1")
    known = rows(measured, "SELECT id, answer_index FROM question WHERE suite_id = ?", run["suite_id"])
    write("key.csv", {q["id"]: "ABCDEFGHIJ"[q["answer_index"]] for q in known}, "answer")
    done = edgebench("suites", "score", "everyday", "--key", "key.csv", "--run", run["id"], "-o", "json")
    assert done.returncode == 0, done.stderr
    graded = json.loads(done.stdout)
    (own,) = rows(
        measured,
        "SELECT sum(correct) AS n_correct, count(*) AS n FROM answer WHERE run_id = ? AND repeat = 0",
        run["id"],
    )
    assert (graded[0]["n_correct"], graded[0]["n"]) == (own["n_correct"], own["n"])
    assert graded[0]["ci_low"] < graded[0]["acc"] < graded[0]["ci_high"]
    assert sum(r["n"] for r in graded if r["group"] == "subject") == own["n"]
    assert "no official score" in done.stderr
    assert f"{len(known) - own['n']} questions of the key were not answered" in done.stderr


@pytest.mark.parametrize("output", ["table", "md", "csv", "jsonl"])
def test_a_score_is_printed_in_every_form(edgebench, write, output):
    write("key.csv", {"a": "A", "b": "B"}, "answer")
    write("answers.csv", {"a": "A", "b": ""})
    done = edgebench(
        *("suites", "score", "everyday", "--key", "key.csv", "--predictions", "answers.csv", "-o", output)
    )
    assert done.returncode == 0, done.stderr
    assert "overall" in done.stdout
    assert "valid only" in done.stdout


def test_a_bad_file_is_told_by_its_line(edgebench, tmp_path, write):
    write("key.csv", {"a": "A", "b": "B"}, "answer")
    score = ("suites", "score", "everyday", "--key", "key.csv")
    for content, words in (
        ("question_id,predicted_answer\na,A\na,B\n", "answers.csv:3: 'a' stands in line 2 already"),
        ("question_id,predicted_answer\na,AB\n", "answers.csv:2: 'AB' is not one letter"),
        ("id,letter\na,A\n", "answers.csv:1: expected the columns"),
        ("", "answers.csv:1: "),
    ):
        (tmp_path / "answers.csv").write_text(content)
        refused(edgebench(*score, "--predictions", "answers.csv"), 1, words)
    (tmp_path / "key.csv").write_bytes("question_id,answer\na,A".encode("utf-16"))
    refused(edgebench(*score, "--predictions", "answers.csv"), 1, "answers.csv:1: ")


def test_score_wants_one_source_of_answers(measured, edgebench, rows, write):
    write("key.csv", {"a": "A"}, "answer")
    score = ("suites", "score", "everyday", "--key", "key.csv")
    refused(edgebench(*score), 2, "--run RUN, or --predictions")
    refused(
        edgebench(*score, "--run", "latest", "--predictions", "key.csv"), 2, "--run RUN, or --predictions"
    )
    kinds = {run["mode"]: run["id"] for run in rows(measured, "SELECT mode, id FROM run")}
    refused(edgebench(*score, "--run", kinds["accuracy"]), 1, "key.csv:2: the suite has no question 'a'")
    refused(edgebench(*score, "--run", kinds["performance"]), 2, "it has no answers")
    refused(
        edgebench("suites", "score", "everyda", "--key", "key.csv", "--run", "latest"),
        2,
        "did you mean everyday",
    )
    refused(edgebench("suites", "score", "everyday", "--key", "none.csv", "--run", "latest"), 2, "none.csv")


# calibrate-key


@pytest.fixture
def calibrate(edgebench, write):
    write("key.csv", {f"q{i}": "A" for i in range(1000)}, "answer")

    def with_rights(*rights, output="json"):
        flags = []
        for model, n_right in zip(MODELS, rights, strict=False):
            write(f"{model}.csv", {f"q{i}": "A" if i < n_right else "" for i in range(1000)})
            flags += ["--predictions", f"{model}={model}.csv"]
        return edgebench("suites", "calibrate-key", "mobile-mmlu", "--key", "key.csv", *flags, "-o", output)

    return with_rights


def test_a_key_that_reproduces_the_published_figures_is_usable(calibrate):
    done = calibrate(690, 500, 380)
    assert done.returncode == 0, done.stderr
    assert "key.csv is usable" in done.stderr
    checked = json.loads(done.stdout)
    assert [(row["model"], row["published"]) for row in checked] == list(
        zip(MODELS, (0.681, 0.502, 0.389), strict=True)
    )
    assert all(row["usable"] and row["within"] and row["ci_low"] < row["acc"] for row in checked)


def test_a_key_that_does_not_is_refused_with_its_figures(calibrate):
    done = calibrate(690, 500, 300)
    refused(done, 4, "key.csv is not usable: gemma-2-2b-it is 8.9 points below the published 38.9 %")
    assert [row["within"] for row in json.loads(done.stdout)] == [True, True, False]
    assert not any(row["usable"] for row in json.loads(done.stdout))
    assert "gemma-2-2b-it" in calibrate(690, 500, 300, output="table").stdout


def test_two_models_do_not_settle_a_key(calibrate, edgebench):
    refused(calibrate(690, 500), 2, "missing: gemma-2-2b-it")
    command = ("suites", "calibrate-key", "mobile-mmlu", "--key", "key.csv", "--predictions")
    refused(edgebench(*command, "answers.csv"), 2, "MODEL=FILE")
    refused(edgebench(*command, "gema=answers.csv"), 2, "gemma-2-2b-it")
