"""What plug-ins implement: an engine and a loaded model in it, a maker of levels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from edgebench.core.types import Evidence, Format, Score, Settings

if TYPE_CHECKING:  # most of edgebench does without numpy
    import numpy as np
    from numpy.typing import NDArray

Item = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Token ids of a context, and of each continuation after it."""


class Session(Protocol):
    """A loaded model with a cache. The caller holds the clock: every call returns when work is done."""

    facts: Mapping[str, Any]
    """What the engine says of itself and the model, for the record."""
    n_vocab: int
    n_ctx_train: int
    bos: int | None
    """The token a text begins with by default, or None."""

    @property
    def kv_cache_bytes(self) -> int | None:
        """What the engine says it took for the open context's keys and values; None when it does not."""

    @property
    def n_ctx(self) -> int:
        """Cells of the open context."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """Make a fresh, empty cache of `n_ctx` tokens."""

    def reset(self) -> None:
        """Drop every cached token: no repetition reuses a prefix."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens the model's tokenizer adds by default."""

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """The text as one user turn of the model's chat template, and whether it has one."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` after what is cached."""

    def greedy(self) -> int:
        """The likeliest next token that does not end the text."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for control tokens."""

    def loglikelihoods(
        self, group: Sequence[Item], *, n_cells: int, shared: Sequence[int] = ()
    ) -> list[list[Score]]:
        """Score continuations after contexts, `n_cells` tokens at most to a batch (0: one by one).

        All contexts begin with `shared`, and go on after it. It is evaluated once, in a shape that does
        not depend on the group, and kept for as long as the next call names the same: so a group's
        scores are the same bits whatever was scored before it.
        """

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        n_gen: int,
        n_cells: int,
        shared: Sequence[int] = (),
        ended: Callable[[Sequence[int]], bool] = lambda _: False,
    ) -> list[list[int]]:
        """Write after each context, greedily, all in step; the tokens each got, `n_gen` at most.

        A text ends before a token that ends texts, or when `ended` says so of what was written so far.
        `shared` and `n_cells` are as in `loglikelihoods`.
        """

    def logits(self, tokens: Sequence[int], start: int) -> "NDArray[np.float32]":
        """Evaluate `tokens` from an empty cache; the logits at positions `start` to the last.

        A copy of shape (len(tokens) - start, n_vocab). The same call gives the same bits.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A request as the engine that answered it counts it, and times it by its own clock."""

    n_prompt: int
    n_gen: int
    prefill_s: float | None = None
    """None where the engine does not say, as is the next."""
    decode_s: float | None = None


@runtime_checkable
class Streaming(Protocol):
    """What a session has besides when its engine is a server: it writes many tokens to one request."""

    usage: Usage | None
    """Of the last request, once it is answered."""

    @property
    def pid(self) -> int | None:
        """The process that computes, where it is on this computer and known."""

    def stream(self, prompt: str | Sequence[int], *, n_gen: int) -> Iterator[bytes]:
        """Write `n_gen` tokens, greedily: what each shows (perhaps nothing), at the moment it arrives.

        A text is a user's turn, put into the model's template by the engine, asked with an empty cache and
        perhaps ended early; token ids go on after what is cached, and no text ends. The cache is empty
        afterwards. Where an engine does not say which tokens a piece stands for, pieces may be fewer than
        `usage.n_gen`.
        """


@runtime_checkable
class TextSession(Protocol):
    """A session of an engine that takes texts and no token ids."""

    def score_text(
        self, context: str, continuations: Sequence[str], *, chat: bool
    ) -> tuple[list[Score], int | None]:
        """Log-probability of each continuation after a context; the context's tokens, where told."""

    def write_text(self, context: str, *, n_gen: int, stop: Sequence[str], chat: bool) -> tuple[str, Usage]:
        """What the model writes after a context, greedily; `chat`: the context is a user's turn."""


@runtime_checkable
class Prepares(Protocol):
    """What a runner has besides when something must be made before its first measuring process."""

    def prepare(self, settings: Settings, say: Callable[[str], None]) -> None:
        """Make it, with a line for the user; nothing where it is there already."""


class Runner(Protocol):
    """An engine, found through the entry-point group `edgebench.runners`."""

    name: ClassVar[str]
    evidence: ClassVar[Evidence]
    formats: ClassVar[tuple[Format, ...]]
    install: ClassVar[str]
    """The command that makes this engine available."""
    tool: ClassVar[str | None]
    """The tool environment its process runs in; None: edgebench's own."""

    def available(self) -> str | None:
        """None, or one line: why not."""

    def version(self) -> str:
        """The engine's version, for the record."""

    def load(self, path: Path, settings: Settings) -> Session:
        """Open a model file; raises ModelError with the reason when it can't."""


class Quantizer(Protocol):
    """Makes levels of a model, found through the entry-point group `edgebench.quantizers`."""

    name: ClassVar[str]
    tool: ClassVar[str | None]
    """The tool environment it works in; None: edgebench's own."""

    def levels(self) -> Sequence[str]:
        """The names it knows, widest first."""

    def version(self) -> str:
        """The program or library that does the work, and its version."""

    def make(self, job: Mapping[str, Any], progress: Callable[[float], None]) -> dict[str, Any]:
        """Write the job's `target` at its `level` from its `source`; what is worth recording.

        Leaves nothing behind when it fails (ModelError).
        """
