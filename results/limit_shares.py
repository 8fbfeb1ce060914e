"""Speeds as a share of what the device can do at most: of its read bandwidth, of its arithmetic."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.core.roofline import (
    CACHE_RESIDENT,
    ModelShape,
    bytes_per_decode_token,
    decode_verdict,
    flops_per_prompt_token,
    is_cache_resident,
    mbu,
    mfu,
    prefill_verdict,
)
from edgebench.core.stats import Estimate, median_of_groups
from edgebench.core.types import Settings
from edgebench.results.records import RunRow
from edgebench.results.store import Store

Figure = tuple[str, str, str, Estimate | None]
Samples = Mapping[tuple[str, str], Sequence[Sequence[float]]]
_FLOATS = {"F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """What a run's speeds are held against."""

    shape: ModelShape
    limits: Mapping[str, Any]
    type_k: str
    type_v: str

    @property
    def resident(self) -> bool:
        """Whether the weights a token reads fit the last cache."""
        return is_cache_resident(self.shape, self.limits["last_level_cache_bytes"])

    @property
    def headroom(self) -> float:
        """How many times the measured f32 rate the file's types could reach."""
        kinds = {part.kind for part in self.shape.weights if part.purpose in ("attention", "ffn", "other")}
        if kinds <= {"F32"}:
            return 1.0
        return float(self.limits["headroom_float" if kinds <= _FLOATS else "headroom_integer"])

    def bytes_per_token(self, trial: Mapping[str, Any]) -> float | None:
        """What a token of a test reads at least."""
        n_ctx = trial["n_depth"] + trial["n_prompt"] + (trial["n_gen"] + 1) / 2
        return bytes_per_decode_token(self.shape, n_ctx, type_k=self.type_k, type_v=self.type_v)


def share_figures(store: Store, run: RunRow, samples: Samples) -> Iterator[Figure]:
    """`mbu` of decode rates, `mfu` of prefill rates; none where device or file don't tell."""
    bound = _bound(store, run)
    if bound is None:
        return
    for test, metric, _, share in _shares(store, run, samples, bound):
        yield test, metric, "median", share


def implausible(store: Store, run: RunRow, samples: Samples) -> str | None:
    """Why one of the run's speeds can't be true: it is beyond what the device was seen to do."""
    bound = _bound(store, run)
    if bound is None:
        return None
    reasons = (reason for _, _, reason, _ in _shares(store, run, samples, bound))
    return next((reason for reason in reasons if reason), None)


def limit_flags(store: Store, run: RunRow) -> list[str]:
    """`cache_resident`, where memory bandwidth is not what bounds decoding."""
    bound = _bound(store, run)
    return [CACHE_RESIDENT] if bound is not None and bound.resident else []


def _shares(
    store: Store, run: RunRow, samples: Samples, bound: _Bound
) -> Iterator[tuple[str, str, str | None, Estimate | None]]:
    """(test, metric, why it can't be, share with the rate's own interval)."""
    sql = "SELECT test, n_prompt, n_gen, n_depth FROM trial WHERE run_id = ? GROUP BY test"
    trials = {row["test"]: row for row in store.rows(sql, (run.id,))}
    for (test, metric), groups in samples.items():
        rate = median_of_groups(groups)
        if rate is None:
            continue
        if metric == "decode_tokens_per_s" and not test.startswith("sustained"):
            n_bytes, limit = bound.bytes_per_token(trials[test]), bound.limits["read_bandwidth_bytes_per_s"]
            if n_bytes and limit:
                reason = None if bound.resident else decode_verdict(rate.value, n_bytes, limit)
                yield test, "mbu", reason, _scaled(rate, mbu(1.0, n_bytes, limit))
        elif metric == "prefill_tokens_per_s":
            trial, limit = trials[test], bound.limits["matrix_flops_per_s"]
            if limit:
                flops = flops_per_prompt_token(bound.shape, trial["n_prompt"], trial["n_depth"])
                reason = prefill_verdict(rate.value, flops, limit, bound.headroom)
                yield test, "mfu", reason, _scaled(rate, mfu(1.0, flops, limit))


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = estimate.ci_low, estimate.ci_high
    return Estimate(
        value=estimate.value * factor,
        ci_low=None if low is None else low * factor,
        ci_high=None if high is None else high * factor,
        n=estimate.n,
    )


def _bound(store: Store, run: RunRow) -> _Bound | None:
    shape, settings = store.shape(run.artifact_id), run.config.get("settings")
    if shape is None or not settings or settings.get("server") or Settings(**settings).on_gpu:
        return None  # what is measured of a device is its CPU and its own memory, for engines started here
    limits = store.limits(
        device_id=run.device_id, environment_id=run.environment_id, n_threads=settings["n_threads"]
    )
    if limits is None:
        return None
    return _Bound(
        shape=ModelShape.from_facts(shape),
        limits=limits,
        type_k=settings["type_k"],
        type_v=settings["type_v"],
    )
