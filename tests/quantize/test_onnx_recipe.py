from typing import Any

import pytest

from edgebench.core.errors import UsageError
from edgebench.quantize.genai_export import genai_recipe
from edgebench.quantize.onnx_recipe import DEFAULTS, recipe_of


def test_what_is_asked_for_replaces_the_levels_own() -> None:
    recipe = recipe_of("onnx-nbits4", {"block_size": 64, "wide": ["*/down_proj/*"]})

    assert recipe is not None
    assert (recipe["block_size"], recipe["wide"], recipe["bits"]) == (64, ["*/down_proj/*"], 4)
    assert DEFAULTS["onnx-nbits4"]["block_size"] == 32


def test_float_levels_have_no_recipe() -> None:
    assert recipe_of("onnx-fp16", None) is None
    assert genai_recipe("genai-fp32", None) is None
    with pytest.raises(UsageError, match="takes no recipe"):
        recipe_of("onnx-fp16", {"bits": 4})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"block": 32}, "unknown part of a recipe 'block'"),
        ({"block_size": 33}, "can't have block_size 33"),
        ({"bits": 8}, "can't have bits 8"),
        ({"symmetric": 1}, "can't have symmetric 1"),
        ({"head_bits": 5}, "can't have head_bits 5"),
        ({"wide": "down_proj"}, "is a list of patterns"),
    ],
)
def test_an_impossible_recipe_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        recipe_of("onnx-nbits4", asked)
    assert told in refused.value.message


def test_int8_leaves_its_blocks_to_onnxruntime() -> None:
    with pytest.raises(UsageError, match="can't have block_size 32"):
        recipe_of("onnx-int8", {"block_size": 32})


def test_genai_takes_the_builders_algorithms_only() -> None:
    recipe = genai_recipe("genai-int4", {"algorithm": "rtn"})
    assert recipe is not None
    assert recipe["algorithm"] == "rtn"
    with pytest.raises(UsageError, match="can't have algorithm 'gptq'"):
        genai_recipe("genai-int4", {"algorithm": "gptq"})
