"""The same questions answered in two runs: what changed, how surely, and what could have been seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgebench.core.paired import (
    bootstrap_difference,
    clustered_difference,
    clustered_p,
    minimal_detectable_difference,
)
from edgebench.core.shares import independent_answers
from edgebench.core.stats import Estimate, mcnemar_mid_p, mcnemar_p, paired_difference
from edgebench.core.types import Mode, Shape, Status
from edgebench.results.answers import is_permuted
from edgebench.results.levels import asking
from edgebench.results.records import RunRow
from edgebench.results.store import Store

ALPHA = 0.05
NOT_SEPARABLE = "not separable"

_PAIRS = """
  SELECT a.question_id, b.correct - a.correct AS d, a.choice_index IS NOT b.choice_index AS changed
  FROM answer a JOIN answer b USING (question_id, repeat)
  WHERE a.run_id = ? AND b.run_id = ? AND (repeat = 0 OR ?) ORDER BY a.question_id, repeat"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """The same questions answered in two runs, in all rotations where both asked them so."""

    n: int
    """Pairs of answers."""
    n_questions: int
    n_lost: int | None
    """Right before, wrong after; None where there is no key."""
    n_won: int | None
    """Wrong before, right after."""
    n_changed: int
    """Another choice, right or wrong."""
    clusters: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    """After minus before of each answer, by question; empty without a key."""

    @property
    def is_clustered(self) -> bool:
        """Whether questions were asked more than once, and only questions are independent."""
        return self.n > self.n_questions

    @property
    def share(self) -> float:
        """Share of the answers whose correctness flipped; without a key, of those that changed."""
        flipped = self.n_changed if self.n_lost is None or self.n_won is None else self.n_lost + self.n_won
        return flipped / self.n if self.n else 0.0

    @property
    def test(self) -> str:
        """What `p` comes from."""
        return "clustered_t" if self.is_clustered else "mcnemar_exact"

    @property
    def p(self) -> float | None:
        """McNemar's exact p, or the clustered one; None without a key."""
        if self.n_lost is None or self.n_won is None:
            return None
        return clustered_p(self.clusters) if self.is_clustered else mcnemar_p(self.n_lost, self.n_won)

    @property
    def p_mid(self) -> float | None:
        """McNemar's mid-p, where questions were asked once."""
        if self.n_lost is None or self.n_won is None or self.is_clustered:
            return None
        return mcnemar_mid_p(self.n_lost, self.n_won)

    @property
    def difference(self) -> Estimate | None:
        """Accuracy after minus before, with the paired interval."""
        if self.n_lost is None or self.n_won is None:
            return None
        if self.is_clustered:
            return clustered_difference(self.clusters)
        return paired_difference(self.n_lost, self.n_won, self.n)

    @property
    def bootstrap(self) -> Estimate | None:
        """The same difference with a bootstrap over questions, where they were asked more than once."""
        return bootstrap_difference(self.clusters) if self.is_clustered and self.clusters else None

    @property
    def detectable(self) -> float | None:
        """The difference that so many answers would show in 80 % of comparisons; None without a key."""
        if self.n_lost is None or self.n_won is None:
            return None
        worth: float = self.n
        if self.is_clustered:
            mean = (self.n_won - self.n_lost) / self.n
            worth = independent_answers(self.clusters, self.share - mean**2)
        return minimal_detectable_difference(round(worth), self.share)

    def verdict(self, p: float | None, *noise: "Flips | None") -> str:
        """`better`, `worse` or `not separable`; `no key` where nobody knows.

        Better or worse takes p < 0.05 and a net change beyond every noise floor.
        """
        if p is None or self.difference is None:
            return "no key"
        floor = max((one.share for one in noise if one), default=0.0)
        net = self.difference.value
        if p >= ALPHA or abs(net) <= floor:
            return NOT_SEPARABLE
        return "better" if net > 0 else "worse"


def flips(store: Store, before: RunRow, after: RunRow) -> Flips | None:
    """What changed between two runs; None without shared answers."""
    all_rotations = is_permuted(before) and is_permuted(after)
    pairs = store.rows(_PAIRS, (before.id, after.id, all_rotations))
    clusters: dict[str, list[int | None]] = {}
    for pair in pairs:
        clusters.setdefault(pair["question_id"], []).append(pair["d"])
    if not pairs:
        return None
    differences = [pair["d"] for pair in pairs]
    keyed = None not in differences
    return Flips(
        n=len(pairs),
        n_questions=len(clusters),
        n_lost=differences.count(-1) if keyed else None,
        n_won=differences.count(1) if keyed else None,
        n_changed=sum(pair["changed"] for pair in pairs),
        clusters=tuple(map(_whole, clusters.values())) if keyed else (),
    )


def _whole(cluster: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(d for d in cluster if d is not None)


def noise_of(store: Store, run: RunRow) -> Flips | None:
    """A run's flips against the same file's newest run in the other shape, where there is one."""
    for other in store.runs(mode=Mode.ACCURACY, status=Status.COMPLETE):
        same = (other.artifact_id, other.runner, asking(other)) == (run.artifact_id, run.runner, asking(run))
        if same and is_other_shape(other, run) and not other.is_tuning:
            return flips(store, run, other)
    return None


def is_other_shape(one: RunRow, other: RunRow) -> bool:
    """Whether questions were scored in groups in one run and alone in the other."""
    return {one.shape, other.shape} == {Shape.GROUPED, Shape.ALONE}
