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
from edgebench.quantize.onnx_export import carry, check
from edgebench.quantize.onnx_graph import Graph, share_packed_head
from edgebench.quantize.onnx_model import MODEL_FILE, load_model, save_model

Progress = Callable[[float], None]

BUILDER = "onnxruntime_genai.models.builder"
PRECISIONS = dict(zip(GENAI_LEVELS, ("fp32", "int8", "int4"), strict=True))
ALGORITHMS = ("default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed")
"""The builder's own names; `_last` keeps the output head at 8 bits, `_mixed` some layers as well."""
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "genai-int8": {"block_size": 32, "symmetric": True, "accuracy_level": 4, "algorithm": "default"},
    "genai-int4": {"block_size": 32, "symmetric": False, "accuracy_level": 4, "algorithm": "k_quant_last"},
}
ALLOWED: Mapping[str, tuple[object, ...]] = {
    "block_size": BLOCKS,
    "symmetric": (True, False),
    "accuracy_level": (0, 1, 2, 3, 4),
    "algorithm": ALGORITHMS,
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
    with atomic_path(Path(job["target"])) as folder:
        with tempfile.TemporaryDirectory(prefix="edgebench-genai-") as scratch:
            _build(checkpoint, folder, PRECISIONS[level], recipe, Path(scratch))
        progress(0.7)
        shared = level != "genai-fp32" and _share_head(folder)
        carry(checkpoint, folder)
        check(folder, standard=False)
    progress(1.0)
    return {"recipe": recipe, "external_data": True, "shared_head": shared}


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
    raise ModelError(f"onnxruntime-genai can't build {checkpoint}: {reason}")


def _options(recipe: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"block_size={recipe['block_size']}",
        f"is_symmetric={'true' if recipe['symmetric'] else 'false'}",
        f"accuracy_level={recipe['accuracy_level']}",
        f"algo_config={recipe['algorithm']}",
    ]


def _share_head(folder: Path) -> bool:
    """Let the embedding read the packed head, where the builder kept it in float beside it."""
    graph = Graph(load_model(folder / MODEL_FILE))
    try:
        shared = share_packed_head(graph)
    except ModelError:
        return False  # it reads the packed head already
    if shared:
        for path in folder.glob(f"{MODEL_FILE}*"):
            path.unlink()
        save_model(graph.model, folder, most_inline_bytes=0)
    return shared
