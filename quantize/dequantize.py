"""From a GGUF file back to a checkpoint folder in f32, tensor by tensor; runs in a tool environment.

Metadata this module can't carry over is an error, never a default: a model that is almost the same
gives almost the same text, and nobody would notice.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.paths import atomic_path, free_bytes
from edgebench.quantize.gguf_file import inspect_gguf
from edgebench.quantize.tokenizer import Progress, rebuild

_ROWS = 8192
"""Rows dequantized at a time: an embedding is by far the largest tensor of a small model."""

_COMMON = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_NEEDED = (
    *("context_length", "block_count", "feed_forward_length", "embedding_length"),
    *("attention.head_count", "attention.layer_norm_rms_epsilon"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """How a GGUF architecture's metadata and tensors become transformers'."""

    family: str
    model_class: str
    keys: Mapping[str, str]
    needed: tuple[str, ...]
    """Keys whose absence means one thing to llama.cpp and another to transformers, or nothing at all."""
    ones_in_norms: bool = False
    """The converter added 1 to the weights of norms."""
    permuted: bool = False
    """The rows of Q and K lie in another order."""


_ARCHITECTURES = {
    "llama": _Architecture(
        family="llama", model_class="LlamaForCausalLM", keys=_COMMON, needed=_NEEDED, permuted=True
    ),
    "gemma3": _Architecture(
        family="gemma3_text",
        model_class="Gemma3ForCausalLM",
        keys={
            **_COMMON,
            "attention.sliding_window": "sliding_window",
            "rope.freq_base_swa": "rope_local_base_freq",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        needed=(*_NEEDED, "rope.freq_base", "attention.key_length", "attention.sliding_window"),
        ones_in_norms=True,
    ),
}
_GEMMA3_LARGEST_LAYERS = 62
"""The one Gemma 3 whose attention is scaled by another rule."""


def dequantize(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """`{source: GGUF, target: folder}` -> `{family, level, n_tensors, n_params, tied}`.

    The folder has f32 safetensors, a tokenizer rebuilt from the metadata, and the licence the file names;
    it appears only when it is whole. The same file gives the same bytes.
    """
    from gguf import GGUFReader

    source, target = Path(job["source"]), Path(job["target"])
    facts = inspect_gguf(source)
    if facts.family not in _ARCHITECTURES:
        raise ModelError(
            f"{source} is of the architecture {facts.family!r}, which can't be turned into a checkpoint",
            f"give the original checkpoint; known are: {', '.join(sorted(_ARCHITECTURES))}",
        )
    if free_bytes(target.parent) < 5 * facts.n_params:
        raise ModelError(
            f"{target.parent} has no room for {source.name} in f32 ({5 * facts.n_params / 1e6:.0f} MB)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config = _config(source, fields, tied=tied)
    with atomic_path(target) as partial:
        partial.mkdir()
        rebuild(fields, partial, n_ctx=config.max_position_embeddings)
        named = _named(source, config, _ARCHITECTURES[facts.family], reader.tensors)
        _write(partial / "model.safetensors", named, _ARCHITECTURES[facts.family], config, progress)
        _write_companions(partial, config, fields)
    return {
        "family": config.model_type,
        "level": facts.level,
        "n_tensors": len(named),
        "n_params": facts.n_params,
        "tied": tied,
    }


def _config(source: Path, fields: Mapping[str, Any], *, tied: bool) -> Any:
    """transformers' configuration; ModelError for a number of the model that has no place in it."""
    import numpy as np
    from transformers import AutoConfig

    name = fields["general.architecture"]
    architecture = _ARCHITECTURES[name]
    needed = [f"{name}.{key}" for key in architecture.needed] + ["tokenizer.ggml.tokens"]
    if absent := [key for key in needed if key not in fields]:
        raise ModelError(f"{source} does not say its {', '.join(absent)}", "give the original checkpoint")
    told: dict[str, Any] = {"vocab_size": len(fields["tokenizer.ggml.tokens"])}
    for key, value in fields.items():
        if not key.startswith(f"{name}."):
            continue
        ours = architecture.keys.get(key.removeprefix(f"{name}."))
        if ours is None or told.get(ours, value) != value or isinstance(value, list):
            raise ModelError(
                f"{source} sets {key} = {str(value)[:40]}, which a checkpoint made from it would not have",
                "give the original checkpoint",
            )
        # The file keeps 32 bits: the shortest decimal that gives them is what the model's authors wrote.
        told[ours] = float(str(np.float32(value))) if isinstance(value, float) else value
    if name == "gemma3":
        largest = told.get("num_hidden_layers") == _GEMMA3_LARGEST_LAYERS
        width = told["hidden_size"] // told["num_attention_heads"]
        told["query_pre_attn_scalar"] = width if largest else told["head_dim"]
    ids = {f"{n}_token_id": fields.get(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos")}
    return AutoConfig.for_model(
        architecture.family,
        **told,
        **ids,
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=tied,
        architectures=[architecture.model_class],
        dtype="float32",
    )


def _named(source: Path, config: Any, architecture: _Architecture, tensors: Any) -> dict[str, Any]:
    """transformers' name -> the file's tensor: each exactly once, of the shape the model has."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    gguf_name = next(k for k, v in _ARCHITECTURES.items() if v is architecture)
    kind = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == gguf_name)
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    there = {tensor.name: tensor for tensor in tensors}
    named: dict[str, Any] = {}
    for name, shape in sorted(wanted.items()):
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        tensor = there.pop(theirs, None)
        found = tuple(int(n) for n in reversed(tensor.shape)) if tensor is not None else None
        if found != shape:
            raise ModelError(
                f"{source} can't become a checkpoint: tensor {name} should be {list(shape)}, "
                f"and {theirs} is {list(found) if found else 'not there'}"
            )
        named[name] = tensor
    if there:
        odd = ", ".join(list(there)[:3])
        raise ModelError(
            f"{source} has tensors a {config.model_type} checkpoint has no place for: {odd}",
            "give the original checkpoint",
        )
    return named


def _write(
    path: Path, named: Mapping[str, Any], architecture: _Architecture, config: Any, progress: Progress
) -> None:
    """A safetensors file, written as it is dequantized: no more than a piece of a tensor is in memory."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    n_bytes = 0
    for name, tensor in named.items():
        end = n_bytes + 4 * int(tensor.n_elements)
        shape = [int(n) for n in reversed(tensor.shape)]
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [n_bytes, end]}
        n_bytes = end
    raw = json.dumps(head, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the numbers begin at a multiple of eight
    written = 0
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(raw)) + raw)
        for name, tensor in named.items():
            for piece in _pieces(name, tensor, architecture, config):
                written += out.write(piece)
            progress(written / n_bytes)
    if written != n_bytes:
        raise ModelError(f"{path.name} holds {written} bytes of tensors instead of {n_bytes}")


def _pieces(name: str, tensor: Any, architecture: _Architecture, config: Any) -> Iterator[bytes]:
    """One tensor's numbers in f32, little-endian, some rows at a time."""
    import numpy as np
    from gguf import dequantize as to_f32

    rows = np.atleast_2d(tensor.data)  # still quantized; a row of it is a row of the matrix
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    n_heads = heads.get(name.split(".")[-2])
    if architecture.permuted and n_heads and name.endswith(".weight"):
        # llama.cpp keeps the two numbers that one angle turns side by side.
        order = np.arange(len(rows)).reshape(n_heads, -1, 2).swapaxes(1, 2).ravel()
        rows = rows[order]
    shift = 1.0 if architecture.ones_in_norms and name.endswith("norm.weight") else 0.0
    for at in range(0, len(rows), _ROWS):
        numbers = to_f32(np.ascontiguousarray(rows[at : at + _ROWS]), tensor.tensor_type)
        yield (numbers - np.float32(shift)).astype("<f4", copy=False).tobytes()


def _write_companions(folder: Path, config: Any, fields: Mapping[str, Any]) -> None:
    """Configuration, generation settings, and the licence where the file names one."""
    from transformers import GenerationConfig

    config.save_pretrained(folder)
    ids = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)
    if named := fields.get("general.license"):
        (folder / "README.md").write_text(f"---\nlicense: {named}\n---\n", encoding="utf-8")
