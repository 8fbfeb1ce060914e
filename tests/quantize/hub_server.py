"""A small model hub on loopback: real files of a folder, by the routes huggingface_hub asks."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """What the hub knows of a repository: its revisions are folders with files."""

    name: str
    revisions: dict[str, Path]
    card: dict[str, Any] = field(default_factory=dict)
    needs_token: str | None = None
    gated: bool = False
    announced: dict[str, str] = field(default_factory=dict)
    """File -> the sha256 to tell, where it is not to be the true one."""

    def commit(self, revision: str) -> str:
        """The commit a branch or tag stands for: its name follows from the files' names and sizes."""
        if revision not in self.revisions:
            return revision
        told = sorted((path.name, path.stat().st_size) for path in _files(self.revisions[revision]))
        return hashlib.sha1(json.dumps([self.name, told]).encode()).hexdigest()

    def folder(self, revision: str) -> Path | None:
        """The folder of a branch, a tag or a commit."""
        by_commit = {self.commit(name): path for name, path in self.revisions.items()}
        return self.revisions.get(revision) or by_commit.get(revision)


@dataclass
class Hub:
    """The server's state, which a test may change while it runs."""

    repos: dict[str, Repo] = field(default_factory=dict)
    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    """Method and path -> how often it was asked."""
    sent_bytes: Counter[str] = field(default_factory=Counter)
    """File -> bytes of it that went out."""
    cut: dict[str, int] = field(default_factory=dict)
    """File -> after how many bytes its next transfer breaks off; once."""
    status: int | None = None
    """What every request gets instead of an answer."""
    tokens: set[str] = field(default_factory=set)
    """Every token that was shown."""

    def add(self, name: str, folder: Path, **more: Any) -> Repo:
        self.repos[name] = Repo(name=name, revisions={"main": folder}, **more)
        return self.repos[name]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def serving() -> Iterator[Hub]:
    """A running hub; it is gone at the end."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.state, unquote(urlsplit(self.path).path)
        hub.requests[f"{self.command} {path}"] += 1
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        hub.tokens |= {token} if token else set()
        if hub.status is not None:
            self._refuse(hub.status, None)
            return
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        rest = parts[2:] if is_api else parts
        repo = hub.repos.get("/".join(rest[:2]))
        if repo is None or (repo.needs_token and token != repo.needs_token and not repo.gated):
            self._refuse(401 if not token else 404, "RepoNotFound")
        elif is_api:
            self._info(repo, "/".join(rest[3:]) if rest[2:3] == ["revision"] else "main")
        elif rest[2:3] == ["resolve"]:
            if repo.gated and token != repo.needs_token:
                self._refuse(403 if token else 401, "GatedRepo")
            else:
                self._file(repo, rest[3], "/".join(rest[4:]), body=body)
        else:
            self._refuse(404, None)

    def _refuse(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code}.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, repo: Repo, revision: str) -> None:
        folder = repo.folder(revision)
        if folder is None:
            self._refuse(404, "RevisionNotFound")
            return
        siblings = []
        for path in _files(folder):
            entry: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix()}
            data = path.read_bytes()
            entry |= {"size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if path.suffix == ".safetensors":
                told = repo.announced.get(path.name, hashlib.sha256(data).hexdigest())
                entry["lfs"] = {"sha256": told, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        answer = {
            "_id": "1",
            "id": repo.name,
            "modelId": repo.name,
            "sha": repo.commit(revision),
            "gated": "manual" if repo.gated else False,
            "private": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
            "cardData": repo.card,
        }
        raw = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _file(self, repo: Repo, revision: str, name: str, *, body: bool) -> None:
        folder = repo.folder(revision)
        if folder is None:
            self._refuse(404, "RevisionNotFound")
            return
        if folder / name not in _files(folder):
            self._refuse(404, "EntryNotFound")
            return
        data = (folder / name).read_bytes()
        start = 0
        if ranged := self.headers.get("Range"):
            start = int(ranged.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if ranged else 200)
        self.send_header("X-Repo-Commit", repo.commit(revision))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        end = start + self.state.cut.pop(name, len(data))
        self.wfile.write(data[start:end])
        self.state.sent_bytes[name] += len(data[start:end])
        if start < end < len(data):
            self.wfile.flush()
            self.close_connection = True  # the rest never comes
