"""An external meter's figures for a run: load pulses that mark its beginning, and the log laid over it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebench.core.energy import Absence, MeterError, Sample, Scope
from edgebench.core.errors import UsageError
from edgebench.core.integration import energy_between
from edgebench.devices.meters.alignment import align, apply, is_good_for
from edgebench.devices.meters.external import read_log
from edgebench.results.store import Store
from edgebench.results.summary import summarise
from edgebench.session_energy import window_columns
from edgebench.session_recorder import Clock

MARKER = "marker"
"""The channel whose readings are 1 where a pulse begins and 0 where it ends."""
PULSES_S = ((4.9, 4.3), (4.2, 5.1), (4.9, 4.5))
"""(pause, pulse): long enough for meters of one figure a second, irregular so that it sees the edges in
different phases and the pattern fits in one place only."""
N_PULSES = len(PULSES_S)
_SPIN = "while True: pass"


def pulse() -> list[tuple[float, float]]:
    """Load every core three times, with pauses; the stamps (`perf_counter`) between which it was busy."""
    pulses = []
    for pause_s, busy_s in PULSES_S:
        time.sleep(pause_s)
        busy = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(os.cpu_count() or 1)]
        begun = time.perf_counter()
        try:
            time.sleep(busy_s)
        finally:
            ended = time.perf_counter()
            for process in busy:
                process.kill()
                process.wait()
        pulses.append((begun, ended))
    time.sleep(PULSES_S[0][0])
    return pulses


def store_marker(store: Store, run_id: str, pulses: Sequence[tuple[float, float]], clock: Clock) -> None:
    """Record the pulses with a run that they come before."""
    edges = [
        (clock.run_s(at_s), level) for begun, ended in pulses for at_s, level in ((begun, 1.0), (ended, 0.0))
    ]
    store.add_readings(run_id, MARKER, "1", edges)


def import_power(store: Store, name: str, path: Path, *, source: str, scope: Scope) -> list[dict[str, Any]]:
    """Lay a meter's log over a run and store its joules; rows of what came of each window.

    Raises UsageError when the run has no marker or no windows, MeterError when the log can't be read or
    laid over it. A log that was imported before under the same source is replaced.
    """
    run = store.run(name)
    pulses = _stored_marker(store, run.id)
    windows = _distinct(store.windows(run.id), source)
    if not windows:
        raise UsageError(f"run {run.id} has no stretch of time to measure", "edgebench run makes one")
    log = read_log(path, source=source, scope=scope)
    alignment = align(log.samples, pulses)
    samples = apply(log.samples, alignment)
    longest_s = max(window["end_s"] - window["start_s"] for window in windows)
    if not is_good_for(alignment, longest_s):
        raise MeterError(
            Absence.NOT_ALIGNED,
            f"{path} can be laid over the run to ± {alignment.u_offset_s:.2g} s only, more than 0.5 % of its"
            f" longest window ({longest_s:.0f} s)",
            "a meter with more figures a second, or longer tests (-r, --sustained)",
        )
    store.drop_windows(run.id, source)
    store.add_readings(run.id, f"power:{source}", "W", [(s.t_s, s.value) for s in _within(samples, windows)])
    rows = []
    for window in windows:
        length_s = window["end_s"] - window["start_s"]
        reading = energy_between(samples, log.facts, window["start_s"], window["end_s"])
        told = window_columns(reading, log.facts)
        if not is_good_for(alignment, length_s) and reading.value_j is not None:
            told |= {
                "energy_j": None,
                "energy_u95_j": None,
                "energy_reason": Absence.NOT_ALIGNED.value,
                "energy_detail": f"laid over the run to ± {alignment.u_offset_s:.2g} s",
            }
        rows.append({**window, **told})
    store.add_windows(run.id, rows)
    store.set_headline(run.id, source)
    summarise(store, run.id)
    return rows


def _stored_marker(store: Store, run_id: str) -> list[tuple[float, float]]:
    sql = "SELECT t_s, value FROM reading WHERE run_id = ? AND channel = ? ORDER BY t_s"
    edges = [(row["t_s"], row["value"]) for row in store.rows(sql, (run_id, MARKER))]
    begun = [t_s for t_s, value in edges if value > 0]
    ended = [t_s for t_s, value in edges if value == 0]
    if len(begun) < N_PULSES or len(begun) != len(ended):
        raise UsageError(
            f"run {run_id} began without load pulses: a log can't be laid over it",
            "edgebench run --marker, with the meter logging",
        )
    return list(zip(begun[-N_PULSES:], ended[-N_PULSES:], strict=True))


_PLACE = (
    *("kind", "test", "round_index", "process_index", "start_s", "end_s", "busy_s"),
    *("n_requests", "n_prompt", "n_gen", "n_questions"),
)


def _distinct(windows: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """The stretches of time, once each, whichever meters told of them."""
    others = [w for w in windows if w["source"] != source] or windows
    places = {tuple(window[key] for key in _PLACE): window for window in others}
    return [{key: window[key] for key in _PLACE} for window in places.values()]


def _within(samples: Sequence[Sample], windows: Sequence[dict[str, Any]]) -> list[Sample]:
    """The part of a log that has to do with the run."""
    start_s = min(window["start_s"] for window in windows) - 60
    end_s = max(window["end_s"] for window in windows) + 60
    return [sample for sample in samples if start_s <= sample.t_s <= end_s]
