"""The Pareto picture. matplotlib is imported only when one is drawn, and without its global state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.core.errors import UsageError
from edgebench.results.labels import Box, place_labels
from edgebench.results.pareto import Metric, Point, accuracy_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.text import Annotation

SUFFIXES = (".png", ".svg", ".pdf")
DPI = 160

# Okabe and Ito's colours: told apart with every kind of colour vision, and in grey.
FRONT, DOMINATED, UNRANKED = "#0072B2", "#8A8A8A", "#D55E00"


def pareto_picture(points: Sequence[Point], x: Metric, y: Metric, out: Path, title: str, note: str) -> None:
    """Draw levels and their front to a PNG, SVG or PDF; the file appears whole or not at all."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"can't draw a {out.suffix or 'file without suffix'}", f"use {', '.join(SUFFIXES)}")
    if not points:
        raise UsageError("no level has both figures: nothing to draw", "edgebench run measures levels")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.6), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.1, right=0.97, top=0.86, bottom=0.19)
    axes = figure.add_subplot()
    _draw_points(axes, points, x, y)
    _draw_front(axes, points, x, y)
    _dress(axes, points, x, y)
    figure.suptitle(title, x=0.1, y=0.97, ha="left", fontsize=13, fontweight="bold")
    figure.text(0.1, 0.025, note, ha="left", va="bottom", fontsize=7.5, color="#444444", wrap=True)
    figure.draw_without_rendering()  # settles the axes, so that labels can be placed in pixels
    _draw_labels(axes, points, x, y)
    write_picture(canvas, out)


def describe(points: Sequence[Point], x: Metric, y: Metric) -> str:
    """The picture's foot: device, questions, what the bars are, and what the figures can't tell."""
    row = points[0].row
    parts = [f"Device: {row.device_id}"]
    axis = accuracy_axis(x, y)
    asked = next((p.row for p in points if p.row.accuracy), None) if axis else None
    if axis and asked:
        n = asked.figures[axis.name].n
        parts.append(f"{asked.suite_id}, {asked.scorer} scorer, n = {n} questions")
    parts.append("bars: 95 % intervals")
    if n_flagged := sum(p.row.n_flagged for p in points):
        parts.append(f"{n_flagged} trials on a disturbed device")
    return "\n".join([" · ".join(parts), *(asked.notes if asked else ())])


def _draw_points(axes: Axes, points: Sequence[Point], x: Metric, y: Metric) -> None:
    for point in points:
        colour, face, marker = _style(point)
        axes.errorbar(
            *_at(point, x, y),
            xerr=_bars(point.x.value, point.x.ci_low, point.x.ci_high, x.scale),
            yerr=_bars(point.y.value, point.y.ci_low, point.y.ci_high, y.scale),
            fmt=marker,
            markersize=8,
            color=colour,
            markerfacecolor=face,
            ecolor=(colour, 0.45),  # paler than the frontier, which may run along a bar
            elinewidth=0.9,
            capsize=2.5,
            alpha=1.0 if point.on_front else 0.75,
            zorder=3 if point.on_front else 2,
        )


def _style(point: Point) -> tuple[str, str, str]:
    """(colour, filling, marker)."""
    if not point.ranked:
        return UNRANKED, "white", "D"
    return (FRONT, FRONT, "o") if point.on_front else (DOMINATED, "white", "o")


def _bars(value: float, low: float | None, high: float | None, scale: float) -> list[list[float]] | None:
    if low is None or high is None:
        return None
    return [[max(value - low, 0) / scale], [max(high - value, 0) / scale]]


def _draw_front(axes: Axes, points: Sequence[Point], x: Metric, y: Metric) -> None:
    """The best y that a budget of x buys: it changes at a point, and holds up to the next."""
    corners = _front(points, x, y)
    style = "steps-post" if x.better == "lower" else "steps-pre"
    xs, ys = [c[0] for c in corners], [c[1] for c in corners]
    axes.plot(xs, ys, drawstyle=style, color=FRONT, linewidth=1.3, alpha=0.7, zorder=1)


def _front(points: Iterable[Point], x: Metric, y: Metric) -> list[tuple[float, float]]:
    return sorted(_at(point, x, y) for point in points if point.on_front)


def _dress(axes: Axes, points: Sequence[Point], x: Metric, y: Metric) -> None:
    from matplotlib.lines import Line2D

    axes.set_xlabel(_with_direction(x, points[0]))
    axes.set_ylabel(_with_direction(y, points[0]))
    axes.margins(x=0.12, y=0.12)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = {
        "on the front": any(p.on_front for p in points),
        "beaten": any(p.ranked and not p.on_front for p in points),
        "not measured, not ranked": any(not p.ranked for p in points),
    }
    looks = ((FRONT, FRONT, "o"), (DOMINATED, "white", "o"), (UNRANKED, "white", "D"))
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            markerfacecolor=face,
            marker=marker,
            linestyle="none",
            markersize=7,
            label=name,
        )
        for (name, shown), (colour, face, marker) in zip(kinds.items(), looks, strict=True)
        if shown
    ]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.2,
    )


def _with_direction(metric: Metric, point: Point) -> str:
    title = metric.axis_title_of(point.row)
    # A vertical title is turned by 90°: there the arrow to the right points up.
    return f"{title}   better →" if metric.better == "higher" else f"← better   {title}"


def _draw_labels(axes: Axes, points: Sequence[Point], x: Metric, y: Metric) -> None:
    pixel = DPI / 72  # of a typographic point
    several_models = len({point.row.model for point in points}) > 1
    # The front's names first: they get the best places.
    ordered = sorted(points, key=lambda point: not point.on_front)
    texts = [_label(axes, point, x, y, several_models) for point in ordered]
    boxes = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent()
    anchors = [_pixels(axes, *_at(point, x, y)) for point in ordered]
    centres = place_labels(
        anchors,
        [(box.width + 3 * pixel, box.height + pixel) for box in boxes],
        solid=[stroke(axes, _at(point, x, y), _at(point, x, y), 5 * pixel) for point in points],
        soft=list(_lines(axes, points, x, y, pixel)),
        bounds=(frame.x0, frame.y0, frame.x1, frame.y1),
        unit=pixel,
    )
    for text, anchor, centre in zip(texts, anchors, centres, strict=True):
        text.set_position(((centre[0] - anchor[0]) / pixel, (centre[1] - anchor[1]) / pixel))


def _label(axes: Axes, point: Point, x: Metric, y: Metric, several_models: bool) -> Annotation:
    """A name on a white ground, tied to its point by a hair line; it is moved to its place later."""
    colour = "#222222" if point.on_front else "#666666"
    return axes.annotate(
        _name(point, several_models),
        _at(point, x, y),
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=8,
        color=colour,
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 5},
    )


def _name(point: Point, several_models: bool) -> str:
    row = point.row
    bits = row.figures.get("bits_per_weight")
    name = f"{row.model} {row.label}" if several_models else row.label
    return f"{name}, {bits.value:.1f} bpw" if bits else name


def _lines(axes: Axes, points: Sequence[Point], x: Metric, y: Metric, pixel: float) -> Iterator[Box]:
    """Error bars, and the steps of the front."""
    for point in points:
        at = _at(point, x, y)
        left, right = (_or(side, point.x.value) / x.scale for side in (point.x.ci_low, point.x.ci_high))
        low, high = (_or(side, point.y.value) / y.scale for side in (point.y.ci_low, point.y.ci_high))
        yield stroke(axes, (left, at[1]), (right, at[1]), pixel)
        yield stroke(axes, (at[0], low), (at[0], high), pixel)
    for before, after in pairwise(_front(points, x, y)):
        corner = (after[0], before[1]) if x.better == "lower" else (before[0], after[1])
        yield stroke(axes, before, corner, pixel)
        yield stroke(axes, corner, after, pixel)


def _at(point: Point, x: Metric, y: Metric) -> tuple[float, float]:
    return point.x.value / x.scale, point.y.value / y.scale


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def stroke(axes: Axes, start: tuple[float, float], end: tuple[float, float], half_width: float) -> Box:
    """The box in pixels around a line between two points of the data."""
    (x0, y0), (x1, y1) = _pixels(axes, *start), _pixels(axes, *end)
    return (
        min(x0, x1) - half_width,
        min(y0, y1) - half_width,
        max(x0, x1) + half_width,
        max(y0, y1) + half_width,
    )


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    at = axes.transData.transform((x, y))
    return float(at[0]), float(at[1])


def write_picture(canvas: FigureCanvasBase, out: Path) -> None:
    """Write a drawn figure to a file, which appears whole or not at all."""
    unfinished = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        canvas.figure.savefig(unfinished, dpi=DPI)
        unfinished.replace(out)
    except OSError as error:
        raise UsageError(f"can't write {out}: {error.strerror}", "name another file with --out") from error
    finally:
        unfinished.unlink(missing_ok=True)
