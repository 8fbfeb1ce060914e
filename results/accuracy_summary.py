"""Figures of an accuracy run: shares of right answers, of chosen places, by subject, and calibration.

Answers of a permuted run are not independent: one question in all its orders is one cluster, and an
accuracy is the mean over rotations. `n` counts questions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from edgebench.core.calibration import calibration
from edgebench.core.shares import (
    acc_stderr,
    clustered_share,
    macro_f1_estimate,
    mean_of_parts,
    mean_of_parts_stderr,
    pooled_stderr,
)
from edgebench.core.stats import Estimate, wilson
from edgebench.core.types import Scorer
from edgebench.results.answers import Answer, SuiteFacts, answers, by_question, is_permuted, suite_facts
from edgebench.results.records import RunRow
from edgebench.results.store import Store

COVERAGE = 0.8
"""Of the questions, those the model is surest of: an assistant may leave the others to a person."""

Figure = tuple[str, str, str, Estimate | None]
"""(test, metric, statistic, figure); an absent figure makes no row."""

_GRADES: tuple[tuple[str, Callable[[Answer], int | None]], ...] = (
    ("acc", lambda answer: answer.correct),
    ("acc_norm", lambda answer: answer.correct_norm),
    ("acc_bytes", lambda answer: answer.correct_bytes),
)


def accuracy_figures(store: Store, run: RunRow, test: str) -> Iterator[Figure]:
    """Everything that is said of an accuracy run; `test` names the whole of it, parts go below."""
    found = answers(store, run)
    if not found:
        return
    facts, as_stored = suite_facts(store, run.suite_id), [answer for answer in found if answer.repeat == 0]
    yield from _graded(test, found)
    if is_permuted(run):
        yield test, "acc_as_stored", "mean", share_of(as_stored, _GRADES[0][1])
    if any(answer.choice_index is None for answer in found) or run.scorer == Scorer.GENERATE:
        unread = share_of(found, lambda answer: answer.choice_index is None)
        yield test, "no_answer_rate", "mean", unread
        read = [answer for answer in found if answer.choice_index is not None]
        yield test, "acc_valid", "mean", share_of(read, _GRADES[0][1])
    yield test, "n_truncated", "count", _plain(sum(answer.n_cut > 0 for answer in found), len(found))
    yield from _chosen_places(test, found)
    yield from _by_part(test, found, facts)
    if facts.headline == "macro_f1":
        yield test, "macro_f1", "mean", _macro_f1(found)
    yield from _calibration(test, as_stored)


def share_of(found: Sequence[Answer], hit: Callable[[Answer], int | None]) -> Estimate | None:
    """Share of answers with `hit`, None left out; clustered by question where one was asked more often."""
    graded = [(answer.question_id, value) for answer in found if (value := hit(answer)) is not None]
    clusters: dict[str, list[float]] = {}
    for question_id, value in graded:
        clusters.setdefault(question_id, []).append(value)
    if len(clusters) == len(graded):
        return wilson(sum(value for _, value in graded), len(graded))
    share = clustered_share(list(clusters.values()))
    return share and replace(share, n=len(clusters))


def _graded(test: str, found: Sequence[Answer]) -> Iterator[Figure]:
    """Shares of right answers; lm-eval's standard error where each question was asked once."""
    asked_once = all(answer.repeat == 0 for answer in found)
    for metric, grade in _GRADES:
        share = share_of(found, grade)
        yield test, metric, "mean", share
        if share and asked_once:
            yield test, f"{metric}_stderr", "lm_eval", _stderr(share)


def _chosen_places(test: str, found: Sequence[Answer]) -> Iterator[Figure]:
    """Of the answers that were read off, the share that chose each place; of the questions that have it."""
    read = [answer for answer in found if answer.place_index is not None]
    n_places = max(max(answer.n_choices or 0, 1 + (answer.place_index or 0)) for answer in found)
    for place in range(n_places):
        having = [answer for answer in read if (answer.n_choices or n_places) > place]

        def chose(answer: Answer, place: int = place) -> bool:
            return answer.place_index == place

        yield test, f"share_choice_{chr(ord('A') + place)}", "mean", share_of(having, chose)


def _by_part(test: str, found: Sequence[Answer], facts: SuiteFacts) -> Iterator[Figure]:
    """Each subject, category and slice, and what follows from the subjects together."""
    subjects: dict[str, list[Answer]] = {}
    for answer in found:
        subjects.setdefault(answer.subject, []).append(answer)
    if len(subjects) > 1:
        for name in sorted(filter(None, subjects)):
            yield from _graded(part_test(test, "subject", name), subjects[name])
        yield from _of_subjects(test, [subjects[name] for name in sorted(subjects)], facts)
    for kind, groups in (("category", facts.categories), ("slice", facts.slices)):
        for name, members in groups.items():
            part = [answer for subject in dict.fromkeys(members) for answer in subjects.get(subject, ())]
            yield from _graded(part_test(test, kind, name), part)


def part_test(test: str, kind: str, name: str) -> str:
    """The `test` of a part's rows: `medqa@1/subject/step1`."""
    return f"{test}/{kind}/{name}"


def _of_subjects(test: str, subjects: Sequence[Sequence[Answer]], facts: SuiteFacts) -> Iterator[Figure]:
    """lm-eval's standard error of a group of tasks, and the unweighted mean where it is the headline."""
    shares = [share for found in subjects if (share := share_of(found, _GRADES[0][1]))]
    if not shares:
        return
    n = sum(share.n for share in shares)
    stderrs = [None if (se := _stderr(share)) is None else se.value for share in shares]
    told = [stderr for stderr in stderrs if stderr is not None]
    asked_once = all(answer.repeat == 0 for found in subjects for answer in found)
    if asked_once:
        # A subject of one answer has no spread of its own, and no weight in the pool.
        pooled = pooled_stderr([stderr or 0.0 for stderr in stderrs], [share.n for share in shares])
        yield test, "acc_stderr_pooled", "lm_eval", _maybe(pooled, n)
    if facts.headline == "acc_mean_of_subjects":
        yield test, "acc_mean_of_subjects", "mean", mean_of_parts(shares)
        if asked_once and len(told) == len(shares):
            yield test, "acc_mean_of_subjects_stderr", "lm_eval", _maybe(mean_of_parts_stderr(told), n)


def _macro_f1(found: Sequence[Answer]) -> Estimate | None:
    keyed = [(answer, gold) for answer in found if (gold := answer.answer_index) is not None]
    estimate = macro_f1_estimate(
        [gold for _, gold in keyed],
        [answer.choice_index for answer, _ in keyed],
        clusters=[answer.question_id for answer, _ in keyed],
    )
    return estimate and replace(estimate, n=len(by_question(answer for answer, _ in keyed)))


def _calibration(test: str, as_stored: Sequence[Answer]) -> Iterator[Figure]:
    """How far the likelihoods of the options can be believed; of the order the suite stores only."""
    told = [
        (answer.logprobs, answer.answer_index)
        for answer in as_stored
        if answer.logprobs is not None and answer.answer_index is not None
    ]
    found = calibration([logprobs for logprobs, _ in told], [gold for _, gold in told], coverage=COVERAGE)
    if found is None:
        return
    yield test, "ece", "mean", found.ece
    yield test, "ece_plain", "mean", _plain(found.ece_plain_share, found.n)
    yield test, "brier", "mean", found.brier
    if math.isfinite(found.nll.value):  # not when a key is thought impossible
        yield test, "nll_nats", "mean", found.nll
    yield test, f"acc_at_coverage_{COVERAGE:g}", "mean", found.covered
    yield test, "aurc", "mean", _plain(found.aurc_share, found.n)


def _stderr(share: Estimate) -> Estimate | None:
    return _maybe(acc_stderr(round(share.value * share.n), share.n), share.n)


def _maybe(value: float | None, n: int) -> Estimate | None:
    return None if value is None else _plain(value, n)


def _plain(value: float, n: int) -> Estimate:
    return Estimate(value=float(value), ci_low=None, ci_high=None, n=n)
