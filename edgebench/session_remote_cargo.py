"""What a host needs of this computer for a request: model files, questions, a key. Each pushed once."""

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebench.core.errors import DeviceError, SuiteError
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.types import Artifact, Format
from edgebench.core.units import data_size
from edgebench.quantize.manifest import SUFFIX, artifact_files, manifest_of, model_name
from edgebench.session_cell import Watcher
from edgebench.session_models import check_levels, check_models, resolve
from edgebench.session_plan import Request
from edgebench.session_remote_link import Link
from edgebench.suites.definition import BUILT_IN, find_definition
from edgebench.suites.loader import locate

SPARE_BYTES = 256 * 2**20
"""That a push leaves free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file here, and where it goes."""

    path: Path
    target: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """A request as the host is asked it, and everything it names."""

    request: Request
    files: tuple[File, ...]
    manifests: tuple[tuple[str, str], ...]
    """(where, text): what is known of the models, beside them."""


def cargo_of(request: Request, root: str, watcher: Watcher) -> Cargo:
    """Resolve a request's models and questions here. Raises what `run` on this computer would."""
    check_models(request.models)
    check_levels(request.quants)
    files: list[File] = []
    manifests: list[tuple[str, str]] = []
    models: list[str] = []
    for name in request.models:
        artifact = resolve(name, watcher.say)
        target = f"{root}/models/{artifact.sha256}/{_name_there(artifact)}"
        models.append(target)
        files += model_files(artifact, target)
        if artifact.quant.format is not Format.SYNTHETIC:
            manifests.append((target + SUFFIX, json.dumps(manifest_of(artifact))))
    there = replace(request, device="local", models=tuple(models))
    questions = list(_question_files(request)) if request.mode != "performance" else []
    if questions:
        folder = f"{root}/data/{sha256_json([[inside, file.sha256] for inside, file in questions])[:16]}"
        files += [replace(file, target=f"{folder}/{inside}") for inside, file in questions]
        there = replace(there, data=Path(folder))
    else:
        there = replace(there, data=None)
    if request.key is not None:
        key = file_of(request.key, "")
        key = replace(key, target=f"{root}/data/{key.sha256[:16]}/key.csv")
        files.append(key)
        there = replace(there, key=Path(key.target))
    return Cargo(request=there, files=tuple(files), manifests=tuple(manifests))


def push_cargo(link: Link, root: str, cargo: Iterable[Cargo], watcher: Watcher) -> None:
    """Bring everything over that is not there. DeviceError, before anything is sent, when it does not fit."""
    items = list(cargo)
    files = list({file.target: file for item in items for file in item.files}.values())
    there = sizes_there(link, [file.target for file in files])
    missing_bytes = sum(file.size_bytes - n for file, n in zip(files, there, strict=True))
    if missing_bytes:
        free_bytes = free_bytes_there(link, root)
        if free_bytes < missing_bytes + SPARE_BYTES:
            raise DeviceError(
                f"{link.host.name} has {data_size(free_bytes)} free in {root}; the files to measure take"
                f" {data_size(missing_bytes)} more, and {data_size(SPARE_BYTES)} stay free",
                f"free some there (edgebench devices clean {link.host.name}), or name another folder with"
                " EDGEBENCH_HOST_DIR",
            )
        if any(file.target.startswith(f"{root}/data/") for file in files):
            watcher.say(f"questions go to {link.host.name} with it; `devices clean` removes them there")
        send(link, files, watcher, missing_bytes)
    for target, text in {where: text for item in items for where, text in item.manifests}.items():
        link.put(target, text)


def send(link: Link, files: Sequence[File], watcher: Watcher, missing_bytes: int) -> None:
    """Push files in turn, with progress over all of them."""
    total_bytes = sum(file.size_bytes for file in files) or 1
    watcher.stage(f"sending {data_size(missing_bytes)} to {link.host.name}, % there", 100)
    n_done, before_bytes = 0, 0
    for file in files:

        def sent(n_bytes: int, file: File = file, before_bytes: int = before_bytes) -> None:
            nonlocal n_done
            n_now = 100 * (before_bytes + n_bytes) // total_bytes
            if n_now > n_done:
                watcher.step(posixpath.basename(file.target), n_now - n_done)
                n_done = n_now

        link(
            lambda file=file, sent=sent: link.host.push(  # type: ignore[misc]
                file.path, file.target, sha256=file.sha256, sent=sent
            )
        )
        before_bytes += file.size_bytes


def sizes_there(link: Link, targets: Sequence[str]) -> list[int]:
    """How much of each file is there, or on its way."""
    script = 'for f; do wc -c <"$f" 2>/dev/null || wc -c <"$f.part" 2>/dev/null || echo 0; done'
    told = link.run(["sh", "-c", script, "sh", *targets]).split()
    return (
        [int(word) if word.isdecimal() else 0 for word in told]
        if len(told) == len(targets)
        else [0] * len(targets)
    )


def free_bytes_there(link: Link, root: str) -> int:
    """Bytes free in a folder there."""
    told = link.run(["df", "-Pk", root]).splitlines()
    try:
        return 1024 * int(told[-1].split()[3])
    except (IndexError, ValueError):
        raise DeviceError(f"{link.host.name}: df does not tell how much is free in {root}") from None


def model_files(artifact: Artifact, target: str) -> list[File]:
    """The files of an artifact, the first of them at `target`."""
    path = artifact.path
    if path.is_dir():
        return [file_of(f, f"{target}/{f.relative_to(path).as_posix()}") for f in artifact_files(path)]
    parts = [path] if artifact.quant.format is Format.SYNTHETIC else artifact_files(path)
    if parts == [path]:
        return [File(path=path, target=target, sha256=artifact.sha256, size_bytes=artifact.size_bytes)]
    return [file_of(part, f"{posixpath.dirname(target)}/{part.name}") for part in parts]


def _name_there(artifact: Artifact) -> str:
    """A name from which the host reads the model's own name; parts of a split file keep theirs."""
    path = artifact.path
    if artifact.quant.format is Format.SYNTHETIC or (path.is_file() and artifact_files(path) != [path]):
        return path.name
    ending = "" if path.is_dir() else path.suffix
    named = f"{artifact.model}-{artifact.quant.name}{ending}"
    return named if model_name(Path(named)) == artifact.model else f"{artifact.model}{ending}"


def _question_files(request: Request) -> Iterator[tuple[str, File]]:
    """(place in the data folder, file) of suites whose questions edgebench does not ship."""
    for name in dict.fromkeys(request.suites):
        definition = find_definition(name)
        if definition.file.parent != BUILT_IN:
            raise SuiteError(
                f"suite {name} was added on this computer: hosts know the built-in ones only",
                "measure its accuracy here, with the same file",
            )
        for dev in (False, True) if request.num_fewshot else (False,):
            if dev and not any(form.dev for form in definition.forms):
                continue
            found = locate(definition, request.data, dev=dev)
            if found.form.root == "data":
                for inside, path in found.paths.items():
                    yield posixpath.join(found.form.folder, inside), file_of(path, "")


def file_of(path: Path, target: str) -> File:
    """A file here as it is to be there."""
    return File(path=path, target=target, sha256=sha256_file(path), size_bytes=path.stat().st_size)
