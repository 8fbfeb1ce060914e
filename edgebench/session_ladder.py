"""Quantize and check: a ladder from the first level to the picture of what each one lost."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.core.errors import EdgebenchError, ModelError, UsageError
from edgebench.core.types import Artifact, Format
from edgebench.quantize.levels import LEVELS, MOST_FALLBACK_SHARE, NEEDS_IMATRIX
from edgebench.quantize.manifest import describe, known_artifact, manifest_of
from edgebench.results.damage import damages
from edgebench.results.store import Store
from edgebench.session_calibration import BUILT_IN
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_check import check_ladder
from edgebench.session_check_scene import CheckRequest
from edgebench.session_models import peek
from edgebench.session_quantize import (
    BITS,
    artifact_path,
    make_ladder,
    quantizer_of,
)
from edgebench.session_request import QuantizeRequest, check_request
from edgebench.session_sources import checkpoint_of, reference_gguf
from edgebench.session_tools import make_with

SLOW = ("iq",)
"""Levels whose search takes ten to sixty times as long as the others' rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A ladder as it is shown: a row a level, widest first."""

    model: str
    reference: str | None
    """None: nothing was checked."""
    rows: list[dict[str, Any]]
    picture: Path | None
    footnote: str
    outcome: Outcome


def quantize_and_check(
    request: QuantizeRequest, store: Store, watcher: Watcher, *, check: bool, n_chunks: int | None
) -> Made:
    """Make what is missing, check what was not checked, and draw size against KL divergence."""
    ladder = make_ladder(request, store, watcher)
    if not ladder.artifacts:
        raise ladder_failed(ladder.outcome)
    notes = {artifact.sha256: _notes(artifact) for artifact in ladder.artifacts}
    classes = {artifact.sha256: dict(artifact.quant.bits_per_class) for artifact in ladder.artifacts}
    picture, label = None, None
    if check:
        reference = reference_gguf(ladder.source, watcher.say, n_threads=request.n_threads)
        store.add_artifact(reference, manifest_of(reference))
        subjects = list(ladder.artifacts)
        if any(artifact.quant.format is Format.ONNX for artifact in subjects):
            subjects.append(_checkpoint(ladder.source, store, watcher))  # torch: the yardstick across formats
        wanted = CheckRequest(n_threads=request.n_threads, n_chunks=n_chunks)
        ladder.outcome.failures += check_ladder(reference, subjects, store, watcher, wanted)
        found = damages(store, reference_id=reference.sha256)
        asked = {artifact.sha256 for artifact in subjects} | {reference.sha256}
        found = [damage for damage in found if damage.artifact_id in asked]
        rows = [
            {
                **asdict(damage),
                "bits_per_class": classes.get(damage.artifact_id, {}),
                "notes": "; ".join(_said(damage, notes.get(damage.artifact_id, []))),
            }
            for damage in found
        ]
        from edgebench.results.damage_plot import damage_picture

        picture = request.out / f"{ladder.source.model}-ladder.svg"
        damage_picture(found, picture, f"{ladder.source.model}: size against damage")
        label = reference.label
    else:
        rows = [_unchecked(artifact, notes[artifact.sha256]) for artifact in ladder.artifacts]
    return Made(
        model=ladder.source.model,
        reference=label,
        rows=rows,
        picture=picture,
        footnote=FOOTNOTE,
        outcome=ladder.outcome,
    )


FOOTNOTE = (
    "KLD, perplexity and top tokens: on held-out text, f32 cache, flash attention off. Greedy: tokens until "
    "the first that differs. Flips: answers of `everyday` other than the reference's (and other than its "
    "own, in another batch). The reference's own row is the noise of the method."
)


def ladder_failed(outcome: Outcome) -> EdgebenchError:
    """The error for a ladder without a single level."""
    return ModelError("; ".join(outcome.failures), "nothing was made")


def preview_ladder(request: QuantizeRequest, watcher: Watcher) -> list[dict[str, Any]]:
    """What each level would come to, by llama.cpp's own dry run; nothing is made."""
    levels_known = replace(request, calibration=request.calibration or BUILT_IN)  # told in a note instead
    check_request(levels_known)
    source = peek(request.model) if not Path(request.model).is_dir() else None
    rows = []
    for level in request.levels:
        notes = []
        if level in NEEDS_IMATRIX and request.calibration is None and not request.calibration_suites:
            notes.append("needs --calibration")
        if level.startswith(SLOW):
            notes.append("slow to make")
        row: dict[str, Any] = {
            "level": level,
            "state": "to make",
            "size_bytes": None,
            "bits_per_weight": None,
        }
        if source is not None and level in LEVELS and source.quant.format is Format.GGUF:
            told = _dry_run(source, level, request, watcher)
            row |= {"size_bytes": told["size_bytes"], "bits_per_weight": told["bits_per_weight"]}
            if told["fallbacks"]:
                notes.append(f"{len(told['fallbacks'])} tensors fall back to other types")
        elif source is not None and source.n_params and level in BITS:
            row |= {"size_bytes": source.n_params * BITS[level] // 8}
            notes.append("size estimated")
        if source is not None and artifact_path(source, level, request).exists():
            row["state"] = "there"
        rows.append({**row, "notes": "; ".join(notes)})
    return rows


def creation_of(name: str, db: Path) -> tuple[str, list[str]]:
    """The command that made an artifact, and what to know before it is run again."""
    path = Path(name).expanduser()
    if path.exists():
        artifact = describe(path)
        manifest: dict[str, Any] | None = manifest_of(artifact)
    else:
        manifest = known_artifact(name) if len(name) >= 6 and name.isalnum() else None
        if manifest is None and db.exists():
            manifest = _stored_manifest(name, db)
    if manifest is None:
        raise UsageError(f"no artifact {name!r}", "a path, or six or more characters of its sha256")
    command = (manifest.get("recipe") or {}).get("command")
    if command is None:
        raise UsageError(
            f"{name} was not made by edgebench quantize (source: {manifest['source']})",
            "fetch it from where it came",
        )
    notes = [f"sha256 {manifest['sha256']}", f"with {manifest['tool']} ({manifest['tool_version']})"]
    if manifest.get("calibration_sha256"):
        notes.append(f"importance matrix {manifest['calibration_sha256'][:16]}…")
    if manifest["format"] != Format.GGUF:
        notes.append("ONNX exporters may order their graph anew: compare figures, not hashes")
    return command, notes


def _stored_manifest(name: str, db: Path) -> dict[str, Any] | None:
    import json

    with Store.open_readonly(db) as store:
        rows = store.rows(
            "SELECT manifest_json FROM artifact WHERE substr(id, 1, length(?1)) = ?1", (name.lower(),)
        )
    return json.loads(rows[0]["manifest_json"]) if len(rows) == 1 else None


def _checkpoint(source: Artifact, store: Store, watcher: Watcher) -> Artifact:
    """The source in torch's own format."""
    if source.quant.format is Format.SAFETENSORS:
        return source
    folder = checkpoint_of(source, watcher.say)
    artifact = describe(
        folder,
        model=source.model,
        parent=source,
        source=source.source,
        license=source.license,
        tool="edgebench",
    )
    store.add_artifact(artifact, manifest_of(artifact))
    return artifact


def _dry_run(source: Artifact, level: str, request: QuantizeRequest, watcher: Watcher) -> dict[str, Any]:
    job = {
        "source": str(source.path),
        "target": str(request.out / "never-written.gguf"),
        "level": level,
        "n_threads": request.n_threads,
        "tensor_types": [list(pair) for pair in request.tensor_types],
        "output_type": request.output_type,
        "embedding_type": request.embedding_type,
        "dry_run": True,
    }
    return make_with(quantizer_of(level), job, watcher.say, lambda _: None)


def _notes(artifact: Artifact) -> list[str]:
    """What a reader must know before trusting the level's name."""
    notes = []
    if artifact.quant.fallback_share > MOST_FALLBACK_SHARE:
        notes.append(f"not {artifact.quant.name}: {artifact.quant.fallback_share:.0%} in other types")
    if artifact.recipe.get("search"):
        notes.append("recipe searched")
    return notes


def _said(damage: Any, notes: list[str]) -> list[str]:
    if damage.is_reference:
        return ["the reference against itself"]
    if damage.format is Format.SAFETENSORS:
        notes = ["the checkpoint in torch"]
    return [*notes, *([damage.reason] if damage.reason else [])]


def _unchecked(artifact: Artifact, notes: list[str]) -> dict[str, Any]:
    return {
        "artifact_id": artifact.sha256,
        "model": artifact.model,
        "quant": artifact.quant.name,
        "label": artifact.label,
        "size_bytes": artifact.size_bytes,
        "bits_per_weight": artifact.quant.bits_per_weight,
        "bits_per_class": dict(artifact.quant.bits_per_class),
        "verdict": None,
        "notes": "; ".join(notes),
    }
