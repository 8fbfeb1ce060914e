"""The picture of a ladder: what a file takes, against what it lost. matplotlib is imported only to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.core.errors import UsageError
from edgebench.core.types import Evidence, Format
from edgebench.results.damage import Damage, Verdict
from edgebench.results.labels import Box, place_labels
from edgebench.results.plots import DPI, SUFFIXES, stroke, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

MIB = 1024 * 1024
LEAST_NATS = 1e-7
"""Where the axis ends: below, the reference's own rounding to single precision is seen."""

# Okabe and Ito's colours, and a shape each: told apart with every kind of colour vision, and in grey.
LOOKS = {
    Format.GGUF: ("GGUF", "#0072B2", "o"),
    Format.ONNX: ("ONNX", "#D55E00", "s"),
    Format.SAFETENSORS: ("checkpoint in torch", "#009E73", "D"),
    Format.SYNTHETIC: ("synthetic", "#CC79A7", "v"),
}


def damage_picture(found: Sequence[Damage], out: Path, title: str, note: str = "") -> None:
    """Draw file size against mean KL divergence to a PNG, SVG or PDF; it appears whole or not at all.

    The reference itself and what has no figures are left out; UsageError when nothing is left.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"can't draw a {out.suffix or 'file without suffix'}", f"use {', '.join(SUFFIXES)}")
    shown = [damage for damage in found if damage.kld_mean is not None and not damage.is_reference]
    if not shown:
        raise UsageError("no checked file has figures: nothing to draw", "edgebench quantize checks files")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.6), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.1, right=0.97, top=0.86, bottom=0.19)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)  # levels crowd at the small end
    axes.set_yscale("log")
    for damage in shown:
        _draw(axes, damage)
    _dress(axes, shown)
    figure.suptitle(title, x=0.1, y=0.97, ha="left", fontsize=13, fontweight="bold")
    figure.text(0.1, 0.025, note or describe(shown), fontsize=7.5, color="#444444", va="bottom", wrap=True)
    figure.draw_without_rendering()  # settles the axes, so that labels can be placed in pixels
    _draw_labels(axes, shown)
    write_picture(canvas, out)


def describe(shown: Sequence[Damage]) -> str:
    """The picture's foot: what was compared, and what the marks mean."""
    parts = ["KL(reference || file), mean over predicted tokens of held-out text", "bars: 95 % intervals"]
    if origin := _common_origin(shown):
        parts.append(f"all levels made {origin.strip(' ()')}")
    if any(_is_hollow(damage) for damage in shown):
        parts.append("hollow: degraded, broken, or not in parity")
    if any(damage.evidence is not Evidence.MEASURED for damage in shown):
        parts.append("not measured: synthetic")
    return " · ".join(parts)


def _common_origin(shown: Sequence[Damage]) -> str:
    """` (from q4_1)` where every label ends so: it is said once, below; else nothing."""
    origins = {damage.label.removeprefix(damage.quant) for damage in shown}
    return origins.pop() if len(origins) == 1 else ""


def _at(damage: Damage) -> tuple[float, float]:
    value = damage.kld_mean.value if damage.kld_mean else LEAST_NATS
    return damage.size_bytes / MIB, max(value, LEAST_NATS)


def _bar(damage: Damage) -> tuple[float, float]:
    """The interval's ends, on the axis."""
    y, kld = _at(damage)[1], damage.kld_mean
    if kld is None or kld.ci_low is None or kld.ci_high is None:
        return y, y
    return min(max(kld.ci_low, LEAST_NATS), y), max(kld.ci_high, y)


def _is_hollow(damage: Damage) -> bool:
    return damage.verdict in (Verdict.DEGRADED, Verdict.BROKEN, Verdict.PARITY_FAILED)


def _draw(axes: Axes, damage: Damage) -> None:
    (x, y), (low, high), (_, colour, marker) = _at(damage), _bar(damage), LOOKS[damage.format]
    axes.errorbar(
        x,
        y,
        yerr=[[y - low], [high - y]],
        fmt=marker,
        markersize=7,
        color=colour,
        markerfacecolor="white" if _is_hollow(damage) else colour,
        ecolor=(colour, 0.5),
        elinewidth=0.9,
        capsize=2.5,
        zorder=3,
    )


def _dress(axes: Axes, shown: Sequence[Damage]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("← better   file size, MiB")
    axes.set_ylabel("← better   mean KL divergence, nats")
    axes.margins(x=0.12, y=0.12)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    present = {damage.format for damage in shown}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=name)
        for kind, (name, colour, marker) in LOOKS.items()
        if kind in present
    ]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.2,
    )


def _draw_labels(axes: Axes, shown: Sequence[Damage]) -> None:
    pixel = DPI / 72  # of a typographic point
    several, origin = len({damage.model for damage in shown}) > 1, _common_origin(shown)
    names = [damage.label.removesuffix(origin) for damage in shown]
    texts = [
        _label(axes, damage, f"{damage.model} {name}" if several else name)
        for damage, name in zip(shown, names, strict=True)
    ]
    boxes = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent()
    anchors = [axes.transData.transform(_at(damage)) for damage in shown]
    bars: list[Box] = []
    for damage in shown:
        x, (low, high) = _at(damage)[0], _bar(damage)
        bars.append(stroke(axes, (x, low), (x, high), pixel))
    centres = place_labels(
        [(float(x), float(y)) for x, y in anchors],
        [(box.width + 3 * pixel, box.height + pixel) for box in boxes],
        solid=[stroke(axes, _at(damage), _at(damage), 5 * pixel) for damage in shown],
        soft=bars,
        bounds=(frame.x0, frame.y0, frame.x1, frame.y1),
        unit=pixel,
    )
    for text, anchor, centre in zip(texts, anchors, centres, strict=True):
        text.set_position(((centre[0] - anchor[0]) / pixel, (centre[1] - anchor[1]) / pixel))


def _label(axes: Axes, damage: Damage, name: str) -> Annotation:
    """A name on a white ground, tied to its point by a hair line; it is moved to its place later."""
    kld = damage.kld_mean
    if kld is not None and kld.value < LEAST_NATS:
        name += f" (≤ {LEAST_NATS:.0e})"
    return axes.annotate(
        name,
        _at(damage),
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=8,
        color="#222222",
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        arrowprops={"arrowstyle": "-", "color": "#666666", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 5},
    )
