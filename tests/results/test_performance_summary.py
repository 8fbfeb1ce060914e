"""Flags, percentiles, shares of limits, joules: figures of invented trials against values by hand."""

from dataclasses import asdict
from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.roofline import ModelShape, Weights
from edgebench.core.types import Evidence
from edgebench.results.compare import by_quant, two_runs
from edgebench.results.levels import level_rows
from edgebench.results.pareto import front, metric
from edgebench.results.performance_summary import invalid_reason, run_warnings
from edgebench.results.summary import rebuild, summarise

SETTINGS = {"settings": {"n_threads": 2, "type_k": "f16", "type_v": "f16"}}
MB = 1e6


def figures(lab: Any, run_id: str) -> dict[tuple[str, str, str], float]:
    rows = lab.store.rows("SELECT test, metric, statistic, value FROM summary WHERE run_id = ?", (run_id,))
    return {(row["test"], row["metric"], row["statistic"]): row["value"] for row in rows}


def shape(size_bytes: int) -> ModelShape:
    """A model of one matrix, without a cache."""
    part = Weights(purpose="ffn", kind="Q8_0", n_weights=size_bytes, size_bytes=size_bytes)
    return ModelShape(
        weights=(part,),
        n_layers=1,
        n_embd=64,
        n_ff=64,
        n_head=1,
        n_head_kv=1,
        n_head_width=0,
        n_vocab=10,
        tied=True,
    )


def limited(lab: Any, run_id: str, *, size_bytes: int, cache_bytes: int = 1_000_000) -> None:
    """Tell the store the run's model and the device's limits: 1 GB/s, 1 GFLOP/s."""
    run = lab.store.run(run_id)
    lab.store.set_shape(run.artifact_id, asdict(shape(size_bytes)))
    facts = {
        "read_bandwidth_bytes_per_s": 1e9,
        "matrix_flops_per_s": 1e9,
        "last_level_cache_bytes": cache_bytes,
        "headroom_float": 1.0,
        "headroom_integer": 4.0,
    }
    lab.store.set_limits(
        device_id=run.device_id,
        environment_id=run.environment_id,
        n_threads=2,
        facts=facts,
        evidence=Evidence.MEASURED,
    )


def decoding(lab: Any, tokens_per_s: float, config: Any = SETTINGS, **flags: Any) -> str:
    run_id = lab.run(lab.artifact("q8_0", 8.5), config=config)
    for i in range(6):
        lab.trial(
            run_id,
            test="tg100",
            n_prompt=0,
            n_gen=100,
            repetition=i,
            decode_s=100 / tokens_per_s,
            started_s=float(i),
            **flags,
        )
    return str(run_id)


def test_a_decode_rate_is_shown_as_a_share_of_the_bandwidth(lab: Any) -> None:
    run_id = decoding(lab, 5.0)
    limited(lab, run_id, size_bytes=int(100 * MB))
    summarise(lab.store, run_id)
    assert figures(lab, run_id)["tg100", "mbu", "median"] == pytest.approx(0.5)  # 100 MB x 5/s of 1 GB/s
    assert invalid_reason(lab.store, lab.store.run(run_id)) is None


def test_a_rate_beyond_the_bandwidth_is_invalid_unless_a_cache_holds_the_weights(lab: Any) -> None:
    run_id = decoding(lab, 11.0)
    limited(lab, run_id, size_bytes=int(100 * MB))
    reason = invalid_reason(lab.store, lab.store.run(run_id))
    assert reason is not None
    assert reason.startswith("implausible")


@pytest.mark.parametrize("where", [{"n_gpu_layers": 99}, {"provider": "cuda"}])
def test_a_gpus_rate_is_not_held_against_the_cpus_bandwidth(lab: Any, where: dict[str, Any]) -> None:
    run_id = decoding(lab, 11.0, {"settings": SETTINGS["settings"] | where})
    limited(lab, run_id, size_bytes=int(100 * MB))
    assert invalid_reason(lab.store, lab.store.run(run_id)) is None
    summarise(lab.store, run_id)
    assert ("tg100", "mbu", "median") not in figures(lab, run_id)


def test_a_gpu_at_its_power_limit_is_flagged_and_not_counted_as_disturbed(lab: Any) -> None:
    run_id = decoding(lab, 11.0, flags_json='["power_capped"]')
    windows = [
        {"kind": "test", "test": "tg100", "headline": 1, "source": "nvml:0", "start_s": 0.0, "end_s": 9.0}
    ]
    own = {"round_index": 0, "process_index": 0, "flags_json": '["power_disagrees"]'}
    lab.store.add_windows(run_id, [window | own for window in windows])
    summarise(lab.store, run_id)
    assert {"power_capped", "power_disagrees"} <= set(lab.store.run(run_id).flags)
    assert figures(lab, run_id)["*", "n_flagged", "count"] == 0


def test_weights_in_the_cache_are_flagged_and_never_invalid(lab: Any) -> None:
    run_id = decoding(lab, 11.0)
    limited(lab, run_id, size_bytes=int(100 * MB), cache_bytes=int(200 * MB))
    assert invalid_reason(lab.store, lab.store.run(run_id)) is None
    summarise(lab.store, run_id)
    assert "cache_resident" in lab.store.run(run_id).flags


def test_prefill_may_pass_the_f32_rate_by_what_integer_instructions_do_more(lab: Any) -> None:
    for tokens_per_s, valid in ((30.0, True), (50.0, False)):  # 0.2 GFLOP a token: 6 and 10 times the rate
        run_id = lab.run(lab.artifact("q8_0", 8.5, model=f"m{tokens_per_s}"), config=SETTINGS)
        for i in range(6):
            lab.trial(run_id, repetition=i, prefill_s=512 / tokens_per_s)
        limited(lab, run_id, size_bytes=int(100 * MB / 1.5))
        assert (invalid_reason(lab.store, lab.store.run(run_id)) is None) is valid


def test_a_run_that_paged_is_invalid(lab: Any) -> None:
    paging = decoding(lab, 5.0, flags_json='["paging"]', n_major_faults=70)
    reason = invalid_reason(lab.store, lab.store.run(paging))
    assert reason is not None
    assert "6 of 6 repetitions" in reason
    once = decoding(lab, 5.0)
    lab.trial(once, test="tg100", n_prompt=0, n_gen=100, repetition=6, decode_s=20.0, flags_json='["paging"]')
    assert invalid_reason(lab.store, lab.store.run(once)) is None
    summarise(lab.store, once)
    assert lab.store.run(once).flags == ["paging"]


def test_a_run_is_noisy_when_more_than_a_tenth_of_it_was(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    for i in range(10):
        lab.trial(run_id, repetition=i, prefill_s=1.0, flags_json='["noisy_neighbour"]' if i == 0 else "[]")
    summarise(lab.store, run_id)
    assert lab.store.run(run_id).flags == []
    lab.trial(run_id, repetition=10, prefill_s=1.0, flags_json='["noisy_neighbour"]')
    summarise(lab.store, run_id)
    assert lab.store.run(run_id).flags == ["noisy_neighbour"]


def test_a_trend_makes_a_run_not_steady_and_is_told_with_a_remedy(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    for i in range(12):
        lab.trial(run_id, repetition=i, prefill_s=1.0 + 0.02 * i + 0.001 * (i % 3), started_s=10.0 * i)
    summarise(lab.store, run_id)
    assert "not_steady" in lab.store.run(run_id).flags
    warnings = run_warnings(lab.store, lab.store.run(run_id))
    assert [(test, w.code) for test, w in warnings if w.code == "drift"] == [
        ("pp512 prefill_tokens_per_s", "drift")
    ]
    assert all(w.remedy for _, w in warnings)


def test_percentiles_are_there_only_where_the_sample_carries_them(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    for i in range(11):
        chat = {"test": "chat4", "n_prompt": 20, "n_gen": 4, "repetition": i}
        lab.trial(run_id, **chat, ttft_s=0.1 + 0.01 * i, token_times_s=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    summarise(lab.store, run_id)
    found = figures(lab, run_id)
    assert found["chat4", "ttft_s", "p50"] == pytest.approx(0.15)
    assert {s for t, m, s in found if m == "ttft_s" and s.startswith("p")} == {"p50"}  # 11 requests
    assert {s for t, m, s in found if m == "itl_s"} == {"p50", "p90"}  # 66 gaps
    assert found["chat4", "itl_s", "p90"] == pytest.approx(0.1)


def test_loads_from_disk_and_from_memory_are_figures_of_their_own(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    for i, (load_s, cached) in enumerate([(4.0, 0.0), (1.0, 1.0), (1.2, 1.0), (2.0, 0.5), (3.0, None)]):
        lab.trial(
            run_id, repetition=0, process_index=i, prefill_s=1.0, load_s=load_s, load_cached_share=cached
        )
    summarise(lab.store, run_id)
    found = figures(lab, run_id)
    assert found["*", "load_cold_s", "median"] == 4.0
    assert found["*", "load_warm_s", "median"] == pytest.approx(1.1)
    assert found["*", "load_s", "median"] == 2.0


def window(process: int, energy_j: float | None, **more: Any) -> dict[str, Any]:
    return {
        "kind": "test",
        "test": "tg128",
        "process_index": process,
        "start_s": 0.0,
        "end_s": 10.0,
        "n_requests": 5,
        "n_gen": 640,
        "source": "rapl:package",
        "scope": "package",
        "method": "counter",
        "headline": 1,
        "energy_j": energy_j,
        "evidence": "measured",
        **more,
    }


def test_joules_are_counted_by_the_tests_work_and_net_of_idle(lab: Any) -> None:
    run_id = lab.performance(lab.artifact("q8_0", 8.5), [1.0] * 4, [2.0] * 4)
    idle = {"test": "*", "n_requests": 0, "n_gen": 0}
    for process, energy_j in ((0, 128.0), (1, 140.8)):
        lab.store.add_windows(
            run_id,
            [
                window(process, 20.0, kind="idle_before", **idle),
                window(process, energy_j),
                window(process, 24.0, kind="idle_after", **idle),
                window(process, 999.0, source="rapl:psys", scope="platform", headline=0),
            ],
        )
    summarise(lab.store, run_id)
    found = figures(lab, run_id)
    assert found["tg128", "energy_j_per_token", "mean"] == pytest.approx(0.21)
    assert found["tg128", "energy_net_j_per_token", "mean"] == pytest.approx((134.4 - 22) / 640)
    assert found["tg128", "power_w", "mean"] == pytest.approx(13.44)
    assert found["*", "idle_before_w", "mean"] == pytest.approx(2.0)
    before = found
    rebuild(lab.store)
    assert figures(lab, run_id) == before


def test_without_a_baseline_there_is_no_net_figure(lab: Any) -> None:
    run_id = lab.performance(lab.artifact("q8_0", 8.5), [1.0], [2.0])
    lab.store.add_windows(run_id, [window(0, 128.0)])
    summarise(lab.store, run_id)
    metrics = {m for _, m, _ in figures(lab, run_id)}
    assert "energy_j_per_token" in metrics
    assert "energy_net_j_per_token" not in metrics


def test_energy_of_different_scopes_is_never_ranked_together(lab: Any) -> None:
    for quant, scope in (("q8_0", "package"), ("q4_0", "platform")):
        run_id = lab.performance(lab.artifact(quant, 8.5), [1.0] * 2, [2.0] * 2)
        lab.store.add_windows(run_id, [window(0, 100.0, scope=scope, source=f"rapl:{scope}")])
        summarise(lab.store, run_id)
    rows = level_rows(lab.store)
    with pytest.raises(UsageError, match="different scopes"):
        front(rows, metric("energy"), metric("decode"))
    assert front(rows, metric("size"), metric("decode")).points


def test_replayed_joules_are_shown_and_do_not_rank(lab: Any) -> None:
    run_id = lab.performance(lab.artifact("q8_0", 8.5), [1.0] * 2, [2.0] * 2)
    lab.store.add_windows(run_id, [window(0, 100.0, evidence="replayed")])
    summarise(lab.store, run_id)
    (point,) = front(level_rows(lab.store), metric("energy"), metric("decode")).points
    assert not point.ranked


def test_a_table_says_why_energy_is_absent(lab: Any) -> None:
    run_id = lab.performance(lab.artifact("q8_0", 8.5), [1.0] * 2, [2.0] * 2)
    absent = window(
        0, None, source=None, scope=None, method=None, evidence=None, energy_reason="permission_denied"
    )
    lab.store.add_windows(run_id, [absent])
    summarise(lab.store, run_id)
    (level,) = by_quant(lab.store).levels
    assert level.row.meter["reason"] == "permission_denied"
    assert "energy_j_per_token" not in level.row.figures


def test_a_difference_within_the_anchors_drift_is_none(lab: Any) -> None:
    anchor = lab.run(lab.artifact("f16", 16.0))
    for process, prefill_s in ((0, 1.0), (1, 1.2)):
        for i in range(3):
            lab.trial(anchor, repetition=i, process_index=process, prefill_s=prefill_s + 0.001 * i)
    lab.finish(anchor)
    base = lab.performance(lab.artifact("q8_0", 8.5), [1.0, 1.001, 1.002, 1.0, 1.001, 1.002])
    new = lab.performance(lab.artifact("q4_0", 4.5), [1.1, 1.101, 1.102, 1.1, 1.101, 1.102])
    assert [ratio.verdict for ratio in two_runs(lab.store, base, new).ratios] == ["worse"]
    lab.store.set_anchor(new, anchor)
    assert [ratio.verdict for ratio in two_runs(lab.store, base, new).ratios] == ["not separable"]
