"""ONNX graphs on the CPU through plain onnxruntime: the exporter's plain layout and onnxruntime-genai's.

A plain graph hands the whole cache back after every step. A genai graph writes into a buffer that is
input and output at once, so that a step copies nothing.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.json_file import read_object
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Score, Settings
from edgebench.runners.tokenizer_json import JsonTokenizer

MODEL_FILE = "model.onnx"
GENAI_FILE = "genai_config.json"
PAST = "past_key_values."
MIN_SHARED_PREFIX = 8
"""Shorter common beginnings are cheaper to evaluate again than to share."""
N_TYPICAL_CTX = 512
"""Cells of the cache where nobody asked for a number."""
NEEDED = ("onnxruntime", "tokenizers", "jinja2")


class Onnx:
    """The `onnx` runner."""

    name: ClassVar[str] = "onnx"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.ONNX,)
    install: ClassVar[str] = "edgebench cache prefetch export"
    tool: ClassVar[str] = "export"

    def available(self) -> str | None:
        """None, or why the engine can't be used in this environment."""
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed" if missing else None

    def version(self) -> str:
        """onnxruntime's version: the one its tool environment pins."""
        return f"onnxruntime {pinned(self.tool, 'onnxruntime')}"

    def load(self, path: Path, settings: Settings) -> "OnnxSession":
        """Open a folder with a graph and its tokenizer; raises ModelError when it can't."""
        return OnnxSession(path, settings)


class OnnxSession:
    """A loaded graph; see `edgebench.core.engine.Session`."""

    facts: Mapping[str, Any]

    def __init__(self, path: Path, settings: Settings) -> None:
        folder = path.parent if path.name == MODEL_FILE else path
        if not (folder / MODEL_FILE).is_file():
            raise ModelError(
                f"{folder} holds no {MODEL_FILE}", "an ONNX model is a folder made by `quantize`"
            )
        if settings.n_gpu_layers:
            raise ModelError("the onnx runner computes on the CPU only", "leave out -ngl")
        self._settings = settings
        config, genai, generation = (
            read_object(folder / name, missing_ok=True)
            for name in ("config.json", GENAI_FILE, "generation_config.json")
        )
        self._session = _open(folder, settings)
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = [one.name for one in self._session.get_outputs()]
        self._pasts = [name for name in inputs if name.startswith(PAST)]
        self._presents = [f"present.{name.removeprefix(PAST)}" for name in self._pasts]
        if not self._pasts or "input_ids" not in inputs or "logits" not in outputs:
            raise ModelError(f"{folder}: the graph is no text generator with a cache", "export it with one")
        if not set(self._presents) <= set(outputs):
            raise ModelError(f"{folder}: the graph does not give its whole cache back")
        self._has_positions = "position_ids" in inputs
        # In genai's layout past and present are one buffer; its length is the context's.
        self._shares_buffer = bool(genai.get("search", {}).get("past_present_share_buffer", False))
        self._kv_type = np.float16 if "float16" in inputs[self._pasts[0]].type else np.float32
        self._kv_shapes = [_kv_shape(inputs[name].shape, config, genai) for name in self._pasts]
        text = config.get("text_config") or config
        model = genai.get("model", {})
        logits = next(one for one in self._session.get_outputs() if one.name == "logits")
        self.n_vocab: int = _first_int(logits.shape[-1], text.get("vocab_size"), model.get("vocab_size"))
        self.n_ctx_train: int = _first_int(text.get("max_position_embeddings"), model.get("context_length"))
        ends = [one.get("eos_token_id") for one in (config, text, generation, model)]
        self._tokenizer = JsonTokenizer(folder, _flat(ends))
        self._enders = [token for token in self._tokenizer.enders if token < self.n_vocab]
        self.bos: int | None = self._tokenizer.bos
        self._n_ctx, self._seen = 0, 0
        self._cache: list[Any] = []
        self._last: npt.NDArray[np.float32] | None = None
        self.facts = {
            "model_description": f"{config.get('model_type') or model.get('type') or '?'} (ONNX)",
            "n_vocab": self.n_vocab,
            "n_ctx_train": self.n_ctx_train,
            "add_bos": self.bos is not None,
            "chat_template": self.chat_prompt("?")[1],
            "layout": "genai" if genai else "plain",
            "shared_buffer": self._shares_buffer,
            "cache_dtype": np.dtype(self._kv_type).name,
            "providers": self._session.get_providers(),
            "n_threads": settings.n_threads,
            "versions": {"onnxruntime": importlib.metadata.version("onnxruntime")},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cache, self._last, self._session = [], None, None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """An empty cache for `n_ctx` tokens; questions are scored one after the other."""
        self._n_ctx, self._cache = n_ctx, []
        if self._shares_buffer:
            self._cache = [self._blank(shape, n_ctx) for shape in self._kv_shapes]
        self.reset()

    def reset(self) -> None:
        """Drop every cached token."""
        self._seen, self._last = 0, None
        if not self._shares_buffer:
            self._cache = [self._blank(shape, 0) for shape in self._kv_shapes]

    def _blank(self, shape: tuple[int, int], n_cells: int) -> Any:
        from onnxruntime import OrtValue

        n_heads, width = shape
        return OrtValue.ortvalue_from_numpy(np.zeros((1, n_heads, n_cells, width), self._kv_type))

    def tokenize(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""
        return self._tokenizer.encode(text)

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the model's chat template."""
        return self._tokenizer.chat_prompt(text)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after what is cached, `n_ubatch` at a time."""
        for part in self._parts(tokens):
            self._last = self._evaluate(part)[-1]

    def greedy(self) -> int:
        """Argmax of the last logits, tokens that end a text excluded."""
        if self._last is None:
            raise ModelError("nothing was evaluated yet: there is no next token")
        logits = self._last.copy()
        logits[self._enders] = -np.inf
        return int(logits.argmax())

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens have none."""
        return self._tokenizer.piece(token)

    def logits(self, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        """Evaluate `tokens` from an empty cache; a copy of the logits from `start` on."""
        if not self._n_ctx:
            self.open(n_ctx=max(len(tokens), N_TYPICAL_CTX))
        self.reset()
        out = np.empty((len(tokens) - start, self.n_vocab), np.float32)
        begin = 0
        for part in self._parts(tokens):
            rows, end = self._evaluate(part), begin + len(part)
            n_kept = min(end - start, len(part))
            if n_kept > 0:
                out[end - n_kept - start : end - start] = rows[-n_kept:]
            begin = end
        return out

    def loglikelihoods(
        self, group: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, n_cells: int
    ) -> list[list[Score]]:
        """Score a group, one question after the other.

        With cells, what all contexts begin with and then each context is evaluated once, and continuations
        go on from its cache. Without (`n_cells` 0) nothing is taken from a cache: every continuation is
        evaluated in one piece with its context, which is another shape and moves what is quantized as it
        runs.
        """
        if not n_cells:
            return [
                [self._score_whole(context, c) for c in continuations] for context, continuations in group
            ]
        prefix = _common_prefix([context for context, _ in group])
        n_prefix = len(prefix) if len(group) > 1 and len(prefix) >= MIN_SHARED_PREFIX else 0
        self.reset()
        self.prefill(prefix[:n_prefix])
        begun = self._state()
        scores = []
        for context, continuations in group:
            self._go_back(begun)
            self.prefill(context[n_prefix:])
            if self._last is None or not context:
                raise ModelError("a question without a context can't be scored")
            head, read = self._last, self._state()
            row = []
            for continuation in continuations:
                self._go_back(read)
                rows = [self._evaluate(part) for part in self._parts(continuation[:-1])]
                row.append(_score(np.concatenate([head[None], *rows]), continuation))
            scores.append(row)
        self.reset()
        return scores

    def _score_whole(self, context: Sequence[int], continuation: Sequence[int]) -> Score:
        rows = self.logits([*context, *continuation[:-1]], len(context) - 1)
        return _score(rows, continuation)

    def _state(self) -> tuple[int, list[Any]]:
        """Where the cache stands; a plain graph never writes into what it has handed out."""
        return self._seen, self._cache

    def _go_back(self, state: tuple[int, list[Any]]) -> None:
        self._seen, self._cache = state

    def _parts(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        # By `n_ubatch`: the graph makes logits for every token it is given, and they take memory.
        for start in range(0, len(tokens), self._settings.n_ubatch):
            yield tokens[start : start + self._settings.n_ubatch]

    def _evaluate(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Evaluate tokens into the cache; the logits of each."""
        n_all = self._seen + len(tokens)
        if n_all > self._n_ctx:
            raise ModelError(f"the context of {self._n_ctx} tokens is full ({n_all} needed)")
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, n_all), np.int64))
        if self._has_positions:
            binding.bind_cpu_input("position_ids", np.arange(self._seen, n_all, dtype=np.int64)[None])
        binding.bind_output("logits", "cpu")
        for past, present, cells in zip(self._pasts, self._presents, self._cache, strict=True):
            binding.bind_ortvalue_input(past, cells)
            if self._shares_buffer:
                binding.bind_ortvalue_output(present, cells)
            else:
                binding.bind_output(present, "cpu")
        self._session.run_with_iobinding(binding)
        logits, *presents = binding.get_outputs()
        if not self._shares_buffer:
            self._cache = presents
        self._seen = n_all
        rows: npt.NDArray[np.float32] = logits.numpy()[0].astype(np.float32, copy=False)
        return rows


def _open(folder: Path, settings: Settings) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.n_threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(folder / MODEL_FILE, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no narrower base
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"onnxruntime can't open {folder}: {line}") from error


def _kv_shape(shape: Sequence[Any], config: Mapping[str, Any], genai: Mapping[str, Any]) -> tuple[int, int]:
    """Heads and width of a cache; where the graph leaves the width open, the configuration says it."""
    decoder = genai.get("model", {}).get("decoder", {})
    return (
        _first_int(shape[1], decoder.get("num_key_value_heads"), config.get("num_key_value_heads")),
        _first_int(shape[3], decoder.get("head_size"), config.get("head_dim")),
    )


def _first_int(*values: object) -> int:
    for value in values:
        if isinstance(value, int) and value > 0:
            return value
    raise ModelError("the graph leaves a dimension open that its configuration does not tell")


def _flat(values: Sequence[Any]) -> list[int]:
    found: list[int] = []
    for value in values:
        found += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]
    return found


def _score(rows: npt.NDArray[np.float32], continuation: Sequence[int]) -> Score:
    """`rows` predict the continuation's tokens, one each; the normaliser is summed in double precision."""
    top = rows.max(axis=1)
    norm = top + np.log(np.exp(rows - top[:, None]).sum(axis=1, dtype=np.float64))
    picked = rows[np.arange(len(continuation)), continuation]
    return Score(
        logprob=float((picked - norm).sum()),
        is_greedy=bool((rows.argmax(axis=1) == np.array(continuation)).all()),
    )


def _common_prefix(contexts: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning all contexts share, each keeping at least one token of its own."""
    shortest = min(contexts, key=len)
    n = 0
    while n < len(shortest) - 1 and all(context[n] == shortest[n] for context in contexts):
        n += 1
    return list(shortest[:n])
