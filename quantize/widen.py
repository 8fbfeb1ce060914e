"""A test model whose ladder is genuine, made without training from a real Llama checkpoint.

K-, IQ- and T-quants work on blocks of 256 along a row. Where 256 does not divide the width, most tensors
fall back to other types, and a ladder of such a model says little. Here the model is widened by zeros,
which keeps its function: the padded RMSNorm sees a mean square that is r = width / new width of what it
was, so a norm weight times √r and an epsilon times r give the old numbers, and added heads give zeros.

A checkpoint that was dequantized lies on the grid of its old level, which flatters every quantizer that
has as many steps. Dithering moves each weight of the projections at random inside its step: that model
is a new one, as if it had been quantized once more, and what is measured on it is the quantizer's.
"""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.paths import atomic_path, free_bytes
from edgebench.quantize.checkpoint import COMPANIONS, CONFIG, Checkpoint, read_checkpoint
from edgebench.quantize.safetensors_header import read_header

Progress = Callable[[float], None]

GROUP = 32
"""Weights along a row that share a step in Q4_1."""
N_STEPS = 15
"""Steps between a group's smallest and largest weight, with 4 bits."""

Weights = npt.NDArray[np.float32]


def widen(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Write the widened (and, unless `dither` is false, dithered) model of a Llama checkpoint.

    Runs in a tool environment. The same checkpoint, width and seed give the same bytes.
    """
    source, target = read_checkpoint(Path(job["checkpoint"])), Path(job["target"])
    width, dither, seed = int(job.get("width", 768)), bool(job.get("dither", True)), int(job.get("seed", 0))
    config = json.loads((source.folder / CONFIG).read_text(encoding="utf-8"))
    wide = _widened_config(config, width)
    room_bytes = 4 * source.n_params * width // int(config["hidden_size"])
    if free_bytes(target.parent) < room_bytes:
        raise ModelError(
            f"{target.parent} has no room for the widened model ({room_bytes / 1e6:.0f} MB)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )
    made: dict[str, Weights] = {}
    with atomic_path(target) as part:
        part.mkdir()
        for name, weights, done in _weights(source):
            kept = _dithered(weights, name, seed) if dither and name.endswith("_proj.weight") else weights
            made[name] = _padded(kept, _shape(name, kept.shape, config, wide), width)
            progress(0.9 * done)
        _save(made, part / "model.safetensors")
        (part / CONFIG).write_text(json.dumps(wide, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for file in (source.folder / name for name in COMPANIONS):
            if file.is_file():
                shutil.copyfile(file, part / file.name)
    progress(1)
    return {
        "folder": str(target),
        "width": width,
        "dither": dither,
        "seed": seed,
        "n_params": sum(weights.size for weights in made.values()),
    }


def _widened_config(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The configuration of the wide model; ModelError where widening would not keep the function."""
    if config.get("model_type") != "llama":
        raise ModelError(f"only Llama models can be widened, not {config.get('model_type')!r}")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ModelError("a model with biases can't be widened")
    old, n_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    n_kv_heads = int(config.get("num_key_value_heads") or n_heads)
    head = int(config.get("head_dim") or old // n_heads)
    if head * n_heads != old or width % head or width * n_kv_heads % old or width <= old:
        raise ModelError(
            f"a model {old} wide with {n_heads} heads ({n_kv_heads} of keys) can't become {width} wide",
            "a width that keeps the size of a head, and the share of heads that hold keys, is needed",
        )
    return {
        **config,
        "hidden_size": width,
        "num_attention_heads": width // head,
        "num_key_value_heads": width * n_kv_heads // old,
        "head_dim": head,
        "rms_norm_eps": float(config["rms_norm_eps"]) * old / width,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _shape(
    name: str, shape: tuple[int, ...], config: Mapping[str, Any], wide: Mapping[str, Any]
) -> tuple[int, ...]:
    """The wide shape of a tensor. Its name tells: sizes that happen to be equal must not be mixed up."""
    old, new = int(config["hidden_size"]), int(wide["hidden_size"])
    head = int(wide["head_dim"])
    key_rows = head * int(wide["num_key_value_heads"])
    match name.split(".")[-2:]:
        case ["q_proj" | "o_proj", "weight"]:
            wanted: tuple[int, ...] = (new, new)
        case ["k_proj" | "v_proj", "weight"]:
            wanted = (key_rows, new)
        case ["gate_proj" | "up_proj" | "embed_tokens" | "lm_head", "weight"]:
            wanted = (shape[0], new)
        case ["down_proj", "weight"]:
            wanted = (new, shape[1])
        case [norm, "weight"] if norm.endswith("norm") and shape == (old,):
            wanted = (new,)
        case _:
            raise ModelError(f"the checkpoint holds {name}, which no Llama model has")
    if len(wanted) != len(shape) or any(n > w for n, w in zip(shape, wanted, strict=True)):
        raise ModelError(f"{name} is {shape}, which does not go with the checkpoint's config.json")
    return wanted


def _weights(source: Checkpoint) -> Iterator[tuple[str, Weights, float]]:
    """Name and f32 weights of one tensor after the other, and the share of the files that is read."""
    from safetensors import safe_open

    files = [path for path in source.files if path.suffix == ".safetensors"]
    for i, path in enumerate(files):
        names = sorted(read_header(path))
        with safe_open(path, framework="pt") as file:  # numpy knows no bf16
            for k, name in enumerate(names):
                yield name, file.get_tensor(name).float().numpy(), (i + (k + 1) / len(names)) / len(files)


def _dithered(weights: Weights, name: str, seed: int) -> Weights:
    """Each weight moved inside its step; every tensor has a stream of its own, whatever the order."""
    n_rows, n_columns = weights.shape
    if n_columns % GROUP:
        raise ModelError(f"{name} has rows of {n_columns}, which are no whole groups of {GROUP}")
    groups = weights.reshape(n_rows, n_columns // GROUP, GROUP)
    steps = (groups.max(axis=2, keepdims=True) - groups.min(axis=2, keepdims=True)) / np.float32(N_STEPS)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = generator.random(groups.shape, dtype=np.float32) - np.float32(0.5)
    moved: Weights = (groups + noise * steps).reshape(weights.shape)
    return moved


def _padded(weights: Weights, shape: tuple[int, ...], width: int) -> Weights:
    """The weights in the first corner of zeros; a norm's are scaled for the smaller mean square."""
    padded = np.zeros(shape, dtype=np.float32)
    if weights.ndim == 1:
        weights = weights * np.float32(math.sqrt(weights.size / width))
    padded[tuple(slice(n) for n in weights.shape)] = weights
    return padded


def _save(weights: Mapping[str, Weights], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(dict(weights), path, metadata={"format": "pt"})
