"""llama.cpp through llama-cpp-python's low-level bindings.

Only the C API is used: the high-level `Llama` class switches flash attention off, shrinks the batch
and silently reuses the longest cached prefix, so what it times is not what llama-bench times.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from edgebench.core.engine import Item
from edgebench.core.errors import ModelError
from edgebench.core.lean import import_submodule
from edgebench.core.types import Evidence, Format, Score, Settings
from edgebench.runners.llama_load import Log, load_model, placement
from edgebench.runners.log_softmax import log_softmax
from edgebench.runners.prefix_tree import Row, Tree, trees

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


class LlamaSession:
    """A loaded GGUF model; see `edgebench.core.engine.Session`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._lib = lib = import_submodule("llama_cpp", "llama_cpp")
        self._log = Log(lib)
        self._settings = settings
        lib.llama_backend_init()
        self._model = load_model(lib, self._log, path, settings)
        self._held: tuple[int, ...] = ()
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
            **placement(self._log, settings),
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
        self._held = ()
        lib, s = self._lib, self._settings
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, n_seq_max, True
        params.n_batch, params.n_ubatch = s.n_batch, s.n_ubatch
        params.n_threads = params.n_threads_batch = s.n_threads
        params.flash_attn_type = FLASH_ATTN[s.flash_attn]
        params.type_k, params.type_v = KV_TYPES[s.type_k], KV_TYPES[s.type_v]
        # A window-sized cache is llama-bench's choice; sequences that share a prefix need the full one.
        params.swa_full = n_seq_max > 1
        self._log.n_cache_bytes = 0
        self._ctx = lib.llama_init_from_model(self._model, params)
        if not self._ctx:
            raise ModelError(f"llama.cpp can't make a context of {n_ctx} tokens: {self._log.last_error()}")
        self._memory = lib.llama_get_memory(self._ctx)
        self._n_batch = int(lib.llama_n_batch(self._ctx))
        self._batch = lib.llama_batch_init(self._n_batch, 0, n_seq_max)

    @property
    def kv_cache_bytes(self) -> int | None:
        """What llama.cpp says it took for keys and values, to 10 KiB."""
        return self._log.n_cache_bytes or None

    @property
    def n_ctx(self) -> int:
        """Cells of the cache: what was asked for, rounded up by the engine."""
        return int(self._lib.llama_n_ctx(self._ctx))

    def reset(self) -> None:
        """Drop every cached token, and its data."""
        self._held = ()
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
        self, group: Sequence[Item], *, n_cells: int, shared: Sequence[int] = ()
    ) -> list[list[Score]]:
        """Score a group: what all its prompts begin with is evaluated once, then they share batches.

        `shared` stays in sequence 0 until another is named. What branches off it is laid out as trees of at
        most `n_cells` rows, so the batches' shapes depend on the group alone. With `n_cells` 0 every
        question is evaluated from an empty cache.
        """
        if not n_cells:
            self.reset()
            return [score for item in group for score in self._score_tree([item], 0, 0)]
        self._hold(shared)
        return self._score_tree(group, len(shared), n_cells)

    def _hold(self, shared: Sequence[int]) -> None:
        """Have `shared`, and nothing else, evaluated in sequence 0."""
        if not shared or self._held != tuple(shared):
            self.reset()
            self._evaluate([Row(token, i, [0]) for i, token in enumerate(shared)])
            self._held = tuple(shared)

    def _score_tree(self, group: Sequence[Item], n_shared: int, n_cells: int) -> list[list[Score]]:
        scores: list[list[Score]] = []
        items = iter(group)
        for tree in trees(group, n_shared, n_cells):
            members = list(itertools.islice(items, len(tree.ends)))
            self._branch_off(tree, n_shared)
            asked: dict[int, set[int]] = {}
            for (_, continuations), reads in zip(members, tree.reads, strict=True):
                for continuation, rows in zip(continuations, reads, strict=True):
                    for row, token in zip(rows, continuation, strict=True):
                        asked.setdefault(row, set()).add(token)
            found = self._evaluate(tree.rows, asked)
            for (_, continuations), reads in zip(members, tree.reads, strict=True):
                scores.append(
                    [
                        _sum([found[row, token] for row, token in zip(rows, continuation, strict=True)])
                        for continuation, rows in zip(continuations, reads, strict=True)
                    ]
                )
            self._lib.llama_memory_seq_keep(self._memory, 0)
        return scores

    def _branch_off(self, tree: Tree, n_shared: int) -> None:
        """Let the tree's sequences begin with what sequence 0 holds; nothing is moved, only marked."""
        if n_shared:
            for seq in (seq for seqs in tree.seqs for seq in seqs):
                self._lib.llama_memory_seq_cp(self._memory, 0, seq, -1, -1)

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        n_gen: int,
        n_cells: int,
        shared: Sequence[int] = (),
        ended: Callable[[Sequence[int]], bool] = lambda _: False,
    ) -> list[list[int]]:
        """Greedy texts, all contexts of a tree in step, one token each to a batch."""
        self._hold(shared)
        texts: list[list[int]] = []
        for tree in trees([(context, ()) for context in contexts], len(shared), n_cells):
            self._branch_off(tree, len(shared))
            texts += self._write(tree, contexts[len(texts) :], n_gen, ended)
            self._lib.llama_memory_seq_keep(self._memory, 0)
        return texts

    def _write(
        self,
        tree: Tree,
        contexts: Sequence[Sequence[int]],
        n_gen: int,
        ended: Callable[[Sequence[int]], bool],
    ) -> list[list[int]]:
        texts: list[list[int]] = [[] for _ in tree.ends]
        rows, places = tree.rows, dict(enumerate(tree.ends))
        for _ in range(n_gen):
            best = self._evaluate_best(rows, set(places.values()))
            following = {i: best[row] for i, row in places.items() if best[row] not in self._enders}
            for i, token in following.items():
                texts[i].append(token)
            live = [i for i in following if not ended(texts[i])]
            if not live:
                break
            rows = [
                Row(texts[i][-1], len(contexts[i]) + len(texts[i]) - 1, [tree.seqs[i][0]], wanted=True)
                for i in live
            ]
            places = {i: k for k, i in enumerate(live)}
        return texts

    def logits(self, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        """Evaluate `tokens` from an empty cache, `n_batch` at a time; a copy of the logits from `start`."""
        self.reset()
        out = np.empty((len(tokens) - start, self.n_vocab), dtype=np.float32)
        for begin in range(0, len(tokens), self._n_batch):
            part = tokens[begin : begin + self._n_batch]
            rows = [Row(t, i, [0], wanted=i >= start) for i, t in enumerate(part, begin)]
            for k, logits in self._decoded(rows):
                out[begin + k - start] = logits
        return out

    def _evaluate(
        self, rows: Sequence[Row], asked: Mapping[int, Collection[int]] | None = None
    ) -> dict[tuple[int, int], tuple[float, bool]]:
        """Decode rows; (row, token) -> (log-probability, is the argmax) of what was asked for."""
        found: dict[tuple[int, int], tuple[float, bool]] = {}
        for row, logits in self._decoded(rows):
            if tokens := list((asked or {}).get(row, ())):
                found |= zip(((row, token) for token in tokens), log_softmax(logits, tokens), strict=True)
        return found

    def _evaluate_best(self, rows: Sequence[Row], asked: Collection[int]) -> dict[int, int]:
        """Decode rows; row -> the likeliest token after it."""
        return {row: int(logits.argmax()) for row, logits in self._decoded(rows) if row in asked}

    def _decoded(self, rows: Sequence[Row]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Decode rows, `n_batch` at a time; the logits of those wanted, valid until the next step."""
        batch = self._batch
        for start in range(0, len(rows), self._n_batch):
            part = rows[start : start + self._n_batch]
            batch.n_tokens = len(part)
            for k, row in enumerate(part):
                batch.token[k], batch.pos[k], batch.n_seq_id[k] = row.token, row.position, len(row.seqs)
                seq_ids = batch.seq_id[k]
                for j, seq in enumerate(row.seqs):
                    seq_ids[j] = seq
                batch.logits[k] = row.wanted
            self._decode(batch)
            self._lib.llama_synchronize(self._ctx)
            for k, row in enumerate(part):
                if row.wanted:
                    yield start + k, self._logits(k)


def _sum(parts: Sequence[tuple[float, bool]]) -> Score:
    return Score(
        logprob=float(sum(logprob for logprob, _ in parts)), is_greedy=all(best for _, best in parts)
    )


def _text(fill: Callable[[Any, int], int]) -> str:
    buf = ctypes.create_string_buffer(512)
    with contextlib.suppress(UnicodeDecodeError):
        n = fill(buf, len(buf))
        return buf.raw[: max(n, 0)].decode()
    return ""
