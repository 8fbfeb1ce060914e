"""Changing an ONNX graph: quantized weights in place of float ones, the tied output head included.

Exporters write a tied head as a Transpose of the embedding, so its MatMul has no constant weight and plain
quantizers skip it: the largest matrix of a small model. Here the matrix is packed once, and where head and
embedding have the same bits both read that.
"""

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from edgebench.core.errors import ModelError
from edgebench.quantize.onnx_blocks import BLOCKS, Floats, Packed, pack_rows, pack_with_offsets, unpack_rows
from edgebench.quantize.onnx_recipe import FLOAT, Recipe

DOMAIN = "com.microsoft"
_N_ROWS_AT_ONCE = 4096
_PASSED = ("Cast", "Mul", "Div", "Tanh", "Add", "Sub", "Identity", "Reshape")
"""What may stand between the head's product and the logits: scaling, capping, a bias."""


class Graph:
    """A ModelProto with the look-ups that changing it needs."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.graph
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self._changed: dict[str, list[Any]] = {}

    def head(self) -> Any:
        """The product that makes the logits. ModelError where there is none."""
        outputs = [output.name for output in self.graph.output]
        node = self.makers.get("logits" if "logits" in outputs else outputs[0])
        while node is not None and node.op_type in _PASSED:
            node = next((self.makers[name] for name in node.input if name in self.makers), None)
        if node is None or node.op_type not in ("MatMul", "MatMulNBits"):
            raise ModelError("the graph has no output head: no MatMul makes its logits")
        return node

    def has_float_embedding(self) -> bool:
        """Whether tokens are still looked up in a float table."""
        return any(node.op_type == "Gather" and node.input[1] == "input_ids" for node in self.graph.node)

    def embedding(self) -> Any:
        """The Gather that looks tokens up. ModelError where there is none."""
        for node in self.graph.node:
            if node.op_type == "Gather" and node.input[1] == "input_ids":
                return node
        raise ModelError("the graph has no embedding: no Gather looks its input_ids up")

    def source(self, name: str) -> tuple[str, bool]:
        """The constant behind a name, and whether a Transpose stands between; "" where there is none."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Transpose":
            return (maker.input[0], True) if maker.input[0] in self.weights else ("", False)
        return (name, False) if name in self.weights else ("", False)

    def rows(self, node: Any) -> Floats | None:
        """A MatMul's constant matrix, a row for each output; None where it is not constant."""
        name, turned = self.source(node.input[1])
        if not name or len(self.weights[name].dims) != 2:
            return None
        return self.matrix(name) if turned else self.matrix(name).T

    def matrix(self, name: str) -> Floats:
        """A constant's value."""
        from onnx import numpy_helper

        value: Floats = numpy_helper.to_array(self.weights[name]).astype(np.float32, copy=False)
        return value

    def is_tied(self) -> bool:
        """Whether the head reads the very constant the embedding reads."""
        return self.source(self.head().input[1])[0] == self.source(self.embedding().input[0])[0] != ""

    def hold(self, name: str, value: Any) -> str:
        """Add a constant; gives its name."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.graph.initializer.append(tensor)
        self.weights[name] = self.graph.initializer[-1]
        return name

    def replace(self, node: Any, nodes: Sequence[Any]) -> None:
        """Put nodes in a node's place, at the next `finish`; the last makes what it made."""
        self._changed[node.output[0]] = list(nodes)

    def finish(self) -> None:
        """Put the replacements in, drop what nothing reads any more."""
        nodes: list[Any] = []
        for node in self.graph.node:
            nodes += self._changed.get(node.output[0], [node]) if node.output else [node]
        self._changed.clear()
        read = {output.name for output in self.graph.output}
        kept = []
        for node in reversed(nodes):  # readers stand after makers
            if read & set(node.output):
                kept.append(node)
                read |= set(node.input) | _read_inside(node)
        kept.reverse()
        del self.graph.node[:]
        self.graph.node.extend(kept)
        for i in range(len(self.graph.initializer) - 1, -1, -1):
            if self.graph.initializer[i].name not in read:
                del self.graph.initializer[i]
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def use_contrib(self) -> None:
        """Allow onnxruntime's own operators."""
        if all(opset.domain != DOMAIN for opset in self.model.opset_import):
            opset = self.model.opset_import.add()
            opset.domain, opset.version = DOMAIN, 1


def fold_head(graph: Graph) -> bool:
    """Give a transposed head a constant of its own, so that quantizers see it; False: it had one."""
    from onnx import helper

    node = graph.head()
    name, turned = graph.source(node.input[1])
    if not name or not turned:
        return False
    folded = graph.hold("lm_head.weight_folded", graph.matrix(name).T)
    new = helper.make_node("MatMul", [node.input[0], folded], [node.output[0]], name=node.name)
    graph.replace(node, [new])
    graph.finish()
    return True


def pack_graph(graph: Graph, recipe: Recipe, progress: Callable[[float], None]) -> None:
    """MatMul becomes MatMulNBits, the embedding's Gather GatherBlockQuantized, as the recipe says."""
    head, embedding = graph.head(), graph.embedding()
    shared = graph.is_tied() and recipe["head_bits"] == recipe["embedding_bits"] != FLOAT
    todo = [node for node in graph.graph.node if node.op_type == "MatMul" and graph.rows(node) is not None]
    n_readers: dict[str, int] = {}
    for node in todo:
        name = graph.source(node.input[1])[0]
        n_readers[name] = n_readers.get(name, 0) + 1
    table = graph.source(embedding.input[0])[0]
    n_readers[table] = n_readers.get(table, 0) + 1
    head_packed: tuple[list[str], int, int] | None = None
    for i, node in enumerate(todo):
        is_head = node.output[0] == head.output[0]
        n_bits = recipe["head_bits"] if is_head else bits_of(node.name, recipe)
        rows = graph.rows(node)
        if n_bits != FLOAT and rows is not None:
            n_block = row_block(rows.shape[1], recipe["block_size"]) if is_head else recipe["block_size"]
            # Eight bits have levels enough; and an offset's blocks can't be filled up.
            if not is_head and n_bits < 8 and recipe["zeros"] == "offset" and not recipe["symmetric"]:
                n_block = row_block(rows.shape[1], n_block)
                graph.replace(node, _product_with_offsets(graph, node, rows, n_bits, n_block, recipe))
            else:
                names = _hold_packed(graph, _module(node.name), _pack(rows, n_bits, n_block, recipe))
                graph.replace(node, [_product(node, names, rows.shape, n_bits, n_block, recipe)])
            if is_head:
                head_packed = names, n_bits, n_block
            elif n_readers[graph.source(node.input[1])[0]] == 1:
                graph.weights[graph.source(node.input[1])[0]].ClearField("raw_data")  # memory for the next
        progress((i + 1) / (len(todo) + 1))
    if recipe["embedding_bits"] != FLOAT and table:
        _pack_embedding(graph, embedding, table, recipe, head_packed if shared else None)
    graph.use_contrib()
    graph.finish()


def bits_of(name: str, recipe: Recipe) -> int:
    """The bits of a layer's product: the recipe's, or the next wider where its name is among the `wide`."""
    wide = any(fnmatchcase(name, pattern) for pattern in recipe["wide"])
    return {4: 8, 8: FLOAT}[recipe["bits"]] if wide else recipe["bits"]


def row_block(n_columns: int, n_block: int) -> int:
    """The largest block, `n_block` at most, that divides a row: a looked-up row can't have a filled end."""
    fitting = [n for n in BLOCKS if n <= n_block and n_columns % n == 0]
    if not fitting:
        raise ModelError(f"rows of {n_columns} weights can't be quantized: {BLOCKS[0]} does not divide them")
    return max(fitting)


def share_packed_head(graph: Graph) -> bool:
    """Let a float embedding read its tied head's packed rows; False where that can't be."""
    head, embedding = graph.head(), graph.embedding()
    table = graph.source(embedding.input[0])[0]
    if head.op_type != "MatMulNBits" or not table:
        return False
    number = {a.name: a.i for a in head.attribute}
    shape = list(graph.weights[table].dims)
    if graph.source(embedding.input[0])[1]:
        shape.reverse()
    if shape != [number["N"], number["K"]] or number["K"] % number["block_size"]:
        return False
    packed = [str(name) for name in head.input[1:4]], number["bits"], number["block_size"]
    rows = graph.matrix(table).T if graph.source(embedding.input[0])[1] else graph.matrix(table)
    if not _stands_for(graph, packed[0], rows, number["bits"]):
        return False  # two matrices of one shape
    graph.replace(embedding, _look_up(graph, embedding, *packed))
    graph.finish()
    return True


def _stands_for(graph: Graph, names: Sequence[str], rows: Floats, n_bits: int) -> bool:
    """Whether packed rows are these rows, each weight to a step."""
    from onnx import numpy_helper

    weights, scales, *zeros = (numpy_helper.to_array(graph.weights[name]) for name in names)
    weights, scales = weights.reshape(len(rows), scales.size // len(rows), -1), scales.reshape(len(rows), -1)
    for start in range(0, len(rows), _N_ROWS_AT_ONCE):
        part = slice(start, start + _N_ROWS_AT_ONCE)
        zero = zeros[0].reshape(len(rows), -1)[part] if zeros else None
        packed = Packed(weights=weights[part], scales=scales[part], zeros=zero)
        error = np.abs(unpack_rows(packed, n_bits=n_bits, n_columns=rows.shape[1]) - rows[part])
        steps = np.repeat(np.abs(scales[part]), rows.shape[1] // scales.shape[1], axis=1)
        if (error > 1.01 * steps + 1e-7).any():
            return False
    return True


def _pack(rows: Floats, n_bits: int, n_block: int, recipe: Recipe) -> Packed:
    # With 256 levels there is nothing to win by `fit`, nor by zero points where the layers have four bits.
    method = recipe["method"] if n_bits < 8 else "round"
    symmetric = recipe["symmetric"] or n_bits > recipe["bits"]
    return pack_rows(rows, n_bits=n_bits, n_block=n_block, symmetric=symmetric, method=method)


def _hold_packed(graph: Graph, module: str, packed: Packed) -> list[str]:
    names = [
        graph.hold(f"{module}.weight_packed", packed.weights),
        graph.hold(f"{module}.weight_scales", packed.scales),
    ]
    if packed.zeros is not None:
        names.append(graph.hold(f"{module}.weight_zeros", packed.zeros))
    return names


def _product(
    node: Any, names: Sequence[str], shape: tuple[int, ...], n_bits: int, n_block: int, recipe: Recipe
) -> Any:
    from onnx import helper

    level = {"accuracy_level": recipe["accuracy_level"]} if recipe["accuracy_level"] else {}
    return helper.make_node(
        "MatMulNBits",
        [node.input[0], *names],
        [node.output[0]],
        name=node.name,
        domain=DOMAIN,
        N=shape[0],
        K=shape[1],
        bits=n_bits,
        block_size=n_block,
        **level,
    )


def _product_with_offsets(
    graph: Graph, node: Any, rows: Floats, n_bits: int, n_block: int, recipe: Recipe
) -> list[Any]:
    """A symmetric product, and the blocks' sums of its input times the blocks' offsets.

    MatMulNBits takes float zero points as well, but unpacks the whole matrix for every token then.
    """
    from onnx import helper

    packed, offsets = pack_with_offsets(rows, n_bits=n_bits, n_block=n_block)
    module, name, x = _module(node.name), node.name, node.input[0]
    names = _hold_packed(graph, module, packed)
    # Kept as halves: onnxruntime widens constants once, when it loads.
    half = graph.hold(f"{module}.weight_offsets", offsets.T.astype(np.float16))
    shape = f"edgebench.blocks_{rows.shape[1] // n_block}_{n_block}"
    if shape not in graph.weights:
        graph.hold(shape, np.array([0, 0, rows.shape[1] // n_block, n_block], np.int64))
    if (axis := "edgebench.last_axis") not in graph.weights:
        graph.hold(axis, np.array([-1], np.int64))
    product = _product(node, names, rows.shape, n_bits, n_block, recipe)
    product.output[0] = f"{name}/packed"
    return [
        product,
        helper.make_node("Reshape", [x, shape], [f"{name}/blocks"], f"{name}/Reshape"),
        helper.make_node(
            "ReduceSum",
            [f"{name}/blocks", "edgebench.last_axis"],
            [f"{name}/sums"],
            f"{name}/Sum",
            keepdims=0,
        ),
        helper.make_node("Cast", [half], [f"{name}/offsets"], f"{name}/Cast", to=1),
        helper.make_node("MatMul", [f"{name}/sums", f"{name}/offsets"], [f"{name}/shift"], f"{name}/offset"),
        helper.make_node("Add", [f"{name}/packed", f"{name}/shift"], [node.output[0]], f"{name}/Add"),
    ]


def _pack_embedding(
    graph: Graph, node: Any, table: str, recipe: Recipe, head: tuple[list[str], int, int] | None
) -> None:
    if head is None:
        rows = graph.matrix(table).T if graph.source(node.input[0])[1] else graph.matrix(table)
        n_bits, n_block = recipe["embedding_bits"], row_block(rows.shape[1], recipe["block_size"])
        names = _hold_packed(graph, "model.embed_tokens", _pack(rows, n_bits, n_block, recipe))
        head = names, n_bits, n_block
    graph.replace(node, _look_up(graph, node, *head))


def _look_up(graph: Graph, node: Any, names: Sequence[str], n_bits: int, n_block: int) -> list[Any]:
    """Nodes that look up rows packed for a product: onnxruntime folds the Reshape when it loads."""
    from onnx import helper

    weights, scales, *zeros = names
    dims = list(graph.weights[weights].dims)
    shape = graph.hold("model.embed_tokens.shape", np.array([dims[0], math.prod(dims[1:])], np.int64))
    flat = "model.embed_tokens.weight_flat"
    return [
        helper.make_node("Reshape", [weights, shape], [flat], name=f"{node.name}/Reshape"),
        helper.make_node(
            "GatherBlockQuantized",
            [flat, node.input[1], scales, *zeros],
            [node.output[0]],
            name=node.name,
            domain=DOMAIN,
            bits=n_bits,
            block_size=n_block,
            gather_axis=0,
            quantize_axis=1,
        ),
    ]


def _module(name: str) -> str:
    """`model.layers.0.mlp.up_proj` of the node `/model/layers.0/mlp/up_proj/MatMul`."""
    return name.removesuffix("/MatMul").strip("/").replace("/", ".")


def _read_inside(node: Any) -> set[str]:
    """What the graphs inside a node (branches, loops) read."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= set(inner.input) | _read_inside(inner)
    return names


def join_casts(model: Any) -> None:
    """Let nodes that stay in float32 hand on float32: the converter puts a half between each two of them."""
    from onnx import TensorProto

    def to(node: Any) -> int:
        return next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0

    graph = Graph(model)
    direct: dict[str, str] = {}
    for node in graph.graph.node:
        half = graph.makers.get(node.input[0]) if node.input else None
        inserted = half is not None and half.name.endswith("_cast_to_fp16_node")
        if to(node) == TensorProto.FLOAT and half is not None and inserted:
            direct[node.output[0]] = half.input[0]
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            if name in direct:
                node.input[i] = direct[name]
    graph.finish()
