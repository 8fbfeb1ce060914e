"""The best of many candidates for a third of the work: successive halving, with an anchor in every rung.

Every candidate is visited once and briefly; the better ones are visited again and longer, rung by rung;
the one that is left is held against candidate 0, the anchor, in visits of its own. Computers drift by
more than settings differ, so a visit counts by its ratio to the anchor's visits before and after it, and
the last comparison uses no figure that helped to choose (Jamieson & Talwalkar 2016, with these two changes).
Where its first half leaves it open, there is a second, and no third: two looks cost little certainty.

A visit is a fresh process: one warm-up pass, then its repetitions. Both are paid for: the budget counts
passes.
"""

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

ANCHOR = 0
"""The candidate that all others are held against."""
KEPT_SHARE = 1 / 3
"""Of a rung's candidates, those that reach the next one, where the budget allows it."""
ANCHOR_EVERY = 8
"""Candidates between two visits of the anchor, about."""
FEW = 6
"""Of fewer candidates, a third of everything is too little to choose by."""
PAIR = (ANCHOR, 1, 1, ANCHOR)
"""The order of two pairs of the last comparison: neither side is always the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One fresh process for a candidate."""

    candidate_index: int
    """0 is the anchor."""
    n_repetitions: int

    @property
    def n_passes(self) -> int:
        """The repetitions and the warm-up before them."""
        return self.n_repetitions + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a budget is spent on so many candidates."""

    n_candidates: int
    rungs: tuple[tuple[int, int], ...]
    """(candidates besides the anchor, repetitions of each) of every rung."""
    n_pairs: int
    """Pairs of visits of the last comparison."""
    n_more_pairs: int
    """And of its second half, for when the first does not decide."""
    n_pair_repetitions: int

    @property
    def n_search_visits(self) -> int:
        """Fresh processes of all rungs."""
        return sum(n + n_anchors(n) for n, _ in self.rungs)

    @property
    def n_search_repetitions(self) -> int:
        """Measured repetitions of all rungs, the anchor's included."""
        return sum((n + n_anchors(n)) * repetitions for n, repetitions in self.rungs)

    @property
    def n_repetitions(self) -> int:
        """Measured repetitions in all, without the second half of the last comparison."""
        return self.n_search_repetitions + 2 * self.n_pairs * self.n_pair_repetitions

    @property
    def n_repetitions_at_most(self) -> int:
        """The same with it."""
        return self.n_repetitions + 2 * self.n_more_pairs * self.n_pair_repetitions

    @property
    def n_passes(self) -> int:
        """Repetitions and warm-ups in all, without the second half."""
        return self.n_repetitions + self.n_search_visits + 2 * self.n_pairs


def n_anchors(n: int) -> int:
    """Visits of the anchor in a rung of `n` others: the first, the last, and some between."""
    return 2 + (n - 1) // ANCHOR_EVERY


def schedule(
    n_candidates: int,
    *,
    n_rounds: int,
    n_repetitions: int,
    n_pairs: int,
    least_repetitions: int = 1,
    wanted_repetitions: int = 1,
) -> Schedule:
    """The rungs for a third of what all candidates would take, `n_rounds` visits of `n_repetitions` each.

    The anchor is one of the `n_candidates` >= 2. The last comparison has `n_pairs` pairs of visits and, where
    the budget allows it, the repetitions wanted. It and the first rung are always there: of fewer than six
    candidates they cost more than a third, but never more than everything.
    """
    n, sweep = n_candidates - 1, n_candidates * n_rounds
    found = Schedule(
        n_candidates=n_candidates,
        rungs=((n, 1),) if n > 1 else (),
        n_pairs=n_pairs,
        n_more_pairs=0,
        n_pair_repetitions=least_repetitions,
    )
    left = sweep * (n_repetitions + 1) // 3 - found.n_passes
    while found.n_pair_repetitions < wanted_repetitions and left >= 2 * n_pairs:
        found = replace(found, n_pair_repetitions=found.n_pair_repetitions + 1)
        left -= 2 * n_pairs
    while found.rungs and n > 2:
        repetitions = len(found.rungs)
        kept = math.ceil(n * KEPT_SHARE)
        while kept >= 2 and (kept + n_anchors(kept)) * (repetitions + 1) > left:
            kept -= 1
        if kept < 2:
            break
        left -= (kept + n_anchors(kept)) * (repetitions + 1)
        n = kept
        found = replace(found, rungs=(*found.rungs, (n, repetitions)))
    most = sweep * n_repetitions if n_candidates < FEW else sweep * n_repetitions // 3
    more = (most - found.n_repetitions) // (2 * found.n_pair_repetitions)
    return replace(found, n_more_pairs=min(max(more, 0), n_pairs))


def halving(
    found: Schedule, *, seed: int = 0
) -> Generator[tuple[Visit, ...], Mapping[int, float], list[int]]:
    """Yields a rung's visits in order, is sent the scores, and returns all candidates, the best first.

    Scores are of every candidate so far, lower is better; one that could not be measured has none, and is
    out. Who reached a later rung goes before who did not. The anchor is not among those returned.
    """
    rng = random.Random(seed)
    alive = [*range(1, found.n_candidates)]
    gone: list[int] = []
    for i, (n, repetitions) in enumerate(found.rungs):
        scores = yield tuple(_visits(rng.sample(alive, len(alive)), repetitions))
        alive = sorted((c for c in alive if c in scores), key=lambda c: (scores[c], c))
        n_next = found.rungs[i + 1][0] if i + 1 < len(found.rungs) else n
        alive, gone = alive[:n_next], alive[n_next:] + gone
    return alive + gone


def _visits(order: Sequence[int], repetitions: int) -> list[Visit]:
    """The candidates in this order, the anchor first, last, and evenly between."""
    n_parts = n_anchors(len(order)) - 1
    places = [round(i * len(order) / n_parts) for i in range(n_parts + 1)]
    visits = [Visit(candidate_index=ANCHOR, n_repetitions=repetitions)]
    for begin, end in pairwise(places):
        visits += [Visit(candidate_index=c, n_repetitions=repetitions) for c in order[begin:end]]
        visits.append(Visit(candidate_index=ANCHOR, n_repetitions=repetitions))
    return visits


def last_visits(found: Schedule, winner: int) -> tuple[tuple[Visit, ...], tuple[Visit, ...]]:
    """The comparison of the winner with the anchor, and its second half: pairs, in turning order."""
    n = found.n_pairs + found.n_more_pairs
    order = [winner if PAIR[i % len(PAIR)] else ANCHOR for i in range(2 * n)]
    visits = tuple(Visit(candidate_index=c, n_repetitions=found.n_pair_repetitions) for c in order)
    return visits[: 2 * found.n_pairs], visits[2 * found.n_pairs :]


def anchored(visits: Sequence[tuple[int, Sequence[float]]]) -> dict[int, list[float]]:
    """Of the others' visits, each value's log ratio to the anchor at that moment; by candidate.

    `visits` are (candidate, its values > 0) in the order of time; one without values is passed over. The
    anchor's level is drawn straight between its visits (medians of logarithms), and level before the first
    and after the last. Empty without an anchor.
    """
    levels = [
        (i, median(map(math.log, values))) for i, (c, values) in enumerate(visits) if c == ANCHOR and values
    ]
    ratios: dict[int, list[float]] = {}
    for i, (candidate, values) in enumerate(visits):
        if candidate != ANCHOR and values and levels:
            level = _between(levels, i)
            ratios.setdefault(candidate, []).extend(math.log(value) - level for value in values)
    return ratios


def _between(levels: Sequence[tuple[int, float]], place: int) -> float:
    before = max((level for level in levels if level[0] <= place), default=levels[0])
    after = min((level for level in levels if level[0] >= place), default=levels[-1])
    part = (place - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
    return before[1] + part * (after[1] - before[1])
