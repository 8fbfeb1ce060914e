"""Is this level worse than that one? Paired, corrected, and never a bare difference."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from statistics import median

from edgebench.core.errors import UsageError, nearest
from edgebench.core.paired import non_inferior
from edgebench.core.stats import Estimate, holm, median_of_groups, ratio_of_medians
from edgebench.core.types import Mode, Status
from edgebench.results.answers import suite_facts
from edgebench.results.flips import NOT_SEPARABLE, Flips, flips, is_other_shape, noise_of
from edgebench.results.levels import LevelRow, asking, level_rows, refuse_mixed_schemes
from edgebench.results.performance_summary import samples
from edgebench.results.records import RunRow
from edgebench.results.store import Store

MIN_SPEED_DIFFERENCE = 0.02
"""A smaller change of a time or a rate is not called one, however sure it is; nor one that the anchor's
visits show, too."""

_CONDITIONS = ("evidence", "device_id", "environment_id", "runner", "runner_version", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelComparison:
    """A level against the base of its table."""

    row: LevelRow
    flips: Flips | None
    """Against the base; None for the base itself and where accuracy is missing."""
    p_holm: float | None
    """p corrected for the number of levels in the table."""
    n_family: int
    """How many comparisons of the table have a p."""
    noise: Flips | None
    """The level against itself, questions grouped and alone: how many flip with no cause."""
    base_noise: Flips | None
    """The same of the base."""
    other_engine: bool
    """Another engine scored the base: schemes can't be held against each other, noise floors can."""
    noise_reason: str | None
    """Why there is no noise floor."""
    verdict: str
    """`baseline`, `worse`, `better`, `not separable`, `no key` or `no shared answers`."""
    non_inferior: bool | None
    """Not worse than the base by the margin asked for; None where none was, or nothing can be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Levels of one model against a base."""

    base: LevelRow
    levels: tuple[LevelComparison, ...]
    """Widest first, the base among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One figure of two performance runs."""

    test: str
    metric: str
    base: Estimate
    new: Estimate
    ratio: Estimate
    """new / base."""
    verdict: str
    """`worse`, `better` or `not separable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Two runs of one mode."""

    base: RunRow
    new: RunRow
    flips: Flips | None
    """Of accuracy runs."""
    noise: Flips | None
    """The new run's noise floor, where one was measured."""
    base_noise: Flips | None
    non_inferior: bool | None
    """Not worse than the base by the margin asked for."""
    ratios: tuple[Ratio, ...]
    """Of performance runs."""
    verdict: str | None
    """Of accuracy runs; ratios have their own."""
    notes: tuple[str, ...]
    """What must stand under the accuracy of their suite."""
    differs: tuple[str, ...]
    """What else is not the same in these runs: `device_id`, `config.n_threads`, …"""


def by_quant(
    store: Store,
    *,
    device: str | None = None,
    model: str | None = None,
    suite: str | None = None,
    scorer: str | None = None,
    permute: str | None = None,
    num_fewshot: int | None = None,
    base: str | None = None,
    margin: float | None = None,
    only: Container[str] | None = None,
) -> Comparison:
    """Every level of a model against one of them: the widest, unless another is named."""
    rows = level_rows(
        store,
        device=device,
        model=model,
        suite=suite,
        scorer=scorer,
        permute=permute,
        num_fewshot=num_fewshot,
        only=only,
    )
    models = sorted({row.model for row in rows})
    if not rows:
        raise UsageError(f"no complete runs in {store.path}", "edgebench run measures levels")
    if len(models) > 1:
        raise UsageError(
            f"levels of {len(models)} models can't share a base: {', '.join(models)}", "name one: -m"
        )
    chosen = _base(rows, base)
    refuse_mixed_schemes(rows)
    found = {row.artifact_id: _level_flips(store, chosen, row) for row in rows}
    corrected = holm({key: one.p for key, one in found.items() if one and one.p is not None})
    base_noise = noise_floor(store, chosen)
    return Comparison(
        base=chosen,
        levels=tuple(
            _level(
                row,
                found[row.artifact_id],
                is_base=row is chosen,
                p_holm=corrected.get(row.artifact_id),
                n_family=len(corrected),
                noise=base_noise if row is chosen else noise_floor(store, row),
                base_noise=base_noise,
                other_engine=_other_engine(chosen, row),
                margin=margin,
            )
            for row in rows
        ),
    )


def two_runs(store: Store, base: str, new: str, *, margin: float | None = None) -> RunComparison:
    """Two runs by id, unique prefix or `latest`; both of accuracy or both of performance."""
    first, second = store.run(base), store.run(new)
    for run in (first, second):
        if run.status is not Status.COMPLETE:
            why = f": {run.invalid_reason}" if run.invalid_reason else ""
            raise UsageError(f"run {run.id} is {run.status}{why}", "only complete runs can be compared")
    if first.mode is not second.mode:
        raise UsageError(
            f"{first.id} measures {first.mode} and {second.id} {second.mode}", "compare two runs of one kind"
        )
    found = noise = base_noise = None
    ratios: tuple[Ratio, ...] = ()
    if first.mode is Mode.ACCURACY:
        _refuse_other_questions(first, second)
        found, noise, base_noise = (
            flips(store, first, second),
            noise_of(store, second),
            noise_of(store, first),
        )
    else:
        ratios = speed_ratios(store, first, second)
    return RunComparison(
        base=first,
        new=second,
        flips=found,
        noise=noise,
        base_noise=base_noise,
        non_inferior=_within(found, margin),
        ratios=ratios,
        verdict=found.verdict(found.p, noise, base_noise) if found else None,
        notes=suite_facts(store, first.suite_id).notes,
        differs=_differences(first, second),
    )


def _base(rows: Sequence[LevelRow], name: str | None) -> LevelRow:
    if name is None:
        # Of the levels that answered questions: without them nothing could be compared with the base.
        return next((row for row in rows if row.accuracy), rows[0])
    for row in rows:
        if name in (row.label, row.quant) or (len(name) >= 6 and row.artifact_id.startswith(name)):
            return row
    raise nearest(name, {row.label for row in rows}, kind="level")


def _level(
    row: LevelRow,
    found: Flips | None,
    *,
    is_base: bool,
    p_holm: float | None,
    n_family: int,
    noise: Flips | None,
    base_noise: Flips | None,
    other_engine: bool,
    margin: float | None,
) -> LevelComparison:
    if is_base:
        verdict = "baseline"
    else:
        verdict = found.verdict(p_holm, noise, base_noise) if found else "no shared answers"
    return LevelComparison(
        row=row,
        flips=found,
        p_holm=p_holm,
        n_family=n_family,
        noise=noise,
        base_noise=base_noise,
        other_engine=other_engine,
        noise_reason=None if noise else "no complete run with one question a batch",
        verdict=verdict,
        non_inferior=_within(found, margin),
    )


def _within(found: Flips | None, margin: float | None) -> bool | None:
    return None if found is None or margin is None else non_inferior(found.difference, margin)


def noise_floor(store: Store, row: LevelRow) -> Flips | None:
    """A level against itself, its questions grouped and alone; None where that was not measured."""
    return flips(store, row.accuracy, row.alone) if row.accuracy and row.alone else None


def _other_engine(base: LevelRow, row: LevelRow) -> bool:
    return bool(base.accuracy and row.accuracy and base.accuracy.runner != row.accuracy.runner)


def _level_flips(store: Store, base: LevelRow, row: LevelRow) -> Flips | None:
    if row is base or base.accuracy is None or row.accuracy is None:
        return None
    return flips(store, base.accuracy, row.accuracy)


def _refuse_other_questions(base: RunRow, new: RunRow) -> None:
    before, after = asking(base), asking(new)
    for name, asked, other in zip(before._fields, before, after, strict=True):
        if asked != other:
            raise UsageError(
                f"{base.id} has {name.removesuffix('_id')} {asked}, {new.id} has {other}",
                "compare runs that answered the same questions the same way",
            )
    # A file against itself in another shape is its noise floor; other engines differ anyway. Anything
    # else needs the same groups.
    is_noise_floor = base.artifact_id == new.artifact_id and is_other_shape(base, new)
    if base.scheme_sha256 != new.scheme_sha256 and base.runner == new.runner and not is_noise_floor:
        raise UsageError(
            f"questions were scored in other groups: {base.id} {_short(base)}, but {new.id} {_short(new)}",
            "batch company moves answers: run one of them again as the other was",
        )


def _short(run: RunRow | None) -> str:
    return f"(scheme {(run.scheme_sha256 or 'none')[:8]})" if run else ""


def speed_ratios(store: Store, base: RunRow, new: RunRow) -> tuple[Ratio, ...]:
    """Every rate and latency that two performance runs share, with a verdict."""
    before, after = samples(store, base.id), samples(store, new.id)
    found = []
    for key in sorted(before.keys() & after.keys()):
        ratio = ratio_of_medians(before[key], after[key])
        base_median, new_median = median_of_groups(before[key]), median_of_groups(after[key])
        if ratio and base_median and new_median:
            test, metric = key
            least = max(MIN_SPEED_DIFFERENCE, *(anchor_drift(store, run, key) for run in (base, new)))
            verdict = ratio_verdict(metric, ratio, least)
            found.append(
                Ratio(
                    test=test, metric=metric, base=base_median, new=new_median, ratio=ratio, verdict=verdict
                )
            )
    return tuple(found)


def anchor_drift(store: Store, run: RunRow, key: tuple[str, str]) -> float:
    """How far the medians of the anchor's visits lie apart, as a share: what the sitting alone can do.

    0 where there was no anchor (without --rigorous), or it had one visit.
    """
    if run.anchor_id is None:
        return 0.0
    visits = [median(visit) for visit in samples(store, run.anchor_id).get(key, []) if visit]
    return max(visits) / min(visits) - 1 if visits else 0.0


def ratio_verdict(metric: str, ratio: Estimate, least: float = MIN_SPEED_DIFFERENCE) -> str:
    """`better` or `worse` when the interval excludes 1 and the ratio is off by more than `least`."""
    surely_other = (
        ratio.ci_low is not None and ratio.ci_high is not None and not ratio.ci_low <= 1 <= ratio.ci_high
    )
    if not surely_other or abs(ratio.value - 1) <= least:
        return NOT_SEPARABLE
    higher_is_better = metric.endswith("_tokens_per_s")
    return "better" if (ratio.value > 1) == higher_is_better else "worse"


def _differences(base: RunRow, new: RunRow) -> tuple[str, ...]:
    columns = [name for name in _CONDITIONS if getattr(base, name) != getattr(new, name)]
    before, after = base.config, new.config
    settings = [
        f"config.{key}" for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)
    ]
    return tuple(columns + settings)
