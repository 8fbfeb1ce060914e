"""What joules are to a battery: percent of a charge, questions per charge, and when nothing is said of it."""

import json
from typing import Any

import pytest

from edgebench.core.energy import Scope
from edgebench.core.types import Mode, Workload
from edgebench.results.battery_summary import CHANNEL, battery_figures, full_charge_j
from edgebench.results.compare import by_quant
from edgebench.results.levels import level_rows
from edgebench.results.summary import rebuild

FULL_J = 50_000.0
"""Some 3.6 Ah at 3.85 V."""


def window(energy_j: float | None, **more: Any) -> dict[str, Any]:
    """A stretch of writing on a battery that is metered by its charge counter."""
    usual = {"kind": "test", "test": "tg128", "source": "charge_counter", "scope": Scope.BATTERY}
    return {**usual, "n_prompt": 0, "n_gen": 128, "n_questions": 0, "energy_j": energy_j, **more}


def answers(energy_j: float, n_questions: int, **more: Any) -> dict[str, Any]:
    return window(energy_j, kind="answers", test="*", n_gen=0, n_prompt=900, n_questions=n_questions, **more)


def figures(*windows: dict[str, Any], full_j: float | None = FULL_J) -> dict[tuple[str, str], float]:
    """(test, metric) -> value."""
    found = battery_figures(windows, full_j, "exam@1")
    return {(test, metric): estimate.value for test, metric, _, estimate in found if estimate is not None}


# Figures, against values computed by hand


def test_joules_per_token_are_percent_of_a_charge() -> None:
    # 384 J for 256 tokens: 1.5 J a token, 1500 J a thousand, of 50 kJ.
    found = figures(window(128.0), window(256.0))
    assert found == {("tg128", "battery_percent_per_1k_tokens"): pytest.approx(3.0)}
    assert [e.n for *_, e in battery_figures([window(128.0), window(256.0)], FULL_J, "*") if e] == [2]


def test_each_test_has_its_own_share() -> None:
    found = figures(window(128.0), window(64.0, test="tg32", n_gen=32))
    assert found == {
        ("tg128", "battery_percent_per_1k_tokens"): pytest.approx(2.0),
        ("tg32", "battery_percent_per_1k_tokens"): pytest.approx(4.0),
    }


def test_a_charge_answers_so_many_questions() -> None:
    # 25 J for each of 8 questions, over two processes.
    found = figures(answers(150.0, 6), answers(50.0, 2))
    assert found == {("exam@1", "questions_per_charge"): pytest.approx(2000.0)}


@pytest.mark.parametrize(
    "more",
    [
        {"test": "pp512", "n_prompt": 512, "n_gen": 0},
        {"test": "pp512+tg128", "n_prompt": 512},
        {"test": "chat64", "n_prompt": 20, "n_gen": 64},
        {"kind": "idle_before", "test": "*", "n_gen": 0},
        {"scope": Scope.RAILS, "source": "rails"},
        {"scope": Scope.PACKAGE, "source": "rapl:package"},
        {"energy_j": None},
        {"energy_j": 0.0},
    ],
    ids=["prompt", "both", "chat", "idle", "rails", "package", "no joules", "no joule"],
)
def test_what_is_not_writing_on_a_metered_battery_has_no_share(more: dict[str, Any]) -> None:
    assert figures(window(128.0) | more) == {}


def test_a_battery_that_does_not_tell_what_it_holds_has_no_share() -> None:
    assert figures(window(128.0), answers(100.0, 4), full_j=None) == {}


def test_the_counter_counts_before_the_current_and_they_are_never_added() -> None:
    current = window(999.0, source="current_voltage")
    assert figures(current, window(128.0)) == figures(window(128.0))
    only = figures(window(None), window(64.0, source="current_voltage"))
    assert only == {("tg128", "battery_percent_per_1k_tokens"): pytest.approx(1.0)}


# From the database to the tables


@pytest.fixture
def phone_runs(lab: Any) -> tuple[str, str]:
    """A speed run and an accuracy run of one file on a phone that tells of its battery."""
    artifact = lab.artifact("q4_0", 4.5)
    timed = lab.run(artifact)
    for i in range(2):
        lab.trial(timed, test="tg128", n_prompt=0, n_gen=128, repetition=i, decode_s=4.0)
    stored = {"start_s": 0.0, "end_s": 8.0, "process_index": 0, "headline": 0, "method": "counter"}
    lab.store.add_windows(timed, [{**window(128.0), **stored}, {**window(256.0), **stored}])
    lab.store.add_readings(timed, CHANNEL, "J", [(1.0, FULL_J), (2.0, FULL_J + 800), (3.0, FULL_J - 800)])
    suite = lab.asked()
    asked = lab.answered(artifact, suite, lambda question, _: question.answer_index)
    lab.store.add_windows(asked, [{**answers(200.0, 8), **stored}])
    lab.store.add_readings(asked, CHANNEL, "J", [(1.0, FULL_J)])
    for run_id in (timed, asked):
        lab.finish(run_id)
    return timed, asked


def test_what_a_charge_holds_is_the_middle_of_what_was_read(lab: Any, phone_runs: tuple[str, str]) -> None:
    assert full_charge_j(lab.store, phone_runs[0]) == FULL_J
    silent = lab.run(lab.artifact("q8_0", 8.5), Mode.PERFORMANCE)
    assert full_charge_j(lab.store, silent) is None
    lab.store.add_readings(silent, CHANNEL, "J", [(1.0, 0.0), (2.0, -5.0)])
    assert full_charge_j(lab.store, silent) is None  # a battery that holds nothing is one that lies


def test_summaries_keep_the_figures_and_can_be_made_again(lab: Any, phone_runs: tuple[str, str]) -> None:
    def stored() -> dict[str, tuple[str, float]]:
        sql = "SELECT test, metric, value FROM summary WHERE metric LIKE 'battery%' OR metric LIKE '%charge'"
        return {row["metric"]: (row["test"], row["value"]) for row in lab.store.rows(sql)}

    before = stored()
    assert before == {
        "battery_percent_per_1k_tokens": (Workload(n_gen=128).name, pytest.approx(3.0)),
        "questions_per_charge": ("exam@1", pytest.approx(2000.0)),
    }
    rebuild(lab.store)
    assert stored() == before


def test_a_level_has_them_beside_its_joules(lab: Any, phone_runs: tuple[str, str]) -> None:
    (row,) = level_rows(lab.store)
    assert row.figures["battery_percent_per_1k_tokens"].value == pytest.approx(3.0)
    assert row.figures["questions_per_charge"].value == pytest.approx(2000.0)
    assert "energy_j_per_token" not in row.figures  # the meter was none a run's joules are taken from


def test_the_tables_show_them(
    lab: Any, phone_runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    from edgebench.cli.levels import emit_levels

    levels = [by_quant(lab.store).levels]
    emit_levels(levels, "md")
    told = capsys.readouterr().out
    header, _, row, *_ = [line for line in told.splitlines() if line.startswith("|")]
    cells = dict(
        zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (header, row)), strict=True)
    )
    assert cells["battery % per 1000 tokens"] == "3"
    assert cells["questions per charge"] == "2000"
    emit_levels(levels, "json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["questions_per_charge"]["value"] == pytest.approx(2000.0)
    assert found["battery_percent_per_1k_tokens"]["n"] == 2


def test_without_a_battery_there_is_no_such_column(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from edgebench.cli.levels import emit_levels

    lab.performance(lab.artifact("q4_0", 4.5), [1.0, 1.1], [2.0, 2.1])
    emit_levels([by_quant(lab.store).levels], "md")
    told = capsys.readouterr().out
    assert "tg128 t/s" in told
    assert "battery" not in told
    assert "charge" not in told
