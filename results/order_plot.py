"""The picture of option order: a panel a level, so that a lean on one place is seen at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.core.errors import UsageError
from edgebench.core.stats import Estimate
from edgebench.results.order import LevelOrder, place_name
from edgebench.results.plots import DPI, SUFFIXES, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with every kind of colour vision; a leaning bar is darker in grey, too.
CHOSEN, LEANS, RIGHT, FAIR = "#C9CDD2", "#E69F00", "#0072B2", "#444444"
DASHES = (0, (4, 2))
MAX_COLUMNS = 4
PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 2.6, 2.35
HEAD_IN, FOOT_IN = 0.95, 0.55


def order_picture(levels: Sequence[LevelOrder], out: Path, title: str) -> None:
    """Draw, per level, how often each place is chosen and how well it is answered there.

    PNG, SVG or PDF; the file appears whole or not at all.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"can't draw a {out.suffix or 'file without suffix'}", f"use {', '.join(SUFFIXES)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = _columns(len(levels))
    n_rows = math.ceil(len(levels) / n_columns)
    n_places = max(len(level.chosen_at) for level in levels)
    width = max(n_columns * PANEL_WIDTH_IN * max(1.0, n_places / 6), 6.4)
    note = describe(levels)
    foot = FOOT_IN + 0.135 * (1 + note.count("\n"))
    height = n_rows * PANEL_HEIGHT_IN + HEAD_IN + foot
    figure = Figure(figsize=(width, height), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    left = 0.62 / width
    figure.subplots_adjust(
        left=left, right=1 - 0.15 / width, top=1 - HEAD_IN / height, bottom=foot / height,
        wspace=0.08, hspace=0.42,
    )  # fmt: skip
    axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    top = _top(levels)
    for panel, level in zip(axes, levels, strict=False):
        _draw(panel, level, top)
    for panel in axes[len(levels) :]:
        panel.set_visible(False)
    for panel in axes[max(0, len(levels) - n_columns) : len(levels)]:
        panel.tick_params(labelbottom=True)  # the last of each column, also where one below is left empty
        panel.set_xlabel("place of the option", fontsize=8)
    for panel in axes[::n_columns]:
        panel.set_ylabel("share of answers", fontsize=8)
    figure.suptitle(title, x=left, y=1 - 0.16 / height, ha="left", va="top", fontsize=13, fontweight="bold")
    _legend(figure, levels, (left, 1 - 0.42 / height))
    figure.text(left, 0.1 / height, note, fontsize=7.5, color="#444444", va="bottom")
    write_picture(canvas, out)


def describe(levels: Sequence[LevelOrder]) -> str:
    """The picture's foot: what was asked, what the bars are, what a suite has to say."""
    row, sizes = levels[0].row, sorted({level.n for level in levels})
    n = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    first = f"Device: {row.device_id} · {row.suite_id}, {row.scorer} scorer, n = {n} questions, all rotations"
    lines = [first, "error bars: 95 % intervals, clustered by question"]
    if any(len(set(level.fair_at)) > 1 for level in levels):
        lines.append("the last places: of the questions that have so many options only")
    notes = dict.fromkeys(note for level in levels for note in level.row.notes)
    if any(level.row.evidence != "measured" for level in levels):
        notes["some levels are not measured: synthetic"] = None
    return "\n".join([*lines, *notes])


def _columns(n_levels: int) -> int:
    """Rows of equal length where that is possible: 6 levels are 3 and 3."""
    n_rows = math.ceil(n_levels / MAX_COLUMNS)
    return math.ceil(n_levels / n_rows)


def _top(levels: Sequence[LevelOrder]) -> float:
    shown = [estimate for level in levels for estimate in level.chosen_at]
    shown += [estimate for level in levels if level.graded for estimate in level.graded.gold_at]
    return min(1.0, max(estimate.ci_high or estimate.value for estimate in shown) * 1.08)


def _draw(axes: Axes, level: LevelOrder, top: float) -> None:
    places = range(len(level.chosen_at))
    axes.bar(
        places,
        [share.value for share in level.chosen_at],
        width=0.72,
        color=[LEANS if place == level.leans_index else CHOSEN for place in places],
        yerr=_bars(level.chosen_at),
        error_kw={"ecolor": "#777777", "elinewidth": 0.9, "capsize": 2},
        zorder=1,
    )
    edges = [place - 0.5 for place in places] + [len(places) - 0.5]
    axes.stairs(level.fair_at, edges, baseline=None, color=FAIR, linewidth=0.9, linestyle=DASHES, zorder=2)
    if level.graded:
        axes.errorbar(
            places,
            [share.value for share in level.graded.gold_at],
            yerr=_bars(level.graded.gold_at),
            fmt="o",
            color=RIGHT,
            markersize=4.5,
            linewidth=1.1,
            elinewidth=1.1,
            capsize=2.5,
            zorder=3,
        )
    axes.set_title(_heading(level), fontsize=8.5, loc="left", linespacing=1.3)
    axes.set_xticks(list(places), [place_name(place) for place in places])
    axes.set_ylim(0, 1.03 * top)  # a point at the top is seen whole
    axes.tick_params(labelsize=8, length=2)
    axes.grid(visible=True, axis="y", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _heading(level: LevelOrder) -> str:
    if level.graded is None:
        return f"{level.row.label}\nsame option in every order {level.consistent.value:.2f}"
    mean, every = level.graded.accuracy.value, level.graded.circular.value
    return f"{level.row.label}\nacc {mean:.2f} · right in every order {every:.2f}"


def _bars(shares: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the error bars, below and above; none where the sample can't carry an interval."""
    below = [
        max(0.0, share.value - (share.value if share.ci_low is None else share.ci_low)) for share in shares
    ]
    above = [
        max(0.0, (share.value if share.ci_high is None else share.ci_high) - share.value) for share in shares
    ]
    return [below, above]


def _legend(figure: Figure, levels: Sequence[LevelOrder], at: tuple[float, float]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [
        Patch(color=CHOSEN, label="chose this place"),
        Line2D([], [], color=FAIR, linewidth=0.9, linestyle=DASHES, label="were all places liked alike"),
    ]
    if any(level.leans_index is not None for level in levels):
        handles.insert(1, Patch(color=LEANS, label="leans on this place"))
    if any(level.graded for level in levels):
        label = "right, where the right option stood here"
        handles.append(Line2D([], [], color=RIGHT, marker="o", markersize=4.5, linewidth=0, label=label))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=at,
        ncols=2 if len(levels) < 3 else len(handles),
        frameon=False,
        fontsize=7.5,
        borderaxespad=0,
        borderpad=0.1,
        handlelength=1.6,
        columnspacing=1.2,
    )
