"""Figures of a run from its raw rows. Summaries can be thrown away and rebuilt at any time."""

from collections.abc import Iterator
from typing import Any

from edgebench.core.stats import Estimate
from edgebench.core.types import Mode
from edgebench.results.accuracy_summary import accuracy_figures
from edgebench.results.battery_summary import battery_figures, full_charge_j
from edgebench.results.energy_summary import energy_figures
from edgebench.results.performance_summary import WHOLE_RUN, Figure, performance_figures, run_flags
from edgebench.results.records import RunRow
from edgebench.results.store import Store

SummaryRow = dict[str, object]


def rebuild(store: Store) -> None:
    """Make every run's summary anew."""
    for run in store.runs():
        summarise(store, run.id)


def summarise(store: Store, run_id: str) -> None:
    """Make one run's summary and flags anew."""
    run = store.run(run_id)
    performance = run.mode is Mode.PERFORMANCE
    found = list(performance_figures(store, run) if performance else _accuracy(store, run))
    full_j = full_charge_j(store, run.id)
    found += battery_figures(store.windows(run.id), full_j, run.suite_id or WHOLE_RUN)
    store.replace_summary(run.id, [row for figure in found for row in _row(*figure)])
    store.set_flags(run.id, run_flags(store, run) if performance else [])


def figures(store: Store, run_id: str) -> list[dict[str, Any]]:
    """A run's summary rows: test, metric, statistic, value, interval, n."""
    sql = "SELECT test, metric, statistic, value, ci_low, ci_high, n FROM summary WHERE run_id = ?"
    return store.rows(f"{sql} ORDER BY test, metric, statistic", (run_id,))


def _accuracy(store: Store, run: RunRow) -> Iterator[Figure]:
    test = run.suite_id or WHOLE_RUN
    acc: Estimate | None = None
    for figure in accuracy_figures(store, run, test):
        if figure[:2] == (test, "acc"):
            acc = figure[3]
        yield figure
    yield from energy_figures(
        store.windows(run.id),
        accuracy=run.meter_accuracy,
        suite_id=test,
        acc=acc.value if acc else None,
    )


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
