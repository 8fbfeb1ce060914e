"""Logs of external meters: what is read, what is refused, and where a log lies on our clock."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.core.energy import Absence, MeterError, Method, Sample, Scope
from edgebench.devices.meters.alignment import Alignment, align, apply, is_good_for
from edgebench.devices.meters.external import read_log, update_s

MARKER = [(100.0, 105.3), (110.1, 114.7), (120.0, 126.9)]
"""Irregular, as a marker should be: its edges fall into different phases of a meter's second."""
REGULAR = [(100.0, 105.0), (110.0, 115.0), (120.0, 125.0)]
BASE_W, LOAD_W = 10.0, 20.0


def write(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def why(path: Path) -> str:
    with pytest.raises(MeterError) as caught:
        read_log(path)
    assert caught.value.reason is Absence.UNREADABLE
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message.removeprefix(str(path)).strip()


def meter_log(
    marker: list[tuple[float, float]],
    offset_s: float,
    *,
    period_s: float,
    seed: int,
    noise: float = 0.02,
    averaging: bool = False,
    until_s: float = 300.0,
) -> list[Sample]:
    """What a meter would write whose clock is `offset_s` behind ours, first sample near its 0."""
    rng = np.random.default_rng(seed)
    stamps = np.sort(np.arange(rng.uniform(0, period_s), until_s, period_s))
    stamps = stamps + rng.uniform(-0.02, 0.02, len(stamps)) * period_s
    edges = np.array(marker).ravel()
    ours = stamps + offset_s

    def on_s(at: np.ndarray) -> np.ndarray:
        return np.clip(at[:, None] - edges[0::2], 0, edges[1::2] - edges[0::2]).sum(axis=1)

    loaded = np.searchsorted(edges, ours, side="right") % 2
    if averaging:
        loaded = (on_s(ours + period_s / 2) - on_s(ours - period_s / 2)) / period_s
    watts = BASE_W + LOAD_W * (loaded + noise * rng.normal(size=len(stamps)))
    return [Sample(float(t), float(w)) for t, w in zip(stamps, watts, strict=True)]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("t_unix_ns,watt", "{ns},12.5", 12.5),
        ("T_Unix_S, Watt", "{s},12.5", 12.5),
        ("t_s,volt,amp", "{s},5.0,2.5", 12.5),
        ("t,watt,volt,amp,note", "{s},12.5,5,99,hello", 12.5),
        ("note,t,watt,volt,amp", "x,{s},,5.0,2.5", 12.5),
    ],
)
def test_csv_of_every_documented_form(tmp_path: Path, header: str, row: str, expected: float) -> None:
    lines = [row.format(s=1_700_000_000 + i, ns=(1_700_000_000 + i) * 10**9) for i in range(3)]
    log = read_log(write(tmp_path, "\ufeff" + "\n".join([header, *lines, "", ""])))
    assert [sample.t_s - 1.7e9 for sample in log.samples] == pytest.approx([0, 1, 2], abs=1e-6)
    assert {sample.value for sample in log.samples} == {expected}
    assert (log.facts.scope, log.facts.method, log.facts.source) == (Scope.WALL, Method.SAMPLED, "external")
    assert log.n_merged == 0


def test_json_lines_of_the_same_keys(tmp_path: Path) -> None:
    rows = [{"T_unix_ns": 10**9, "Watt": 3}, {"t_unix_ns": 2 * 10**9, "volt": 2.0, "amp": 2.5, "x": [1]}]
    log = read_log(
        write(tmp_path, "\n\n".join(map(json.dumps, rows)), "log.jsonl"), source="plug", scope=Scope.RAILS
    )
    assert log.samples == (Sample(1.0, 3.0), Sample(2.0, 5.0))
    assert (log.facts.source, log.facts.scope) == ("plug", Scope.RAILS)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2 * 10**15).map(lambda us: us * 1000), st.floats(0, 1e6)),
        min_size=2,
        max_size=30,
        unique_by=lambda row: row[0],
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_is_read(tmp_path: Path, rows: list[tuple[int, float]]) -> None:
    rows.sort()
    text = "t_unix_ns,watt\n" + "".join(f"{t},{watt!r}\n" for t, watt in rows)
    as_json = "".join(json.dumps({"t_unix_ns": t, "watt": watt}) + "\n" for t, watt in rows)
    log = read_log(write(tmp_path, text))
    assert log.samples == read_log(write(tmp_path, as_json, "log.jsonl")).samples
    assert [sample.value for sample in log.samples] == [watt for _, watt in rows]
    assert all(a.t_s < b.t_s for a, b in pairwise(log.samples))


def test_equal_stamps_become_one_sample_of_their_mean(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, "t_s,watt\n1,10\n1,20\n2,7\n2,8\n2,9\n"))
    assert log.samples == (Sample(1.0, 15.0), Sample(2.0, 8.0))
    assert log.n_merged == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: no header"),
        ("1,2\n3,4\n", "line 1: no header"),
        ("t_s,volt\n1,2\n", "line 1: no header"),
        ("t_s,watt,Watt\n1,2,3\n", "line 1: a column has the name of another"),
        ("t_s,watt\n1,5\n2,nan\n", "line 3: watt is no number: 'nan'"),
        ("t_s,watt\n1,5\n2,inf\n", "line 3: watt is no number"),
        ("t_s,watt\n1,5\ninf,5\n", "line 3: t_s is no number"),
        ("t_s,watt\n1,5\n2,-0.1\n", "line 3: -0.1 W can't be a load"),
        ("t_s,volt,amp\n1,5,2\n2,5,-1\n", "line 3: -5 W can't be a load"),
        ("t_s,watt\n2,5\n1,5\n", "line 3: its time is before"),
        ("t_s,watt\n1,5\n2\n", "line 3: 1 cells under 2 columns"),
        ("t_s,watt\n1,5\n2,\n", "line 3: no power"),
        ("t_s,watt\n1,5\n\n2,five\n", "line 4: watt is no number: 'five'"),
        ("t_s,watt\n1,5\n", "fewer than two samples"),
        ('t_s,watt\n1,5\n2,"5\n', "line 3: unexpected end"),
    ],
)
def test_csv_that_can_not_be_meant_names_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert told in why(write(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("5", "not a JSON object"),
        ("{", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"watt": 5}', "no time"),
        ('{"t_s": 2}', "no power"),
        ('{"t_s": 2, "watt": NaN}', "watt is no number"),
        ('{"t_s": 2, "watt": true}', "watt is no number"),
        ('{"t_s": 2, "watt": [5]}', "watt is no number"),
        ('{"t_s": 1e400, "watt": 5}', "t_s is no number"),
        ('{"t_s": 2, "watt": 1' + "0" * 400 + "}", "watt is no number"),
        ('{"t_s": 0, "watt": 5}', "its time is before"),
    ],
)
def test_json_line_that_can_not_be_meant_names_its_line(tmp_path: Path, line: str, told: str) -> None:
    text = f'{{"t_s": 1, "watt": 5}}\n{line}\n'
    assert why(write(tmp_path, text, "log.jsonl")).startswith(f"line 2: {told}")


def test_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    assert "No such file" in why(path)
    path.write_bytes(b"t_s,watt\n1,\xff\xfe\n")
    assert "not UTF-8" in why(path)


def test_step_and_update_are_those_seen(tmp_path: Path) -> None:
    # Written ten times a second by a meter that looks once a second, in steps of half a watt.
    watts = [10 + 0.5 * (i // 10 * 7 % 5) for i in range(600)]
    log = read_log(write(tmp_path, "t_s,watt\n" + "".join(f"{i / 10},{w}\n" for i, w in enumerate(watts))))
    assert log.facts.step == 0.5
    assert log.facts.update_s == pytest.approx(1.0)
    assert log.facts.minimum_s == pytest.approx(60.0)


def test_steady_load_in_coarse_steps_does_not_slow_the_meter() -> None:
    rng = np.random.default_rng(1)
    watts = np.round(10.4 + 0.2 * rng.normal(size=900))
    samples = tuple(Sample(i / 10, float(w)) for i, w in enumerate(watts))
    assert update_s(samples) < 0.35


def test_log_that_never_changes_has_no_step(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, "t_s,watt\n" + "".join(f"{i},5\n" for i in range(10))))
    assert (log.facts.step, log.facts.update_s) == (0.0, 1.0)


@pytest.mark.parametrize("averaging", [False, True])
@pytest.mark.parametrize(("period_s", "tolerance_s"), [(1.0, 0.5), (0.1, 0.05)])
@pytest.mark.parametrize("noise", [0.02, 0.15])
def test_offset_is_found_again(period_s: float, tolerance_s: float, noise: float, averaging: bool) -> None:
    for seed in range(8):
        offset_s = -80.0 + 20.77 * seed
        log = meter_log(MARKER, offset_s, period_s=period_s, seed=seed, noise=noise, averaging=averaging)
        found = align(log, MARKER)
        assert found.offset_s == pytest.approx(offset_s, abs=tolerance_s)
        assert 0 < found.u_offset_s < tolerance_s
        assert found.correlation > 0.85


def errors_over_u(marker: list[tuple[float, float]], period_s: float) -> list[float]:
    ratios = []
    for seed in range(60):
        offset_s = float(np.random.default_rng(seed + 1000).uniform(-60, 60))
        found = align(meter_log(marker, offset_s, period_s=period_s, seed=seed), marker)
        ratios.append((found.offset_s - offset_s) / found.u_offset_s)
    return ratios


@pytest.mark.parametrize("marker", [MARKER, REGULAR], ids=["irregular", "regular"])
@pytest.mark.parametrize("period_s", [1.0, 0.1])
def test_uncertainty_is_neither_boasting_nor_useless(
    marker: list[tuple[float, float]], period_s: float
) -> None:
    ratios = errors_over_u(marker, period_s)
    assert np.mean(np.abs(ratios) < 2) >= 0.95
    assert 0.4 < np.sqrt(np.mean(np.square(ratios))) < 1.3


def test_regular_pulses_are_known_worse_than_irregular_ones() -> None:
    def u_s(marker: list[tuple[float, float]]) -> float:
        return align(meter_log(marker, 3.21, period_s=1.0, seed=5), marker).u_offset_s

    assert u_s(REGULAR) > 1.3 * u_s(MARKER)


@settings(max_examples=25, deadline=None)
@given(st.floats(-1.7e9, 1.7e9), st.floats(0.2, 500.0), st.integers(0, 2**31))
def test_offset_follows_the_clock_and_not_the_size_of_the_load(
    shift_s: float, factor: float, seed: int
) -> None:
    log = meter_log(MARKER, 0.0, period_s=0.25, seed=seed)
    plain = align(log, MARKER)
    moved = align([Sample(t - shift_s, factor * w) for t, w in log], MARKER)
    assert moved.offset_s - shift_s == pytest.approx(plain.offset_s, abs=1e-3)
    assert moved.correlation == pytest.approx(plain.correlation, abs=1e-3)


def no_pulses(seed: int) -> list[Sample]:
    return meter_log([(900.0, 901.0), (902.0, 903.0)], 0.0, period_s=1.0, seed=seed)


def constant(_: int) -> list[Sample]:
    return [Sample(float(i), 5.0) for i in range(300)]


def pulses_all_along(seed: int) -> list[Sample]:
    many = [(10.0 * i, 10.0 * i + 5) for i in range(1, 28)]
    return meter_log(many, 0.0, period_s=0.5, seed=seed)


def cut_short(seed: int) -> list[Sample]:
    return [sample for sample in meter_log(MARKER, 0.0, period_s=0.5, seed=seed) if sample.t_s < 118]


def too_slow(seed: int) -> list[Sample]:
    return meter_log(MARKER, 0.0, period_s=4.0, seed=seed)


def upside_down(seed: int) -> list[Sample]:
    return [Sample(t, 100 - w) for t, w in meter_log(MARKER, 0.0, period_s=0.5, seed=seed)]


@pytest.mark.parametrize(
    "make", [no_pulses, constant, pulses_all_along, cut_short, too_slow, upside_down, lambda _: []]
)
def test_log_that_does_not_show_the_pulses_once_is_refused(make: Callable[[int], list[Sample]]) -> None:
    for seed in range(10):
        with pytest.raises(MeterError) as caught:
            align(make(seed), MARKER)
        assert caught.value.reason is Absence.NOT_ALIGNED
        assert caught.value.hint


@pytest.mark.parametrize("marker", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.5, 3.0)], [(2.0, 1.0), (3.0, 4.0)]])
def test_marker_without_order_is_refused(marker: list[tuple[float, float]]) -> None:
    with pytest.raises(MeterError, match=re.escape("two or more pulses")):
        align(meter_log(MARKER, 0.0, period_s=1.0, seed=0), marker)


def test_aligned_samples_have_our_stamps_and_a_window_must_bear_the_offset() -> None:
    found = Alignment(offset_s=7.5, u_offset_s=0.3, correlation=0.99)
    assert apply([Sample(1.0, 2.0)], found) == [Sample(8.5, 2.0)]
    assert is_good_for(found, 60.0)
    assert not is_good_for(found, 59.99)
