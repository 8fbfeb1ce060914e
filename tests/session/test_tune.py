"""The best setting, found with the pretend engine: real processes, a real database, known costs."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import click
import pytest

from edgebench.cli import app
from edgebench.core.errors import EdgebenchError

SPACE = ("-ub", "64,512", "-fa", "on,off", "-p", "16", "-n", "4")
UNDER = {
    "n_ubatch=64": {"token_s": 0.003},
    "flash_attn=off": {"token_s": 0.0017},
    "n_ubatch=64,flash_attn=off": {"token_s": 0.001},
}
"""Of four settings one takes half of the default's time."""
TRIALS = "SELECT * FROM trial ORDER BY id"


def told(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def _tuned(tmp_path_factory: Any, edgebench_in: Any, write_toy: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("tuned")
    toy = write_toy(folder, token_s=0.002, under=UNDER)
    done = edgebench_in(folder)("tune", "-m", toy.name, *SPACE, "-o", "json")
    return folder, done


@pytest.fixture
def tuned(_tuned: tuple[Path, Any], tmp_path: Path) -> dict[str, Any]:
    """What was found; the model and the database are in the test's folder."""
    folder, done = _tuned
    for path in folder.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    return told(done)


def test_the_best_setting_is_found_with_its_gain(tuned: dict[str, Any]) -> None:
    assert tuned["best"]["flags"] == "-ub 64 -fa off"
    assert tuned["default"]["flags"] == "-ub 512 -fa on"
    assert tuned["verdict"] == "better"
    ratio = tuned["ratio"]
    assert ratio["ci_low"] < ratio["value"] < ratio["ci_high"] < 0.9
    assert ratio["value"] == pytest.approx(0.5, abs=0.15)
    assert tuned["best"]["settings"]["n_ubatch"] == 64


def test_trials_are_counted_and_few(tuned: dict[str, Any], rows: Any, tmp_path: Path) -> None:
    trials = rows(tmp_path / "edgebench.sqlite", TRIALS)
    assert len(trials) == tuned["n_passes"]
    assert sum(t["phase"] == "measured" for t in trials) == tuned["n_trials"]
    assert (tuned["n_settings"], tuned["n_trials_sweep"]) == (4, 40)
    assert tuned["n_trials"] < 20


def test_every_setting_is_a_complete_run(
    tuned: dict[str, Any], rows: Any, edgebench: Any, tmp_path: Path
) -> None:
    runs = rows(tmp_path / "edgebench.sqlite", "SELECT id, status, config_json, command FROM run")
    assert {run["status"] for run in runs} == {"complete"}
    assert len({json.dumps(json.loads(run["config_json"])["settings"]) for run in runs}) == len(runs) == 4
    shown = told(edgebench("runs", "show", tuned["best"]["run_id"], "-o", "json"))
    assert {f["test"] for f in shown["figures"] if f["metric"] == "total_tokens_per_s"} == {"pp16+tg4"}
    assert "-ub 64 -fa off" in shown["command"]


def test_the_list_of_runs_tells_settings_apart(tuned: dict[str, Any], edgebench: Any) -> None:
    listed = edgebench("runs", "list").stdout
    assert "-ub 64 -fa off" in listed
    assert "pp16+tg4 tune" in listed


def test_trials_never_stand_for_a_level(tuned: dict[str, Any], edgebench: Any, tmp_path: Path) -> None:
    refused = edgebench("compare", "--by", "quant")
    assert refused.returncode == 2
    assert "no complete runs" in refused.stderr
    usual = (
        "run",
        "-m",
        "toy-q8_0.synthetic.json",
        "--mode",
        "performance",
        "-p",
        "8",
        "-n",
        "2",
        "--chat",
        "0",
    )
    assert edgebench(*usual, "-r", "1", "--rounds", "1").returncode == 0
    (row,) = json.loads(edgebench("compare", "--by", "quant", "-o", "json").stdout)
    assert row["settings"]["n_ubatch"] == 512


def test_the_same_command_again_measures_nothing(
    tuned: dict[str, Any], edgebench: Any, rows: Any, tmp_path: Path
) -> None:
    before = rows(tmp_path / "edgebench.sqlite", TRIALS)
    again = told(edgebench("tune", "-m", "toy-q8_0.synthetic.json", *SPACE, "-o", "json"))
    assert rows(tmp_path / "edgebench.sqlite", TRIALS) == before
    assert again == tuned


def test_an_interrupted_search_goes_on_and_equal_settings_leave_the_default(
    toy: Any, start: Any, edgebench: Any, rows: Any, wait_until: Any, tmp_path: Path
) -> None:
    database = tmp_path / "edgebench.sqlite"
    command = ("tune", "-m", toy(token_s=0.01).name, "-fa", "on,off", "-p", "8", "-n", "2")
    running = start(*command)
    wait_until(lambda: database.exists() and rows(database, "SELECT 1 FROM sqlite_master WHERE name='trial'"))
    wait_until(lambda: len(rows(database, TRIALS)) >= 5)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted: what was measured is stored")
    before = rows(database, TRIALS)
    assert "running" not in {r["status"] for r in rows(database, "SELECT status FROM run")}
    done = told(edgebench(*command, "-o", "json"))
    assert rows(database, TRIALS)[: len(before)] == before
    assert done["best"]["flags"] == "-fa on"
    assert done["verdict"] == "the default is as good"
    assert done["ratio"]["value"] == pytest.approx(1, abs=0.1)
    measured = [t for t in rows(database, TRIALS) if t["phase"] == "measured"]
    assert len(measured) == done["n_trials"]  # nothing was done twice


def test_a_setting_that_dies_is_dropped_and_one_that_changes_answers_is_not_taken(
    toy: Any, edgebench: Any
) -> None:
    model = toy(
        token_s=0.004,
        under={
            "type_k=q4_0": {"token_s": 0.001, "seed": 77},
            "flash_attn=off": {"token_s": 0.002, "seed": 0},
            "flash_attn=off,type_k=q4_0": {"dies_after": 2},
        },
    )
    flags = ("-fa", "on,off", "-ctk", "f16,q4_0", "-p", "8", "-n", "2")
    found = told(
        edgebench("tune", "-m", model.name, *flags, "--keep-acc", "0.05", "--limit", "24", "-o", "json")
    )
    assert found["best"]["flags"] == "-fa off -ctk f16"
    assert found["answers"]["n_changed"] == 0
    why = {one["flags"]: one["why"] for one in found["dropped"]}
    assert "answers changed" in why["-fa on -ctk q4_0"]
    assert "the script says: fail now" in why["-fa off -ctk q4_0"]


@pytest.mark.slow
def test_the_least_memory_that_is_not_too_slow(toy: Any, edgebench: Any) -> None:
    model = toy(
        token_s=0.002,
        holds_bytes=60_000_000,
        under={
            "n_ubatch=128": {"holds_bytes": 20_000_000},
            "n_ubatch=64": {"holds_bytes": 0, "token_s": 0.006},
        },
    )
    command = ("tune", "-m", model.name, "--goal", "memory", "-ub", "512,128,64")
    found = told(edgebench(*command, "-p", "16", "-n", "4", "-o", "json"))
    assert found["best"]["flags"] == "-ub 128"
    assert found["settings"][-1]["flags"] == "-ub 64"  # a third of the memory, three times the time
    assert found["ratio"]["value"] < 0.8


def test_a_default_that_can_not_be_measured_ends_it(toy: Any, edgebench: Any) -> None:
    done = edgebench("tune", "-m", toy(dies_after=1).name, *SPACE)
    assert done.returncode == 1
    assert "the default setting can't be measured: the script says: fail now" in done.stderr


def test_a_dry_run_lists_the_settings(toy: Any, edgebench: Any, tmp_path: Path) -> None:
    done = edgebench("tune", "-m", toy().name, *SPACE, "--dry-run", "-o", "json")
    listed = json.loads(done.stdout)
    assert len(listed) == 4
    assert [row["flags"] for row in listed if row["default"]] == ["-ub 512 -fa on"]
    assert "4 settings" in done.stderr
    assert not (tmp_path / "edgebench.sqlite").exists()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--tune", "t,uub"), 2, ("unknown setting to tune 'uub'", "did you mean ub")),
        (("--tune", "kv,ctk"), 2, ("kv moves both cache types together",)),
        (("-t", "1", "-ub", "512", "-fa", "on"), 2, ("nothing to choose from", "--tune t,ub,fa")),
        (
            ("-fa", "off", "-ctv", "q8_0,q4_0", "-t", "1", "-ub", "64"),
            2,
            ("-fa off with a quantized -ctv is left out",),
        ),
        (("--goal", "energy", "--energy", "none"), 1, ("no joules to tune for",)),
        (("--goal", "energy"), 1, ("no joules to tune for", "no_sensor")),
        (("-m", "a.synthetic.json,b.synthetic.json"), 2, ("one file is tuned at a time",)),
        (("-fa", "maybe"), 2, ("'maybe' is not one of on, off, auto",)),
        (("-t", "0,1"), 2, ("0 is below 1",)),
        (("--keep-acc", "0.05", "--suite", "everydy"), 2, ("everydy",)),
    ],
)
def test_what_can_not_be_tuned_is_refused_before_anything_is_measured(
    toy: Any, monkeypatch: Any, tmp_path: Path, flags: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    (tmp_path / "sys").mkdir()
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(tmp_path / "sys"))
    with pytest.raises((EdgebenchError, click.ClickException)) as refused:
        app.main(["tune", "-m", toy().name, *flags], prog_name="edgebench", standalone_mode=False)
    error = refused.value
    assert error.exit_code == code
    for word in words:
        assert word in f"{error.message} {getattr(error, 'hint', '')}"
    assert not (tmp_path / "edgebench.sqlite").exists()
