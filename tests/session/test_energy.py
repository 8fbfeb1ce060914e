"""From a meter to joules per token: a tree of counters that follows a known power curve, end to end."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import Absence
from edgebench.session_energy import open_metering
from edgebench.session_recorder import Clock, Recorder

ROOT = Path(__file__).resolve().parents[2]
LAPTOP_PSYS_W, SOCKETS_W = 150.0, 120.0
"""What the tree's platform draws on average, and its two sockets with their memory."""
QUICK = ("--mode", "performance", "-p", "8", "-n", "4", "--chat", "0", "-r", "1", "--rounds", "1")


@contextmanager
def driven(root: Path, seconds: float) -> Iterator[float]:
    """Counters that move in real time and wrap twice; the moment they began."""
    command = [sys.executable, str(ROOT / "tests/devices/fake_sysfs.py"), str(root), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield float(process.stdout.readline().split()[1])
        finally:
            process.kill()


def test_joules_follow_a_known_power_through_two_wraps(
    tmp_path: Path, fake_sysfs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(tmp_path / "sys"))
    seconds = 9.0
    zones = {zone.folder: zone for zone in fake_sysfs.standard_zones(seconds)}
    with driven(tmp_path / "sys", seconds) as began_s:
        metering = open_metering("auto", on_gpu=False)
        assert metering.chosen is not None
        with Recorder(metering.meters) as recorder:
            time.sleep(0.3)
            start_s = recorder.look()
            time.sleep(7.5)
            end_s = recorder.look()
            time.sleep(0.2)
        rows = metering.windows(
            recorder, Clock(offset_s=0.0), start_s, end_s, {"kind": "test", "test": "tg8"}
        )
        metering.close()

    def truth_j(*folders: str) -> float:
        return float(
            sum(
                fake_sysfs.joules_of(zones[f], end_s - began_s)
                - fake_sysfs.joules_of(zones[f], start_s - began_s)
                for f in folders
            )
        )

    by_source = {row["source"]: row for row in rows}
    assert by_source.keys() == {"rapl:psys", "rapl:package"}  # cores are in packages, and not beside them
    psys, package = by_source["rapl:psys"], by_source["rapl:package"]
    assert psys["energy_j"] == pytest.approx(truth_j("intel-rapl:2"), rel=0.01)
    sockets = ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:2", "intel-rapl:1:1")
    assert package["energy_j"] == pytest.approx(truth_j(*sockets), rel=0.01)
    assert (psys["headline"], package["headline"]) == (1, 0)
    assert {row["evidence"] for row in rows} == {"replayed"}
    # Of the counter and the clock; that the tree is written late on a busy computer is not in it.
    assert 0 < psys["energy_u95_j"] < 0.01 * psys["energy_j"]


def test_a_run_lengthens_its_windows_for_the_meter_and_counts_joules_by_work(
    tmp_path: Path, edgebench: Any, toy: Any, rows: Any
) -> None:
    tree = tmp_path / "sys"
    with driven(tree, 60):
        done = edgebench("run", "-m", toy(token_s=0.01).name, *QUICK, env={"EDGEBENCH_SYSFS": str(tree)})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("energy: rapl:psys (replayed), scope platform, counter") == 1
    database = tmp_path / "edgebench.sqlite"
    windows = rows(database, "SELECT * FROM energy_window WHERE headline ORDER BY start_s")
    assert [(w["test"], w["source"], w["scope"]) for w in windows] == [
        ("pp8", "rapl:psys", "platform"),
        ("tg4", "rapl:psys", "platform"),
    ]
    for window in windows:
        length_s = window["end_s"] - window["start_s"]
        assert length_s >= 5  # RAPL's shortest
        assert window["energy_j"] / length_s == pytest.approx(LAPTOP_PSYS_W, rel=0.15)  # swings by 0.4
        assert window["n_requests"] > 1
    figures = {
        (f["test"], f["metric"]): f["value"]
        for f in rows(database, "SELECT * FROM summary WHERE metric LIKE 'energy%'")
    }
    tg = windows[1]
    assert figures["tg4", "energy_j_per_token"] == pytest.approx(tg["energy_j"] / tg["n_gen"])
    assert figures["pp8", "energy_j_per_prompt_token"] == pytest.approx(
        windows[0]["energy_j"] / windows[0]["n_prompt"]
    )
    readings = rows(database, "SELECT channel, unit, count(*) AS n FROM reading GROUP BY channel, unit")
    assert {"energy:rapl:psys", "energy:rapl:package"} <= {r["channel"] for r in readings if r["unit"] == "J"}
    trials = rows(database, "SELECT energy_j, energy_reason FROM trial")
    assert {(t["energy_j"], t["energy_reason"]) for t in trials} == {(None, "window_too_short")}


def test_answers_have_joules_a_question_and_a_right_answer(
    tmp_path: Path, edgebench: Any, toy: Any, rows: Any
) -> None:
    tree = tmp_path / "sys"
    with driven(tree, 60):
        done = edgebench(
            *("run", "-m", toy(token_s=0.012).name, "--mode", "accuracy", "--limit", "16"),
            env={"EDGEBENCH_SYSFS": str(tree)},
        )
    assert done.returncode == 0, done.stderr
    database = tmp_path / "edgebench.sqlite"
    window = rows(database, "SELECT * FROM energy_window WHERE headline")[0]
    assert (window["kind"], window["n_questions"]) == ("answers", 16)
    found = {
        f["metric"]: f["value"]
        for f in rows(database, "SELECT metric, value FROM summary WHERE test GLOB 'everyday@*'")
    }
    if window["energy_j"] is None:
        pytest.fail(f"no joules: {window['energy_reason']} {window['energy_detail']}")
    assert found["energy_j_per_question"] == pytest.approx(window["energy_j"] / 16)
    if found["acc"]:
        assert found["energy_j_per_correct"] == pytest.approx(found["energy_j_per_question"] / found["acc"])


def test_without_a_sensor_it_is_said_once_and_nothing_is_shown(
    edgebench: Any, toy: Any, tmp_path: Path
) -> None:
    (tmp_path / "sys").mkdir()
    done = edgebench("run", "-m", toy().name, *QUICK, env={"EDGEBENCH_SYSFS": str(tmp_path / "sys")})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("energy: not measured (no_sensor: ") == 1
    assert "J/token" not in done.stdout


def test_a_named_meter_that_is_not_there_is_refused(edgebench: Any, toy: Any) -> None:
    done = edgebench("run", "-m", toy().name, *QUICK, "--energy", "rapl:pakage")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown meter 'rapl:pakage'" in done.stderr


def test_a_modelled_figure_stands_in_its_own_column_only(
    edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    done = edgebench("run", "-m", toy().name, *QUICK, "--energy", "none", "--model-energy", "15")
    assert done.returncode == 0, done.stderr
    assert Absence.SWITCHED_OFF in done.stderr
    database = tmp_path / "edgebench.sqlite"
    window = rows(database, "SELECT * FROM energy_window WHERE test = 'tg4'")[0]
    assert (window["energy_j"], window["energy_reason"]) == (None, "switched_off")
    assert window["energy_modelled_j"] > 0
    assert "MODELLED" in window["energy_model"]
    metrics = {f["metric"] for f in rows(database, "SELECT metric FROM summary")}
    assert "energy_modelled_j_per_token" in metrics
    assert not metrics & {"energy_j_per_token", "power_w"}
