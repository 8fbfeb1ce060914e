import random
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from edgebench.core.types import Question, Scorer, Suite
from edgebench.suites.groups import GROUP_SIZE, OWN_GROUPS_FROM, limited, ordered_groups

SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 70), min_size=1)


def suite(sizes: dict[str, int], seed: int = 0, order: random.Random | None = None) -> Suite:
    questions = [
        Question(id=f"{subject}{i}", text="?", choices=("x", "y"), answer_index=0, subject=subject)
        for subject, size in sizes.items()
        for i in range(size)
    ]
    if order:
        order.shuffle(questions)
    return Suite(
        name="mine",
        version="1",
        title="mine",
        sha256="",
        questions=tuple(questions),
        default_scorer=Scorer.LETTER,
        prompts={},
        license="",
        citation="",
        source="",
        seed=seed,
    )


def property_of(sizes: SearchStrategy[dict[str, int]] = SIZES) -> Callable[..., Callable[..., None]]:
    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return settings(max_examples=60, deadline=None)(given(sizes, st.integers(0, 3))(test))

    return decorate


@property_of()
def test_every_question_is_in_one_group(sizes: dict[str, int], seed: int) -> None:
    asked = Counter(q.id for group in ordered_groups(suite(sizes, seed)) for q in group)
    assert asked == Counter(q.id for q in suite(sizes).questions)


def stratum(sizes: dict[str, int], subject: str) -> str:
    """A large subject is on its own; the small ones are one pool."""
    return subject if sizes[subject] >= OWN_GROUPS_FROM * sum(sizes.values()) else "the pool"


@property_of()
def test_a_group_is_of_one_large_subject_or_of_the_pool_of_small_ones(
    sizes: dict[str, int], seed: int
) -> None:
    partial: Counter[str] = Counter()
    for group in ordered_groups(suite(sizes, seed)):
        (name,) = {stratum(sizes, question.subject) for question in group}
        assert 1 <= len(group) <= GROUP_SIZE
        partial[name] += len(group) < GROUP_SIZE
    assert all(n <= 1 for n in partial.values())  # only the last of each is not full


def test_many_small_subjects_are_all_met_by_a_short_sample() -> None:
    sizes = {f"s{i}": 8 for i in range(17)}
    kept = limited(ordered_groups(suite(sizes)), 24)
    counts = Counter(question.subject for group in kept for question in group)
    assert len(counts) >= 15
    assert max(counts.values()) <= 2


@settings(max_examples=60, deadline=None)
@given(SIZES, st.randoms(use_true_random=False))
def test_groups_follow_from_ids_and_seed_not_from_the_files_order(
    sizes: dict[str, int], order: random.Random
) -> None:
    assert ordered_groups(suite(sizes, order=order)) == ordered_groups(suite(sizes))


@property_of()
def test_any_beginning_is_stratified(sizes: dict[str, int], seed: int) -> None:
    """At every length there is one share of the whole that each stratum meets to within one group."""
    groups = ordered_groups(suite(sizes, seed))
    names = [stratum(sizes, group[0].subject) for group in groups]
    whole, taken = Counter(names), Counter[str]()
    for name in names:
        taken[name] += 1
        least = max((taken[other] - 1) / n for other, n in whole.items())
        most = min((taken[other] + 1) / n for other, n in whole.items())
        assert least < most + 1e-9


def test_another_seed_gives_other_groups() -> None:
    sizes = {"a": 40, "b": 40}
    assert ordered_groups(suite(sizes, 1)) != ordered_groups(suite(sizes, 2))


@property_of()
def test_limit_takes_whole_groups_and_enough_of_them(sizes: dict[str, int], seed: int) -> None:
    groups = ordered_groups(suite(sizes, seed))
    n_questions = sum(sizes.values())
    assert limited(groups, None) == groups
    for limit in {1, 5, n_questions // 2, n_questions, n_questions + 1} - {0}:
        kept = limited(groups, limit)
        assert kept == groups[: len(kept)]
        n_kept = sum(map(len, kept))
        assert n_kept >= min(limit, n_questions)
        assert n_kept - len(kept[-1]) < limit  # and not a group more


def test_limit_of_none_takes_nothing_at_zero() -> None:
    groups = ordered_groups(suite({"a": 20}))
    assert limited(groups, 0) == []
    assert limited([], 5) == []
