"""An external meter's log, laid over a run by its load pulses: another clock and rate, the same joules."""

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import MeterError, Scope
from edgebench.core.errors import UsageError
from edgebench.results.store import Store
from edgebench.session_power import import_power, store_marker
from edgebench.session_recorder import Clock

PULSES = [(5.0, 9.3), (13.5, 18.6), (23.5, 28.0)]
"""Stamps of the marker, in seconds since the run began; the tests come after."""
IDLE_W, BUSY_W, TEST_W = 4.0, 12.0, 9.5
LOG_IS_BEHIND_S = 1234.5


def write_log(
    path: Path, windows: Sequence[tuple[float, float]], *, step_s: float = 0.1, marked: bool = True
) -> None:
    """A meter's log of a run: idle, pulses, tests; its clock is another."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t_unix_ns", "watt"])
        t_s, noise = 0.0, random.Random(1)
        while t_s < windows[-1][1] + 5:
            busy = marked and any(low <= t_s < high for low, high in PULSES)
            testing = any(low <= t_s < high for low, high in windows)
            watt = BUSY_W if busy else TEST_W if testing else IDLE_W
            noise_w = noise.gauss(0, 0.05)
            writer.writerow([round((t_s - LOG_IS_BEHIND_S + 1e9) * 1e9), f"{watt + noise_w:.3f}"])
            t_s += step_s


@pytest.fixture
def run_id(edgebench: Any, toy: Any, tmp_path: Path, rows: Any) -> str:
    """A run without a meter, whose tests are moved to where a log of minutes can have them."""
    words = ("-p", "8", "-n", "4", "--chat", "0", "-r", "1", "--rounds", "1", "--energy", "none")
    assert edgebench("run", "-m", toy().name, "--mode", "performance", *words).returncode == 0
    with Store.open(tmp_path / "edgebench.sqlite") as store:
        run = store.runs()[0].id
        with store._write() as connection:
            connection.execute("UPDATE energy_window SET start_s = 40, end_s = 70 WHERE test = 'pp8'")
            connection.execute("UPDATE energy_window SET start_s = 80, end_s = 110 WHERE test = 'tg4'")
    return run


Import = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def laid(tmp_path: Path, run_id: str) -> Import:
    """`laid(marker=True, **log)`: the windows of the run after a log was imported."""

    def call(*, marker: bool = True, **log: Any) -> list[dict[str, Any]]:
        write_log(tmp_path / "wall.csv", [(40, 70), (80, 110)], **log)
        with Store.open(tmp_path / "edgebench.sqlite") as store:
            if marker:
                store_marker(store, run_id, PULSES, Clock(offset_s=0.0))
            return import_power(store, run_id, tmp_path / "wall.csv", source="wall meter", scope=Scope.WALL)

    return call


def test_joules_of_each_test_come_from_the_log(laid: Import, tmp_path: Path, rows: Any) -> None:
    windows = {window["test"]: window for window in laid()}
    assert windows.keys() == {"pp8", "tg4"}
    for window in windows.values():
        assert window["energy_j"] == pytest.approx(30 * TEST_W, rel=0.01)
        assert (window["scope"], window["source"], window["evidence"]) == ("wall", "wall meter", "measured")
    stored = rows(
        tmp_path / "edgebench.sqlite", "SELECT test, source, headline FROM energy_window ORDER BY id"
    )
    assert {(r["source"], r["headline"]) for r in stored} == {(None, 0), ("wall meter", 1)}
    per_token = rows(
        tmp_path / "edgebench.sqlite", "SELECT value FROM summary WHERE metric = 'energy_j_per_token'"
    )
    assert per_token == [{"value": pytest.approx(30 * TEST_W / windows["tg4"]["n_gen"], rel=0.01)}]


def test_a_log_may_be_imported_again(laid: Import, tmp_path: Path, rows: Any) -> None:
    laid()
    laid(marker=False)  # the marker is stored already
    found = rows(
        tmp_path / "edgebench.sqlite", "SELECT count(*) AS n FROM energy_window WHERE source = 'wall meter'"
    )
    assert found == [{"n": 2}]


def test_a_slow_meter_has_no_figure_for_a_short_test(laid: Import) -> None:
    with pytest.raises(MeterError, match="can be laid over the run to ±"):
        laid(step_s=1.0)


def test_a_log_without_the_pulses_is_refused(laid: Import) -> None:
    with pytest.raises(MeterError):
        laid(marked=False)


def test_a_run_without_pulses_is_refused_with_the_way_to_make_some(laid: Import) -> None:
    with pytest.raises(UsageError, match="began without load pulses") as caught:
        laid(marker=False)
    assert "--marker" in str(caught.value.hint)


def test_the_verb_prints_windows(laid: Import, edgebench: Any) -> None:
    laid()
    done = edgebench("runs", "power", "latest", "wall.csv", "--source", "again")
    assert done.returncode == 0, done.stderr
    assert "285 J" in done.stdout
