"""ONNX artifacts of a checkpoint: exported by optimum, quantized by onnxruntime, checked before they count.

Runs in the `export` tool environment. The float32 graph comes from the checkpoint; the other levels are made
from that graph's folder.
"""

import gc
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError, nearest
from edgebench.core.paths import atomic_path
from edgebench.quantize.checkpoint import COMPANIONS, CONFIG
from edgebench.quantize.levels import ONNX_LEVELS
from edgebench.quantize.onnx_graph import Graph, join_casts, pack_graph
from edgebench.quantize.onnx_int8 import quantize_int8
from edgebench.quantize.onnx_model import MODEL_FILE, MOST_INLINE_BYTES, load_model, save_model, tell_shapes
from edgebench.quantize.onnx_recipe import Recipe, recipe_of
from edgebench.quantize.onnx_run import head_width, open_graph, run_tokens

Progress = Callable[[float], None]


OPSET = 18
TRAVELLING = (CONFIG, *COMPANIONS)
"""What goes along with a graph, where the source has it."""

N_PARITY_TOKENS = 48
TOLERANCE = 2e-3
"""Largest difference of a log-probability between the float32 graph and torch."""
BROKEN = 0.1
"""Beyond this the graph is another model, not another rounding."""


def export(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Make one level of a checkpoint as a folder.

    The job: `checkpoint`, `target`, `level`; `base`, the onnx-fp32 folder the other levels are made from;
    `recipe`, what differs from the level's own; `most_inline_bytes`, where weights go to a file of their
    own; `tokens`, the ids the parity of the float32 graph is told on, and its `tolerance`.

    Gives the recipe, whether weights lie beside the graph, and for onnx-fp32 the parity with torch. Nothing
    is left behind when it fails (ModelError).
    """
    level, target = str(job["level"]), Path(job["target"])
    if level not in ONNX_LEVELS:
        raise nearest(level, ONNX_LEVELS, kind="ONNX level")
    recipe = recipe_of(level, job.get("recipe"))
    most_inline_bytes = int(job.get("most_inline_bytes") or MOST_INLINE_BYTES)
    refuse_full(target)
    with atomic_path(target) as folder:
        if level == "onnx-fp32":
            checkpoint = Path(job["checkpoint"])
            beside = _export_float(checkpoint, folder, most_inline_bytes)
            progress(0.6)
            parity = compare_with_torch(
                checkpoint, folder, job.get("tokens"), float(job.get("tolerance") or TOLERANCE)
            )
        else:
            if not job.get("base"):
                raise ModelError(f"{level} is made from an onnx-fp32 folder, and none was given")
            base, parity = Path(job["base"]), None
            folder.mkdir()
            beside = quantize(base, folder, level, recipe, most_inline_bytes, progress)
            carry(base, folder)
        progress(0.9)
        check(folder)
    progress(1.0)
    return {"recipe": recipe, "external_data": beside, "opset": OPSET, "parity": parity}


def quantize(
    base: Path, folder: Path, level: str, recipe: Recipe | None, most_inline_bytes: int, progress: Progress
) -> bool:
    """Write a narrower graph of the float32 one into `folder`; whether its weights lie beside it."""
    model = load_model(base / MODEL_FILE)
    if level == "onnx-fp16":
        model = _halved(model)
    elif recipe is None:
        raise ModelError(f"{level} needs a recipe")
    elif level == "onnx-int8":
        model = quantize_int8(model, recipe, folder)
    else:
        pack_graph(Graph(model), recipe, lambda share: progress(0.8 * share))
    return save_model(model, folder, most_inline_bytes)


def refuse_full(target: Path) -> None:
    """A folder can't be renamed onto one that holds something: said before the work, not after it."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is already there", "delete it, or choose another place")


def carry(source: Path, folder: Path) -> None:
    """Copy tokenizer, configuration and chat template that `folder` lacks."""
    for name in TRAVELLING:
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)


def check(folder: Path, *, standard: bool = True) -> None:
    """The graph is well formed, opens, and gives finite logits in two steps. ModelError else.

    `standard` graphs keep to ONNX where they use its operators. genai's do not: they have an operator of
    onnxruntime's under ONNX's own name, which onnxruntime alone can judge.
    """
    import onnx

    try:
        if standard:
            onnx.checker.check_model(str(folder / MODEL_FILE))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    logits = run_tokens(open_graph(folder), [1, 2, 3, 4], n_first=2, n_width=head_width(folder))
    if not np.isfinite(logits).all():
        raise ModelError("the exported graph gives logits that are not finite", "try a wider level")


def compare_with_torch(
    checkpoint: Path, folder: Path, tokens: Sequence[int] | None, tolerance: float
) -> dict[str, Any]:
    """How far the graph's log-probabilities are from the checkpoint's in torch, with and without a cache.

    Beyond `tolerance` the result says `within: false`; ModelError where it can't be the same model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch_model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, local_files_only=True, use_safetensors=True
    ).eval()
    n_vocab = torch_model.config.get_text_config().vocab_size
    rng = random.Random(0)
    ids = list(tokens or [rng.randrange(n_vocab) for _ in range(N_PARITY_TOKENS)])
    with torch.inference_mode():
        expected = log_softmax(torch_model(input_ids=torch.tensor([ids])).logits[0].float().numpy())
    del torch_model
    gc.collect()
    graph = open_graph(folder)
    worst = max(
        float(np.abs(log_softmax(run_tokens(graph, ids, n_first=n_first)) - expected).max())
        for n_first in (len(ids), len(ids) // 2)
    )
    if not worst < BROKEN:  # not a number, too
        raise ModelError(
            f"the exported graph differs from the checkpoint: log-probabilities by up to {worst:.3g}",
            "this model family can't be exported to ONNX with these versions",
        )
    return {
        "largest_logprob_difference": worst,
        "tolerance": tolerance,
        "within": worst <= tolerance,
        "n_tokens": len(ids),
        "against": "torch",
    }


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural-log probabilities of each row, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _export_float(checkpoint: Path, folder: Path, most_inline_bytes: int) -> bool:
    import onnx
    from optimum.exporters.onnx import main_export

    try:
        main_export(
            str(checkpoint),
            folder,
            task="text-generation-with-past",
            opset=OPSET,
            device="cpu",
            dtype="fp32",
            do_validation=False,  # its own only warns; `compare_with_torch` says by how much
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"optimum can't export {checkpoint}: {line}") from error
    gc.collect()
    carry(checkpoint, folder)
    model = onnx.load(folder / MODEL_FILE)
    for path in folder.glob(f"{MODEL_FILE}*"):
        path.unlink()
    return save_model(model, folder, most_inline_bytes)


def _halved(model: Any) -> Any:
    """Weights, activations and KV cache in float16; what a half can't hold stays float32.

    A norm squares its input, and positions beyond 2048 are not whole numbers any more.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    tell_shapes(model)
    kept = [node.name for node in model.graph.node if "norm/" in node.name or "rotary_emb/" in node.name]
    half = convert_float_to_float16(
        model, keep_io_types=False, node_block_list=kept, disable_shape_infer=True
    )
    OnnxModel(half).topological_sort()  # the casts it adds stand at the end
    join_casts(half)
    return half
