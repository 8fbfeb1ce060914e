"""`edgebench run --device pixel8`, as a user types it, on a stand-in: real adb, real adbd, known joules."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from stand_in.phone import Phone

from edgebench.core.cpu import cpu_flags
from edgebench.runners.native_target import level_for
from edgebench.session_models import resolve

pytestmark = [pytest.mark.engine, pytest.mark.slow]
MODEL = "smollm2-135m"
QUICK = ("-p", "0", "-n", "16", "--chat", "0", "-r", "2", "--rounds", "1", "-t", "2")
SPEED = ("run", "--device", "pixel8", "-m", MODEL, "--mode", "performance", *QUICK)
ACCURACY = ("run", "--device", "pixel8", "-m", MODEL, "--mode", "accuracy", "--suite", "everyday", "-t", "2")
ROOT = "/data/local/tmp/edgebench"
SOURCES = {"rails", "charge_counter", "current_voltage"}


@pytest.fixture(autouse=True)
def _program(native_program: object) -> None:
    """The program is built, once, before any phone waits for it."""


@pytest.fixture
def phone_run(phone: Phone, edgebench: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: object, **kwargs: Any) -> Any:
        return edgebench(*args, timeout=400, **kwargs)

    return call


@pytest.fixture
def background(phone: Phone, start: Callable[..., Any]) -> Callable[..., Any]:
    """A command that is started and left, until the test looks at it again."""
    return start


def until(condition: Callable[[], object], within_s: float = 120) -> None:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"it did not happen within {within_s:.0f} s")


def batches(phone: Phone) -> list[Path]:
    folder = phone.path(f"{ROOT}/batches")
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_at_work(phone: Phone) -> bool:
    return any((job / "out.jsonl").exists() for batch in batches(phone) for job in batch.glob("jobs/*"))


def finished(process: "subprocess.Popen[str]", within_s: float = 300) -> str:
    """What it said; it has to end well."""
    out, err = process.communicate(timeout=within_s)
    assert process.returncode == 0, err[-4000:]
    return out + err


def speed_of(phone: Phone) -> list[str]:
    """SPEED of this very phone, where there are others."""
    return [f"adb:{phone.serial}" if word == "pixel8" else word for word in SPEED]


def measured(rows: Callable[..., Any], database: Path) -> list[dict[str, Any]]:
    sql = "SELECT run_id, test, repetition, round_index FROM trial WHERE phase = 'measured' ORDER BY id"
    found: list[dict[str, Any]] = rows(database, sql)
    return found


def test_one_command_measures_everything_of_a_model_on_a_phone(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    command = ("run", "--device", "pixel8", "-m", MODEL, "--suite", "everyday", "--limit", "24")
    quick = ("-p", "64", "-n", "16", "--chat", "8", "-r", "2", "--rounds", "1")
    done = phone_run(*command, *quick)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "threads:" in done.stderr  # they were tried out
    assert "Pixel 8" in done.stdout + done.stderr
    database = tmp_path / "edgebench.sqlite"
    runs = rows(database, "SELECT id, mode, status, evidence, runner, timing_source, started_at FROM run")
    assert {(run["status"], run["evidence"], run["runner"]) for run in runs} == {
        ("complete", "synthetic", "llama_native")
    }
    assert {run["mode"] for run in runs} == {"performance", "accuracy"}
    trials = rows(database, "SELECT * FROM trial WHERE phase = 'measured'")
    assert {trial["test"] for trial in trials} >= {"pp64", "tg16", "chat8"}
    assert all(trial["peak_rss_bytes"] > 100e6 for trial in trials)
    assert all(20 < trial["temperature_start_c"] < 60 for trial in trials)
    assert len(rows(database, "SELECT DISTINCT question_id FROM answer")) == 24
    check_energy(phone, rows, database)
    assert phone.settings()["global.stay_on_while_plugged_in"] == "0"
    assert "input keyevent 223" in phone.shim_log()
    assert phone.shim_log().splitlines()[-1] == "input keyevent 224"  # the screen is on again
    assert not batches(phone)

    told = phone_run("reproduce", runs[0]["id"])
    assert told.stdout.startswith("edgebench run --device pixel8 ")
    assert "it ran on a phone" in told.stderr
    assert "differs: cpu" not in told.stderr  # a phone's facts beside this computer's say nothing

    again = phone_run(*command, *quick)
    assert again.returncode == 0, again.stderr[-4000:]
    assert len(rows(database, "SELECT id FROM trial")) == len(rows(database, "SELECT DISTINCT id FROM trial"))
    assert rows(database, "SELECT count(*) AS n FROM trial WHERE phase = 'measured'")[0]["n"] == len(trials)
    ranked = phone_run("pareto", "-o", "json")
    assert not [row for row in json.loads(ranked.stdout or "[]") if row.get("rank") is not None]


def check_energy(phone: Phone, rows: Callable[..., Any], database: Path) -> None:
    """Three sources, each within 10 % of what the stand-in really used in the very same windows.

    A single one may be off by more on a busy machine, where the stand-in's battery is shown late.
    """
    boot_s = time.time() - phone.uptime_s()
    sql = (
        "SELECT w.source, w.start_s, w.end_s, w.energy_j, r.started_at FROM energy_window w"
        " JOIN run r ON r.id = w.run_id WHERE w.kind = 'test'"
    )
    told_j, true_j = dict.fromkeys(SOURCES, 0.0), dict.fromkeys(SOURCES, 0.0)
    windows = rows(database, sql)
    assert {window["source"] for window in windows} == SOURCES
    for window in windows:
        began_s = datetime.fromisoformat(window["started_at"]).timestamp() - boot_s
        truth_j = phone.truth_j(began_s + window["start_s"], began_s + window["end_s"])
        assert window["energy_j"] == pytest.approx(truth_j, rel=0.25), window
        told_j[window["source"]] += window["energy_j"]
        true_j[window["source"]] += truth_j
    for source in SOURCES:
        assert told_j[source] == pytest.approx(true_j[source], rel=0.1), source


def test_a_cut_cable_and_a_killed_laptop_lose_nothing_and_measure_nothing_twice(
    phone: Phone,
    background: Callable[..., Any],
    phone_run: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    process = background(*SPEED, "-r", "3")
    until(lambda: is_at_work(phone))
    phone.cut()
    process.kill()
    process.communicate()
    time.sleep(5)  # it works on, alone
    phone.mend()
    done = phone_run(*SPEED, "-r", "3")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "earlier command" in done.stderr
    counted = measured(rows, tmp_path / "edgebench.sqlite")
    named = [(row["test"], row["repetition"], row["round_index"]) for row in counted]
    assert len(named) == len(set(named))
    assert {name for name, *_ in named} == {"tg16"}


def test_a_link_that_comes_back_is_waited_for(
    phone: Phone, background: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    process = background(*SPEED)
    until(lambda: is_at_work(phone))
    phone.cut()
    time.sleep(3)
    phone.mend()
    finished(process)
    assert measured(rows, tmp_path / "edgebench.sqlite")


def test_a_link_that_is_cut_in_the_middle_of_a_push_goes_on_where_it_was(
    phone: Phone, background: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    subprocess.run(["rm", "-rf", phone.path(ROOT)], check=True)
    process = background(*SPEED)
    folder = phone.path(f"{ROOT}/models")
    until(lambda: any(path.stat().st_size > 2**20 for path in folder.glob("*/*")))
    phone.cut()
    time.sleep(2)
    phone.mend()
    finished(process)
    assert measured(rows, tmp_path / "edgebench.sqlite")


def test_answers_are_collected_as_they_come_through_a_restart_of_adbd(
    phone: Phone, background: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    process = background(*ACCURACY, "--limit", "32")
    until(lambda: is_at_work(phone))
    subprocess.run(["adb", "-s", phone.serial, "shell", "pkill -9 adbd"], timeout=30, check=False)
    finished(process)
    database = tmp_path / "edgebench.sqlite"
    found = rows(database, "SELECT question_id, count(*) AS n FROM answer GROUP BY question_id, repeat")
    assert len({row["question_id"] for row in found}) == 32


def test_a_phone_that_goes_down_in_the_middle_of_its_answers_is_gone_on_with(
    phone: Phone,
    background: Callable[..., Any],
    phone_run: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    process = background(*ACCURACY)
    until(
        lambda: any(
            b'"type":"group"' in f.read_bytes() for b in batches(phone) for f in b.glob("jobs/*/out.jsonl")
        )
    )
    phone.stop()
    process.kill()
    process.communicate()
    phone.start()
    done = phone_run(*ACCURACY)
    assert done.returncode == 0, done.stderr[-4000:]
    database = tmp_path / "edgebench.sqlite"
    twice = rows(database, "SELECT question_id FROM answer GROUP BY question_id, repeat HAVING count(*) > 1")
    assert not twice
    assert {row["status"] for row in rows(database, "SELECT status FROM run")} == {"complete"}


def test_ctrl_c_stops_what_runs_there_and_the_same_command_goes_on(
    phone: Phone,
    background: Callable[..., Any],
    phone_run: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    process = background(*SPEED)
    until(lambda: is_at_work(phone))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-2000:]
    assert phone.settings()["global.stay_on_while_plugged_in"] == "0"
    assert (
        "edgebench-native"
        not in subprocess.run(
            ["adb", "-s", phone.serial, "shell", "ps -A"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout
    )
    done = phone_run(*SPEED)
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_same_program_answers_alike_here_and_there(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    asked = ("-m", MODEL, "--mode", "accuracy", "--suite", "everyday", "--limit", "32", "-t", "2")
    for words in (("--device", "pixel8"), ("--runner", "llama_native"), ()):
        done = phone_run("run", *words, *asked)
        assert done.returncode == 0, done.stderr[-4000:]
    sql = (
        "SELECT evidence, runner, question_id, repeat, choice_index, logprobs_json, group_sha256 FROM answer"
        " JOIN run ON run.id = run_id ORDER BY question_id, repeat"
    )
    found = rows(tmp_path / "edgebench.sqlite", sql)
    there = [row for row in found if row["evidence"] == "synthetic"]
    here = [row for row in found if row["evidence"] != "synthetic" and row["runner"] == "llama_native"]
    assert len(there) == len(here) >= 32
    # The very same program and instructions: not even the last digit differs.
    for name in ("question_id", "repeat", "choice_index", "logprobs_json", "group_sha256"):
        assert [row[name] for row in there] == [row[name] for row in here]
    compared = phone_run("compare", "--by", "device", "-o", "md")
    assert compared.returncode == 0, compared.stderr
    assert "PASS" in compared.stdout
    assert "answers agree" in compared.stderr


def test_without_room_for_the_files_nothing_is_sent(
    make_phone: Callable[..., Phone], edgebench: Callable[..., Any]
) -> None:
    phone = make_phone(disk_bytes=64 * 2**20)
    done = edgebench(*speed_of(phone), timeout=200)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "storage free" in done.stderr
    assert "devices clean" in done.stderr
    assert not phone.path(f"{ROOT}/models").exists()


def test_a_model_that_memory_has_no_room_for_is_not_even_sent(
    make_phone: Callable[..., Phone], edgebench: Callable[..., Any]
) -> None:
    meminfo = "MemTotal:        8388608 kB\nMemFree:           65536 kB\nMemAvailable:      65536 kB\n"
    phone = make_phone(proc={"meminfo": meminfo})
    done = edgebench(*speed_of(phone), timeout=200)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "of memory free now" in done.stderr


def test_a_program_that_runs_out_of_memory_fails_its_run_and_says_so(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    phone.set(memory_bytes=96 * 2**20)
    done = phone_run(*SPEED, "--no-mmap")  # mapped, it would page, and be invalid
    assert done.returncode == 1, done.stderr[-2000:]
    assert "out of memory" in done.stderr
    assert rows(tmp_path / "edgebench.sqlite", "SELECT status FROM run")[0]["status"] == "failed"
    phone.set(memory_bytes=2**40)
    again = phone_run(*SPEED, "--no-mmap")
    assert again.returncode == 0, again.stderr[-2000:]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"charging": True, "rails": False}, "plugged_in"),
        ({"readable": False, "rails": False, "dumpsys": {"battery": "garbage"}}, None),
    ],
    ids=["charging", "unreadable"],
)
def test_without_a_usable_meter_there_is_no_figure_and_the_reason_is_kept(
    phone: Phone,
    phone_run: Callable[..., Any],
    rows: Callable[..., Any],
    tmp_path: Path,
    fault: dict[str, Any],
    reason: str | None,
) -> None:
    phone.set(**fault)
    done = phone_run(*SPEED)
    assert done.returncode == 0, done.stderr[-2000:]
    trials = rows(tmp_path / "edgebench.sqlite", "SELECT energy_j, energy_reason FROM trial")
    assert {trial["energy_j"] for trial in trials} == {None}
    reasons = {trial["energy_reason"] for trial in trials}
    assert reasons == {reason} if reason else not reasons & {None, "plugged_in"}


def test_rails_are_valid_while_a_charger_is_in(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    phone.set(charging=True)
    done = phone_run(*SPEED)
    assert done.returncode == 0, done.stderr[-2000:]
    windows = rows(tmp_path / "edgebench.sqlite", "SELECT source, energy_j FROM energy_window")
    assert {window["source"] for window in windows} == {"rails"}
    assert all(window["energy_j"] > 1 for window in windows)


def test_milliamperes_above_zero_are_recognised(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    phone.set(milliamps=True, positive=True, rails=False, charge_step_uah=1000)
    done = phone_run(*SPEED)
    assert done.returncode == 0, done.stderr[-2000:]
    database = tmp_path / "edgebench.sqlite"
    sql = "SELECT energy_j, end_s - start_s AS length_s FROM energy_window WHERE source = 'current_voltage'"
    windows = rows(database, sql)
    assert windows
    assert all(0.5 < window["energy_j"] / window["length_s"] < 8 for window in windows)


def test_a_phone_that_throttles_or_lies_about_its_heat_is_flagged_or_none(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    phone.set(throttle_at_c=20.0)
    done = phone_run(*SPEED)
    assert done.returncode == 0, done.stderr[-2000:]
    flags = rows(
        tmp_path / "edgebench.sqlite", "SELECT throttled, flags_json FROM trial WHERE phase = 'measured'"
    )
    assert all(row["throttled"] == 1 and "throttled" in row["flags_json"] for row in flags)


def test_garbage_in_dumpsys_yields_nothing_and_breaks_nothing(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    junk = "\x00\x1b[31m'; rm -rf / #\n" + "Temperature{mValue=NaN, mType=3\n" * 50
    phone.set(hal_ready=False, rails=False, dumpsys={"thermalservice": junk, "battery": junk})
    done = phone_run(*SPEED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows(tmp_path / "edgebench.sqlite", "SELECT status FROM run")[0]["status"] == "complete"


def test_of_two_phones_the_one_that_is_named_is_taken(
    phone: Phone, make_phone: Callable[..., Phone], edgebench: Callable[..., Any]
) -> None:
    other = make_phone()
    both = edgebench(*SPEED, timeout=100)
    assert both.returncode == 1
    assert phone.serial in both.stderr
    assert other.serial in both.stderr
    third = make_phone(
        properties={
            "ro.product.device": "dm1q",
            "ro.product.model": "SM-S911B",
            "ro.product.manufacturer": "samsung",
        }
    )
    named = edgebench("devices", "probe", "--device", f"adb:{third.serial}", "-o", "json", timeout=100)
    assert named.returncode == 0, named.stderr
    wrong = edgebench("run", "--device", "pixel9", "-m", MODEL, timeout=100)
    assert wrong.returncode == 1
    assert "Pixel 8" in wrong.stderr


def test_a_phone_that_has_not_allowed_this_computer_says_what_to_tap(
    make_phone: Callable[..., Phone], edgebench: Callable[..., Any]
) -> None:
    phone = make_phone(secure=True)
    done = edgebench("run", "--device", f"adb:{phone.serial}", "-m", MODEL, timeout=100)
    assert done.returncode == 1
    assert "Allow" in done.stderr


def test_without_any_phone_one_screen_says_what_was_looked_for(
    phone: Phone, edgebench: Callable[..., Any]
) -> None:
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True, timeout=30)
    done = edgebench("run", "--device", "pixel8", "-m", MODEL, timeout=100)
    assert done.returncode == 1
    assert "USB" in done.stderr
    assert "edgebench devices pair" in done.stderr
    assert len(done.stderr.splitlines()) <= 24


def test_names_with_blanks_quotes_and_other_letters_reach_no_shell(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    shipped = resolve(MODEL, lambda _: None).path
    odd = tmp_path / "mo del; touch '$(oops)' \"ü\" q4_1.gguf"
    odd.symlink_to(shipped)
    done = phone_run("run", "--device", f"adb:{phone.serial}", "-m", odd, "--mode", "performance", *QUICK)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(phone.path("/data/local/tmp").glob("**/*oops*/.."))


def test_what_edgebench_left_is_removed(phone: Phone, phone_run: Callable[..., Any]) -> None:
    assert phone_run(*SPEED).returncode == 0
    assert phone.path(ROOT).exists()
    assert phone_run("devices", "clean", "pixel8", "--yes").returncode == 0
    assert not phone.path(ROOT).exists()


def test_a_model_is_left_on_the_phone_talked_to_and_removed(
    phone: Phone, phone_run: Callable[..., Any]
) -> None:
    done = phone_run("deploy", MODEL, "--device", "pixel8")
    assert done.returncode == 0, done.stderr[-2000:]
    script = next(phone.path(f"{ROOT}/deployed").glob("*/chat.sh"))
    inside = f"{ROOT}/deployed/{script.parent.name}/chat.sh"
    talk = subprocess.run(
        ["adb", "-s", phone.serial, "shell", f"sh {inside}"],
        input="Hello?\n\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "tokens at" in talk.stdout, talk.stdout + talk.stderr
    gone = phone_run("deploy", MODEL, "--device", "pixel8", "--remove")
    assert gone.returncode == 0, gone.stderr[-2000:]
    assert not phone.path(f"{ROOT}/deployed").exists()


def test_a_bundle_goes_by_hand_and_comes_back(
    phone: Phone, phone_run: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    level = level_for("android-x86_64", cpu_flags())
    planned = phone_run("plan", *SPEED[1:], "--target", "android-x86_64", "--level", level, "--out", "bundle")
    assert planned.returncode == 0, planned.stderr[-2000:]
    too_early = phone_run("collect", "bundle")
    assert too_early.returncode == 1
    adb = ["adb", "-s", phone.serial]
    there = "/data/local/tmp/bundle"
    subprocess.run([*adb, "push", "bundle", there], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    subprocess.run([*adb, "shell", f"sh {there}/start.sh"], check=True, capture_output=True, timeout=60)
    until(lambda: phone.path(f"{there}/done").exists())
    subprocess.run([*adb, "pull", there, "back"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    subprocess.run(["rm", "-rf", phone.path(there)], check=True)
    for _ in range(2):
        done = phone_run("collect", "back")
        assert done.returncode == 0, done.stderr[-2000:]
        found = measured(rows, tmp_path / "edgebench.sqlite")
        assert {row["test"] for row in found} == {"tg16"}
        assert len(found) == len({(row["test"], row["repetition"]) for row in found})
    runs = rows(tmp_path / "edgebench.sqlite", "SELECT status, evidence FROM run")
    assert {(run["status"], run["evidence"]) for run in runs} == {("complete", "synthetic")}
