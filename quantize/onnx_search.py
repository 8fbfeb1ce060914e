"""Which 4-bit recipe keeps a model's words: each is made, measured against the float32 graph, and dropped.

Chosen is the smallest file among those whose mean KL divergence is at most `slack` times the lowest, and
whose one-token step takes no more than `most_step_ratio` of the float32 graph's: some recipes are exact
and have no fast kernel.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError, UsageError
from edgebench.quantize.onnx_export import log_softmax, quantize
from edgebench.quantize.onnx_model import MOST_INLINE_BYTES
from edgebench.quantize.onnx_recipe import recipe_of
from edgebench.quantize.onnx_run import head_width, open_graph, run_tokens

Progress = Callable[[float], None]

SLACK = 1.25
MOST_STEP_RATIO = 2.0
N_STEPS = 5
CANDIDATES: Sequence[Mapping[str, Any]] = (
    {"symmetric": True, "method": "round", "head_bits": 4, "embedding_bits": 4},
    {"symmetric": True, "method": "round"},
    {"method": "round"},
    {},
    {"accuracy_level": 0},
    {"block_size": 64},
    {"block_size": 128},
    {"block_size": 16},
    {"head_bits": 4, "embedding_bits": 4},
    {"head_bits": 32, "embedding_bits": 32},
    {"wide": ["*/down_proj/*"]},
    {"wide": ["*/self_attn/*"]},
    {"zeros": "offset"},
    {"zeros": "offset", "block_size": 64},
)
"""What differs from the level's own recipe, widest variety first."""


def search(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Try recipes of a level, and name the best.

    The job: `base`, an onnx-fp32 folder; `chunks`, lists of token ids whose second halves are scored;
    `level` (onnx-nbits4), `candidates`, `slack`, `most_step_ratio`, `n_threads`, `scratch`, a folder to
    work in. Gives `candidates` (recipe, size_bytes, mean_kld, same_top_share, step_s) and `best`, one of
    them.
    """
    base, level = Path(job["base"]), str(job.get("level") or "onnx-nbits4")
    chunks = [list(chunk) for chunk in job["chunks"] if len(chunk) > 1]
    if not chunks:
        raise UsageError("a search needs chunks of at least two tokens")
    asked = list(job.get("candidates") or CANDIDATES)
    recipes = [recipe_of(level, one) for one in asked]
    n_threads, n_width = int(job.get("n_threads") or 0), head_width(base)
    expected, step_s = _measure(base, chunks, n_threads, n_width)
    found = []
    for i, recipe in enumerate(recipes):
        progress(i / len(recipes))
        with tempfile.TemporaryDirectory(dir=job.get("scratch"), prefix="edgebench-search-") as scratch:
            folder = Path(scratch)
            quantize(base, folder, level, recipe, MOST_INLINE_BYTES, lambda _: None)
            size_bytes = sum(path.stat().st_size for path in folder.iterdir())
            told, own_step_s = _measure(folder, chunks, n_threads, n_width)
        kld, same = _compare(expected, told)
        found.append(
            {
                "recipe": recipe,
                "size_bytes": size_bytes,
                "mean_kld": kld,
                "same_top_share": same,
                "step_s": own_step_s,
            }
        )
    progress(1.0)
    best = choose(
        found,
        slack=float(job.get("slack") or SLACK),
        most_step_s=step_s * float(job.get("most_step_ratio") or MOST_STEP_RATIO),
    )
    return {"candidates": found, "best": best, "base_step_s": step_s, "n_scored": sum(map(len, expected))}


def choose(found: Sequence[Mapping[str, Any]], *, slack: float, most_step_s: float) -> Mapping[str, Any]:
    """The smallest of those close to the lowest divergence; slow ones count where there is no other."""
    if not found:
        raise ModelError("no recipe was tried")
    usable = [one for one in found if one["step_s"] <= most_step_s] or list(found)
    lowest = min(one["mean_kld"] for one in usable)
    close = [one for one in usable if one["mean_kld"] <= slack * lowest]
    return min(close, key=lambda one: (one["size_bytes"], one["mean_kld"]))


Rows = list[npt.NDArray[np.float64]]


def _measure(
    folder: Path, chunks: Sequence[Sequence[int]], n_threads: int, n_width: int
) -> tuple[Rows, float]:
    """Log-probabilities of each chunk's second half, and the median time of a step of one token."""
    session = open_graph(folder, n_threads)
    rows = [log_softmax(run_tokens(session, c, n_width=n_width)[len(c) // 2 :]) for c in chunks]
    steps = []
    for _ in range(N_STEPS):
        start = time.perf_counter()
        run_tokens(session, chunks[0][:1], n_width=n_width)
        steps.append(time.perf_counter() - start)
    return rows, statistics.median(steps)


def _compare(expected: Rows, told: Rows) -> tuple[float, float]:
    """Mean KL divergence in nats, and the share of places with the same likeliest token."""
    klds = [(np.exp(p) * (p - q)).sum(axis=1) for p, q in zip(expected, told, strict=True)]
    same = [p.argmax(axis=1) == q.argmax(axis=1) for p, q in zip(expected, told, strict=True)]
    return float(np.concatenate(klds).mean()), float(np.concatenate(same).mean())
