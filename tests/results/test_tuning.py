"""What a visit of a tuning run measured, read back by its number; and that it ranks nowhere."""

from typing import Any

from edgebench.core.types import Mode
from edgebench.results.levels import level_rows
from edgebench.results.tuning import visit_figures


def test_a_visit_has_its_own_repetitions_peak_and_joules(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    for round_index, (warm_s, own_s) in enumerate(((9.0, (1.0, 2.0)), (9.0, (3.0,)))):
        more = {"round_index": round_index, "process_index": round_index, "test": "pp512+tg128"}
        lab.trial(run_id, phase="warmup", total_s=warm_s, peak_rss_bytes=700, **more)
        for i, total_s in enumerate(own_s):
            vram = {"peak_vram_bytes": 50} if round_index else {}
            flags = {"flags_json": '["noisy_neighbour"]'} if i else {}
            lab.trial(run_id, repetition=i, total_s=total_s, peak_rss_bytes=600, **vram, **flags, **more)
    window = {"test": "pp512+tg128", "kind": "test", "start_s": 0.0, "end_s": 9.0, "headline": 1}
    windows = [
        {**window, "round_index": 0, "process_index": 0, "energy_j": 12.0, "n_requests": 4},
        {**window, "round_index": 0, "process_index": 0, "energy_j": 99.0, "n_requests": 4, "headline": 0},
        {**window, "round_index": 1, "process_index": 1, "energy_reason": "gap", "n_requests": 1},
    ]
    lab.store.add_windows(run_id, windows)
    first, second, absent = (visit_figures(lab.store, run_id, i) for i in range(3))
    assert (first.request_s, first.peak_bytes, first.request_j) == ((1.0, 2.0), 700, 3.0)
    assert (second.request_s, second.peak_bytes) == ((3.0,), 700)
    assert (second.request_j, second.energy_reason) == (None, "gap")
    assert (first.n_flagged, second.n_flagged) == (1, 0)
    assert (absent.request_s, absent.peak_bytes, absent.request_j) == ((), None, None)


def test_a_trial_of_tune_never_stands_for_its_file(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    usual = lab.performance(artifact, [1.0])
    trial = lab.performance(artifact, [0.1], config={"protocol": "tune"})
    lab.accuracy(artifact, [0], config={"protocol": "tune"})
    (row,) = level_rows(lab.store)
    assert (row.performance.id, row.accuracy) == (usual, None)
    assert [run.is_tuning for run in lab.store.runs(mode=Mode.PERFORMANCE)] == [True, False]
    assert level_rows(lab.store, only={trial}) == []
