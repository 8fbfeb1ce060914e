"""How an ONNX graph is quantized: what may be asked for, and what is taken when nothing is."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from edgebench.core.errors import UsageError, nearest
from edgebench.quantize.onnx_blocks import BITS, BLOCKS, METHODS

FLOAT = 32
"""As a number of bits: not quantized."""


class Recipe(TypedDict):
    """Recorded with the artifact, as JSON."""

    bits: int
    block_size: int
    """Weights that share a scale; 0: a whole row (int8)."""
    symmetric: bool
    zeros: str
    """`whole` zero points, or an `offset`: a float of each block, added by a small product beside. Ignored
    where symmetric; head and embedding have whole ones."""
    method: str
    """`round`, or `fit`: of several ranges of a block, the one that leaves the smallest squared error."""
    accuracy_level: int
    """MatMulNBits' own attribute: 4 computes in 8-bit integers, 0 in float."""
    head_bits: int
    embedding_bits: int
    reduce_range: bool
    """int8 weights of 7 bits: without it sums overflow on x86 processors that lack VNNI."""
    wide: list[str]
    """Patterns of node names that stay wider: 8 bits where the others have 4, float where they have 8."""


NBITS4 = Recipe(
    bits=4,
    block_size=32,
    symmetric=False,
    zeros="whole",
    method="fit",
    accuracy_level=4,
    head_bits=8,
    embedding_bits=8,
    reduce_range=False,
    wide=[],
)
NBITS8 = NBITS4 | Recipe(bits=8, symmetric=True, method="round")  # type: ignore[typeddict-item]
INT8 = NBITS8 | Recipe(block_size=0, accuracy_level=0, reduce_range=True)  # type: ignore[typeddict-item]
DEFAULTS: Mapping[str, Recipe] = {"onnx-nbits4": NBITS4, "onnx-nbits8": NBITS8, "onnx-int8": INT8}
_ALLOWED: Mapping[str, tuple[object, ...]] = {
    "block_size": BLOCKS,
    "symmetric": (True, False),
    "zeros": ("whole", "offset"),
    "method": METHODS,
    "accuracy_level": (0, 1, 2, 3, 4),
    "head_bits": (*BITS, FLOAT),
    "embedding_bits": (*BITS, FLOAT),
}


def recipe_of(level: str, asked: Mapping[str, Any] | None) -> Recipe | None:
    """The level's recipe with what was asked for in its place; None for levels that have none.

    UsageError for a key nobody knows, a value that is not possible, or one the level does not leave open.
    """
    asked = asked or {}
    if level not in DEFAULTS:
        if asked:
            raise UsageError(f"{level} takes no recipe", f"levels that do: {', '.join(DEFAULTS)}")
        return None
    recipe = dict(DEFAULTS[level])
    for key, value in asked.items():
        if key not in recipe:
            raise nearest(key, recipe, kind="part of a recipe")
        allowed = _allowed(level, key, recipe)
        if key == "wide":
            if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
                raise UsageError("a recipe's `wide` is a list of patterns of node names")
        elif value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            known = ", ".join(map(str, allowed))
            raise UsageError(f"a recipe for {level} can't have {key} {value!r}", f"possible: {known}")
        recipe[key] = value
    return cast("Recipe", recipe)


def _allowed(level: str, key: str, recipe: Mapping[str, Any]) -> tuple[object, ...]:
    if key == "bits":
        return (recipe["bits"],)
    if level == "onnx-int8":
        # onnxruntime's dynamic quantization: a scale for each row, and 8 bits or none.
        if key in ("head_bits", "embedding_bits"):
            return (8, FLOAT)
        if key == "reduce_range":
            return (True, False)
        return (recipe.get(key),)
    return _ALLOWED.get(key, (recipe[key],))
