"""Logs of external meters (a power analyser, a smart plug): read strictly, on the log's own clock.

CSV with a header, or JSONL, with the keys `t_unix_ns`, `t_unix_s`, `t_s` or `t` (seconds), and `watt`,
or `volt` and `amp`; any case, other columns are passed over. `edgebench.devices.meters.alignment` lays
a log over a run.
"""

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from edgebench.core.energy import Absence, MeterError, MeterFacts, Method, Sample, Scope

NS = 1e-9
_TIMES = {"t_unix_ns": NS, "t_unix_s": 1.0, "t_s": 1.0, "t": 1.0}
"""Key -> seconds in its unit; the first that a row has is taken."""
_FORM = "a header `t_unix_ns,watt[,volt,amp]` (or t_unix_s, t_s, t), or JSON lines of these keys"
_EARLIEST_CHANGES = 0.1
_UPDATES_A_WINDOW = 60
_MINIMUM_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalLog:
    """What a meter outside the computer wrote."""

    samples: tuple[Sample, ...]
    """Strictly rising stamps in seconds of the log's own clock; W."""
    facts: MeterFacts
    """Step and update as seen in the data."""
    n_merged: int
    """Lines that had the stamp of the line before and went into one sample with it."""


def read_log(path: Path, *, source: str = "external", scope: Scope = Scope.WALL) -> ExternalLog:
    """The log at `path`, `.jsonl`/`.ndjson`/`.json` as JSON lines, everything else as CSV.

    Lines with the same stamp become one sample of their mean. MeterError `unreadable`, with file and
    line, for what can't be meant: no number, NaN, a negative power, stamps that go backwards, fewer
    than two samples.
    """
    rows = _json_rows(path) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(path)
    stamps: list[float] = []
    watts: list[list[float]] = []
    try:
        for line, row in rows:
            t_s, watt = _stamp_s(path, line, row), _watt(path, line, row)
            if stamps and t_s < stamps[-1]:
                _refuse(path, line, "its time is before that of the line above: a clock was set")
            if stamps and t_s == stamps[-1]:
                watts[-1].append(watt)
            else:
                stamps.append(t_s)
                watts.append([watt])
    except OSError as error:
        raise MeterError(Absence.UNREADABLE, f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MeterError(Absence.UNREADABLE, f"{path}: not UTF-8 text", "give " + _FORM) from error
    if len(stamps) < 2:
        raise MeterError(Absence.UNREADABLE, f"{path}: fewer than two samples", "give " + _FORM)
    samples = tuple(Sample(t, sum(w) / len(w)) for t, w in zip(stamps, watts, strict=True))
    facts = _facts(path, samples, source, scope)
    return ExternalLog(samples=samples, facts=facts, n_merged=sum(len(w) - 1 for w in watts))


def update_s(samples: tuple[Sample, ...]) -> float:
    """Seconds between two changes of a meter, as its samples (two or more) show it.

    A logger may write faster than the meter changes. A meter of coarse steps changes seldom under a
    steady load, so the shortest tenth of the times between changes tells, and never less than the
    usual distance of two lines.
    """
    stamps = np.array([sample.t_s for sample in samples])
    usual = float(np.median(np.diff(stamps)))
    changed = stamps[1:][np.diff([sample.value for sample in samples]) != 0]
    if len(changed) < 2:
        return usual
    return max(usual, float(np.quantile(np.diff(changed), _EARLIEST_CHANGES)))


def _facts(path: Path, samples: tuple[Sample, ...], source: str, scope: Scope) -> MeterFacts:
    values = np.unique([sample.value for sample in samples])
    # Beyond the 12th digit it is arithmetic: 0.1 + 0.2 is not a smaller step than 0.3.
    steps = np.diff(values)[np.diff(values) > 1e-12 * max(1.0, float(values[-1]))]
    update = update_s(samples)
    return MeterFacts(
        source=source,
        scope=scope,
        method=Method.SAMPLED,
        step=float(steps.min()) if len(steps) else 0.0,
        update_s=update,
        minimum_s=max(_MINIMUM_S, _UPDATES_A_WINDOW * update),
        detail=f"{path.name}: {len(samples)} samples; step and update as seen in them",
    )


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """(line, column -> text) of a CSV file; blank lines are passed over."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            if not set(header) & set(_TIMES) or not ("watt" in header or {"volt", "amp"} <= set(header)):
                _refuse(path, 1, "no header with a time and a power")
            if len(set(header)) < len(header):
                _refuse(path, 1, "a column has the name of another")
            for cells in reader:
                if len(cells) not in (0, len(header)):
                    _refuse(path, reader.line_num, f"{len(cells)} cells under {len(header)} columns")
                if cells:
                    yield reader.line_num, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            _refuse(path, reader.line_num, str(error))


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """(line, key -> value) of a file of JSON lines; blank lines are passed over."""
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                _refuse(path, line, "not a JSON object")
            yield line, {key.lower(): value for key, value in row.items()}


def _stamp_s(path: Path, line: int, row: Mapping[str, object]) -> float:
    """Seconds of the row's first time column."""
    key = next((key for key in _TIMES if key in row), None)
    if key is None:
        _refuse(path, line, "no time")
    return _number(path, line, key, row[key]) * _TIMES[key]


def _watt(path: Path, line: int, row: Mapping[str, object]) -> float:
    """The row's power, from volt and amp where `watt` is absent."""
    if _given(row, "watt"):
        watt = _number(path, line, "watt", row["watt"])
    elif _given(row, "volt") and _given(row, "amp"):
        watt = _number(path, line, "volt", row["volt"]) * _number(path, line, "amp", row["amp"])
    else:
        _refuse(path, line, "no power: neither watt, nor volt and amp")
    if not 0 <= watt < math.inf:
        _refuse(path, line, f"{watt:g} W can't be a load")
    return watt


def _given(row: Mapping[str, object], key: str) -> bool:
    return row.get(key) not in (None, "")


def _number(path: Path, line: int, key: str, value: object) -> float:
    """A finite number, told as one or as text."""
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        _refuse(path, line, f"{key} is no number: {str(value)[:40]!r}")
    return number


def _refuse(path: Path, line: int, why: str) -> NoReturn:
    raise MeterError(Absence.UNREADABLE, f"{path} line {line}: {why}", "give " + _FORM)
