"""ONNX artifacts in onnxruntime-genai's layout: fused attention, one KV buffer shared between steps.

Runs in the `genai` tool environment: the builder is a program of onnxruntime-genai that needs another
transformers than optimum does. It is started as a process of this interpreter, offline.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import MissingDependency, ModelError, UsageError, nearest
from edgebench.core.paths import atomic_path
from edgebench.core.tool_env import OFFLINE, QUIET
from edgebench.quantize.levels import GENAI_LEVELS
from edgebench.quantize.onnx_blocks import BLOCKS
from edgebench.quantize.onnx_export import carry, check, refuse_full
from edgebench.quantize.onnx_graph import Graph, pack_graph, share_packed_head
from edgebench.quantize.onnx_model import MODEL_FILE, load_model, save_model
from edgebench.quantize.onnx_recipe import recipe_of

Progress = Callable[[float], None]

BUILDER = "onnxruntime_genai.models.builder"
PRECISIONS = dict(zip(GENAI_LEVELS, ("fp32", "int8", "int4"), strict=True))
ALGORITHMS = ("default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed")
"""The builder's own names; `_last` keeps the output head at 8 bits, `_mixed` some layers as well."""
OWN = ("round", "fit", "offset")
"""Packed by edgebench into the builder's float graph, as plain graphs are; head and embedding have 8 bits."""
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "genai-int8": {"block_size": 32, "symmetric": True, "accuracy_level": 4, "algorithm": "default"},
    "genai-int4": {"block_size": 32, "symmetric": False, "accuracy_level": 4, "algorithm": "fit"},
}
ALLOWED: Mapping[str, tuple[object, ...]] = {
    "block_size": BLOCKS,
    "symmetric": (True, False),
    "accuracy_level": (0, 1, 2, 3, 4),
    "algorithm": (*ALGORITHMS, *OWN),
}
LONGEST_S = 3 * 3600


def export(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Make one genai level of a checkpoint as a folder.

    The job: `checkpoint`, `target`, `level`, and `recipe`, what differs from the level's own. Gives the
    recipe. Nothing is left behind when it fails (ModelError).
    """
    level, checkpoint = str(job["level"]), Path(job["checkpoint"])
    if level not in GENAI_LEVELS:
        raise nearest(level, GENAI_LEVELS, kind="genai level")
    recipe = genai_recipe(level, job.get("recipe"))
    own = recipe is not None and recipe["algorithm"] in OWN
    refuse_full(Path(job["target"]))
    with atomic_path(Path(job["target"])) as folder:
        with tempfile.TemporaryDirectory(prefix="edgebench-genai-") as scratch:
            precision = "fp32" if own else PRECISIONS[level]
            _build(checkpoint, folder, precision, None if own else recipe, Path(scratch))
        progress(0.3 if own else 0.7)
        if recipe is not None and own:
            _pack(folder, level, recipe, lambda share: progress(0.3 + 0.5 * share))
        elif recipe is not None:
            _share_head(folder)
        carry(checkpoint, folder)
        check(folder, standard=False)
    progress(1.0)
    return {"recipe": recipe, "external_data": True}


def genai_recipe(level: str, asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The level's recipe with what was asked for in its place; None for genai-fp32. UsageError else."""
    if level not in RECIPES:
        if asked:
            raise UsageError(f"{level} takes no recipe", f"levels that do: {', '.join(RECIPES)}")
        return None
    recipe = dict(RECIPES[level])
    for key, value in (asked or {}).items():
        if key not in recipe:
            raise nearest(key, recipe, kind="part of a recipe")
        allowed = ALLOWED[key]
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            known = ", ".join(map(str, allowed))
            raise UsageError(f"a recipe for {level} can't have {key} {value!r}", f"possible: {known}")
        recipe[key] = value
    return recipe


def _build(
    checkpoint: Path, folder: Path, precision: str, recipe: Mapping[str, Any] | None, scratch: Path
) -> None:
    command = [sys.executable, "-P", "-m", BUILDER, "-m", checkpoint.name, "-i", str(checkpoint)]
    command += ["-o", str(folder), "-p", precision, "-e", "cpu", "-c", str(scratch)]
    if recipe is not None:
        command += ["--extra_options", *_options(recipe)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=LONGEST_S,
        check=False,
        env={**os.environ, **QUIET, **OFFLINE},
    )
    if done.returncode == 0 and (folder / MODEL_FILE).is_file():
        return
    told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = told[-1] if told else f"it ended with {done.returncode}"
    if "No module named" in reason or "cannot import name" in reason:
        raise MissingDependency(f"the genai builder can't start: {reason}", "edgebench cache prefetch genai")
    if "cannot reshape array" in reason and recipe is not None:
        raise ModelError(
            f"onnxruntime-genai's {recipe['algorithm']} can't pack rows of an odd number of blocks: {reason}",
            f"another block_size, or one of edgebench's own algorithms: {', '.join(OWN)}",
        )
    raise ModelError(f"onnxruntime-genai can't build {checkpoint}: {reason}")


def _options(recipe: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"block_size={recipe['block_size']}",
        f"is_symmetric={'true' if recipe['symmetric'] else 'false'}",
        f"accuracy_level={recipe['accuracy_level']}",
        f"algo_config={recipe['algorithm']}",
    ]


def _pack(folder: Path, level: str, recipe: Mapping[str, Any], progress: Progress) -> None:
    """Quantize the builder's float graph in place."""
    plain = recipe_of(
        {"genai-int4": "onnx-nbits4", "genai-int8": "onnx-nbits8"}[level],
        {
            **{key: recipe[key] for key in ("block_size", "symmetric", "accuracy_level")},
            "method": "fit" if recipe["algorithm"] == "offset" else recipe["algorithm"],
            "zeros": "offset" if recipe["algorithm"] == "offset" else "whole",
        },
    )
    if plain is None:
        raise ModelError(f"{level} needs a recipe")
    graph = Graph(load_model(folder / MODEL_FILE))
    pack_graph(graph, plain, progress)
    _write_again(graph, folder)


def _share_head(folder: Path) -> None:
    """Let the embedding read the tied head's packed rows, where the builder kept it in float beside them."""
    graph = Graph(load_model(folder / MODEL_FILE))
    if graph.has_float_embedding() and share_packed_head(graph):
        _write_again(graph, folder)


def _write_again(graph: Graph, folder: Path) -> None:
    for path in folder.glob(f"{MODEL_FILE}*"):
        path.unlink()
    save_model(graph.model, folder, most_inline_bytes=0)
