"""A manifest for every artifact: what it is, where it came from, what is inside, how it was made.

It stands beside the artifact (`NAME.manifest.json`) and in the cache under the artifact's sha256, so an
artifact is inspected once, whatever its path, and what is known of its bytes goes where they go.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_file, sha256_tree
from edgebench.core.paths import atomic_path, cache_part
from edgebench.core.types import WHOLE_LEVELS, Artifact, Format, QuantSpec
from edgebench.quantize.checkpoint import read_checkpoint
from edgebench.quantize.gguf_file import check_magic, gguf_parts, inspect_gguf
from edgebench.quantize.levels import ALL_LEVELS, MOST_FALLBACK_SHARE

SCHEMA = 3
SUFFIX = ".manifest.json"
_PROVENANCE = (
    *("parent_sha256", "parent_quant", "source", "revision", "calibration_sha256", "recipe"),
    *("tool", "tool_version"),
)
_SPLIT = r"(?:-\d{5}-of-\d{5})?"
_LEVEL_SUFFIX = re.compile(
    r"[-._](?:" + "|".join(sorted(ALL_LEVELS, key=len, reverse=True)) + r")$", re.IGNORECASE
)


def describe(
    path: Path,
    *,
    model: str | None = None,
    level: str | None = None,
    parent: Artifact | None = None,
    source: str = "file",
    license: str | None = None,  # noqa: A002 - the field's name everywhere else
    tool: str = "none",
    tool_version: str = "",
    revision: str | None = None,
    calibration_sha256: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Artifact:
    """The artifact at a path: a GGUF file (or the first of its parts), an ONNX folder, a checkpoint folder.

    Its bytes are hashed every time; its inside is read once. `level` is for formats that don't tell it
    themselves. Raises ModelError when it is absent, of no known kind, damaged or cut short.
    """
    kind = format_of(path)
    sha256 = artifact_sha256(path)
    stored = cache_part("manifests") / f"{sha256}.json"
    known = _known(stored, path, sha256)
    if known is None:
        inside = {Format.GGUF: _gguf, Format.ONNX: _onnx, Format.SAFETENSORS: _checkpoint}[kind](path, level)
        # What stands beside a file may tell where it came from; what is inside is read from the file.
        beside = _known(sidecar(path), path, sha256) or inside
        inside = replace(inside, license=beside.license or inside.license)
        known = replace(inside, **{name: getattr(beside, name) for name in _PROVENANCE}, sha256=sha256)
        known = replace(
            known, created_at=beside.created_at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        )
    if parent is not None and known.parent_sha256 != parent.sha256:
        known = replace(known, parent_sha256=parent.sha256, parent_quant=_narrowest(parent))
    told: dict[str, Any] = {
        "source": source if source != "file" else None,
        "license": license,
        "tool": tool if tool != "none" else None,
        "tool_version": tool_version or None,
        "revision": revision,
        "calibration_sha256": calibration_sha256,
        "recipe": dict(recipe) if recipe else None,
    }
    # Who has just made it knows best; a copy under another name keeps what is known of its bytes.
    artifact = replace(known, **{key: value for key, value in told.items() if value is not None})
    artifact = replace(artifact, model=model or model_name(path))
    _write(manifest_of(artifact), stored)
    return artifact


def format_of(path: Path) -> Format:
    """What kind of artifact a path holds; ModelError when it is none."""
    if not path.is_dir():
        check_magic(path)
        return Format.GGUF
    if (path / "model.onnx").is_file():
        return Format.ONNX
    read_checkpoint(path)  # says what is missing
    return Format.SAFETENSORS


def artifact_files(path: Path) -> list[Path]:
    """Every file of an artifact, sorted: its parts, or what lies in its folder."""
    if not path.is_dir():
        return gguf_parts(path)
    found = (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts))


def artifact_sha256(path: Path) -> str:
    """The file's sha256; of several files, the hash of their names and hashes (`sha256_tree`)."""
    if path.is_dir() and not (path / "model.onnx").is_file():
        return read_checkpoint(path).sha256
    files = artifact_files(path)
    if files == [path]:
        return sha256_file(path)
    return sha256_tree(path if path.is_dir() else path.parent, files)


def sidecar(path: Path) -> Path:
    """Where an artifact's manifest stands: beside it."""
    return path.with_name(f"{path.name}{SUFFIX}")


def write_sidecar(artifact: Artifact) -> Path:
    """Write the manifest beside the artifact; where that is."""
    target = sidecar(artifact.path)
    _write(manifest_of(artifact), target)
    return target


def _write(manifest: Mapping[str, Any], target: Path) -> None:
    with atomic_path(target) as partial:
        partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _gguf(path: Path, level: str | None) -> Artifact:
    facts = inspect_gguf(path)
    return Artifact(
        sha256="",
        path=path,
        model="",
        quant=QuantSpec(
            name=facts.level if facts.level != "unknown" or level is None else level,
            format=Format.GGUF,
            bits_per_weight=facts.bits_per_weight,
            tensor_types=facts.tensor_types,
            n_fallback=facts.n_fallback,
            fallback_share=facts.fallback_share,
            bits_per_class=facts.bits_per_class,
        ),
        size_bytes=sum(part.stat().st_size for part in gguf_parts(path)),
        n_params=facts.n_params,
        family=facts.family,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        chat_template_sha256=facts.chat_template_sha256,
    )


def _onnx(path: Path, level: str | None) -> Artifact:
    from edgebench.quantize.onnx_file import inspect_onnx

    facts = inspect_onnx(path)
    suffix = _LEVEL_SUFFIX.search(path.name)
    named = suffix[0][1:].lower() if suffix else f"{'onnx' if facts.layout == 'plain' else facts.layout}"
    return Artifact(
        sha256="",
        path=path,
        model="",
        quant=QuantSpec(
            name=level or named,
            format=Format.ONNX,
            bits_per_weight=facts.bits_per_weight,
            tensor_types=facts.tensor_types,
            bits_per_class=facts.bits_per_class,
        ),
        size_bytes=sum(file.stat().st_size for file in artifact_files(path)),
        n_params=facts.n_params,
        family=facts.family,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        chat_template_sha256=facts.chat_template_sha256,
    )


def _checkpoint(path: Path, level: str | None) -> Artifact:
    facts = read_checkpoint(path)
    return Artifact(
        sha256="",
        path=path,
        model="",
        quant=QuantSpec(
            name=level or facts.dtype,
            format=Format.SAFETENSORS,
            bits_per_weight=8 * facts.size_bytes / facts.n_params,
        ),
        size_bytes=facts.size_bytes,
        n_params=facts.n_params,
        family=facts.family,
        license=facts.license,
        chat_template_sha256=facts.chat_template_sha256,
    )


def _narrowest(parent: Artifact) -> str:
    """The parent's level, or the one it was made from when the parent itself lost nothing more."""
    whole = parent.quant.name in WHOLE_LEVELS
    return parent.parent_quant if whole and parent.parent_quant else parent.quant.name


def _known(stored: Path, path: Path, sha256: str) -> Artifact | None:
    """The artifact a stored manifest tells of; None when there is none, or none this version can read."""
    try:
        manifest = json.loads(stored.read_text(encoding="utf-8"))
        current = manifest["schema"] == SCHEMA and manifest["sha256"] == sha256
        return artifact_from(manifest, path) if current else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def model_name(path: Path) -> str:
    """A model's name from a file's: lower case, the level's suffix dropped, so that levels share it."""
    stem = re.sub(rf"{_SPLIT}$", "", path.name.removesuffix(".gguf"))
    stem = _LEVEL_SUFFIX.sub("", stem)
    return re.sub(r"[^a-z0-9.+]+", "-", stem.lower()).strip("-.") or "model"


def manifest_of(artifact: Artifact) -> dict[str, Any]:
    """The manifest as JSON-ready data; paths stay out of it."""
    quant = artifact.quant
    return {
        "schema": SCHEMA,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "kv_bytes_per_token": artifact.kv_bytes_per_token,
        "model": artifact.model,
        "family": artifact.family,
        "n_params": artifact.n_params,
        "format": quant.format.value,
        "level": quant.name,
        "label": artifact.label,
        "bits_per_weight": quant.bits_per_weight,
        "bits_per_class": dict(quant.bits_per_class),
        "tensor_types": dict(quant.tensor_types),
        "n_fallback": quant.n_fallback,
        "fallback_share": quant.fallback_share,
        "is_what_it_says": quant.fallback_share <= MOST_FALLBACK_SHARE,
        "derived_from": {"sha256": artifact.parent_sha256, "level": artifact.parent_quant}
        if artifact.parent_sha256
        else None,
        "source": artifact.source,
        "revision": artifact.revision,
        "license": artifact.license,
        "chat_template_sha256": artifact.chat_template_sha256,
        "calibration_sha256": artifact.calibration_sha256,
        "recipe": dict(artifact.recipe),
        "tool": artifact.tool,
        "tool_version": artifact.tool_version,
        "created_at": artifact.created_at,
    }


def artifact_from(manifest: Mapping[str, Any], path: Path) -> Artifact:
    """The artifact a manifest describes, at a path."""
    parent = manifest["derived_from"] or {}
    return Artifact(
        sha256=manifest["sha256"],
        path=path,
        model=manifest["model"],
        quant=QuantSpec(
            name=manifest["level"],
            format=Format(manifest["format"]),
            bits_per_weight=manifest["bits_per_weight"],
            tensor_types=manifest["tensor_types"],
            n_fallback=manifest["n_fallback"],
            fallback_share=manifest["fallback_share"],
            bits_per_class=manifest["bits_per_class"],
        ),
        size_bytes=manifest["size_bytes"],
        kv_bytes_per_token=manifest["kv_bytes_per_token"],
        n_params=manifest["n_params"],
        family=manifest["family"],
        parent_sha256=parent.get("sha256"),
        parent_quant=parent.get("level"),
        source=manifest["source"],
        revision=manifest["revision"],
        license=manifest["license"],
        chat_template_sha256=manifest["chat_template_sha256"],
        calibration_sha256=manifest["calibration_sha256"],
        recipe=manifest["recipe"],
        tool=manifest["tool"],
        tool_version=manifest["tool_version"],
        created_at=manifest["created_at"],
    )


def known_artifact(sha256: str) -> dict[str, Any] | None:
    """The stored manifest of an artifact whose hash begins so; None when none or several do."""
    found = sorted(cache_part("manifests").glob(f"{sha256}*.json"))
    if len(found) != 1:
        return None
    try:
        manifest: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{found[0]} is damaged: {error}", "delete it; the next look makes it anew"
        ) from error
    return manifest
