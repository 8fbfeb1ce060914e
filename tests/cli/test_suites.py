"""`suites list|show|add|verify|fetch` as a user types them."""

import json

import pytest

from edgebench.suites.definition import built_in_suites

MINE = """
name = "mine"
version = "1"
title = "Mine"
license = "CC0-1.0"
label = "for practice"
medical = true
[data]
format = "csv"
header = false
answer = "letter"
fields = { question = 0, choices = [1, 2], answer = 3 }
files = [{ path = "sub/a.csv" }]
dev = [{ path = "dev.csv" }]
[prompt.cloze]
context = "Question: {question}\\nAnswer:"
[prompt.generate]
context = "{question}\\n{options}\\nAnswer:"
n_gen = 4
"""
NOTE = "exam-style accuracy, not clinical safety; not a medical device"


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "made here"
    (folder / "sub").mkdir(parents=True)
    (folder / "mine.toml").write_text(MINE)
    (folder / "sub" / "a.csv").write_text("Sky?,blue,red,A\nSea?,red,blue,B\n")
    (folder / "dev.csv").write_text("Grass?,green,red,A\n")
    return folder / "mine.toml"


@pytest.fixture
def bare(edgebench, tmp_path):
    """`bare(...)`: with a cache that holds nothing."""

    def call(*args):
        return edgebench(*args, env={"EDGEBENCH_CACHE": str(tmp_path / "cache")})

    return call


# List and show ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", built_in_suites())
def test_every_suite_can_be_shown_without_its_data(bare, name):
    done = bare("suites", "show", name, "-o", "json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["name"] == name
    assert shown["n_questions"] > 0
    assert shown["licence"]
    assert shown["available"] or "--data" in shown["why"]
    assert (NOTE in done.stderr) == shown["medical"]
    assert shown["label"] is None or shown["label"] in done.stderr
    for form in shown["provenance"]:
        assert form["files"]
        assert (form["revision"] is None) == (form["fetched_from"] is None)


def test_every_suite_that_is_there_can_be_shown_with_its_data(bare, shared_data):
    listed = json.loads(bare("suites", "list", "--data", shared_data, "-o", "json").stdout)
    there = [row["name"] for row in listed if row["available"]]
    assert {"mmlu-medical", "mmlu-pro-health", "medqa", "medmcqa", "pubmedqa", "mirage"} <= set(there)
    for name in there:
        done = bare("suites", "show", name, "--data", shared_data, "-o", "json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["available"], shown["verified"], shown["id"]) == (True, True, f"{name}@1")
        assert shown["n_questions"] == sum(shown["n_per_subject"].values())
        assert list(shown["sample_prompt"]) == shown["scorers"]
        for scorer, prompt in shown["sample_prompt"].items():
            assert prompt["context"]
            assert bool(prompt["continuations"]) == (scorer != "generate")
            assert ("n_gen" in prompt) == (scorer == "generate")


def test_repeated_questions_are_told(bare, shared_data):
    done = bare("suites", "show", "mmlu-pro-health", "--data", shared_data, "-o", "json")
    shown = json.loads(done.stdout)
    assert (shown["n_questions"], shown["n_distinct"]) == (818, 723)


def test_list_says_what_is_there_without_reading_it(bare):
    done = bare("suites", "list", "-o", "json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == set(built_in_suites())
    assert [name for name, row in rows.items() if row["available"]] == ["everyday"]
    assert rows["mobile-mmlu"]["label"] == "non-commercial, no derivatives"
    assert (rows["mirage"]["headline"], rows["pubmedqa"]["headline"]) == ("mean_of_subjects", "macro_f1")
    assert "mobile-mmlu: non-commercial, no derivatives" in done.stderr


# Add --------------------------------------------------------------------------------------------


def test_added_suite_is_known_by_its_name_wherever_its_file_goes(bare, mine, toy):
    done = bare("suites", "add", mine, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["available"]
    assert NOTE in done.stderr
    for path in (mine, mine.parent / "sub" / "a.csv", mine.parent / "dev.csv"):
        path.unlink()
    assert "mine" in {row["name"] for row in json.loads(bare("suites", "list", "-o", "json").stdout)}
    assert json.loads(bare("suites", "show", "mine", "-o", "json").stdout)["n_questions"] == 2
    assert json.loads(bare("suites", "verify", "mine", "-o", "json").stdout)[0]["n_questions"] == 2


def test_suite_added_again_is_replaced(bare, mine):
    assert bare("suites", "add", mine).returncode == 0
    (mine.parent / "sub" / "a.csv").write_text("Sky?,blue,red,A\n")
    assert bare("suites", "add", mine).returncode == 0
    assert json.loads(bare("suites", "show", "mine", "-o", "json").stdout)["n_questions"] == 1


@pytest.mark.parametrize(
    ("old", "new", "told", "code"),
    [
        ('"mine"', '"everyday"', "a suite everyday comes with edgebench", 2),
        ("sub/a.csv", "../a.csv", "must lie inside its root", 1),
        ("sub/a.csv", "sub/b.csv", "sub/b.csv is not there", 1),
        ("[1, 2]", "[1, 9]", "a.csv:1: no column 9", 1),
        ("dev.csv", "test.csv", "test.csv is not there", 1),
    ],
)
def test_suite_that_can_not_be_used_is_not_added(bare, mine, old, new, told, code):
    mine.write_text(MINE.replace(old, new))
    done = bare("suites", "add", mine)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert set(built_in_suites()) == {
        row["name"] for row in json.loads(bare("suites", "list", "-o", "json").stdout)
    }


def test_damaged_suite_of_the_users_does_not_hide_the_others(bare, mine, tmp_path):
    bare("suites", "add", mine)
    (copy,) = (tmp_path / ".config").rglob("suite.toml")
    copy.write_text("[")
    rows = {row["name"]: row for row in json.loads(bare("suites", "list", "-o", "json").stdout)}
    assert "not valid TOML" in rows["mine"]["why"]
    assert rows["everyday"]["available"]
    assert bare("suites", "list").returncode == 0


# Verify and fetch -------------------------------------------------------------------------------


def test_verify_compares_files_with_their_pins(bare, shared_data, tmp_path):
    done = bare("suites", "verify", "--data", shared_data, "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"medqa", "mirage", "pubmedqa"} <= {row["suite"] for row in rows}
    assert all(row["ok"] for row in rows)
    real = (shared_data / "medqa" / "phrases_no_exclude_test.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "phrases_no_exclude_test.jsonl").write_bytes(b"".join(real[:-1]))
    done = bare("suites", "verify", "medqa", "--data", tmp_path, "-o", "json")
    assert done.returncode == 1
    assert {row["ok"] for row in json.loads(done.stdout)} == {False}
    assert "1272 questions instead of 1273" in done.stderr


def test_verify_of_files_that_are_not_there_says_how_to_get_them(bare):
    done = bare("suites", "verify", "medqa")
    assert done.returncode == 1
    assert "edgebench suites fetch medqa" in done.stderr


def test_fetch_without_a_network_is_one_line(bare, edgebench, tmp_path):
    environment = {"EDGEBENCH_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = edgebench("suites", "fetch", "medqa", env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "can't be fetched from 127.0.0.1:9: Connection refused" in done.stderr
    assert "again: edgebench suites fetch medqa" in done.stderr
    done = bare("suites", "fetch", "medqa-5")
    assert (done.returncode, done.stdout) == (1, "")
    assert "suite medqa-5 can't be fetched" in done.stderr
