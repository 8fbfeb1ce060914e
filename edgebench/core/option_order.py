"""The same questions in every cyclic order of their options: what the order does to a model.

In rotation r, place j shows option (j + r) mod k; so option i stands at place (i - r) mod k. Orders of
one question are not new questions: intervals cluster by question.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgebench.core.resampling import Floats, percentile_interval, resampled_totals
from edgebench.core.shares import clustered_share
from edgebench.core.stats import Estimate, wilson

CALIBRATION_SHARE = 0.05
MIN_CALIBRATION = 10
"""Questions of one number of options that PriDe's prior is the mean of, at least."""

_LEAST_LOG = -100.0
"""An option of probability 0 would make a prior of 0, which nothing can be divided by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """One question in all k rotations; its k is the number of rotations."""

    answer_index: int
    """The right option, in stored order."""
    choices: Sequence[int | None]
    """The option chosen in rotation r, in stored order; None where no answer could be read."""
    logprobs: Sequence[Sequence[float]] | None = None
    """In rotation r, of each option in stored order; only PriDe needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pride:
    """PriDe (arXiv 2309.03882): the prior for places, learned without keys, is divided out."""

    n_calibration: int
    """Questions the prior comes from, in all rotations; they are not scored."""
    accuracy: Estimate
    """Debiased, at rotation 0, of the other questions."""
    plain: Estimate
    """The same answers as they were."""
    priors: Mapping[int, tuple[float, ...]]
    """By number of options: the prior probability of each place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReport:
    """How much of a model's accuracy is the order of the options."""

    n: int
    """Questions."""
    accuracy: Estimate
    """Mean over all rotations, clustered by question."""
    circular: Estimate
    """CircularEval: right in every rotation."""
    circular_chance_acc: float
    """What guessing gets there: the mean of 1 / k^k."""
    consistent: Estimate
    """The same option chosen in every rotation, right or wrong."""
    gold_at: tuple[Estimate, ...]
    """Accuracy with the right option at place j: the recall of j."""
    chosen_at: tuple[Estimate, ...]
    """Share of the answers that chose place j, of the questions that have it."""
    fair_at: tuple[float, ...]
    """That share, were all places liked alike."""
    rstd: Estimate
    """Standard deviation of the recalls of the places, as seen; its interval is freed of chance."""
    rstd_noise_share: float
    """The RStd that so many questions show by chance when the place makes no difference."""
    pride: Pride | None
    """None without log-likelihoods, or with too few questions."""


def order_report(questions: Sequence[Turned], *, seed: int = 0) -> OrderReport | None:
    """All of it; None without questions. Questions may differ in their number of options."""
    hits = [[choice == q.answer_index for choice in q.choices] for q in questions]
    same = [q.choices[0] is not None and len(set(q.choices)) == 1 for q in questions]
    accuracy, circular = clustered_share(hits), wilson(sum(map(all, hits)), len(hits))
    consistent = wilson(sum(same), len(same))
    if accuracy is None or circular is None or consistent is None:
        return None
    rstd, rstd_noise = _rstd(questions, seed)
    gold_at, chosen_at, fair_at = [], [], []
    for place in range(max(len(q.choices) for q in questions)):
        having = [q for q in questions if len(q.choices) > place]
        gold = wilson(sum(_hit_at(q, place) for q in having), len(having))
        chosen = clustered_share([_chose(q, place) for q in having])
        if gold and chosen:
            gold_at.append(gold)
            chosen_at.append(chosen)
            fair_at.append(len(having) / sum(len(q.choices) for q in having))
    return OrderReport(
        n=len(questions),
        accuracy=accuracy,
        circular=circular,
        circular_chance_acc=sum(len(q.choices) ** -len(q.choices) for q in questions) / len(questions),
        consistent=consistent,
        gold_at=tuple(gold_at),
        chosen_at=tuple(chosen_at),
        fair_at=tuple(fair_at),
        rstd=rstd,
        rstd_noise_share=rstd_noise,
        pride=pride(questions, seed=seed),
    )


def _hit_at(question: Turned, place: int) -> bool:
    """Whether it was answered right where the right option stood at `place`."""
    rotation = (question.answer_index - place) % len(question.choices)
    return question.choices[rotation] == question.answer_index


def _chose(question: Turned, place: int) -> list[bool]:
    """In each rotation, whether `place` was chosen."""
    k = len(question.choices)
    return [choice is not None and (choice - r) % k == place for r, choice in enumerate(question.choices)]


def _by_n_options(questions: Sequence[Turned]) -> dict[int, list[Turned]]:
    found = defaultdict(list)
    for question in questions:
        found[len(question.choices)].append(question)
    return dict(sorted(found.items()))


def _rstd(questions: Sequence[Turned], seed: int) -> tuple[Estimate, float]:
    """RStd with its interval, and what chance alone makes of it.

    The variance of the recalls is taken within each number of options, and averaged by questions. If
    places made no difference, any order of a question's hits were as likely: then the variance is
    sum(variance of a question's hits) / n^2. Draws have that much twice over, and lose it.
    """
    n, seen, noise = len(questions), 0.0, 0.0
    drawn: Floats = np.zeros(1)
    for k, group in _by_n_options(questions).items():
        hits = np.array([[_hit_at(q, place) for place in range(k)] for q in group], dtype=float)
        seen += len(group) / n * hits.mean(axis=0).var()
        by_chance = hits.var(axis=1).sum() / len(group) ** 2
        noise += len(group) / n * by_chance
        recalls = resampled_totals(hits, seed=seed) / len(group)
        drawn = drawn + len(group) / n * (recalls.var(axis=1) - 2 * by_chance)
    if n < 2:
        return Estimate(value=math.sqrt(seen), ci_low=None, ci_high=None, n=n), math.sqrt(noise)
    low, high = percentile_interval(np.sqrt(np.maximum(drawn, 0)), n)
    return Estimate(value=math.sqrt(seen), ci_low=low, ci_high=high, n=n), math.sqrt(noise)


def pride(
    questions: Sequence[Turned], *, calibration_share: float = CALIBRATION_SHARE, seed: int = 0
) -> Pride | None:
    """Accuracy at rotation 0 with PriDe's prior divided out; None when nothing can be learned or scored.

    Of each number of options a seeded share of the questions, in all rotations, teaches the prior: the
    mean of softmax_j(mean_r(ln P(place j in rotation r))). The others are scored by P(place) / prior.
    """
    rng = np.random.default_rng(seed)
    priors: dict[int, tuple[float, ...]] = {}
    n_calibration = n_hits = n_plain = n = 0
    for k, group in _by_n_options([q for q in questions if q.logprobs is not None]).items():
        size = max(MIN_CALIBRATION, math.ceil(calibration_share * len(group)))
        if k < 2 or size >= len(group):
            continue
        order = [group[g] for g in rng.permutation(len(group))]
        log_prior = np.log(np.mean([_prior(q) for q in order[:size]], axis=0))
        priors[k] = tuple(np.exp(log_prior).tolist())
        scored = order[size:]
        n_calibration, n = n_calibration + size, n + len(scored)
        n_plain += sum(q.choices[0] == q.answer_index for q in scored)
        n_hits += sum(int(np.argmax(_log_shares(q)[0] - log_prior)) == q.answer_index for q in scored)
    accuracy, plain = wilson(n_hits, n), wilson(n_plain, n)
    if accuracy is None or plain is None:
        return None
    return Pride(n_calibration=n_calibration, accuracy=accuracy, plain=plain, priors=priors)


def _log_shares(question: Turned) -> Floats:
    """ln P(place j in rotation r), with the options' probabilities adding up to 1, none quite 0."""
    k = len(question.choices)
    rows = enumerate(question.logprobs or ())
    logs = np.array([[row[(place + r) % k] for place in range(k)] for r, row in rows], dtype=float)
    shares: Floats = np.maximum(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True), _LEAST_LOG)
    return shares


def _prior(question: Turned) -> Floats:
    means = _log_shares(question).mean(axis=0)
    prior: Floats = np.exp(means - np.logaddexp.reduce(means))
    return prior
