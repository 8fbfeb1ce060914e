"""Shapes read from real heads, memory and speed predicted, limits kept, shares judged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebench import session_limits
from edgebench.core.errors import ModelError
from edgebench.core.roofline import ModelShape, Weights, flops_per_prompt_token
from edgebench.core.types import Evidence, Settings, Workload
from edgebench.devices.limits import Limits
from edgebench.session_fit import Fit, Measured, decode_work, predict, prefill_work
from edgebench.session_footprint import memory_parts, repacked_bytes
from edgebench.session_limits import limits_again, limits_of, model_shape

SETTINGS = Settings(n_threads=2)
LIMITS = Limits(
    n_threads=2, read_bandwidth_bytes_per_s=20e9, matrix_flops_per_s=1e11, last_level_cache_bytes=2**25
)
AVX2 = ("avx2", "fma")


def weights(purpose: str, kind: str, n_weights: int, bits: float) -> Weights:
    size_bytes = round(n_weights * bits / 8)
    return Weights(purpose=purpose, kind=kind, n_weights=n_weights, size_bytes=size_bytes, by_eights=True)


def shape(kind: str = "Q8_0", bits: float = 8.5, *, scale: int = 1, **facts: object) -> ModelShape:
    """A small tied model; `scale` makes it wider."""
    plain = ModelShape(
        weights=(
            weights("embedding", "Q8_0", 28_000_000, 8.5),
            weights("ffn", kind, 80_000_000 * scale, bits),
            weights("attention", kind, 26_000_000 * scale, bits),
            replace(weights("norm", "F32", 35_000, 32), by_eights=False),
        ),
        n_layers=30,
        n_embd=576,
        n_ff=1536,
        n_head=9,
        n_head_kv=3,
        n_head_width=64,
        n_vocab=49_152,
        tied=True,
    )
    return replace(plain, **facts)  # type: ignore[arg-type]


def measured(of: ModelShape, workload: Workload, seconds: float, **more: object) -> Measured:
    """A stored test that took so many seconds a token."""
    row = Measured(
        sha256="a" * 64,
        model="other",
        shape=of,
        settings=SETTINGS,
        workload=workload,
        tokens_per_s=1 / seconds,
    )
    return replace(row, **more)  # type: ignore[arg-type]


def fit(of: ModelShape, rows: list[Measured], limits: Limits = LIMITS, n_prompt: int = 512) -> Fit:
    return predict(of, rows, settings=SETTINGS, limits=limits, n_prompt=n_prompt, n_gen=128, flags=AVX2)


# Shapes


def write_gguf(path: Path, *, tied: bool, experts: int = 0) -> Path:
    """A tiny file as llama.cpp's own writer makes it."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_tokenizer_model("gpt2")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((100, 32), np.float16))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((100, 32), np.float32))
    for i in range(2):
        writer.add_tensor(f"blk.{i}.attn_q.weight", np.zeros((32, 32), np.float16))
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.zeros(32, np.float32))
        ffn = np.zeros((experts, 64, 32) if experts else (60, 32), np.float16)
        writer.add_tensor(f"blk.{i}.ffn_up{'_exps' if experts else ''}.weight", ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_shape_is_read_from_the_files_head(tmp_path: Path) -> None:
    found = model_shape(write_gguf(tmp_path / "m.gguf", tied=False))
    assert (found.n_layers, found.n_embd, found.n_ff) == (2, 32, 64)
    assert (found.n_head, found.n_head_kv, found.n_head_width, found.n_vocab) == (4, 2, 8, 100)
    assert not found.tied
    assert found.merges
    of = {part.purpose: part for part in found.weights}
    assert of["head"].size_bytes == 100 * 32 * 4
    assert of["attention"].n_weights == 2 * 32 * 32
    assert of["attention"].by_eights
    assert not of["ffn"].by_eights  # 60 rows
    assert not of["norm"].by_eights
    assert found.weight_bytes == sum(part.size_bytes for part in found.weights)


def test_experts_and_a_tied_head_show(tmp_path: Path) -> None:
    found = model_shape(write_gguf(tmp_path / "m.gguf", tied=True, experts=4))
    assert found.tied
    ffn = next(part for part in found.weights if part.purpose == "ffn")
    assert ffn.experts
    assert found.used_share(ffn) == 0.25
    assert decode_work(found, SETTINGS, 0) is not None


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "m.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ModelError, match="damaged"):
        model_shape(broken)
    with pytest.raises(ModelError, match="no model file"):
        model_shape(tmp_path / "absent.gguf")


# Memory


def test_rearranged_copies_follow_processor_and_type() -> None:
    layers = round(106_000_000 * 4.5 / 8)
    assert repacked_bytes(shape("Q4_0", 4.5), AVX2) == layers
    assert repacked_bytes(shape("Q8_0"), AVX2) == 0
    assert repacked_bytes(shape("Q4_0", 4.5), ()) == 0
    # Arm has kernels for Q8_0 too, and a tied head is multiplied with.
    head = round(28_000_000 * 8.5 / 8)
    assert repacked_bytes(shape("Q4_0", 4.5), ("asimd", "asimddp")) == layers + head


def test_without_a_map_there_are_no_copies_beside_the_file() -> None:
    mapped = memory_parts(shape("Q4_0", 4.5), SETTINGS, n_ctx=512, n_at_once=512, flags=AVX2)
    read = memory_parts(
        shape("Q4_0", 4.5), replace(SETTINGS, mmap=False), n_ctx=512, n_at_once=512, flags=AVX2
    )
    assert mapped is not None
    assert read is not None
    assert mapped.peak_bytes - read.peak_bytes == mapped.repacked_bytes > 0


def test_memory_is_what_was_measured() -> None:
    """SmolLM2-135M: peaks of llama.cpp on an AVX2 processor, pp512 and pp128 in a context of their size."""
    smollm2 = shape(merges=True)
    smollm2 = replace(smollm2, weights=(replace(smollm2.weights[0], size_bytes=143_025_408),))
    for n, peak_bytes in ((512, 231_886_848), (128, 214_978_560)):
        parts = memory_parts(
            smollm2,
            SETTINGS,
            n_ctx=n,
            n_at_once=n,
            flags=AVX2,
            baseline_bytes=35_750_000,
            engine_bytes=8_500_000,
        )
        assert parts is not None
        assert parts.running_bytes == pytest.approx(peak_bytes, rel=0.01)


def test_a_window_bounds_its_layers_cache() -> None:
    plain, windowed = shape(), shape(n_window=512, n_window_layers=25)

    def cache(of: ModelShape, n_ctx: int) -> int:
        parts = memory_parts(of, SETTINGS, n_ctx=n_ctx, n_at_once=1, flags=())
        assert parts is not None
        return parts.cache_bytes

    assert cache(plain, 300) == cache(windowed, 300) == 30 * 512 * 768  # cells come in 256
    assert cache(windowed, 8192) == (5 * 8192 + 25 * 1024) * 768


def test_what_counting_misses_is_learned_from_other_files() -> None:
    other, workload = shape(), Workload(n_prompt=512)
    counted = memory_parts(other, SETTINGS, n_ctx=512, n_at_once=512, flags=AVX2, baseline_bytes=50_000_000)
    assert counted is not None
    rows = [
        measured(
            other,
            workload,
            1e-3,
            baseline_rss_bytes=50_000_000,
            peak_rss_bytes=counted.running_bytes + missed,
        )
        for missed in (19_000_000, 20_000_000, 21_000_000)
    ]
    untried, tried = fit(shape("Q4_0", 4.5), []), fit(shape("Q4_0", 4.5), rows)
    assert tried.parts is not None
    assert tried.parts.baseline_bytes == 50_000_000
    assert tried.parts.engine_bytes == 20_000_000
    for found in (untried, tried):
        assert found.parts is not None
        assert found.peak.value == found.parts.peak_bytes
        assert found.peak.evidence is Evidence.MODELLED
    assert untried.peak.ci_high is not None
    assert untried.peak.value is not None
    assert untried.peak.ci_high == pytest.approx(1.1 * untried.peak.value)
    assert tried.peak.ci_high is not None
    assert tried.peak.value is not None
    assert tried.peak.ci_high <= 1.05 * tried.peak.value


# Speed


def test_operations_of_a_prompt_are_shared_out_completely() -> None:
    work = prefill_work(shape(), SETTINGS, 512, 100)
    products = 2 * (work["Q8_0"] + 35_000 * 512) + work["attention"]
    assert products == pytest.approx(512 * flops_per_prompt_token(shape(), 512, 100))
    assert work["layers"] == 30
    assert prefill_work(shape(), SETTINGS, 513, 0)["layers"] == 60


def test_without_measurements_a_speed_is_a_usual_share_of_the_limits() -> None:
    found = fit(shape(), [])
    work = decode_work(shape(), SETTINGS, 512 + 64.5)
    assert work is not None
    assert found.decode.value == pytest.approx(0.65 * 20e9 / work["bytes"])
    assert found.decode.ci_low == pytest.approx(0.55 * 20e9 / work["bytes"])
    assert "bandwidth" in found.decode.basis
    assert found.prefill.value is not None
    assert found.ttft.value == pytest.approx(512 / found.prefill.value)
    unknown = fit(shape(), [], Limits(n_threads=2, reason="no memory is free"))
    assert unknown.decode.value is None
    assert unknown.decode.basis == "no memory is free"
    assert unknown.ttft.value is None


@pytest.mark.parametrize(
    "limits", [LIMITS, Limits(n_threads=2, reason="not measured")], ids=["known", "none"]
)
def test_speeds_of_other_files_predict_this_one(limits: Limits) -> None:
    """Another model, made on a device that costs so much a byte, a weight and a layer."""

    def true_s(of: ModelShape) -> float:
        work = decode_work(of, SETTINGS, 64.5)
        assert work is not None
        kinds = sum(work[kind] for kind in ("Q8_0", "Q4_0") if kind in work)
        return work["bytes"] / 17e9 + kinds * 8e-12 + work["layers"] * 50e-6

    others = [shape(kind, bits, scale=n) for kind, bits in (("Q8_0", 8.5), ("Q4_0", 4.5)) for n in (1, 3)]
    rows = [measured(of, Workload(n_gen=128), true_s(of)) for of in others]
    unseen = shape("Q4_0", 4.5, scale=2, n_layers=18)
    found = predict(unseen, rows, settings=SETTINGS, limits=limits, n_prompt=0, n_gen=128, flags=AVX2)
    assert found.decode.value == pytest.approx(1 / true_s(unseen), rel=0.15)
    assert found.decode.ci_low is not None
    assert found.decode.ci_high is not None
    assert found.decode.ci_low < 1 / true_s(unseen) < found.decode.ci_high
    assert "4 measurements of other" in found.decode.basis
    assert found.prefill.value is None


def test_a_type_nobody_measured_is_said() -> None:
    rows = [measured(shape(), Workload(n_gen=128), 1e-2), measured(shape(), Workload(n_prompt=512), 3e-3)]
    found = fit(shape("IQ3_S", 3.44), rows)
    assert "none with IQ3_S" in found.decode.basis
    assert "none with IQ3_S" in found.prefill.basis


def test_measurements_that_tell_nothing_here_are_left_out() -> None:
    rows = [
        measured(shape(), Workload(n_gen=128), 1e-2, settings=Settings(n_threads=8)),
        measured(shape(), Workload(n_gen=64, chat=True), 1e-2),
        measured(shape(), Workload(n_prompt=512, n_gen=128), 1e-2),
        measured(shape(), Workload(n_gen=128, sustained_s=600), 1e-2),
    ]
    assert fit(shape(), rows) == fit(shape(), [])


def test_energy_is_the_power_of_other_files_for_the_expected_time() -> None:
    rows = [
        measured(
            shape(scale=n), Workload(n_gen=128), 1e-2 * n, energy_j_per_token=0.2 * n, energy_scope="package"
        )
        for n in (1, 2, 3)
    ]
    rows.append(measured(shape(), Workload(n_gen=128), 1e-2, energy_j_per_token=9.0, energy_scope="wall"))
    found = fit(shape(scale=2), rows)
    assert found.decode.value is not None
    assert found.decode_energy.value == pytest.approx(20 / found.decode.value)
    assert "package" in found.decode_energy.basis
    assert found.prefill_energy.value is None


# Limits and shares


def test_limits_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path))
    asked: list[int] = []

    def measure(n_threads: int) -> Limits:
        asked.append(n_threads)
        return replace(LIMITS, n_threads=n_threads)

    monkeypatch.setattr(session_limits, "measure_limits", measure)
    said: list[str] = []
    assert limits_of(2, said.append) == limits_of(2, said.append) == LIMITS
    assert limits_of(1, said.append).n_threads == 1
    assert asked == [2, 1]
    assert len(said) == 2
    for stored in (tmp_path / "limits").glob("*.json"):
        stored.write_text(json.dumps({"n_threads": 2}))
    limits_of(2, said.append)
    assert asked == [2, 1, 2]


@pytest.mark.parametrize("more", [{"foreign_cpu_share": 0.5}, {"reason": "no memory is free"}])
def test_limits_that_may_be_better_next_time_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path))
    found = replace(LIMITS, **more)  # type: ignore[arg-type]
    monkeypatch.setattr(session_limits, "measure_limits", lambda _: found)
    assert limits_of(2, lambda _: None) == found
    assert not list((tmp_path / "limits").iterdir())


def test_the_better_of_two_measurements_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path))
    again = replace(LIMITS, read_bandwidth_bytes_per_s=30e9, matrix_flops_per_s=5e10)
    monkeypatch.setattr(session_limits, "measure_limits", lambda _: again)
    found = limits_again(LIMITS, lambda _: None)
    assert found == replace(LIMITS, read_bandwidth_bytes_per_s=30e9)
    assert limits_of(2, lambda _: None) == found
    assert limits_again(replace(LIMITS, foreign_cpu_share=0.5), lambda _: None) == replace(
        again, matrix_flops_per_s=1e11
    )
