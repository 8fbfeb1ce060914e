"""What checks say: how far each artifact is from its reference, as figures with intervals and a verdict.

Everything is computed from the stored rows, here and nowhere else. Predictions of one chunk of text hang
together, so intervals come from resampling whole chunks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.core.stats import MIN_FOR_MEDIAN_INTERVAL, N_BOOTSTRAP, Estimate
from edgebench.core.types import Evidence, Format, Status, level_label
from edgebench.results.store import Store

PARITY_LEVELS = frozenset({"f32", "onnx-fp32", "genai-fp32"})
"""Levels that compute in single precision, as torch does with any checkpoint: all must predict the same."""
PARITY_TOLERANCE_NATS = 2e-3
"""Largest difference of two log-probabilities across formats; sums in another order make a tenth of it."""

GELU_TOLERANCE_NATS = 2e-2
"""Gemma's, since llama.cpp computes its GELU on CPUs through a table of half-precision numbers."""

FLOOR_NATS = 1e-4
"""No mean KL divergence above this is noise: an f16 file, or another batch shape, shows less."""
DEGRADED_SAME_TOP_SHARE = 0.9
"""Below, more than one first choice in ten differs: a sentence of ten words is another sentence."""
DEGRADED_PPL_RATIO = 1.1
"""Above, the text is a tenth harder to predict: about what the next smaller model of a family would cost."""
BROKEN_SAME_TOP_SHARE = 0.5
BROKEN_PPL_RATIO = 2.0
"""Beyond either, half of what the parent knew of the next token is gone: not a level of this model."""


class Verdict(StrEnum):
    """What the figures come to."""

    FLOOR = "at the floor"
    CLOSE = "close"
    DEGRADED = "degraded"
    BROKEN = "broken"
    PARITY_FAILED = "parity_failed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """An artifact's newest check against a reference. Figures of a failed check are None."""

    check_id: str
    artifact_id: str
    reference_id: str
    model: str
    quant: str
    label: str
    format: Format
    evidence: Evidence
    runner: str
    size_bytes: int
    bits_per_weight: float | None
    verdict: Verdict
    reason: str | None
    """Which figure decided the verdict, or why the check failed."""
    ppl: float | None
    ppl_ratio: Estimate | None
    """Perplexity over the reference's, on the same text."""
    kld_mean: Estimate | None
    """Mean of KL(reference || artifact) over the predictions, in nats."""
    kld_p99_nats: float | None
    same_top_share: float | None
    """Predictions whose likeliest token is the reference's."""
    max_logprob_diff_nats: float | None
    greedy_same: float | None
    """Mean number of tokens of the reference's greedy continuations that this file would say as well."""
    greedy_whole_share: float | None
    """Continuations that agree to their end."""
    n_greedy: int
    """Tokens of a whole continuation, at most."""
    n_questions: int
    n_flips: int | None
    """Answers other than the reference's."""
    n_correctness_flips: int | None
    """Those of them that became right or wrong by it."""
    n_self_flips: int | None
    """Answers other than its own, when questions are scored alone: the noise that flips stand in."""

    @property
    def is_reference(self) -> bool:
        """The reference against itself, in another batch shape: the noise of the method."""
        return self.artifact_id == self.reference_id


def damages(
    store: Store,
    *,
    reference_id: str | None = None,
    model: str | None = None,
    tolerance_nats: float | None = None,
    seed: int = 0,
) -> list[Damage]:
    """Every artifact's newest check, largest files first; all references, or one."""
    runs = store.rows(
        """SELECT c.*, a.model_id AS model, a.quant, a.parent_quant, a.format, a.size_bytes,
             a.bits_per_weight, r.quant AS reference_quant, m.family
           FROM check_run c JOIN artifact a ON a.id = c.artifact_id JOIN artifact r ON r.id = c.reference_id
             JOIN model m ON m.id = a.model_id
           WHERE c.status IN ('complete','failed') AND (?1 IS NULL OR c.reference_id = ?1)
             AND (?2 IS NULL OR a.model_id = ?2)
           ORDER BY c.started_at DESC, c.id DESC""",
        (reference_id, model),
    )
    newest = {(run["reference_id"], run["artifact_id"]): run for run in reversed(runs)}
    answers = {key: _answers(store, run["id"]) for key, run in newest.items()}
    figures = {key: _figures(store, run, seed) for key, run in newest.items()}
    found = []
    for (reference, artifact), run in newest.items():
        theirs = answers.get((reference, reference), {})
        facts = figures[reference, artifact] | _flips(answers[reference, artifact], theirs)
        ladder = [(newest[key], figures[key]) for key in newest if key[0] == reference]
        verdict, reason = _verdict(run, facts, _floor_nats(ladder), tolerance_nats or _tolerance(run))
        found.append(
            Damage(
                check_id=run["id"],
                artifact_id=artifact,
                reference_id=reference,
                model=run["model"],
                quant=run["quant"],
                label=level_label(run["quant"], run["parent_quant"]),
                format=Format(run["format"]),
                evidence=Evidence(run["evidence"]),
                runner=run["runner"],
                size_bytes=run["size_bytes"],
                bits_per_weight=run["bits_per_weight"],
                verdict=verdict,
                reason=reason,
                **facts,
            )
        )
    return sorted(found, key=lambda d: (d.model, d.reference_id, not d.is_reference, -d.size_bytes))


def _figures(store: Store, run: Mapping[str, Any], seed: int) -> dict[str, Any]:
    rows = store.rows(
        """SELECT chunk_index, nll_nats, nll_parent_nats, kld_nats, same_top, max_logprob_diff_nats
           FROM check_token WHERE check_id = ? ORDER BY i""",
        (run["id"],),
    )
    greedy = store.rows("SELECT n_same, n_tokens FROM check_greedy WHERE check_id = ?", (run["id"],))
    complete = run["status"] == Status.COMPLETE
    if not (complete and rows):
        rows, greedy = [], []
    kld = np.array([row["kld_nats"] for row in rows])
    nll, parent = (np.array([row[name] for row in rows]) for name in ("nll_nats", "nll_parent_nats"))
    chunks = np.array([row["chunk_index"] for row in rows], dtype=int)
    log_ratio = _mean(nll - parent, chunks, seed)
    return {
        "ppl": float(np.exp(nll.mean())) if rows else None,
        "ppl_ratio": log_ratio and _exp(log_ratio),
        "kld_mean": _mean(kld, chunks, seed),
        "kld_p99_nats": float(np.quantile(kld, 0.99)) if rows else None,
        "same_top_share": float(np.mean([row["same_top"] for row in rows])) if rows else None,
        "max_logprob_diff_nats": max((row["max_logprob_diff_nats"] for row in rows), default=None),
        "greedy_same": float(np.mean([row["n_same"] for row in greedy])) if greedy else None,
        "greedy_whole_share": (
            float(np.mean([row["n_same"] == row["n_tokens"] for row in greedy])) if greedy else None
        ),
        "n_greedy": max((row["n_tokens"] for row in greedy), default=0),
    }


def _mean(values: npt.NDArray[np.float64], chunks: npt.NDArray[np.int_], seed: int) -> Estimate | None:
    """Mean over all predictions; the interval resamples chunks. None when there is nothing."""
    if not len(values):
        return None
    labels, place = np.unique(chunks, return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place)
    centre, n = float(values.mean()), len(labels)
    if n < MIN_FOR_MEDIAN_INTERVAL:
        return Estimate(value=centre, ci_low=None, ci_high=None, n=n)
    picked = np.random.default_rng(seed).integers(n, size=(N_BOOTSTRAP, n))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(value=centre, ci_low=float(low), ci_high=float(high), n=n)


def _exp(log: Estimate) -> Estimate:
    low, high = (None if side is None else float(np.exp(side)) for side in (log.ci_low, log.ci_high))
    return Estimate(value=float(np.exp(log.value)), ci_low=low, ci_high=high, n=log.n)


Answers = Mapping[str, Mapping[str, tuple[int, int]]]
"""Shape -> question -> (choice, correct)."""


def _answers(store: Store, check_id: str) -> Answers:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for row in store.rows("SELECT * FROM check_answer WHERE check_id = ?", (check_id,)):
        found.setdefault(row["shape"], {})[row["question_id"]] = row["choice_index"], row["correct"]
    return found


def _flips(ours: Answers, reference: Answers) -> dict[str, int | None]:
    grouped, alone, theirs = ours.get("grouped", {}), ours.get("alone", {}), reference.get("grouped", {})
    both, itself = grouped.keys() & theirs.keys(), grouped.keys() & alone.keys()
    return {
        "n_questions": len(both),
        "n_flips": sum(grouped[q][0] != theirs[q][0] for q in both) if both else None,
        "n_correctness_flips": sum(grouped[q][1] != theirs[q][1] for q in both) if both else None,
        "n_self_flips": sum(grouped[q][0] != alone[q][0] for q in itself) if itself else None,
    }


def _floor_nats(ladder: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
    """The mean KL divergence that says nothing about a level.

    The larger of what the reference shows against itself in another batch shape and what its f16 level
    shows, as far as these are below `FLOOR_NATS` at all.
    """
    noise = [
        kld.value if kld.ci_high is None else kld.ci_high
        for run, figures in ladder
        if (run["artifact_id"] == run["reference_id"] or run["quant"] == "f16")
        and (kld := figures["kld_mean"]) is not None
    ]
    return max([value for value in noise if value <= FLOOR_NATS], default=0.0)


def _tolerance(run: Mapping[str, Any]) -> float:
    return GELU_TOLERANCE_NATS if str(run["family"]).startswith("gemma") else PARITY_TOLERANCE_NATS


def _verdict(
    run: Mapping[str, Any], facts: Mapping[str, Any], floor_nats: float, tolerance_nats: float
) -> tuple[Verdict, str | None]:
    if run["status"] != Status.COMPLETE:
        return Verdict.FAILED, run["reason"]
    kld, ratio, same = facts["kld_mean"], facts["ppl_ratio"], facts["same_top_share"]
    if kld is None or ratio is None:
        return Verdict.FAILED, "no prediction is stored"
    diff = facts["max_logprob_diff_nats"]
    exact = run["quant"] in PARITY_LEVELS or run["format"] == Format.SAFETENSORS
    if exact and run["reference_quant"] in PARITY_LEVELS and diff > tolerance_nats:
        return Verdict.PARITY_FAILED, f"a log-probability differs by {diff:.2g}, not {tolerance_nats:g}"
    if kld.value <= floor_nats:
        return Verdict.FLOOR, f"mean KLD {kld.value:.1g}, noise is {floor_nats:.1g}"
    for verdict, least_share, most_ratio in (
        (Verdict.BROKEN, BROKEN_SAME_TOP_SHARE, BROKEN_PPL_RATIO),
        (Verdict.DEGRADED, DEGRADED_SAME_TOP_SHARE, DEGRADED_PPL_RATIO),
    ):
        reasons = [f"perplexity x {ratio.value:.2f}"] * (ratio.value > most_ratio)
        reasons += [f"{1 - same:.0%} of first choices differ"] * (same < least_share)
        if reasons:
            return verdict, ", ".join(reasons)
    return Verdict.CLOSE, None
