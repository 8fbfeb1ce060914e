"""A matrix of runs from one file."""

import json

import pytest

PLAN = """
model = "toy-q8_0.synthetic.json"
mode = "performance"
n-prompt = 8
n-gen = 4
chat = 0
repetitions = 1
rounds = 1
[matrix]
threads = [1, 2]
flash-attn = ["on", "off"]
"""
SETTINGS = (
    "SELECT json_extract(config_json, '$.settings.n_threads') AS threads,"
    " json_extract(config_json, '$.settings.flash_attn') AS fa, status FROM run ORDER BY id"
)
MATRIX = [(1, "on"), (1, "off"), (2, "on"), (2, "off")]


@pytest.fixture
def plan(tmp_path, toy):
    toy()

    def write(text=PLAN):
        (tmp_path / "plan.toml").write_text(text)
        return "plan.toml"

    return write


def test_every_combination_is_one_run(plan, edgebench, rows, tmp_path):
    done = edgebench("sweep", plan())
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "edgebench.sqlite", SETTINGS)
    assert [(r["threads"], r["fa"]) for r in found] == MATRIX
    assert {r["status"] for r in found} == {"complete"}
    assert edgebench("sweep", "plan.toml").returncode == 0
    assert rows(tmp_path / "edgebench.sqlite", SETTINGS) == found


def test_a_dry_run_shows_all_and_does_nothing(plan, edgebench, tmp_path):
    done = edgebench("sweep", plan(), "--dry-run", "-o", "json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 4
    assert not (tmp_path / "edgebench.sqlite").exists()


def test_the_plan_wins_over_variables_as_the_same_flags_would(plan, edgebench, rows, tmp_path):
    env = {"EDGEBENCH_RUN_THREADS": "7", "EDGEBENCH_RUN_FLASH_ATTN": "auto", "EDGEBENCH_RUN_SEED": "5"}
    assert edgebench("sweep", plan(), env=env).returncode == 0
    found = rows(tmp_path / "edgebench.sqlite", SETTINGS)
    assert [(r["threads"], r["fa"]) for r in found] == MATRIX
    assert {r["seed"] for r in rows(tmp_path / "edgebench.sqlite", "SELECT seed FROM run")} == {5}


def test_switches_and_lists_can_be_swept(plan, edgebench, toy, tmp_path):
    toy("q4_0", seed=2)
    text = PLAN.partition("[matrix]")[0].replace('model = "toy-q8_0.synthetic.json"\n', "")
    text += (
        '[matrix]\nmmap = [true, false]\nmodel = [["toy-q8_0.synthetic.json", "toy-q4_0.synthetic.json"]]\n'
    )
    done = edgebench("sweep", plan(text), "--dry-run", "-o", "json")
    assert [row["level"] for row in json.loads(done.stdout)] == ["q8_0", "q4_0"] * 2


@pytest.mark.parametrize("script", [None, '{"dies_after": 1}', '{"dies_after": 2, "how": "kill"}'])
def test_a_combination_that_fails_does_not_stop_the_rest(plan, edgebench, rows, tmp_path, script):
    """The bad file comes first; it is absent, refuses, or takes its process down."""
    if script:
        (tmp_path / "bad-q8_0.synthetic.json").write_text(script)
    models = '["bad-q8_0.synthetic.json", "toy-q8_0.synthetic.json"]'
    text = PLAN.replace('model = "toy-q8_0.synthetic.json"\n', "").partition("[matrix]")[0]
    done = edgebench("sweep", plan(f"{text}[matrix]\nmodel = {models}\nthreads = [1, 2]\n"), "-o", "json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    shown = [(row["model"], row["settings"]["n_threads"]) for row in json.loads(done.stdout)]
    assert shown == [("toy", 1), ("toy", 2)]
    complete = [
        r["threads"] for r in rows(tmp_path / "edgebench.sqlite", SETTINGS) if r["status"] == "complete"
    ]
    assert complete == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAN.replace("n-gen", "n-gne"), ("no option n-gne", "n-gen")),
        (PLAN.replace("threads =", "thraeds ="), ("no option thraeds", "threads")),
        (PLAN.replace("[1, 2]", "[]"), ("matrix.threads must be a list with something in it",)),
        (PLAN.replace("[1, 2]", "2"), ("matrix.threads must be a list",)),
        (PLAN.replace("[1, 2]", '["many"]'), ("many", "threads")),
        (PLAN + "[more]\nx = 1\n", ("unknown table [more]",)),
        (PLAN + "[matrix", ("not valid TOML",)),
        (PLAN.replace('"toy-q8_0.synthetic.json"', '"smolm2"'), ("unknown model 'smolm2'",)),
        (f"{PLAN}seed = {list(range(400))}\n", ("1600 combinations", "at most 1000")),
        ("matrix = 3\n", ("matrix",)),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(plan, edgebench, tmp_path, text, words):
    done = edgebench("sweep", plan(text))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "edgebench.sqlite").exists()


def test_a_plan_that_is_not_there_is_named(edgebench):
    done = edgebench("sweep", "absent.toml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no sweep plan at absent.toml")
