"""`deploy`: a model left on a phone or in an archive, with its program and a script to talk to it."""

import hashlib
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench import __version__
from edgebench.core.errors import DeviceError, ModelError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path
from edgebench.core.types import Artifact, Format
from edgebench.core.units import data_size
from edgebench.devices.phone_batch import SCRIPTS
from edgebench.quantize.manifest import artifact_files, manifest_of
from edgebench.results.store import Store
from edgebench.runners.llama_source import installed_version
from edgebench.runners.native_build import NATIVE
from edgebench.session_bundle import USUAL_THREADS, put_programs
from edgebench.session_cell import Watcher
from edgebench.session_models import check_levels, make_level, peek_level, resolve
from edgebench.session_native_place import Place
from edgebench.session_phone import phone_place

CHAT, CHAT_FACTS, PICK = "chat.sh", "chat.txt", "pick.sh"
MANIFEST = "manifest.json"
FORMAT = "edgebench-deployment 1"
_DAMAGES = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)
"""What reading an archive may raise that is none, is encrypted, or was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """How a program is to be started."""

    n_threads: int
    cpu_mask: str | None = None
    told: str = ""
    """Where the number comes from."""


def deploy(model: str, quant: str | None, device: str, db: Path, watcher: Watcher) -> list[str]:
    """Leave a model on a phone; how to try it there, line by line."""
    artifact = _artifact(model, quant, watcher)
    with phone_place(device, watcher) as place:
        place.link.check_idle(place.root, but="")  # sending files would spoil what is measured there
        threads = _best_threads(place, artifact, db)
        place.bring_programs(watcher)
        place.bring_models([artifact], watcher)
        name = _folder_name(artifact)
        facts = {
            "program": f"../../bin/{place.program.key}/{place.program.name}",
            "model": f"../../models/{artifact.sha256}/{artifact.path.name}",
            **_as_facts(threads),
        }
        there = f"{place.root}/deployed/{name}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            shutil.copyfile(SCRIPTS / CHAT, folder / CHAT)
            (folder / CHAT_FACTS).write_text(_lines(facts), encoding="utf-8")
            place.bring_folder(folder, there)
        serial = place.link.host.name.partition(":")[2]
        on = f"{artifact.label} is on {place.site.device.name}"
        return [
            f"{on}, to run with {threads.n_threads} threads ({threads.told})",
            f"try it: adb -s {serial} shell -t sh {there}/{CHAT}",
            f"remove it: edgebench deploy {model} --device {device} --remove",
        ]


def withdraw(model: str, quant: str | None, device: str, watcher: Watcher) -> list[str]:
    """Remove what `deploy` left of a model; files that another deployed model needs stay."""
    artifact = _artifact(model, quant, watcher)
    with phone_place(device, watcher) as place:
        place.link.check_idle(place.root, but="")  # what runs there may open the file
        root, name = place.root, _folder_name(artifact)
        script = (
            'cd "$1" && [ -d "deployed/$2" ] || { echo none; exit 0; }\n'
            'rm -rf "deployed/$2"\n'
            'cat deployed/*/chat.txt 2>/dev/null | grep -q "/$3/" || rm -rf "models/$3"\n'
            "rmdir deployed 2>/dev/null && [ ! -d batches ] && rm -rf bin\n"
            "echo removed"
        )
        told = place.link.run(["sh", "-c", script, "sh", root, name, artifact.sha256]).split()
        if told[-1:] == ["none"]:
            return [f"{artifact.label} was not deployed on {place.site.device.name}"]
        return [f"{artifact.label} is gone from {place.site.device.name}"]


def write_deployment(
    model: str, quant: str | None, target: str, file: Path, watcher: Watcher, *, n_threads: int | None = None
) -> list[str]:
    """The same as an archive: programs for every kind of processor of a target, a manifest, the licence."""
    if file.exists():
        raise UsageError(f"{file} is there already", "name a new file")
    artifact = _artifact(model, quant, watcher)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "content"
        folder.mkdir()
        put_programs(folder, target, (), watcher)
        for script in (CHAT, PICK):
            shutil.copyfile(SCRIPTS / script, folder / script)
        threads = Threads(n_threads=n_threads or USUAL_THREADS)
        facts = {"model": f"model/{artifact.path.name}", **_as_facts(threads)}
        (folder / CHAT_FACTS).write_text(_lines(facts), encoding="utf-8")
        told = manifest_of(artifact)
        (folder / "LICENCES.txt").write_text(_licences(told), encoding="utf-8")
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        files |= {f"model/{path.name}": path for path in artifact_files(artifact.path)}
        manifest = {
            "format": FORMAT,
            "edgebench": __version__,
            "target": target,
            "model": {**told, "path": None},
            "program": {"name": NATIVE, "llama_cpp_python": installed_version()},
            "files": {
                name: {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
                for name, path in sorted(files.items())
            },
        }
        with atomic_path(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
            for name, path in sorted(files.items()):
                archive.write(path, name)
    check_deployment(file)
    return [
        f"{file}: {artifact.label} for {target}, {data_size(file.stat().st_size)}, every file checked",
        "unpack it on the device, on Android below /data/local/tmp, and: sh chat.sh",
    ]


def check_deployment(file: Path) -> Mapping[str, Any]:
    """The manifest of an archive whose files are all as it says; DeviceError for any other."""
    try:
        with zipfile.ZipFile(file) as archive:
            manifest: dict[str, Any] = json.loads(archive.read(MANIFEST))
            if manifest["format"] != FORMAT:
                raise DeviceError(f"{file} is a deployment of another version")
            names = sorted(archive.namelist())
            if names != sorted([MANIFEST, *manifest["files"]]):  # none is there twice
                raise DeviceError(f"{file}: its files are not those of its manifest")
            for name, facts in manifest["files"].items():
                if name.startswith("/") or ".." in name.split("/"):
                    raise DeviceError(f"{file}: {name} would lie outside of its folder")
                digest = hashlib.sha256()
                with archive.open(name) as content:
                    while block := content.read(2**20):
                        digest.update(block)
                if digest.hexdigest() != facts["sha256"]:
                    raise DeviceError(f"{file}: {name} is not as its manifest says")
    except _DAMAGES as error:
        raise DeviceError(f"{file} is no deployment: {error}") from error
    return manifest


def _artifact(model: str, quant: str | None, watcher: Watcher) -> Artifact:
    check_levels([quant] if quant else [])
    parent = resolve(model, watcher.say)
    if parent.quant.format is not Format.GGUF:
        raise ModelError(f"{model} is not a GGUF file", "that is what the native program runs")
    if quant is None or quant == parent.quant.name:
        return parent
    found = peek_level(parent, quant)
    if found is None:
        watcher.say(f"making {quant} of {parent.model}")
    return found or make_level(parent, quant, n_threads=USUAL_THREADS, progress=lambda _: None)


def _best_threads(place: Place, artifact: Artifact, db: Path) -> Threads:
    """The threads a run on this phone wrote fastest with: of this file, else of any; else the likeliest."""
    sql = (
        "SELECT json_extract(r.config_json, '$.settings.n_threads') AS n_threads,"
        " json_extract(r.config_json, '$.settings.cpu_mask') AS cpu_mask, r.artifact_id AS artifact_id,"
        " avg(t.n_gen / t.decode_s) AS speed FROM run r JOIN trial t ON t.run_id = r.id"
        " WHERE r.device_id = ? AND r.status = 'complete' AND t.phase = 'measured' AND t.decode_s > 0"
        " AND t.n_depth = 0"
        " GROUP BY r.id ORDER BY (r.artifact_id = ?) DESC, speed DESC LIMIT 1"
    )
    if db.exists():
        with Store.open_readonly(db) as store:
            for row in store.rows(sql, (place.site.device.id, artifact.sha256)):
                of = "it was" if row["artifact_id"] == artifact.sha256 else "another file was"
                told = f"{of} fastest so, {row['speed']:.1f} tokens/s in {db}"
                return Threads(n_threads=row["n_threads"], cpu_mask=row["cpu_mask"], told=told)
    n_threads, mask = place.candidates[0] if place.candidates else (USUAL_THREADS, None)
    return Threads(n_threads=n_threads, cpu_mask=mask, told="its quick cores; edgebench run finds out more")


def _as_facts(threads: Threads) -> dict[str, str]:
    mask = {"mask": threads.cpu_mask.lower().removeprefix("0x")} if threads.cpu_mask else {}
    return {"threads": str(threads.n_threads), **mask}


def _lines(facts: Mapping[str, str]) -> str:
    for value in facts.values():
        if not value.isprintable():
            raise ModelError(f"{value!r} can't be a file's name on a phone", "rename the file")
    return "".join(f"{key} {value}\n" for key, value in facts.items())


def _folder_name(artifact: Artifact) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in artifact.model)
    return f"{plain[:60]}-{artifact.quant.name}-{artifact.sha256[:8]}"


def _licences(told: Mapping[str, Any]) -> str:
    licence = told.get("licence") or told.get("license") or "unknown: ask where it came from"
    return (
        f"The model: {told.get('model')}, licence: {licence}\n"
        f"The program {NATIVE}: edgebench {__version__} (Apache-2.0), statically over llama.cpp (MIT)\n"
        f"from the source in llama-cpp-python {installed_version()} (MIT).\n"
    )
