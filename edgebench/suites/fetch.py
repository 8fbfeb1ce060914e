"""Get a suite's files from where its authors put them: whole and pinned, or not at all."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from edgebench.core.errors import SuiteError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path, exclusive
from edgebench.suites.definition import DataFile, Definition, Form
from edgebench.suites.loader import fetched_folder

Say = Callable[[str], None]

HUB = "https://huggingface.co"
MAX_BYTES = 2**30
"""No file of questions is larger."""
_TIMEOUT_S = 30.0
_PIECE_BYTES = 2**18


def fetch(definition: Definition, say: Say) -> Path:
    """The folder with a suite's files, fetched as far as they are not there.

    Files that came are kept when one can't be had: the same call goes on from there. `HF_ENDPOINT`,
    `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured. SuiteError tells why, and what to do by hand.
    """
    form = next((form for form in definition.forms if form.hub or form.url), None)
    if form is None:
        raise SuiteError(
            f"suite {definition.name} can't be fetched",
            definition.source and f"get it by hand and give --data DIR: {definition.source}",
        )
    folder = fetched_folder(form)
    files = list({file.path: file for file in (*form.needed, *form.dev)}.values())
    with exclusive(folder, say):
        todo = [file for file in files if not _is_there(folder / file.path, file)]
        for number, file in enumerate(todo, start=1):
            say(f"fetching {file.path} of {form.hub or form.url} ({number} of {len(todo)})")
            _fetch_file(definition, form, file, folder / file.path)
    return folder


def _is_there(path: Path, file: DataFile) -> bool:
    return path.is_file() and (file.sha256 is None or sha256_file(path) == file.sha256)


def _fetch_file(definition: Definition, form: Form, file: DataFile, target: Path) -> None:
    url = _address(form, file)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise SuiteError(
            f"{file.path} is not in the cache, and the network may not be asked", "unset HF_HUB_OFFLINE"
        )
    request = urllib.request.Request(url, headers={"User-Agent": "edgebench"})  # noqa: S310 - checked
    if form.hub and (token := os.environ.get("HF_TOKEN")):
        # Unredirected: whoever stores the hub's files is not told who the user is.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    again = f"files that came are kept; again: edgebench suites fetch {definition.name}"
    try:
        with _OPENER.open(request, timeout=_TIMEOUT_S) as response, atomic_path(target) as part:
            _save(response, part, file)
            if file.sha256 is not None and sha256_file(part) != file.sha256:
                raise SuiteError(
                    f"{file.path} is not the pinned one: its sha256 differs",
                    "it was not kept; the source changed",
                )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise SuiteError(
                f"{_host(url)} does not let you read {file.path} (HTTP {error.code})",
                "accept its terms there, and set HF_TOKEN to a token that may read it",
            ) from error
        raise SuiteError(f"{_host(url)} answers HTTP {error.code} for {file.path}", again) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        told = (
            (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(error).__name__
        )
        raise SuiteError(f"{file.path} can't be fetched from {_host(url)}: {told}", again) from error


def _address(form: Form, file: DataFile) -> str:
    if not form.hub:
        return form.url + quote(file.path)
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    if not _is_safe(endpoint):
        raise SuiteError(f"HF_ENDPOINT {endpoint!r} is not https://…")
    return f"{endpoint}/datasets/{form.hub}/resolve/{form.revision}/{quote(file.path)}"


def _is_safe(url: str) -> bool:
    """Encrypted, or of this very computer."""
    address = urlsplit(url)
    return address.scheme == "https" or (
        address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost")
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _save(response: Any, part: Path, file: DataFile) -> None:
    """The body, whole: the announced length is held, and the largest one too."""
    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdecimal() else None
    if (expected or 0) > MAX_BYTES:
        raise SuiteError(f"{file.path} has {expected} bytes: no file of questions is that large")
    n_bytes = 0
    with part.open("wb") as out:
        while piece := response.read(_PIECE_BYTES):
            n_bytes += len(piece)
            if n_bytes > MAX_BYTES:
                raise SuiteError(f"{file.path} has more than {MAX_BYTES} bytes: no file of questions does")
            out.write(piece)
    if expected is not None and n_bytes != expected:
        raise http.client.IncompleteRead(b"", expected - n_bytes)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """A hub sends one on to where its files are; never to an unencrypted place or another protocol."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_safe(newurl):
            raise urllib.error.URLError(f"it sends on to {newurl[:80]!r}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)
