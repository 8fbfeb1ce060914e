"""Predictions against measurements: each model predicted from what the other one did here.

    python benchmarks/fit.py [--threads N] [--rounds N]

Makes levels of two models, measures pp512, tg128 and peak memory of each in fresh processes, three rounds,
with an anchor level measured anew before every visit: speeds are taken relative to the anchor's, so
that a host that changes its mind moves neither side. Then every level of a model is predicted from the
other model's levels alone, as `edgebench devices fit` would. Prints a table; exits 1 when a peak is off by
more than 5 % or a speed by more than 20 %. One core is left to the rest of the computer. Some fifteen
minutes; run it on a quiet machine.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from edgebench.core.prediction import Prediction
from edgebench.core.roofline import ModelShape
from edgebench.core.types import Settings, Workload
from edgebench.devices.limits import Limits
from edgebench.devices.local import default_threads
from edgebench.session_child import Child
from edgebench.session_fit import Fit, Measured, predict
from edgebench.session_limits import limits_of, model_shape
from edgebench.session_models import make_level, resolve

MODELS = ("smollm2-135m", "gemma3-270m")
LEVELS = ("q8_0", "q5_0", "q4_0", "q2_k")
ANCHOR = ("smollm2-135m", "q4_0")
N_ROUNDS = 3
N_REPETITIONS = 3
MEMORY_LIMIT, SPEED_LIMIT = 0.05, 0.20
PP, TG = Workload(n_prompt=512), Workload(n_gen=128)


@dataclass(slots=True, kw_only=True)
class Level:
    """One file and what was measured of it."""

    model: str
    level: str
    path: Path
    shape: ModelShape
    rates: dict[str, list[float]] = field(default_factory=lambda: {PP.name: [], TG.name: []})
    """Tokens/s of each visit, the anchor's drift taken out."""
    peaks: dict[str, list[int]] = field(default_factory=lambda: {PP.name: [], TG.name: []})
    """Bytes, highest since the test before, of measured repetitions."""
    highest: list[int] = field(default_factory=list)
    """Bytes, highest of a process up to the end of its pp512, loading included."""
    baselines: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Visit:
    """What one process did."""

    rates: dict[str, float]
    peaks: dict[str, int]
    highest_bytes: int
    baseline_bytes: int


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def visit(path: Path, settings: Settings, seed: int, n_repetitions: int) -> Visit:
    """A fresh process: medians of its repetitions, and its memory."""
    job = {
        "kind": "performance",
        "runner": "llama_cpp",
        "path": str(path),
        "settings": asdict(settings),
        "workloads": [
            {"workload": asdict(test), "repetitions": list(range(n_repetitions)), "seed": seed}
            for test in (PP, TG)
        ],
    }
    rates: dict[str, list[float]] = {PP.name: [], TG.name: []}
    peaks = {PP.name: 0, TG.name: 0}
    highest = baseline = 0
    with Child(job) as child:
        for message in child.messages():
            memory = message.get("memory")
            peak = memory.peak_rss_bytes if memory else 0
            if message["type"] == "loaded":
                baseline, highest = message["baseline_rss_bytes"], peak
            if message["type"] != "trial":
                continue
            test = message["test"]
            if test == PP.name:
                highest = max(highest, peak)
            if message["phase"] == "measured":
                rates[test].append((message["n_prompt"] + message["n_gen"]) / message["total_s"])
                peaks[test] = max(peaks[test], peak)
    medians = {test: median(values) for test, values in rates.items()}
    return Visit(rates=medians, peaks=peaks, highest_bytes=highest, baseline_bytes=baseline)


def measure(levels: Sequence[Level], settings: Settings, n_rounds: int) -> None:
    """Every level once a round, forwards and backwards in turn, the anchor before each."""
    anchor = next(level for level in levels if (level.model, level.level) == ANCHOR)
    visits: list[tuple[Level, Visit, Visit]] = []
    for i in range(n_rounds):
        for level in levels if i % 2 == 0 else reversed(levels):
            before = visit(anchor.path, settings, i, 2)
            visits.append((level, before, visit(level.path, settings, i, N_REPETITIONS)))
            say(f"round {i + 1}/{n_rounds} {level.model} {level.level}: {_shown(visits[-1][2])}")
    for test in (PP.name, TG.name):
        anchors = [before.rates[test] for _, before, _ in visits]
        for i, (level, _, found) in enumerate(visits):
            # Of the anchor's visits around this one, the middle: it follows the host's drift, not its bursts.
            near = median(anchors[max(0, i - 1) : i + 2])
            level.rates[test].append(found.rates[test] * median(anchors) / near)
            level.peaks[test].append(found.peaks[test])
    for level, _, found in visits:
        level.highest.append(found.highest_bytes)
        level.baselines.append(found.baseline_bytes)


def stored(level: Level, settings: Settings) -> list[Measured]:
    """A level's tests as a database would hold them."""
    return [
        Measured(
            sha256=str(level.path),
            model=level.model,
            shape=level.shape,
            settings=settings,
            workload=test,
            tokens_per_s=median(level.rates[test.name]),
            peak_rss_bytes=round(median(level.peaks[test.name])),
            baseline_rss_bytes=round(median(level.baselines)),
        )
        for test in (PP, TG)
    ]


def rows(levels: Sequence[Level], settings: Settings, limits: Limits) -> list[tuple[Level, Fit, Fit]]:
    """Each level with its predictions for pp512 and tg128 from the other models' levels."""
    found = []
    for level in levels:
        others = [m for other in levels if other.model != level.model for m in stored(other, settings)]
        pp = predict(level.shape, others, settings=settings, limits=limits, n_prompt=PP.n_prompt, n_gen=0)
        tg = predict(level.shape, others, settings=settings, limits=limits, n_prompt=0, n_gen=TG.n_gen)
        found.append((level, pp, tg))
    return found


def table(found: Sequence[tuple[Level, Fit, Fit]]) -> tuple[list[str], bool]:
    """The markdown lines, and whether everything lies within its limit."""
    figures = "predicted [95 %], measured, error"
    columns = ("model", "level", "peak MiB: predicted, measured, error", f"pp512 t/s: {figures}")
    lines = [_row(*columns, f"tg128 t/s: {figures}"), _row(*["---"] * 5)]
    ok, n_inside, n_speeds = True, 0, 0
    for level, pp, tg in found:
        peak = median(level.highest)
        assert pp.peak.value is not None
        error = pp.peak.value / peak - 1
        ok &= abs(error) <= MEMORY_LIMIT
        cells = [level.model, level.level, f"{pp.peak.value / 2**20:.0f}, {peak / 2**20:.0f}, {error:+.1%}"]
        for test, prediction in ((PP.name, pp.prefill), (TG.name, tg.decode)):
            measured = median(level.rates[test])
            cell, fits, inside = compared(prediction, measured)
            cells.append(cell)
            ok &= fits
            n_inside, n_speeds = n_inside + inside, n_speeds + 1
        lines.append(_row(*cells))
    lines.append("")
    lines.append(f"{n_inside} of {n_speeds} measured speeds lie in their 95 % interval.")
    return lines, ok


def compared(prediction: Prediction, measured: float) -> tuple[str, bool, bool]:
    """(cell, within the limit, within the interval) of one speed."""
    assert prediction.value is not None
    assert prediction.ci_low is not None
    assert prediction.ci_high is not None
    error = prediction.value / measured - 1
    interval = f"[{prediction.ci_low:.0f}, {prediction.ci_high:.0f}]"
    cell = f"{prediction.value:.0f} {interval}, {measured:.0f}, {error:+.1%}"
    return cell, abs(error) <= SPEED_LIMIT, prediction.ci_low <= measured <= prediction.ci_high


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(found: Visit) -> str:
    speeds = ", ".join(f"{test} {rate:.0f} t/s" for test, rate in found.rates.items())
    return f"{speeds}, {found.highest_bytes / 2**20:.0f} MiB"


def main() -> int:
    """Measure, predict, print; tell by the exit code."""
    parser = argparse.ArgumentParser(description="Predictions against measurements.")
    parser.add_argument("--threads", type=int, default=max(default_threads() - 1, 1))
    parser.add_argument("--rounds", type=int, default=N_ROUNDS)
    options = parser.parse_args()
    settings = Settings(n_threads=options.threads)
    levels = []
    for model in MODELS:
        parent = resolve(model, say)
        for name in LEVELS:
            path = make_level(parent, name, n_threads=settings.n_threads, progress=lambda *_: None).path
            levels.append(Level(model=model, level=name, path=path, shape=model_shape(path)))
    limits = limits_of(settings.n_threads, say)
    measure(levels, settings, options.rounds)
    lines, ok = table(rows(levels, settings, limits))
    print("\n".join(lines))
    limit = f"peak {MEMORY_LIMIT:.0%}, speeds {SPEED_LIMIT:.0%}"
    print(f"{len(levels)} files, {options.rounds} rounds, limits {limit}: {'within' if ok else 'OUTSIDE'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
