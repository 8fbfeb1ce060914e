"""The best recipe for a 4-bit ONNX model: candidates are made and compared before one is kept."""

import contextlib
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgebench.core.hashing import sha256_json, sha256_text
from edgebench.core.paths import atomic_path, cache_part
from edgebench.core.tool_env import pinned
from edgebench.core.types import Artifact
from edgebench.results.damage import DEGRADED_SAME_TOP_SHARE
from edgebench.session_tools import call_tool

N_CHUNKS, CHUNK_TOKENS = 4, 256


def best_recipe(
    source: Artifact, checkpoint: Path, base: Path, *, n_threads: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The recipe, and every candidate's size and distance from the fp32 graph. Searched once for a model.

    Candidates are compared on the calibration text: the held-out text is for what was chosen.
    """
    text = (files("edgebench.quantize") / "data" / "calibration.txt").read_text(encoding="utf-8")
    key = sha256_json(
        [source.sha256, sha256_text(text), N_CHUNKS, CHUNK_TOKENS, pinned("export", "onnxruntime")]
    )
    kept = cache_part("artifacts") / source.sha256[:16] / f"search-{key[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        return {"recipe": found["best"]["recipe"], "candidates": found["candidates"]}
    ids = call_tool("tokenize", {"checkpoint": str(checkpoint), "texts": [text]}, say)["ids"][0]
    chunks = [ids[i * CHUNK_TOKENS : (i + 1) * CHUNK_TOKENS] for i in range(N_CHUNKS)]
    say(
        f"searching a 4-bit recipe for {source.model} (block size, symmetry, what stays wider): minutes, once"
    )
    job = {"base": str(base), "chunks": [c for c in chunks if len(c) == CHUNK_TOKENS], "n_threads": n_threads}
    found = call_tool("search", {**job, "scratch": str(cache_part("work"))}, say)
    with atomic_path(kept) as partial:
        partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(_verdict(source.model, found["candidates"][0], found["best"]))
    return {"recipe": found["best"]["recipe"], "candidates": found["candidates"]}


def _verdict(model: str, plain: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """What plain rounding would have cost, and what was found instead."""

    def told(one: Mapping[str, Any]) -> str:
        degrades = ", degrades text" if one["same_top_share"] < DEGRADED_SAME_TOP_SHARE else ""
        return (
            f"KLD {one['mean_kld']:.3g}, same top token {one['same_top_share']:.0%}, "
            f"{one['size_bytes'] / 1e6:.0f} MB{degrades}"
        )

    return f"4-bit ONNX of {model}: plain rounding {told(plain)}; best recipe {told(best)}"


def genai_words(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A plain graph's recipe in the words of the genai exporter."""
    offset = recipe["zeros"] == "offset" and not recipe["symmetric"]
    shared = {key: recipe[key] for key in ("block_size", "symmetric", "accuracy_level")}
    return {**shared, "algorithm": "offset" if offset else recipe["method"]}
