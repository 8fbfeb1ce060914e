import dataclasses
from collections.abc import Callable

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.types import Question, Suite
from edgebench.suites.fewshot import Shots, content_key

MakeSuite = Callable[..., Suite]


def question(name: str, subject: str = "", choices: tuple[str, ...] = ("x", "y")) -> Question:
    return Question(id=name, text=f"What is {name}?", choices=choices, answer_index=0, subject=subject)


POOL = [question(f"{subject}{i}", subject) for subject in ("a", "b") for i in range(5)]


def ids(shots: tuple[Question, ...]) -> list[str]:
    return [shot.id for shot in shots]


def test_first_of_the_subject(make_suite: MakeSuite) -> None:
    suite = make_suite([question("p", "a"), question("q", "b")])
    shots = Shots(suite, POOL, 3)
    assert ids(shots.of(suite.questions[0])) == ["a0", "a1", "a2"]
    assert ids(shots.of(suite.questions[1])) == ["b0", "b1", "b2"]


def test_pool_without_the_subjects_serves_all(make_suite: MakeSuite) -> None:
    suite = make_suite([question("p", "other")])
    assert ids(Shots(suite, POOL, 6).of(suite.questions[0])) == ["a0", "a1", "a2", "a3", "a4", "b0"]


@pytest.mark.parametrize(
    "twin",
    [
        Question(id="z", text="What is a1?", choices=("x", "y"), answer_index=0, subject="a"),
        Question(id="z", text=" what  is A1? ", choices=("Y", "x "), answer_index=1, subject="a"),
    ],
)
def test_question_is_never_its_own_worked_example(make_suite: MakeSuite, twin: Question) -> None:
    suite = make_suite([twin])
    assert ids(Shots(suite, POOL, 3).of(twin)) == ["a0", "a2"]


def test_same_words_with_other_options_are_another_question() -> None:
    one = question("a1", choices=("x", "y"))
    assert content_key(one) != content_key(dataclasses.replace(one, choices=("x", "z")))


def test_drawn_examples_follow_from_the_question_and_the_seed(make_suite: MakeSuite) -> None:
    pool = [question(f"p{i}") for i in range(30)]
    asked = [question(f"q{i}") for i in range(6)]
    suite = make_suite(asked, first_shots=False)
    drawn = [ids(Shots(suite, pool, 4).of(q)) for q in asked]
    assert drawn == [ids(Shots(suite, pool, 4).of(q)) for q in asked]
    assert drawn == [ids(Shots(suite, list(reversed(pool)), 4).of(q)) for q in asked]
    assert len({tuple(names) for names in drawn}) == len(asked)
    other = make_suite(asked, first_shots=False, seed=1)
    assert ids(Shots(other, pool, 4).of(asked[0])) != drawn[0]


@pytest.mark.parametrize(
    ("pool", "hint"), [(POOL, "--num-fewshot 5"), ([], "ask it without worked examples: --num-fewshot 0")]
)
def test_more_examples_than_there_are_is_refused(
    make_suite: MakeSuite, pool: list[Question], hint: str
) -> None:
    suite = make_suite([question("p", "a")])
    with pytest.raises(UsageError, match="worked examples") as caught:
        Shots(suite, pool, 6 if pool else 1)
    assert caught.value.hint == hint
