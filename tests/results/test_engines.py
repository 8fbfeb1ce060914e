"""Engines on the same weights: which weights are the same, the base, the gate, what is withheld."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.stats import Estimate, ratio_of
from edgebench.core.types import Format, Question
from edgebench.results.engines import WITHHELD, EngineRow, EngineTable, by_engine
from edgebench.results.parity import Gate, Parity

F32 = {"n_threads": 1, "flash_attn": "off", "type_k": "f32", "type_v": "f32"}
SHIPPED = {"n_threads": 2, "flash_attn": "on", "type_k": "f16", "type_v": "f16"}
N = 200


class Bench:
    """The same weights in several formats, asked the same questions."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.suite = lab.asked(n=N)
        self.checkpoint = lab.artifact("f32", 32.0, kind=Format.SAFETENSORS)
        self.gguf = self.child("f32", Format.GGUF)
        self.onnx = self.child("onnx-fp32", Format.ONNX)

    def child(self, level: str, kind: Format, parent: str | None = None, **more: Any) -> str:
        parent = parent or self.checkpoint
        found: str = self.lab.artifact(level, 32.0, kind=kind, parent_sha256=parent, **more)
        return found

    def asked(
        self, artifact: str, runner: str, *, off: float = 0.0, settings: Any = None, **more: Any
    ) -> str:
        """A complete run whose log-probabilities are off by so much, all of them alike."""

        def logprobs(question: Question, _: int) -> Sequence[float]:
            return [off - 0.5 * j for j in order(question)]

        more.setdefault("choose", lambda question, _: order(question).index(0))
        choose: Callable[..., int] = more.pop("choose")
        config = {"settings": settings or F32, **more.pop("config", {})}
        found: str = self.lab.answered(
            artifact,
            self.suite,
            choose,
            runner=runner,
            scheme_sha256=runner,
            config=config,
            logprobs=more.pop("logprobs", logprobs),
            **more,
        )
        return found

    def timed(self, artifact: str, runner: str, prefill_s: Sequence[float], **more: Any) -> str:
        found: str = self.lab.performance(
            artifact, prefill_s, prefill_s, runner=runner, config={"settings": SHIPPED}, **more
        )
        return found


def order(question: Question) -> list[int]:
    """Each option's rank: the best one goes round."""
    shift, k = int(question.id[1:]), len(question.choices)
    return [(j + shift) % k for j in range(k)]


@pytest.fixture
def bench(lab: Any) -> Bench:
    return Bench(lab)


def engine(table: EngineTable, name: str) -> EngineRow:
    (found,) = [one for one in table.engines if one.row.engine == name]
    return found


def gate(table: EngineTable, name: str) -> Parity:
    found = engine(table, name).parity
    assert found is not None
    return found


# What is compared with what


def test_formats_of_one_origin_are_the_same_weights_and_torch_is_the_base(bench: Bench) -> None:
    bench.asked(bench.onnx, "onnx")
    bench.asked(bench.gguf, "llama_cpp")
    bench.asked(bench.gguf, "llama_server")
    bench.asked(bench.checkpoint, "torch")
    found = by_engine(bench.lab.store)
    assert found.base.row.engine == "torch"
    assert found.base.parity is None
    assert {one.row.engine for one in found.engines} == {"torch", "onnx", "llama_cpp", "llama_server"}
    assert found.engines[0] is found.base
    assert found.left_out == ()
    assert {one.row.label for one in found.engines} == {"f32", "onnx-fp32"}
    for name in ("onnx", "llama_cpp", "llama_server"):
        assert gate(found, name).gate is Gate.PASS
        assert engine(found, name).flips is not None


def test_without_torch_llama_cpp_is_the_base_and_any_may_be_named(bench: Bench) -> None:
    run = bench.asked(bench.onnx, "onnx")
    bench.asked(bench.gguf, "llama_cpp")
    assert by_engine(bench.lab.store).base.row.engine == "llama_cpp"
    assert by_engine(bench.lab.store, base="onnx").base.row.engine == "onnx"
    assert by_engine(bench.lab.store, base=run[:12].lower()).base.row.engine == "onnx"
    with pytest.raises(UsageError, match="unknown engine in this database 'onix'") as caught:
        by_engine(bench.lab.store, base="onix")
    assert "onnx" in str(caught.value.hint)


def test_a_quantized_level_is_only_the_same_as_the_very_same_file(bench: Bench) -> None:
    q8 = bench.child("q8_0", Format.GGUF)
    bench.asked(q8, "llama_cpp", settings=SHIPPED)
    bench.asked(q8, "llama_server", settings=SHIPPED)
    bench.asked(bench.child("onnx-int8", Format.ONNX), "onnx", settings=SHIPPED)
    bench.asked(bench.checkpoint, "torch")
    found = by_engine(bench.lab.store)  # torch ran what nobody else did
    assert [one.row.engine for one in found.engines] == ["llama_cpp", "llama_server"]
    left_out = dict(found.left_out)
    assert "the same file only" in left_out["onnx onnx-int8"]
    assert "the same file only" in left_out["torch f32"]
    with pytest.raises(UsageError, match="no two engines ran the weights of torch f32"):
        by_engine(bench.lab.store, base="torch")


def test_what_came_of_a_quantized_file_is_not_what_that_file_came_of(bench: Bench) -> None:
    q4 = bench.child("q4_0", Format.GGUF)
    again = bench.child("f32", Format.GGUF, parent=q4, parent_quant="q4_0")
    bench.asked(again, "llama_cpp")
    bench.asked(bench.child("onnx-fp32", Format.ONNX, parent=q4, parent_quant="q4_0"), "onnx")
    bench.asked(bench.checkpoint, "torch")
    found = by_engine(bench.lab.store)
    assert {one.row.label for one in found.engines} == {"f32 (from q4_0)", "onnx-fp32 (from q4_0)"}
    assert found.left_out == (
        (
            "torch f32",
            "no common origin with llama_cpp f32 (from q4_0) is recorded: edgebench quantize records it",
        ),
    )


def test_the_way_to_the_origin_leads_over_whole_levels(bench: Bench) -> None:
    f16 = bench.child("f16", Format.GGUF, parent=bench.gguf)  # checkpoint → f32 → f16
    bench.asked(f16, "llama_cpp", settings=SHIPPED)
    bench.asked(bench.checkpoint, "torch")
    found = by_engine(bench.lab.store)
    assert [one.row.label for one in found.engines] == ["f32", "f16"]


def test_a_model_merged_with_an_adapter_has_weights_of_its_own(bench: Bench) -> None:
    lab = bench.lab
    merged = bench.child("f32", Format.SAFETENSORS, model="tiny+mine")
    bench.asked(merged, "torch")
    bench.asked(bench.child("f32", Format.GGUF, parent=merged, model="tiny+mine"), "llama_cpp")
    bench.asked(bench.gguf, "llama_cpp")
    with pytest.raises(UsageError, match="2 models can't share a base"):
        by_engine(lab.store)
    assert len(by_engine(lab.store, model="tiny+mine").engines) == 2
    with pytest.raises(UsageError, match="no two engines ran the same weights of tiny"):
        by_engine(lab.store, model="tiny")


def test_lineage_that_bites_its_own_tail_ends(bench: Bench) -> None:
    store = bench.lab.store
    with store._write() as connection:
        connection.execute("UPDATE artifact SET parent_id = ? WHERE id = ?", (bench.gguf, bench.checkpoint))
    bench.asked(bench.gguf, "llama_cpp")
    bench.asked(bench.checkpoint, "torch")
    with pytest.raises(UsageError, match="no two engines ran the same weights of tiny"):
        by_engine(store)


def test_an_empty_database_is_told(lab: Any) -> None:
    with pytest.raises(UsageError, match="no complete runs"):
        by_engine(lab.store)


def test_runs_in_f32_speak_for_accuracy_and_others_for_speed(bench: Bench) -> None:
    exact = {
        name: bench.asked(path, name)
        for name, path in (("llama_cpp", bench.gguf), ("torch", bench.checkpoint))
    }
    bench.asked(bench.gguf, "llama_cpp", off=0.3, settings=SHIPPED)  # newer, and not in f32
    shipped = bench.timed(bench.gguf, "llama_cpp", [1.0] * 6)
    row = engine(by_engine(bench.lab.store), "llama_cpp").row
    assert row.accuracy is not None
    assert row.performance is not None
    assert (row.accuracy.id, row.performance.id) == (exact["llama_cpp"], shipped)
    assert (row.accuracy.settings, row.performance.settings) == (F32, SHIPPED)


def test_each_engine_has_its_own_noise_floor_in_the_settings_it_was_asked_in(bench: Bench) -> None:
    def wrong(n: int) -> Callable[[Question, int], int]:
        def choose(question: Question, _: int) -> int:
            right = order(question).index(0)
            return right if int(question.id[1:]) >= n else (right + 1) % len(question.choices)

        return choose

    alone = {"shape": "alone"}
    for name, path, n in (("torch", bench.checkpoint, 2), ("llama_cpp", bench.gguf, 8)):
        bench.asked(path, name)
        bench.asked(path, name, choose=wrong(n), config=alone)
        bench.asked(path, name, choose=wrong(100), config=alone, settings=SHIPPED)  # of other sums
    found = by_engine(bench.lab.store)
    base, other = found.base.noise, engine(found, "llama_cpp").noise
    assert base is not None
    assert other is not None
    assert (base.n_changed, other.n_changed) == (2, 8)


# The gate


def test_differences_within_the_limit_count_in_f32_only(bench: Bench) -> None:
    bench.asked(bench.checkpoint, "torch")
    bench.asked(bench.gguf, "llama_cpp", off=0.02)
    bench.asked(bench.onnx, "onnx", off=0.02, settings={**F32, "type_k": "f16"})
    found = by_engine(bench.lab.store)
    assert gate(found, "llama_cpp").reasons == ("log-probs differ by up to 0.02 nat (limit 0.01)",)
    assert (gate(found, "onnx").gate, gate(found, "onnx").in_f32) == (Gate.PASS, False)


@pytest.mark.parametrize(
    "told",
    [
        {"dtype": "bf16"},
        {"flash_attn": "on"},
        {"type_v": "f16"},
        {"provider": "cuda"},
        {"n_gpu_layers": 99},
        {"server": "http://127.0.0.1:8080"},
    ],
    ids=lambda told: str(*told),
)
def test_a_checkpoint_computes_in_f32_only_when_told_so(bench: Bench, told: dict[str, Any]) -> None:
    bench.asked(bench.gguf, "llama_cpp")
    bench.asked(bench.checkpoint, "torch", settings={**F32, **told})
    assert not gate(by_engine(bench.lab.store), "llama_cpp").in_f32


def test_nothing_in_common_is_unknown(bench: Bench) -> None:
    bench.asked(bench.checkpoint, "torch")
    bench.asked(bench.gguf, "llama_cpp", config={"template_sha256": "another"})
    bench.timed(bench.onnx, "onnx", [1.0] * 6)
    found = by_engine(bench.lab.store)
    assert gate(found, "llama_cpp") == Parity(
        gate=Gate.UNKNOWN, reasons=("asked by another prompt template",)
    )
    assert gate(found, "onnx") == Parity(gate=Gate.UNKNOWN, reasons=("no accuracy run",))


# Costs


def verdicts(found: EngineRow) -> dict[tuple[str, str], str]:
    return {(ratio.test, ratio.metric): ratio.verdict for ratio in found.ratios}


def test_speed_and_memory_get_a_verdict_where_the_gate_passed(bench: Bench) -> None:
    bench.asked(bench.checkpoint, "torch")
    bench.asked(bench.gguf, "llama_cpp")
    bench.asked(bench.onnx, "onnx", off=0.5)
    bench.timed(bench.checkpoint, "torch", [2.0] * 6)
    bench.timed(bench.gguf, "llama_cpp", [1.0] * 6)
    bench.timed(bench.onnx, "onnx", [0.5] * 6)
    found = by_engine(bench.lab.store)
    fast = engine(found, "llama_cpp")
    assert verdicts(fast) == {
        ("pp512", "prefill_tokens_per_s"): "better",
        ("tg128", "decode_tokens_per_s"): "better",
        ("*", "peak_rss_bytes"): "not separable",  # one peak has no interval
    }
    assert {ratio.ratio.value for ratio in fast.ratios} == {2.0, 1.0}
    assert set(verdicts(engine(found, "onnx")).values()) == {WITHHELD}
    assert found.base.ratios == ()


def test_joules_of_other_meters_are_not_divided(bench: Bench) -> None:
    def run(artifact: str, runner: str, energy_j: float, scope: str) -> None:
        run_id = bench.lab.run(artifact, runner=runner, config={"settings": SHIPPED})
        for i in range(6):
            bench.lab.trial(run_id, test="tg128", n_prompt=0, n_gen=128, repetition=i, decode_s=1.0)
        window = {"kind": "test", "test": "tg128", "start_s": 0.0, "end_s": 20.0, "headline": 1}
        windows = [
            {**window, "n_gen": 128, "process_index": i, "source": "rapl", "scope": scope}
            | {"energy_j": energy_j + i, "energy_u95_j": 0.1, "method": "counter", "evidence": "measured"}
            for i in range(6)
        ]
        bench.lab.store.add_windows(run_id, windows)
        bench.lab.finish(run_id)

    for name, path in (("torch", bench.checkpoint), ("llama_cpp", bench.gguf), ("onnx", bench.onnx)):
        bench.asked(path, name)
    run(bench.checkpoint, "torch", 400.0, "package")
    run(bench.gguf, "llama_cpp", 100.0, "package")
    run(bench.onnx, "onnx", 100.0, "device")
    found = by_engine(bench.lab.store)
    assert verdicts(engine(found, "llama_cpp"))["tg128", "energy_j_per_token"] == "better"
    assert ("tg128", "energy_j_per_token") not in verdicts(engine(found, "onnx"))


def figure(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, ci_low=low, ci_high=high, n=6)


def test_a_ratio_of_figures_has_the_uncertainty_of_both() -> None:
    found = ratio_of(figure(2.0, 1.0, 4.0), figure(8.0, 4.0, 16.0))
    assert found is not None
    assert found.value == 4.0
    assert found.ci_low == pytest.approx(4 / 2**2**0.5)
    assert found.ci_high == pytest.approx(4 * 2**2**0.5)
    assert ratio_of(figure(2.0), figure(8.0, 4.0, 16.0)) == figure(4.0)
    assert ratio_of(figure(2.0, -1.0, 5.0), figure(8.0, 4.0, 16.0)) == figure(4.0)
    assert ratio_of(figure(0.0), figure(8.0)) is None
