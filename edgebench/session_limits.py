"""This device's limits, measured once and kept, and the shape of the files held against them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from edgebench.core.cpu import cpu_flags
from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_json
from edgebench.core.paths import atomic_path, cache_part
from edgebench.core.roofline import (
    ModelShape,
    Weights,
)
from edgebench.devices.limits import Limits, compute_headroom, measure_limits
from edgebench.devices.local import local_device, local_environment
from edgebench.quantize.gguf_file import check_magic, gguf_parts
from edgebench.quantize.gguf_header import DamagedError, TensorInfo, read_header
from edgebench.quantize.levels import tensor_class

SCHEMA = 1
"""Of a stored file; a change of what is measured, or how, starts new ones."""
_WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "exaone4": 4} | {
    "olmo2": 4,
    "plamo3": 8,
    "gemma-embedding": 6,
}
"""Architecture -> of so many layers, all but one have a window: what llama.cpp takes for granted."""
_EIGHT = 8

Say = Callable[[str], None]


def limits_of(n_threads: int, say: Say) -> Limits:
    """This device's limits with so many threads: from the cache, else measured now (about 5 s) and kept.

    What could not be measured, or was measured beside a busy neighbour, is not kept: the next call tries
    again.
    """
    path = _path(n_threads)
    if (known := _stored(path)) is not None:
        return known
    say(f"measuring memory bandwidth and arithmetic of this device with {n_threads} threads, once: 5 s")
    return _kept(measure_limits(n_threads), path)


def limits_again(known: Limits, say: Say) -> Limits:
    """Measure anew and take the better of both: before a speed is called impossible.

    A neighbour that this system does not see (another virtual machine) may have slowed the first time.
    """
    say("a speed is above this device's measured limits: measuring them once more, 5 s")
    again = measure_limits(known.n_threads)
    best = replace(
        again if known.noisy else known,
        read_bandwidth_bytes_per_s=_better(
            known.read_bandwidth_bytes_per_s, again.read_bandwidth_bytes_per_s
        ),
        copy_bandwidth_bytes_per_s=_better(
            known.copy_bandwidth_bytes_per_s, again.copy_bandwidth_bytes_per_s
        ),
        matrix_flops_per_s=_better(known.matrix_flops_per_s, again.matrix_flops_per_s),
    )
    return _kept(best, _path(known.n_threads))


def _better(first: float | None, second: float | None) -> float | None:
    return max((rate for rate in (first, second) if rate is not None), default=None)


def _path(n_threads: int) -> Path:
    key = sha256_json([SCHEMA, local_device().id, local_environment().id, n_threads])[:16]
    return cache_part("limits") / f"{key}.json"


def _kept(limits: Limits, path: Path) -> Limits:
    if limits.reason is None and not limits.noisy:
        with atomic_path(path) as part:
            part.write_text(json.dumps({"schema": SCHEMA, **asdict(limits)}, indent=1), encoding="utf-8")
    return limits


def limit_facts(limits: Limits) -> dict[str, Any]:
    """Limits for the database, with how far a file's types may pass the f32 rate on this processor."""
    flags = cpu_flags()
    return {
        **asdict(limits),
        "headroom_float": compute_headroom(flags, {"F16"}),
        "headroom_integer": compute_headroom(flags, {"Q8_0"}),
    }


def _stored(path: Path) -> Limits | None:
    """None when there is no such file or it is no limits."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Limits(**{key: facts[key] for key in Limits.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def model_shape(path: Path) -> ModelShape:
    """What a GGUF file (or the first part of a split one) tells of the work its model takes.

    Raises:
        ModelError: it is no GGUF file, is not whole, or lacks what every model has.
    """
    check_magic(path)
    parts = gguf_parts(path)
    try:
        headers = [read_header(part) for part in parts]
    except DamagedError as error:
        raise ModelError(f"{path} is damaged or cut short: {error}", "fetch the file again") from error
    fields, tensors = headers[0].fields, list(chain.from_iterable(header.tensors for header in headers))
    return _shape(path, fields, tensors, min((t.start_bytes for t in headers[0].tensors), default=0))


def _shape(path: Path, fields: Mapping[str, Any], tensors: list[TensorInfo], head_bytes: int) -> ModelShape:
    arch = str(fields.get("general.architecture"))

    def number(*keys: str) -> int | None:
        values = (fields.get(f"{arch}.{key}") for key in keys)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)

    n_layers, n_embd = number("block_count"), number("embedding_length")
    if n_layers is None or n_embd is None:
        raise ModelError(
            f"{path} does not tell its layers or their width", "only language models have a shape"
        )
    n_head = number("attention.head_count") or 1
    # A field that is there and None is an array: layers differ.
    differs = fields.get(f"{arch}.attention.head_count_kv", 0) is None
    table = next((t for t in tensors if t.name == "token_embd.weight"), None)
    n_window, pattern = number("attention.sliding_window"), number("attention.sliding_window_pattern")
    every = pattern or _WINDOW_PATTERNS.get(arch)
    n_windowed = n_layers - n_layers // every if n_window and every else 0
    return ModelShape(
        weights=_grouped(tensors),
        n_layers=n_layers,
        n_embd=n_embd,
        n_ff=number("expert_feed_forward_length", "feed_forward_length") or 4 * n_embd,
        n_head=n_head,
        n_head_kv=None if differs else number("attention.head_count_kv") or n_head,
        n_head_width=number("attention.key_length") or n_embd // n_head,
        n_vocab=table.n_elements // table.n_per_row if table and table.n_per_row else 0,
        tied=not any(t.name == "output.weight" for t in tensors),
        n_expert=number("expert_count") or 0,
        n_expert_used=number("expert_used_count") or 0,
        n_window=n_window if n_window and n_windowed else 0,
        n_window_layers=n_windowed,
        merges=fields.get("tokenizer.ggml.model") == "gpt2",
        head_bytes=head_bytes,
    )


def _grouped(tensors: Iterable[TensorInfo]) -> tuple[Weights, ...]:
    """Tensors summed by purpose, type and what else their cost depends on."""
    sums: dict[tuple[str, str, bool, bool], tuple[int, int]] = {}
    for t in tensors:
        n_rows = t.n_elements // t.n_per_row if t.n_per_row else 0
        key = (tensor_class(t.name), t.kind, "_exps." in t.name, n_rows > 1 and n_rows % _EIGHT == 0)
        n_weights, size_bytes = sums.get(key, (0, 0))
        sums[key] = n_weights + t.n_elements, size_bytes + t.size_bytes
    return tuple(
        Weights(
            purpose=purpose,
            kind=kind,
            n_weights=n_weights,
            size_bytes=size_bytes,
            experts=experts,
            by_eights=by_eights,
        )
        for (purpose, kind, experts, by_eights), (n_weights, size_bytes) in sorted(sums.items())
    )
