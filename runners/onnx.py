"""ONNX graphs through plain onnxruntime: the exporter's plain layout and onnxruntime-genai's.

A plain graph hands the whole cache back after every step, longer by what was new: that copy is the graph's
own, and its pieces stay where onnxruntime put them until the next step reads them. A genai graph writes
into a buffer that is input and output at once, so that a step copies nothing.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.lean import not_installed
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.cached_session import CachedSession, State
from edgebench.runners.onnx_folder import MODEL_FILE, OnnxFolder, known, whole
from edgebench.runners.onnx_providers import onnxruntime, open_graph, provider_of

PAST = "past_key_values."
FED = ("input_ids", "attention_mask", "position_ids")
CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
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
        return not_installed(*NEEDED)

    def version(self) -> str:
        """onnxruntime's version: the one its tool environment pins."""
        return f"onnxruntime {pinned(self.tool, 'onnxruntime')}"

    def load(self, path: Path, settings: Settings) -> "OnnxSession":
        """Open a folder with a graph and its tokenizer; raises ModelError when it can't."""
        return OnnxSession(path, settings)


class OnnxSession(CachedSession):
    """A loaded graph; see `edgebench.core.engine.Session`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        folder = OnnxFolder.read(path)
        if settings.n_gpu_layers:
            raise UsageError("-ngl is llama.cpp's", "--provider names who computes an ONNX graph")
        provider = provider_of(settings)
        self._session, placed = open_graph(folder.path / MODEL_FILE, settings, provider)
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = {one.name: one for one in self._session.get_outputs()}
        self._pasts = [name for name in inputs if name.startswith(PAST)]
        self._presents = [f"present.{name.removeprefix(PAST)}" for name in self._pasts]
        _check(folder.path, inputs, outputs, self._pasts, self._presents)
        self._memory = provider.memory
        self._has_positions = "position_ids" in inputs
        self._shares_buffer = folder.shares_buffer
        self._buffers: list[Any] | None = None
        self._bound: Any = None  # once for all steps, where the buffers are the same ones in each
        self._kv_type = CACHE_TYPES[inputs[self._pasts[0]].type]
        self._kv_shapes = [_kv_shape(inputs[name].shape, folder) for name in self._pasts]
        # By `n_ubatch`: the graph makes logits for every token it is given, and they take memory.
        super().__init__(
            folder.tokenizer(),
            n_vocab=_told(folder, outputs["logits"].shape[-1], folder.n_vocab),
            n_step=settings.n_ubatch,
        )
        self._last_only = outputs["logits"].shape[1] == 1
        self.n_ctx_train = folder.n_ctx_train
        self.facts = {
            **folder.facts(self),
            **placed,
            "cache_dtype": np.dtype(self._kv_type).name,
            "n_threads": settings.n_threads,
            "versions": {"onnxruntime": onnxruntime().__version__},
        }

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._buffers = self._bound = self._session = None

    @property
    def kv_cache_bytes(self) -> int | None:
        """The shared buffer's size; a cache that is made anew at every step has none to tell."""
        return self._n_bytes(self._buffers) if self._buffers else None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """An empty cache for `n_ctx` tokens; rows beside it are made as they are needed."""
        if self._shares_buffer:
            self._buffers = self._blanks(n_ctx)
            self._bound = self._session.io_binding()
            for past, present, cells in zip(self._pasts, self._presents, self._buffers, strict=True):
                self._bound.bind_ortvalue_input(past, cells)
                self._bound.bind_ortvalue_output(present, cells)
        super().open(n_ctx=n_ctx, n_seq_max=n_seq_max)

    def _empty(self) -> State:
        return State(self._buffers or self._blanks(0), 0)

    def _blanks(self, n_cells: int) -> list[Any]:
        return [
            self._value(np.zeros((1, n_heads, n_cells, width), self._kv_type))
            for n_heads, width in self._kv_shapes
        ]

    def _n_bytes(self, cache: Any) -> int:
        return sum(cells.tensor_size_in_bytes() for cells in cache)

    @cached_property
    def _takes_rows(self) -> bool:
        """Asked of the graph: attention fused for generation takes one row when a cache is before it."""
        if self._shares_buffer or self._last_only:
            return False
        try:
            self._run(np.zeros((2, 2), np.int64), State(self._blanks(1), 1))
        except RuntimeError:
            return False
        return True

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        self._room_for(rows.shape[1], state)
        *cache, logits = self._run(rows, state)
        return logits.numpy()[:, start - rows.shape[1] :].astype(
            np.float32, copy=False
        ), self._buffers or cache

    def _run(self, rows: npt.NDArray[np.int64], state: State) -> list[Any]:
        """Evaluate rows, each after `state`: the cache that follows, of one row only, and the logits."""
        from onnxruntime import RunOptions

        n_rows, n_all = len(rows), state.n_seen + rows.shape[1]
        binding = self._bound or self._binding(state, n_rows)
        binding.bind_cpu_input("input_ids", rows)
        binding.bind_cpu_input("attention_mask", np.ones((n_rows, n_all), np.int64))
        if self._has_positions:
            at = np.arange(state.n_seen, n_all, dtype=np.int64)
            binding.bind_cpu_input("position_ids", np.tile(at, (n_rows, 1)))
        binding.bind_output("logits", "cpu")
        options = RunOptions()
        options.log_severity_level = 4  # what it refuses is told by the exception
        self._session.run_with_iobinding(binding, options)
        found: list[Any] = binding.get_outputs()
        return found

    def _binding(self, state: State, n_rows: int) -> Any:
        """A binding of a cache, the same before each row, and of what follows where that is of use."""
        binding = self._session.io_binding()
        for past, cells in zip(self._pasts, state.cache, strict=True):
            wide = cells if n_rows == 1 else self._value(np.repeat(cells.numpy(), n_rows, axis=0))
            binding.bind_ortvalue_input(past, wide)
        # What is not bound is not handed out: several rows' caches are freed layer by layer.
        for present in self._presents if n_rows == 1 else ():
            binding.bind_output(present, *self._memory)
        return binding

    def _value(self, cells: npt.NDArray[Any]) -> Any:
        """An array for the engine; on the CPU it is the array itself."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(cells, *self._memory)


def _check(
    folder: Path,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    pasts: Sequence[str],
    presents: Sequence[str],
) -> None:
    """ModelError unless a graph is a text generator that wants what is fed here, and no more."""
    if not pasts or not {"input_ids", "attention_mask"} <= set(inputs) or "logits" not in outputs:
        raise ModelError(f"{folder}: the graph is no text generator with a cache", "export it with one")
    if unknown := sorted(set(inputs) - {*FED, *pasts}):
        raise ModelError(
            f"{folder}: the graph wants inputs that nobody feeds: {', '.join(unknown)}",
            "an ONNX model is a folder made by `quantize`: text in, logits out",
        )
    if not set(presents) <= set(outputs):
        raise ModelError(f"{folder}: the graph does not give its whole cache back", "export it again")
    types = dict.fromkeys(FED, ("tensor(int64)",)) | dict.fromkeys(pasts, tuple(CACHE_TYPES))
    if odd := [name for name, one in inputs.items() if one.type not in types[name]]:
        raise ModelError(
            f"{folder}: the graph wants {odd[0]} as {inputs[odd[0]].type}, which is not known here"
        )


def _kv_shape(shape: Sequence[Any], folder: OnnxFolder) -> tuple[int, int]:
    """Heads and width of a cache; where the graph leaves them open, the configuration says them."""
    text, decoder = folder.text_config, folder.decoder
    return (
        _told(folder, shape[1], decoder.get("num_key_value_heads"), text.get("num_key_value_heads")),
        _told(folder, shape[3], decoder.get("head_size"), text.get("head_dim")),
    )


def _told(folder: OnnxFolder, *values: object) -> int:
    missing = "the graph leaves a dimension open that its configuration does not tell"
    return known(whole(*values), f"{folder.path}: {missing}")
