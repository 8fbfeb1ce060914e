"""Flips, noise floors, ratios, and what is refused."""

from typing import Any

import pytest
from scipy.stats import binomtest

from edgebench.core.errors import UsageError
from edgebench.core.paired import clustered_p, minimal_detectable_difference
from edgebench.core.stats import mcnemar_mid_p
from edgebench.core.types import MEDICAL_NOTE, Question
from edgebench.results.compare import Comparison, LevelComparison, by_quant, two_runs


def _level(found: Comparison, label: str) -> LevelComparison:
    return next(level for level in found.levels if level.row.label == label)


def test_flips_are_counted_on_the_shared_questions(lab: Any) -> None:
    lab.accuracy(lab.artifact("f16", 16.0), {"q0": 0, "q1": 0, "q2": 1, "q3": 1, "q4": 0})
    lab.accuracy(lab.artifact("q4_0", 4.5), {"q0": 0, "q1": 1, "q2": 0, "q3": 2, "q9": 0})
    found = by_quant(lab.store)
    assert found.base.label == "f16"
    assert _level(found, "f16").verdict == "baseline"
    assert _level(found, "f16").flips is None
    flips = _level(found, "q4_0").flips
    assert flips is not None
    assert (flips.n, flips.n_lost, flips.n_won, flips.n_changed) == (4, 1, 1, 3)
    assert flips.p == 1.0
    assert flips.difference is not None
    assert flips.difference.value == 0


def test_a_level_is_worse_only_by_holms_p_and_beyond_its_noise(lab: Any) -> None:
    suite = lab.suite(n=60)
    lab.accuracy(lab.artifact("f16", 16.0), [0] * 60, suite=suite)
    worse, close = lab.artifact("q2_k", 2.6), lab.artifact("q8_0", 8.5)
    lab.accuracy(worse, [1] * 12 + [0] * 48, suite=suite)
    lab.accuracy(close, [1] * 5 + [0] * 55, suite=suite)
    found = by_quant(lab.store)
    q2 = _level(found, "q2_k")
    assert q2.p_holm == pytest.approx(2 * binomtest(0, 12).pvalue)
    assert q2.verdict == "worse"
    assert (q2.noise, q2.noise_reason) == (None, "no complete run with one question a batch")
    assert _level(found, "q8_0").verdict == "not separable"  # 5 of 60: p = 0.0625

    lab.accuracy(worse, [1] * 24 + [0] * 36, suite=suite, shape="alone", scheme_sha256="alone")
    q2 = _level(by_quant(lab.store), "q2_k")
    assert q2.noise is not None
    assert (q2.noise.n_lost, q2.noise.n_won, q2.noise.share) == (12, 0, 0.2)
    assert q2.noise_reason is None
    assert q2.verdict == "not separable"  # the file differs as much from itself


def test_a_base_can_be_named_and_a_wrong_name_gets_the_nearest(lab: Any) -> None:
    for quant, bits in (("f16", 16.0), ("q8_0", 8.5)):
        lab.accuracy(lab.artifact(quant, bits), [0] * 8 if quant == "f16" else [1] * 8, suite=lab.suite(n=8))
    found = by_quant(lab.store, base="q8_0")
    assert _level(found, "f16").verdict == "better"
    with pytest.raises(UsageError, match="unknown level 'q8_1'") as caught:
        by_quant(lab.store, base="q8_1")
    assert "q8_0" in str(caught.value.hint)


def test_levels_without_answers_are_shown_and_not_judged(lab: Any) -> None:
    lab.performance(lab.artifact("f32", 32.0), [1.0])
    lab.accuracy(lab.artifact("f16", 16.0), [0])
    found = by_quant(lab.store)
    assert found.base.label == "f16"  # the widest that answered
    assert _level(found, "f32").verdict == "no shared answers"


def test_levels_scored_in_other_groups_are_refused(lab: Any) -> None:
    lab.accuracy(lab.artifact("f16", 16.0), [0, 1], scheme_sha256="a" * 64)
    lab.accuracy(lab.artifact("q8_0", 8.5), [0, 1], scheme_sha256="b" * 64)
    with pytest.raises(UsageError, match=r"f16 \(scheme aaaaaaaa\), q8_0 \(scheme bbbbbbbb\)"):
        by_quant(lab.store)


def test_models_do_not_share_a_base_and_an_empty_database_is_told(lab: Any) -> None:
    with pytest.raises(UsageError, match="no complete runs"):
        by_quant(lab.store)
    for model in ("a", "b"):
        lab.accuracy(lab.artifact("f16", 16.0, model=model), [0])
    with pytest.raises(UsageError, match="2 models can't share a base: a, b"):
        by_quant(lab.store)
    assert by_quant(lab.store, model="b").base.model == "b"


def test_two_accuracy_runs_are_paired(lab: Any) -> None:
    base = lab.accuracy(lab.artifact("f16", 16.0), [0] * 4)
    new = lab.accuracy(lab.artifact("q8_0", 8.5), [0, 0, 0, 1])
    found = two_runs(lab.store, base, "latest")
    assert found.new.id == new
    assert found.flips is not None
    assert (found.flips.n_lost, found.flips.n_won, found.verdict) == (1, 0, "not separable")
    assert (found.ratios, found.differs) == ((), ())


def test_a_file_may_be_compared_with_itself_in_another_shape_only(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    grouped = lab.accuracy(artifact, [0, 1])
    alone = lab.accuracy(artifact, [0, 0], shape="alone", scheme_sha256="one by one")
    found = two_runs(lab.store, grouped, alone)
    assert found.flips is not None
    assert found.flips.n_won == 1
    assert found.differs == ("config.shape",)
    other = lab.accuracy(lab.artifact("f16", 16.0), [0, 1])
    with pytest.raises(UsageError, match="other groups"):
        two_runs(lab.store, other, alone)


def test_runs_of_other_questions_or_kinds_are_refused(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    first = lab.accuracy(artifact, [0])
    with pytest.raises(UsageError, match="suite everyday@1"):
        two_runs(lab.store, first, lab.accuracy(artifact, [0], suite=lab.suite("medqa")))
    with pytest.raises(UsageError, match="scorer letter"):
        two_runs(lab.store, first, lab.accuracy(artifact, [0], scorer="cloze"))
    with pytest.raises(UsageError, match="performance"):
        two_runs(lab.store, first, lab.performance(artifact, [1.0]))


def test_two_performance_runs_give_ratios_of_medians(lab: Any) -> None:
    base = lab.performance(lab.artifact("f16", 16.0), [2.0] * 6, [1.0] * 6)
    new = lab.performance(lab.artifact("q8_0", 8.5), [1.0] * 6, [1.01] * 6, config={"n_threads": 8})
    found = two_runs(lab.store, base, new)
    prefill, decode = sorted(found.ratios, key=lambda ratio: ratio.test)
    assert (prefill.test, prefill.ratio.value, prefill.verdict) == ("pp512", 2.0, "better")
    assert (prefill.ratio.ci_low, prefill.ratio.ci_high) == (2.0, 2.0)
    assert decode.verdict == "not separable"  # sure, but below 2 %
    assert found.differs == ("config.n_threads",)
    assert (found.flips, found.verdict) == (None, None)
    back = two_runs(lab.store, new, base)
    assert {ratio.test: ratio.verdict for ratio in back.ratios}["pp512"] == "worse"


def test_five_repetitions_carry_no_verdict(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    found = two_runs(lab.store, lab.performance(artifact, [2.0] * 5), lab.performance(artifact, [1.0] * 5))
    assert [ratio.verdict for ratio in found.ratios] == ["not separable"]


# How much a comparison can say


def _from(first: int) -> Any:
    """Right from question `first` on."""

    def choose(question: Question, _rotation: int) -> int:
        return ((question.answer_index or 0) + (int(question.id[1:]) < first)) % len(question.choices)

    return choose


def test_what_is_not_separable_says_what_would_have_been(lab: Any) -> None:
    suite = lab.asked(n=100)
    lab.answered(lab.artifact("f16", 16.0), suite, _from(0))
    lab.answered(lab.artifact("q8_0", 8.5), suite, _from(3))
    flips = _level(by_quant(lab.store), "q8_0").flips
    assert flips is not None
    assert (flips.n_lost, flips.n_won) == (3, 0)
    assert flips.detectable == minimal_detectable_difference(100, 0.03)
    assert flips.p_mid == mcnemar_mid_p(3, 0)
    assert flips.p is not None
    assert flips.p_mid < flips.p
    assert (flips.test, flips.bootstrap) == ("mcnemar_exact", None)


def test_a_margin_that_was_declared_gets_a_verdict(lab: Any) -> None:
    suite = lab.asked(n=400)
    base = lab.answered(lab.artifact("f16", 16.0), suite, _from(0))
    new = lab.answered(lab.artifact("q8_0", 8.5), suite, _from(2))
    for margin, expected in ((0.05, True), (0.005, False), (None, None)):
        found = by_quant(lab.store, margin=margin)
        assert _level(found, "q8_0").non_inferior is expected
        assert _level(found, "f16").non_inferior is None
        assert two_runs(lab.store, base, new, margin=margin).non_inferior is expected


def test_rotations_of_a_question_are_not_new_questions(lab: Any) -> None:
    suite = lab.asked(n=50)
    base = lab.answered(lab.artifact("f16", 16.0), suite, _from(0), permute="cyclic")
    new = lab.answered(lab.artifact("q8_0", 8.5), suite, _from(5), permute="cyclic")
    flips = two_runs(lab.store, base, new).flips
    assert flips is not None
    assert (flips.n, flips.n_questions, flips.n_lost, flips.test) == (200, 50, 20, "clustered_t")
    assert flips.p == clustered_p([[-1] * 4] * 5 + [[0] * 4] * 45)
    assert flips.p > 0.01  # twenty lost of 200 would have been far below
    assert flips.p_mid is None
    assert flips.difference is not None
    assert flips.bootstrap is not None
    assert flips.difference.value == flips.bootstrap.value == pytest.approx(-0.1)
    assert flips.detectable is not None
    assert flips.detectable > (minimal_detectable_difference(200, 0.1) or 1)


def test_without_a_key_only_changed_answers_are_counted(lab: Any) -> None:
    suite = lab.asked(n=20, keyed=False, label="no derivatives", medical=True)
    base = lab.answered(lab.artifact("f16", 16.0), suite, lambda *_: 0)
    new = lab.answered(lab.artifact("q8_0", 8.5), suite, lambda question, _: int(question.id[1:]) // 15)
    level = _level(by_quant(lab.store, margin=0.01), "q8_0")
    assert level.flips is not None
    assert (level.flips.n_lost, level.flips.n_won, level.flips.n_changed) == (None, None, 5)
    assert (level.flips.share, level.flips.p, level.flips.difference) == (0.25, None, None)
    assert (level.verdict, level.p_holm, level.n_family, level.non_inferior) == ("no key", None, 0, None)
    pair = two_runs(lab.store, base, new)
    assert (pair.verdict, pair.notes) == ("no key", (MEDICAL_NOTE, "exam: no derivatives"))


def test_an_answer_that_can_not_be_read_in_both_has_not_changed(lab: Any) -> None:
    suite = lab.asked(n=4)
    base = lab.answered(lab.artifact("f16", 16.0), suite, lambda *_: None, scorer="generate")
    new = lab.answered(
        lab.artifact("q8_0", 8.5),
        suite,
        lambda question, _: None if question.id < "q0002" else question.answer_index,
        scorer="generate",
    )
    flips = two_runs(lab.store, base, new).flips
    assert flips is not None
    assert (flips.n_lost, flips.n_won, flips.n_changed) == (0, 2, 2)


# What may be compared


def test_other_ways_of_asking_are_not_mixed(lab: Any) -> None:
    artifact, suite = lab.artifact("q8_0", 8.5), lab.asked(n=8)
    lab.answered(lab.artifact("f16", 16.0), suite, _from(0))
    plain = lab.answered(artifact, suite, _from(1))
    shots = lab.answered(artifact, suite, _from(2), config={"num_fewshot": 5}, scheme_sha256="other")
    turned = lab.answered(artifact, suite, _from(3), permute="cyclic", scheme_sha256="third")
    with pytest.raises(UsageError, match=r"num_fewshot 0, .* has 5"):
        two_runs(lab.store, plain, shots)
    with pytest.raises(UsageError, match=r"permute none, .* has cyclic"):
        two_runs(lab.store, plain, turned)
    newest = by_quant(lab.store)
    assert [level.row.accuracy.id for level in newest.levels if level.row.accuracy] == [turned]
    found = by_quant(lab.store, permute="none", num_fewshot=0)
    assert [level.row.label for level in found.levels] == ["f16", "q8_0"]
    assert _level(found, "q8_0").row.accuracy is not None
    assert _level(found, "q8_0").row.accuracy.id == plain
    with pytest.raises(UsageError, match="unknown num_fewshot"):
        by_quant(lab.store, num_fewshot=3)


def test_engines_are_compared_under_their_own_schemes_beside_both_noise_floors(lab: Any) -> None:
    suite = lab.asked(n=40)
    gguf, onnx = lab.artifact("f16", 16.0), lab.artifact("onnx-int8", 8.1)
    alone = {"config": {"shape": "alone"}, "scheme_sha256": "alone"}
    base = lab.answered(gguf, suite, _from(0), scheme_sha256="a")
    lab.answered(gguf, suite, _from(1), **alone)
    new = lab.answered(onnx, suite, _from(12), scheme_sha256="b", runner="onnx")
    lab.answered(onnx, suite, _from(14), runner="onnx", **alone)
    lab.answered(onnx, suite, _from(40), runner="torch", **alone)  # another engine's: not its floor
    level = _level(by_quant(lab.store), "onnx-int8")
    assert level.noise is not None
    assert level.base_noise is not None
    assert (level.noise.n_lost, level.base_noise.n_lost, level.other_engine) == (2, 1, True)
    assert level.verdict == "worse"
    pair = two_runs(lab.store, base, new)
    assert pair.noise is not None
    assert pair.base_noise is not None
    assert (pair.noise.share, pair.base_noise.share, pair.verdict) == (2 / 40, 1 / 40, "worse")
    assert "runner" in pair.differs


def test_a_difference_has_to_exceed_the_bases_floor_too(lab: Any) -> None:
    suite = lab.asked(n=60)
    base = lab.answered(lab.artifact("f16", 16.0), suite, _from(0))
    new = lab.answered(lab.artifact("q8_0", 8.5), suite, _from(12))
    assert two_runs(lab.store, base, new).verdict == "worse"
    lab.answered(lab.artifact("f16", 16.0), suite, _from(12), config={"shape": "alone"}, scheme_sha256="x")
    assert two_runs(lab.store, base, new).verdict == "not separable"
    assert _level(by_quant(lab.store), "q8_0").verdict == "not separable"


def test_the_column_of_accuracy_is_the_suites_headline(lab: Any) -> None:
    suite = lab.asked(n=8, subjects=("a", "b"), headline="mean_of_subjects")
    lab.answered(lab.artifact("f16", 16.0), suite, _from(2))
    row = by_quant(lab.store).base
    assert row.headline == "acc_mean_of_subjects"
    assert row.figures[row.headline].value == 0.75
