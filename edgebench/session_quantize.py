"""One model to a ladder of levels, each with its manifest, and what each one costs against the original.

A level whose manifest tells of this very job is not made again, so an interrupted ladder goes on where
it was. A level that can't be made is a failure; the others follow.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.engine import Quantizer
from edgebench.core.errors import EdgebenchError, ModelError, StoreError, nearest
from edgebench.core.hashing import sha256_json
from edgebench.core.paths import cache_part, free_bytes
from edgebench.core.types import WHOLE_LEVELS, Artifact
from edgebench.devices.local import default_threads as default_threads
from edgebench.quantize.levels import (
    ALL_LEVELS,
    LEVELS,
    MOST_FALLBACK_SHARE,
    ONNX_LEVELS,
)
from edgebench.quantize.manifest import describe, manifest_of, sidecar, write_sidecar
from edgebench.results.store import Store
from edgebench.session_calibration import Calibration, calibrate
from edgebench.session_cell import Outcome, Watcher
from edgebench.session_onnx import best_recipe, genai_words
from edgebench.session_request import QuantizeRequest, check_request, creation_command, options_of
from edgebench.session_sources import checkpoint_of, child_of, gguf_base, open_source, reference_gguf
from edgebench.session_split import split_gguf
from edgebench.session_tools import make_with

NEARLY_FULL_BYTES = 64 * 2**20
"""With less free disk than this, a failed write had no room."""
ROUNDED = frozenset(LEVELS) - WHOLE_LEVELS
"""Levels that an importance matrix has a say in."""
BITS = {"onnx-fp32": 33, "onnx-fp16": 17, "onnx-int8": 9, "onnx-nbits8": 10, "onnx-nbits4": 7}
BITS |= {"genai-fp32": 33, "genai-int8": 20, "genai-int4": 10}
"""Bits per weight that an export is planned with, before it is there."""


@dataclass(slots=True)
class Ladder:
    """What was made, and what could not be."""

    source: Artifact
    artifacts: list[Artifact] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)


def make_ladder(request: QuantizeRequest, store: Store, watcher: Watcher) -> Ladder:
    """Every level of the request that is not there yet; all of them described and stored.

    Raises EdgebenchError when the source can't be used; failures of single levels are collected.
    """
    check_request(request)
    source = open_source(
        request.model,
        watcher.say,
        revision=request.revision,
        adapter=request.adapter,
        accept_license=request.accept_license,
    )
    store.add_artifact(source, manifest_of(source))
    ladder = Ladder(source=source)
    request.out.mkdir(parents=True, exist_ok=True)
    calibration = None
    if any(level in LEVELS for level in request.levels):
        reference = reference_gguf(source, watcher.say, n_threads=request.n_threads)
        calibration = calibrate(
            reference,
            request.calibration,
            request.calibration_suites,
            request.data,
            n_threads=request.n_threads,
            say=watcher.say,
        )
    _check_room(request, source)
    missing = [level for level in request.levels if _ready(level, source, request, calibration) is None]
    if missing:
        watcher.stage(f"making {len(missing)} levels of {source.model}, % done", 100 * len(missing))
    for level in request.levels:
        _level(level, level in missing, ladder, request, calibration, store, watcher)
    return ladder


def _level(
    level: str,
    is_missing: bool,
    ladder: Ladder,
    request: QuantizeRequest,
    calibration: Calibration | None,
    store: Store,
    watcher: Watcher,
) -> None:
    """Make a level, or find it made; a failure is noted and the ladder goes on."""
    n_done = 0

    def progress(share: float) -> None:
        nonlocal n_done
        watcher.step(level, int(100 * share) - n_done)
        n_done = int(100 * share)

    try:
        if is_missing:
            artifact = _make(level, ladder.source, request, calibration, watcher, progress)
            watcher.step(level, 100 - n_done)
            watcher.say(made_line(artifact))
        else:
            artifact = describe(artifact_path(ladder.source, level, request), model=ladder.source.model)
        write_sidecar(artifact)
        store.add_artifact(artifact, manifest_of(artifact))
    except StoreError:
        raise
    except EdgebenchError as error:
        full = free_bytes(request.out) < NEARLY_FULL_BYTES
        hint = (
            f"the disk of {request.out} is full: free some, the same command goes on" if full else error.hint
        )
        ladder.outcome.fail(type(error)(f"level {level}: {error.message}", hint), watcher)
        return
    ladder.artifacts.append(artifact)


def made_line(artifact: Artifact) -> str:
    """What came out, in a line: the name is never the only truth."""
    quant = artifact.quant
    line = f"{artifact.label}: {artifact.size_bytes / 2**20:.0f} MiB"
    if quant.bits_per_weight is not None:
        line += f", {quant.bits_per_weight:.2f} bits per weight"
    if changes := artifact.recipe.get("fallbacks"):
        told = ", ".join(f"{n} {change}" for change, n in changes.items())
        line += f"; llama.cpp changed types where rows don't fit: {told}"
    if quant.fallback_share > MOST_FALLBACK_SHARE:
        line += (
            f"; not what its name says: {quant.fallback_share:.0%} of the layers' weights are of other types"
        )
    return line


def artifact_path(source: Artifact, level: str, request: QuantizeRequest) -> Path:
    """Where a level lies: `MODEL-LEVEL.gguf`, or a folder `MODEL-LEVEL`; of a split one, the first part."""
    if level not in LEVELS:
        return request.out / f"{source.model}-{level}"
    if request.max_shard is not None:
        parts = sorted(request.out.glob(f"{source.model}-{level}-00001-of-?????.gguf"))
        if parts:
            return parts[0]
    return request.out / f"{source.model}-{level}.gguf"


def quantizer_of(level: str) -> Quantizer:
    """The plug-in that makes a level."""
    for name in registry.names("quantizers"):
        quantizer: Quantizer = registry.load("quantizers", name)
        if level in quantizer.levels():
            return quantizer
    raise nearest(level, ALL_LEVELS, kind="level")


def _job_sha256(
    level: str, source: Artifact, request: QuantizeRequest, calibration: Calibration | None
) -> str:
    """What decides a level's bytes: where it is the same, the level is not made again."""
    options = options_of(level, request)
    matrix = calibration.sha256 if calibration and level in ROUNDED else None
    return sha256_json([source.sha256, level, options, matrix, quantizer_of(level).version()])


def _ready(
    level: str, source: Artifact, request: QuantizeRequest, calibration: Calibration | None
) -> Artifact | None:
    """The level, if its manifest tells of this very job and its bytes are the ones it tells of."""
    path = artifact_path(source, level, request)
    if not path.exists() or not sidecar(path).is_file():
        return None
    try:
        artifact = describe(path, model=source.model)
    except ModelError:
        return None  # damaged: made again
    same = artifact.recipe.get("job_sha256") == _job_sha256(level, source, request, calibration)
    return artifact if same else None


def _make(
    level: str,
    source: Artifact,
    request: QuantizeRequest,
    calibration: Calibration | None,
    watcher: Watcher,
    progress: Callable[[float], None],
) -> Artifact:
    quantizer = quantizer_of(level)
    make = _make_gguf if level in LEVELS else _make_onnx
    path, told = make(level, source, request, calibration, quantizer, watcher, progress)
    recipe = {
        "job_sha256": _job_sha256(level, source, request, calibration),
        "command": creation_command(level, request),
        **options_of(level, request),
        **told,
    }
    if calibration and level in ROUNDED:
        recipe["calibration"] = calibration.facts
    if "license_accepted" in source.recipe:
        recipe["license_accepted"] = source.recipe["license_accepted"]
    if adapter := source.recipe.get("adapter"):
        recipe["adapter"] = adapter
    return child_of(
        source,
        path,
        level=level,
        tool="llama_model_quantize" if level in LEVELS else quantizer.name,
        tool_version=quantizer.version(),
        calibration_sha256=calibration.sha256 if calibration and level in ROUNDED else None,
        recipe=recipe,
    )


def _make_gguf(
    level: str,
    source: Artifact,
    request: QuantizeRequest,
    calibration: Calibration | None,
    quantizer: Quantizer,
    watcher: Watcher,
    progress: Callable[[float], None],
) -> tuple[Path, dict[str, Any]]:
    base = gguf_base(source, watcher.say)
    path = request.out / f"{source.model}-{level}.gguf"
    work = cache_part("work") / f"{source.sha256[:16]}-{level}.gguf" if request.max_shard else path
    job = {
        "source": str(base.path),
        "target": str(work),
        "level": level,
        "n_threads": request.n_threads,
        "imatrix": str(calibration.imatrix) if calibration and level in ROUNDED else None,
        **{k: v for k, v in options_of(level, request).items() if k != "max_shard"},
    }
    try:
        told = make_with(quantizer, job, watcher.say, progress)
    finally:
        _tidy(work)
    if request.max_shard:
        try:
            path = split_gguf(work, path, request.max_shard, watcher.say)
        finally:
            work.unlink(missing_ok=True)
    changes: dict[str, int] = {}
    for _, wanted, got in told["fallbacks"]:
        changes[f"{wanted} → {got}"] = changes.get(f"{wanted} → {got}", 0) + 1
    return path, {"fallbacks": changes} if changes else {}


def _make_onnx(
    level: str,
    source: Artifact,
    request: QuantizeRequest,
    calibration: Calibration | None,
    quantizer: Quantizer,
    watcher: Watcher,
    progress: Callable[[float], None],
) -> tuple[Path, dict[str, Any]]:
    path = request.out / f"{source.model}-{level}"
    checkpoint = checkpoint_of(source, watcher.say)
    if path.exists() and not sidecar(path).is_file():
        raise ModelError(
            f"{path} is there, and edgebench did not make it", "move it away, or choose another --out"
        )
    fresh = path.with_name(f".new-{path.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    job: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "target": str(fresh),
        "level": level,
        "n_threads": request.n_threads,
    }
    found: dict[str, Any] = {}
    if level in ONNX_LEVELS and level != "onnx-fp32":
        job["base"] = str(_onnx_base(source, checkpoint, request, watcher))
    if request.search and level in ("onnx-nbits4", "genai-int4"):
        base = job.get("base") or str(_onnx_base(source, checkpoint, request, watcher))
        found = best_recipe(source, checkpoint, Path(base), n_threads=request.n_threads, say=watcher.say)
        job["recipe"] = found["recipe"] if level in ONNX_LEVELS else genai_words(found["recipe"])
    try:
        told = make_with(quantizer, job, watcher.say, progress)
    finally:
        _tidy(fresh)
    if path.exists():  # of another job, or damaged: it goes when the new one is whole
        shutil.rmtree(path)
    sidecar(path).unlink(missing_ok=True)
    sidecar(path).touch()  # killed before the manifest is written, the folder is still known to be ours
    fresh.rename(path)
    return path, {**told, **({"search": found["candidates"]} if found else {})}


def _onnx_base(source: Artifact, checkpoint: Path, request: QuantizeRequest, watcher: Watcher) -> Path:
    """The fp32 graph that other ONNX levels are made from: the one asked for, or one in the cache."""
    asked = request.out / f"{source.model}-onnx-fp32"
    if "onnx-fp32" in request.levels and sidecar(asked).is_file():
        return asked
    path = cache_part("artifacts") / source.sha256[:16] / f"{source.model}-onnx-fp32"
    if not path.exists():
        watcher.say(f"exporting {source.model} to ONNX (fp32)")
        job = {"checkpoint": str(checkpoint), "target": str(path), "level": "onnx-fp32"}
        make_with(
            quantizer_of("onnx-fp32"), {**job, "n_threads": request.n_threads}, watcher.say, lambda _: None
        )
    return path


def _check_room(request: QuantizeRequest, source: Artifact) -> None:
    """ModelError when the whole ladder can't fit, before its first level is made."""
    n = source.n_params or 0
    bits = {"f32": 32, "f16": 16, "bf16": 16, **BITS}
    needed = sum(n * bits.get(level, 9) // 8 for level in request.levels)
    needed -= sum(_size(artifact_path(source, level, request)) for level in request.levels)
    if free_bytes(request.out) < needed:
        raise ModelError(
            f"{request.out} has no room for {len(request.levels)} levels of {source.model} "
            f"(up to {needed / 1e9:.1f} GB, {free_bytes(request.out) / 1e9:.1f} GB are free)",
            "ask for fewer levels, or write to another disk with --out",
        )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def _tidy(path: Path) -> None:
    """Remove what a killed child left of this level: it could not do so itself."""
    for part in path.parent.glob(f".part-*-{path.name}") if path.parent.is_dir() else ():
        shutil.rmtree(part) if part.is_dir() else part.unlink()
