"""A folder of safetensors as it comes from a hub: what it is, and whether it can be used at all.

Nothing of it is ever run: pickles are refused, code beside the weights is not looked at, and every
file that is read is named by this module or, for shards, by an index whose names can't leave the folder.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError, nearest
from edgebench.core.hashing import sha256_text, sha256_tree
from edgebench.core.json_file import read_object
from edgebench.quantize.safetensors_header import DamagedError, Tensor, read_header

FAMILIES = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "llama": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Families whose conversion is proved, by config.json's `model_type`, and the model class of each."""

DTYPES = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}
"""What whole weights are stored as; anything else had been quantized."""

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of them is needed."""
COMPANIONS = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("chat_template.jinja", "chat_template.json"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LICENSES = {
    "apache license": "apache-2.0",
    "mit license": "mit",
    "gemma terms of use": "gemma",
    "llama 3.2 community": "llama3.2",
    "llama 3.1 community": "llama3.1",
}
_LICENSE_LINE = re.compile(r"^(license|license_name)[ \t]*:[ \t]*['\"]?([\w.+-]+)", re.MULTILINE)
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that can be used, known by the sha256 of its files."""

    folder: Path
    family: str
    """config.json's `model_type`, one of `FAMILIES`."""
    architecture: str
    sha256: str
    """Of `files`: weights, config, tokenizer, chat template, generation config."""
    files: tuple[Path, ...]
    n_params: int
    dtype: str
    """What most weights are stored as: `f32`, `f16`, `bf16`."""
    size_bytes: int
    """Of the weights."""
    chat_template_sha256: str | None
    license: str | None


def read_checkpoint(folder: Path) -> Checkpoint:
    """What the folder holds. ModelError, in one line, when it can't be used."""
    config = _config(folder)
    family, architecture = _family(folder, config)
    weights, tensors = _tensors(folder)
    _check_whole(folder, config, tensors)
    _check_tokenizer(folder)
    files = checkpoint_files(folder)
    used = _without_tied_head(config, tensors)
    sizes = Counter[str]()
    for tensor in used.values():
        sizes[DTYPES[tensor.dtype]] += tensor.n_elements
    return Checkpoint(
        folder=folder,
        family=family,
        architecture=architecture,
        sha256=sha256_tree(folder, files),
        files=files,
        n_params=sizes.total(),
        dtype=sizes.most_common(1)[0][0],
        size_bytes=sum(path.stat().st_size for path in weights),
        chat_template_sha256=chat_template_sha256(folder),
        license=_license(folder),
    )


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """The files that make a checkpoint what it is, and no other."""
    named = [CONFIG, *COMPANIONS, INDEX]
    return (*_weights(folder), *(folder / name for name in named if (folder / name).is_file()))


def _config(folder: Path) -> Mapping[str, Any]:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder", "a checkpoint is a folder with config.json in it")
    if not (folder / CONFIG).is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise ModelError(
            f"{folder} is no checkpoint: it has no {CONFIG}"
            + (", but it is an adapter" if adapter else f" ({_present(folder)})"),
            "give its base model, and the adapter with --adapter"
            if adapter
            else f"a checkpoint has {CONFIG}, safetensors and a tokenizer",
        )
    config = read_object(folder / CONFIG)
    if any(config.get(key) for key in ("quantization_config", "compression_config")):
        told = config.get("quantization_config") or config["compression_config"]
        method = told.get("quant_method", "unknown") if isinstance(told, Mapping) else "unknown"
        raise ModelError(
            f"{folder} is quantized already (quant_method {method})",
            "give the checkpoint it was made from: f32, f16 or bf16 safetensors",
        )
    return config


def _family(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ModelError(f"{folder / CONFIG} names no model_type", f"known: {', '.join(sorted(FAMILIES))}")
    if family not in FAMILIES:
        close = nearest(family, FAMILIES, kind="model family").hint or ""
        known = f"known: {', '.join(sorted(FAMILIES))}"
        raise ModelError(
            f"unknown model family {family!r} in {folder / CONFIG}",
            known if close.startswith("known") else f"{close} {known}",
        )
    architectures = config.get("architectures")
    if architectures != [FAMILIES[family]]:
        raise ModelError(
            f"{folder / CONFIG} names the architecture {architectures!r}, not [{FAMILIES[family]!r}]",
            "text-generating models only: no classifiers, no embedders, no images",
        )
    return family, FAMILIES[family]


def _weights(folder: Path) -> list[Path]:
    """The files of weights: one, or the shards the index names, all of which are there."""
    single, index = folder / WEIGHTS, folder / INDEX
    if index.is_file() and single.is_file():
        raise ModelError(f"{folder} has both {WEIGHTS} and {INDEX}", "remove the one that is out of date")
    if single.is_file():
        return [single]
    if index.is_file():
        shards = [folder / name for name in sorted(set(_weight_map(index).values()))]
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing)}",
                "fetch them again",
            )
        return shards
    if pickles := _pickles(folder):
        raise ModelError(
            f"{folder} has pickled weights only ({', '.join(pickles)}): loading one may run any code in it",
            f'where you trust it: python -c "from transformers import AutoModelForCausalLM as M, '
            f"AutoTokenizer as T; [c.from_pretrained('{folder}').save_pretrained('{folder}-safe') "
            'for c in (M, T)]"',
        )
    raise ModelError(
        f"{folder} has no weights: neither {WEIGHTS} nor {INDEX} ({_present(folder)})", "fetch it again"
    )


def _weight_map(index: Path) -> Mapping[str, str]:
    """Tensor -> shard. A shard is a plain name: an index can't point out of its folder."""
    named = read_object(index).get("weight_map")
    if not isinstance(named, Mapping) or not named:
        raise ModelError(f"{index} is damaged: it has no weight_map", "fetch it again")
    for shard in named.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise ModelError(f"{index} names a shard {shard!r}, which is no name of a safetensors file")
    return named


def _tensors(folder: Path) -> tuple[list[Path], dict[str, Tensor]]:
    """The files of weights and every tensor in them."""
    weights = _weights(folder)
    tensors: dict[str, Tensor] = {}
    for path in weights:
        try:
            found = read_header(path)
        except DamagedError as error:
            raise ModelError(f"{path} is damaged or cut short: {error}", "fetch it again") from error
        if twice := sorted(found.keys() & tensors):
            raise ModelError(f"{folder} holds tensor {twice[0]!r} in two shards", "fetch it again")
        tensors |= found
    if weights[0].name != WEIGHTS and (absent := sorted(set(_weight_map(folder / INDEX)) - tensors.keys())):
        raise ModelError(f"{folder} lacks {len(absent)} tensors its index names: {absent[0]}, …")
    return weights, tensors


def _check_whole(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """ModelError unless every layer the config counts has tensors, all of them unquantized."""
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ModelError(
                f"{folder} is quantized already: tensor {name!r} is {tensor.dtype}",
                "give the checkpoint it was made from: f32, f16 or bf16 safetensors",
            )
    there = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    n_layers = config.get("num_hidden_layers")
    if "model.embed_tokens.weight" not in tensors:
        raise ModelError(f"{folder} has no embedding among its {len(tensors)} tensors", "fetch it again")
    if type(n_layers) is not int or there != set(range(n_layers)):
        raise ModelError(
            f"{folder} has tensors of {len(there)} layers, and {CONFIG} says {n_layers!r}", "fetch it again"
        )


def _without_tied_head(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tied head that was stored anyway is the embedding once more."""
    tied = config.get("tie_word_embeddings", config.get("model_type") in ("gemma2", "gemma3_text"))
    return {name: tensor for name, tensor in tensors.items() if not (tied and name == "lm_head.weight")}


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(
            f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)}", "fetch the whole repository"
        )


def chat_template_sha256(folder: Path) -> str | None:
    """The hash of the template that a chat uses by default; None when there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return sha256_text(file.read_text(encoding="utf-8"))
    settings = folder / "tokenizer_config.json"
    template = read_object(settings).get("chat_template") if settings.is_file() else None
    if isinstance(template, list):  # several, by name
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return sha256_text(template) if isinstance(template, str) else None


def _license(folder: Path) -> str | None:
    """What the front matter of README.md says, else what the first lines of a LICENSE look like."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if text.startswith("---\n"):
        told = dict(_LICENSE_LINE.findall(text[4:].partition("\n---")[0]))
        name = told.get("license")
        if name:
            return told.get("license_name", name) if name == "other" else name
    for path in sorted(folder.glob("LICENSE*")):
        if path.is_file():
            start = path.read_text(encoding="utf-8", errors="replace")[:500].lower()
            return next((name for sign, name in _LICENSES.items() if sign in start), None)
    return None


def _pickles(folder: Path) -> list[str]:
    return _few(path.name for pattern in _PICKLES for path in folder.glob(pattern))


def _present(folder: Path) -> str:
    names = _few(path.name for path in folder.iterdir())
    return f"it holds {', '.join(names)}" if names else "it is empty"


def _few(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    return found if len(found) <= 4 else [*found[:4], "…"]
