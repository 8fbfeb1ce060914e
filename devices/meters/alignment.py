"""Laying an external meter's log over a run: three square load pulses, found again by correlation.

The pulses' edges are known on our clock (`time.perf_counter`); where the log's power goes along best
with them gives the offset between the clocks. Pulses of different lengths, no multiples of the meter's
update, tell more than regular ones: then the edges fall into different phases of the meter's period,
and the error of not knowing when within it the meter looked averages out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebench.core.energy import Absence, MeterError, Sample
from edgebench.devices.meters.external import update_s

MIN_CORRELATION = 0.8
MAX_SECOND = 0.85
"""Another place of the log may go along with the pulses at most so well, against the best place."""
MIN_SAMPLES_A_PULSE = 2.0
"""Updates of the meter in the shortest pulse or pause: with fewer, it may miss one."""
MAX_U_SHARE = 0.005
"""Of a window: a log whose offset is known worse can't be cut to it."""
_POINTS_AN_UPDATE = 8
_POINTS_A_MARKER = 4000
_MAX_POINTS = 2_000_000
_UPDATES_AN_EDGE = 4.0
"""To each side of an edge, where its place is looked for: farther away there is only noise."""
_HINT = "log through three load pulses of at least two updates of the meter, and nothing like them beside"

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where a log lies on our clock: our stamp = the log's stamp + offset_s."""

    offset_s: float
    u_offset_s: float
    """Standard uncertainty: spread of the edges, and the phase of the meter's looking."""
    correlation: float
    """Of the log's power with the pulses, at the best place."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """A log between its samples, at equal distances."""

    start_s: float
    step_s: float
    watts: _Array


def align(samples: Sequence[Sample], marker: Sequence[tuple[float, float]]) -> Alignment:
    """The offset that lays `samples` (W, the log's clock) over our clock's load pulses.

    `marker` holds (start_s, end_s) of each pulse, in order. MeterError `not_aligned` when the log is too
    short or too slow for the pulses, shows none, or shows several places like them.
    """
    edges = np.array(marker, dtype=float).ravel()
    if len(marker) < 2 or not (np.diff(edges) > 0).all():
        raise MeterError(Absence.NOT_ALIGNED, "a marker needs two or more pulses in their order", _HINT)
    log = tuple(samples)
    if len(log) < 2:
        raise _not_aligned("the log has fewer than two samples")
    shortest, update = float(np.diff(edges).min()), update_s(log)
    if shortest < MIN_SAMPLES_A_PULSE * update:
        raise _not_aligned(f"a pulse of {shortest:.3g} s is too short for a meter of {update:.3g} s")
    grid = _grid(log, edges, update)
    pattern = _pattern(edges, shortest / 2, grid.step_s)
    along = _correlation(grid.watts, pattern)
    best = int(np.argmax(along))
    _check_unique(along, best, round(shortest / 2 / grid.step_s))
    place_s = grid.start_s + (best + _between(along, best)) * grid.step_s
    offset_s = float(edges[0] - shortest / 2 - place_s)
    u_s = _uncertainty_s(log, edges - offset_s, shortest / 2, max(update, grid.step_s))
    return Alignment(offset_s=offset_s, u_offset_s=u_s, correlation=float(along[best]))


def apply(samples: Sequence[Sample], alignment: Alignment) -> list[Sample]:
    """The samples with our clock's stamps."""
    return [Sample(sample.t_s + alignment.offset_s, sample.value) for sample in samples]


def is_good_for(alignment: Alignment, window_s: float) -> bool:
    """Whether the offset is known well enough for a window: u at most 0.5 % of it."""
    return alignment.u_offset_s <= MAX_U_SHARE * window_s


def _not_aligned(why: str) -> MeterError:
    return MeterError(Absence.NOT_ALIGNED, why, _HINT)


def _grid(log: tuple[Sample, ...], edges: _Array, update: float) -> _Grid:
    """The log at equal distances, fine against its update and the pulses, of bounded length."""
    stamps = np.array([sample.t_s for sample in log])
    span = float(stamps[-1] - stamps[0])
    marker_s = float(edges[-1] - edges[0])
    step = max(update / _POINTS_AN_UPDATE, marker_s / _POINTS_A_MARKER, span / _MAX_POINTS)
    if step > float(np.diff(edges).min()) / MIN_SAMPLES_A_PULSE:
        raise _not_aligned(f"a log of {span:.3g} s is too long to look for the pulses in: cut it")
    points = stamps[0] + step * np.arange(int(span / step) + 1)
    watts = np.interp(points, stamps, np.array([sample.value for sample in log]))
    return _Grid(float(stamps[0]), step, watts)


def _pattern(edges: _Array, pad_s: float, step_s: float) -> _Array:
    """1 in a pulse and 0 outside, from `pad_s` before the first edge to `pad_s` after the last."""
    start = edges[0] - pad_s
    points = start + step_s * np.arange(int((edges[-1] + pad_s - start) / step_s) + 1)
    inside: _Array = (np.searchsorted(edges, points, side="right") % 2).astype(float)
    return inside


def _correlation(watts: _Array, pattern: _Array) -> _Array:
    """Pearson's r of the pattern with the log at every place where it lies within; 0 where nothing moves."""
    n, k = len(watts), len(pattern)
    if n < k:
        raise _not_aligned("the log is shorter than the marker")
    watts = watts - watts.mean()  # so that the sums of squares below cancel little
    shape = pattern - pattern.mean()
    size = 1 << (n + k - 1).bit_length()
    product = np.fft.rfft(watts, size) * np.conj(np.fft.rfft(shape, size))
    covariance = np.fft.irfft(product, size)[: n - k + 1]
    sums, squares = (np.concatenate(([0.0], np.cumsum(values))) for values in (watts, watts * watts))
    spread = (squares[k:] - squares[:-k]) - (sums[k:] - sums[:-k]) ** 2 / k
    scale = np.sqrt(np.maximum(spread, 0.0) * float(shape @ shape))
    moving = scale > 1e-9 * max(float(scale.max()), 1e-12)
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=moving)


def _check_unique(along: _Array, best: int, half_pulse: int) -> None:
    """MeterError unless one place stands out: places within half a pulse are the same one."""
    if along[best] < MIN_CORRELATION:
        raise _not_aligned(f"the log does not show the pulses: correlation {along[best]:.2f}")
    others = np.concatenate((along[: max(0, best - half_pulse)], along[best + half_pulse + 1 :]))
    if len(others) and others.max() > MAX_SECOND * along[best]:
        raise _not_aligned(
            f"the log shows the pulses in more than one place: {along[best]:.2f} and {others.max():.2f}"
        )


def _between(along: _Array, best: int) -> float:
    """The top of the parabola through the best place and its neighbours, in steps from it."""
    if not 0 < best < len(along) - 1:
        return 0.0
    left, top, right = along[best - 1 : best + 2]
    curvature = left - 2 * top + right
    return float(0.5 * (left - right) / curvature) if curvature < 0 else 0.0


def _uncertainty_s(log: tuple[Sample, ...], edges: _Array, reach_s: float, update: float) -> float:
    """Standard uncertainty of the offset, from the edges' own places in the log.

    Each edge is placed by the area under the power around it. Their spread over the root of their
    number is what noise and soft edges leave. When within its period the meter looks is not known:
    update / sqrt(12) for an edge, which averages over edges only as far as their phases differ.
    """
    stamps = np.array([sample.t_s for sample in log])
    watts = np.array([sample.value for sample in log])
    near_s = min(reach_s, _UPDATES_AN_EDGE * update)
    late = [
        _late_s(stamps, watts, edge, (near_s, reach_s), rising=i % 2 == 0) for i, edge in enumerate(edges)
    ]
    n = len(edges)
    spread = float(np.std(late, ddof=1)) / math.sqrt(n)
    phases = np.exp(2j * math.pi * (edges - stamps[0]) / update)
    coherence = float(abs(phases.mean())) ** 2
    looking = update / math.sqrt(12) * math.sqrt(max(1 / n, coherence))
    return math.hypot(spread, looking)


def _late_s(
    stamps: _Array, watts: _Array, edge: float, reaches_s: tuple[float, float], *, rising: bool
) -> float:
    """How much after `edge` the log's power changes, by the area within the near one of two reaches.

    The levels before and after are those between half of the far reach and its end.
    """
    near_s, far_s = reaches_s
    away = np.linspace(far_s / 2, far_s, 65)
    before = float(np.interp(edge - away, stamps, watts).mean())
    after = float(np.interp(edge + away, stamps, watts).mean())
    if after == before or (after > before) is not rising:
        return near_s  # nothing of the kind here
    power = np.interp(edge + np.linspace(-near_s, near_s, 129), stamps, watts)
    share_after = float(((power - before) / (after - before)).mean())
    return near_s * (1 - 2 * share_after)
