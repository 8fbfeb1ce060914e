"""How questions are asked, from the command line to rows: examples, rotations, texts, samples, keys."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SUITE = """
name = "mine"
version = "1"
license = "CC0-1.0"
default_scorer = "letter"
{extra}
[data]
format = "jsonl"
root = "beside"
answer = "{answer}"
fields = {{ id = "id", subject = "subject", question = "question", choices = "choices", answer = "answer" }}
[[data.files]]
path = "mine.jsonl"
[[data.dev]]
path = "dev.jsonl"
[prompt.letter]
description = "About {{subject}}.\\n\\n"
context = "{{question}}\\n{{options}}\\nAnswer:"
[prompt.cloze]
context = "{{question}}\\nAnswer:"
[prompt.generate]
context = "{{question}}\\n{{options}}\\nAnswer:"
n_gen = 24
stop = ["\\n"]
"""
N = 40


def row(i: int, name: str, k: int) -> dict[str, Any]:
    choices = [f"{name} {j} of question {i}" for j in range(k)]
    subject = "rivers" if i % 2 else "lakes"
    return {
        "id": f"{name}{i}",
        "subject": subject,
        "question": f"{name} {i}?",
        "choices": choices,
        "answer": i % k,
    }


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """`suite(answer="index", extra="")`: 40 questions in two subjects, beside 5 worked examples."""

    def write(*, answer: str = "index", extra: str = "", k: int = 4) -> Path:
        questions = [row(i, "q", k) for i in range(N)]
        dev = [questions[0] | {"id": "twin"}] + [row(i, "d", k) for i in range(4)]
        if answer == "none":
            for question in questions:
                del question["answer"]
        for name, rows in (("mine", questions), ("dev", dev)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        path = tmp_path / "mine.toml"
        text = SUITE.format(answer=answer, extra=extra)
        path.write_text(text.replace(', answer = "answer"', "") if answer == "none" else text)
        return path

    return write


@pytest.fixture
def run(edgebench, toy, suite, tmp_path, rows) -> Callable[..., list[dict[str, Any]]]:
    """`run(*flags)`: the stored answers, in order."""

    def call(*flags: object, path: Path | None = None, code: int = 0, **script: Any) -> list[dict[str, Any]]:
        model = toy(**script)
        path = path or suite()
        done = edgebench("run", "-m", model, "--mode", "accuracy", "--suite", path, *flags)
        assert done.returncode == code, done.stderr
        call.stderr = done.stderr
        if code:
            return []
        return rows(tmp_path / "edgebench.sqlite", "SELECT * FROM answer ORDER BY question_id, repeat")

    return call


def configs(rows, tmp_path: Path) -> list[dict[str, Any]]:
    found = rows(tmp_path / "edgebench.sqlite", "SELECT config_json FROM run ORDER BY id")
    return [json.loads(r["config_json"]) for r in found]


def test_every_rotation_is_an_answer_in_the_order_the_suite_stores(run, rows, tmp_path):
    plain = run()
    both = run("--permute", "cyclic")
    assert len(plain) == N
    turned = [answer for answer in both if answer["run_id"] != plain[0]["run_id"]]
    assert len(turned) == 4 * N
    assert {answer["repeat"] for answer in turned} == {0, 1, 2, 3}
    # A pretend model that leans on A prefers, in rotation r, stored option r.
    leaning = run("--permute", "cyclic", leans={"A": 20.0}, seed=7)
    newest = rows(tmp_path / "edgebench.sqlite", "SELECT max(id) AS id FROM run")[0]["id"]
    mine = [answer for answer in leaning if answer["run_id"] == newest]
    assert all(answer["choice_index"] == answer["repeat"] for answer in mine)
    logprobs = json.loads(mine[1]["logprobs_json"])
    assert max(range(4), key=logprobs.__getitem__) == mine[1]["repeat"]
    assert [c["permute"] for c in configs(rows, tmp_path)] == ["none", "cyclic", "cyclic"]


def test_worked_examples_are_counted_and_never_the_question_itself(run, rows, tmp_path):
    answers = run("--num_fewshot", "2")
    n_shots = {answer["question_id"]: answer["n_shots"] for answer in answers}
    assert n_shots.pop("q0") == 1  # its twin stands in the pool
    assert set(n_shots.values()) == {2}
    longer = rows(tmp_path / "edgebench.sqlite", "SELECT min(n_prompt) AS n FROM answer")[0]["n"]
    assert longer > min(answer["n_prompt"] for answer in run())
    run("--num-fewshot", "9", code=2)
    assert "worked examples" in run.stderr
    assert "--num-fewshot" in run.stderr


def test_texts_are_read_by_a_strict_ladder_and_kept(run):
    answers = run("--scorer", "generate", says=["The answer is (B).\nNext", "no idea"])
    assert {answer["output_text"] for answer in answers} == {"The answer is (B).", "no idea"}
    for answer in answers:
        if answer["output_text"] == "no idea":
            assert (answer["choice_index"], answer["correct"]) == (None, 0)
        else:
            assert answer["choice_index"] == 1
            assert answer["extraction_rule"]
    assert all(answer["logprobs_json"] is None and answer["n_gen"] for answer in answers)


def test_sample_is_a_beginning_of_a_longer_one(run, rows, tmp_path):
    few = run("--limit", "10")
    assert 10 <= len(few) < 20
    more = run("--limit", "30")
    assert {a["question_id"] for a in few} < {a["question_id"] for a in more}
    assert [a for a in more if a["question_id"] in {f["question_id"] for f in few}] == few
    assert len(rows(tmp_path / "edgebench.sqlite", "SELECT id FROM run")) == 1
    subjects = rows(
        tmp_path / "edgebench.sqlite",
        "SELECT subject, count(*) AS n FROM answer JOIN question ON question.id = question_id"
        " GROUP BY subject",
    )
    assert abs(subjects[0]["n"] - subjects[1]["n"]) <= 8  # to within a group


def test_first_of_the_file_as_lm_eval_takes_them(run):
    answers = run("--limit", "11", "--limit-first")
    assert {answer["question_id"] for answer in answers} == {f"q{i}" for i in range(11)}


def test_same_scores_whatever_the_order_of_the_file(run, suite, tmp_path):
    def scores(answers: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
        return {a["question_id"]: (a["logprobs_json"], a["group_sha256"]) for a in answers}

    path = suite()
    first = scores(run("--num-fewshot", "1", path=path))
    lines = (tmp_path / "mine.jsonl").read_text().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    (tmp_path / "edgebench.sqlite").unlink()
    assert scores(run("--num-fewshot", "1", path=path)) == first


def test_asking_ends_when_accuracy_is_known_well_enough(run, suite, tmp_path):
    path = suite()
    lines = [json.dumps(row(i, "q", 4)) + "\n" for i in range(1200)]
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    answers = run("--target-ci", "0.1", path=path)
    assert 64 <= len(answers) < 600
    assert "± 0.1" in run.stderr
    assert len(run("--target-ci", "0.1", path=path)) == len(answers), "enough is enough"
    assert len(run("--target-ci", "0.08", path=path)) > len(answers), "a narrower one asks on"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--scorer", "cloze", "--permute", "cyclic"), "nothing to permute"),
        (("--target-ci", "0.1", "--permute", "cyclic"), "one answer each"),
        (("--target-ci", "0.1", "--limit-first"), "one answer each"),
    ],
)
def test_what_can_not_be_combined_is_refused(run, flags, told):
    run(*flags, code=2)
    assert told in run.stderr


def test_too_long_a_prompt_is_cut_and_counted_or_refused(run, suite, tmp_path):
    path = suite()
    lines = (tmp_path / "mine.jsonl").read_text().splitlines()
    long = json.loads(lines[0]) | {"question": "word " * 3000}
    (tmp_path / "mine.jsonl").write_text("\n".join([json.dumps(long), *lines[1:]]) + "\n")
    answers = {answer["question_id"]: answer for answer in run(path=path)}
    assert answers["q0"]["n_cut"] > 0
    assert {a["n_cut"] for name, a in answers.items() if name != "q0"} == {0}
    run("--no-truncate", path=path, code=1)
    assert "question q0" in run.stderr
    assert "leave out --no-truncate" in run.stderr


def test_suite_without_a_key_is_not_graded_and_leaves_a_file_to_hand_in(run, suite, tmp_path, rows):
    path = suite(answer="none", extra="submission = true")
    answers = run(path=path)
    assert {answer["correct"] for answer in answers} == {None}
    (handed_in,) = (tmp_path / "submissions").glob("*.csv")
    assert str(handed_in.name) in run.stderr
    with handed_in.open(newline="") as handle:
        written = list(csv.DictReader(handle))
    assert {r["question_id"]: "ABCD".index(r["predicted_answer"]) for r in written} == {
        answer["question_id"]: answer["choice_index"] for answer in answers
    }
    figures = rows(tmp_path / "edgebench.sqlite", "SELECT metric FROM summary")
    assert "acc" not in {figure["metric"] for figure in figures}


def test_key_grades_here_and_is_part_of_the_suites_name(run, suite, tmp_path, rows):
    path = suite(answer="none", extra="submission = true")
    key = tmp_path / "key.csv"
    key.write_text("question_id,answer\n" + "".join(f"q{i},{'ABCD'[i % 4]}\n" for i in range(N)))
    answers = run("--key", key, path=path)
    for answer in answers:
        assert answer["correct"] == (answer["choice_index"] == int(answer["question_id"][1:]) % 4)
    (stored,) = rows(tmp_path / "edgebench.sqlite", "SELECT id FROM suite")
    assert "+key-" in stored["id"]


def test_chat_template_and_examples_are_told_in_the_record(run, rows, tmp_path):
    run("--apply-chat-template", "--num-fewshot", "1")
    (config,) = configs(rows, tmp_path)
    assert (config["apply_chat_template"], config["num_fewshot"], config["scorer"]) == (True, 1, "letter")
    assert config["sampling"] == "stratified"
