"""Adapters: LoRA, rsLoRA and DoRA, as `peft` saves them, merged into their base.

Everything that can be known without loading the model is checked first, from the adapter's
configuration and the heads of the files: an adapter of another base is refused by names and shapes.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_tree
from edgebench.core.json_file import read_object
from edgebench.core.paths import atomic_path, free_bytes
from edgebench.quantize.checkpoint import COMPANIONS, CONFIG, Checkpoint, read_checkpoint
from edgebench.quantize.safetensors_header import DamagedError, read_header

Progress = Callable[[float], None]
Shape = tuple[int, ...]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PLAIN = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout"),
        *("fan_in_fan_out", "bias", "use_rslora", "use_dora", "modules_to_save", "init_lora_weights"),
        *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core"),
        *("qalora_group_size", "eva_config", "runtime_config"),
    }
)
"""Settings of a LoRA that merging takes into account, or that only its training needed."""
STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin a training that leave the base's own weights as they were."""

_PREFIX = "base_model.model."
_FACTORS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
_HEAD, _EMBEDDING = "lm_head", "embed_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter that can be merged: its configuration, and the shapes of its tensors."""

    folder: Path
    config: Mapping[str, Any]
    sha256: str
    """Of its configuration and weights."""
    factors: Mapping[str, Mapping[str, Shape]]
    """Module of the base -> factor (A, B, …) -> shape."""
    whole: Mapping[str, Shape]
    """Tensors of the base that the adapter replaces as a whole (`modules_to_save`)."""

    @property
    def kind(self) -> str:
        """`lora`, `rslora` or `dora`; DoRA wins where both settings are on."""
        if self.config.get("use_dora"):
            return "dora"
        return "rslora" if self.config.get("use_rslora") else "lora"


def merge(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Write the checkpoint that `adapter` makes of `checkpoint`; runs in a tool environment.

    The weights keep the base's type; tokenizer, chat template and configuration are the base's.
    """
    base, adapter, target = (
        read_checkpoint(Path(job["checkpoint"])),
        read_adapter(job["adapter"]),
        job["target"],
    )
    base_config = read_object(base.folder / CONFIG)
    shapes = {
        name: tensor.shape
        for path in base.files
        if path.suffix == ".safetensors"
        for name, tensor in read_header(path).items()
    }
    tied = f"{_HEAD}.weight" not in shapes or bool(base_config.get("tie_word_embeddings"))
    _check_fit(adapter, shapes, tied=tied)
    untie = tied and _touches_vocabulary(adapter)
    room_bytes = base.size_bytes + (base.size_bytes if untie else 0)
    if free_bytes(Path(target).parent) < room_bytes:
        raise ModelError(
            f"{Path(target).parent} has no room for the merged checkpoint ({room_bytes / 1e6:.0f} MB)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )
    progress(0.05)
    with atomic_path(Path(target)) as part:
        part.mkdir()
        n_merged = _merge_weights(base, adapter, part, untie=untie, progress=progress)
        _carry(base, base_config, part, untie=untie)
    progress(1)
    return {
        "folder": str(target),
        "adapter_sha256": adapter.sha256,
        "base_sha256": base.sha256,
        "kind": adapter.kind,
        "rank": adapter.config.get("r"),
        "alpha": adapter.config.get("lora_alpha"),
        "n_merged": n_merged,
        "n_replaced": len(adapter.whole),
        "untied": untie,
        "base_named": adapter.config.get("base_model_name_or_path"),
        "warnings": _warnings(adapter, base_config, job.get("base_name")),
    }


def read_adapter(place: str | Path) -> Adapter:
    """The adapter in a folder; ModelError, in one line, when it can't be merged by edgebench."""
    folder = Path(place)
    config_path, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not config_path.is_file():
        raise ModelError(
            f"{folder} is no adapter: it has no {ADAPTER_CONFIG}",
            f"an adapter is a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, as peft saves it",
        )
    config = _read_config(config_path)
    if not weights.is_file():
        if pickles := sorted(path.name for path in folder.glob("adapter_model*.bin")):
            raise ModelError(
                f"{folder} has pickled weights only ({pickles[0]}): loading one may run any code in it",
                "if you trust it: load it with peft and call save_pretrained, which writes safetensors",
            )
        raise ModelError(f"{folder} has no {ADAPTER_WEIGHTS}", "fetch it again")
    try:
        tensors = {name: tensor.shape for name, tensor in read_header(weights).items()}
    except DamagedError as error:
        raise ModelError(f"{weights} is damaged or cut short: {error}", "fetch it again") from error
    factors, whole = _sorted_tensors(folder, tensors)
    return Adapter(
        folder=folder,
        config=config,
        sha256=sha256_tree(folder, [config_path, weights]),
        factors=factors,
        whole=whole,
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_object(path)
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{path.parent} is an adapter of type {config.get('peft_type')!r}",
            "LoRA, rsLoRA and DoRA can be merged",
        )
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"{path.parent} is an adapter for the task {config['task_type']!r}",
            "only adapters of text-generating models (CAUSAL_LM) can be merged",
        )
    # What this version does not know may change the function: better refused than merged wrongly.
    strange = sorted(key for key, value in config.items() if value and key not in PLAIN)
    if config.get("bias", "none") != "none":
        strange.append("bias")
    if strange:
        raise ModelError(
            f"{path.parent} uses {', '.join(strange)}, which edgebench can't merge",
            "merge it with the tool that trained it, and give the merged checkpoint",
        )
    if config.get("init_lora_weights", True) not in STARTS:
        raise ModelError(
            f"{path.parent} was trained on a base that {config['init_lora_weights']!r} had changed",
            "convert it to a plain LoRA with peft's path_initial_model_for_weight_conversion",
        )
    return config


def _sorted_tensors(
    folder: Path, tensors: Mapping[str, Shape]
) -> tuple[dict[str, dict[str, Shape]], dict[str, Shape]]:
    """The adapter's tensors by the module they belong to, and those that replace one of the base."""
    factors: dict[str, dict[str, Shape]] = {}
    whole: dict[str, Shape] = {}
    for name, shape in tensors.items():
        end = next((end for end in _FACTORS if name.endswith(end)), None)
        if not name.startswith(_PREFIX) or (end is None and ".lora_" in name):
            raise ModelError(f"{folder} holds a tensor {name!r}, which no LoRA of peft has")
        if end is None:
            # peft saves an adapted embedding's own weights as well: those below the factors.
            whole[name.removeprefix(_PREFIX).replace(".base_layer.", ".")] = shape
        else:
            module = name.removeprefix(_PREFIX).removesuffix(end)
            factors.setdefault(module, {})[_FACTORS[end]] = shape
    for module, found in factors.items():
        if {"A", "B"} - found.keys() and {"embedding_A", "embedding_B"} - found.keys():
            raise ModelError(f"{folder} is damaged: {module} has only {', '.join(sorted(found))}")
    if not factors and not whole:
        raise ModelError(f"{folder} is empty: it holds no tensor")
    return factors, whole


def _check_fit(adapter: Adapter, base: Mapping[str, Shape], *, tied: bool) -> None:
    """ModelError unless each of the adapter's tensors has a place of its shape in the base."""

    def of_base(name: str) -> Shape | None:
        if name not in base and tied and name == f"{_HEAD}.weight":
            return base.get(f"model.{_EMBEDDING}.weight")
        return base.get(name)

    for module, found in adapter.factors.items():
        there = of_base(f"{module}.weight")
        if there is None:
            raise _other_base(adapter, f"it changes {module}, which the checkpoint does not have")
        if "A" in found:
            (rank, n_in), (n_out, rank_b) = found["A"], found["B"]
        else:
            (rank, n_in), (n_out, rank_b) = found["embedding_A"], found["embedding_B"]
            there = there[::-1]
        wanted = there[::-1] if adapter.config.get("fan_in_fan_out") else there
        if (n_out, n_in) != wanted or rank != rank_b:
            raise _other_base(
                adapter,
                f"its {module} is {n_out}x{n_in} (rank {rank}), the checkpoint's is "
                + "x".join(map(str, wanted)),
            )
        if "magnitude" in found and max(found["magnitude"]) != n_out:
            raise _other_base(adapter, f"its {module} has {max(found['magnitude'])} magnitudes, not {n_out}")
    for name, shape in adapter.whole.items():
        there = of_base(name)
        if there != shape:
            told = "does not have" if there is None else f"has as {'x'.join(map(str, there))}"
            raise _other_base(
                adapter, f"it replaces {name} ({'x'.join(map(str, shape))}), which the checkpoint {told}"
            )


def _other_base(adapter: Adapter, why: str) -> ModelError:
    named = adapter.config.get("base_model_name_or_path")
    return ModelError(
        f"adapter is for another base: {why}",
        f"the adapter names {named} as its base" if named else "find out which base it was trained on",
    )


def _touches_vocabulary(adapter: Adapter) -> bool:
    """Whether embedding or output head changes: where they were one tensor, they become two."""
    changed = {*adapter.factors, *(name.removesuffix(".weight") for name in adapter.whole)}
    return any(module.split(".")[-1] in (_HEAD, _EMBEDDING) for module in changed)


def _merge_weights(base: Checkpoint, adapter: Adapter, part: Path, *, untie: bool, progress: Progress) -> int:
    """Save the merged weights to `part`; the number of matrices that were changed."""
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    dtype = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=dtype[base.dtype],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        if untie:
            head = model.get_output_embeddings()
            head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
            model.config.tie_word_embeddings = False
        progress(0.3)
        adapted = PeftModel.from_pretrained(model, str(adapter.folder))
        n_layers = sum(isinstance(module, LoraLayer) for module in adapted.modules())
        if n_layers != len(adapter.factors):
            raise ModelError(
                f"{adapter.folder} has factors for {len(adapter.factors)} modules, but its configuration "
                f"names {n_layers}",
                "fetch it again",
            )
        progress(0.5)
        merged = adapted.merge_and_unload(safe_merge=True)
        progress(0.7)
        # A shard at a time is held twice while it is written.
        merged.save_pretrained(part, safe_serialization=True, max_shard_size="2GB")
    except (RuntimeError, ValueError, KeyError, TypeError, ImportError, OSError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{adapter.folder.name} can't be merged: {told[0]}") from error
    return n_layers


def _carry(base: Checkpoint, base_config: Mapping[str, Any], part: Path, *, untie: bool) -> None:
    """The base's own configuration, tokenizer, template and licence stand beside the merged weights."""
    config = {**base_config, "tie_word_embeddings": False} if untie else base_config
    (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    names = {*COMPANIONS, *(path.name for path in base.folder.glob("LICENSE*"))}
    for file in (base.folder / name for name in sorted(names)):
        if file.is_file():
            shutil.copyfile(file, part / file.name)


def _warnings(adapter: Adapter, base_config: Mapping[str, Any], base_name: str | None) -> list[str]:
    """What the user should know, but may have meant."""
    found = []
    named = adapter.config.get("base_model_name_or_path")
    own = base_name or base_config.get("_name_or_path")
    if named and own and _short(str(named)) != _short(str(own)):
        found.append(f"the adapter names {named} as its base, and the checkpoint is {own}")
    if (adapter.folder / "chat_template.jinja").is_file():
        found.append("the adapter has a chat template of its own; the base's is kept")
    return found


def _short(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()
