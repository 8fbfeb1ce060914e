"""Which file to ship on a device, how sure that is, and what was second: limits first, then one wish."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from edgebench.core.errors import EdgebenchError, UsageError, nearest
from edgebench.core.types import Evidence
from edgebench.results.candidates import (
    DECODE,
    ENERGY,
    MEMORY,
    PREFILL,
    SIZE,
    TTFT,
    Candidate,
    Field,
    Figure,
    Wanted,
    candidates,
    measured_device,
    stored_suite,
)
from edgebench.results.runner_up import Lost, why_it_lost
from edgebench.results.store import Store

GOALS: dict[str, str | None] = {
    "speed": DECODE,
    "prefill": PREFILL,
    "ttft": TTFT,
    "energy": ENERGY,
    "memory": MEMORY,
    "accuracy": None,
    "size": SIZE,
}
"""What may be wished for -> the figure; an accuracy goes by its suite."""

_LESS_IS_BETTER = frozenset({TTFT, ENERGY, MEMORY, SIZE})
_PLAIN = frozenset({MEMORY, SIZE})
"""Figures that have no interval: what a file holds, and the most that was ever resident."""


class Verdict(StrEnum):
    """What a figure says to a limit."""

    MET = "met"
    """With its whole interval."""
    UNSURE = "unsure"
    """The value is within, but no more is sure."""
    MISSED = "missed"
    UNKNOWN = "unknown"
    """There is no such figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a figure must reach, or not pass."""

    key: str
    """The figure's name, or a suite's id."""
    limit: float
    """In SI units; accuracies as shares."""

    @property
    def better(self) -> Literal["higher", "lower"]:
        """The side of the limit to be on."""
        return "lower" if self.key in _LESS_IS_BETTER else "higher"

    def miss_share(self, value: float) -> float:
        """How far beyond the limit, as a share of it; 0 and below: within."""
        return (value - self.limit if self.better == "lower" else self.limit - value) / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A limit and what a candidate has for it."""

    limit: Limit
    figure: Figure | None
    verdict: Verdict
    reason: str | None = None
    """Why it is unsure; of one that is missed, that its interval reaches within."""

    @property
    def worst(self) -> float | None:
        """The end of the interval that is farther from the limit; None where there is none to go by."""
        if self.figure is None or self.figure.borrowed:
            return None
        estimate = self.figure.estimate
        if self.limit.key in _PLAIN:
            return estimate.value
        return estimate.ci_high if self.limit.better == "lower" else estimate.ci_low

    def shortfall_share(self, *, sure: bool) -> float | None:
        """0 where it is good enough, else by how much it is not; None where nobody knows."""
        if self.figure is None:
            return None
        if self.verdict is Verdict.UNSURE and sure:
            return None if self.worst is None else self.limit.miss_share(self.worst)
        return max(0.0, self.limit.miss_share(self.figure.estimate.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A candidate held against the limits."""

    candidate: Candidate
    goal: Figure | None
    """What it is ranked by."""
    checks: tuple[Check, ...]

    def fits(self, *, sure: bool) -> bool:
        """Whether it can be recommended: every limit is met, if need be surely."""
        good = (Verdict.MET,) if sure else (Verdict.MET, Verdict.UNSURE)
        return self.goal is not None and all(check.verdict in good for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The file to ship on a device, or what came nearest."""

    device_id: str
    prefer: str
    key: str
    """The figure that ranks."""
    limits: tuple[Limit, ...]
    sure: bool
    """Whether only whole intervals count."""
    field: Field
    chosen: Choice | None
    """None: nothing fits."""
    runner_up: Choice | None
    lost: Lost | None
    surest: Choice | None
    """The best that surely meets every limit, where the chosen one may not."""
    shut_out: Choice | None
    """The best of what would rank before the chosen one, but for a limit."""
    nearest: Choice | None
    """Where nothing fits."""
    flags: tuple[str, ...]
    """What a person should know of the runs behind the chosen (or nearest) one."""
    left_out: tuple[str, ...]
    """What does not take part, and why."""

    @property
    def notes(self) -> list[str]:
        """What must stand under accuracies of these suites."""
        return list(dict.fromkeys(note for facts in self.field.facts.values() for note in facts.notes))


def recommend(
    store: Store,
    *,
    device: str | None = None,
    prefer: str = "speed",
    limits: Mapping[str, float] | None = None,
    least_acc: Sequence[tuple[str | None, float]] = (),
    suite: str | None = None,
    model: str | None = None,
    scorer: str | None = None,
    permute: str | None = None,
    num_fewshot: int | None = None,
    scope: str | None = None,
    allow_synthetic: bool = False,
    sure: bool = False,
) -> Recommendation:
    """The best candidate of those within the limits; of equals the faster, then the smaller one.

    `limits` by figure, in SI units; `least_acc` by suite (None: `suite`, or the only one there is). The
    accuracy that is preferred is that of `suite`; default: of a limit, or the only one. `sure` takes whole
    intervals only.

    Raises:
        UsageError: an unknown goal, model, suite or scope; a limit given twice.
        EdgebenchError: the device was not measured, or nothing on it was.
    """
    if prefer not in GOALS:
        raise nearest(prefer, GOALS, kind="preference")
    here = measured_device(store, device)
    wishes = [Limit(key=key, limit=limit) for key, limit in (limits or {}).items()]
    wishes += [Limit(key=stored_suite(store, name or suite), limit=least) for name, least in least_acc]
    if twice := [key for key, n in Counter(wish.key for wish in wishes).items() if n > 1]:
        raise UsageError(f"{twice[0]} has two limits", "name each once")
    suites = [wish.key for wish in wishes[len(limits or {}) :]]
    key = GOALS[prefer]
    if key is None:
        key = stored_suite(store, suite) if suite or len(suites) != 1 else suites[0]
    if key not in GOALS.values() or suite:
        suites.append(stored_suite(store, suite or key))
    field = candidates(
        store,
        Wanted(
            device=here,
            model=model,
            suites=tuple(dict.fromkeys(suites)),
            scorer=scorer,
            permute=permute,
            num_fewshot=num_fewshot,
            scope=scope,
            allow_synthetic=allow_synthetic,
        ),
    )
    others = _other_runs(store, here, allow_synthetic=allow_synthetic)
    if not field.candidates:
        hint = "edgebench run measures; --allow-synthetic lets figures stand that were not measured"
        raise EdgebenchError("; ".join([f"no measured runs on {here}", *others]), hint)
    choices = [_choice(one, key, wishes) for one in field.candidates]
    fitting = sorted((one for one in choices if one.fits(sure=sure)), key=lambda one: _order(one, key))
    chosen, runner_up = (*fitting[:2], None, None)[:2]
    near = None if chosen else min(choices, key=lambda one: _distance(one, key, sure=sure))
    shown = chosen or near
    return Recommendation(
        device_id=here,
        prefer=prefer,
        key=key,
        limits=tuple(wishes),
        sure=sure,
        field=field,
        chosen=chosen,
        runner_up=runner_up,
        lost=_lost(store, key, chosen, runner_up),
        surest=_surest(chosen, fitting),
        shut_out=_shut_out(chosen, choices, key, sure=sure),
        nearest=near,
        flags=_flags(store, shown) if shown else (),
        left_out=(*others, *_left_out(choices, key, wishes, field)),
    )


def _choice(candidate: Candidate, key: str, limits: Sequence[Limit]) -> Choice:
    figures = candidate.figures
    checks = tuple(_check(limit, figures.get(limit.key)) for limit in limits)
    return Choice(candidate=candidate, goal=figures.get(key), checks=checks)


def _check(limit: Limit, figure: Figure | None) -> Check:
    if figure is None:
        return Check(limit=limit, figure=None, verdict=Verdict.UNKNOWN)
    estimate = figure.estimate
    check = Check(limit=limit, figure=figure, verdict=Verdict.MET)
    if limit.miss_share(estimate.value) > 0:
        best = estimate.ci_low if limit.better == "lower" else estimate.ci_high
        reaches = best is not None and limit.miss_share(best) <= 0
        return replace(check, verdict=Verdict.MISSED, reason="within its uncertainty" if reaches else None)
    if figure.borrowed:
        return replace(check, verdict=Verdict.UNSURE, reason=f"asked with {figure.borrowed}")
    if check.worst is None:
        return replace(check, verdict=Verdict.UNSURE, reason=f"no interval of n = {estimate.n}")
    if limit.miss_share(check.worst) > 0:
        return replace(check, verdict=Verdict.UNSURE, reason="its interval passes the limit")
    return check


def _loss(choice: Choice, key: str) -> float:
    value = choice.goal.estimate.value if choice.goal else math.inf
    return value if key in _LESS_IS_BETTER or choice.goal is None else -value


def _order(choice: Choice, key: str) -> tuple[Any, ...]:
    """Best first; the rest makes equal ones come in the same order always."""
    one = choice.candidate
    decode = one.figures.get(DECODE)
    speed = decode.estimate.value if decode else 0.0
    settings = sorted((name, str(value)) for name, value in one.settings.items())
    return _loss(choice, key), -speed, one.size_bytes, one.artifact_id, one.runner, settings


def _distance(choice: Choice, key: str, *, sure: bool) -> tuple[Any, ...]:
    """From what was asked for: what nobody knows of it, then the limit it misses most, in shares of it."""
    short = [check.shortfall_share(sure=sure) for check in choice.checks]
    n_unknown = short.count(None) + (choice.goal is None)
    return n_unknown, max((one for one in short if one is not None), default=0.0), _order(choice, key)


def _lost(store: Store, key: str, chosen: Choice | None, runner_up: Choice | None) -> Lost | None:
    if chosen is None or runner_up is None or chosen.goal is None or runner_up.goal is None:
        return None
    return why_it_lost(store, key, chosen.goal, runner_up.goal)


def _surest(chosen: Choice | None, fitting: Sequence[Choice]) -> Choice | None:
    if chosen is None or chosen.fits(sure=True):
        return None
    return next((one for one in fitting if one.fits(sure=True)), None)


def _shut_out(chosen: Choice | None, choices: Sequence[Choice], key: str, *, sure: bool) -> Choice | None:
    if chosen is None:
        return None
    before = [one for one in choices if not one.fits(sure=sure) and _loss(one, key) < _loss(chosen, key)]
    return min(before, key=lambda one: _order(one, key), default=None)


def _flags(store: Store, choice: Choice) -> tuple[str, ...]:
    found: list[str] = []
    for run_id in dict.fromkeys(one.run_id for one in choice.candidate.figures.values() if one.run_id):
        for row in store.rows("SELECT flags_json FROM run WHERE id = ?", (run_id,)):
            found += json.loads(row["flags_json"])
    return tuple(dict.fromkeys(found))


def _other_runs(store: Store, device: str, *, allow_synthetic: bool) -> list[str]:
    """Runs of the device that don't count, by why."""
    sql = """SELECT CASE status WHEN 'complete' THEN evidence ELSE status END AS why, count(*) AS n FROM run
      WHERE device_id = ? AND (status = 'invalid' OR status = 'complete' AND evidence <> 'measured' AND NOT ?)
      GROUP BY why ORDER BY why"""
    return [
        f"{row['n']} run{'s' * (row['n'] > 1)} left out: {row['why']}"
        for row in store.rows(sql, (device, allow_synthetic))
    ]


def _left_out(choices: Sequence[Choice], key: str, limits: Sequence[Limit], field: Field) -> list[str]:
    told = []
    keys = list(dict.fromkeys([key, *(limit.key for limit in limits)]))
    if ENERGY in keys:
        elsewhere = [one.candidate for one in choices if ENERGY not in one.candidate.figures]
        scopes = Counter(scope for one in elsewhere for scope in set(one.other_scopes))
        for scope, n in sorted(scopes.items()):
            told.append(
                f"{n} of {len(choices)} left out: energy of another scope ({scope}, not {field.scope});"
                f" --scope {scope} takes those"
            )
    for name in keys:
        absent = [one for one in choices if name not in one.candidate.figures]
        n = sum(not (name == ENERGY and one.candidate.other_scopes) for one in absent)
        told += [f"{n} of {len(choices)} left out: no {name}"] if n else []
    for i, limit in enumerate(limits):
        n = sum(one.checks[i].verdict is Verdict.MISSED for one in choices)
        told += [f"{n} of {len(choices)} left out: {limit.key} beyond the limit"] if n else []
    return told


def evidence(choice: Choice, keys: Sequence[str]) -> Evidence:
    """`measured` when every one of these figures is; else the first other kind."""
    found = [choice.candidate.figures[key].evidence for key in keys if key in choice.candidate.figures]
    return next((kind for kind in found if kind is not Evidence.MEASURED), Evidence.MEASURED)
