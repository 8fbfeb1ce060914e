"""From what a user names to what levels are made of: a checkpoint, a GGUF base, the f32 reference.

A source is a GGUF file, a folder of safetensors or a hub's id. Whatever is derived from it on the way
is kept in the cache under the source's sha256, and made once.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.hashing import sha256_json, sha256_tree
from edgebench.core.paths import cache_part
from edgebench.core.tool_env import pinned
from edgebench.core.types import Artifact, Format, Settings
from edgebench.quantize.catalog import shipped_models
from edgebench.quantize.hub import is_hub_id, split_hub_id
from edgebench.quantize.manifest import describe, model_name, write_sidecar
from edgebench.quantize.tokenizer import NASTY_TEXTS
from edgebench.runners.llama_source import source_tree
from edgebench.session_child import Child
from edgebench.session_models import resolve
from edgebench.session_tools import call_tool

Say = Callable[[str], None]

TOLERANCES = {"torch_f64_logits": 1e-4, "gguf_f32_logits": 2e-3, "onnx_fp32_logits": 2e-3}
"""How far a merged checkpoint may be from the adapter's own model, as the tests hold it."""

F32_BELOW = 2 * 10**9
"""Models of fewer weights get an f32 base; larger ones keep their own type, for memory's sake."""


def open_source(
    name: str,
    say: Say,
    *,
    revision: str | None = None,
    adapter: Path | None = None,
    accept_license: bool = False,
) -> Artifact:
    """The GGUF file or checkpoint folder a name stands for, its adapter merged.

    Raises UsageError for an unknown name or terms that were not accepted, ModelError for what can't be used.
    """
    shipped = shipped_models().get(name)
    if shipped is not None and accept_license:
        shipped.accept()
    path = Path(name).expanduser()
    if shipped is None and not path.exists() and is_hub_id(name):
        artifact = _from_hub(name, revision, accept_license, say)
    elif shipped is None and path.is_dir():
        artifact = describe(path)
    else:
        artifact = resolve(name, say)
        if shipped is not None and shipped.accepted_at:
            artifact = replace(artifact, recipe={"license_accepted": shipped.accepted_at})
    if artifact.quant.format not in (Format.GGUF, Format.SAFETENSORS):
        raise UsageError(
            f"levels can't be made of {name}, which is {artifact.quant.format}",
            "give the checkpoint it was exported from, or a GGUF file",
        )
    return _merged(artifact, adapter, say) if adapter is not None else artifact


def checkpoint_of(source: Artifact, say: Say) -> Path:
    """The source as a folder of safetensors; a GGUF is dequantized, its tokenizer rebuilt and checked."""
    if source.quant.format is Format.SAFETENSORS:
        return source.path
    folder = cache_part("checkpoints") / source.sha256[:16] / source.model
    if not folder.exists():
        say(f"dequantizing {source.model} ({source.quant.name}) to a checkpoint")
        call_tool("dequantize", {"source": str(source.path), "target": str(folder)}, say)
        try:
            check_tokenizer(folder, source.path, say)
        except ModelError:
            folder.rename(folder.with_name(f".part-{folder.name}"))  # never found again as a good one
            raise
    return folder


def gguf_base(source: Artifact, say: Say) -> Artifact:
    """The GGUF file that levels are quantized from: the source itself, or its conversion."""
    if source.quant.format is Format.GGUF:
        return source
    wide = source.n_params is not None and source.n_params < F32_BELOW
    level = "f32" if wide else source.quant.name
    target = cache_part("artifacts") / source.sha256[:16] / f"{source.model}-{level}.gguf"
    if not target.exists():
        say(f"converting {source.model} to GGUF ({level})")
        job = {
            "script": str(source_tree(say) / "convert_hf_to_gguf.py"),
            "checkpoint": str(source.path),
            "target": str(target),
            "outtype": level,
            "name": source.model,
        }
        for note in call_tool("convert", job, say).get("notes", ()):
            say(f"note: {note}")
        try:
            check_tokenizer(source.path, target, say)
        except ModelError:
            target.unlink()
            raise
    return child_of(source, target, tool="convert_hf_to_gguf.py", tool_version=_engine_version())


def reference_gguf(source: Artifact, say: Say, *, n_threads: int) -> Artifact:
    """What damage is measured against: the source's own weights, unrounded, in GGUF.

    Of a quantized file that is its dequantized self, so what its own type costs is not counted twice.
    """
    base = gguf_base(source, say)
    if base.quant.name in ("f32", "f16", "bf16"):
        return base
    target = cache_part("artifacts") / source.sha256[:16] / f"{source.model}-f32.gguf"
    if not target.exists():
        say(f"dequantizing {source.model} ({source.quant.name}) for reference")
        job = {"source": str(base.path), "target": str(target), "level": "f32", "n_threads": n_threads}
        call_tool("quantize", {**job, "quantizer": "gguf"}, say)
    return child_of(source, target, tool="llama_model_quantize", tool_version=_engine_version())


def child_of(source: Artifact, path: Path, **made: Any) -> Artifact:
    """The artifact at a path, made from a source: what is known of the source goes with it."""
    return describe(
        path,
        model=source.model,
        parent=source,
        source=source.source,
        revision=source.revision,
        license=source.license,
        **made,
    )


def check_tokenizer(checkpoint: Path, gguf: Path, say: Say) -> None:
    """ModelError unless the checkpoint and the GGUF split every nasty text into the same tokens."""
    theirs = call_tool("tokenize", {"checkpoint": str(checkpoint), "texts": list(NASTY_TEXTS)}, say)["ids"]
    ours = encode(gguf, NASTY_TEXTS)
    for text, a, b in zip(NASTY_TEXTS, theirs, ours, strict=True):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            raise ModelError(
                f"{checkpoint.name}: the GGUF's tokenizer is not the checkpoint's: {text[:40]!r} becomes "
                f"{b[at : at + 4]} instead of {a[at : at + 4]} from token {at} on",
                "its scores would be of other texts; the file is not kept",
            )


def encode(gguf: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """Token ids by llama.cpp's own tokenizer."""
    job = {
        "kind": "encode",
        "runner": "llama_cpp",
        "path": str(gguf.absolute()),
        "settings": asdict(Settings(n_threads=1)),
        "texts": list(texts),
    }
    with Child(job) as child:
        found = [m["ids"] for m in child.messages() if m["type"] == "result"]
    return [list(ids) for ids in found[0]]


def fetch_from_hub(name: str, revision: str | None, say: Say, *, accept_license: bool) -> dict[str, Any]:
    """A repository's checkpoint in the cache: its folder, commit and licence."""
    repo, inline = split_hub_id(name)
    say(f"fetching {name} from the model hub")
    job = {"repo": repo, "revision": revision or inline, "folder": str(cache_part("hub"))}
    return call_tool("download", {**job, "accept_license": accept_license}, say)


def _from_hub(name: str, revision: str | None, accept_license: bool, say: Say) -> Artifact:
    found = fetch_from_hub(name, revision, say, accept_license=accept_license)
    return describe(
        Path(found["folder"]),
        model=model_name(Path(found["repo"].partition("/")[2])),
        source=f"hub:{found['repo']}",
        revision=found["revision"],
        license=found["license"],
        recipe={"license_accepted": True} if accept_license else None,
    )


def _merged(source: Artifact, adapter: Path, say: Say) -> Artifact:
    """A checkpoint with an adapter's weights in it."""
    if not adapter.is_dir():
        raise ModelError(f"no adapter folder at {adapter}", "a peft adapter has adapter_config.json in it")
    files = sorted(p for p in adapter.iterdir() if p.suffix in (".json", ".safetensors", ".bin"))
    checkpoint = checkpoint_of(source, say)
    key = sha256_json([source.sha256, sha256_tree(adapter, files)])[:16]
    model = f"{source.model}+{model_name(adapter.absolute())}"
    folder = cache_part("checkpoints") / key / model
    facts: Mapping[str, Any] = {}
    if not folder.exists():
        say(f"merging the adapter {adapter.name} into {source.model}")
        job = {"checkpoint": str(checkpoint), "adapter": str(adapter), "target": str(folder)}
        base_name = source.source.removeprefix("hub:") if source.source.startswith("hub:") else None
        facts = call_tool("merge", {**job, "base_name": base_name}, say)
        for warning in facts.get("warnings", ()):
            say(f"note: {warning}")
    merged = describe(
        folder,
        model=model,
        parent=replace(source, path=checkpoint),
        source=source.source,
        revision=source.revision,
        license=source.license,
        tool="peft",
        tool_version=pinned("export", "peft"),
        recipe={"adapter": {k: v for k, v in facts.items() if k != "folder"} | {"tolerances": TOLERANCES}}
        if facts
        else None,
    )
    write_sidecar(merged)  # the cache's manifests may be cleared before the checkpoint is
    return merged


def _engine_version() -> str:
    from edgebench.core import registry

    return str(registry.load("quantizers", "gguf").version())
