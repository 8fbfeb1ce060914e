"""The pretend engine's scripts: texts it says, letters it leans to, the same every time."""

from array import array
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.types import Settings
from edgebench.runners.synthetic import Synthetic

LETTERS = (" A", " B", " C", " D")


@pytest.fixture
def session(tmp_path: Path, write_toy: Any) -> Any:
    """`session(**script)`: a loaded model of that script."""
    return lambda **script: Synthetic().load(write_toy(tmp_path, token_s=0, **script), Settings(n_threads=1))


def group_of(session: Any, n: int = 200) -> list[Any]:
    tokens = session.tokenize
    return [(tokens(f"Question {i}\nAnswer:"), [tokens(text) for text in LETTERS]) for i in range(n)]


def picks(scores: Any) -> list[int]:
    return [max(range(len(row)), key=lambda j: row[j].logprob) for row in scores]


def test_a_lean_moves_one_letters_log_likelihoods_and_nothing_else(session: Any) -> None:
    plain, leaning = session(seed=3), session(seed=3, leans={"A": 4.0})
    group = group_of(plain)
    before, after = (s.loglikelihoods(group, n_cells=512) for s in (plain, leaning))
    for old, new in zip(before, after, strict=True):
        moved = [b.logprob - a.logprob for a, b in zip(old, new, strict=True)]
        assert moved == pytest.approx([0, -4, -4, -4])  # against the strongest lean: they stay below 0
    assert all(score.logprob <= 0 for row in after for score in row)
    assert picks(before).count(0) < 80
    assert picks(after).count(0) > 120


def test_scores_depend_on_what_was_asked_alone(session: Any) -> None:
    one = session(seed=3)
    group = group_of(one, 6)
    whole = one.loglikelihoods(group, n_cells=512)
    arrays = [(array("i", c), [array("i", o) for o in options]) for c, options in group]
    assert one.loglikelihoods(arrays[3:], n_cells=512, shared=group[0][0][:9]) == whole[3:]
    assert session(seed=4).loglikelihoods(group, n_cells=512) != whole
    assert one.loglikelihoods(group, n_cells=0) != whole


def test_what_is_said_is_chosen_by_the_context(session: Any) -> None:
    texts = ["The answer is (A).", "B", "I don't know."]
    one = session(seed=3, says=texts)
    contexts = [context for context, _ in group_of(one, 60)]
    made = one.generate(contexts, n_gen=64, n_cells=512)
    said = [bytes(tokens).decode() for tokens in made]
    assert set(said) == set(texts)
    assert one.generate(contexts[7:], n_gen=64, n_cells=512, shared=contexts[0][:9]) == made[7:]
    assert [len(tokens) for tokens in one.generate(contexts, n_gen=3, n_cells=512)] == [
        min(len(text), 3) for text in said
    ]
    stopped = one.generate(contexts, n_gen=64, n_cells=512, ended=lambda t: bytes(t).endswith(b"answer"))
    assert {bytes(tokens).decode() for tokens in stopped} == {"The answer", *texts[1:]}
    assert session().generate(contexts[:2], n_gen=4, n_cells=512) == [[], []]
