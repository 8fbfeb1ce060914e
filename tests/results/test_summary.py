"""Summaries against values computed by hand."""

from typing import Any

import pytest

from edgebench.core.stats import wilson
from edgebench.results.summary import rebuild, summarise


def _summary(lab: Any, run_id: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = lab.store.rows("SELECT * FROM summary WHERE run_id = ?", (run_id,))
    return {(row["test"], row["metric"], row["statistic"]): row for row in rows}


def test_rates_are_medians_of_tokens_by_seconds_of_measured_trials(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.trial(run_id, phase="warmup", prefill_s=100.0, peak_rss_bytes=1)
    for i, duration_s in enumerate([1.0, 2.0, 4.0]):
        lab.trial(run_id, repetition=i, prefill_s=duration_s)
        lab.trial(run_id, test="tg128", n_prompt=0, n_gen=128, repetition=i, decode_s=duration_s)
        both = {"prefill_s": duration_s, "decode_s": duration_s}
        lab.trial(run_id, test="pp512+tg128", n_gen=128, repetition=i, **both)
    summarise(lab.store, run_id)
    found = _summary(lab, run_id)
    assert found["pp512", "prefill_tokens_per_s", "median"]["value"] == 256
    assert found["pp512", "prefill_tokens_per_s", "median"]["ci_low"] is None
    assert found["tg128", "decode_tokens_per_s", "median"]["value"] == 64
    assert found["pp512+tg128", "total_tokens_per_s", "median"]["value"] == 160
    assert found["pp512", "prefill_tokens_per_s", "n_outliers"]["value"] == 0
    assert not {key for key in found if key[1] == "ttft_s"}


def test_the_interval_appears_from_six_values_on(lab: Any) -> None:
    found = _summary(
        lab, lab.performance(lab.artifact("q8_0", 8.5), [1.0, 1.1, 1.2, 1.3, 1.4, 9.0, 1.1, 1.2])
    )
    row = found["pp512", "prefill_tokens_per_s", "median"]
    assert row["n"] == 8
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert found["pp512", "prefill_tokens_per_s", "n_outliers"]["value"] == 1


def test_a_chat_has_ttft_and_seconds_per_token_after_the_first(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    for i, (ttft_s, times) in enumerate([(0.5, [0.5, 0.6, 0.9]), (0.7, [0.7, 1.1]), (0.6, [0.6])]):
        chat = {"test": "chat64", "n_prompt": 20, "n_gen": 64, "repetition": i}
        lab.trial(run_id, **chat, ttft_s=ttft_s, token_times_s=times)
    summarise(lab.store, run_id)
    found = _summary(lab, run_id)
    assert found["chat64", "ttft_s", "median"]["value"] == 0.6
    assert found["chat64", "tpot_s", "median"]["value"] == pytest.approx(
        0.3
    )  # of 0.2 and 0.4; one token has none
    assert found["chat64", "tpot_s", "median"]["n"] == 2


def test_peaks_flags_and_load_belong_to_the_whole_run(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    peaks = {"peak_rss_anon_bytes": 3, "peak_rss_file_bytes": 4}
    lab.trial(run_id, prefill_s=1.0, peak_rss_bytes=10, load_s=1.0, **peaks)
    lab.trial(
        run_id, prefill_s=1.0, peak_rss_bytes=11, load_s=1.0, repetition=1, flags_json='["noisy_neighbour"]'
    )
    lab.trial(run_id, test="tg8", n_gen=8, n_prompt=0, peak_rss_bytes=12, load_s=3.0, process_index=1)
    summarise(lab.store, run_id)
    found = _summary(lab, run_id)
    assert found["pp512", "peak_rss_bytes", "max"]["value"] == 11
    assert found["*", "peak_rss_bytes", "max"]["value"] == 12
    assert found["*", "peak_rss_bytes", "max"]["ci_low"] is None
    assert found["*", "peak_rss_anon_bytes", "max"]["value"] == 3
    assert found["*", "peak_rss_file_bytes", "max"]["value"] == 4
    assert (found["*", "n_flagged", "count"]["value"], found["*", "n_flagged", "count"]["n"]) == (1, 3)
    assert (found["*", "load_s", "median"]["value"], found["*", "load_s", "median"]["n"]) == (2.0, 2)


def test_accuracy_has_wilsons_interval_and_the_share_of_each_position(lab: Any) -> None:
    found = _summary(lab, lab.accuracy(lab.artifact("q8_0", 8.5), [0, 0, 1, 0]))
    expected = wilson(3, 4)
    assert expected is not None
    row = found["everyday@1", "acc", "mean"]
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == (
        0.75,
        expected.ci_low,
        expected.ci_high,
        4,
    )
    assert found["everyday@1", "acc_norm", "mean"]["value"] == 0.75
    shares = [found["everyday@1", f"share_choice_{letter}", "mean"]["value"] for letter in "ABC"]
    assert shares == [0.75, 0.25, 0.0]


def test_a_run_without_rows_has_no_figures(lab: Any) -> None:
    assert _summary(lab, lab.finish(lab.run(lab.artifact("q8_0", 8.5)))) == {}


def test_summaries_can_be_thrown_away_and_rebuilt(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    runs = [lab.performance(artifact, [1.0, 1.1] * 3), lab.accuracy(artifact, [0, 1])]
    before = [_summary(lab, run) for run in runs]
    for run in runs:
        lab.store.replace_summary(run, [])
    rebuild(lab.store)
    assert [_summary(lab, run) for run in runs] == before
