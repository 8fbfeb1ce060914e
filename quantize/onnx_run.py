"""Evaluating a graph the exporter has just made, in the exporter's own process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.quantize.onnx_model import MODEL_FILE


def open_graph(folder: Path, n_threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; ModelError when onnxruntime refuses the graph."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(folder / MODEL_FILE, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no narrower base
        line = str(error).splitlines()[0]
        raise ModelError(f"onnxruntime can't open the graph: {line}") from error


def head_width(folder: Path) -> int:
    """The width of an attention head as the folder's configuration tells it; 0 where it does not."""
    genai, config = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for path in (folder / "genai_config.json", folder / "config.json")
    )
    text = config.get("text_config") or config
    told = genai.get("model", {}).get("decoder", {}).get("head_size") or text.get("head_dim")
    return int(told or text.get("hidden_size", 0) // (text.get("num_attention_heads") or 1))


def run_tokens(
    session: Any, tokens: Sequence[int], *, n_first: int | None = None, n_width: int = 0
) -> npt.NDArray[np.float32]:
    """Logits at every position, of a text evaluated at once, or `n_first` tokens first and then the rest.

    `n_width` is the cache's, for graphs that leave it open.
    """
    inputs = {one.name: one for one in session.get_inputs()}
    past = {
        name: np.zeros(
            (1, one.shape[1], 0, one.shape[3] if isinstance(one.shape[3], int) else n_width),
            np.float16 if "float16" in one.type else np.float32,
        )
        for name, one in inputs.items()
        if name.startswith("past_key_values")
    }
    found, seen = [], 0
    for part in (tokens[: n_first or len(tokens)], tokens[n_first or len(tokens) :]):
        if not part:
            continue
        n_all = seen + len(part)
        feed = {"input_ids": np.array([part], np.int64), "attention_mask": np.ones((1, n_all), np.int64)}
        if "position_ids" in inputs:
            feed["position_ids"] = np.arange(seen, n_all, dtype=np.int64)[None]
        logits, *present = session.run(None, {**feed, **past})
        found.append(logits[0].astype(np.float32))
        past, seen = dict(zip(past, present, strict=True)), n_all
    return np.concatenate(found)
