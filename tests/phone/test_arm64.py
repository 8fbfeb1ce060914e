"""An arm64 phone, through qemu: slow, so a tiny model, once; and a phone whose system promises too much."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in.phone import Phone
from stand_in.root_tree import FEATURES

from edgebench.runners.native_build import build, built
from edgebench.runners.native_target import Toolchain, level_for, missing_toolchain

pytestmark = [pytest.mark.engine, pytest.mark.slow]
TARGET, ABI = "android-arm64", "arm64-v8a"
LEVEL, PLAIN = level_for(TARGET, FEATURES.split()), level_for(TARGET, ())
"""For what the phone says of its processor, and for any of its kind."""
QUICK = ("-p", "4", "-n", "2", "--chat", "0", "-r", "1", "--rounds", "1", "-t", "1")
QUESTIONS = ("--suite", "everyday", "--limit", "8")
MODEL = "tiny-q8_0.gguf"


@pytest.fixture(scope="module")
def programs() -> None:
    """The native program of both levels: the cache's, whoever compiled it, else made by the cross gcc."""
    for level in (LEVEL, PLAIN):
        if built(TARGET, level) is not None:
            continue
        if lacks := missing_toolchain("arm64", Toolchain.GCC):
            pytest.skip(f"no program for {TARGET} {level} in the cache, and {'; '.join(lacks)}")
        build(TARGET, level, toolchain=Toolchain.GCC, say=print)


@pytest.fixture(scope="module")
def folder(
    tiny_checkpoint: Path,
    edgebench_in: Callable[[Path], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model of two layers in 8 bits, whose sums newer processors have instructions for."""
    folder = tmp_path_factory.mktemp("arm64")
    levels = ("--to", "q8_0", "--check-chunks", "1", "-t", "1")
    done = edgebench_in(folder)("quantize", tiny_checkpoint, *levels, "--out", ".", timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def arm64(programs: None, make_phone: Callable[..., Phone]) -> Callable[..., Phone]:
    """`arm64(cpu=…)`: a phone for which there is a program."""

    def make(**kwargs: Any) -> Phone:
        return make_phone(abi=ABI, **kwargs)

    return make


def test_one_command_measures_a_model_on_an_arm64_phone(
    arm64: Callable[..., Phone],
    folder: Path,
    edgebench: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    phone, model = arm64(), folder / MODEL
    done = edgebench(
        *("run", "--device", f"adb:{phone.serial}", "-m", model, *QUICK, *QUESTIONS), timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    done = edgebench("run", "-m", model, "--mode", "accuracy", *QUESTIONS, "-t", "1", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]

    database = tmp_path / "edgebench.sqlite"
    runs = rows(database, "SELECT * FROM run WHERE runner = 'llama_native'")
    assert {(run["mode"], run["status"], run["evidence"]) for run in runs} == {
        ("performance", "complete", "synthetic"),
        ("accuracy", "complete", "synthetic"),
    }
    assert "NEON" in runs[0]["engine_json"]
    trials = rows(database, "SELECT * FROM trial WHERE phase = 'measured'")
    assert {trial["test"] for trial in trials} == {"pp4", "tg2"}
    assert all(trial["total_s"] > 0 and trial["peak_rss_bytes"] > 2**20 for trial in trials)
    windows = rows(database, "SELECT * FROM energy_window WHERE kind = 'test' AND source = 'rails'")
    assert {window["test"] for window in windows} == {"pp4", "tg2"}
    assert all(window["energy_j"] > 1 for window in windows)

    there, here = (_answers(rows, database, f"runner {how} 'llama_native'") for how in ("=", "!="))
    assert len(there) == len(here) == 8
    for one, other in zip(there, here, strict=True):
        for name in ("question_id", "group_sha256", "n_prompt", "choice_index"):
            assert one[name] == other[name]
        # Other instructions sum in another order.
        assert json.loads(one["logprobs_json"]) == pytest.approx(json.loads(other["logprobs_json"]), abs=1e-4)


def test_a_processor_that_lacks_what_its_system_promises_is_told_and_can_be_helped(
    arm64: Callable[..., Phone],
    folder: Path,
    edgebench: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    phone = arm64(cpu="cortex-a53")
    asked = ("run", "--device", f"adb:{phone.serial}", "-m", folder / MODEL, "--mode", "performance", *QUICK)
    failed = edgebench(*asked, timeout=600)
    assert failed.returncode == 1, failed.stderr[-4000:]
    told = [line for line in failed.stderr.splitlines() if "SIGILL" in line]
    assert told
    assert all(f"EDGEBENCH_NATIVE_LEVEL={PLAIN}" in line for line in told)
    [run] = rows(tmp_path / "edgebench.sqlite", "SELECT * FROM run")
    assert run["status"] == "failed"
    assert not rows(tmp_path / "edgebench.sqlite", "SELECT * FROM trial WHERE phase = 'measured'")

    wrong = edgebench(*asked, env={"EDGEBENCH_NATIVE_LEVEL": "armv8"}, timeout=600)
    assert wrong.returncode == 2
    assert PLAIN in wrong.stderr
    helped = edgebench(*asked, env={"EDGEBENCH_NATIVE_LEVEL": PLAIN}, timeout=600)
    assert helped.returncode == 0, helped.stderr[-4000:]
    runs = rows(tmp_path / "edgebench.sqlite", "SELECT status, evidence FROM run ORDER BY started_at")
    told = [(run["status"], run["evidence"]) for run in runs]
    assert told == [("failed", "synthetic"), ("complete", "synthetic")]  # other instructions, another run


def _answers(rows: Callable[..., Any], database: Path, which: str) -> list[dict[str, Any]]:
    sql = (
        "SELECT question_id, group_sha256, n_prompt, choice_index, logprobs_json FROM answer"
        f" JOIN run ON run.id = run_id WHERE {which} ORDER BY question_id, repeat"
    )
    found: list[dict[str, Any]] = rows(database, sql)
    return found
