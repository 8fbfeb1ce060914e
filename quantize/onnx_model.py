"""An ONNX model's file: read whole, written with its weights inside or beside it."""

from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
MOST_INLINE_BYTES = 2_000_000_000
"""A protobuf message can't pass 2 GiB; the weights of a larger model go to a file beside the graph."""
_MOST_SHAPE_BYTES = 1024
"""Larger constants are no shapes."""


def load_model(path: Path) -> Any:
    """A ModelProto with all its weights. ModelError where it is not whole."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's and onnx's errors share no narrower base
        raise ModelError(f"{path} can't be read: {error}") from error


def save_model(model: Any, folder: Path, most_inline_bytes: int = MOST_INLINE_BYTES) -> bool:
    """Write `model.onnx`, and its weights beside it where it would be too large; whether they are."""
    import onnx

    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    beside = size_bytes >= most_inline_bytes
    onnx.save_model(
        model,
        folder / MODEL_FILE,
        save_as_external_data=beside,
        all_tensors_to_one_file=True,
        location=DATA_FILE,
        size_threshold=1024,
    )
    return beside


def tell_shapes(model: Any) -> None:
    """Note the type and shape of everything in between, from a copy without weights: those may pass 2 GiB."""
    from onnx import ModelProto, shape_inference

    hollow = ModelProto()
    hollow.ir_version = model.ir_version
    hollow.opset_import.extend(model.opset_import)
    hollow.graph.name = model.graph.name
    hollow.graph.node.extend(model.graph.node)
    hollow.graph.input.extend(model.graph.input)
    hollow.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _MOST_SHAPE_BYTES:
            hollow.graph.initializer.append(tensor)
        else:
            empty = hollow.graph.initializer.add()
            empty.name, empty.data_type = tensor.name, tensor.data_type
            empty.dims.extend(tensor.dims)
    told = shape_inference.infer_shapes(hollow)
    del model.graph.value_info[:]
    model.graph.value_info.extend(told.graph.value_info)
