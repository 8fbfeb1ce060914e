"""Will it fit, and how fast: predictions for a GGUF file from its head and what this device did before.

Memory is counted: mapped weights, the copies that llama.cpp rearranges for the processor, cache, buffers,
vocabulary, and the process before it loads anything (the baseline, apart). Speeds are fitted to stored
measurements of other files on this device; with none, they are a usual share of its limits.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgebench.core.cpu import cpu_flags
from edgebench.core.prediction import Prediction, Prior, Work, absent, fit_costs, quotient, rate
from edgebench.core.roofline import (
    ModelShape,
    bytes_per_decode_token,
    flops_per_prompt_token,
)
from edgebench.core.types import Settings, Workload
from edgebench.devices.limits import Limits
from edgebench.session_footprint import BASELINE_BYTES, ENGINE_BYTES, MemoryParts, memory_parts
from edgebench.session_limits import Say, limits_of, model_shape
from edgebench.session_models import resolve

_FLOATS = frozenset({"F32", "F16", "BF16"})

LEAST_MEMORY_SHARE, UNTRIED_MEMORY_SHARE = 0.03, 0.10
"""Half an interval of the peak: at the least, and with nothing to compare the count with."""

USUAL_MBU = (0.55, 0.65, 0.75)
"""Low, middle, high: where published decode figures stand."""
USUAL_MFU = (0.25, 0.6, 1.5)
"""Of the f32 matrix rate; rearranged integer kernels pass it, the plain ones stay far below."""
USUAL_READ, LOOSE = 0.9, 0.5
LAYER_FLOPS = 3.5e6
"""What could be computed in the time a layer takes beside its weights: starting some twenty operations."""
UNPACK_FLOPS = {"Q3_K": 6.0, "Q4_1": 3.0, "Q5_0": 3.0, "Q5_1": 3.0}
"""The same of unpacking a weight, expected of types that no backend keeps rearranged; 1.5 of all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One stored test of one file on this device: medians of its measured repetitions."""

    sha256: str
    """Of the file: its own measurements predict nothing about it."""
    model: str
    shape: ModelShape
    settings: Settings
    workload: Workload
    """Of prefill or of decoding; tests of both, chats and sustained ones are not looked at."""
    tokens_per_s: float | None = None
    peak_rss_bytes: int | None = None
    baseline_rss_bytes: int | None = None
    energy_j_per_token: float | None = None
    energy_scope: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is expected of a model on this device."""

    shape: ModelShape
    parts: MemoryParts | None
    """None where the file does not tell its cache's shape."""
    peak: Prediction
    """Bytes resident at once, at most."""
    prefill: Prediction
    """Tokens/s of a prompt of `n_prompt`."""
    ttft: Prediction
    """Seconds until that prompt's first token."""
    decode: Prediction
    """Tokens/s."""
    prefill_energy: Prediction
    """J/token, as is the next."""
    decode_energy: Prediction


def fit_model(
    name: str,
    rows: Sequence[Measured],
    *,
    settings: Settings,
    say: Say,
    n_prompt: int = 512,
    n_gen: int = 128,
    n_depth: int = 0,
) -> Fit:
    """Predict what a model (a catalogued name or a GGUF file) will take here, without running it.

    Measures this device's limits when they are not known yet. Raises ModelError for what is no GGUF file.
    """
    artifact = resolve(name, say)
    others = [row for row in rows if row.sha256 != artifact.sha256]
    limits = limits_of(settings.n_threads, say)
    return predict(
        model_shape(artifact.path),
        others,
        settings=settings,
        limits=limits,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_depth=n_depth,
    )


def predict(
    shape: ModelShape,
    rows: Sequence[Measured],
    *,
    settings: Settings,
    limits: Limits,
    n_prompt: int,
    n_gen: int,
    n_depth: int = 0,
    flags: Collection[str] | None = None,
) -> Fit:
    """`fit_model` of a known shape; `rows` are of other files. `flags` None: this computer's."""
    flags = cpu_flags() if flags is None else flags
    alike = [row for row in rows if row.settings.n_threads == settings.n_threads and _is_plain(row.workload)]
    prefill_rows = [row for row in alike if row.workload.n_prompt and row.tokens_per_s]
    decode_rows = [row for row in alike if row.workload.n_gen and row.tokens_per_s]
    parts, peak = _memory(shape, rows, settings, n_prompt, n_gen, n_depth, flags)
    prefill = decode = absent("not asked for")
    if n_prompt:
        prefill = _prefill(shape, prefill_rows, settings, limits, n_prompt, n_depth)
    if n_gen:
        decode = _decode(shape, decode_rows, settings, limits, n_prompt, n_gen, n_depth)
    return Fit(
        shape=shape,
        parts=parts,
        peak=peak,
        prefill=prefill,
        ttft=quotient(n_prompt, prefill),
        decode=decode,
        prefill_energy=_energy(prefill, prefill_rows),
        decode_energy=_energy(decode, decode_rows),
    )


def _is_plain(workload: Workload) -> bool:
    one = (workload.n_prompt > 0) != (workload.n_gen > 0)
    return one and not workload.chat and not workload.sustained_s


# Memory


def _memory(
    shape: ModelShape,
    rows: Sequence[Measured],
    settings: Settings,
    n_prompt: int,
    n_gen: int,
    n_depth: int,
    flags: Collection[str],
) -> tuple[MemoryParts | None, Prediction]:
    """Counted parts; what the count misses is what it missed of other files."""
    missed: list[float] = []
    for row in rows:
        if row.peak_rss_bytes and row.baseline_rss_bytes and _is_plain(row.workload):
            w = row.workload
            counted = memory_parts(
                row.shape,
                row.settings,
                n_ctx=w.n_prompt + w.n_gen + w.n_depth,
                n_at_once=max(w.n_prompt, w.n_depth),
                flags=flags,
                baseline_bytes=row.baseline_rss_bytes,
            )
            missed += [row.peak_rss_bytes - counted.running_bytes] if counted else []
    baselines = [row.baseline_rss_bytes for row in rows if row.baseline_rss_bytes]
    parts = memory_parts(
        shape,
        settings,
        n_ctx=n_prompt + n_gen + n_depth,
        n_at_once=max(n_prompt, n_depth),
        flags=flags,
        baseline_bytes=round(median(baselines)) if baselines else BASELINE_BYTES,
        engine_bytes=round(max(0.0, median(missed))) if missed else ENGINE_BYTES,
    )
    if parts is None:
        return None, absent("the file does not tell how large its cache of keys and values is")
    share = UNTRIED_MEMORY_SHARE
    basis = "counted from the file's head"
    if missed:
        off = max(abs(value - median(missed)) for value in missed)
        share = max(LEAST_MEMORY_SHARE, off / parts.peak_bytes)
        basis += f"; what counting misses, from {len(missed)} measurements of other files"
    peak = float(parts.peak_bytes)
    return parts, Prediction(value=peak, ci_low=peak * (1 - share), ci_high=peak * (1 + share), basis=basis)


# Speed


def decode_work(shape: ModelShape, settings: Settings, n_ctx: float) -> Work | None:
    """What a decoded token takes: bytes read, weights unpacked (by type), layers begun."""
    n_bytes = bytes_per_decode_token(shape, n_ctx, type_k=settings.type_k, type_v=settings.type_v)
    if n_bytes is None:
        return None
    work = {"bytes": n_bytes, "layers": float(shape.n_layers)}
    for part, share in shape.read():
        if part.purpose != "norm":
            work[part.kind] = work.get(part.kind, 0.0) + part.n_weights * share
    return work


def prefill_work(shape: ModelShape, settings: Settings, n_prompt: int, n_depth: int) -> Work:
    """What a whole prompt takes: weights multiplied (by type), attention, other work, layers begun."""
    # The head is needed for the last token alone.
    plain = flops_per_prompt_token(shape, n_prompt, n_depth) * n_prompt
    n_normed = sum(part.n_weights for part in shape.weights if part.purpose == "norm")
    work = {
        "layers": float(shape.n_layers * -(-n_prompt // settings.n_ubatch)),
        "activations": n_prompt * (n_normed + float(shape.n_layers * shape.n_ff)),
    }
    for part, share in shape.read():
        n_times = 1 if part.purpose in ("embedding", "head") else n_prompt
        n_weights = part.n_weights * share * n_times
        plain -= 2 * n_weights
        if part.purpose != "norm":
            work[part.kind] = work.get(part.kind, 0.0) + n_weights
    return work | {"attention": max(plain, 0.0)}


def _decode(
    shape: ModelShape,
    rows: Sequence[Measured],
    settings: Settings,
    limits: Limits,
    n_prompt: int,
    n_gen: int,
    n_depth: int,
) -> Prediction:
    def work_of(shape: ModelShape, settings: Settings, w: Workload) -> Work | None:
        return decode_work(shape, settings, w.n_depth + w.n_prompt + (w.n_gen + 1) / 2)

    work = work_of(shape, settings, Workload(n_prompt=n_prompt, n_gen=n_gen, n_depth=n_depth))
    if work is None:
        return absent("the file does not tell how large its cache of keys and values is")
    bandwidth, flops_rate = limits.read_bandwidth_bytes_per_s, limits.matrix_flops_per_s
    if not rows:
        if bandwidth is None:
            return absent(limits.reason or "no measurement of another file, no bandwidth known")
        basis = f"{USUAL_MBU[1]:.0%} [{USUAL_MBU[0]:.0%}, {USUAL_MBU[2]:.0%}] of the measured bandwidth"
        return _usual(bandwidth / work["bytes"], USUAL_MBU, basis)
    seen = _observed(rows, work_of, per=lambda w: 1)
    # What is not measured of the device follows from what other files reached at least.
    bandwidth = bandwidth or median(done["bytes"] / taken_s for done, taken_s in seen) / USUAL_MBU[1]
    flops_rate = flops_rate or 4 * bandwidth
    priors = {
        "bytes": Prior(cost_s=1 / (USUAL_READ * bandwidth), sd_share=0.15),
        # Mostly one thread's work, however many there are.
        "layers": Prior(cost_s=LAYER_FLOPS * settings.n_threads / flops_rate, sd_share=0.7),
    }
    for kind in sorted({name for done, _ in seen for name in done} | set(work)):
        priors.setdefault(kind, Prior(cost_s=UNPACK_FLOPS.get(kind, 1.5) / flops_rate, sd_share=1.0))
    return _fitted(work, 1, seen, priors, rows)


def _prefill(
    shape: ModelShape,
    rows: Sequence[Measured],
    settings: Settings,
    limits: Limits,
    n_prompt: int,
    n_depth: int,
) -> Prediction:
    def work_of(shape: ModelShape, settings: Settings, w: Workload) -> Work:
        return prefill_work(shape, settings, w.n_prompt, w.n_depth)

    work = work_of(shape, settings, Workload(n_prompt=n_prompt, n_depth=n_depth))
    flops_rate = limits.matrix_flops_per_s
    if not rows:
        if flops_rate is None:
            return absent(limits.reason or "no measurement of another file, no matrix rate known")
        basis = f"{USUAL_MFU[0]:.0%} to {USUAL_MFU[2]:.0%} of the measured f32 matrix rate"
        return _usual(flops_rate / flops_per_prompt_token(shape, n_prompt, n_depth), USUAL_MFU, basis)
    seen = _observed(rows, work_of, per=lambda w: w.n_prompt)
    if flops_rate is None:
        reached = [
            r.tokens_per_s * flops_per_prompt_token(r.shape, r.workload.n_prompt, r.workload.n_depth)
            for r in rows
            if r.tokens_per_s
        ]
        flops_rate = median(reached) / USUAL_MFU[1]
    priors = {
        "layers": Prior(cost_s=LAYER_FLOPS * settings.n_threads / flops_rate, sd_share=1.0),
        "activations": Prior(cost_s=140 / flops_rate, sd_share=LOOSE),
        "attention": Prior(cost_s=3 / flops_rate, sd_share=LOOSE),
    }
    for kind in sorted({name for done, _ in seen for name in done} | set(work)):
        usual = Prior(cost_s=2.2 / flops_rate, sd_share=0.3) if kind in _FLOATS else None
        priors.setdefault(kind, usual or Prior(cost_s=4 / flops_rate, sd_share=LOOSE))
    return _fitted(work, n_prompt, seen, priors, rows)


def _observed(
    rows: Sequence[Measured],
    work_of: Callable[[ModelShape, Settings, Workload], Work | None],
    *,
    per: Callable[[Workload], int],
) -> list[tuple[Work, float]]:
    """(work, seconds) of each row whose work can be told; `per` is how many tokens that work is of."""
    found = []
    for row in rows:
        work = work_of(row.shape, row.settings, row.workload)
        if work is not None and row.tokens_per_s:
            found.append((work, per(row.workload) / row.tokens_per_s))
    return found


def _fitted(
    work: Work,
    n_tokens: int,
    seen: Sequence[tuple[Work, float]],
    priors: Mapping[str, Prior],
    rows: Sequence[Measured],
) -> Prediction:
    seconds, sd_s = fit_costs(seen, priors).seconds(work)
    models = sorted({row.model for row in rows})
    known = {name for done, _ in seen for name in done}
    basis = f"{len(seen)} measurements of {', '.join(models)} on this device"
    if strange := sorted(set(work) - known):
        basis += f"; none with {', '.join(strange)}: a usual cost is taken for it"
    return rate(n_tokens, seconds, sd_s, basis)


def _usual(bound: float, usual: tuple[float, float, float], basis: str) -> Prediction:
    low, middle, high = (share * bound for share in usual)
    return Prediction(value=middle, ci_low=low, ci_high=high, basis=basis)


def _energy(speed: Prediction, rows: Sequence[Measured]) -> Prediction:
    """J/token: the power other files drew in this phase, for the time a token is expected to take."""
    metered = [row for row in rows if row.energy_j_per_token and row.tokens_per_s]
    if not metered:
        return absent("no energy of another file was measured on this device")
    scope = max(
        {row.energy_scope for row in metered}, key=lambda s: sum(r.energy_scope == s for r in metered)
    )
    watts = [
        row.energy_j_per_token * row.tokens_per_s
        for row in metered
        if row.energy_scope == scope and row.energy_j_per_token and row.tokens_per_s
    ]
    basis = f"the median power ({scope}) of {len(watts)} measurements, and the speed"
    found = quotient(median(watts), speed, spread=(min(watts), max(watts)))
    return Prediction(value=found.value, ci_low=found.ci_low, ci_high=found.ci_high, basis=basis)
