"""Is this level worse than that one? Paired, corrected, and never a bare difference."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from edgebench.core.errors import UsageError, nearest
from edgebench.core.stats import (
    Estimate,
    holm,
    mcnemar_p,
    median_of_groups,
    paired_difference,
    ratio_of_medians,
)
from edgebench.core.types import Mode, Shape, Status
from edgebench.results.levels import LevelRow, level_rows, refuse_mixed_schemes
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.results.summary import samples

ALPHA = 0.05
MIN_SPEED_DIFFERENCE = 0.02
"""A smaller change of a time or a rate is not called one, however sure it is."""

# The first answer to a question only: repeats are not independent of it.
_FLIPS = """
  SELECT count(*) AS n,
    coalesce(sum(a.correct > b.correct), 0) AS n_lost, coalesce(sum(a.correct < b.correct), 0) AS n_won,
    coalesce(sum(a.choice_index IS NOT b.choice_index), 0) AS n_changed
  FROM answer a JOIN answer b USING (question_id, repeat)
  WHERE a.run_id = ? AND b.run_id = ? AND repeat = 0"""

_CONDITIONS = ("evidence", "device_id", "environment_id", "runner", "runner_version", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """The same questions answered in two runs."""

    n: int
    n_lost: int
    """Right before, wrong after."""
    n_won: int
    """Wrong before, right after."""
    n_changed: int
    """Another choice, right or wrong."""

    @property
    def share(self) -> float:
        """Share of the questions whose correctness flipped."""
        return (self.n_lost + self.n_won) / self.n if self.n else 0.0

    @property
    def p(self) -> float:
        """McNemar's exact p."""
        return mcnemar_p(self.n_lost, self.n_won)

    @property
    def difference(self) -> Estimate | None:
        """Accuracy after minus before, with the paired interval; None without shared questions."""
        return paired_difference(self.n_lost, self.n_won, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelComparison:
    """A level against the base of its table."""

    row: LevelRow
    flips: Flips | None
    """Against the base; None for the base itself and where accuracy is missing."""
    p_holm: float | None
    """p corrected for the number of levels in the table."""
    noise: Flips | None
    """The level against itself, questions grouped and alone: how many flip with no cause."""
    noise_reason: str | None
    """Why there is no noise floor."""
    verdict: str
    """`baseline`, `worse`, `better`, `not separable` or `no shared answers`."""


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
    ratios: tuple[Ratio, ...]
    """Of performance runs."""
    verdict: str | None
    """Of accuracy runs; ratios have their own."""
    medical: bool
    """Their suite is a medical one."""
    differs: tuple[str, ...]
    """What else is not the same in these runs: `device_id`, `config.n_threads`, …"""


def by_quant(
    store: Store,
    *,
    device: str | None = None,
    model: str | None = None,
    suite: str | None = None,
    scorer: str | None = None,
    base: str | None = None,
    only: Container[str] | None = None,
) -> Comparison:
    """Every level of a model against one of them: the widest, unless another is named."""
    rows = level_rows(store, device=device, model=model, suite=suite, scorer=scorer, only=only)
    models = sorted({row.model for row in rows})
    if not rows:
        raise UsageError(f"no complete runs in {store.path}", "edgebench run measures levels")
    if len(models) > 1:
        raise UsageError(
            f"levels of {len(models)} models can't share a base: {', '.join(models)}", "name one: -m"
        )
    chosen = _base(rows, base)
    refuse_mixed_schemes(rows)
    flips = {row.artifact_id: _level_flips(store, chosen, row) for row in rows}
    corrected = holm({key: found.p for key, found in flips.items() if found})
    return Comparison(
        base=chosen,
        levels=tuple(
            _level(store, chosen, row, flips[row.artifact_id], corrected.get(row.artifact_id)) for row in rows
        ),
    )


def two_runs(store: Store, base: str, new: str) -> RunComparison:
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
    flips: Flips | None = None
    ratios: tuple[Ratio, ...] = ()
    if first.mode is Mode.ACCURACY:
        _refuse_other_questions(first, second)
        flips = _flips(store, first, second)
    else:
        ratios = _ratios(store, first, second)
    return RunComparison(
        base=first,
        new=second,
        flips=flips,
        ratios=ratios,
        verdict=_verdict(flips, flips.p, _noise_of(store, second)) if flips else None,
        medical=bool(store.rows("SELECT 1 FROM suite WHERE id = ? AND medical", (first.suite_id,))),
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
    store: Store, base: LevelRow, row: LevelRow, flips: Flips | None, p_holm: float | None
) -> LevelComparison:
    noise = _flips(store, row.accuracy, row.alone) if row.accuracy and row.alone else None
    reason = None if noise else "no complete run with one question a batch"
    if row is base:
        verdict = "baseline"
    else:
        verdict = _verdict(flips, p_holm, noise) if flips and p_holm is not None else "no shared answers"
    return LevelComparison(
        row=row, flips=flips, p_holm=p_holm, noise=noise, noise_reason=reason, verdict=verdict
    )


def _noise_of(store: Store, run: RunRow) -> Flips | None:
    """A run's flips against the same file's newest run in the other shape, where there is one."""
    same = ("artifact_id", "suite_id", "scorer")
    for other in store.runs(mode=Mode.ACCURACY, status=Status.COMPLETE):
        if any(getattr(other, name) != getattr(run, name) for name in same):
            continue
        if {other.shape, run.shape} == {Shape.GROUPED, Shape.ALONE}:
            return _flips(store, run, other)
    return None


def _verdict(flips: Flips, p: float, noise: Flips | None) -> str:
    net = flips.n_won - flips.n_lost
    floor = noise.share if noise else 0.0
    if p >= ALPHA or abs(net) / flips.n <= floor:
        return "not separable"
    return "better" if net > 0 else "worse"


def _level_flips(store: Store, base: LevelRow, row: LevelRow) -> Flips | None:
    if row is base or base.accuracy is None or row.accuracy is None:
        return None
    return _flips(store, base.accuracy, row.accuracy)


def _flips(store: Store, before: RunRow, after: RunRow) -> Flips | None:
    found = Flips(**store.rows(_FLIPS, (before.id, after.id))[0])
    return found if found.n else None


def _refuse_other_questions(base: RunRow, new: RunRow) -> None:
    for column in ("suite_id", "scorer"):
        before, after = getattr(base, column), getattr(new, column)
        if before != after:
            raise UsageError(
                f"{base.id} has {column.removesuffix('_id')} {before}, {new.id} has {after}",
                "compare runs that answered the same questions the same way",
            )
    # A file against itself in another shape is its noise floor; anything else needs the same groups.
    is_noise_floor = base.artifact_id == new.artifact_id and {base.shape, new.shape} == {
        Shape.GROUPED,
        Shape.ALONE,
    }
    if base.scheme_sha256 != new.scheme_sha256 and not is_noise_floor:
        raise UsageError(
            f"questions were scored in other groups: {base.id} {_short(base)}, but {new.id} {_short(new)}",
            "batch company moves answers: run one of them again as the other was",
        )


def _short(run: RunRow | None) -> str:
    return f"(scheme {(run.scheme_sha256 or 'none')[:8]})" if run else ""


def _ratios(store: Store, base: RunRow, new: RunRow) -> tuple[Ratio, ...]:
    before, after = samples(store, base.id), samples(store, new.id)
    found = []
    for key in sorted(before.keys() & after.keys()):
        ratio = ratio_of_medians(before[key], after[key])
        base_median, new_median = median_of_groups(before[key]), median_of_groups(after[key])
        if ratio and base_median and new_median:
            test, metric = key
            verdict = _speed_verdict(metric, ratio)
            found.append(
                Ratio(
                    test=test, metric=metric, base=base_median, new=new_median, ratio=ratio, verdict=verdict
                )
            )
    return tuple(found)


def _speed_verdict(metric: str, ratio: Estimate) -> str:
    surely_other = (
        ratio.ci_low is not None and ratio.ci_high is not None and not ratio.ci_low <= 1 <= ratio.ci_high
    )
    if not surely_other or abs(ratio.value - 1) <= MIN_SPEED_DIFFERENCE:
        return "not separable"
    higher_is_better = metric.endswith("_tokens_per_s")
    return "better" if (ratio.value > 1) == higher_is_better else "worse"


def _differences(base: RunRow, new: RunRow) -> tuple[str, ...]:
    columns = [name for name in _CONDITIONS if getattr(base, name) != getattr(new, name)]
    before, after = base.config, new.config
    settings = [
        f"config.{key}" for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)
    ]
    return tuple(columns + settings)
