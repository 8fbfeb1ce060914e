"""A manifest for every artifact: what the file is, where it came from, what is inside.

Manifests live in the cache under the file's sha256, so a file is inspected once, whatever its path.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path, cache_part
from edgebench.core.types import WHOLE_LEVELS, Artifact, Format, QuantSpec
from edgebench.quantize.gguf_file import check_magic, inspect_gguf
from edgebench.quantize.levels import LEVELS

SCHEMA = 2
_LEVEL_SUFFIX = re.compile(
    r"[-._](?:" + "|".join(sorted(LEVELS, key=len, reverse=True)) + r")$", re.IGNORECASE
)


def describe(
    path: Path,
    *,
    model: str | None = None,
    parent: Artifact | None = None,
    source: str = "file",
    license: str | None = None,  # noqa: A002 - the field's name everywhere else
    tool: str = "none",
    tool_version: str = "",
) -> Artifact:
    """The artifact a GGUF file is. Its bytes are hashed every time; its inside is read once.

    Raises ModelError when the file is absent, not GGUF, damaged or cut short.
    """
    check_magic(path)
    sha256 = sha256_file(path)
    stored = cache_part("manifests") / f"{sha256}.json"
    name = model or model_name(path)
    known = _known(stored, path)
    if known and (parent is None or known.parent_sha256 == parent.sha256):
        # A copy under another name keeps what is known of its bytes: where they came from above all.
        return replace(known, model=name)
    facts = inspect_gguf(path)
    artifact = Artifact(
        sha256=sha256,
        path=path,
        model=name,
        quant=QuantSpec(
            name=facts.level,
            format=Format.GGUF,
            bits_per_weight=facts.bits_per_weight,
            tensor_types=facts.tensor_types,
            n_fallback=facts.n_fallback,
        ),
        size_bytes=path.stat().st_size,
        n_params=facts.n_params,
        family=facts.family,
        parent_sha256=parent.sha256 if parent else None,
        parent_quant=_narrowest(parent) if parent else None,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        source=source,
        license=license,
        tool=tool,
        tool_version=tool_version,
    )
    with atomic_path(stored) as partial:
        partial.write_text(json.dumps(manifest_of(artifact), indent=2) + "\n", encoding="utf-8")
    return artifact


def _narrowest(parent: Artifact) -> str:
    """The parent's level, or the one it was made from when the parent itself lost nothing more."""
    whole = parent.quant.name in WHOLE_LEVELS
    return parent.parent_quant if whole and parent.parent_quant else parent.quant.name


def _known(stored: Path, path: Path) -> Artifact | None:
    """The artifact a stored manifest tells of; None when there is none, or none this version can read."""
    try:
        manifest = json.loads(stored.read_text(encoding="utf-8"))
        return artifact_from(manifest, path) if manifest["schema"] == SCHEMA else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def model_name(path: Path) -> str:
    """A model's name from a file's: lower case, the level's suffix dropped, so that levels share it."""
    stem = _LEVEL_SUFFIX.sub("", path.name.removesuffix(".gguf"))
    return re.sub(r"[^a-z0-9.]+", "-", stem.lower()).strip("-.") or "model"


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
        "tensor_types": dict(quant.tensor_types),
        "n_fallback": quant.n_fallback,
        "derived_from": {"sha256": artifact.parent_sha256, "level": artifact.parent_quant}
        if artifact.parent_sha256
        else None,
        "source": artifact.source,
        "license": artifact.license,
        "tool": artifact.tool,
        "tool_version": artifact.tool_version,
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
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
        ),
        size_bytes=manifest["size_bytes"],
        kv_bytes_per_token=manifest["kv_bytes_per_token"],
        n_params=manifest["n_params"],
        family=manifest["family"],
        parent_sha256=parent.get("sha256"),
        parent_quant=parent.get("level"),
        source=manifest["source"],
        license=manifest["license"],
        tool=manifest["tool"],
        tool_version=manifest["tool_version"],
    )
