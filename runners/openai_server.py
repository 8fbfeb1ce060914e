"""Servers that speak OpenAI's dialect and take texts only: Ollama, LM Studio, vLLM, llamafile and others.

They write; some also tell log-probabilities. `/v1/completions` with `echo` gives those of any
continuation (vLLM); else the likeliest first tokens do where every letter is among them.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Never

from edgebench.core.engine import Usage
from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.types import Score
from edgebench.runners.served_session import ServedSession
from edgebench.runners.server_http import Client
from edgebench.runners.server_identity import Served

N_TOP = 20
"""Alternatives asked for: what most servers give at most."""


class OpenAiSession(ServedSession):
    """A model behind such a server; see `edgebench.core.engine.TextSession`."""

    def __init__(self, client: Client, served: Served) -> None:
        super().__init__(client, served)
        self._echoes = served.kind == "vllm"
        self.facts = {
            "server": served.facts(),
            "memory_reason": "a server that was not started here: its process is not known",
            "temperature": 0,
            "prompt_cache": "its own; every timed request begins with other words",
        }

    def stream(self, prompt: str | Sequence[int], *, n_gen: int) -> Iterator[bytes]:
        """A user's turn: each piece of the answer as it arrives.

        Such a server keeps what it has evaluated, and can't be told not to: every request begins with other
        words, so that no repetition is answered from the last one.
        """
        if isinstance(prompt, str):
            prompt = f"{secrets.token_hex(3)}\n\n{prompt}"
        return super().stream(prompt, n_gen=n_gen)

    def write_text(self, context: str, *, n_gen: int, stop: Sequence[str], chat: bool) -> tuple[str, Usage]:
        """What the model writes after a context, or as the answer to a user's turn."""
        options: dict[str, Any] = {"max_tokens": n_gen, **({"stop": list(stop)} if stop else {})}
        answer, choice = self._complete(context, options, chat=chat)
        message = choice.get("message") if chat else choice
        text = message.get("content" if chat else "text") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise self._client.error("answers without a text")
        return text, self._usage(answer, n_gen, text)

    def score_text(
        self, context: str, continuations: Sequence[str], *, chat: bool
    ) -> tuple[list[Score], int | None]:
        """Log-probability of each continuation after a context; MissingDependency where none are told."""
        if chat:
            self._no_probabilities("scores no answer to a user's turn")
        if self._echoes:
            return [self._echoed(context, text) for text in continuations], None
        answer, choice = self._complete(context, {"max_tokens": 1, "logprobs": N_TOP}, chat=False)
        top = _first_alternatives(choice.get("logprobs"))
        missing = [text for text in continuations if text not in top]
        if missing:
            told = f"not that of {missing[0]!r}" if top else "none"
            self._no_probabilities(f"tells the log-probability of {len(top)} first tokens, {told}")
        best = max(top, key=lambda text: top[text])
        scores = [Score(logprob=top[text], is_greedy=text == best) for text in continuations]
        return scores, self._usage(answer, 1, "").n_prompt

    def _echoed(self, context: str, continuation: str) -> Score:
        """By the prompt's own log-probabilities: those of the tokens that begin after the context."""
        options = {"max_tokens": 1, "logprobs": 1, "echo": True}
        _, choice = self._complete(context + continuation, options, chat=False)
        said: Any = choice.get("logprobs")
        try:
            end = len(context) + len(continuation)
            rows = list(zip(said["text_offset"], said["token_logprobs"], said["top_logprobs"], strict=True))
            own = [(float(p), top) for at, p, top in rows if len(context) <= at < end]
            greedy = all(p >= max(map(float, top.values())) for p, top in own)
        except (AttributeError, KeyError, TypeError, ValueError):
            self._no_probabilities("does not echo a prompt's log-probabilities")
        if not own or not any(at == len(context) for at, _, _ in rows):
            self._no_probabilities("has no token that begins where the continuation does")
        return Score(logprob=sum(p for p, _ in own), is_greedy=greedy)

    def _complete(
        self, context: str, options: Mapping[str, Any], *, chat: bool
    ) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The whole answer and its only choice."""
        if not chat and self._served.kind == "ollama":
            raise UsageError(
                "Ollama puts every text into the model's chat template: none can be completed as it is",
                "ask with --apply_chat_template --scorer generate",
            )
        asked = {"messages": [{"role": "user", "content": context}]} if chat else {"prompt": context}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        answer = self._client.post(path, {"model": self._served.model, "temperature": 0, **asked, **options})
        self._check_model(answer)
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._client.error("answers without a choice")
        return answer, choices[0]

    def _usage(self, answer: Mapping[str, Any], n_asked: int, text: str) -> Usage:
        told = answer.get("usage")
        if not isinstance(told, dict):
            raise self._client.error("does not report `usage`: without it there is no count of tokens")
        counts = told.get("prompt_tokens"), told.get("completion_tokens")
        return self._checked(*counts, n_asked, int(bool(text)), {})

    def _no_probabilities(self, why: str) -> Never:
        raise MissingDependency(f"{self._served.kind} at {self._client.url} {why}", "--scorer generate")


def _first_alternatives(said: Any) -> dict[str, float]:
    """The first token's alternatives, in both forms that servers give them."""
    try:
        if isinstance(said.get("content"), list):
            return {str(e["token"]): float(e["logprob"]) for e in said["content"][0]["top_logprobs"]}
        return {str(text): float(p) for text, p in said["top_logprobs"][0].items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}
