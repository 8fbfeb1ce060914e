"""A small model server on loopback that speaks OpenAI's dialect, well or badly as a test tells it."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("Water", " boils", " at", " 100", " degrees")
Route = Callable[["Handler", Mapping[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's routes."""

    protocol_version = "HTTP/1.1"
    server: "_Http"

    def do_GET(self) -> None:
        self._route({})

    def do_POST(self) -> None:
        self._route(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _route(self, body: Mapping[str, Any]) -> None:
        told = self.server.told
        told.asked.append((self.path, dict(body), dict(self.headers)))
        route = told.routes.get(self.path)
        if route is None:
            self.json({"error": {"message": "no such route"}}, status=404)
        else:
            route(self, body)

    def json(self, answer: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        """The head of a stream of events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        """A piece of a stream, at once."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def events(self, events: Iterable[object], *, done: bool = True) -> None:
        """A whole stream."""
        self.begin_stream()
        for event in events:
            self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
        if done:
            self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def drop(self) -> None:
        """Close the connection, whatever was to come."""
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_args: object) -> None:
        """Nothing: the test reads `asked`."""


@dataclass
class ModelServer:
    """What a test knows of the running server."""

    url: str
    routes: dict[str, Route]
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    told: ModelServer

    def handle_error(self, *_args: object) -> None:
        """Dropped connections are what the tests are about."""


def chunks(
    words: Iterable[str] = WORDS, *, model: str = "toy", usage: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The events of a chat answer, one word each."""
    words = list(words)
    events: list[dict[str, Any]] = [
        {
            "model": model,
            "choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}],
        }
    ]
    events += [{"model": model, "choices": [{"delta": {"content": w}, "finish_reason": None}]} for w in words]
    events.append({"model": model, "choices": [{"delta": {}, "finish_reason": "length"}]})
    told = {"prompt_tokens": 7, "completion_tokens": len(words)} if usage is None else usage
    return [*events, {"model": model, "choices": [], "usage": told}]


def chat(handler: Handler, body: Mapping[str, Any]) -> None:
    """A chat request, streamed or whole, cut to the tokens asked for; each word is a token."""
    words = WORDS[: body["max_tokens"]]
    usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
    if body.get("stream"):
        handler.events(chunks(words, usage=usage))
        return
    choice = {"message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
    handler.json({"model": "toy", "choices": [choice], "usage": usage})


def completion(handler: Handler, body: Mapping[str, Any]) -> None:
    """A completion that answers " B", with the likeliest letters where they are asked for."""
    choice: dict[str, Any] = {"text": " B", "finish_reason": "length"}
    if body.get("logprobs"):
        top = {" A": -2.0, " B": -0.5, " C": -3.0, " D": -4.0, " E": -5.0}
        choice["logprobs"] = {"tokens": [" B"], "token_logprobs": [-0.5], "top_logprobs": [top]}
    usage = {"prompt_tokens": 11, "completion_tokens": 1}
    handler.json({"model": "toy", "choices": [choice], "usage": usage})


def hang(_handler: Handler, _body: Mapping[str, Any]) -> None:
    """No answer for longer than any test waits for one."""
    time.sleep(5)


@contextmanager
def serve(**routes: Route) -> Iterator[ModelServer]:
    """A server of the model `toy`; `routes` are changed ones, by the last word of their path."""
    known: dict[str, Route] = {
        "/v1/models": lambda handler, _: handler.json(
            {"object": "list", "data": [{"id": "toy", "object": "model", "owned_by": "somebody"}]}
        ),
        "/v1/chat/completions": chat,
        "/v1/completions": completion,
    }
    for name, route in routes.items():
        paths = {"models": "/v1/models", "chat": "/v1/chat/completions", "completions": "/v1/completions"}
        known[paths.get(name, "/" + name.replace("_", "/"))] = route
    http = _Http(("127.0.0.1", 0), Handler)
    http.told = ModelServer(url=f"http://127.0.0.1:{http.server_address[1]}", routes=known)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield http.told
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
