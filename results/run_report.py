"""An accuracy run as it is shown: its headline, its parts, its calibration; from its summary."""

from collections.abc import Mapping
from typing import Any

from edgebench.core.types import Permutation
from edgebench.results.accuracy_summary import COVERAGE
from edgebench.results.answers import suite_facts
from edgebench.results.performance_summary import WHOLE_RUN
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.results.summary import figures

PARTS = {"subject": "subjects", "category": "categories", "slice": "slices"}
_CALIBRATION = ("ece", "ece_plain", "brier", "nll_nats", f"acc_at_coverage_{COVERAGE:g}", "aurc")
_INTERVAL = ("value", "ci_low", "ci_high", "n")


def accuracy_report(store: Store, run: RunRow) -> dict[str, Any]:
    """What to show of an accuracy run, JSON-ready; what it has no figures for is None or empty."""
    facts, config, test = suite_facts(store, run.suite_id), run.config, run.suite_id or WHOLE_RUN
    whole: dict[str, Mapping[str, Any]] = {}
    parts: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in PARTS}
    for row in figures(store, run.id):
        if row["test"] == test:
            whole[row["metric"]] = row
            continue
        kind, _, name = row["test"].removeprefix(f"{test}/").partition("/")
        if kind in parts:
            parts[kind].setdefault(name, {"name": name})[row["metric"]] = _estimate(row)
    headline = whole.get(facts.headline)
    places = {metric[-1]: row for metric, row in whole.items() if metric.startswith("share_choice_")}
    return {
        "headline": headline and {"metric": facts.headline, **_estimate(headline)},
        "scorer": run.scorer,
        "num_fewshot": config.get("num_fewshot", 0),
        "permute": config.get("permute", Permutation.NONE.value),
        "apply_chat_template": config.get("apply_chat_template", False),
        **{plural: list(parts[kind].values()) for kind, plural in PARTS.items()},
        "calibration": {name: _estimate(whole[name]) for name in _CALIBRATION if name in whole} or None,
        "chosen_places": {place: _estimate(row) for place, row in places.items()},
        "no_answer_rate": _estimate(whole["no_answer_rate"]) if "no_answer_rate" in whole else None,
        "acc_valid": _estimate(whole["acc_valid"]) if "acc_valid" in whole else None,
        "n_truncated": int(whole["n_truncated"]["value"]) if "n_truncated" in whole else None,
        "notes": list(facts.notes),
    }


def _estimate(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _INTERVAL}
