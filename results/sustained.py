"""A sustained run read back: bins of tokens/s, watts and °C, its figures, and its rows of the summary."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgebench.core.energy import Absence, Sample
from edgebench.core.errors import UsageError
from edgebench.core.flags import FLAG_WORDS
from edgebench.core.stats import Estimate
from edgebench.core.sustained import Sustained, bin_edges, bins, counter_of, mean_w, sustained
from edgebench.results.records import RunRow
from edgebench.results.store import Store

TEMPERATURE = "temperature"
NOT_STEADY = "not_steady"

_TRIALS = """
  SELECT * FROM trial WHERE phase = 'measured' AND test GLOB 'sustained[0-9]*' AND run_id = ?
  ORDER BY total_s DESC, id"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Ten seconds of the run; the last one may be shorter."""

    start_s: float
    """Since the generation began."""
    end_s: float
    tokens_per_s: float
    power_w: float | None
    """Mean; None where the meter says too little of so short a time."""
    temperature_c: float | None
    """Mean of the samples within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SustainedReport:
    """A run's sustained test: what to show of it."""

    run: RunRow
    test: str
    """`sustained600`."""
    duration_s: float
    n_tokens: int
    n_threads: int | None
    bins: tuple[Bin, ...]
    figures: Sustained
    power_reason: str | None
    """Why no bin has watts; None where one has."""
    energy_source: str | None
    energy_scope: str | None
    energy_evidence: str | None
    flags: tuple[str, ...]
    """The trial's, and `not_steady` where the rate has a trend."""


def flag_words(flag: str) -> str:
    """A flag in words, without the advice."""
    return FLAG_WORDS.get(flag, flag.replace("_", " ")).partition(";")[0]


def find_sustained(store: Store, name: str = "latest") -> RunRow:
    """The run whose id begins with `name`; `latest`: the newest with a sustained test."""
    if name != "latest":
        return store.run(name)
    sql = "SELECT DISTINCT run_id FROM trial WHERE phase = 'measured' AND test GLOB 'sustained[0-9]*'"
    found = {row["run_id"] for row in store.rows(sql)}
    run = next((run for run in store.runs() if run.id in found), None)
    if run is None:
        raise UsageError(f"no run in {store.path} has a sustained test", "edgebench run --sustained 600")
    return run


def sustained_report(store: Store, run: RunRow) -> SustainedReport:
    """The run's sustained test (the longest, were there several); UsageError when it has none."""
    trials = store.rows(_TRIALS, (run.id,))
    if not trials:
        raise UsageError(f"run {run.id} has no sustained test", "edgebench run --sustained 600")
    trial = trials[0]
    sql = "SELECT t_s FROM token_time WHERE trial_id = ? ORDER BY i"
    times_s = [row["t_s"] for row in store.rows(sql, (trial["id"],))]
    power = _power(store, run, trial)
    temperatures = _samples(store, trial, TEMPERATURE)
    figures = sustained(
        times_s,
        trial["total_s"],
        energy=power.counter,
        minimum_s=power.minimum_s,
        temperatures=temperatures,
    )
    cut = _bins(times_s, trial["total_s"], power, temperatures)
    return SustainedReport(
        run=run,
        test=trial["test"],
        duration_s=trial["total_s"],
        n_tokens=len(times_s),
        n_threads=run.config.get("settings", run.config).get("n_threads"),
        bins=cut,
        figures=figures,
        power_reason=_power_reason(cut, power),
        energy_source=power.source,
        energy_scope=power.scope,
        energy_evidence=power.evidence,
        flags=_flags(trial, figures),
    )


def sustained_figures(store: Store, run: RunRow) -> list[tuple[str, str, str, Estimate]]:
    """(test, metric, statistic, figure) of a run's sustained test; none where it has no such test."""
    if not store.rows(_TRIALS, (run.id,)):
        return []
    report = sustained_report(store, run)
    found, n = report.figures, report.figures.n_bins
    figures = (
        ("burst_tokens_per_s", "median", found.burst_tokens_per_s),
        ("sustained_tokens_per_s", "median", found.sustained_tokens_per_s),
        ("retained_share", "ratio", found.retained_share),
        ("time_to_90_s", "first", _plain(found.time_to_90_s, n)),
        ("temperature_max_c", "max", _plain(found.temperature_max_c, n)),
    )
    return [
        (report.test, name, statistic, figure) for name, statistic, figure in figures if figure is not None
    ]


def _plain(value: float | None, n: int) -> Estimate | None:
    return None if value is None else Estimate(value=value, ci_low=None, ci_high=None, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Power:
    """The meter that a trial's energy figures come from, and what it said."""

    source: str | None
    scope: str | None
    evidence: str | None
    minimum_s: float
    counter: list[Sample] | str
    """J, or why there are none."""

    def mean_w(self, start_s: float, end_s: float) -> float | str:
        """Mean power of a stretch of time, or why there is none."""
        if isinstance(self.counter, str):
            return self.counter
        return mean_w(self.counter, start_s, end_s, minimum_s=self.minimum_s)


def _power(store: Store, run: RunRow, trial: dict[str, Any]) -> _Power:
    """From the test's window that counts (a log laid over the run later may have taken its place)."""
    chosen = (w for w in store.windows(run.id) if w["test"] == trial["test"] and w["headline"])
    trials_own = {key: trial[f"energy_{key}"] for key in ("source", "scope", "evidence")}
    told = next(chosen, {**trials_own, "energy_reason": trial["energy_reason"]})
    source, reason = told["source"], told["energy_reason"]
    counter: list[Sample] | str = reason or Absence.NO_SENSOR
    if source and not reason:
        # The counter where there are both: it misses nothing between two looks.
        counter = _samples(store, trial, f"energy:{source}") or counter_of(
            _samples(store, trial, f"power:{source}")
        )
    return _Power(
        source=source,
        scope=told["scope"],
        evidence=told["evidence"],
        minimum_s=_minimum_s(run, source),
        counter=counter or Absence.NO_SENSOR,
    )


def _minimum_s(run: RunRow, source: str | None) -> float:
    """The shortest window a meter is trusted for; 0 where the run does not tell."""
    meters = json.loads(run.meters_json)["meters"] if run.meters_json else []
    return next((float(meter["minimum_s"]) for meter in meters if meter["source"] == source), 0.0)


def _samples(store: Store, trial: dict[str, Any], channel: str) -> list[Sample]:
    """What a channel said, its time counted from the trial's start; before and after it too."""
    sql = "SELECT t_s, value FROM reading WHERE run_id = ? AND channel = ? ORDER BY t_s"
    rows = store.rows(sql, (trial["run_id"], channel))
    return [Sample(row["t_s"] - trial["started_s"], row["value"]) for row in rows]


def _bins(
    times_s: Sequence[float], duration_s: float, power: _Power, heat: Sequence[Sample]
) -> tuple[Bin, ...]:
    spans = pairwise(bin_edges(duration_s))
    return tuple(
        Bin(
            start_s=start_s,
            end_s=end_s,
            tokens_per_s=rate,
            power_w=None if isinstance(found := power.mean_w(start_s, end_s), str) else found,
            temperature_c=_mean([sample.value for sample in heat if start_s <= sample.t_s < end_s]),
        )
        for (start_s, end_s), rate in zip(spans, bins(times_s, duration_s), strict=True)
    )


def _power_reason(cut: Sequence[Bin], power: _Power) -> str | None:
    if any(each.power_w is not None for each in cut):
        return None
    reasons = (power.mean_w(each.start_s, each.end_s) for each in cut)
    return str(next(reasons, Absence.WINDOW_TOO_SHORT))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _flags(trial: dict[str, Any], figures: Sustained) -> tuple[str, ...]:
    flags = [str(flag) for flag in json.loads(trial["flags_json"])]
    if trial["throttled"]:
        flags.insert(0, "throttled")
    return tuple(dict.fromkeys([*flags, *([NOT_STEADY] if figures.not_steady else [])]))
