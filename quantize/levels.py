"""Levels by their tools' own names, and what a level's name promises about the tensors inside."""

LEVELS: dict[str, int] = {
    "f32": 0,
    "f16": 1,
    "bf16": 32,
    "q8_0": 7,
    "mxfp4_moe": 38,
    "q6_k": 18,
    "q5_k_m": 17,
    "q5_k_s": 16,
    "q5_1": 9,
    "q5_0": 8,
    "q4_k_m": 15,
    "q4_k_s": 14,
    "q4_1": 3,
    "q4_0": 2,
    "iq4_nl": 25,
    "iq4_xs": 30,
    "q3_k_l": 13,
    "q3_k_m": 12,
    "q3_k_s": 11,
    "iq3_m": 27,
    "iq3_s": 26,
    "iq3_xs": 22,
    "iq3_xxs": 23,
    "q2_k": 10,
    "q2_k_s": 21,
    "iq2_m": 29,
    "iq2_s": 28,
    "iq2_xs": 20,
    "iq2_xxs": 19,
    "q2_0": 41,
    "tq2_0": 37,
    "tq1_0": 36,
    "iq1_m": 31,
    "iq1_s": 24,
    "q1_0": 40,
}
"""Level -> `llama_ftype` of llama.h, widest first."""

NEEDS_IMATRIX = frozenset({"iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "iq3_xxs", "q2_k_s"})
"""Levels llama.cpp refuses, or makes useless files of, without an importance matrix."""

ONNX_LEVELS = ("onnx-fp32", "onnx-fp16", "onnx-int8", "onnx-nbits8", "onnx-nbits4")
"""Plain ONNX graphs with a KV cache, widest first."""
GENAI_LEVELS = ("genai-fp32", "genai-int8", "genai-int4")
"""onnxruntime-genai's layout: fused attention, a KV buffer shared between steps."""
ALL_LEVELS = (*LEVELS, *ONNX_LEVELS, *GENAI_LEVELS)

CLASSES = ("embedding", "head", "attention", "ffn", "norm", "other")
"""What tensors are for; bits per weight are shown for each."""

MOST_FALLBACK_SHARE = 0.05
"""Of the layers' weights: with more in other types than the level's, the file is not what its name says."""

SUPER_BLOCK = 256
"""K, IQ and TQ types quantize blocks of 256 along a row; a row that 256 does not divide falls back."""


def level_of(ftype: int) -> str | None:
    """The level's name for a file's `general.file_type`; None for one this list does not know."""
    return next((name for name, value in LEVELS.items() if value == ftype), None)


def needs_super_blocks(level: str) -> bool:
    """Whether the level's main type works on blocks of 256 (iq4_nl is the exception: 32)."""
    return ("_k" in level or level.startswith(("iq", "tq"))) and level != "iq4_nl"


def tensor_class(name: str) -> str:
    """One of `CLASSES` for a GGUF tensor's name."""
    if name.startswith("token_embd"):
        return "embedding"
    if name.startswith("output."):
        return "head"
    if "norm" in name:
        return "norm"
    part = name.split(".")[2] if name.startswith("blk.") and name.count(".") > 2 else name
    if part.startswith("attn"):
        return "attention"
    return "ffn" if part.startswith("ffn") else "other"
