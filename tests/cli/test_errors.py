"""Bad input: the exit code, one line for what happened, one for what to do; never a traceback."""

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest

QUICK = ("--mode", "performance", "-p", "8", "-n", "0", "--chat", "0", "-r", "1", "--rounds", "1")


def told(done, code, *words):
    """The error's line, after a look at everything around it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    begins = [line.partition(":")[0] for line in lines if line.startswith(("error:", "hint:"))]
    assert begins in (["error"], ["error", "hint"]), done.stderr
    assert lines[-1].startswith(("error: ", "hint:  "))
    for word in words:
        assert word in done.stderr
    return next(line for line in lines if line.startswith("error:"))


@pytest.mark.parametrize(
    ("args", "offered"),
    [
        (("-m", "smolm2-135m"), "did you mean smollm2-135m?"),
        (("-m", "smollm2-135m", "--quant", "q4_9"), "q4_"),
        (("--suite", "everyda"), "did you mean everyday"),
        (("--device", "locl"), "did you mean local"),
        (("--runner", "llama-cpp"), "did you mean llama_cpp"),
        (("-m", "someone/some-model"), "use one of: smollm2-135m"),
        (("-p", "abc"), "'abc' is not a number or a range"),
        (("--thraeds", "2"), "--threads"),
        (("--mode", "fast"), "'performance', 'accuracy', 'both'"),
        (("-p", "0", "-n", "0", "--chat", "0", "--mode", "performance"), "nothing to measure"),
        (("-r", "0"), "x>=1"),
        (("--limit", "none"), "not a valid integer"),
    ],
)
def test_what_nobody_knows_is_a_usage_error_before_anything_is_made(edgebench, tmp_path, args, offered):
    told(edgebench("run", *args), 2, offered)
    assert not (tmp_path / "edgebench.sqlite").exists()


@pytest.mark.parametrize(
    ("args", "offered"),
    [
        (("suites", "show", "everyda"), "did you mean everyday"),
        (("models", "show", "smolm2"), "smollm2-135m"),
        (("devices", "show", "locl"), "local"),
        (("devices", "show", "adb:R3X"), "devices probe --device adb:R3X"),
        (("devices", "probe", "--device", "pixle8"), "did you mean pixel8"),
        (("devices", "clean", "pixle8", "--yes"), "did you mean pixel8"),
        (("devices", "clean", "local", "--yes"), "local is this computer"),
        (("devices", "probe", "--device", "adb:"), "adb:SERIAL"),
        (("collect", "--device", "local"), "adb:SERIAL, auto"),
        (("deploy", "x.gguf", "--device", "pixel8", "-t", "2"), "-t is of an archive"),
        (("tune", "--device", "pixel8"), "edgebench run --device pixel8 -t 1,2,4"),
        (("tune", "--device", "adb:R3X"), "edgebench run --device adb:R3X -t 1,2,4"),
        (("runners", "build", "llama"), "llama_cpp"),
        (("cache", "clear", "artefacts", "--yes"), "artifacts"),
        (("compare",), "--by quant"),
        (("nonsense",), "nonsense"),
        (("runs", "nonsense"), "nonsense"),
        (("pareto", "--x", "decode_tokens_per_s"), "--y"),
    ],
)
def test_every_verb_offers_the_nearest_names(edgebench, args, offered):
    told(edgebench(*args), 2, offered)


def test_an_unknown_metric_names_the_nearest(measured, edgebench):
    told(edgebench("pareto", "--x", "decode_token_per_s", "--y", "acc"), 2, "decode_tokens_per_s")


def test_a_metric_nobody_measured_says_which_command_would(measured, edgebench):
    told(edgebench("pareto", "--x", "energy_j_per_token", "--y", "acc"), 2)


# Configuration


def test_broken_toml_is_named(edgebench, tmp_path):
    (tmp_path / "edgebench.toml").write_text("[run\nthreads = 2\n")
    told(edgebench("run", "--dry-run"), 2, "edgebench.toml: not valid TOML")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[run]\nthraeds = 2\n", ("thraeds", "threads")),
        ("thraeds = 2\n", ("thraeds",)),
        ("[rum]\nthreads = 2\n", ("rum",)),
        ("[runs.list]\nthreads = 2\n", ("threads",)),
        ("[run]\nlimit = [1, 2]\n", ("limit", "integer")),
        ("[run]\nquant = 4\n", ("unknown level '4'",)),
    ],
)
def test_unknown_keys_and_wrong_values_in_the_configuration_are_named(edgebench, tmp_path, toml, words):
    (tmp_path / "edgebench.toml").write_text(toml)
    told(edgebench("run", "--dry-run"), 2, *words)


def test_a_configuration_that_is_not_there_is_an_error(edgebench):
    told(edgebench("--config", "absent.toml", "runs", "list"), 2, "absent.toml")


# Models


def test_a_missing_file_is_named(edgebench):
    told(edgebench("run", "-m", "absent.gguf", *QUICK), 1, "no model file at absent.gguf")


def test_a_file_that_is_no_gguf_is_refused(edgebench, tmp_path):
    (tmp_path / "text.gguf").write_text("not a model at all")
    told(edgebench("run", "-m", "text.gguf", *QUICK), 1, "text.gguf is not a GGUF file")


def test_an_empty_file_is_refused(edgebench, tmp_path):
    (tmp_path / "empty.gguf").touch()
    told(edgebench("run", "-m", "empty.gguf", *QUICK), 1, "not a GGUF file")


def test_a_folder_is_no_model(edgebench, tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    told(edgebench("run", "-m", "folder.gguf", *QUICK), 1, "is no checkpoint", "it is empty")


@pytest.mark.engine
@pytest.mark.parametrize("share", [0.0005, 0.5, 0.999])
def test_a_truncated_file_is_refused(edgebench, tmp_path, smollm2, share):
    whole = smollm2.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    told(edgebench("run", "-m", "cut.gguf", *QUICK), 1, "cut.gguf", "damaged or cut short")


@pytest.mark.engine
@pytest.mark.parametrize("at", [8, 24, 60])
def test_a_file_with_a_damaged_head_is_refused(edgebench, tmp_path, smollm2, at):
    content = bytearray(smollm2.read_bytes())
    content[at : at + 16] = b"\xff" * 16
    (tmp_path / "bad.gguf").write_bytes(content)
    told(edgebench("run", "-m", "bad.gguf", *QUICK), 1, "bad.gguf")


def test_levels_can_not_be_made_of_a_pretend_model(toy, edgebench):
    told(edgebench("run", "-m", toy(), "--quant", "q4_0", *QUICK), 2, "--quant needs a GGUF model")


# Suites

SUITE = """
name = "own"
version = "1"
license = "CC0-1.0"
[data]
format = "csv"
answer = "letter"
fields = { question = "question", choices = ["a", "b"], answer = "key" }
[[data.files]]
path = "own.csv"
[prompt.cloze]
context = "Question: {question}\\nAnswer:"
"""


@pytest.fixture
def own_suite(tmp_path):
    def write(csv, toml=SUITE):
        (tmp_path / "own.toml").write_text(toml)
        (tmp_path / "own.csv").write_text(csv)
        return "own.toml"

    return write


def test_a_suite_of_ones_own_works(own_suite, toy, edgebench):
    suite = own_suite("question,a,b,key\nWet?,water,stone,A\nHard?,water,stone,B\n")
    done = edgebench("run", "-m", toy(), "--suite", suite, "--mode", "accuracy", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["acc"]["n"] == 2


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ("question,a,b\nWet?,water,stone\n", ("own.csv:2", "'key'")),
        (
            "question,a,b,key\nWet?,water,stone,A\nHard?,water,stone,C\n",
            ("own.csv:3", "'C' is outside the 2 options"),
        ),
        ("question,a,b,key\nWet?,water,,A\n", ("own.csv:2", "none of them empty")),
        ("question,a,b,key\n", ("no questions",)),
        ('question,a,b,key\n"Wet?,water\n', ("own.csv", "CSV")),
    ],
)
def test_a_malformed_suite_names_file_and_line(own_suite, toy, edgebench, csv, words):
    told(edgebench("run", "-m", toy(), "--suite", own_suite(csv), "--mode", "accuracy"), 1, *words)


@pytest.mark.parametrize(
    ("toml", "word"),
    [
        (SUITE.replace('name = "own"\n', ""), "name"),
        (SUITE.replace("[prompt.cloze]", "[prompt.guess]"), "guess"),
        (SUITE.replace("{question}", "{qestion}"), "qestion"),
        (SUITE.replace('path = "own.csv"', 'path = "../own.csv"'), "must lie inside"),
        (SUITE + "[", "TOML"),
    ],
)
def test_a_malformed_definition_is_named(own_suite, toy, edgebench, toml, word):
    suite = own_suite("question,a,b,key\nWet?,water,stone,A\n", toml)
    told(edgebench("run", "-m", toy(), "--suite", suite, "--mode", "accuracy"), 1, "own.toml", word)


def test_a_suite_without_its_data_says_which_flag_to_give(toy, edgebench):
    done = edgebench("run", "-m", toy(), "--suite", "mmlu-medical", "--mode", "accuracy")
    told(done, 1, "needs its data", "edgebench suites fetch mmlu-medical, or give --data DIR")


def test_a_data_folder_without_the_data_names_the_missing_file(toy, edgebench, tmp_path):
    (tmp_path / "empty").mkdir()
    flags = ("--suite", "mmlu-medical", "--mode", "accuracy", "--data", "empty")
    told(edgebench("run", "-m", toy(), *flags), 1, "anatomy_test.csv is not there")


# The database


def test_reading_verbs_say_that_there_is_no_database_yet(edgebench, tmp_path):
    for args in (("runs", "list"), ("runs", "show"), ("compare", "--by", "quant"), ("db", "vacuum")):
        told(edgebench(*args), 1, "no database at edgebench.sqlite")
    assert not (tmp_path / "edgebench.sqlite").exists()


def test_a_file_that_is_no_database_stays_untouched(toy, edgebench, tmp_path):
    (tmp_path / "notes.txt").write_text("these are my notes, not a database\n" * 50)
    before = (tmp_path / "notes.txt").read_bytes()
    for args in (("run", "-m", toy(), *QUICK), ("runs", "list"), ("db", "rebuild")):
        told(edgebench(*args, "--db", "notes.txt"), 1, "is not an SQLite database")
    assert (tmp_path / "notes.txt").read_bytes() == before


def test_another_programs_database_stays_untouched(toy, edgebench, tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE contacts (name)")
        connection.commit()
    before = (tmp_path / "other.sqlite").read_bytes()
    told(edgebench("run", "-m", toy(), *QUICK, "--db", "other.sqlite"), 1, "not one of edgebench's")
    assert (tmp_path / "other.sqlite").read_bytes() == before


def test_a_database_of_a_newer_version_is_refused(measured, edgebench):
    with closing(sqlite3.connect(measured)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for args in (("runs", "list"), ("run", "-m", "toy-q8_0.synthetic.json", *QUICK), ("db", "migrate")):
        told(edgebench(*args), 1, "has schema 99", "upgrade edgebench")


@pytest.mark.parametrize("db", ["/proc/edgebench.sqlite", "absent/folder/edgebench.sqlite"])
def test_a_place_where_nothing_can_be_made_is_named(toy, edgebench, db):
    told(edgebench("run", "-m", toy(), *QUICK, "--db", db), 1, f"{db} can't be opened")


def test_a_folder_is_no_database(toy, edgebench, tmp_path):
    (tmp_path / "folder").mkdir()
    told(edgebench("run", "-m", toy(), *QUICK, "--db", "folder"), 2, "is a directory")


def test_a_locked_database_is_given_up_after_the_time_asked_for(measured, toy, edgebench):
    # Readers pass in WAL mode; the lock that stops writers is the one of BEGIN IMMEDIATE.
    with closing(sqlite3.connect(measured, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        command = ("run", "-m", toy("q2_k", seed=9), *QUICK)
        told(edgebench(*command, env={"EDGEBENCH_BUSY_TIMEOUT": "0.2"}), 1, "is locked by another process")
        told(edgebench(*command, "--busy-timeout", "0.2"), 1, "is locked by another process")
        assert edgebench("runs", "list").returncode == 0
        connection.execute("ROLLBACK")
    assert edgebench(*command).returncode == 0


def test_a_read_only_database_can_be_read_but_not_written(measured, toy, edgebench):
    made = subprocess.run(["chattr", "+i", measured], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"chattr +i is not possible here: {made.stderr.strip()}")
    try:
        told(edgebench("run", "-m", toy("q2_k", seed=9), *QUICK), 1, "edgebench.sqlite")
        assert edgebench("runs", "list").returncode == 0
    finally:
        subprocess.run(["chattr", "-i", measured], check=True)


def test_a_full_disk_loses_nothing_that_was_stored(toy, edgebench, rows, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "edgebench-test", str(small)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if made.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {made.stderr.strip()}")
    try:
        (small / "ballast").write_bytes(bytes(500_000))
        flags = ("--mode", "performance", "-p", "0", "-n", "4096", "--chat", "0", "-r", "8", "--rounds", "1")
        command = ("run", "-m", toy(), *flags, "--db", "small/e.sqlite")
        told(edgebench(*command), 1, "the disk is full")
        kept = rows(small / "e.sqlite", "SELECT * FROM trial")
        assert kept
        for path in small.glob("e.sqlite*"):  # with the log that could not be folded in
            shutil.copy(path, tmp_path)
        assert rows(tmp_path / "e.sqlite", "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        done = edgebench(*command[:-1], "e.sqlite")
        assert done.returncode == 0, done.stderr
        assert rows(tmp_path / "e.sqlite", "SELECT * FROM trial")[: len(kept)] == kept
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_debug_adds_the_traceback(edgebench):
    done = edgebench("--debug", "suites", "show", "everyda")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
