"""Checking a ladder: real processes, a real database, a pretend engine whose damage is known."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import ModelError
from edgebench.core.paths import cache_part
from edgebench.core.types import Artifact
from edgebench.results.damage import Damage, Verdict, damages
from edgebench.results.store import Store
from edgebench.session_check import check_ladder
from edgebench.session_check_scene import CheckRequest, heldout_text
from edgebench.session_models import resolve

REQUEST = CheckRequest(n_threads=1, n_chunks=7, n_ctx=64, n_prompts=2, n_greedy=16, n_questions=16)


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.n_steps = 0
        self.n_done = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def stage(self, title: str, n_steps: int) -> None:
        self.lines.append(title)
        self.n_steps = n_steps

    def step(self, note: str, n_steps: int = 1) -> None:
        self.n_done += n_steps


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "edgebench.sqlite") as opened:
        yield opened


@pytest.fixture
def add(store: Store, toy: Any) -> Any:
    def make(level: str, **script: Any) -> Artifact:
        artifact = resolve(str(toy(level, **script)), lambda _: None)
        store.add_artifact(artifact, {})
        return artifact

    return make


def by_level(store: Store) -> dict[str, Damage]:
    return {damage.quant: damage for damage in damages(store)}


def test_a_ladder_is_checked_once_and_its_damage_rises(store: Store, add: Any) -> None:
    reference = add("f32", seed=1, damage=0.0)
    levels = [add("q8_0", seed=2, damage=0.01), add("q4_0", seed=3, damage=1.5)]
    listener = Listener()
    assert check_ladder(reference, [reference, *levels], store, listener, REQUEST) == []
    assert listener.n_done == listener.n_steps > 0
    found = by_level(store)
    klds = [found[level].kld_mean for level in ("f32", "q8_0", "q4_0")]
    values = [kld.value for kld in klds if kld]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert found["f32"].is_reference
    assert found["f32"].verdict is Verdict.FLOOR
    assert found["f32"].greedy_same == 16
    assert found["q4_0"].verdict in (Verdict.DEGRADED, Verdict.BROKEN)
    assert found["q4_0"].greedy_same is not None
    assert found["q4_0"].greedy_same < 16
    assert found["q4_0"].n_questions == 16
    assert store.rows("SELECT count(*) AS n FROM check_token GROUP BY check_id ORDER BY n") == [
        {"n": 4 * 31},  # the reference again, in another batch shape
        {"n": 7 * 31},
        {"n": 7 * 31},
    ]

    again = Listener()
    assert check_ladder(reference, levels, store, again, REQUEST) == []
    assert again.n_steps == 0
    assert "before" in again.lines[0]
    assert list(cache_part("work").glob(f".check-{os.getpid()}-*")) == []


def test_one_more_file_costs_only_its_own_check(store: Store, add: Any) -> None:
    reference, first = add("f32", damage=0.0), add("q8_0", seed=2)
    check_ladder(reference, [first], store, Listener(), REQUEST)
    before = store.rows("SELECT id FROM check_run ORDER BY id")
    check_ladder(reference, [first, add("q4_0", seed=3)], store, Listener(), REQUEST)
    after = store.rows("SELECT id FROM check_run ORDER BY id")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert by_level(store)["q4_0"].n_questions == 16


@pytest.mark.parametrize(("how", "told"), [("kill", "SIGKILL"), ("error", "fail now")])
def test_a_file_whose_process_dies_is_recorded_and_the_rest_goes_on(
    store: Store, add: Any, tmp_path: Path, how: str, told: str
) -> None:
    cause = tmp_path / "cause"
    cause.touch()
    reference, healthy = add("f32", damage=0.0), add("q4_0", seed=3)
    sick = add("q8_0", seed=2, dies_after=3, how=how, **{"while": str(cause)})
    listener = Listener()
    failures = check_ladder(reference, [sick, healthy], store, listener, REQUEST)
    assert len(failures) == 1
    assert told in failures[0]
    found = by_level(store)
    assert found["q8_0"].verdict is Verdict.FAILED
    assert told in str(found["q8_0"].reason)
    assert found["q8_0"].kld_mean is None
    assert found["q4_0"].kld_mean is not None

    cause.unlink()
    assert check_ladder(reference, [sick, healthy], store, Listener(), REQUEST) == []
    assert by_level(store)["q8_0"].kld_mean is not None
    assert len(store.rows("SELECT id FROM check_run")) == 3


def test_logits_that_are_no_numbers_fail_the_check(store: Store, add: Any) -> None:
    failures = check_ladder(
        add("f32", damage=0.0), [add("q8_0", seed=2, nan=True)], store, Listener(), REQUEST
    )
    assert "not finite" in failures[0]


def test_a_dying_reference_is_told(store: Store, add: Any) -> None:
    reference = add("f32", damage=0.0, dies_after=2, how="kill")
    with pytest.raises(ModelError, match=r"the reference f32: .*SIGKILL"):
        check_ladder(reference, [add("q8_0", seed=2)], store, Listener(), REQUEST)
    assert by_level(store)["f32"].verdict is Verdict.FAILED
    assert list(cache_part("work").glob(f".check-{os.getpid()}-*")) == []


def test_a_full_disk_is_told_before_anything_is_evaluated(
    store: Store, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebench.session_check_scene.free_bytes", lambda _: 1000)
    with pytest.raises(ModelError, match="no room for the reference's log-probabilities"):
        check_ladder(add("f32", damage=0.0), [add("q8_0", seed=2)], store, Listener(), REQUEST)


def test_too_short_a_text_is_told(store: Store, add: Any) -> None:
    with pytest.raises(ModelError, match="one chunk takes 512"):
        check_ladder(add("f32"), [], store, Listener(), CheckRequest(n_threads=1, text="Too short."))


def test_calibration_and_held_out_text_share_no_sentence() -> None:
    from importlib.resources import files

    calibration = (files("edgebench.quantize") / "data" / "calibration.txt").read_text(encoding="utf-8")
    held_out = heldout_text()

    def sentences(text: str) -> set[str]:
        parts = text.replace("\n", ". ").split(". ")
        return {part.strip().rstrip(".") for part in parts if len(part.strip()) > 20}

    assert len(sentences(held_out)) > 100
    assert len(calibration) > 2 * len(held_out)
    assert sentences(calibration) & sentences(held_out) == set()
