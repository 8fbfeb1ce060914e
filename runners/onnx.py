"""ONNX graphs on the CPU through plain onnxruntime: the exporter's plain layout and onnxruntime-genai's.

A plain graph hands the whole cache back after every step. A genai graph writes into a buffer that is
input and output at once, so that a step copies nothing.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.json_file import read_object
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.cached_session import CachedSession, State
from edgebench.runners.tokenizer_json import JsonTokenizer

MODEL_FILE = "model.onnx"
GENAI_FILE = "genai_config.json"
PAST = "past_key_values."
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


class OnnxSession(CachedSession):
    """A loaded graph; see `edgebench.core.engine.Session`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        folder = path.parent if path.name == MODEL_FILE else path
        if not (folder / MODEL_FILE).is_file():
            raise ModelError(
                f"{folder} holds no {MODEL_FILE}", "an ONNX model is a folder made by `quantize`"
            )
        if settings.n_gpu_layers:
            raise ModelError("the onnx runner computes on the CPU only", "leave out -ngl")
        config, genai, generation = (
            read_object(folder / name, missing_ok=True)
            for name in ("config.json", GENAI_FILE, "generation_config.json")
        )
        self._session = _open(folder, settings)
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = {one.name: one for one in self._session.get_outputs()}
        self._pasts = [name for name in inputs if name.startswith(PAST)]
        self._presents = [f"present.{name.removeprefix(PAST)}" for name in self._pasts]
        if not self._pasts or "input_ids" not in inputs or "logits" not in outputs:
            raise ModelError(f"{folder}: the graph is no text generator with a cache", "export it with one")
        if not set(self._presents) <= set(outputs):
            raise ModelError(f"{folder}: the graph does not give its whole cache back")
        self._has_positions = "position_ids" in inputs
        # In genai's layout past and present are one buffer; its length is the context's.
        self._shares_buffer = bool(genai.get("search", {}).get("past_present_share_buffer", False))
        self._buffers: list[Any] | None = None
        self._kv_type = np.float16 if "float16" in inputs[self._pasts[0]].type else np.float32
        self._kv_shapes = [_kv_shape(inputs[name].shape, config, genai) for name in self._pasts]
        text, model = config.get("text_config") or config, genai.get("model", {})
        ends = [one.get("eos_token_id") for one in (config, text, generation, model)]
        # By `n_ubatch`: the graph makes logits for every token it is given, and they take memory.
        super().__init__(
            JsonTokenizer(folder, _flat(ends)),
            n_vocab=_first_int(outputs["logits"].shape[-1], text.get("vocab_size"), model.get("vocab_size")),
            n_step=settings.n_ubatch,
        )
        self.n_ctx_train = _first_int(text.get("max_position_embeddings"), model.get("context_length"))
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

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._buffers = self._session = None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """An empty cache for `n_ctx` tokens; rows beside it are made as they are needed."""
        self._buffers = self._blanks(n_ctx) if self._shares_buffer else None
        super().open(n_ctx=n_ctx, n_seq_max=n_seq_max)

    def _empty(self) -> State:
        return State(self._buffers or self._blanks(0), 0)

    def _blanks(self, n_cells: int) -> list[Any]:
        return [
            _value(np.zeros((1, n_heads, n_cells, width), self._kv_type))
            for n_heads, width in self._kv_shapes
        ]

    def _n_bytes(self, cache: Any) -> int:
        return sum(cells.tensor_size_in_bytes() for cells in cache)

    @cached_property
    def _takes_rows(self) -> bool:
        """Asked of the graph: attention fused for generation takes one row when a cache is before it."""
        if self._shares_buffer:
            return False
        try:
            self._run(np.zeros((2, 2), np.int64), State(self._blanks(1), 1), ["logits"])
        except RuntimeError:
            return False
        return True

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        self._room_for(rows.shape[1], state)
        # What is not named is not handed out: several rows' caches are freed layer by layer.
        logits, *cache = self._run(rows, state, ["logits", *(self._presents if len(rows) == 1 else ())])
        return logits.numpy()[:, start:].astype(np.float32, copy=False), self._buffers or cache

    def _run(self, rows: npt.NDArray[np.int64], state: State, outputs: Sequence[str]) -> list[Any]:
        """Evaluate rows, each after `state`: the outputs of these names."""
        from onnxruntime import RunOptions

        n_rows, n_new = rows.shape
        n_all = state.n_seen + n_new
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", rows)
        binding.bind_cpu_input("attention_mask", np.ones((n_rows, n_all), np.int64))
        if self._has_positions:
            at = np.arange(state.n_seen, n_all, dtype=np.int64)
            binding.bind_cpu_input("position_ids", np.tile(at, (n_rows, 1)))
        for past, cells in zip(self._pasts, state.cache, strict=True):
            wide = cells if n_rows == 1 else _value(np.repeat(cells.numpy(), n_rows, axis=0))
            binding.bind_ortvalue_input(past, wide)
        in_place = dict(zip(self._presents, self._buffers or (), strict=False))
        for name in outputs:
            if name in in_place:
                binding.bind_ortvalue_output(name, in_place[name])
            else:
                binding.bind_output(name, "cpu")
        options = RunOptions()
        options.log_severity_level = 4  # what it refuses is told by the exception
        self._session.run_with_iobinding(binding, options)
        found: list[Any] = binding.get_outputs()
        return found


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


def _value(cells: npt.NDArray[Any]) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(cells)
