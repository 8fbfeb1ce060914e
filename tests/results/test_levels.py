"""Which runs stand for a level."""

from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.types import MEDICAL_NOTE, Evidence, Status
from edgebench.results.levels import level_rows, settings_that_differ


def test_a_level_stands_on_its_newest_complete_runs(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    lab.performance(artifact, [9.0] * 6)
    speed = lab.performance(artifact, [1.0] * 6, [2.0] * 6)
    answers, alone = lab.accuracy(artifact, [0, 0]), lab.accuracy(artifact, [0, 1], shape="alone")
    lab.store.set_status(lab.performance(artifact, [5.0] * 6), Status.INVALID, "hot")
    (row,) = level_rows(lab.store)
    assert (row.performance.id, row.accuracy.id, row.alone.id) == (speed, answers, alone)
    assert (row.prefill_test, row.decode_test, row.chat_test) == ("pp512", "tg128", None)
    assert row.figures["prefill_tokens_per_s"].value == 512
    assert row.figures["decode_tokens_per_s"].value == 64
    assert row.figures["acc"].value == 1.0
    assert row.figures["peak_rss_bytes"].value == 1005
    assert row.figures["bits_per_weight"].value == 8.5
    assert row.figures["load_s"].value == 0.5
    assert "ttft_s" not in row.figures
    assert row.evidence is Evidence.MEASURED


def test_levels_are_listed_widest_first_within_a_model(lab: Any) -> None:
    for quant, bits, model in (
        ("q4_0", 4.5, "b"),
        ("f16", 16.0, "b"),
        ("q8_0", 8.5, "a"),
        ("odd", None, "b"),
    ):
        lab.performance(lab.artifact(quant, bits, model=model), [1.0])
    assert [(row.model, row.label) for row in level_rows(lab.store)] == [
        ("a", "q8_0"),
        ("b", "f16"),
        ("b", "q4_0"),
        ("b", "odd"),
    ]
    assert [row.label for row in level_rows(lab.store, model="a")] == ["q8_0"]


def test_two_files_of_one_level_are_told_apart(lab: Any) -> None:
    files = [lab.artifact("q4_0", 4.5, tool=tool) for tool in ("one", "two")]
    for file in files:
        lab.performance(file, [1.0])
    assert {row.label for row in level_rows(lab.store)} == {f"q4_0 #{file[:6]}" for file in files}


def test_devices_are_never_mixed(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    lab.performance(artifact, [1.0])
    lab.performance(artifact, [2.0], device_id=lab.device("phone"))
    with pytest.raises(UsageError, match="2 devices: laptop, phone"):
        level_rows(lab.store)
    assert level_rows(lab.store, device="phone")[0].figures["prefill_tokens_per_s"].value == 256


def test_the_suite_and_scorer_are_the_newest_ones_unless_named(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    lab.accuracy(artifact, [0, 1], suite=lab.suite("medqa", medical=True))
    lab.accuracy(artifact, [0, 0])
    lab.accuracy(artifact, [1, 1], shape="alone", suite=lab.suite("medqa", medical=True))
    assert [(row.suite_id, row.notes) for row in level_rows(lab.store)] == [("everyday@1", ())]
    (row,) = level_rows(lab.store, suite="medqa")
    assert (row.suite_id, row.notes, row.figures["acc"].value) == ("medqa@1", (MEDICAL_NOTE,), 0.5)
    assert row.alone is not None
    assert level_rows(lab.store, suite="everyday@1", scorer="letter")[0].alone is None


@pytest.mark.parametrize(
    "wanted", [{"model": "tinny"}, {"device": "latop"}, {"suite": "everyda"}, {"scorer": "lettr"}]
)
def test_an_unknown_name_gets_the_nearest_ones(lab: Any, wanted: dict[str, str]) -> None:
    lab.accuracy(lab.artifact("q8_0", 8.5), [0])
    with pytest.raises(UsageError, match="unknown") as caught:
        level_rows(lab.store, **wanted)
    assert "did you mean" in str(caught.value.hint)


def test_an_empty_database_has_no_levels(lab: Any) -> None:
    assert level_rows(lab.store, model="tiny") == []


def test_only_these_runs_can_be_asked_for(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    older = lab.performance(artifact, [2.0])
    lab.performance(artifact, [1.0])
    (row,) = level_rows(lab.store, only={older})
    assert row.performance.id == older


def test_a_row_is_only_as_good_as_its_worst_evidence(lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    lab.performance(artifact, [1.0], evidence=Evidence.SYNTHETIC)
    lab.accuracy(artifact, [0])
    assert level_rows(lab.store)[0].evidence is Evidence.SYNTHETIC


def test_flagged_trials_are_counted_on_the_row(lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5))
    lab.trial(run_id, prefill_s=1.0, flags_json='["unstable_host"]')
    lab.finish(run_id)
    assert level_rows(lab.store)[0].n_flagged == 1


def test_settings_that_make_an_unfair_table_are_named(lab: Any) -> None:
    lab.performance(lab.artifact("q8_0", 8.5), [1.0])
    lab.performance(lab.artifact("q4_0", 4.5), [1.0], config={"n_threads": 8})
    assert settings_that_differ(level_rows(lab.store)) == ["n_threads"]
    assert settings_that_differ([]) == []
