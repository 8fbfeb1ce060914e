"""The picture of a sustained run: tokens/s, watts and °C one above the other, over the same time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.core.errors import UsageError
from edgebench.core.stats import Estimate
from edgebench.core.sustained import BIN_S, FALL_SHARE, N_BURST, N_SUSTAINED
from edgebench.core.units import share, significant
from edgebench.results.plots import DPI, SUFFIXES, write_picture
from edgebench.results.sustained import Bin, SustainedReport, flag_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with every kind of colour vision; dashes differ, too.
RATE, BURST, LASTS, POWER, HEAT, QUIET = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#666666"
DASHES, DOTS = (0, (4, 2)), (0, (1, 1.5))
WIDTH_IN, TOP_PANEL_IN, PANEL_IN, GAP_IN = 8.0, 2.5, 1.25, 0.42
HEAD_IN, FOOT_IN, LINE_IN = 1.0, 0.62, 0.14
TICKS_S = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
MAX_TICKS = 11
NOTE_CHARS = 126
"""So many of the foot's fit into a line."""
TITLE_CHARS, TITLE_PT = 50, 13.0
"""So many of the title's do at its usual size; a longer one is smaller."""
MANY_BINS = 120
"""More bins than this are a line without points."""


def sustained_picture(report: SustainedReport, out: Path) -> None:
    """Draw a run's sustained test: PNG, SVG or PDF; the file appears whole or not at all."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"can't draw a {out.suffix or 'file without suffix'}", f"use {', '.join(SUFFIXES)}")
    if not report.bins:
        raise UsageError(
            f"{report.test} is shorter than a bin of 10 s: nothing to draw", "measure for longer"
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    power = any(each.power_w is not None for each in report.bins)
    heat = any(each.temperature_c is not None for each in report.bins)
    panels_in = [TOP_PANEL_IN, *[PANEL_IN] * (power + heat)]
    note = describe(report)
    foot_in = FOOT_IN + LINE_IN * (1 + note.count("\n"))
    height_in = HEAD_IN + sum(panels_in) + GAP_IN * (len(panels_in) - 1) + foot_in
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    left = 0.72 / WIDTH_IN
    figure.subplots_adjust(
        left=left,
        right=1 - 0.32 / WIDTH_IN,
        top=1 - HEAD_IN / height_in,
        bottom=foot_in / height_in,
        hspace=GAP_IN * len(panels_in) / sum(panels_in),
    )
    axes = figure.subplots(
        len(panels_in), sharex=True, squeeze=False, gridspec_kw={"height_ratios": panels_in}
    )
    panels = axes.ravel().tolist()
    _draw_rate(panels[0], report)
    if power:
        _draw_power(panels[1], report)
    if heat:
        _draw_heat(panels[-1], report)
    _dress(panels, report.bins[-1].end_s)
    title = _title(report)
    size_pt = TITLE_PT * min(1.0, TITLE_CHARS / len(title))
    at = {"x": left, "y": 1 - 0.16 / height_in, "ha": "left", "va": "top"}
    figure.suptitle(title, fontsize=size_pt, fontweight="bold", **at)
    _legend(figure, report, (left, 1 - 0.46 / height_in))
    figure.text(left, 0.1 / height_in, note, fontsize=7.5, color="#444444", va="bottom")
    write_picture(canvas, out)


def describe(report: SustainedReport) -> str:
    """The picture's foot: what was measured, what the lines are, what is missing and why, what disturbed."""
    found = report.figures
    engine = f"{report.run.runner} {report.run.runner_version}"
    tokens = f"{report.test}: {report.n_tokens} tokens in {clock(report.duration_s)} min"
    lines = [f"{tokens} · {engine} · points: bins of {BIN_S:g} s"]
    lines += [retained_told(found.retained_share)] if found.retained_share else []
    absent = [
        f"{what}: not measured ({why})"
        for what, why in (
            ("power", None if found.sustained_w is not None else report.power_reason),
            ("temperature", found.reasons.get("temperature_max_c")),
        )
        if why
    ]
    lines += [" · ".join(absent)] if absent else []
    if report.power_reason and found.sustained_w is not None:
        lines.append(
            f"power of {report.energy_source}: {significant(found.sustained_w)} W in the last 60 s"
            f" ({significant(found.sustained_j_per_token)} J/token); its meter is too slow for bins"
        )
    lines += [f"flags: {'; '.join(map(flag_words, report.flags))}"] if report.flags else []
    kinds = {"speed": report.run.evidence, "power": report.energy_evidence}
    told = [f"{what} is {kind}" for what, kind in kinds.items() if kind not in (None, "measured")]
    lines += [f"not measured: {', '.join(told)}"] if told else []
    return "\n".join(textwrap.fill(line, NOTE_CHARS, subsequent_indent="   ") for line in lines)


def retained_told(retained: Estimate) -> str:
    """`retained: 0.620 of the burst's rate, 95 % interval [0.600, 0.650] (noise within this run)`."""
    bounds = f"[{share(retained.ci_low)}, {share(retained.ci_high)}]"
    return (
        f"retained: {share(retained.value)} of the burst's rate,"
        f" 95 % interval {bounds} (noise within this run)"
    )


def clock(value_s: float) -> str:
    """Seconds as minutes and seconds: `2:05`."""
    minutes, seconds = divmod(round(value_s), 60)
    return f"{minutes}:{seconds:02}"


def _title(report: SustainedReport) -> str:
    n = report.n_threads
    threads = f", {n} thread{'s' if n > 1 else ''}" if n else ""
    return f"{report.run.model} {report.run.label} on {report.run.device_id}{threads}"


def _draw_rate(axes: Axes, report: SustainedReport) -> None:
    cut, found = report.bins, report.figures
    _line(axes, cut, [each.tokens_per_s for each in cut], RATE)
    if found.burst_tokens_per_s:
        burst = found.burst_tokens_per_s.value
        axes.hlines(burst, 0, cut[N_BURST - 1].end_s, BURST, linewidth=4, zorder=1.5)
        axes.axhline(FALL_SHARE * burst, color=QUIET, linewidth=0.9, linestyle=DASHES, zorder=1)
    if found.sustained_tokens_per_s:
        lasts = found.sustained_tokens_per_s.value
        axes.hlines(lasts, cut[-N_SUSTAINED].start_s, cut[-1].end_s, LASTS, linewidth=4, zorder=1.5)
    if found.time_to_90_s is not None:
        axes.axvline(found.time_to_90_s, color=QUIET, linewidth=1.1, linestyle=DOTS, zorder=1)
    axes.set_ylim(0, 1.12 * max(each.tokens_per_s for each in cut) or 1)
    axes.set_ylabel("tokens/s", fontsize=8)


def _draw_power(axes: Axes, report: SustainedReport) -> None:
    cut, found = report.bins, report.figures
    watts = [math.nan if each.power_w is None else each.power_w for each in cut]
    _line(axes, cut, watts, POWER)
    if found.burst_w is not None:
        axes.hlines(found.burst_w, 0, cut[N_BURST - 1].end_s, BURST, linewidth=3.5, zorder=1.5)
    if found.sustained_w is not None:
        axes.hlines(
            found.sustained_w, cut[-N_SUSTAINED].start_s, cut[-1].end_s, LASTS, linewidth=3.5, zorder=1.5
        )
    axes.set_ylim(0, 1.15 * max(watt for watt in watts if not math.isnan(watt)) or 1)
    axes.set_ylabel("W", fontsize=8)
    of = f"power of {report.energy_source}" + (f" ({report.energy_scope})" if report.energy_scope else "")
    costs = [
        f"{part} {significant(joules)}"
        for part, joules in (("burst", found.burst_j_per_token), ("sustained", found.sustained_j_per_token))
        if joules is not None
    ]
    axes.set_title(f"{of} · J/token: {', '.join(costs)}" if costs else of, fontsize=8.5, loc="left")


def _draw_heat(axes: Axes, report: SustainedReport) -> None:
    warmth = [math.nan if each.temperature_c is None else each.temperature_c for each in report.bins]
    _line(axes, report.bins, warmth, HEAT)
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max(high - low, 4.0) / 2  # a degree of noise is no mountain
    axes.set_ylim(middle - half, middle + half)
    axes.set_ylabel("°C", fontsize=8)
    hottest = report.figures.temperature_max_c
    told = "" if hottest is None else f" · at most {hottest:.1f} °C"
    axes.set_title(f"temperature{told}", fontsize=8.5, loc="left")


def _line(axes: Axes, cut: Sequence[Bin], values: Sequence[float], colour: str) -> None:
    middles = [(each.start_s + each.end_s) / 2 for each in cut]
    marker = "" if len(cut) > MANY_BINS else "o"
    axes.plot(middles, values, color=colour, linewidth=1.2, marker=marker, markersize=3, zorder=2)


def _dress(panels: Sequence[Axes], end_s: float) -> None:
    step_s = next((step for step in TICKS_S if end_s / step < MAX_TICKS), TICKS_S[-1])
    ticks = [i * step_s for i in range(math.floor(end_s / step_s) + 1)]
    for axes in panels:
        axes.tick_params(labelsize=8, length=2)
        axes.grid(visible=True, color="#E6E6E6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlim(0, end_s)
    panels[-1].set_xticks(ticks, [clock(tick) for tick in ticks])
    panels[-1].set_xlabel("time since the start, min:s", fontsize=8)


def _legend(figure: Figure, report: SustainedReport, at: tuple[float, float]) -> None:
    from matplotlib.lines import Line2D

    found = report.figures
    handles = [Line2D([], [], color=RATE, marker="o", markersize=3, linewidth=1.2, label="tokens/s")]
    if burst := found.burst_tokens_per_s:
        label = f"burst, first 30 s: {significant(burst.value)} tokens/s"
        handles.append(Line2D([], [], color=BURST, linewidth=4, solid_capstyle="butt", label=label))
    if lasts := found.sustained_tokens_per_s:
        label = f"sustained, last 60 s: {significant(lasts.value)} tokens/s"
        handles.append(Line2D([], [], color=LASTS, linewidth=4, solid_capstyle="butt", label=label))
    if burst:
        handles.append(
            Line2D([], [], color=QUIET, linewidth=0.9, linestyle=DASHES, label="90 % of the burst")
        )
    if (fell_s := found.time_to_90_s) is not None:
        label = f"below 90 % from {clock(fell_s)}"
        handles.append(Line2D([], [], color=QUIET, linewidth=1.1, linestyle=DOTS, label=label))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=at,
        ncols=3,
        frameon=False,
        fontsize=7.5,
        borderaxespad=0,
        borderpad=0.1,
        handlelength=1.8,
        columnspacing=1.2,
    )
