"""Does a model know what it doesn't know? From the log-likelihoods of a question's options.

Probabilities are the softmax over the options; confidence is the largest, and its option the answer
(ties go to the first).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgebench.core.numeric import t_quantile
from edgebench.core.resampling import Floats
from edgebench.core.stats import N_BOOTSTRAP, Estimate, wilson

N_BINS = 15
MIN_IN_BIN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Questions of about one confidence: a point of the reliability picture."""

    n: int
    confidence_share: float
    """Mean confidence."""
    correct_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Confidence against being right, over the questions of a run."""

    n: int
    ece: Estimate
    """Expected calibration error, freed of the bias that few answers a bin give it."""
    ece_plain_share: float
    """As usually printed: never 0, even of a perfectly calibrated model."""
    brier: Estimate
    """Mean over questions of the sum over options of (probability - 1 or 0)^2, 0 to 2: lm-eval's."""
    nll: Estimate
    """Mean of -ln(probability of the key), in nats; infinite when a key has probability 0."""
    covered: Estimate
    """Accuracy over the most confident `coverage_share` of the questions."""
    coverage_share: float
    aurc_share: float
    """Mean share of wrong answers among the i most confident, over all i: 0 is best."""
    bins: tuple[Bin, ...]
    """Least confident first."""


def softmax(logprobs: Sequence[float]) -> list[float]:
    """Probabilities of the options of one question."""
    top = max(logprobs)
    weights = [math.exp(logprob - top) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


def calibration(
    logprobs: Sequence[Sequence[float]], gold: Sequence[int], *, coverage: float = 0.8, seed: int = 0
) -> Calibration | None:
    """All of it from the log-likelihoods of each question's options and the keys; None without questions.

    Questions may differ in their number of options. One row a question: orders of the same question
    are not new questions.
    """
    probabilities = [softmax(row) for row in logprobs]
    confidences = [max(p) for p in probabilities]
    hits = [p.index(c) == key for p, c, key in zip(probabilities, confidences, gold, strict=True)]
    of_keys = [p[key] for p, key in zip(probabilities, gold, strict=True)]
    brier = [sum(x * x for x in p) - 2 * k + 1 for p, k in zip(probabilities, of_keys, strict=True)]
    covered = accuracy_at_coverage(confidences, hits, coverage)
    if covered is None:
        return None
    return Calibration(
        n=len(gold),
        ece=_ece_estimate(confidences, hits, seed),
        ece_plain_share=ece(confidences, hits),
        brier=_mean(brier, 0.0, 2.0),
        nll=_mean([-math.log(k) if k > 0 else math.inf for k in of_keys], 0.0, math.inf),
        covered=covered,
        coverage_share=coverage,
        aurc_share=aurc(confidences, hits),
        bins=tuple(
            Bin(n=len(b), confidence_share=float(b[:, 0].mean()), correct_share=float(b[:, 1].mean()))
            for b in _bins(confidences, hits)
        ),
    )


def ece(confidences: Sequence[float], hits: Sequence[bool]) -> float:
    """Expected calibration error: mean over answers of |confidence - accuracy| of their bin.

    15 bins of equally many answers, in the order of their confidence; fewer bins below 75 answers.
    """
    return float(sum(abs((b[:, 0] - b[:, 1]).sum()) for b in _bins(confidences, hits)) / len(hits))


def accuracy_at_coverage(
    confidences: Sequence[float], hits: Sequence[bool], coverage: float
) -> Estimate | None:
    """Accuracy over the `coverage` (0 to 1) most confident answers, with Wilson's interval.

    For a model that may decline: the rest would go to a human. Ties go to the first.
    """
    kept = _most_confident_first(confidences, hits)[: math.ceil(coverage * len(hits) - 1e-9)]
    return wilson(int(kept.sum()), len(kept))


def aurc(confidences: Sequence[float], hits: Sequence[bool]) -> float:
    """Area under the risk-coverage curve: mean over i of the share of wrong among the i most confident.

    Geifman, Uziel & El-Yaniv, arXiv 1805.08206.
    """
    wrong = 1 - _most_confident_first(confidences, hits)
    return float((wrong.cumsum() / np.arange(1, len(wrong) + 1)).mean())


def _most_confident_first(confidences: Sequence[float], hits: Sequence[bool]) -> Floats:
    return np.asarray(hits, dtype=float)[np.argsort(-np.asarray(confidences), kind="stable")]


def _bins(confidences: Sequence[float], hits: Sequence[bool]) -> list[Floats]:
    """Rows of (confidence, hit), least confident first, in equal parts."""
    rows = np.column_stack([np.asarray(confidences, dtype=float), np.asarray(hits, dtype=float)])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return np.array_split(rows, max(1, min(N_BINS, len(rows) // MIN_IN_BIN)))


def _ece_estimate(confidences: Sequence[float], hits: Sequence[bool], seed: int) -> Estimate:
    """The error that lies behind the noise of the bins: median and 95 % of its posterior, drawn.

    Each bin's gap is taken as normal around its true gap, and the true gaps as normal around a common
    one with an unknown spread (Gelman's hierarchical model, flat priors). Resampling answers instead
    would add the bias a second time. The lower limit is 0 where a perfectly calibrated model isn't
    rejected at 5 %.
    """
    bins = _bins(confidences, hits)
    n_of = np.array([len(b) for b in bins])
    confidence, correct = np.array([b.mean(axis=0) for b in bins]).T
    likely = (correct * n_of + 1) / (n_of + 2)  # a bin of hits alone isn't without noise
    rng = np.random.default_rng(seed)
    gaps = _true_gaps(confidence - correct, likely * (1 - likely) / n_of, rng)
    low, value, high = np.quantile(np.abs(gaps) @ n_of / len(hits), [0.025, 0.5, 0.975])
    perfect = np.maximum(confidence * (1 - confidence), 1e-12) / n_of
    distance = ((confidence - correct) ** 2 / perfect).sum()
    if distance < np.quantile(rng.chisquare(len(bins), N_BOOTSTRAP), 0.95):
        low = 0.0
    return Estimate(value=float(value), ci_low=float(low), ci_high=float(high), n=len(hits))


def _true_gaps(seen: Floats, noise: Floats, rng: np.random.Generator) -> Floats:
    """`N_BOOTSTRAP` draws of the bins' true gaps, from those seen and the variance of their noise."""
    spread2 = np.linspace(0, 0.5, 101)[:, None] ** 2
    variance = noise + spread2
    precision = (1 / variance).sum(axis=1)
    centre = (seen / variance).sum(axis=1) / precision
    misfit = ((seen - centre[:, None]) ** 2 / variance + np.log(variance)).sum(axis=1)
    log_posterior = -(misfit + np.log(precision)) / 2
    posterior = np.exp(log_posterior - log_posterior.max())
    picked = rng.choice(len(posterior), size=N_BOOTSTRAP, p=posterior / posterior.sum())
    common = rng.normal(centre[picked], 1 / np.sqrt(precision[picked]))[:, None]
    kept = spread2[picked] / variance[picked]  # of a bin's own gap; the rest is the common one
    drawn: Floats = rng.normal(kept * seen + (1 - kept) * common, np.sqrt(kept * noise))
    return drawn


def _mean(values: Sequence[float], lowest: float, highest: float) -> Estimate:
    """Mean with Student's 95 % interval; none of one value, or where one is infinite."""
    n, value = len(values), math.fsum(values) / len(values)
    if n < 2 or not math.isfinite(value):
        return Estimate(value=value, ci_low=None, ci_high=None, n=n)
    half = t_quantile(0.975, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(value=value, ci_low=max(lowest, value - half), ci_high=min(highest, value + half), n=n)
