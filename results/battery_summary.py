"""What joules are to a battery: percent of a charge per thousand tokens, questions per charge."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from edgebench.core.energy import Scope
from edgebench.core.stats import Estimate
from edgebench.results.store import Store

CHANNEL = "battery_full"
"""Readings of what a full charge holds, in J: the charge counter over the level, times the voltage."""
PREFERRED = ("charge_counter", "current_voltage")
N_TOKENS = 1000


def full_charge_j(store: Store, run_id: str) -> float | None:
    """The middle of what was read during a run; None where a device does not tell."""
    sql = "SELECT value FROM reading WHERE run_id = ? AND channel = ?"
    found = [row["value"] for row in store.rows(sql, (run_id, CHANNEL)) if row["value"] > 0]
    return median(found) if found else None


def battery_figures(
    windows: Sequence[Mapping[str, Any]], full_j: float | None, suite_id: str
) -> Iterator[tuple[str, str, str, Estimate | None]]:
    """`battery_percent_per_1k_tokens` of tests that only write, `questions_per_charge` of a suite.

    Of the whole device: rails are only a part of what empties a battery. None of it where the battery was not
    metered, or does not tell what it holds; that figure is good to its level's step of a percent or so.
    """
    if full_j is None:
        return
    tests: dict[str, list[tuple[float, int]]] = defaultdict(list)
    answers: list[tuple[float, int]] = []
    for window in _of_battery(windows):
        if window["kind"] == "test" and window["n_gen"] and not window["n_prompt"]:
            tests[window["test"]].append((window["energy_j"], window["n_gen"]))
        if window["kind"] == "answers" and window["n_questions"]:
            answers.append((window["energy_j"], window["n_questions"]))
    for test, told in tests.items():
        share = N_TOKENS * _each_j(told) / full_j
        yield test, "battery_percent_per_1k_tokens", "mean", _plain(100 * share, len(told))
    if answers:
        yield suite_id, "questions_per_charge", "mean", _plain(full_j / _each_j(answers), len(answers))


def _of_battery(windows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The windows of one meter of the battery, the better one where it has figures."""
    measured = [w for w in windows if w["scope"] == Scope.BATTERY and w["energy_j"]]
    for source in PREFERRED:
        if found := [window for window in measured if window["source"] == source]:
            return found
    return measured


def _each_j(told: Sequence[tuple[float, int]]) -> float:
    return sum(energy_j for energy_j, _ in told) / sum(n for _, n in told)


def _plain(value: float, n: int) -> Estimate:
    return Estimate(value=value, ci_low=None, ci_high=None, n=n)
