"""What llama.cpp would silently compute otherwise than the checkpoint says: refused, or at least told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError

_PATTERN = {"gemma2": 2, "gemma3_text": 6}
"""Every so many layers, one sees the whole text; llama.cpp takes the number for granted."""
_LARGEST_LAYERS = {"gemma2": 46, "gemma3_text": 62}
"""The Gemma whose attention is scaled by the model's width instead of a head's, known by its layers."""
_ROPE_SCALINGS = {
    "llama": ("linear", "yarn", "llama3"),
    "granite": ("linear", "yarn", "llama3"),
    "qwen2": ("linear", "yarn"),
    "qwen3": ("linear", "yarn"),
    "phi3": ("longrope", "su", "yarn"),
    "gemma3_text": ("linear",),
}


def check_losses(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Notes on what a GGUF of this checkpoint does otherwise. ModelError where it would be another model."""
    family = str(config.get("model_type"))
    for key, told, computed in _differences(family, config):
        if told is not None and told != computed:
            raise ModelError(
                f"a GGUF of {folder} would be another model: config.json says {key} = {told!r}, "
                f"and llama.cpp computes {family} with {computed!r}",
                "export it to ONNX instead",
            )
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default" and kind not in _ROPE_SCALINGS.get(family, ()):
        raise ModelError(
            f"a GGUF of {folder} would be another model: rope scaling {kind!r} of {family} gets lost",
            "export it to ONNX instead",
        )
    window = config.get("sliding_window")
    windowed = config.get("use_sliding_window") if family.startswith("qwen") else family == "phi3"
    longest = config.get("max_position_embeddings", 0)
    if windowed and isinstance(window, int) and window < longest:
        return [
            f"llama.cpp ignores the sliding window of {family}: texts of more than {window} tokens differ"
        ]
    return []


def _differences(family: str, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, what the checkpoint says, what llama.cpp computes) of what a GGUF does not carry."""
    if family not in _PATTERN:
        return [("hidden_act", config.get("hidden_act"), "silu")]
    n_layers, every = config.get("num_hidden_layers", 0), _PATTERN[family]
    scalar = config.get("head_dim", 256)
    if n_layers == _LARGEST_LAYERS[family]:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    kinds = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(n_layers)]
    return [
        ("hidden_activation", config.get("hidden_activation"), "gelu_pytorch_tanh"),
        ("query_pre_attn_scalar", config.get("query_pre_attn_scalar", 256), scalar),
        ("layer_types", config.get("layer_types"), kinds),
        ("tie_word_embeddings", config.get("tie_word_embeddings"), True),
    ]
