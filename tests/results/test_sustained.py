"""A sustained run read back from the database, its summary rows, and its picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.results.sustained import find_sustained, flag_words, sustained_figures, sustained_report
from edgebench.results.sustained_plot import clock, describe, sustained_picture

STARTED_S = 40.0


def falls(at_s: float) -> float:
    return 50.0 if at_s < 120 else 25.0


def sustained_run(
    lab: Any,
    *,
    seconds: int = 300,
    rate: Callable[[float], float] = falls,
    channel: str | None = None,
    heat: bool = False,
    run: dict[str, Any] | None = None,
    **trial: Any,
) -> Any:
    """A complete run with one sustained trial; its power in W is a fifth of its rate."""
    run_id = lab.run(lab.artifact("q4_0", 4.5), **({"config": {"settings": {"n_threads": 4}}} | (run or {})))
    moments, at_s = [], 0.0
    while (at_s := at_s + 1 / rate(at_s)) <= seconds:
        moments.append(at_s)
    lab.trial(
        run_id,
        **{
            "test": f"sustained{seconds}",
            "n_prompt": 0,
            "n_gen": len(moments),
            "started_s": STARTED_S,
            "total_s": float(seconds),
            "token_times_s": moments,
        }
        | trial,
    )
    stamps = [0.2 * i for i in range(round((seconds + 2 * STARTED_S) / 0.2))]
    watts = [rate(stamp - STARTED_S) / 5 for stamp in stamps]
    if channel and channel.startswith("energy"):
        joules, total_j = [], 0.0
        for watt in watts:
            total_j += 0.2 * watt
            joules.append(total_j)
        lab.store.add_readings(run_id, channel, "J", list(zip(stamps, joules, strict=True)))
    elif channel:
        lab.store.add_readings(run_id, channel, "W", list(zip(stamps, watts, strict=True)))
    if heat:
        rows = [(stamp, 40 + stamp / 10) for stamp in stamps]
        lab.store.add_readings(run_id, "temperature", "C", rows)
    lab.finish(run_id)
    return lab.store.run(run_id)


METER = {"energy_source": "rapl:package", "energy_scope": "package", "energy_evidence": "measured"}


@pytest.mark.parametrize("kind", ["energy", "power"])
def test_bins_of_rate_watts_and_heat_stand_on_one_clock(lab: Any, kind: str) -> None:
    run = sustained_run(lab, channel=f"{kind}:rapl:package", heat=True, **METER)
    report = sustained_report(lab.store, run)
    assert (report.test, report.duration_s, report.n_threads) == ("sustained300", 300.0, 4)
    assert [each.start_s for each in report.bins] == [10.0 * i for i in range(30)]
    assert [each.tokens_per_s for each in report.bins] == pytest.approx([50] * 12 + [25] * 18, rel=0.01)
    assert [each.power_w for each in report.bins] == pytest.approx([10] * 12 + [5] * 18, rel=0.03)
    assert report.bins[0].temperature_c == pytest.approx(40 + (STARTED_S + 5) / 10, abs=0.02)
    assert report.figures.temperature_max_c == pytest.approx(40 + (STARTED_S + 300) / 10, abs=0.03)
    assert report.figures.burst_j_per_token == pytest.approx(0.2, rel=0.01)
    assert report.figures.sustained_j_per_token == pytest.approx(0.2, rel=0.01)
    assert report.figures.time_to_90_s == 120
    assert (report.energy_source, report.energy_scope, report.power_reason) == (
        "rapl:package",
        "package",
        None,
    )
    assert report.flags == ("not_steady",)


def test_of_several_meters_the_trials_own_is_taken(lab: Any) -> None:
    run = sustained_run(lab, channel="energy:rapl:package", **METER)
    lab.store.add_readings(run.id, "power:nvml:0", "W", [(0.2 * i, 300.0) for i in range(1900)])
    assert sustained_report(lab.store, run).figures.burst_w == pytest.approx(10, rel=0.01)


def test_a_log_that_was_laid_over_the_run_takes_the_meters_place(lab: Any) -> None:
    run = sustained_run(lab, channel="energy:rapl:package", **METER)
    lab.store.add_readings(run.id, "power:outlet", "W", [(0.5 * i, 30.0) for i in range(760)])
    place = {"kind": "test", "test": "sustained300", "start_s": 40.0, "end_s": 340.0}
    told = {"source": "outlet", "scope": "wall", "energy_j": 9000.0, "headline": 1, "evidence": "measured"}
    lab.store.add_windows(run.id, [place | told])
    report = sustained_report(lab.store, run)
    assert (report.energy_source, report.energy_scope) == ("outlet", "wall")
    assert report.figures.sustained_w == pytest.approx(30)


def test_why_there_is_no_power_is_the_trials_reason(lab: Any) -> None:
    refused = sustained_run(
        lab, channel="energy:battery:BAT0", energy_source="battery:BAT0", energy_reason="plugged_in"
    )
    report = sustained_report(lab.store, refused)
    assert (report.figures.burst_w, report.power_reason) == (None, "plugged_in")
    assert report.figures.reasons["sustained_j_per_token"] == "plugged_in"
    nothing = sustained_report(lab.store, sustained_run(lab))
    assert nothing.power_reason == nothing.figures.reasons["temperature_max_c"] == "no_sensor"
    silent = sustained_report(lab.store, sustained_run(lab, **METER))
    assert silent.power_reason == "no_sensor"


def test_a_meter_that_is_too_slow_for_bins_still_tells_of_the_last_minute(lab: Any, tmp_path: Path) -> None:
    run = sustained_run(lab, channel="power:rapl:package", **METER)
    meters = {"headline": "rapl:package", "meters": [{"source": "rapl:package", "minimum_s": 60.0}]}
    lab.store.set_meters(run.id, meters)
    report = sustained_report(lab.store, lab.store.run(run.id))
    assert (report.power_reason, report.figures.burst_w) == ("window_too_short", None)
    assert report.figures.sustained_w == pytest.approx(5, rel=0.01)
    assert "5 W in the last 60 s" in describe(report)
    assert "not measured (window_too_short)" not in describe(report)
    sustained_picture(report, tmp_path / "slow.png")


def test_summary_rows(lab: Any) -> None:
    run = sustained_run(lab, heat=True)
    found = {
        metric: (test, statistic, value)
        for test, metric, statistic, value in sustained_figures(lab.store, run)
    }
    assert {metric: statistic for metric, (_, statistic, _) in found.items()} == {
        "burst_tokens_per_s": "median",
        "sustained_tokens_per_s": "median",
        "retained_share": "ratio",
        "time_to_90_s": "first",
        "temperature_max_c": "max",
    }
    assert {test for test, _, _ in found.values()} == {"sustained300"}
    share = found["retained_share"][2]
    assert share.ci_low is not None
    assert share.ci_high is not None
    assert share.ci_low <= share.value <= share.ci_high
    assert share.value == pytest.approx(0.5, rel=0.01)
    stored = lab.store.rows(
        "SELECT metric FROM summary WHERE run_id = ? AND test = 'sustained300'", (run.id,)
    )
    assert found.keys() <= {row["metric"] for row in stored}


def test_what_is_absent_has_no_summary_row(lab: Any) -> None:
    steady = sustained_run(lab, seconds=60, rate=lambda _: 20.0)
    assert [metric for _, metric, _, _ in sustained_figures(lab.store, steady)] == ["burst_tokens_per_s"]
    plain = lab.performance(lab.artifact("q8_0", 8.5), [1.0])
    assert sustained_figures(lab.store, lab.store.run(plain)) == []


def test_latest_is_the_newest_run_that_was_sustained(lab: Any) -> None:
    sustained_run(lab, seconds=60)
    wanted = sustained_run(lab, seconds=60)
    other = lab.performance(lab.artifact("q8_0", 8.5), [1.0])
    assert find_sustained(lab.store).id == wanted.id
    assert find_sustained(lab.store, other[:20].lower() + other[20:]).id == other
    with pytest.raises(UsageError, match="no sustained test") as caught:
        sustained_report(lab.store, lab.store.run(other))
    assert "--sustained" in str(caught.value.hint)


def test_without_a_sustained_run_the_command_that_makes_one_is_told(lab: Any) -> None:
    with pytest.raises(UsageError, match="sustained") as caught:
        find_sustained(lab.store)
    assert "--sustained" in str(caught.value.hint)


def test_a_warmup_is_not_the_run(lab: Any) -> None:
    run = sustained_run(lab, phase="warmup")
    assert sustained_figures(lab.store, run) == []


def test_flags_are_told_in_words(lab: Any) -> None:
    flags = json.dumps(["on_battery", "odd_thing", "throttled"])
    run = sustained_run(lab, throttled=1, flags_json=flags, rate=lambda _: 20.0)
    report = sustained_report(lab.store, run)
    assert report.flags[:3] == ("throttled", "on_battery", "odd_thing")
    foot = describe(report)
    assert flag_words("throttled") in foot
    assert "odd thing" in foot
    assert "see --sustained" not in foot


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture_is_drawn_whole_or_not_at_all(lab: Any, tmp_path: Path, suffix: str) -> None:
    report = sustained_report(
        lab.store, sustained_run(lab, channel="energy:rapl:package", heat=True, **METER)
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    sustained_picture(report, folder / f"sustained{suffix}")
    assert [path.name for path in folder.iterdir()] == [f"sustained{suffix}"]
    assert (folder / f"sustained{suffix}").stat().st_size > 5000


def drawn(report: Any, folder: Path) -> str:
    sustained_picture(report, folder / "drawn.svg")
    return (folder / "drawn.svg").read_text(encoding="utf-8")


def test_panels_stand_for_what_was_measured(lab: Any, tmp_path: Path) -> None:
    whole = drawn(
        sustained_report(lab.store, sustained_run(lab, channel="energy:rapl:package", heat=True, **METER)),
        tmp_path,
    )
    for text in ("tiny q4_0 on laptop, 4 threads", "tokens/s", "W", "°C", "below 90 % from 2:00"):
        assert f"<!-- {text} -->" in whole
    assert "<!-- power of rapl:package (package) · J/token: burst 0.2, sustained 0.2 -->" in whole
    bare = drawn(sustained_report(lab.store, sustained_run(lab, rate=lambda _: 20.0)), tmp_path)
    assert "<!-- W -->" not in bare
    assert "<!-- °C -->" not in bare
    assert "power: not measured (no_sensor) · temperature: not measured (no_sensor)" in bare
    assert "below 90 % from" not in bare


def test_figures_that_were_not_measured_are_called_so(lab: Any) -> None:
    replayed = METER | {"energy_evidence": "replayed"}
    run = sustained_run(lab, channel="power:rapl:package", run={"evidence": "synthetic"}, **replayed)
    foot = describe(sustained_report(lab.store, run))
    assert "not measured: speed is synthetic, power is replayed" in foot


def test_what_cannot_be_drawn_is_told(lab: Any, tmp_path: Path) -> None:
    report = sustained_report(lab.store, sustained_run(lab, seconds=3))
    with pytest.raises(UsageError, match="nothing to draw"):
        sustained_picture(report, tmp_path / "short.png")
    with pytest.raises(UsageError, match="can't draw"):
        sustained_picture(report, tmp_path / "short.gif")
    assert not list(tmp_path.glob("*.png"))


def test_a_long_title_stays_in_the_picture(lab: Any, tmp_path: Path) -> None:
    from matplotlib.image import imread

    run = sustained_run(lab, seconds=60)
    long = lab.run(lab.artifact("q4_0", 4.5, model="a-model-with-a-name-" * 4))
    lab.store._connection.execute("UPDATE trial SET run_id = ? WHERE run_id = ?", (long, run.id))
    sustained_picture(sustained_report(lab.store, lab.store.run(long)), tmp_path / "long.png")
    picture = imread(tmp_path / "long.png")
    assert picture[:90, -20:, :3].min() == 1.0  # white up to the edge beside the title


def test_a_clock_counts_minutes_on() -> None:
    assert [clock(value) for value in (0, 59.6, 125, 3725)] == ["0:00", "1:00", "2:05", "62:05"]
