"""The phones' program on this computer: from a request to rows, beside the engine in-process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ASKED = ("--suite", "everyday", "--limit", "48", "--mode", "accuracy", "-m", "smollm2-135m", "-t", "2")
TIMED = ("-p", "32", "-n", "8", "--chat", "4", "-r", "2", "--rounds", "2", "--mode", "performance", "-t", "1")


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], native_program: object
) -> Path:
    """A folder where the same questions were answered in-process and by the program; not to be changed."""
    folder = tmp_path_factory.mktemp("native")
    run = edgebench_in(folder)
    for words in (
        ("run", *ASKED),
        ("run", "--runner", "llama_native", *ASKED),
        ("run", "--runner", "llama_native", "-m", "smollm2-135m", *TIMED),
    ):
        done = run(*words, timeout=400)
        assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_answers_are_those_of_the_engine_in_process(measured: Path, rows: Callable[..., Any]) -> None:
    """Both evaluate the same batches; what is left is what other instructions round otherwise."""
    sql = (
        "SELECT runner, question_id, repeat, choice_index, group_sha256, n_prompt FROM answer"
        " JOIN run ON run.id = run_id ORDER BY question_id, repeat"
    )
    found = rows(measured / "edgebench.sqlite", sql)
    ours = [row for row in found if row["runner"] == "llama_native"]
    theirs = [row for row in found if row["runner"] != "llama_native"]
    assert len(ours) == len(theirs) == len(found) / 2 >= 48
    same = sum(a["choice_index"] == b["choice_index"] for a, b in zip(ours, theirs, strict=True))
    assert same / len(ours) >= 0.99
    for name in ("group_sha256", "n_prompt", "question_id"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]


def test_engines_can_be_compared(measured: Path, edgebench_in: Callable[..., Any]) -> None:
    done = edgebench_in(measured)("compare", "--by", "engine", "-o", "md")
    assert done.returncode == 0, done.stderr
    assert "llama_native" in done.stdout
    assert "PASS" in done.stdout


def test_speed_is_stored_as_any_engines(measured: Path, rows: Callable[..., Any]) -> None:
    trials = rows(measured / "edgebench.sqlite", "SELECT * FROM trial WHERE phase = 'measured'")
    assert {(t["test"], t["round_index"], t["repetition"]) for t in trials} == {
        (test, round_index, repetition)
        for test in ("pp32", "tg8", "chat4")
        for round_index in (0, 1)
        for repetition in (0, 1)
    }
    assert all(trial["total_s"] > 0 and trial["peak_rss_bytes"] > 90e6 for trial in trials)
    assert all(trial["kv_cache_bytes"] for trial in trials)
    assert {trial["energy_j"] for trial in trials} == {None}
    times = rows(measured / "edgebench.sqlite", "SELECT count(*) AS n FROM token_time")
    assert times[0]["n"] >= 4 * (8 + 4)
    engines = rows(measured / "edgebench.sqlite", "SELECT engine_json FROM run WHERE runner = 'llama_native'")
    assert all("system_info" in row["engine_json"] for row in engines)


def test_the_same_command_again_measures_nothing(
    measured: Path, edgebench_in: Callable[..., Any], rows: Callable[..., Any]
) -> None:
    before = rows(measured / "edgebench.sqlite", "SELECT count(*) AS n FROM trial")
    done = edgebench_in(measured)("run", "--runner", "llama_native", "-m", "smollm2-135m", *TIMED)
    assert done.returncode == 0, done.stderr
    assert rows(measured / "edgebench.sqlite", "SELECT count(*) AS n FROM trial") == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--provider", "cuda"), "--provider"),
        (("--scorer", "generate", "--suite", "everyday"), "generate"),
        (("-C", "all", "-t", "2"), "hexadecimal"),
        (("--device", "pixel8", "--runner", "torch"), "needs the whole of edgebench"),
    ],
)
def test_what_the_program_can_not_do_is_told_in_a_line(
    edgebench: Callable[..., Any], native_program: object, more: tuple[str, ...], said: str
) -> None:
    done = edgebench("run", "--runner", "llama_native", "-m", "smollm2-135m", *more)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
