"""onnxruntime's dynamic 8-bit quantization, with the parts of it that a tied model needs added.

`quantize_dynamic` skips a transposed head, and gives an embedding one scale for the whole table. Here the
head is folded first; afterwards head and embedding read one table of 8-bit rows, each with its own scale.
"""

import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.quantize.onnx_graph import Graph, fold_head
from edgebench.quantize.onnx_model import MODEL_FILE, load_model
from edgebench.quantize.onnx_recipe import FLOAT, Recipe

TABLE = "model.embed_tokens.weight_int8"


def quantize_int8(model: Any, recipe: Recipe, folder: Path) -> Any:
    """The graph with MatMulInteger in place of MatMul; works in a temporary folder inside `folder`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = Graph(model)
    tied, head = graph.is_tied(), graph.head().name
    kept = [
        node.name
        for node in graph.graph.node
        if node.op_type == "MatMul" and any(fnmatchcase(node.name, pattern) for pattern in recipe["wide"])
    ]
    if recipe["head_bits"] == FLOAT:
        kept.append(head)
    else:
        fold_head(graph)
    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / MODEL_FILE
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=recipe["reduce_range"],
            weight_type=QuantType.QInt8,
            use_external_data_format=size_bytes >= 1 << 30,
            extra_options={"MatMulConstBOnly": True},
        )
        graph = Graph(load_model(path))
    if recipe["embedding_bits"] != FLOAT:
        _quantize_embedding(graph, share=tied and recipe["head_bits"] != FLOAT)
    graph.finish()
    return graph.model


def _quantize_embedding(graph: Graph, *, share: bool) -> None:
    """Look up 8-bit rows and their scales; the head's own rows, turned back, where it is tied."""
    from onnx import TensorProto, helper, numpy_helper

    node = graph.embedding()
    product = _head_product(graph) if share else None
    if product is not None:
        head, scale = product
        rows = numpy_helper.to_array(graph.weights[head]).T
        scales = numpy_helper.to_array(graph.weights[scale]).reshape(-1, 1)
        graph.hold(TABLE, rows)
        reader = next(n for n in graph.graph.node if head in n.input)
        turned = helper.make_node(
            "Transpose", [TABLE], [f"{TABLE}_turned"], f"{reader.name}/Transpose", perm=[1, 0]
        )
        reader.input[list(reader.input).index(head)] = f"{TABLE}_turned"
        again = helper.make_node("Identity", [], [])
        again.CopyFrom(reader)
        graph.replace(reader, [turned, again])
    else:
        rows = graph.matrix(graph.source(node.input[0])[0])
        scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.rint(rows / np.where(scales == 0, np.float32(1), scales))
        graph.hold(TABLE, np.clip(codes, -127, 127).astype(np.int8))
    graph.hold(f"{TABLE}_scales", scales.astype(np.float32))
    ids, name = node.input[1], node.name
    graph.replace(
        node,
        [
            helper.make_node("Gather", [TABLE, ids], [f"{name}/codes"], f"{name}/codes"),
            helper.make_node(
                "Cast", [f"{name}/codes"], [f"{name}/steps"], f"{name}/Cast", to=TensorProto.FLOAT
            ),
            helper.make_node("Gather", [f"{TABLE}_scales", ids], [f"{name}/scales"], f"{name}/scales"),
            helper.make_node("Mul", [f"{name}/steps", f"{name}/scales"], [node.output[0]], name),
        ],
    )


def _head_product(graph: Graph) -> tuple[str, str] | None:
    """The names of the head's 8-bit matrix [K, N] and of its N scales, as `quantize_dynamic` wrote them."""
    codes = "lm_head.weight_folded_quantized"
    scale = "lm_head.weight_folded_scale"
    zero = graph.weights.get("lm_head.weight_folded_zero_point")
    if codes not in graph.weights or scale not in graph.weights or zero is None:
        return None
    return codes, scale
