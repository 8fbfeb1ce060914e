"""The same file on several devices: the base, the gate, and for whom the base's accuracy stands."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.types import Evidence, Question, Status
from edgebench.results.devices import accepted, by_device
from edgebench.results.engines import WITHHELD, EngineRow, EngineTable
from edgebench.results.parity import Gate

N, N_THERE = 200, 100
Choose = Callable[[Question, int], int]


def order(question: Question) -> list[int]:
    """Each option's rank: the best one goes round, and is the key of every second question."""
    shift, k = int(question.id[1:]) // 2, len(question.choices)
    return [(j - shift) % k for j in range(k)]


def best(question: Question, _: int) -> int:
    return order(question).index(0)


def wrong(n: int) -> Choose:
    """The first questions are answered otherwise."""

    def choose(question: Question, _: int) -> int:
        return (best(question, 0) + (int(question.id[1:]) < n)) % len(question.choices)

    return choose


def close(question: Question, _: int) -> Sequence[float]:
    """Options 0.1 nat apart: what rounding may turn around."""
    return [-0.1 * rank for rank in order(question)]


def sure(question: Question, _: int) -> Sequence[float]:
    return [-2.0 * rank for rank in order(question)]


class Bench:
    """A file, asked much on a laptop and little on a phone."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.file = lab.artifact("q4_0", 4.5)
        self.much = lab.asked(n=N)
        self.little = replace(self.much, questions=self.much.questions[:N_THERE])

    def laptop(self, artifact: str | None = None, **more: Any) -> str:
        return self._answered(artifact, {"suite": self.much, "runner": "llama_cpp", **more})

    def phone(self, artifact: str | None = None, *, name: str = "pixel8", **more: Any) -> str:
        device = self.lab.device(name)
        usual = {"suite": self.little, "runner": "llama_native", "device_id": device}
        return self._answered(artifact, usual | more)

    def timed(self, device: str, runner: str, decode_s: Sequence[float]) -> str:
        device_id = self.lab.device(device)
        run: str = self.lab.performance(self.file, decode_s, decode_s, device_id=device_id, runner=runner)
        return run

    def _answered(self, artifact: str | None, told: dict[str, Any]) -> str:
        told = {"choose": best, "logprobs": close, "scheme_sha256": str(told["runner"])} | told
        suite, choose = told.pop("suite"), told.pop("choose")
        run: str = self.lab.answered(artifact or self.file, suite, choose, **told)
        return run


@pytest.fixture
def bench(lab: Any) -> Bench:
    return Bench(lab)


def on(table: EngineTable, device: str) -> EngineRow:
    (found,) = [one for one in table.engines if one.row.device_id == device]
    return found


# The base


def test_the_device_with_most_answers_is_the_base_and_stands_first(bench: Bench) -> None:
    bench.laptop()
    bench.phone()
    found = by_device(bench.lab.store)
    assert found.base is found.engines[0]
    assert (found.base.row.device_id, found.base.parity) == ("laptop", None)
    assert [one.row.device_id for one in found.engines] == ["laptop", "pixel8"]
    assert found.left_out == ()


def test_another_base_is_named_by_how_its_id_begins(bench: Bench) -> None:
    bench.laptop()
    bench.phone(name="pixel8-a1b2c3")
    found = by_device(bench.lab.store, base="pixel8")
    assert found.base.row.device_id == "pixel8-a1b2c3"
    with pytest.raises(UsageError, match="unknown device in this database 'pixel9'") as caught:
        by_device(bench.lab.store, base="pixel9")
    assert "pixel8-a1b2c3" in str(caught.value.hint)


def test_of_a_devices_files_the_base_is_one_that_another_device_ran(bench: Bench) -> None:
    other = bench.lab.artifact("q8_0", 8.5)
    bench.laptop(other)
    bench.laptop(suite=bench.little)
    bench.phone()
    found = by_device(bench.lab.store)
    assert {one.row.label for one in found.engines} == {"q4_0"}
    assert found.left_out == (("llama_cpp q8_0 on laptop", "another file"),)


def test_formats_made_of_one_checkpoint_are_the_same_on_two_devices(bench: Bench) -> None:
    whole = {"parent_sha256": "c" * 64}
    bench.laptop(bench.lab.artifact("f32", 32.0, **whole))
    bench.phone(bench.lab.artifact("f16", 16.0, **whole))
    assert {one.row.label for one in by_device(bench.lab.store).engines} == {"f32", "f16"}


# What can't be compared


def test_one_device_is_nothing_to_compare(bench: Bench) -> None:
    bench.laptop()
    bench.laptop(runner="llama_native")
    with pytest.raises(UsageError, match="no two devices ran the same file") as caught:
        by_device(bench.lab.store)
    assert "--device" in str(caught.value.hint)


def test_two_devices_with_files_of_their_own_are_not_compared(bench: Bench) -> None:
    bench.laptop()
    bench.phone(bench.lab.artifact("q8_0", 8.5))
    with pytest.raises(UsageError, match="no two devices ran the same file"):
        by_device(bench.lab.store)


def test_an_empty_database_is_told(lab: Any) -> None:
    with pytest.raises(UsageError, match="no complete runs"):
        by_device(lab.store)


def test_several_models_have_no_base_in_common(bench: Bench) -> None:
    bench.laptop()
    bench.phone()
    bench.phone(bench.lab.artifact("q4_0", 4.5, model="other"))
    with pytest.raises(UsageError, match="2 models can't share a base: other, tiny") as caught:
        by_device(bench.lab.store)
    assert "-m" in str(caught.value.hint)
    assert len(by_device(bench.lab.store, model="tiny").engines) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"model": "tony"}, "unknown model .* 'tony'"), ({"suite": "exams"}, "unknown suite .* 'exams'")],
)
def test_a_name_that_nothing_goes_by_is_told_as_such(
    bench: Bench, asked: dict[str, str], message: str
) -> None:
    bench.laptop()
    bench.phone()
    with pytest.raises(UsageError, match=message):
        by_device(bench.lab.store, **asked)


# The way of asking


def test_devices_are_compared_in_the_way_of_asking_they_share(bench: Bench) -> None:
    bench.laptop()
    bench.phone()
    cloze = bench.laptop(scorer="cloze")  # newer, and the phone was asked nothing of the kind
    found = by_device(bench.lab.store)
    assert {one.row.scorer for one in found.engines} == {"letter"}
    assert cloze not in {run.id for one in found.engines for run in one.row.runs}
    assert on(found, "pixel8").parity is not None


def test_a_device_that_was_asked_otherwise_is_left_out_by_name(bench: Bench) -> None:
    bench.laptop()
    bench.phone()
    bench.phone(name="watch", scorer="cloze")
    found = by_device(bench.lab.store, scorer="letter")
    assert [one.row.device_id for one in found.engines] == ["laptop", "pixel8"]
    assert [named for named, _ in found.left_out] == ["watch"]


def test_only_complete_runs_speak(bench: Bench) -> None:
    bench.laptop()
    bench.lab.store.set_status(bench.phone(), Status.FAILED, "it died")
    with pytest.raises(UsageError, match="no two devices"):
        by_device(bench.lab.store)


# The gate, and the line that rests on it


def test_where_the_answers_agree_the_accuracy_holds_for_the_phone(bench: Bench) -> None:
    bench.laptop()
    bench.phone(choose=wrong(1))
    found = by_device(bench.lab.store)
    parity = on(found, "pixel8").parity
    assert parity is not None
    assert (parity.gate, parity.reasons) == (Gate.PASS, ())
    acc = found.base.row.figures["acc"]
    assert acc.n == N
    assert accepted(found) == [
        f"acc {acc.value:.3f} of {N} questions on laptop holds for pixel8: 99 of 100 answers agree"
    ]


def test_where_they_don_t_it_does_not_hold_and_the_line_says_why(bench: Bench) -> None:
    bench.laptop()
    bench.phone(choose=wrong(10))
    found = by_device(bench.lab.store)
    (line,) = accepted(found)
    assert "on laptop does not hold for pixel8: 90 of 100 answers agree; 90.0 % agree (limit 99 %)" in line
    parity = on(found, "pixel8").parity
    assert parity is not None
    assert parity.gate is Gate.FAIL


def test_one_answer_that_both_were_sure_of_is_enough_to_fail(bench: Bench) -> None:
    bench.laptop(logprobs=sure)
    bench.phone(choose=wrong(1), logprobs=sure)
    (line,) = accepted(by_device(bench.lab.store))
    assert "does not hold for pixel8: 99 of 100 answers agree; 1 disagree by up to 2 nat" in line


def test_agreement_without_log_probs_shows_nothing(bench: Bench) -> None:
    bench.laptop(logprobs=None)
    bench.phone(logprobs=None)
    found = by_device(bench.lab.store)
    parity = on(found, "pixel8").parity
    assert parity is not None
    assert parity.gate is Gate.UNKNOWN
    (line,) = accepted(found)
    assert "is not shown to hold for pixel8: 100 of 100 answers agree; no log-probs" in line


def test_without_answers_of_the_phone_nothing_is_said_of_its_accuracy(bench: Bench) -> None:
    bench.laptop()
    bench.timed("pixel8", "llama_native", [1.0] * 6)
    found = by_device(bench.lab.store)
    parity = on(found, "pixel8").parity
    assert parity is not None
    assert (parity.gate, parity.reasons) == (Gate.UNKNOWN, ("no accuracy run",))
    assert accepted(found) == []


def test_another_engine_of_the_bases_own_device_has_no_line(bench: Bench) -> None:
    bench.laptop()
    bench.laptop(runner="llama_native")
    bench.phone()
    bench.phone(name="watch", choose=wrong(10))
    found = by_device(bench.lab.store)
    assert len(found.engines) == 4
    lines = {line.partition(" for ")[2].partition(":")[0]: line for line in accepted(found)}
    assert lines.keys() == {"pixel8", "watch"}
    assert " holds for pixel8" in lines["pixel8"]
    assert " does not hold for watch" in lines["watch"]


def test_a_stand_ins_agreement_shows_nothing(bench: Bench) -> None:
    bench.laptop()
    bench.phone(evidence=Evidence.SYNTHETIC)
    (line,) = accepted(by_device(bench.lab.store))
    assert line == "pixel8: 100 of 100 answers agree with laptop; no device's, so it shows nothing"


# Costs


@pytest.mark.parametrize(("n_wrong", "verdicts"), [(0, {"worse"}), (10, {WITHHELD})])
def test_costs_have_a_verdict_behind_the_gate_only(bench: Bench, n_wrong: int, verdicts: set[str]) -> None:
    bench.laptop()
    bench.phone(choose=wrong(n_wrong))
    bench.timed("laptop", "llama_cpp", [1.0] * 6)
    bench.timed("pixel8", "llama_native", [4.0] * 6)
    found = on(by_device(bench.lab.store), "pixel8")
    rates = [ratio for ratio in found.ratios if ratio.metric.endswith("_tokens_per_s")]
    assert {(ratio.test, ratio.ratio.value) for ratio in rates} == {("pp512", 0.25), ("tg128", 0.25)}
    assert {ratio.verdict for ratio in rates} == verdicts
