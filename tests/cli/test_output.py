"""Results on stdout and nothing else; progress and remarks on stderr."""

import csv
import io
import json

import pytest

QUICK = ("-p", "8", "-n", "4", "--chat", "4", "-r", "1", "--rounds", "1", "--limit", "8")
LISTS = [
    ("models", "list"),
    ("suites", "list"),
    ("runners", "list"),
    ("devices", "list"),
    ("cache", "list"),
    ("runs", "list"),
    ("compare", "--by", "quant"),
    ("pareto", "--x", "decode_tokens_per_s", "--y", "acc"),
    ("run", "--dry-run", "-m", "toy-q8_0.synthetic.json"),
]
THINGS = [("suites", "show", "everyday"), ("devices", "show"), ("runs", "show")]


@pytest.mark.parametrize("verb", [*LISTS, *THINGS], ids=" ".join)
def test_every_verb_speaks_every_format(measured, edgebench, verb):
    def ask(output):
        done = edgebench(*verb, "-o", output)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    whole = json.loads(ask("json"))
    things = whole if verb in LISTS else [whole]
    assert things
    assert [list(json.loads(line)) for line in ask("jsonl").splitlines()] == [list(thing) for thing in things]
    table = list(csv.DictReader(io.StringIO(ask("csv"))))
    assert len(table) == len(things)
    assert set(table[0]) == {key for thing in things for key in thing}
    assert all(None not in row and None not in row.values() for row in table)  # as many cells as columns
    markdown = [line for line in ask("md").splitlines() if line]
    assert markdown
    assert all(line.startswith("|") and line.endswith("|") for line in markdown)
    assert len(ask("table").splitlines()) > len(things)


def test_a_run_prints_its_result_alone_on_stdout(toy, edgebench):
    done = edgebench("run", "-m", toy(), *QUICK, "-o", "json")
    (row,) = json.loads(done.stdout)
    assert row["level"] == "q8_0"
    assert row["evidence"] == "synthetic"
    assert (row["energy_j_per_token"], row["energy_reason"]) == (None, "no_sensor")
    assert "measuring speed" in done.stderr
    assert "asking for" in done.stderr


def test_verbs_with_nothing_to_say_leave_stdout_empty(measured, edgebench):
    for verb in (("db", "migrate"), ("db", "rebuild"), ("db", "vacuum"), ("runs", "rm", "latest", "--yes")):
        done = edgebench(*verb)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert done.stderr


def test_every_runner_says_whether_and_why_not_and_what_to_do(edgebench):
    rows = {row["name"]: row for row in json.loads(edgebench("runners", "list", "-o", "json").stdout)}
    assert {"llama_cpp", "synthetic"} <= rows.keys()
    for row in rows.values():
        assert {"name", "available", "why", "install"} <= row.keys()
        assert row["available"] == (row["why"] is None)
        assert row["install"]


@pytest.mark.parametrize(
    "name", ["my [bold]toy[/bold]", "spaces  and\ttab", "Größe 模型 🤖", "a|b 'c' \"d\"", "[/]", "-dash"]
)
def test_file_names_of_any_kind_survive(tmp_path, edgebench, name):
    folder = tmp_path / name.replace("/", "∕")
    folder.mkdir()
    path = folder / f"{name.replace('/', '∕')}-q8_0.synthetic.json"
    path.write_text(json.dumps({"seed": 1}))
    done = edgebench("run", "-m", path, *QUICK, "--db", folder / "results [1].sqlite")
    assert done.returncode == 0, done.stderr
    assert "q8_0" in done.stdout
    database = ("--db", folder / "results [1].sqlite")
    assert {r["status"] for r in json.loads(edgebench("runs", "list", *database, "-o", "json").stdout)} == {
        "complete"
    }
    assert edgebench("runs", "list", *database).returncode == 0
    assert str(folder) in edgebench("db", "path", *database).stdout


def test_a_markup_like_answer_of_sqlite_survives_a_table(measured, edgebench, rows):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(measured)) as connection:
        connection.execute("UPDATE run SET status = 'failed', invalid_reason = 'died [/red] [link=x] | pipe'")
        connection.commit()
    assert "died [/red] [link=x]" in " ".join(edgebench("runs", "list").stdout.split())
    assert r"[link=x] \| pipe" in edgebench("runs", "list", "-o", "md").stdout


def test_output_in_a_pipe_is_not_cut_to_a_terminals_width(measured, edgebench):
    shown = edgebench("runs", "show", "latest", env={"COLUMNS": "40"}).stdout
    (run,) = [r for r in json.loads(edgebench("runs", "list", "-o", "json").stdout) if r["id"] in shown]
    assert run["id"] in shown
