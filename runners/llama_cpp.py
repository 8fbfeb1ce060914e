"""llama.cpp through llama-cpp-python's low-level bindings.

Only the C API is used: the high-level `Llama` class switches flash attention off, shrinks the batch
and silently reuses the longest cached prefix, so what it times is not what llama-bench times.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.lean import import_submodule
from edgebench.core.types import Evidence, Format, Score, Settings

FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "iq4_nl": 20,
}
LOAD_MODE = {False: 0, True: 1}
"""llama.h's `LLAMA_LOAD_MODE_NONE` and `_MMAP`."""

MIN_SHARED_PREFIX = 8
"""Shorter common beginnings are cheaper to evaluate again than to share."""


class LlamaCpp:
    """The `llama_cpp` runner."""

    name: ClassVar[str] = "llama_cpp"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.GGUF,)
    install: ClassVar[str] = "edgebench runners build llama_cpp"
    tool: ClassVar[str | None] = None

    def available(self) -> str | None:
        """None, or why the engine can't be used here."""
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed"
        return None

    def version(self) -> str:
        """llama-cpp-python's version; the wheel carries its own llama.cpp."""
        return importlib.metadata.version("llama-cpp-python")

    def load(self, path: Path, settings: Settings) -> "LlamaSession":
        """Open a GGUF file; raises ModelError when llama.cpp refuses it."""
        return LlamaSession(path, settings)


class _Log:
    """Collects llama.cpp's log lines, so that a refusal can be told in llama.cpp's own words."""

    _held: ClassVar[Any] = None
    """What llama.cpp calls, process-wide: it must outlive its session, and ctypes does not keep it."""

    def __init__(self, lib: ModuleType) -> None:
        self.lines: list[str] = []

        def write(_level: int, message: bytes, _user: object) -> None:
            self.lines.append(message.decode("utf-8", "replace").strip())
            del self.lines[:-400]

        callback = lib.llama_log_callback(write)
        lib.llama_log_set(callback, ctypes.c_void_p(0))
        _Log._held = callback

    def last_error(self) -> str:
        """The first line that tells of an error: what follows it are consequences."""
        told = [line for line in self.lines if "error" in line.lower() or "failed" in line.lower()]
        return (told or self.lines or ["llama.cpp gave no reason"])[0]


class LlamaSession:
    """A loaded GGUF model; see `edgebench.core.engine.Session`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._lib = lib = import_submodule("llama_cpp", "llama_cpp")
        self._log = _Log(lib)
        self._settings = settings
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = settings.n_gpu_layers
        params.load_mode = LOAD_MODE[settings.mmap]
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise ModelError(f"llama.cpp can't open {path}: {self._log.last_error()}")
        self._ctx: Any = None
        self._batch: Any = None
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        add_bos = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos: int | None = lib.llama_vocab_bos(self._vocab) if add_bos else None
        self._enders = [t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, t)]
        self.facts: Mapping[str, Any] = {
            "system_info": lib.llama_print_system_info().decode().strip(),
            "model_description": _text(lambda buf, n: lib.llama_model_desc(self._model, buf, n)),
            "n_params": int(lib.llama_model_n_params(self._model)),
            "n_vocab": self.n_vocab,
            "n_ctx_train": self.n_ctx_train,
            "add_bos": bool(add_bos),
            "chat_template": self.chat_prompt("?")[1],
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def _close(self) -> None:
        if self._batch is not None:
            self._lib.llama_batch_free(self._batch)
            self._batch = None
        if self._ctx:
            self._lib.llama_free(self._ctx)
            self._ctx = None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """A fresh context: `n_ctx` cells shared by `n_seq_max` sequences."""
        self._close()
        lib, s = self._lib, self._settings
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, n_seq_max, True
        params.n_batch, params.n_ubatch = s.n_batch, s.n_ubatch
        params.n_threads = params.n_threads_batch = s.n_threads
        params.flash_attn_type = FLASH_ATTN[s.flash_attn]
        params.type_k, params.type_v = KV_TYPES[s.type_k], KV_TYPES[s.type_v]
        # A window-sized cache is llama-bench's choice; sequences that share a prefix need the full one.
        params.swa_full = n_seq_max > 1
        self._ctx = lib.llama_init_from_model(self._model, params)
        if not self._ctx:
            raise ModelError(f"llama.cpp can't make a context of {n_ctx} tokens: {self._log.last_error()}")
        self._memory = lib.llama_get_memory(self._ctx)
        self._n_batch = int(lib.llama_n_batch(self._ctx))
        self._batch = lib.llama_batch_init(self._n_batch, 0, n_seq_max)

    def reset(self) -> None:
        """Drop every cached token, and its data."""
        self._lib.llama_memory_clear(self._memory, True)

    def tokenize(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised (as lm-eval)."""
        raw = text.encode()
        room = len(raw) + 8
        out = (self._lib.llama_token * room)()
        n = self._lib.llama_tokenize(self._vocab, raw, len(raw), out, room, True, True)
        if n < 0:
            raise ModelError(f"llama.cpp can't tokenize a text of {len(raw)} bytes")
        return list(out[:n])

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the model's chat template, where llama.cpp knows it."""
        lib = self._lib
        template = lib.llama_model_chat_template(self._model, None)
        if not template:
            return text, False
        message = lib.llama_chat_message(role=b"user", content=text.encode())
        array = (lib.llama_chat_message * 1)(message)
        size = 4 * len(text.encode()) + 4096
        buf = ctypes.create_string_buffer(size)
        n = lib.llama_chat_apply_template(template, array, 1, True, buf, size)
        return (buf.raw[:n].decode(), True) if 0 < n <= size else (text, False)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens as sequence 0, `n_batch` at a time; returns when the last is done."""
        lib = self._lib
        for start in range(0, len(tokens), self._n_batch):
            part = tokens[start : start + self._n_batch]
            ids = (lib.llama_token * len(part))(*part)
            self._decode(lib.llama_batch_get_one(ids, len(part)))
        lib.llama_synchronize(self._ctx)

    def _decode(self, batch: Any) -> None:
        code = self._lib.llama_decode(self._ctx, batch)
        if code != 0:
            raise ModelError(f"llama_decode returned {code}: {self._log.last_error()}")

    def _logits(self, i: int) -> npt.NDArray[np.float32]:
        """A view of engine memory: valid until the next decode."""
        row = self._lib.llama_get_logits_ith(self._ctx, i)
        return np.ctypeslib.as_array(row, shape=(self.n_vocab,))

    def greedy(self) -> int:
        """Argmax of the last logits, tokens that end a text excluded."""
        logits = self._logits(-1)
        kept = logits[self._enders].copy()
        logits[self._enders] = -np.inf
        best = int(logits.argmax())
        logits[self._enders] = kept
        return best

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens have none."""
        buf = ctypes.create_string_buffer(256)
        n = self._lib.llama_token_to_piece(self._vocab, token, buf, len(buf), 0, False)
        return buf.raw[: max(n, 0)]

    def loglikelihoods(
        self, group: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, n_cells: int
    ) -> list[list[Score]]:
        """Score a group: the common beginning is evaluated once, then questions share batches.

        Each context is evaluated once for all its continuations: its tokens belong to one sequence
        per continuation, and each continuation's tokens to its own. A batch takes questions, in
        order, until `n_cells` tokens are full, so its shape depends on the group alone.
        """
        lib = self._lib
        self.reset()
        prefix = _common_prefix([context for context, _ in group]) if n_cells else []
        if len(prefix) < MIN_SHARED_PREFIX or len(group) < 2:
            prefix = []
        if prefix:
            self._evaluate([(t, i, (0,), False) for i, t in enumerate(prefix)])
        scores: list[list[Score]] = []
        for chunk in _pack(group, len(prefix), n_cells):
            lib.llama_memory_seq_keep(self._memory, 0) if prefix else lib.llama_memory_clear(
                self._memory, True
            )
            scores += self._score_chunk(chunk, prefix)
        return scores

    def _score_chunk(
        self, chunk: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], prefix: Sequence[int]
    ) -> list[list[Score]]:
        rows: list[tuple[int, int, tuple[int, ...], bool]] = []  # token, position, sequences, logits wanted
        wanted: list[list[list[int]]] = []  # question -> continuation -> rows whose logits predict its tokens
        next_seq = 1
        for context, continuations in chunk:
            long = [c for c in continuations if len(c) > 1]
            seqs = tuple(range(next_seq, next_seq + max(len(long), 1)))
            next_seq += len(seqs)
            for seq in seqs:
                if prefix:
                    self._lib.llama_memory_seq_cp(self._memory, 0, seq, -1, -1)
            last = len(context) - 1
            rows += [(t, i, seqs, i == last) for i, t in enumerate(context) if i >= len(prefix)]
            head, own = len(rows) - 1, iter(seqs)
            wanted.append([])
            for continuation in continuations:
                seq = next(own) if len(continuation) > 1 else seqs[0]
                wanted[-1].append([head, *range(len(rows), len(rows) + len(continuation) - 1)])
                rows += [(t, last + 1 + k, (seq,), True) for k, t in enumerate(continuation[:-1])]
        # Which (row, token) pairs are asked for; logits are read slice by slice as they are made.
        asked: dict[int, list[int]] = {}
        for (_, continuations), places in zip(chunk, wanted, strict=True):
            for continuation, at in zip(continuations, places, strict=True):
                for row, token in zip(at, continuation, strict=True):
                    asked.setdefault(row, []).append(token)
        found = dict(self._evaluate(rows, asked))
        return [
            [
                Score(
                    logprob=float(sum(found[row, token][0] for row, token in zip(at, c, strict=True))),
                    is_greedy=all(found[row, token][1] for row, token in zip(at, c, strict=True)),
                )
                for c, at in zip(continuations, places, strict=True)
            ]
            for (_, continuations), places in zip(chunk, wanted, strict=True)
        ]

    def logits(self, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        """Evaluate `tokens` from an empty cache, `n_batch` at a time; a copy of the logits from `start`."""
        self.reset()
        out = np.empty((len(tokens) - start, self.n_vocab), dtype=np.float32)
        for begin in range(0, len(tokens), self._n_batch):
            part = tokens[begin : begin + self._n_batch]
            self._decode_rows([(t, i, (0,), i >= start) for i, t in enumerate(part, begin)])
            for k in range(max(start - begin, 0), len(part)):
                out[begin + k - start] = self._logits(k)
        return out

    def _evaluate(
        self,
        rows: Sequence[tuple[int, int, tuple[int, ...], bool]],
        asked: Mapping[int, Sequence[int]] | None = None,
    ) -> Iterator[tuple[tuple[int, int], tuple[float, bool]]]:
        """Decode rows, `n_batch` at a time; gives ((row, token), (log-probability, is the argmax))."""
        found: list[tuple[tuple[int, int], tuple[float, bool]]] = []
        for start in range(0, len(rows), self._n_batch):
            part = rows[start : start + self._n_batch]
            self._decode_rows(part)
            for k in range(len(part)):
                tokens = (asked or {}).get(start + k)
                if tokens:
                    found += [((start + k, t), s) for t, s in _log_softmax(self._logits(k), tokens)]
        return iter(found)

    def _decode_rows(self, rows: Sequence[tuple[int, int, tuple[int, ...], bool]]) -> None:
        """One batch of (token, position, sequences, logits wanted); done when it returns."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for k, (token, position, seqs, wanted) in enumerate(rows):
            batch.token[k], batch.pos[k], batch.n_seq_id[k] = token, position, len(seqs)
            for j, seq in enumerate(seqs):
                batch.seq_id[k][j] = seq
            batch.logits[k] = wanted
        self._decode(batch)
        self._lib.llama_synchronize(self._ctx)


def _log_softmax(
    logits: npt.NDArray[np.float32], tokens: Sequence[int]
) -> list[tuple[int, tuple[float, bool]]]:
    """Natural-log probabilities of some tokens; the normaliser is summed in double precision."""
    best = int(logits.argmax())
    top = float(logits[best])
    norm = top + float(np.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64)))
    return [(t, (float(logits[t]) - norm, t == best)) for t in tokens]


def _common_prefix(contexts: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning all contexts share, each keeping at least one token of its own."""
    shortest = min(contexts, key=len)
    n = 0
    while n < len(shortest) - 1 and all(c[n] == shortest[n] for c in contexts):
        n += 1
    return list(shortest[:n])


def _pack(
    group: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], n_prefix: int, n_cells: int
) -> Iterator[list[tuple[Sequence[int], Sequence[Sequence[int]]]]]:
    """Questions in order, a new chunk when the next one would not fit in `n_cells` tokens."""
    chunk: list[tuple[Sequence[int], Sequence[Sequence[int]]]] = []
    used = 0
    for context, continuations in group:
        cost = len(context) - n_prefix + sum(len(c) - 1 for c in continuations)
        if chunk and used + cost > n_cells:
            yield chunk
            chunk, used = [], 0
        chunk.append((context, continuations))
        used += cost
    if chunk:
        yield chunk


def _text(fill: Callable[[Any, int], int]) -> str:
    buf = ctypes.create_string_buffer(512)
    with contextlib.suppress(UnicodeDecodeError):
        n = fill(buf, len(buf))
        return buf.raw[: max(n, 0)].decode()
    return ""
