"""Option order: the table's figures, what is left out, and that the picture is drawn."""

import math
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.types import MEDICAL_NOTE, Question, Status
from edgebench.results.order import LevelOrder, order_rows
from edgebench.results.order_plot import describe, order_picture


def _key(question: Question, _rotation: int = 0) -> int:
    return question.answer_index or 0


def _first_place(question: Question, rotation: int) -> int:
    return rotation % len(question.choices)


def _leans(question: Question, rotation: int) -> int:
    """Half of the questions are known; for the others the first place is taken."""
    return _key(question) if int(question.id[1:]) % 2 else _first_place(question, rotation)


def _logprobs(bias: float) -> Any:
    """The key is worth 1; place A is worth `bias`."""

    def told(question: Question, rotation: int) -> list[float]:
        k = len(question.choices)
        worth = [
            (i == question.answer_index) + bias * ((i - rotation) % k == 0) + 0.001 * i for i in range(k)
        ]
        total = math.log(sum(map(math.exp, worth)))
        return [value - total for value in worth]

    return told


def _likeliest(bias: float) -> Any:
    def choose(question: Question, rotation: int) -> int:
        told = _logprobs(bias)(question, rotation)
        return told.index(max(told))

    return choose


def test_a_level_that_knows_and_one_that_only_says_a(lab: Any) -> None:
    suite = lab.asked(n=40)
    lab.answered(lab.artifact("f16", 16.0), suite, _key, permute="cyclic")
    lab.answered(lab.artifact("q2_k", 2.6), suite, _first_place, permute="cyclic")
    knows, says_a = order_rows(lab.store)
    assert [level.row.label for level in (knows, says_a)] == ["f16", "q2_k"]
    assert knows.graded is not None
    assert says_a.graded is not None
    assert (knows.graded.accuracy.value, knows.graded.circular.value, knows.consistent.value) == (1, 1, 1)
    assert [share.value for share in knows.chosen_at] == [0.25] * 4
    assert (knows.leans_index, knows.lean_share) == (None, None)
    assert (says_a.graded.accuracy.value, says_a.graded.circular.value, says_a.consistent.value) == (
        0.25,
        0,
        0,
    )
    assert [share.value for share in says_a.graded.gold_at] == [1, 0, 0, 0]
    assert (says_a.leans_index, says_a.lean_share) == (0, 0.75)
    assert says_a.graded.rstd.value == pytest.approx(math.sqrt(3) / 4)
    assert (knows.n, knows.n_incomplete) == (40, 0)


def test_pride_takes_a_lean_away(lab: Any) -> None:
    suite = lab.asked(n=60)
    lab.answered(lab.artifact("q2_k", 2.6), suite, _likeliest(1.5), permute="cyclic", logprobs=_logprobs(1.5))
    (level,) = order_rows(lab.store)
    assert level.graded is not None
    assert level.graded.pride is not None
    assert level.graded.pride.plain.value < 0.5
    assert level.graded.pride.accuracy.value == 1.0


def test_without_a_key_places_and_consistency_are_left(lab: Any) -> None:
    lab.answered(lab.artifact("q2_k", 2.6), lab.asked(n=20, keyed=False), _first_place, permute="cyclic")
    (level,) = order_rows(lab.store)
    assert level.graded is None
    assert level.consistent.value == 0
    assert level.leans_index == 0


def test_questions_may_differ_in_their_options(lab: Any) -> None:
    suite = lab.asked(n=32, sizes=(3, 4, 5, 10))
    lab.answered(lab.artifact("q8_0", 8.5), suite, _first_place, permute="cyclic")
    (level,) = order_rows(lab.store)
    assert len(level.chosen_at) == 10
    assert level.fair_at[9] == pytest.approx(0.1)
    assert level.leans_index == 0


def test_a_question_that_was_not_asked_in_every_order_is_left_out(lab: Any) -> None:
    run = lab.answered(lab.artifact("q8_0", 8.5), lab.asked(n=8), _key, permute="cyclic")
    lab.store._connection.execute("DELETE FROM answer WHERE question_id = 'q0003' AND repeat = 2")
    (level,) = order_rows(lab.store)
    assert (level.row.accuracy.id, level.n, level.n_incomplete) == (run, 7, 1)


def test_only_complete_permuted_runs_count_however_new_others_are(lab: Any) -> None:
    artifact, suite = lab.artifact("q8_0", 8.5), lab.asked(n=8)
    wanted = lab.answered(artifact, suite, _key, permute="cyclic")
    lab.answered(artifact, suite, _first_place)
    lab.store.set_status(lab.answered(artifact, suite, _first_place, permute="cyclic"), Status.INTERRUPTED)
    lab.answered(artifact, suite, _first_place, permute="cyclic", config={"shape": "alone"})
    (level,) = order_rows(lab.store)
    assert level.row.accuracy.id == wanted


def test_without_permuted_runs_the_command_that_makes_them_is_told(lab: Any) -> None:
    lab.accuracy(lab.artifact("q8_0", 8.5), [0])
    with pytest.raises(UsageError, match="every order") as caught:
        order_rows(lab.store)
    assert "--permute cyclic" in str(caught.value.hint)


def _some(lab: Any, n_levels: int, **more: Any) -> list[LevelOrder]:
    suite = lab.asked(n=24, **more)
    for i in range(n_levels):
        choose = _leans if i % 2 else _key
        lab.answered(lab.artifact(f"level{i}", 16.0 - i), suite, choose, permute="cyclic")
    return order_rows(lab.store)


@pytest.mark.parametrize("n_levels", [1, 4, 5, 8])
def test_every_level_gets_a_panel_with_units_and_its_name(lab: Any, tmp_path: Path, n_levels: int) -> None:
    levels = _some(lab, n_levels)
    out = tmp_path / "order.svg"
    order_picture(levels, out, "tiny: does the order matter?")
    text = out.read_text(encoding="utf-8")
    for level in levels:
        assert f"<!-- {level.row.label} -->" in text or level.row.label in text
    for word in ("share of answers", "place of the option", "chose this place"):
        assert word in text
    assert ("leans on this place" in text) == (n_levels > 1)


def test_a_picture_without_a_key_shows_places_only(lab: Any, tmp_path: Path) -> None:
    levels = _some(lab, 2, keyed=False)
    order_picture(levels, tmp_path / "order.svg", "tiny")
    text = (tmp_path / "order.svg").read_text(encoding="utf-8")
    assert "right, where" not in text
    assert "same option in every order" in text


def test_a_picture_says_what_a_suite_has_to_say(lab: Any, tmp_path: Path) -> None:
    levels = _some(lab, 2, medical=True, label="non-commercial", sizes=(3, 4))
    note = describe(levels)
    assert MEDICAL_NOTE in note
    assert "exam: non-commercial" in note
    assert "n = 24 questions" in note
    assert "have so many options" in note
    order_picture(levels, tmp_path / "order.png", "tiny")
    assert (tmp_path / "order.png").stat().st_size > 10_000
    with pytest.raises(UsageError, match="gifx"):
        order_picture(levels, tmp_path / "order.gifx", "tiny")
