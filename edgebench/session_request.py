"""What `quantize` is asked for, what of it concerns a level, and the command that says it again."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError, nearest
from edgebench.quantize.gguf_quantize import check_types
from edgebench.quantize.levels import ALL_LEVELS, LEVELS, NEEDS_IMATRIX
from edgebench.session_calibration import BUILT_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeRequest:
    """What the user asks for. Names and defaults are the command line's."""

    model: str
    levels: tuple[str, ...]
    out: Path
    n_threads: int
    revision: str | None = None
    adapter: Path | None = None
    calibration: str | None = None
    calibration_suites: tuple[str, ...] = ()
    data: Path | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    max_shard: str | None = None
    search: bool = True
    accept_license: bool = False


def check_request(request: QuantizeRequest) -> None:
    """UsageError or ModelError for what can be told before anything is fetched or made."""
    for level in request.levels:
        if level not in ALL_LEVELS:
            raise nearest(level, ALL_LEVELS, kind="level")
    check_types(request.tensor_types, request.output_type, request.embedding_type)
    needy = [level for level in request.levels if level in NEEDS_IMATRIX]
    if needy and request.calibration is None and not request.calibration_suites:
        raise ModelError(
            f"level {needy[0]} needs an importance matrix: without one llama.cpp refuses, or makes garbage",
            f"--calibration {BUILT_IN}, or --calibration FILE with a text like what the model will read",
        )


def options_of(level: str, request: QuantizeRequest) -> dict[str, Any]:
    """The options that were given and concern this level."""
    if level in LEVELS:
        named: dict[str, Any] = {
            "tensor_types": [list(pair) for pair in request.tensor_types],
            "output_type": request.output_type,
            "embedding_type": request.embedding_type,
            "max_shard": request.max_shard,
        }
    else:
        named = {"search": request.search if level in ("onnx-nbits4", "genai-int4") else None}
    return {key: value for key, value in named.items() if value not in (None, [])}


def creation_command(level: str, request: QuantizeRequest) -> str:
    """The command that makes this level again."""
    words = ["edgebench", "quantize", request.model, "--to", level]
    named: Mapping[str, object] = {
        "--revision": request.revision,
        "--adapter": request.adapter,
        "--calibration": request.calibration if level in LEVELS else None,
        "--output-type": request.output_type if level in LEVELS else None,
        "--embedding-type": request.embedding_type if level in LEVELS else None,
        "--max-shard": request.max_shard if level in LEVELS else None,
    }
    for flag, value in named.items():
        words += [flag, str(value)] if value is not None else []
    if level in LEVELS:
        for suite in request.calibration_suites:
            words += ["--calibration-suite", suite]
        for pattern, kind in request.tensor_types:
            words += ["--tensor-type", f"{pattern}={kind}"]
    elif not request.search:
        words.append("--no-search")
    words += ["--accept-licence"] if request.accept_license else []
    return shlex.join([*words, "--out", "DIR"])
