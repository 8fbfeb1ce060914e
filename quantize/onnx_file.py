"""What is really inside an ONNX folder: its weights, what they take, and what each part of the model has."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.json_file import read_object
from edgebench.quantize.checkpoint import chat_template_sha256
from edgebench.quantize.levels import CLASSES
from edgebench.quantize.onnx_header import Constant, DamagedError, Header, Node, read_header

MODEL_FILE, GENAI_FILE = "model.onnx", "genai_config.json"
_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "MatMulNBits", "Conv")
_LOOK_UPS = ("Gather", "GatherBlockQuantized")
_PASSING = ("Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze", "DequantizeLinear", "Slice")
"""What may stand between a constant and the operation it is a weight of."""
_BESIDE = re.compile(r"(_|\.)(scales?|zero_points?|zeros|zp|offsets?)$")
"""Names of what belongs to a quantized matrix."""
_TABLES = re.compile(r"(cos|sin)_cache")
"""Computed, not learnt: they take space and are no weights."""
_PARTS = (
    ("norm", re.compile(r"norm", re.IGNORECASE)),
    ("head", re.compile(r"lm_head|output_projection", re.IGNORECASE)),
    ("embedding", re.compile(r"embed|wte", re.IGNORECASE)),
    ("attention", re.compile(r"attn|attention|rotary", re.IGNORECASE)),
    ("ffn", re.compile(r"mlp|ffn|feed_forward|experts|fc\d", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInspection:
    """Facts read from one folder."""

    family: str
    layout: str
    """`plain` (optimum's) or `genai`."""
    n_params: int
    """Weights; of packed ones, what they stand for; a tied matrix stored twice counts once."""
    size_bytes: int
    """Of the graph and the files its weights are in."""
    bits_per_weight: float
    tensor_types: dict[str, int]
    """Type -> number of weights' tensors: {"NBITS4": 210, "FLOAT": 61}."""
    bits_per_class: dict[str, float]
    """Bits per weight of each class of tensors that is there (`levels.CLASSES`), scales included."""
    kv_bytes_per_token: int | None
    chat_template_sha256: str | None
    files: tuple[str, ...]
    """What belongs to the model, relative to the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """A constant as part of the model."""

    part: str
    kind: str
    n_weights: int
    size_bytes: int
    also: str = ""
    """The second part that reads the same constant: a tied head."""


def inspect_onnx(folder: Path) -> OnnxInspection:
    """Read the graph's head and the configuration. ModelError when the folder is not whole."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ModelError(
            f"no {MODEL_FILE} in {folder}", "an ONNX model is a folder with its graph and tokenizer"
        )
    try:
        header = read_header(path)
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from error
    except DamagedError as error:
        raise ModelError(f"{path} is damaged or cut short: {error}", "export the model again") from error
    config, genai = (read_object(folder / name, missing_ok=True) for name in ("config.json", GENAI_FILE))
    weights = _weights(header)
    n_params = _n_params(weights, tied=bool(config.get("tie_word_embeddings")))
    if not n_params:
        raise ModelError(f"{path} holds no weights")
    parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for weight in weights:
        for part in {weight.part, weight.also or weight.part}:
            parts[part][0] += weight.n_weights
            parts[part][1] += weight.size_bytes
    return OnnxInspection(
        family=str(config.get("model_type") or genai.get("model", {}).get("type") or "unknown"),
        layout="genai" if genai else "plain",
        n_params=n_params,
        size_bytes=sum((folder / name).stat().st_size for name in (MODEL_FILE, *header.data_files)),
        bits_per_weight=8 * sum(weight.size_bytes for weight in weights) / n_params,
        tensor_types=dict(Counter(w.kind for w in weights if w.n_weights).most_common()),
        bits_per_class={p: 8 * parts[p][1] / parts[p][0] for p in CLASSES if p in parts and parts[p][0]},
        kv_bytes_per_token=_kv_bytes_per_token(config),
        chat_template_sha256=chat_template_sha256(folder),
        files=tuple(sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))),
    )


def _weights(header: Header) -> list[_Weight]:
    """Every constant that is a weight or belongs to one."""
    readers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in header.nodes:
        for slot, name in enumerate(node.inputs):
            readers[name].append((node, slot))
    found = []
    for constant in header.constants:
        uses = list(_uses(constant.name, readers))
        no_weight = _TABLES.search(constant.name) or constant.kind == "INT64"
        named = set() if no_weight else {_part(node, slot) for node, slot in uses}
        parts = sorted(named, key=CLASSES.index)
        n_weights, kind = _meaning(constant, uses)
        first, *more = parts or ["other"]
        also = "head" if first == "embedding" and "head" in more else ""
        found.append(
            _Weight(part=first, kind=kind, n_weights=n_weights, size_bytes=constant.size_bytes, also=also)
        )
    return found


def _uses(
    name: str, readers: Mapping[str, list[tuple[Node, int]]], depth: int = 4
) -> "list[tuple[Node, int]]":
    """The operations a constant is read by, through what only reshapes it."""
    uses: list[tuple[Node, int]] = []
    for node, slot in readers.get(name, ()):
        if node.operator in _PASSING and slot == 0 and depth:
            for output in node.outputs:
                uses += _uses(output, readers, depth - 1)
        else:
            uses.append((node, slot))
    return uses


def _meaning(constant: Constant, uses: "list[tuple[Node, int]]") -> tuple[int, str]:
    """How many weights a constant stands for, and what its type is called."""
    packed = [node.numbers for node, slot in uses if node.operator == "MatMulNBits" and slot == 1]
    if packed:
        numbers = packed[0]
        return numbers.get("N", 0) * numbers.get("K", 0), f"NBITS{numbers.get('bits', 4)}"
    looked_up = [node.numbers for node, slot in uses if node.operator == "GatherBlockQuantized" and slot == 0]
    if looked_up:
        n_bits = looked_up[0].get("bits", 4)
        n_each = 8 // n_bits if constant.kind == "UINT8" and n_bits in (2, 4, 8) else 1
        return constant.n_elements * n_each, f"NBITS{n_bits}"
    if any(node.operator in ("MatMulNBits", "GatherBlockQuantized") and slot >= 2 for node, slot in uses):
        return 0, constant.kind
    if not constant.shape or _BESIDE.search(constant.name) or _TABLES.search(constant.name):
        return 0, constant.kind
    is_weight = constant.kind in _FLOATS or any(node.operator in _PRODUCTS + _LOOK_UPS for node, _ in uses)
    is_weight = is_weight and constant.kind not in ("INT64", "INT32", "BOOL") and constant.n_elements > 1
    return (constant.n_elements if is_weight else 0), constant.kind


def _part(node: Node, slot: int) -> str:
    if node.operator in _LOOK_UPS and "input_ids" in node.inputs and slot != 1:
        return "embedding"
    for part, pattern in _PARTS:
        if pattern.search(node.name) and not (part == "norm" and node.operator in _PRODUCTS):
            return part
    return "other"


def _n_params(weights: list[_Weight], *, tied: bool) -> int:
    n_params = sum(weight.n_weights for weight in weights)
    heads = sum(w.n_weights for w in weights if w.part == "head")
    tables = sum(w.n_weights for w in weights if w.part == "embedding")
    return n_params - heads if tied and heads == tables else n_params


def _kv_bytes_per_token(config: Mapping[str, Any]) -> int | None:
    """2 (K and V) x layers x KV heads x head's width x 2 bytes; None when a number is missing."""
    text = config.get("text_config") or config
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    numbers = [n for name in names if isinstance(n := text.get(name), int) and n > 0]
    if len(numbers) < len(names):
        return None
    n_layers, n_heads, width = numbers
    n_kv = text.get("num_key_value_heads") or n_heads
    return int(4 * n_layers * n_kv * (text.get("head_dim") or width // n_heads))
