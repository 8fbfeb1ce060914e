"""The best recipe for a 4-bit ONNX model: candidates are made and compared before one is kept."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgebench.core.types import Artifact
from edgebench.session_tools import call_tool

N_CHUNKS, CHUNK_TOKENS = 4, 256


def best_recipe(
    source: Artifact, checkpoint: Path, base: Path, *, n_threads: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The recipe, and every candidate's size and distance from the fp32 graph.

    Candidates are compared on the calibration text: the held-out text is for what was chosen.
    """
    text = (files("edgebench.quantize") / "data" / "calibration.txt").read_text(encoding="utf-8")
    ids = call_tool("tokenize", {"checkpoint": str(checkpoint), "texts": [text]}, say)["ids"][0]
    chunks = [ids[i * CHUNK_TOKENS : (i + 1) * CHUNK_TOKENS] for i in range(N_CHUNKS)]
    say(f"searching a 4-bit recipe for {source.model} (block size, symmetry, what stays wider)")
    job = {"base": str(base), "chunks": [c for c in chunks if len(c) == CHUNK_TOKENS], "n_threads": n_threads}
    found = call_tool("search", job, say)
    return {"recipe": found["best"]["recipe"], "candidates": found["candidates"]}
