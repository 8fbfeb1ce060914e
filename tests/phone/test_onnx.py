"""An ONNX folder on a phone: ONNX Runtime's own library with its C library beside it, on the stand-in."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from stand_in.phone import Phone

from edgebench.core.errors import MissingDependency
from edgebench.runners import native_onnx
from edgebench.runners.native_target import Toolchain, missing_toolchain

pytestmark = [pytest.mark.engine, pytest.mark.slow]
TARGET = "android-x86_64"
QUICK = ("-p", "32", "-n", "8", "--chat", "4", "-r", "2", "--rounds", "1", "-t", "1")
QUESTIONS = ("--suite", "everyday", "--limit", "8")
ROOT = "/data/local/tmp/edgebench"


@pytest.fixture(scope="module", autouse=True)
def program() -> native_onnx.OnnxBuilt:
    """Everything the phone needs, made once into the developer's cache, before any phone waits for it."""
    found = native_onnx.built(TARGET)
    if found is not None:
        return found
    if lacks := missing_toolchain("x86_64", Toolchain.GCC):
        pytest.skip(f"no ONNX program in the cache, and {'; '.join(lacks)}")
    try:
        return native_onnx.build(TARGET, say=print)
    except MissingDependency as error:
        pytest.skip(f"the ONNX program is not there and can't be made: {error.message}")


@pytest.fixture(scope="module")
def models(
    tiny_checkpoint: Path,
    export_tool: object,
    genai_tool: object,
    edgebench_in: Callable[[Path], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A tiny model of two layers as graphs: one with its weights inside, one with them beside it."""
    folder = tmp_path_factory.mktemp("onnx")
    levels = ("--to", "onnx-fp32,genai-int4", "--check-chunks", "1", "-t", "1")
    done = edgebench_in(folder)("quantize", tiny_checkpoint, *levels, "--out", ".", timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def test_one_command_measures_everything_of_an_onnx_folder_on_a_phone(
    phone: Phone,
    models: Path,
    program: native_onnx.OnnxBuilt,
    edgebench: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    model = models / "tiny-onnx-fp32"
    asked = ("run", "-m", model, *QUICK, *QUESTIONS)
    done = edgebench(*asked, "--device", "pixel8", timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    database = tmp_path / "edgebench.sqlite"
    runs = rows(database, "SELECT * FROM run")
    assert {(run["mode"], run["runner"], run["status"], run["evidence"]) for run in runs} == {
        (mode, "onnx_native", "complete", "synthetic") for mode in ("performance", "accuracy")
    }
    trials = rows(database, "SELECT * FROM trial WHERE phase = 'measured'")
    counted = [trial for trial in trials if trial["repetition"] < 2]
    assert sorted((trial["test"], trial["repetition"]) for trial in counted) == [
        (test, repetition) for test in ("chat4", "pp32", "tg8") for repetition in (0, 1)
    ]
    library_bytes = program.files[native_onnx.LIBRARY].stat().st_size
    assert all(trial["peak_rss_bytes"] > library_bytes for trial in trials)
    assert all(20 < trial["temperature_start_c"] < 60 for trial in trials)
    check_rails(phone, rows, database)
    assert {path.name for path in phone.path(f"{ROOT}/models").glob("*/*")} == {model.name}
    assert not list(phone.path(f"{ROOT}/batches").iterdir())

    again = edgebench(*asked, "--device", "pixel8", timeout=400)
    assert again.returncode == 0, again.stderr[-4000:]
    assert rows(database, "SELECT * FROM trial WHERE phase = 'measured'") == trials
    assert len(rows(database, "SELECT * FROM answer")) == 8

    here = edgebench(*asked, "--runner", "onnx", timeout=400)
    assert here.returncode == 0, here.stderr[-4000:]
    check_answers(rows, database)
    sql = (
        "SELECT DISTINCT runner, n_prompt, n_gen FROM trial JOIN run ON run.id = run_id WHERE test = 'chat4'"
    )
    found = {row["runner"]: (row["n_prompt"], row["n_gen"]) for row in rows(database, sql)}
    assert found["onnx_native"] == found["onnx"]  # the phone is asked in tokens, by the model's template
    assert found["onnx"][0] > 4


def test_a_graph_whose_weights_lie_beside_it_comes_whole(
    phone: Phone, models: Path, edgebench: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    model = models / "tiny-genai-int4"
    asked = ("run", "-m", model, "--mode", "accuracy", *QUESTIONS, "-t", "1")
    for more in (("--device", "pixel8"), ("--runner", "onnx")):
        done = edgebench(*asked, *more, timeout=400)
        assert done.returncode == 0, done.stderr[-4000:]
    check_answers(rows, tmp_path / "edgebench.sqlite")
    [there] = phone.path(f"{ROOT}/models").glob(f"*/{model.name}")
    sizes = {path.name: path.stat().st_size for path in there.iterdir()}
    assert len([name for name in sizes if name.startswith("model.onnx")]) > 1
    assert sizes == {name: (model / name).stat().st_size for name in sizes}


def check_rails(phone: Phone, rows: Callable[..., Any], database: Path) -> None:
    """The tests' joules, within 10 % of what the stand-in really used in those very windows."""
    boot_s = time.time() - phone.uptime_s()
    windows = rows(
        database,
        "SELECT w.*, r.started_at FROM energy_window w JOIN run r ON r.id = w.run_id"
        " WHERE w.kind = 'test' AND w.source = 'rails'",
    )
    assert {window["test"] for window in windows} == {"pp32", "tg8", "chat4"}
    truths_j = []
    for window in windows:
        began_s = datetime.fromisoformat(window["started_at"]).timestamp() - boot_s
        truths_j.append(phone.truth_j(began_s + window["start_s"], began_s + window["end_s"]))
        # On a busy machine the stand-in's rails are late at times: what one window lacks, the next one has.
        assert window["energy_j"] == pytest.approx(truths_j[-1], rel=0.25), window
    assert sum(window["energy_j"] for window in windows) == pytest.approx(sum(truths_j), rel=0.1)


def check_answers(rows: Callable[..., Any], database: Path) -> None:
    """The phone's answers are those of this computer's engine on the same folder."""
    sql = (
        "SELECT runner, question_id, group_sha256, n_prompt, choice_index, logprobs_json FROM answer"
        " JOIN run ON run.id = run_id ORDER BY question_id, repeat"
    )
    found = rows(database, sql)
    there = [row for row in found if row["runner"] == "onnx_native"]
    here = [row for row in found if row["runner"] == "onnx"]
    assert len(there) == len(here) == 8
    for one, other in zip(there, here, strict=True):
        for name in ("question_id", "group_sha256", "n_prompt", "choice_index"):
            assert one[name] == other[name]
        assert json.loads(one["logprobs_json"]) == pytest.approx(json.loads(other["logprobs_json"]), abs=1e-5)
