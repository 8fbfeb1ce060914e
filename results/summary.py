"""Figures of a run from its raw rows. Summaries can be thrown away and rebuilt at any time."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edgebench.core.stats import Estimate, median_of_groups, n_outliers
from edgebench.core.types import Mode
from edgebench.results.accuracy_summary import accuracy_figures
from edgebench.results.records import RunRow
from edgebench.results.store import Store

WHOLE_RUN = "*"
"""The `test` of figures that belong to all tests of a run together."""
PEAKS = ("peak_rss_bytes", "peak_rss_anon_bytes", "peak_rss_file_bytes")

Samples = dict[tuple[str, str], list[list[float]]]
SummaryRow = dict[str, object]

# max(t_s) - min(t_s) over one gap less than there are tokens; SQLite's x/0 is NULL.
_TRIALS = """
  SELECT *, (
    SELECT (max(t_s) - min(t_s)) / (count(*) - 1) FROM token_time WHERE trial_id = trial.id
  ) AS tpot_s
  FROM trial WHERE run_id = ? ORDER BY test, process_index, repetition"""


def rebuild(store: Store) -> None:
    """Make every run's summary anew."""
    for run in store.runs():
        summarise(store, run.id)


def summarise(store: Store, run_id: str) -> None:
    """Make one run's summary anew."""
    run = store.run(run_id)
    make = _performance if run.mode is Mode.PERFORMANCE else _accuracy
    store.replace_summary(run.id, list(make(store, run)))


def figures(store: Store, run_id: str) -> list[dict[str, Any]]:
    """A run's summary rows: test, metric, statistic, value, interval, n."""
    sql = "SELECT test, metric, statistic, value, ci_low, ci_high, n FROM summary WHERE run_id = ?"
    return store.rows(f"{sql} ORDER BY test, metric, statistic", (run_id,))


def samples(store: Store, run_id: str) -> Samples:
    """(test, metric) -> the measured values, one list per process."""
    return _samples(_measured(store.rows(_TRIALS, (run_id,))))


def _performance(store: Store, run: RunRow) -> Iterator[SummaryRow]:
    trials = store.rows(_TRIALS, (run.id,))
    measured = _measured(trials)
    for (test, metric), groups in _samples(measured).items():
        yield from _row(test, metric, "median", median_of_groups(groups))
        values = [value for group in groups for value in group]
        yield from _row(test, metric, "n_outliers", _plain(n_outliers(values), len(values)))
    for test in sorted({trial["test"] for trial in measured}):
        yield from _peaks(test, [trial for trial in measured if trial["test"] == test], PEAKS[:1])
    if measured:
        yield from _peaks(WHOLE_RUN, trials, PEAKS)  # loading shows in the warm-up's peak
        n_flagged = sum(trial["flags_json"] != "[]" for trial in measured)
        yield from _row(WHOLE_RUN, "n_flagged", "count", _plain(n_flagged, len(measured)))
    # A process loads once, and each of its trials may repeat how long that took.
    loads = {trial["process_index"]: trial["load_s"] for trial in trials if trial["load_s"] is not None}
    yield from _row(WHOLE_RUN, "load_s", "median", median_of_groups([[load_s] for load_s in loads.values()]))


def _accuracy(store: Store, run: RunRow) -> Iterator[SummaryRow]:
    for figure in accuracy_figures(store, run, run.suite_id or WHOLE_RUN):
        yield from _row(*figure)


def _measured(trials: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["phase"] == "measured"]


def _samples(measured: Iterable[dict[str, Any]]) -> Samples:
    by_process: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in measured:
        for metric, value in _figures(trial).items():
            if value is not None:
                by_process[trial["test"], metric][trial["process_index"]].append(value)
    return {key: list(processes.values()) for key, processes in by_process.items()}


def _figures(trial: dict[str, Any]) -> dict[str, float | None]:
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


def _peaks(test: str, trials: Sequence[dict[str, Any]], columns: Sequence[str]) -> Iterator[SummaryRow]:
    for column in columns:
        values = [trial[column] for trial in trials if trial[column] is not None]
        if values:
            yield from _row(test, column, "max", _plain(max(values), len(values)))


def _plain(value: float, n: int) -> Estimate:
    return Estimate(value=float(value), ci_low=None, ci_high=None, n=n)


def _row(test: str, metric: str, statistic: str, estimate: Estimate | None) -> Iterator[SummaryRow]:
    """One summary row, or none: an absent figure has no row."""
    if estimate is not None:
        figure = {
            "value": estimate.value,
            "ci_low": estimate.ci_low,
            "ci_high": estimate.ci_high,
            "n": estimate.n,
        }
        yield {"test": test, "metric": metric, "statistic": statistic, **figure}
