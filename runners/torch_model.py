"""A checkpoint in torch's memory: in which type, on which device, and the proof that it is so."""

import importlib.util
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import MissingDependency, ModelError, UsageError, nearest

TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""Levels that widen or round every weight -> torch's name of the type."""
QUANTIZED = {
    "bnb-int8": ("bitsandbytes", "0.50.2"),
    "bnb-nf4": ("bitsandbytes", "0.50.2"),
    "torchao-int8": ("torchao", "0.18.0"),
    "torchao-int4": ("torchao", "0.18.0"),
}
"""Levels that quantize the layers' matrices on load -> the library that does it, and the version tried."""
REST = "bfloat16"
"""What a quantized level keeps everything else in, and computes in."""
GROUP_SIZE = 128
"""Weights that share a scale in `torchao-int4`: so many, or the largest part of it that fits all matrices."""
_REFUSALS = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AssertionError)
"""What transformers and the quantizing libraries say no with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What a loaded tensor turned out to be."""

    type: str
    """`float32`, `int8`, `nf4`, or the class that packs it."""
    n: int
    """Weights in it, packed or not."""
    is_matrix: bool


def load(path: Path, level: str, device: Any, *, eager: bool) -> Any:
    """Open a checkpoint folder at a level, on a device; ModelError when it can't, or when it came otherwise.

    Nothing but safetensors and JSON is read, and no code of the folder is run.
    """
    check_level(level, device.type)
    try:
        model, told = _open(path, level, device, eager=eager)
        if level.startswith("torchao"):
            _pack(model, level)
    except _REFUSALS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"transformers can't open {path} as {level}: {lines[0]}") from error
    if missing := sorted(told["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"{path} lacks {len(missing)} of the model's tensors: {missing[0]}, …", "fetch it again"
        )
    check_types(level, weights_of(model))
    check_places(str(device), {str(part.device) for part in (*model.parameters(), *model.buffers())})
    return model.eval()


def config_of(path: Path) -> dict[str, Any]:
    """A checkpoint's configuration; ModelError when the folder is no checkpoint."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is no checkpoint: its config.json can't be read",
            "a checkpoint is a folder with config.json, safetensors and a tokenizer",
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'} is damaged: it is not a JSON object", "fetch it again")
    return config


def check_level(level: str, device_type: str) -> None:
    """UsageError for a level nobody knows, or the device has no code for; MissingDependency."""
    if level in TYPES:
        return
    if level not in QUANTIZED:
        raise nearest(level, (*TYPES, *QUANTIZED), kind="torch dtype")
    library, version = QUANTIZED[level]
    if importlib.util.find_spec(library) is None:
        raise MissingDependency(
            f"--dtype {level} needs {library}, which is not installed",
            f"{sys.executable} -m pip install {library}=={version}",
        )
    if level == "torchao-int4" and device_type != "cuda":
        raise UsageError("torchao-int4 computes on NVIDIA GPUs only", "--provider cuda, or --dtype bnb-nf4")


def weights_of(model: Any) -> list[Weight]:
    """What every parameter is: read back, not what was asked for."""
    return [_inside(weight) for weight in model.parameters()]


def check_types(level: str, weights: Iterable[Weight]) -> None:
    """ModelError unless the matrices are what the level says.

    Vectors are left out: some models keep their norms in f32, whatever is asked for.
    """
    found = {weight.type for weight in weights if weight.is_matrix}
    if level in TYPES:
        if wrong := sorted(found - {TYPES[level]}):
            raise ModelError(f"asked for {level}, torch keeps matrices as {', '.join(wrong)}")
    elif found <= set(TYPES.values()):
        raise ModelError(f"asked for {level}, torch quantized nothing", "--dtype bf16 says what that is")


def check_places(device: str, places: Collection[str]) -> None:
    """ModelError unless every tensor of the model is on the device that was asked for."""
    if elsewhere := sorted({*places} - {device}):
        raise ModelError(f"asked for {device}, torch put weights on {', '.join(elsewhere)}")


def by_type(weights: Iterable[Weight]) -> dict[str, int]:
    """How many weights are kept in which type."""
    counted: Counter[str] = Counter()
    for weight in weights:
        counted[weight.type] += weight.n
    return dict(counted)


def _open(path: Path, level: str, device: Any, *, eager: bool) -> tuple[Any, Mapping[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it has a word to say on every product
    dtype = getattr(torch, TYPES.get(level, REST))
    options: dict[str, Any] = {}
    if level == "bnb-int8":
        options = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    elif level == "bnb-nf4":
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        options = {"quantization_config": nf4}
    if options:
        options["device_map"] = {"": device}  # it is quantized on its way to the device
    model, told = AutoModelForCausalLM.from_pretrained(
        str(path),
        dtype=dtype,
        # Left to itself, transformers takes sdpa where the model's code has it.
        attn_implementation="eager" if eager else None,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    return (model if options else model.to(device)), told


def _pack(model: Any, level: str) -> None:
    """Quantize the layers' matrices where they are; the output head stays, as with bitsandbytes."""
    import torch
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    head = model.get_output_embeddings()

    def is_layers(module: Any, _name: str = "") -> bool:
        return isinstance(module, torch.nn.Linear) and module is not head

    widths = [module.in_features for module in model.modules() if is_layers(module)]
    # Its settings for torch.compile, which is not used here, would make f32 sums less precise.
    if level == "torchao-int8":
        config = Int8WeightOnlyConfig(set_inductor_config=False)
    else:
        config = Int4WeightOnlyConfig(
            group_size=math.gcd(*widths, GROUP_SIZE),
            int4_packing_format="tile_packed_to_4d",
            set_inductor_config=False,
        )
    quantize_(model, config, filter_fn=is_layers)


def _inside(tensor: Any) -> Weight:
    kind, n = str(tensor.dtype).removeprefix("torch."), tensor.numel()
    if (state := getattr(tensor, "quant_state", None)) is not None:  # bitsandbytes: two in a byte
        kind, n = state.quant_type, math.prod(state.shape)
    elif hasattr(tensor, "tensor_data_names"):  # torchao: says it were the type it computes in
        kind = type(tensor).__name__
    return Weight(type=kind, n=n, is_matrix=tensor.dim() > 1)
