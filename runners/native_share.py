"""Native programs in a zip, to be handed on: built once, used where there is no compiler.

    ABI-LEVEL-KEY/build.json          what it is: ABI, level, key, source, sha256 of each program
    ABI-LEVEL-KEY/edgebench-native    the programs

A zip may come from anywhere. Nothing is unpacked by the names in it, nothing appears in the cache before all
of it was looked at, and nothing of it is run here. That its programs do no harm no check can tell.
"""

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import EdgebenchError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path, cache_part, exclusive
from edgebench.runners.llama_source import installed_version, quiet
from edgebench.runners.native_build import FACTS, PROGRAMS, kept, place_name, source_key
from edgebench.runners.native_target import LEVELS, Toolchain, abi_of, program_fault

MOST_PROGRAM_BYTES = 64 * 2**20
"""Several times what a program takes; more is refused unread, as is the next."""
MOST_FACTS_BYTES = 2**16
MOST_BYTES = 2**29
"""Of all files of a zip together, and of the zip itself."""
MOST_FILES = 64
_END, _END_64, _END_BYTES, _LOCATOR_BYTES = b"PK\x05\x06", b"PK\x06\x07", 22, 20
_MOST_LIST_BYTES = 2**16
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"([a-z0-9_+.-]{1,80})/(" + "|".join(map(re.escape, (FACTS, *PROGRAMS))) + ")")
_KEY = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINK, _KIND = 0o120000, 0o170000
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What the library raises at damaged, encrypted and strangely packed files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A build in a zip."""

    abi: str
    level: str
    key: str
    toolchain: str
    compiler: str
    sha256: dict[str, str]
    """Program -> its hash."""

    @property
    def place(self) -> str:
        """Its folder's name, in a zip and in the cache."""
        return place_name(self.abi, self.level, self.key)

    def facts(self) -> dict[str, Any]:
        """Its build.json, of nothing but what was checked."""
        told = {name: getattr(self, name) for name in ("abi", "level", "key", "toolchain", "compiler")}
        own = {"source": source_key(), "llama_cpp_python": installed_version(), "imported": True}
        return {**told, **own, "sha256": dict(self.sha256)}


def export_builds(file: Path, targets: Sequence[str] = ()) -> list[Shared]:
    """Write the builds of this source (of these targets only) into a zip: the same ones, the same bytes."""
    abis = {abi_of(target) for target in targets}
    chosen: dict[tuple[str, str], tuple[Path, Shared]] = {}
    for place, told in kept():  # the newest first
        if told.get("source") != source_key() or (abis and told.get("abi") not in abis):
            continue
        shared = _shared(told, place.name)
        for name, sha256 in shared.sha256.items():
            if not (place / name).is_file() or sha256_file(place / name) != sha256:
                raise EdgebenchError(f"{place / name} is damaged", f"delete {place} and build it again")
        chosen.setdefault((shared.abi, shared.level), (place, shared))
    if not chosen:
        of = f" for {', '.join(targets)}" if targets else ""
        raise UsageError(
            f"there is nothing to export{of}: it is not built yet",
            f"edgebench runners build --target {targets[0] if targets else 'android-arm64'}",
        )
    with atomic_path(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for _, (place, shared) in sorted(chosen.items()):
            for name in (FACTS, *sorted(shared.sha256)):
                entry = zipfile.ZipInfo(f"{shared.place}/{name}", _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o100644 if name == FACTS else 0o100755) << 16
                archive.writestr(entry, (place / name).read_bytes())
    return [shared for _, (_, shared) in sorted(chosen.items())]


def import_builds(file: Path) -> list[Shared]:
    """Take the builds in a zip into the cache, all of them or none; UsageError says what is wrong with it."""
    native = cache_part("native")
    with tempfile.TemporaryDirectory(dir=native, prefix=".part-") as folder:
        found = _unpack(file, Path(folder))
        with exclusive(native / "import", quiet):
            for shared in found:
                _check_free(native / shared.place, shared)
            for shared in found:
                _move(Path(folder) / shared.place, native / shared.place, shared)
    return found


def _unpack(file: Path, folder: Path) -> list[Shared]:
    """Its builds, each in a folder of its name, every file checked."""
    _look_at_end(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = _entries(archive, file)
            found = []
            for name in sorted({entry.filename.split("/")[0] for entry in entries.values()}):
                shared = _shared(_facts(archive, entries, name, file), name)
                inside = {path.split("/")[1] for path in entries if path.startswith(f"{name}/")} - {FACTS}
                if inside != set(shared.sha256):
                    raise _refused(file, f"{name}/{FACTS} names other programs than there are")
                (folder / name).mkdir()
                for program, sha256 in shared.sha256.items():
                    content = _read(archive, entries[f"{name}/{program}"], MOST_PROGRAM_BYTES, file)
                    if hashlib.sha256(content).hexdigest() != sha256:
                        raise _refused(file, f"{name}/{program} is damaged: its sha256 is another one")
                    if fault := program_fault(content, shared.abi):
                        raise _refused(file, f"{name}/{program} {fault}")
                    (folder / name / program).write_bytes(content)
                    (folder / name / program).chmod(0o755)
                found.append(shared)
    except _UNREADABLE as error:
        raise _refused(file, f"it can't be read ({str(error)[:80] or type(error).__name__})") from error
    return found


def _look_at_end(file: Path) -> None:
    """A zip's list of files is read as a whole, by the size that its end says: that is looked at before."""
    size_bytes = file.stat().st_size
    if size_bytes > MOST_BYTES:
        raise _refused(file, f"it takes more than {MOST_BYTES} bytes")
    with file.open("rb") as raw:
        raw.seek(max(0, size_bytes - _END_BYTES - _LOCATOR_BYTES))
        tail = raw.read()
    end = tail[-_END_BYTES:]
    if len(end) < _END_BYTES or end[:4] != _END or end[-2:] != b"\0\0" or tail[:4] == _END_64:
        raise _refused(file, "it is no plain zip")
    if int.from_bytes(end[12:16], "little") > _MOST_LIST_BYTES:
        raise _refused(file, "its list of files is too long")


def _entries(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """Its files by name; all of what else a zip may hold is refused."""
    infos = archive.infolist()
    if not infos or len(infos) > MOST_FILES:
        raise _refused(file, f"it holds {len(infos)} files")
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        match = _NAME.fullmatch(info.orig_filename)
        if match is None or match[1].startswith("."):
            raise _refused(file, f"it holds {info.orig_filename[:60]!r}, which is no part of a build")
        if info.filename in entries:
            raise _refused(file, f"it holds {info.filename} twice")
        if info.external_attr >> 16 & _KIND == _LINK:
            raise _refused(file, f"{info.filename} is a link")
        if info.flag_bits & 1:
            raise _refused(file, f"{info.filename} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(file, f"{info.filename} is packed in a way that no export packs")
        if info.file_size > (most := MOST_FACTS_BYTES if match[2] == FACTS else MOST_PROGRAM_BYTES):
            raise _refused(file, f"{info.filename} would take more than {most} bytes")
        entries[info.filename] = info
    if sum(info.file_size for info in infos) > MOST_BYTES:
        raise _refused(file, f"it would take more than {MOST_BYTES} bytes")
    return entries


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most_bytes: int, file: Path) -> bytes:
    """A file's content; what it says of its own size is not believed."""
    with archive.open(entry) as packed:
        content = packed.read(most_bytes + 1)
    if len(content) > most_bytes or len(content) != entry.file_size:
        raise _refused(file, f"{entry.filename} is not of the size it says")
    return content


def _facts(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str, file: Path) -> Any:
    if f"{name}/{FACTS}" not in entries:
        raise _refused(file, f"{name} has no {FACTS}")
    content = _read(archive, entries[f"{name}/{FACTS}"], MOST_FACTS_BYTES, file)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _refused(file, f"{name}/{FACTS} is no JSON") from error


def _shared(told: Any, place: str) -> Shared:
    """What a build.json says, each word checked; UsageError where it is not one of this source."""
    what = f"{place}/{FACTS}"
    if not isinstance(told, dict):
        raise UsageError(f"{what} is no description of a build")
    abi, level, key, sha256 = (told.get(name) for name in ("abi", "level", "key", "sha256"))
    if not isinstance(abi, str) or abi not in LEVELS:
        raise UsageError(f"{what} names an unknown ABI: {str(abi)[:40]!r}", f"known: {', '.join(LEVELS)}")
    if level not in [one.name for one in LEVELS[abi]]:
        raise UsageError(f"{what} names an unknown level of {abi}: {str(level)[:40]!r}")
    if not isinstance(key, str) or not _KEY.fullmatch(key) or place != place_name(abi, str(level), key):
        raise UsageError(f"{what} is of another build than its folder says")
    if told.get("toolchain") not in set(Toolchain):
        raise UsageError(f"{what} names an unknown toolchain: {str(told.get('toolchain'))[:40]!r}")
    if not isinstance(sha256, dict) or not sha256 or not set(sha256) <= set(PROGRAMS):
        raise UsageError(f"{what} names no programs, or unknown ones")
    if not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in sha256.values()):
        raise UsageError(f"{what} has a sha256 that is none")
    if told.get("source") != source_key():
        raise UsageError(
            f"{place} is built from another source ({str(told.get('llama_cpp_python'))[:20]}) than this"
            f" edgebench uses ({installed_version()})",
            "export it again with the same edgebench and llama-cpp-python, or build it here",
        )
    return Shared(
        abi=abi,
        level=str(level),
        key=key,
        toolchain=str(told["toolchain"]),
        compiler="".join(filter(str.isprintable, str(told.get("compiler"))[:100])),
        sha256=dict(sha256),
    )


def _check_free(place: Path, shared: Shared) -> None:
    """UsageError where the cache has other programs under this build's key."""
    for name, sha256 in shared.sha256.items():
        if (place / FACTS).exists() and (place / name).exists() and sha256_file(place / name) != sha256:
            raise UsageError(
                f"{place.name}/{name} is here already, and is another program",
                f"if it is the imported one that you want: delete {place}, import again",
            )


def _move(made: Path, place: Path, shared: Shared) -> None:
    """Put a build where it is looked for, beside what is there of it."""
    facts = shared.facts()
    if (place / FACTS).exists():
        facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
    place.mkdir(exist_ok=True)
    for name in shared.sha256:
        (made / name).replace(place / name)
    facts["sha256"] = {**facts["sha256"], **shared.sha256}
    with atomic_path(place / FACTS) as part:
        part.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _refused(file: Path, why: str) -> UsageError:
    return UsageError(f"{file.name} is not imported: {why}", "make one with: edgebench runners export")
