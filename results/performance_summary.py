"""Figures of a performance run from its trials: rates, latencies, memory, load, energy, what was wrong."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgebench.core.flags import USUAL
from edgebench.core.latency import MIN_FOR_PERCENTILE, StabilityWarning, gaps_s, percentile, warnings_of
from edgebench.core.stats import Estimate, median_of_groups, n_outliers
from edgebench.results.energy_summary import energy_figures
from edgebench.results.limit_shares import implausible, limit_flags, share_figures
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.results.sustained import sustained_figures, sustained_report

WHOLE_RUN = "*"
"""The `test` of figures that belong to all tests of a run together."""
PEAKS = ("peak_rss_bytes", "peak_rss_anon_bytes", "peak_rss_file_bytes", "pss_bytes", "peak_vram_bytes")
COLD_SHARE, WARM_SHARE = 0.01, 0.99
"""A load is cold, or warm, when no more, or no less, of the file was in memory before it."""
PAGING_SHARE = 0.2
"""Of a run's repetitions, those that may page before its speeds count for nothing."""
NOISY_SHARE = 0.1
"""Of a run's repetitions, those that may be disturbed before the run is flagged for it."""
PASSED_ON = ("throttled", "power_capped", "on_battery", "thermal_not_settled", "governor_changed", "paging")
"""Flags of a single repetition that are the run's at once."""
_DISAGREES = "power_disagrees"

Samples = dict[tuple[str, str], list[list[float]]]
Figure = tuple[str, str, str, Estimate | None]
Trial = Mapping[str, Any]

# max(t_s) - min(t_s) over one gap less than there are tokens; SQLite's x/0 is NULL.
_TRIALS = """
  SELECT *, (
    SELECT (max(t_s) - min(t_s)) / (count(*) - 1) FROM token_time WHERE trial_id = trial.id
  ) AS tpot_s
  FROM trial WHERE run_id = ? ORDER BY test, process_index, repetition"""
_CHAT_TOKENS = """
  SELECT trial.test, trial.id, t_s FROM token_time JOIN trial ON trial.id = trial_id
  WHERE run_id = ? AND phase = 'measured' AND trial.test GLOB 'chat*' ORDER BY trial.id, i"""


def samples(store: Store, run_id: str) -> Samples:
    """(test, metric) -> the measured values, one list per process."""
    return _samples(_measured(store.rows(_TRIALS, (run_id,))))


def performance_figures(store: Store, run: RunRow) -> Iterator[Figure]:
    """Everything that is said of a performance run; absent figures are None."""
    trials = store.rows(_TRIALS, (run.id,))
    measured = _measured(trials)
    for (test, metric), groups in _samples(measured).items():
        values = [value for group in groups for value in group]
        yield test, metric, "median", median_of_groups(groups)
        yield test, metric, "n_outliers", plain(n_outliers(values), len(values))
        if metric == "ttft_s":
            for percent in MIN_FOR_PERCENTILE:
                yield test, metric, f"p{percent}", percentile([[value] for value in values], percent)
    yield from _gaps(store, run)
    for test in sorted({trial["test"] for trial in measured}):
        own = [trial for trial in measured if trial["test"] == test]
        yield from _peaks(test, own, ("peak_rss_bytes", "kv_cache_bytes", "kv_cache_predicted_bytes"))
        yield test, "overhead_share", "median", _overhead(own)
    if measured:
        yield from _peaks(WHOLE_RUN, trials, PEAKS)  # loading shows in the warm-up's peak
        flagged = sum(bool(set(flags_of(trial)) - USUAL) for trial in measured)
        yield WHOLE_RUN, "n_flagged", "count", plain(flagged, len(measured))
        faults = [t["n_major_faults"] for t in measured if t["n_major_faults"] is not None]
        yield WHOLE_RUN, "n_major_faults", "sum", plain(sum(faults), len(faults)) if faults else None
    yield from _loads(trials)
    yield from energy_figures(store.windows(run.id), accuracy=run.meter_accuracy)
    yield from share_figures(store, run, _samples(measured))
    yield from sustained_figures(store, run)


def run_flags(store: Store, run: RunRow) -> list[str]:
    """What a person should know of the whole run, from its trials."""
    measured = _measured(store.rows(_TRIALS, (run.id,)))
    counts: dict[str, int] = defaultdict(int)
    for trial in measured:
        for flag in flags_of(trial):
            counts[flag] += 1
    flags = [flag for flag in PASSED_ON if counts[flag]]
    flags += [f for f in ("noisy_neighbour", "unstable_host") if counts[f] > NOISY_SHARE * len(measured)]
    if any(warning.code == "drift" for _, warning in run_warnings(store, run)):
        flags.append("not_steady")
    headline = [window for window in store.windows(run.id) if window["headline"]]
    if any(_DISAGREES in json.loads(window["flags_json"] or "[]") for window in headline):
        flags.append(_DISAGREES)
    if any(trial["test"].startswith("sustained") for trial in measured):
        flags += sustained_report(store, run).flags  # what heat does to speed is what it looks for
    return list(dict.fromkeys([*flags, *limit_flags(store, run)]))


def run_warnings(store: Store, run: RunRow) -> list[tuple[str, StabilityWarning]]:
    """(test, warning with a remedy) for every figure of a run that drifts, scatters or differs by process."""
    measured = _measured(store.rows(_TRIALS, (run.id,)))
    found: list[tuple[str, StabilityWarning]] = []
    times: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in measured:
        for metric, value in _figures(trial).items():
            if value is not None:
                times[trial["test"], metric][trial["process_index"]].append(trial["started_s"])
    for key, groups in _samples(measured).items():
        test, metric = key
        if not test.startswith("sustained"):
            warnings = warnings_of(groups, list(times[key].values()))
            found += [(f"{test} {metric}", warning) for warning in warnings]
    return found


def invalid_reason(store: Store, run: RunRow) -> str | None:
    """Why a run's speeds count for nothing: it paged, or they are beyond what the device can do."""
    measured = _measured(store.rows(_TRIALS, (run.id,)))
    n_paging = sum("paging" in flags_of(trial) for trial in measured)
    if n_paging > PAGING_SHARE * len(measured):
        return (
            f"paging: {n_paging} of {len(measured)} repetitions read pages from disk or swap;"
            " the model does not fit in memory"
        )
    return implausible(store, run, _samples(measured))


def flags_of(trial: Trial) -> list[str]:
    """A trial's flags."""
    return list(json.loads(trial["flags_json"]))


def _measured(trials: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["phase"] == "measured"]


def _samples(measured: Iterable[Trial]) -> Samples:
    by_process: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in measured:
        for metric, value in _figures(trial).items():
            if value is not None:
                by_process[trial["test"], metric][trial["process_index"]].append(value)
    return {key: list(processes.values()) for key, processes in by_process.items()}


def _figures(trial: Trial) -> dict[str, float | None]:
    n_prompt, n_gen = trial["n_prompt"], trial["n_gen"]
    if trial["test"].startswith("chat"):
        return {"ttft_s": trial["ttft_s"], "tpot_s": trial["tpot_s"]}
    if not n_gen:
        return {"prefill_tokens_per_s": _rate(n_prompt, trial["prefill_s"])}
    if not n_prompt:
        return {"decode_tokens_per_s": _rate(n_gen, trial["decode_s"])}
    both = None if None in (trial["prefill_s"], trial["decode_s"]) else trial["prefill_s"] + trial["decode_s"]
    return {"total_tokens_per_s": _rate(n_prompt + n_gen, both)}


def _rate(n_tokens: int, duration_s: float | None) -> float | None:
    return n_tokens / duration_s if duration_s else None


def _gaps(store: Store, run: RunRow) -> Iterator[Figure]:
    """Gaps between the tokens of chat requests: the median, and the percentiles the sample carries."""
    requests: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in store.rows(_CHAT_TOKENS, (run.id,)):
        requests[row["test"]][row["id"]].append(row["t_s"])
    for test, stamps in requests.items():
        gaps = [gaps_s(own) for own in stamps.values()]
        for percent in MIN_FOR_PERCENTILE:
            yield test, "itl_s", f"p{percent}", percentile(gaps, percent)


def _overhead(trials: Sequence[Trial]) -> Estimate | None:
    """Of the timed seconds, the share that was not inside the engine's calls: the harness's own."""
    by_process: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        if trial["engine_s"] is not None and trial["total_s"] > 0:
            by_process[trial["process_index"]].append(1 - trial["engine_s"] / trial["total_s"])
    return median_of_groups(list(by_process.values()))


def _loads(trials: Sequence[Trial]) -> Iterator[Figure]:
    """Load times; a process loads once, and each of its trials repeats how long that took, from where."""
    loads = {trial["process_index"]: trial for trial in trials if trial["load_s"] is not None}
    kinds: dict[str, list[float]] = {"load_s": [trial["load_s"] for trial in loads.values()]}
    for trial in loads.values():
        cached = trial["load_cached_share"]
        if cached is not None and (cached <= COLD_SHARE or cached >= WARM_SHARE):
            kinds.setdefault("load_cold_s" if cached <= COLD_SHARE else "load_warm_s", []).append(
                trial["load_s"]
            )
    for metric, values in kinds.items():
        yield WHOLE_RUN, metric, "median", median_of_groups([[value] for value in values])


def _peaks(test: str, trials: Sequence[Trial], columns: Sequence[str]) -> Iterator[Figure]:
    for column in columns:
        values = [trial[column] for trial in trials if trial[column] is not None]
        if values:
            yield test, column, "max", plain(max(values), len(values))


def plain(value: float, n: int) -> Estimate:
    """A figure without an interval."""
    return Estimate(value=float(value), ci_low=None, ci_high=None, n=n)
