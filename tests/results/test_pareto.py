"""The front against brute force, and the picture of it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.errors import UsageError
from edgebench.core.stats import Estimate
from edgebench.core.types import MEDICAL_NOTE, Evidence
from edgebench.results.labels import place_labels
from edgebench.results.levels import LevelRow, level_rows
from edgebench.results.pareto import METRICS, Metric, front, metric
from edgebench.results.plots import describe, pareto_picture

FEW = st.integers(min_value=0, max_value=6).map(float)


def _row(label: str, **values: float) -> LevelRow:
    figures = {key: Estimate(value=value, ci_low=None, ci_high=None, n=1) for key, value in values.items()}
    return LevelRow(
        artifact_id=label,
        model="tiny",
        quant=label,
        label=label,
        device_id="laptop",
        suite_id=None,
        scorer=None,
        headline="acc",
        notes=(),
        prefill_test=None,
        decode_test=None,
        chat_test=None,
        figures=figures,
        tests={},
        n_outliers=0,
        n_fallback=0,
        n_flagged=0,
        meter={"source": None, "scope": None, "method": None, "evidence": None, "reason": "no_sensor"},
        performance=None,
        accuracy=None,
        alone=None,
    )


@given(
    st.lists(st.tuples(FEW, FEW), min_size=1, max_size=12),
    st.sampled_from(["size_bytes", "decode_tokens_per_s"]),
    st.sampled_from(["acc", "ttft_s"]),
)
def test_the_front_is_who_nobody_beats(values: list[tuple[float, float]], x_name: str, y_name: str) -> None:
    x, y = metric(x_name), metric(y_name)
    rows = [_row(str(i), **{x_name: a, y_name: b}) for i, (a, b) in enumerate(values)]
    found = {point.row.label for point in front(rows, x, y).points if point.on_front}
    assert found == {
        str(i) for i, one in enumerate(values) if not any(_beats(x, y, other, one) for other in values)
    }
    assert found


def _beats(x: Metric, y: Metric, a: tuple[float, float], b: tuple[float, float]) -> bool:
    at_least = [_as_good(m, one, other) for m, one, other in zip((x, y), a, b, strict=True)]
    return all(at_least) and a != b


def _as_good(axis: Metric, one: float, other: float) -> bool:
    return one >= other if axis.better == "higher" else one <= other


def test_equal_levels_are_both_on_the_front() -> None:
    found = front([_row(name, size_bytes=1, acc=1) for name in "ab"], METRICS["size_bytes"], METRICS["acc"])
    assert [point.on_front for point in found.points] == [True, True]


def test_levels_without_a_figure_are_left_out_with_the_reason() -> None:
    rows = [_row("a", size_bytes=1, acc=1), _row("b", size_bytes=1), _row("c", ttft_s=1)]
    found = front(rows, metric("size"), metric("acc"))
    assert [point.row.label for point in found.points] == ["a"]
    assert found.left_out == (("b", "no accuracy"), ("c", "no file size and no accuracy"))


def test_figures_that_were_not_measured_neither_win_nor_beat(lab: Any) -> None:
    lab.performance(lab.artifact("q4_0", 4.5), [1.0], evidence=Evidence.SYNTHETIC)
    lab.performance(lab.artifact("q8_0", 8.5), [2.0])
    rows, axes = level_rows(lab.store), (metric("size"), metric("pp"))
    assert {p.row.label: (p.ranked, p.on_front) for p in front(rows, *axes).points} == {
        "q8_0": (True, True),
        "q4_0": (False, False),
    }
    allowed = front(rows, *axes, allow_synthetic=True)
    assert {p.row.label: p.on_front for p in allowed.points} == {"q8_0": False, "q4_0": True}


def test_energy_is_told_to_be_absent() -> None:
    with pytest.raises(UsageError, match="no run in this database has energy"):
        front([_row("a", acc=1)], metric("energy_j_per_token"), metric("acc"))


def test_metrics_have_short_names_and_unknown_ones_get_the_nearest() -> None:
    assert metric("pp512") is metric("pp") is METRICS["prefill_tokens_per_s"]
    assert metric("tg128") is metric("tg") is METRICS["decode_tokens_per_s"]
    with pytest.raises(UsageError, match="unknown metric 'ttft_ms'") as caught:
        metric("ttft_ms")
    assert "ttft_s" in str(caught.value.hint)


BOXES = st.tuples(st.integers(0, 600), st.integers(0, 400)).map(lambda at: (float(at[0]), float(at[1])))


@given(st.lists(BOXES, min_size=1, max_size=8, unique=True))
def test_labels_do_not_overlap_where_there_is_room(anchors: list[tuple[float, float]]) -> None:
    size = (40.0, 10.0)
    centres = place_labels(
        anchors, [size] * len(anchors), solid=[], soft=[], bounds=(-500.0, -500.0, 1100.0, 900.0)
    )
    for i, a in enumerate(centres):
        for b in centres[:i]:
            assert abs(a[0] - b[0]) >= 40 - 1e-6 or abs(a[1] - b[1]) >= 10 - 1e-6


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_written_whole(lab: Any, tmp_path: Path, suffix: str, start: bytes) -> None:
    suite = lab.suite("medqa", medical=True)
    for quant, bits, prefill_s in (("f16", 16.0, 2.0), ("q8_0", 8.5, 1.0), ("q4_0", 4.5, 1.5)):
        artifact = lab.artifact(quant, bits)
        lab.performance(artifact, [prefill_s, prefill_s * 1.1] * 3)
        lab.accuracy(artifact, [0, 1, 0, 0], suite=suite)
    x, y = metric("pp"), metric("acc")
    points = front(level_rows(lab.store), x, y).points
    note = describe(points, x, y)
    assert MEDICAL_NOTE in note
    assert "medqa@1, letter scorer, n = 4 questions" in note
    folder = tmp_path / "pictures"
    folder.mkdir()
    pareto_picture(points, x, y, folder / f"front.{suffix}", "tiny", note)
    assert [file.name for file in folder.iterdir()] == [f"front.{suffix}"]
    assert (folder / f"front.{suffix}").read_bytes().startswith(start)


def test_a_picture_of_points_on_one_spot_can_be_drawn(tmp_path: Path) -> None:
    points = front([_row(name, size_bytes=1, acc=0) for name in "abc"], metric("size"), metric("acc")).points
    pareto_picture(points, metric("size"), metric("acc"), tmp_path / "same.png", "same", "")
    assert (tmp_path / "same.png").stat().st_size > 0


def test_a_picture_that_cannot_be_is_refused(tmp_path: Path) -> None:
    x, y = metric("size"), metric("acc")
    points = front([_row("a", size_bytes=1, acc=1)], x, y).points
    with pytest.raises(UsageError, match=r"can't draw a \.gif"):
        pareto_picture(points, x, y, tmp_path / "front.gif", "", "")
    with pytest.raises(UsageError, match="nothing to draw"):
        pareto_picture([], x, y, tmp_path / "front.png", "", "")
    with pytest.raises(UsageError, match=r"can't write .*absent"):
        pareto_picture(points, x, y, tmp_path / "absent" / "front.png", "", "")
    assert list(tmp_path.iterdir()) == []
