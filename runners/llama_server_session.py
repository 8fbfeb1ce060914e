"""A session with llama-server: speed by its streams, log-probabilities by its alternatives.

Log-probabilities are the raw softmax's: of `n_probs` alternatives, or of a token that a bias forced. They
are read at a token that is evaluated alone, so all of a question's come from the same sums, and a prompt
is evaluated in one piece behind what its group shares, so they do not depend on what was asked before.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgebench.core.engine import Item
from edgebench.core.errors import ModelError, ServerError
from edgebench.core.types import Score
from edgebench.runners.served_session import ServedSession
from edgebench.runners.server_http import Client
from edgebench.runners.server_identity import Served
from edgebench.runners.server_launch import Launched, cells

N_PROBS = 64
"""Alternatives asked for at once; a letter that is not among them is forced."""
FORCE = 1e6
"""A bias no logit comes near."""
SLICE_TOKENS = 16
"""Written between two looks at whether a text has ended."""
LEAST_LOGPROB = -104.0
"""llama-server's probabilities are single floats: what is below e-104 is reported as nothing at all."""


class LlamaServerSession(ServedSession):
    """A model behind llama-server; see `edgebench.core.engine.Session`."""

    def __init__(
        self,
        client: Client,
        served: Served,
        *,
        own: Launched | None = None,
        launch: Callable[..., Launched] | None = None,
    ) -> None:
        super().__init__(client, served)
        self._own, self._launch = own, launch
        if not self.n_vocab:
            raise client.error("does not tell its model's vocabulary", _OLD)
        self._held: tuple[int, ...] = ()
        self._pieces: dict[int, bytes] = {}
        self._known: tuple[int, ...] = ()
        start = self.tokenize("")
        self.bos = start[0] if start else None
        ours = self._own is not None
        self.facts = {
            **({"system_info": self._own.system_info} if self._own and self._own.system_info else {}),
            "n_params": served.n_params,
            "n_vocab": self.n_vocab,
            "n_ctx_train": self.n_ctx_train,
            "add_bos": self.bos is not None,
            "chat_template": True,  # where a model brings none, llama-server takes ChatML
            "server": {**served.facts(), "launched": ours, "path": None if ours else served.path},
            "memory_reason": None if ours else "a server that was not started here: its process is not known",
        }

    @property
    def pid(self) -> int | None:
        """The launched server's."""
        return self._own.pid if self._own else None

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._own is not None:
            self._own.close()

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """A launched server with a cache of `n_ctx` tokens; launched anew when it has another size.

        Where texts share a beginning (`n_seq_max` above 1), windowed layers get a full cache, as with the
        `llama_cpp` runner: a shorter one can't go back.
        """
        if self._own is None or self._launch is None:
            super().open(n_ctx=n_ctx + 1, n_seq_max=n_seq_max)
        elif (self._own.n_ctx, self._own.swa_full) != (cells(n_ctx), n_seq_max > 1):
            self._own.close()
            self._own = self._launch(n_ctx=cells(n_ctx), swa_full=n_seq_max > 1)
            self._client = self._own.client
        if self._own is not None:
            self.n_ctx, self.kv_cache_bytes = self._own.n_ctx, self._own.kv_cache_bytes
        self.reset()

    def reset(self) -> None:
        """The next request is to find an empty cache."""
        self._held = self._known = ()

    def tokenize(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""
        answer = self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return self._ids(answer.get("tokens"))

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the template the server uses."""
        answer = self._post("/apply-template", {"messages": [{"role": "user", "content": text}]})
        prompt = answer.get("prompt")
        if not isinstance(prompt, str):
            raise self._client.error("gives no text for its chat template")
        return prompt, True

    def piece(self, token: int) -> bytes:
        """The bytes of a token; part of a character as U+FFFD, a control token by its name."""
        if token not in self._pieces:
            content = self._post("/detokenize", {"tokens": [token]}).get("content")
            self._pieces[token] = content.encode("utf-8", "replace") if isinstance(content, str) else b""
        return self._pieces[token]

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those that were evaluated since `reset`; InvalidRun if others were kept."""
        if tokens:
            held = (*self._held, *tokens)
            times = _timings(self._evaluate(held, n_cached=len(self._held)))
            self.usage = self._checked(len(held), 0, 0, 0, times)
            self._held = held

    def stream(self, prompt: str | Sequence[int], *, n_gen: int) -> Iterator[bytes]:
        """Write `n_gen` tokens after a user's turn or after token ids; see `Streaming`."""
        held, self._held = self._held, ()
        if isinstance(prompt, str):
            options = {**_WRITING, "max_tokens": n_gen, "cache_prompt": False, "id_slot": 0}
            return self._watched(self._chat(prompt, options, n_gen))
        return self._watched(self._written((*held, *prompt), len(held), n_gen))

    def _written(self, prompt: Sequence[int], n_cached: int, n_gen: int) -> Iterator[bytes]:
        body = {**_WRITING, "prompt": list(prompt), "n_predict": n_gen, "cache_prompt": n_cached > 0}
        self.usage = None
        n_seen, n_pieces = 0, 0
        for event in self._client.events("/completion", {**body, "stream": True, "id_slot": 0}):
            shown, n_now = event.get("content"), event.get("tokens_predicted")
            n_now = n_now if isinstance(n_now, int) and n_now <= n_gen else n_seen
            n_pieces += bool(shown)
            for i in range(n_now - n_seen):
                yield str(shown).encode("utf-8", "replace") if i == n_now - n_seen - 1 and shown else b""
            n_seen = max(n_now, n_seen)
            if event.get("stop") is True:
                self._check_cached(event, n_cached)
                counts = event.get("tokens_evaluated"), event.get("tokens_predicted")
                self.usage = self._checked(*counts, n_gen, n_pieces, _timings(event), n_sent=len(prompt))
        if self.usage is None:
            raise self._client.error(f"ends in the middle of an answer, after {n_seen} tokens")
        if self.usage.n_gen != n_gen:
            self._doubt(f"{self.usage.n_gen} tokens where {n_gen} were to come without an end")

    def loglikelihoods(
        self, group: Sequence[Item], *, n_cells: int, shared: Sequence[int] = ()
    ) -> list[list[Score]]:
        """Score a group, one question after the other; with `n_cells` 0 each from an empty cache."""
        return [
            self._score(context, continuations, shared if n_cells else ()) for context, continuations in group
        ]

    def _score(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]], shared: Sequence[int]
    ) -> list[Score]:
        wanted: dict[tuple[int, ...], set[int]] = {}
        for continuation in continuations:
            for i, token in enumerate(continuation):
                wanted.setdefault((*context, *continuation[:i]), set()).add(token)
        self._begin(context, shared)
        # Sorted, each text goes on by one token from where the slot is, or goes back and then on by one.
        found = {text: self._read(text, sorted(wanted[text])) for text in sorted(wanted)}
        scores = []
        for continuation in continuations:
            parts = [found[*context, *continuation[:i]][token] for i, token in enumerate(continuation)]
            logprob, is_greedy = sum(part.logprob for part in parts), all(part.is_greedy for part in parts)
            scores.append(Score(logprob=logprob, is_greedy=is_greedy))
        return scores

    def _begin(self, context: Sequence[int], shared: Sequence[int]) -> None:
        """Have a context evaluated: what it shares in a shape of its own, the rest in one piece behind."""
        if shared and self._held != tuple(shared):
            self._evaluate(shared, n_cached=0)
            self._held = tuple(shared)
            self._evaluate(shared)  # going back evaluates its last token again: now it is so from the start
        elif shared and _n_common(self._known, context) != len(shared):
            self._evaluate(shared)
        self._evaluate(context, n_cached=None if shared else 0)

    def _read(self, text: tuple[int, ...], wanted: Sequence[int]) -> dict[int, Score]:
        """The log-probabilities of tokens after a text."""
        found: dict[int, Score] = {}
        if len(wanted) > 1:
            top = self._alternatives(text, {"n_probs": N_PROBS})[1]
            best = max(top, key=lambda token: top[token])
            found = {t: Score(logprob=top[t], is_greedy=t == best) for t in wanted if t in top}
        for token in wanted:
            if token not in found:
                (sampled, logprob), top = self._alternatives(
                    text, {"n_probs": 1, "logit_bias": [[token, FORCE]]}
                )
                if sampled != token:
                    raise self._client.error("does not take the token that `logit_bias` asks for", _OLD)
                found[token] = Score(logprob=logprob, is_greedy=token in top)
        return found

    def _alternatives(
        self, text: tuple[int, ...], options: Mapping[str, Any]
    ) -> tuple[tuple[int, float], dict[int, float]]:
        """The token sampled after a text with its log-probability, and those of the likeliest."""
        body = {**_GREEDY, "prompt": list(text), "n_predict": 1, "cache_prompt": True, **options}
        answer = self._post("/completion", {**body, "id_slot": 0})
        self._known = text
        try:
            said = answer["completion_probabilities"][0]
            top = {int(entry["id"]): float(entry["logprob"]) for entry in said["top_logprobs"]}
            sampled = int(said["id"]), float(said["logprob"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._client.error("gives no probabilities of its tokens", _OLD) from error
        if not top or not all(logprob <= 1e-3 for logprob in (*top.values(), sampled[1])):
            raise self._client.error("gives probabilities that are none", _OLD)
        if sampled[1] < LEAST_LOGPROB:
            raise ModelError(
                f"the server at {self._client.url} can't tell probabilities below e{LEAST_LOGPROB:.0f}",
                "--runner llama_cpp can",
            )
        return sampled, top

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        n_gen: int,
        n_cells: int,
        shared: Sequence[int] = (),
        ended: Callable[[Sequence[int]], bool] = lambda _: False,
    ) -> list[list[int]]:
        """Greedy texts, one context after the other, some tokens to a request."""
        return [self._write(context, n_gen, shared if n_cells else (), ended) for context in contexts]

    def _write(
        self,
        context: Sequence[int],
        n_gen: int,
        shared: Sequence[int],
        ended: Callable[[Sequence[int]], bool],
    ) -> list[int]:
        self._begin(context, shared)
        text: list[int] = []
        while len(text) < n_gen:
            n_asked = min(SLICE_TOKENS, n_gen - len(text))
            body = {**_GREEDY, "prompt": [*context, *text], "n_predict": n_asked, "cache_prompt": True}
            answer = self._post("/completion", {**body, "return_tokens": True, "id_slot": 0})
            made = self._ids(answer.get("tokens"))
            if not made or len(made) != answer.get("tokens_predicted") or len(made) > n_asked:
                self._doubt(
                    f"{len(made)} tokens, {answer.get('tokens_predicted')!r} counted, {n_asked} asked for"
                )
            self._known = (*context, *text)
            self._learn(made, answer.get("content"))
            at_end = answer.get("stop_type") == "eos"
            for token in made[:-1] if at_end else made:
                text.append(token)
                if ended(text):
                    return text
            if at_end:
                break
        return text

    def _learn(self, tokens: Sequence[int], content: object) -> None:
        """The bytes of tokens that are parts of characters: told with a text, not by themselves."""
        if not isinstance(content, str) or content.isascii():
            return
        body = {"content": content, "add_special": False, "parse_special": False, "with_pieces": True}
        for entry in self._post("/tokenize", body).get("tokens") or ():
            if isinstance(entry, dict) and entry.get("id") in tokens and isinstance(entry.get("piece"), list):
                with contextlib.suppress(ValueError, TypeError):
                    self._pieces[entry["id"]] = bytes(entry["piece"])

    def _evaluate(self, tokens: Sequence[int], *, n_cached: int | None = None) -> dict[str, Any]:
        """Have the slot hold these tokens: `n_cached` of them must be there before, if that is said."""
        body = {**_GREEDY, "prompt": list(tokens), "n_predict": 0, "cache_prompt": n_cached != 0}
        answer = self._post("/completion", {**body, "id_slot": 0})
        self._known = tuple(tokens)
        if answer.get("tokens_evaluated") != len(tokens):
            self._doubt(f"{answer.get('tokens_evaluated')!r} prompt tokens, {len(tokens)} were sent")
        if n_cached is not None:
            self._check_cached(answer, n_cached)
        return answer

    def _check_cached(self, answer: Mapping[str, Any], n_cached: int) -> None:
        """What a request is measured to take must not have been there before it."""
        found = _timings(answer).get("cache_n", 0)
        if found != n_cached:
            self._doubt(f"{found!r} tokens taken from its cache where {n_cached} were to be")

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._autopsy():
            return self._client.post(path, body)

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        with self._autopsy():
            yield from pieces

    @contextlib.contextmanager
    def _autopsy(self) -> Iterator[None]:
        """Where a server of ours does not answer because it died, say what it died of."""
        try:
            yield
        except ServerError as error:
            if self._own is not None and (why := self._own.why_dead()) is not None:
                raise self._client.error(f"is gone: {why}") from error
            raise

    def _ids(self, value: object) -> list[int]:
        if isinstance(value, list) and all(isinstance(v, int) and 0 <= v < self.n_vocab for v in value):
            return value
        raise self._client.error("gives token ids that are none")


_GREEDY = {"temperature": 0, "samplers": ["top_k"], "top_k": 1}
_WRITING = {**_GREEDY, "ignore_eos": True, "timings_per_token": True}
_OLD = "update it, or ask with --scorer generate"


def _timings(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    found = answer.get("timings")
    return found if isinstance(found, dict) else {}


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
