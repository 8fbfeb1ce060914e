"""HTTP to a model server: JSON in, JSON or a stream of events out, each read with a deadline.

Nothing a server sends is trusted: answers have a size, streams have lines of a size, redirects are not
followed, and whatever is wrong is one ServerError that names the server. No proxy stands in between.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from edgebench.core.errors import ServerError, UsageError

KEY_VARIABLE = "EDGEBENCH_SERVER_KEY"
"""The environment variable with a server's API key; it is stored nowhere."""
ANSWER_S = 600.0
"""How long a server may be silent: a long prompt on a slow device takes minutes."""
ASK_S = 10.0
"""The same for a question about itself."""
MAX_ANSWER_BYTES = 64 * 2**20
MAX_LINE_BYTES = 2**20
_GONE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class Client:
    """One server, by its URL. A connection is kept between requests; `close` when done."""

    def __init__(self, url: str, key: str | None = None, *, answer_s: float = ANSWER_S) -> None:
        self.url = server_url(url)
        parts = urlsplit(self.url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._secure, self._base = parts.scheme == "https", parts.path
        self._headers = {"Content-Type": "application/json", "User-Agent": "edgebench"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._answer_s = answer_s
        self._kept: http.client.HTTPConnection | None = None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this computer."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def close(self) -> None:
        """Drop the connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def ask(self, path: str) -> dict[str, Any] | None:
        """GET a JSON object; None where the server has no such thing to say."""
        response = self._send("GET", path, None, ASK_S)
        body = self._body(response)
        if response.status in (404, 405, 501):
            return None
        self._check(response, body)
        return _object(body)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST a JSON object; the JSON object that comes back."""
        response = self._send("POST", path, body, self._answer_s)
        text = self._body(response)
        self._check(response, text)
        if (found := _object(text)) is None:
            raise self.error(f"answers {path} with what is no JSON object: {_short(text)}")
        return found

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """POST a JSON object; the events of the stream that comes back, as each arrives.

        Ends with the stream's `[DONE]`, or with the connection: whether the answer was whole is the
        caller's to know. Left early, the connection is dropped, which tells the server to stop.
        """
        response = self._send("POST", path, body, self._answer_s)
        whole = False
        try:
            if response.status != 200:
                self._check(response, self._body(response))
            for line in self._lines(response):
                if line == b"data: [DONE]":
                    break
                if not line.startswith(b"data:"):
                    if line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                        raise self.error(f"streams what is no event: {_short(line)}")
                    continue
                event = _object(line[5:])
                if event is None:
                    raise self.error(f"streams what is no JSON object: {_short(line[5:])}")
                if event.get("error"):
                    raise self.error(f"breaks off: {_told(event)}")
                yield event
            self._rest(response)
            whole = True
        finally:
            response.close()
            if not whole:
                self.close()

    def error(self, what: str, hint: str | None = None) -> ServerError:
        """A ServerError about this server."""
        return ServerError(f"the server at {self.url} {what}", hint)

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, answer_s: float
    ) -> http.client.HTTPResponse:
        """A response whose body is not read yet. A kept connection that went stale is made once more."""
        data = None if body is None else json.dumps(body).encode()
        while True:
            if self._kept is not None and self._kept.sock is None:
                self._kept = None  # the last answer was the connection's last
            fresh = self._kept is None
            try:
                connection = self._kept = self._kept or self._connected()
                connection.sock.settimeout(answer_s)
                connection.request(method, self._base + path, body=data, headers=self._headers)
                return connection.getresponse()
            except _GONE as error:
                self.close()
                if fresh:
                    raise self.error("closes the connection without an answer", _ALIVE) from error
            except TimeoutError as error:
                self.close()
                raise self._silent(answer_s) from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                raise self._broken(error) from error

    def _connected(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=ASK_S)
        try:
            connection.connect()
        except TimeoutError as error:
            raise self.error(f"can't be reached in {ASK_S:g} s", _ALIVE) from error
        except OSError as error:
            reason = "no such host" if isinstance(error, socket.gaierror) else error.strerror or error
            raise self.error(f"can't be reached: {reason}", _ALIVE) from error
        return connection

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            body = response.read(MAX_ANSWER_BYTES)
        except TimeoutError as error:
            response.close()
            self.close()
            raise self._silent(self._answer_s) from error
        except (OSError, http.client.HTTPException) as error:
            response.close()
            self.close()
            raise self._broken(error) from error
        if not response.isclosed():
            response.close()
            self.close()
            raise self.error(f"sends more than {MAX_ANSWER_BYTES >> 20} MiB in one answer")
        return body

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while True:
            try:
                line = response.readline(MAX_LINE_BYTES)
            except TimeoutError as error:
                raise self._silent(self._answer_s) from error
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(error) from error
            if not line:
                return
            if not line.endswith(b"\n") and len(line) >= MAX_LINE_BYTES:
                raise self.error("streams a line without an end")
            yield line.strip()

    def _rest(self, response: http.client.HTTPResponse) -> None:
        """Read on to the response's end, so that the connection can be kept; it is short."""
        for _ in self._lines(response):
            pass

    def _check(self, response: http.client.HTTPResponse, body: bytes) -> None:
        """ServerError for every status but 200."""
        status = response.status
        if status == 200:
            return
        if 300 <= status < 400:
            target = response.getheader("Location", "elsewhere")
            raise self.error(
                f"redirects to {_short(target.encode())}", "give --server that URL, if it is right"
            )
        if status in (401, 403):
            raise self.error(f"wants an API key: {_told(_object(body) or {})}", f"export {KEY_VARIABLE}=…")
        raise self.error(f"answers with status {status}: {_told(_object(body) or {}) or _short(body)}")

    def _silent(self, answer_s: float) -> ServerError:
        return self.error(f"says nothing for {answer_s:g} s", _ALIVE)

    def _broken(self, error: Exception) -> ServerError:
        told = getattr(error, "strerror", None) or f"{type(error).__name__} {error}".strip()
        return self.error(f"breaks the connection: {_short(str(told).encode())}", _ALIVE)


_ALIVE = "is it still running? its own log may tell why not"


def server_url(url: str) -> str:
    """`http://host:port` or with a path before `/v1`: what the user gave, without `/v1`; or UsageError."""
    hint = "--server http://127.0.0.1:8080"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no server's URL: {error}", hint) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no server's URL: it must begin with http:// or https://", hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "a server's URL has a host, a port and a path, nothing else", f"a key goes into {KEY_VARIABLE}"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _told(answer: Mapping[str, Any]) -> str:
    """A server's own words for what went wrong, in the forms that servers use."""
    error = answer.get("error", answer.get("message", answer.get("detail", "")))
    words = error.get("message", "") if isinstance(error, dict) else error
    return _short(str(words).encode())


def _short(data: bytes) -> str:
    """The beginning of what a server sent, fit for one line."""
    text = data[:120].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()
