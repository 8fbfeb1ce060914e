"""What one visit of a tuning run measured: the figures a setting is chosen by."""

import json
from dataclasses import dataclass

from edgebench.core.flags import USUAL
from edgebench.results.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitFigures:
    """Of the repetitions of one fresh process."""

    request_s: tuple[float, ...]
    """Each repetition: the prompt in and the answer out."""
    peak_bytes: int | None
    """The most that was resident at once, loading and warm-up included, and what a GPU held beside it."""
    request_j: float | None
    """Of the visit's window; None where the meter could not tell."""
    energy_reason: str | None
    """Why there is no energy."""
    n_flagged: int
    """Repetitions that something disturbed."""


def visit_figures(store: Store, run_id: str, round_index: int) -> VisitFigures:
    """The figures of a run's visit of this number; without values when it was not made."""
    trials = store.rows(
        "SELECT phase, total_s, peak_rss_bytes, peak_vram_bytes, flags_json FROM trial"
        " WHERE run_id = ? AND round_index = ? ORDER BY id",
        (run_id, round_index),
    )
    measured = [trial for trial in trials if trial["phase"] == "measured"]
    peaks = [t["peak_rss_bytes"] + (t["peak_vram_bytes"] or 0) for t in trials if t["peak_rss_bytes"]]
    windows = [
        window
        for window in store.windows(run_id)
        if window["headline"] and window["kind"] == "test" and window["round_index"] == round_index
    ]
    told = [window for window in windows if window["energy_j"] is not None]
    n_requests = sum(window["n_requests"] for window in told)
    return VisitFigures(
        request_s=tuple(trial["total_s"] for trial in measured),
        peak_bytes=max(peaks, default=None),
        request_j=sum(w["energy_j"] for w in told) / n_requests if n_requests else None,
        energy_reason=next((w["energy_reason"] for w in windows if w["energy_reason"]), None),
        n_flagged=sum(bool(set(json.loads(trial["flags_json"])) - USUAL) for trial in measured),
    )
