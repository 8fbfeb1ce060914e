"""A model behind a server: what a session has in common whatever the server, and the checks of its word.

A chat request is streamed from `/v1/chat/completions`, as any client of the server would do it. Tokens
are counted by what the server reports, never by pieces of text; a count that can't be is an InvalidRun.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never, Self

from edgebench.core.engine import Item, Usage
from edgebench.core.errors import InvalidRun, UsageError
from edgebench.core.types import Score
from edgebench.runners.server_http import Client
from edgebench.runners.server_identity import Served

if TYPE_CHECKING:  # no server's answer needs it
    import numpy as np
    from numpy.typing import NDArray

INSTEAD = "--runner llama_cpp measures the file itself"


class ServedSession:
    """See `edgebench.core.engine.Session`; what no server can do is refused."""

    facts: Mapping[str, Any]
    kv_cache_bytes: int | None = None
    bos: int | None = None
    usage: Usage | None = None

    def __init__(self, client: Client, served: Served) -> None:
        self._client, self._served = client, served
        self.n_vocab, self.n_ctx_train = served.n_vocab or 0, served.n_ctx_train or served.n_ctx or 0
        self.n_ctx = served.n_ctx or 0
        self.facts = {"server": served.facts(), "memory_reason": None}

    @property
    def pid(self) -> int | None:
        """None: whose process computes is not known."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """The server has its context; ModelError when it says that it is too small."""
        if self._served.n_ctx and n_ctx > self._served.n_ctx:
            raise self._client.error(
                f"has a context of {self._served.n_ctx} tokens, {n_ctx} are needed",
                "start it with a longer one",
            )

    def reset(self) -> None:
        """Nothing is kept here; what the server keeps, its requests say or it does not tell."""

    def stream(self, prompt: str | Sequence[int], *, n_gen: int) -> Iterator[bytes]:
        """A user's turn: each piece of the answer as it arrives."""
        if not isinstance(prompt, str):
            self._refuse("takes no token ids")
        return self._chat(prompt, {"max_tokens": n_gen}, n_gen)

    def _chat(self, text: str, options: Mapping[str, Any], n_gen: int) -> Iterator[bytes]:
        body = {
            "model": self._served.model,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            **options,
        }
        self.usage = None
        told: Mapping[str, Any] = {}
        timings: Mapping[str, Any] = {}
        n_seen, n_pieces, finished = 0, 0, False
        for event in self._client.events("/v1/chat/completions", body):
            self._check_model(event)
            told, timings = _part(event, "usage") or told, _part(event, "timings") or timings
            shown, ended = _piece(event)
            finished |= ended
            if not (shown or ended):
                continue
            n_pieces += bool(shown)
            # A server that counts along says how many tokens came since the last piece.
            n_now = max(_count(timings, n_gen, otherwise=n_seen + bool(shown)), n_seen)
            for _ in range(n_now - n_seen - bool(shown)):
                yield b""
            if shown and n_now > n_seen:
                yield shown
            n_seen = n_now
        if not finished:
            raise self._client.error(f"ends in the middle of an answer, after {n_pieces} pieces of it")
        if timings.get("cache_n"):
            self._doubt(f"{timings['cache_n']} tokens taken from its cache where none were to be")
        if not told:
            raise self._client.error("does not report `usage`: without it there is no count of tokens")
        usage = {key: told.get(f"{key}_tokens") for key in ("prompt", "completion")}
        self.usage = self._checked(usage["prompt"], usage["completion"], n_gen, n_pieces, timings)

    def _checked(
        self,
        n_prompt: Any,
        n_gen: Any,
        n_asked: int,
        n_pieces: int,
        timings: Mapping[str, Any],
        *,
        n_sent: int | None = None,
    ) -> Usage:
        """A server's counts, if they can be; InvalidRun says which can't. `n_sent`: token ids sent."""
        n_prompt, n_gen = (self._counted(*one) for one in (("prompt", n_prompt), ("completion", n_gen)))
        if n_gen > n_asked:
            self._doubt(f"{n_gen} completion tokens, {n_asked} were asked for")
        if n_gen < n_pieces:  # a piece holds a token at least
            self._doubt(f"{n_gen} completion tokens in {n_pieces} pieces of text")
        if n_prompt == 0:
            self._doubt("0 prompt tokens, and a prompt was sent")
        if n_sent is not None and n_prompt != n_sent:
            self._doubt(f"{n_prompt} prompt tokens, {n_sent} were sent")
        prefill_s, decode_s = (_seconds(timings.get(key)) for key in ("prompt_ms", "predicted_ms"))
        return Usage(n_prompt=n_prompt, n_gen=n_gen, prefill_s=prefill_s, decode_s=decode_s)

    def _counted(self, name: str, count: object) -> int:
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            self._doubt(f"{name} tokens are {count!r}")
        return count

    def _doubt(self, what: str) -> Never:
        raise InvalidRun(
            f"the server at {self._client.url} reports what can't be: {what}",
            "its figures can't be trusted: try a newer version of it",
        )

    def _check_model(self, answer: Mapping[str, Any]) -> None:
        """Every answer names the model that gave it: it must be the one that was asked."""
        named = answer.get("model")
        if isinstance(named, str) and named and named not in (self._served.model, *self._served.names):
            raise self._client.error(f"answers for {named[:120]!r}, asked was {self._served.model!r}")

    def _refuse(self, why: str, hint: str = INSTEAD) -> Never:
        raise UsageError(f"{self._served.kind} at {self._client.url} {why}", hint)

    def tokenize(self, text: str) -> list[int]:
        """Refused."""
        self._refuse("does not tell how it tokenizes")

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """Refused."""
        self._refuse("does not tell its template")

    def prefill(self, tokens: Sequence[int]) -> None:
        """Refused."""
        self._refuse("takes no token ids")

    def greedy(self) -> int:
        """Refused: a server's answers are streamed."""
        self._refuse("gives no single token")

    def piece(self, token: int) -> bytes:
        """Refused."""
        self._refuse("takes no token ids")

    def loglikelihoods(
        self, group: Sequence[Item], *, n_cells: int, shared: Sequence[int] = ()
    ) -> list[list[Score]]:
        """Refused."""
        self._refuse("takes no token ids")

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        n_gen: int,
        n_cells: int,
        shared: Sequence[int] = (),
        ended: Callable[[Sequence[int]], bool] = lambda _: False,
    ) -> list[list[int]]:
        """Refused."""
        self._refuse("takes no token ids")

    def logits(self, tokens: Sequence[int], start: int) -> "NDArray[np.float32]":
        """Refused: no server hands them out."""
        self._refuse("gives no logits")


def _piece(event: Mapping[str, Any]) -> tuple[bytes, bool]:
    """What an event of a chat shows, and whether it ends it; thoughts are tokens like others."""
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        return b"", False
    delta = _part(choice, "delta") or {}
    texts = (delta.get(key) for key in ("content", "reasoning_content", "reasoning"))
    shown = next((text for text in texts if isinstance(text, str) and text), "")
    return shown.encode("utf-8", "replace"), choice.get("finish_reason") is not None


def _count(timings: Mapping[str, Any], most: int, *, otherwise: int) -> int:
    n = timings.get("predicted_n")
    return n if isinstance(n, int) and 0 <= n <= most else otherwise


def _part(answer: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    found = answer.get(key)
    return found if isinstance(found, dict) else None


def _seconds(value_ms: object) -> float | None:
    return value_ms * 1e-3 if isinstance(value_ms, int | float) and value_ms >= 0 else None
