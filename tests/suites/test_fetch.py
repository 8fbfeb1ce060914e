"""Getting a suite's files: a small server on loopback that answers as a hub does, and breaks when told to."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import SuiteError
from edgebench.suites.definition import find_definition, read_definition
from edgebench.suites.fetch import fetch
from edgebench.suites.loader import load_pool, load_suite

REVISION = "0123456789abcdef0123456789abcdef01234567"
ROWS = "Sky?,blue,red,A\nSea?,red,blue,B\n"
MORE = "Grass?,green,red,A\n"

DEFINITION = """
name = "mine"
version = "1"
[data]
root = "data"
{origin}
format = "csv"
header = false
answer = "letter"
fields = {{ question = 0, choices = [1, 2], answer = 3 }}
files = [
  {{ path = "test/sky.csv", subject = "sky", sha256 = "{sha256}" }},
  {{ path = "test/ground x.csv", subject = "ground" }},
]
dev = [{{ path = "dev/sky.csv", subject = "sky" }}]
[prompt.cloze]
context = "{{question}}"
"""


@dataclass
class Server:
    """What it holds, by path, and how it fails."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    """Path -> bytes after which the connection ends."""
    moved: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, str | None] = field(default_factory=dict)
    announced: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

        def do_GET(self) -> None:
            state.asked[self.path] += 1
            state.tokens[self.path] = self.headers.get("Authorization")
            if (to := state.moved.get(self.path)) is not None:
                self.send_response(302)
                self.send_header("Location", to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = state.status.get(self.path, 200 if self.path in state.files else 404)
            body = state.files.get(self.path, b"") if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(state.announced.get(self.path, len(body))))
            self.end_headers()
            self.wfile.write(body[: state.cut.get(self.path, len(body))])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


Write = Callable[..., Path]


@pytest.fixture
def mine(tmp_path: Path, server: Server, cache: Path) -> Path:
    """A suite whose files the server has."""
    base = f"/raw/{REVISION}/"
    server.files = {
        f"{base}test/sky.csv": ROWS.encode(),
        f"{base}test/ground%20x.csv": MORE.encode(),
        f"{base}dev/sky.csv": MORE.encode(),
    }
    path = tmp_path / "mine.toml"
    origin = f'url = "{server.url}{base}"\nrevision = "{REVISION}"'
    path.write_text(DEFINITION.format(origin=origin, sha256=hashlib.sha256(ROWS.encode()).hexdigest()))
    return path


def told(path: Path) -> list[str]:
    said: list[str] = []
    fetch(read_definition(path), said.append)
    return said


def test_fetched_files_are_found_without_a_data_folder(mine: Path, server: Server) -> None:
    with pytest.raises(SuiteError, match="suite mine needs its data") as caught:
        load_suite(str(mine))
    assert caught.value.hint == "edgebench suites fetch mine, or give --data DIR"
    assert len(told(mine)) == 3
    assert [q.id for q in load_suite(str(mine)).questions] == ["sky-000", "sky-001", "ground-000"]
    assert len(load_pool(str(mine))) == 1
    assert told(mine) == []  # nothing is asked for twice
    assert set(server.asked.values()) == {1}


def test_a_data_folder_goes_before_what_was_fetched(mine: Path, tmp_path: Path) -> None:
    told(mine)
    (tmp_path / "own").mkdir()
    for name in ("sky.csv", "ground x.csv"):
        (tmp_path / "own" / name).write_text(ROWS)
    assert len(load_suite(str(mine), tmp_path / "own").questions) == 4
    assert len(load_suite(str(mine), tmp_path).questions) == 3  # nothing there: the fetched ones do


def test_files_that_came_are_kept_when_the_source_breaks_down(mine: Path, server: Server) -> None:
    (second,) = (path for path in server.files if "ground" in path)
    server.status[second] = 503
    with pytest.raises(
        SuiteError, match=r"127\.0\.0\.1:\d+ answers HTTP 503 for test/ground x\.csv"
    ) as caught:
        told(mine)
    assert "again: edgebench suites fetch mine" in (caught.value.hint or "")
    del server.status[second]
    assert len(told(mine)) == 2
    assert server.asked[next(path for path in server.files if "test/sky" in path)] == 1


@pytest.mark.parametrize("after", [0, 5])
def test_transfer_that_ends_early_leaves_nothing(mine: Path, server: Server, cache: Path, after: int) -> None:
    (second,) = (path for path in server.files if "ground" in path)
    server.cut[second] = after
    with pytest.raises(SuiteError, match=r"test/ground x\.csv can't be fetched"):
        told(mine)
    assert {path.name for path in cache.rglob("*.csv")} == {"sky.csv"}
    server.cut.clear()
    told(mine)
    assert len(load_suite(str(mine)).questions) == 3


def test_server_that_is_gone_is_told_in_a_line(mine: Path, tmp_path: Path) -> None:
    mine.write_text(mine.read_text().replace("url = ", 'url = "http://127.0.0.1:9/" #'))
    with pytest.raises(
        SuiteError, match=r"can't be fetched from 127\.0\.0\.1:9: Connection refused"
    ) as caught:
        told(mine)
    assert "\n" not in caught.value.message


def test_other_bytes_than_the_pinned_ones_are_not_kept(mine: Path, server: Server, cache: Path) -> None:
    server.files[next(path for path in server.files if "test/sky" in path)] = MORE.encode()
    with pytest.raises(SuiteError, match=r"test/sky\.csv is not the pinned one"):
        told(mine)
    assert not list(cache.rglob("*.csv"))


def test_damaged_file_in_the_cache_is_fetched_again(mine: Path, cache: Path) -> None:
    told(mine)
    (sky,) = cache.rglob("test/sky.csv")
    sky.write_text("broken")
    assert len(told(mine)) == 1
    assert sky.read_text() == ROWS


def test_file_that_is_too_large_is_refused(mine: Path, server: Server) -> None:
    server.announced[next(path for path in server.files if "test/sky" in path)] = 2**40
    with pytest.raises(SuiteError, match="no file of questions is that large"):
        told(mine)


def test_what_is_encrypted_is_not_followed_into_the_open(mine: Path, server: Server) -> None:
    first = next(path for path in server.files if "test/sky" in path)
    for target in ("http://example.invalid/x.csv", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        server.moved[first] = target
        with pytest.raises(SuiteError, match=r"can't be fetched|answers HTTP 302"):
            told(mine)


def test_suite_that_only_a_person_can_get_says_where(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(SuiteError, match="suite medqa-5 can't be fetched") as caught:
        fetch(find_definition("medqa-5"), print)
    assert "give --data DIR" in (caught.value.hint or "")


# The hub ----------------------------------------------------------------------------------------


@pytest.fixture
def of_hub(mine: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = f"/datasets/org/name/resolve/{REVISION}/"
    server.files = {path.replace(f"/raw/{REVISION}/", base): data for path, data in server.files.items()}
    origin = f'hub = "org/name"\nrevision = "{REVISION}"'
    mine.write_text(DEFINITION.format(origin=origin, sha256=hashlib.sha256(ROWS.encode()).hexdigest()))
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    return mine


def test_hub_is_asked_at_the_pinned_revision(of_hub: Path, server: Server) -> None:
    assert "fetching test/sky.csv of org/name (1 of 3)" in told(of_hub)
    assert len(load_suite(str(of_hub)).questions) == 3
    assert all(path.startswith(f"/datasets/org/name/resolve/{REVISION}/") for path in server.asked)
    assert set(server.tokens.values()) == {None}


def test_token_is_shown_to_the_hub_and_not_to_where_it_sends_on(
    of_hub: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    first = next(path for path in server.files if "test/sky" in path)
    server.files["/storage/1"] = server.files[first]
    server.moved[first] = f"{server.url}/storage/1"
    told(of_hub)
    assert server.tokens[first] == "Bearer secret"
    assert server.tokens["/storage/1"] is None


def test_gated_data_says_what_to_do(of_hub: Path, server: Server) -> None:
    server.status[next(path for path in server.files if "test/sky" in path)] = 401
    with pytest.raises(SuiteError, match=r"does not let you read test/sky\.csv \(HTTP 401\)") as caught:
        told(of_hub)
    assert "HF_TOKEN" in (caught.value.hint or "")


def test_offline_means_offline(of_hub: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SuiteError, match="the network may not be asked"):
        told(of_hub)
    assert not server.asked


def test_endpoint_in_the_open_is_refused(of_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(SuiteError, match=r"HF_ENDPOINT 'http://hub\.example' is not https"):
        told(of_hub)


def test_suites_of_one_source_share_its_files(of_hub: Path, tmp_path: Path, server: Server) -> None:
    told(of_hub)
    other: Any = tmp_path / "other.toml"
    other.write_text(of_hub.read_text().replace('"mine"', '"other"'))
    assert told(other) == []
    assert len(load_suite(str(other)).questions) == 3
