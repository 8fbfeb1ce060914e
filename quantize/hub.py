"""Checkpoints and adapters from a model hub: only what is needed, no pickle, no code, size asked first.

What was fetched is written down beside the files, with their sizes: a snapshot counts as there only when
it is whole, so that a broken transfer is never taken for a model, with a network or without.
"""

import errno
import glob
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path, exclusive, free_bytes

Progress = Callable[[float], None]

WANTED = (
    *("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt"),
    *("README.md", "LICENSE*", "LICENCE*", "NOTICE*"),
)
"""What is fetched, from the top of the repository only."""
UNWANTED = ("consolidated*.safetensors", "pytorch_model.bin.index.json", "trainer_state.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
MAIN = "main"

OPEN_LICENSES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "unlicense", "mpl-2.0"),
        *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "artistic-2.0", "lgpl-3.0", "gpl-3.0"),
    }
)
"""Licences that ask for no acceptance."""

_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[\w./-]{0,198}[\w])?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = (".gguf", ".onnx", ".json", ".toml", ".safetensors", ".bin", ".git")
"""Ends of names that are files: `models/a.gguf` that is not there is no question for a hub."""
_POLL_S = 0.3
_TIMEOUT_S = 30.0


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a repository on a hub: `org/name` or `org/name@revision`."""
    repo, at, revision = name.partition("@")
    parts = repo.split("/")
    if len(parts) != 2 or len(repo) > 96 or repo.endswith(_FILES):
        return False
    if any(not _NAME.fullmatch(part) or "--" in part or ".." in part for part in parts):
        return False
    return not at or (_REVISION.fullmatch(revision) is not None and ".." not in revision)


def split_hub_id(name: str) -> tuple[str, str | None]:
    """Repository and revision of `org/name@revision`; UsageError when it is nothing of the kind."""
    if not is_hub_id(name):
        raise UsageError(
            f"{name!r} is no name of a repository on a hub", "such a name is org/name, or org/name@revision"
        )
    repo, _, revision = name.partition("@")
    return repo, revision or None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is wanted, and where it is kept."""

    repo: str
    revision: str
    store: Path
    endpoint: str
    accept_license: bool

    @property
    def id(self) -> str:
        return f"{self.repo}@{self.revision}"


class _OutOfReach(Exception):
    """The hub did not answer; what is in the cache may do."""


def download(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Fetch a repository's weights, configuration and tokenizer into `folder`; runs in a tool environment.

    `HF_ENDPOINT` and `HF_TOKEN` are honoured. A commit that is there is not asked for again; a branch is,
    and the cached one does when the hub is out of reach or `offline` is set.
    """
    repo, named = split_hub_id(job["repo"])
    asked = _Asked(
        repo=repo,
        revision=split_hub_id(f"{repo}@{job.get('revision') or named or MAIN}")[1] or MAIN,
        store=Path(job["folder"]) / f"models--{repo.replace('/', '--')}",
        endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/"),
        accept_license=bool(job.get("accept_license")),
    )
    offline = bool(job.get("offline")) or os.environ.get("HF_HUB_OFFLINE", "").upper() in (
        "1",
        "ON",
        "YES",
        "TRUE",
    )
    with exclusive(asked.store, lambda _: None):
        there = _find(asked)
        if there is not None and (offline or _COMMIT.fullmatch(asked.revision)):
            progress(1)
            return there
        if offline:
            raise ModelError(
                f"{asked.id} is not in the cache, and the hub may not be asked",
                f"with a network: edgebench cache prefetch {asked.id}",
            )
        try:
            return _download(asked, progress)
        except _OutOfReach as error:
            if there is not None:
                progress(1)
                return there
            raise ModelError(
                f"{asked.id} is not in the cache, and the hub {asked.endpoint} is out of reach: {error}",
                f"check the network and HF_ENDPOINT, then: edgebench cache prefetch {asked.id}",
            ) from error


def _download(asked: _Asked, progress: Progress) -> dict[str, Any]:
    from huggingface_hub import HfApi, constants, snapshot_download

    endpoint = asked.endpoint or constants.ENDPOINT
    token = os.environ.get("HF_TOKEN") or False  # and never one that lies in the user's home
    with _explained(asked):
        api = HfApi(endpoint=endpoint, token=token)
        info = api.model_info(asked.repo, revision=asked.revision, files_metadata=True, timeout=_TIMEOUT_S)
    _check_license(asked, _license(info))
    files = {file.rfilename: file for file in info.siblings or []}
    wanted = _wanted(asked, list(files))
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise ModelError(f"the hub names no commit of {asked.id}")
    sizes = {name: int(files[name].size or 0) for name in wanted}
    snapshot = asked.store / "snapshots" / commit
    missing = [name for name in wanted if not (snapshot / name).exists()]
    missing_bytes = sum(sizes[name] for name in missing)
    _check_room(asked, missing_bytes - sum(p.stat().st_size for p in asked.store.glob("blobs/*.incomplete")))
    blobs = asked.store / "blobs"
    with _watched(blobs, missing_bytes, progress):
        before_bytes = -1
        while True:
            try:
                with _explained(asked):
                    snapshot_download(
                        asked.repo,
                        revision=commit,
                        cache_dir=asked.store.parent,
                        allow_patterns=[glob.escape(name) for name in wanted],
                        endpoint=endpoint,
                        token=token,
                        max_workers=4,
                    )
                break
            except _OutOfReach:
                # A transfer that broke off goes on where it stopped, as long as that gains anything.
                if before_bytes == (before_bytes := _bytes_in(blobs)):
                    raise
    for name in missing:
        lfs = files[name].lfs
        _check_whole(snapshot / name, sizes[name], lfs.sha256 if lfs else None)
    _remember(asked, commit, sizes, _license(info))
    found = _find(asked)
    if found is None:
        raise ModelError(f"{asked.id} was fetched, but is not whole", "run the same command again")
    progress(1)
    return {**found, "from_cache": False, "fetched_bytes": missing_bytes}


def _wanted(asked: _Asked, names: list[str]) -> list[str]:
    """The files to fetch; ModelError when no weights are among them."""
    wanted = [
        name
        for name in sorted(names)
        if "/" not in name
        and any(fnmatch(name, pattern) for pattern in WANTED)
        and not any(fnmatch(name, pattern) for pattern in UNWANTED)
    ]
    if any(name.endswith(".safetensors") for name in wanted):
        return wanted
    pickles = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in PICKLES))
    if pickles:
        raise ModelError(
            f"{asked.id} has pickled weights only ({pickles[0]}): loading one may run any code in it",
            "if you trust it: load it with transformers, save_pretrained it, and give that folder",
        )
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    raise ModelError(
        f"{asked.id} has no safetensors weights" + (f", but GGUF files ({ggufs[0]})" if ggufs else ""),
        "fetch a GGUF file by yourself and give its path" if ggufs else "give the repository of a checkpoint",
    )


def _check_license(asked: _Asked, license: str | None) -> None:  # noqa: A002 - the field's name everywhere
    """UsageError for weights that are not under an open licence, unless its terms were accepted."""
    if license in OPEN_LICENSES or asked.accept_license:
        return
    told = f"comes under {license!r}, which is not an open licence" if license else "states no licence"
    raise UsageError(
        f"{asked.id} {told}", f"read its terms at {asked.repo}, then repeat with --accept-licence"
    )


def _check_room(asked: _Asked, needed_bytes: int) -> None:
    if free_bytes(asked.store) < needed_bytes:
        raise ModelError(
            f"{asked.store.parent} has no room for {asked.id} ({needed_bytes / 1e6:.0f} MB)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )


def _check_whole(path: Path, size_bytes: int, sha256: str | None) -> None:
    """ModelError, and the file is removed, when its bytes are not those the hub announced."""
    if path.stat().st_size == size_bytes and (sha256 is None or sha256_file(path) == sha256):
        return
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise ModelError(f"{path.name} came damaged: its bytes are not those the hub announced", "run it again")


def _license(info: Any) -> str | None:
    """What the model card's metadata says; the name behind `other`, where it has one."""
    card = info.card_data.to_dict() if info.card_data else {}
    found = card.get("license") or next(
        (tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), None
    )
    if isinstance(found, list):
        found = ", ".join(map(str, found)) or None
    return str(card.get("license_name") or found) if found == "other" else found


def _find(asked: _Asked) -> dict[str, Any] | None:
    """The result for a snapshot that is in the cache, whole; None when it is not."""
    notes = _notes(asked)
    commit = asked.revision if _COMMIT.fullmatch(asked.revision) else notes["refs"].get(asked.revision)
    note = notes["snapshots"].get(commit)
    if note is None:
        return None
    folder = asked.store / "snapshots" / commit
    for name, size_bytes in note["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size_bytes:
            return None
    return {
        "folder": str(folder),
        "repo": asked.repo,
        "asked_revision": asked.revision,
        "revision": commit,
        "license": note["license"],
        "size_bytes": sum(note["files"].values()),
        "n_files": len(note["files"]),
        "from_cache": True,
        "fetched_bytes": 0,
    }


def _remember(asked: _Asked, commit: str, sizes: Mapping[str, int], license_name: str | None) -> None:
    notes = _notes(asked)
    notes["snapshots"][commit] = {"files": dict(sizes), "license": license_name}
    if asked.revision != commit:
        notes["refs"][asked.revision] = commit
    with atomic_path(asked.store / "edgebench.json") as part:
        part.write_text(json.dumps(notes, indent=2, sort_keys=True), encoding="utf-8")


def _notes(asked: _Asked) -> dict[str, Any]:
    """What is written down about a repository; nothing when it can't be read: it is then fetched again."""
    try:
        notes = json.loads((asked.store / "edgebench.json").read_text(encoding="utf-8"))
        return {"refs": dict(notes["refs"]), "snapshots": dict(notes["snapshots"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"refs": {}, "snapshots": {}}


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed a moment ago
            continue
    return total


@contextmanager
def _watched(blobs: Path, expected_bytes: int, progress: Progress) -> Iterator[None]:
    """Tell the progress by what has grown on disk: the hub's library counts files only."""
    before_bytes, done = _bytes_in(blobs), threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            progress(min(0.99, (_bytes_in(blobs) - before_bytes) / max(expected_bytes, 1)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextmanager
def _explained(asked: _Asked) -> Iterator[None]:
    """Every error of the hub's library as one line and a hint; _OutOfReach where the cache may help."""
    import requests
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{asked.repo} is gated: its owner must let you in first",
            f"accept its terms on the page of {asked.repo}, then set HF_TOKEN to a token of your account",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{asked.repo} has no revision {asked.revision!r}",
            "a revision is a branch, a tag or a full commit",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub knows no {asked.repo}, or it is private",
            "check its spelling; for a private one set HF_TOKEN to a token that may read it",
        ) from error
    except errors.LocalEntryNotFoundError as error:  # hides the true reason behind itself
        raise _of_transfer(asked, error.__cause__ or error) from error
    except requests.HTTPError as error:
        raise _of_transfer(asked, error) from error
    except requests.RequestException as error:
        raise _of_transfer(asked, error) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            told = ModelError(
                f"the disk is full: {asked.id} is fetched in part", "free some disk, run it again"
            )
        else:
            told = ModelError(f"{asked.id} can't be fetched: {_line(error)}", "run the same command again")
        raise told from error


def _of_transfer(asked: _Asked, error: BaseException) -> Exception:
    import requests

    status = (
        error.response.status_code
        if isinstance(error, requests.HTTPError) and error.response is not None
        else 0
    )
    if status in (401, 403):
        return ModelError(
            f"the hub does not let you read {asked.repo} (HTTP {status})",
            "set HF_TOKEN to a token that may read it",
        )
    if 400 <= status < 500 and status != 429:
        return ModelError(f"the hub refuses {asked.id} (HTTP {status})", "check the name and HF_ENDPOINT")
    if status:
        return _OutOfReach(f"it answers HTTP {status}")
    return _OutOfReach(_reason(error))


def _reason(error: BaseException) -> str:
    """What lies at the bottom of a chain of library errors: `Connection refused`."""
    seen: BaseException = error
    while (below := seen.__cause__ or seen.__context__) is not None:
        seen = below
    return (seen.strerror if isinstance(seen, OSError) else None) or _line(seen)


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
