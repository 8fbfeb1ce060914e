"""A pretend engine: scripted answers, scripted deaths. Everything it yields is `synthetic`.

It lets the whole path from plan to picture be tried and tested without an engine or a model. Its
"model" is a JSON file:

    {"edgebench": "synthetic", "seed": 1, "token_s": 0.0002, "dies_after": 40, "how": "kill"}

`dies_after` counts engine calls; `how` is kill, segfault, error or hang. `nan` spoils log-likelihoods.
`while` names a file: the script does so only as long as it is there (and the model's hash stays).
`damage` is how far its logits stray from those that all such models share (0.1; 0 for their original).
`leans`, {"A": 1.5}, favours continuations of that text, whatever they stand for. `says` lists texts: a hash
of the context chooses the one that is written after it. `under` says what else the script holds under some
settings, {"n_threads=1,flash_attn=off": {"token_s": 0.001}}; `holds_bytes` is memory it takes.
"""

import ctypes
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edgebench.core.engine import Item
from edgebench.core.errors import ModelError
from edgebench.core.types import Evidence, Format, Score, Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Synthetic:
    """The `synthetic` runner."""

    name: ClassVar[str] = "synthetic"
    evidence: ClassVar[Evidence] = Evidence.SYNTHETIC
    formats: ClassVar[tuple[Format, ...]] = (Format.SYNTHETIC,)
    install: ClassVar[str] = "always there"
    tool: ClassVar[str | None] = None

    def available(self) -> str | None:
        """Always."""
        return None

    def version(self) -> str:
        """The script's version."""
        return "1"

    def load(self, path: Path, settings: Settings) -> "SyntheticSession":
        """Read the script."""
        try:
            script = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is not a synthetic model: {error}") from error
        for condition, more in dict(script.get("under", {})).items():
            if all(f"{getattr(settings, n, None)}" == v for n, _, v in _terms(condition)):
                script |= more
        return SyntheticSession(script)


def _terms(condition: str) -> list[tuple[str, str, str]]:
    return [term.strip().partition("=") for term in condition.split(",")]


class SyntheticSession:
    """One token per byte; log-likelihoods are a hash of what was asked."""

    facts: Mapping[str, Any]
    n_vocab = 256
    n_ctx_train = 8192
    bos: int | None = None
    kv_cache_bytes: int | None = None
    n_ctx = 0

    def __init__(self, script: Mapping[str, Any]) -> None:
        self._script = script
        self._calls = 0
        self._token_s = float(script.get("token_s", 1e-5))
        self._held = b"x" * int(script.get("holds_bytes", 0))
        self.facts = {"script": dict(script)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """Nothing to hold."""
        self.n_ctx = n_ctx

    def reset(self) -> None:
        """Nothing to drop."""

    def tokenize(self, text: str) -> list[int]:
        """UTF-8 bytes."""
        return list(text.encode())

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """No template."""
        return text, False

    def prefill(self, tokens: Sequence[int]) -> None:
        """Take `token_s` a token."""
        self._live()
        time.sleep(self._token_s * len(tokens))

    def greedy(self) -> int:
        """Always an "a"."""
        return ord("a")

    def piece(self, token: int) -> bytes:
        """The byte itself."""
        return bytes([token])

    def loglikelihoods(
        self, group: Sequence[Item], *, n_cells: int, shared: Sequence[int] = ()
    ) -> list[list[Score]]:
        """A number between -10 and 0 that depends on the tokens, and a little on the batch's shape."""
        self._work(group, shared)
        nudge = 0.3 if n_cells == 0 else 0.0
        return [
            [Score(logprob=self._logprob(context, c, nudge), is_greedy=False) for c in continuations]
            for context, continuations in group
        ]

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        n_gen: int,
        n_cells: int,
        shared: Sequence[int] = (),
        ended: Callable[[Sequence[int]], bool] = lambda _: False,
    ) -> list[list[int]]:
        """One of the texts in `says` after each context, a byte at a time; nothing where there are none."""
        self._work([(context, ()) for context in contexts], shared)
        says = [text.encode() for text in self._script.get("says", ())] or [b""]
        made = []
        for context in contexts:
            text = says[int.from_bytes(self._digest(context)[:4], "big") % len(says)][:n_gen]
            lengths = range(1, len(text) + 1)
            made.append(list(text[: next((n for n in lengths if ended(list(text[:n]))), len(text))]))
        return made

    def logits(self, tokens: Sequence[int], start: int) -> "npt.NDArray[np.float32]":
        """The same wave for every model, and on it a `damage` times smaller one of the model's own."""
        import numpy as np

        self._live()
        time.sleep(self._token_s * len(tokens))
        seed, damage = float(self._script.get("seed", 0)), float(self._script.get("damage", 0.1))
        at = np.asarray(tokens[start:], dtype=np.float64)[:, None] + np.arange(start, len(tokens))[:, None]
        each = np.arange(self.n_vocab)
        out = 4 * np.sin(0.7 * at + each)
        out[:, ord("a")] = 4.05  # what `greedy` says, unless the damage is in the way
        out += damage * np.sin((seed + 1.3) * at + 3.1 * each + seed)
        if self._script.get("nan") and self._is_spoilt():
            out[:] = np.nan
        return out.astype(np.float32)

    def _logprob(self, context: Sequence[int], continuation: Sequence[int], nudge: float) -> float:
        if self._script.get("nan") and self._is_spoilt():
            return math.nan
        digest = self._digest(context, continuation)
        leans: Mapping[str, float] = self._script.get("leans", {})
        lean = leans.get(bytes(list(continuation)).decode("utf-8", "replace").strip(), 0.0)
        # Against the strongest one: a log-likelihood stays below 0.
        return -10 * digest[0] / 255 - nudge * digest[1] / 255 + lean - max([0.0, *leans.values()])

    def _digest(self, *texts: Sequence[int]) -> bytes:
        seed = ":".join([str(self._script.get("seed", 0)), *(str(list(text)) for text in texts)])
        return hashlib.sha256(seed.encode()).digest()

    def _work(self, group: Sequence[Item], shared: Sequence[int]) -> None:
        """Take `token_s` a token; what is shared counts once."""
        self._live()
        n_tokens = len(shared) + sum(len(context) - len(shared) for context, _ in group)
        time.sleep(self._token_s * n_tokens)

    def _live(self) -> None:
        self._calls += 1
        if self._calls != self._script.get("dies_after") or not self._is_spoilt():
            return
        match self._script.get("how", "error"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case "hang":
                time.sleep(3600)
            case _:
                raise ModelError("the script says: fail now")

    def _is_spoilt(self) -> bool:
        return "while" not in self._script or Path(self._script["while"]).exists()
