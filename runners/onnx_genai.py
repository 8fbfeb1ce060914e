"""ONNX graphs through onnxruntime-genai: its loop, its fused attention, one KV buffer that all steps share.

Every engine writes by one rule, the likeliest token. Here the library finds it, since handing out the logits
of a large vocabulary costs a small model some percent of a step; it has no say in where a text ends. Ids are
the folder's own tokenizer's, as in the other engines. What has been exercised is the CPU, and the refusal of
`cuda` where the library was built without it.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import MissingDependency, ModelError, UsageError
from edgebench.core.lean import not_installed
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.cached_session import CachedSession, State
from edgebench.runners.onnx_folder import GENAI_FILE, MODEL_FILE, OnnxFolder, part, whole
from edgebench.runners.onnx_providers import first_line, onnxruntime, open_graph, provider_of

NEEDED = ("onnxruntime_genai", "onnxruntime", "tokenizers", "jinja2")
PROVIDERS = {"cpu": "CPU", "cuda": "CUDA"}
"""Provider -> what the library calls the device it then computes on."""
NO_TOKEN = -1
"""Instead of the padding token: the library would read a prompt's logits before trailing ones of those, and
in most models padding is the very token that ends a turn."""
HARMLESS = frozenset(
    {
        *("log_id", "log_severity_level", "log_verbosity_level", "provider_options"),
        *("intra_op_num_threads", "inter_op_num_threads", "graph_optimization_level"),
        *("enable_cpu_mem_arena", "enable_mem_pattern", "session.set_denormal_as_zero"),
    }
)
"""Session options a folder may bring. Others load native code (`custom_ops_library`) or write files."""


class OnnxGenai:
    """The `onnx_genai` runner."""

    name: ClassVar[str] = "onnx_genai"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.ONNX,)
    install: ClassVar[str] = "edgebench cache prefetch export"
    tool: ClassVar[str] = "export"

    def available(self) -> str | None:
        """None, or why the engine can't be used in this environment."""
        return not_installed(*NEEDED)

    def version(self) -> str:
        """Both versions: the library holds the loop, onnxruntime does the sums."""
        names = ("onnxruntime-genai", "onnxruntime")
        return ", ".join(f"{name} {pinned(self.tool, name)}" for name in names)

    def load(self, path: Path, settings: Settings) -> "OnnxGenaiSession":
        """Open a folder in genai's layout; raises ModelError when it can't."""
        return OnnxGenaiSession(path, settings)


class OnnxGenaiSession(CachedSession):
    """A loaded folder; see `edgebench.core.engine.Session`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        folder = OnnxFolder.read(path)
        _check(folder, settings)
        self._og = _library(settings)
        placed = _placement(folder, settings)
        self._model = _open(self._og, folder, settings)
        self._generator: Any = None
        self._fed = NO_TOKEN
        self._one_buffer = folder.shares_buffer and not folder.decoder.get("sliding_window")
        self._logits_name = str(part(folder.decoder, "outputs").get("logits") or "logits")
        logits, cache = self._probe(folder)
        super().__init__(folder.tokenizer(), n_vocab=logits.shape[-1], n_step=settings.n_ubatch)
        self._last_only = logits.shape[1] == 1
        self._cell_bytes: int = sum(cells.nbytes // cells.shape[2] for cells in cache)
        self.n_ctx_train = folder.n_ctx_train
        self.facts = {
            **folder.facts(self),
            **placed,
            "cache_dtype": cache[0].dtype.name,
            "n_threads": settings.n_threads,
            "versions": {
                "onnxruntime_genai": self._og.__version__,
                "onnxruntime": onnxruntime().__version__,
            },
        }

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._generator = self._model = None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """A cache for `n_ctx` tokens, or as many as the model was made for: the library has none longer."""
        n_cells = min(n_ctx, self.n_ctx_train)
        self._generator = None  # the old cache goes before the new one comes
        self._generator = self._begin(n_cells)
        super().open(n_ctx=n_cells, n_seq_max=n_seq_max)

    @property
    def kv_cache_bytes(self) -> int | None:
        """The buffer's size: of what the engine showed for one token, as many as there are cells."""
        return self._cell_bytes * self.n_ctx if self._one_buffer and self.n_ctx else None

    def _begin(self, n_ctx: int) -> Any:
        """A generator with an empty cache."""
        try:
            params = self._og.GeneratorParams(self._model)
            params.set_search_options(
                max_length=n_ctx,
                batch_size=1,
                num_beams=1,
                num_return_sequences=1,
                # The likeliest token and no other, whatever the folder's own configuration asks for.
                do_sample=False,
                repetition_penalty=1.0,
                no_repeat_ngram_size=0,
                min_length=0,
            )
            return self._og.Generator(self._model, params)
        except RuntimeError as error:
            raise ModelError(
                f"onnxruntime-genai makes no cache of {n_ctx} tokens: {first_line(error)}"
            ) from error

    def _probe(self, folder: OnnxFolder) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
        """Two tokens through the graph: their logits, as it gives them, and their cache.

        So what the graph wants and nobody feeds is told before anything is measured.
        """
        generator = self._begin(2)
        outputs = part(folder.decoder, "outputs")
        names = [
            str(outputs.get(f"present_{kind}_names") or f"present.%d.{kind}").replace("%d", str(layer))
            for layer in range(whole(folder.decoder.get("num_hidden_layers")) or 0)
            for kind in ("key", "value")
        ]
        try:
            generator.append_tokens(np.zeros(2, np.int32))
            logits = generator.get_output(self._logits_name)
            cache = [generator.get_output(name) for name in names]
        except RuntimeError as error:
            raise ModelError(
                f"onnxruntime-genai can't compute {folder.path}: {first_line(error)}",
                "--runner onnx may open it; else export the model again",
            ) from error
        if not cache:
            raise ModelError(f"{folder.path / GENAI_FILE} does not tell the number of layers")
        return logits, cache

    def _empty(self) -> State:
        return State(None, 0)

    def _n_bytes(self, cache: Any) -> int:
        return self._cell_bytes * self.n_ctx

    @property
    def _takes_rows(self) -> bool:
        """Fused attention goes on from a cache with one row only."""
        return False

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after what is cached; their logits stay in the library until they are asked for."""
        if len(tokens):
            self._kept = self._last = None
            self._state = self._feed(self._state, tokens)
            self._fed = tokens[-1]

    def greedy(self) -> int:
        """Argmax of the last logits, tokens that end a text excluded."""
        if self._last is None and self._state.n_seen:
            token = self._likeliest()
            if token not in self._enders:
                return token
            # The library can't take its choice back: the last token is evaluated again, for all its logits.
            before = State(None, self._state.n_seen - 1)
            self._append(np.array([self._fed], np.int32), before)
            self._last = self._generator.get_logits()[0, -1]
        return super().greedy()

    def _following(self, state: State, tokens: Sequence[int]) -> tuple[int, State]:
        state = self._feed(state, tokens)
        return self._likeliest(), state

    def _feed(self, state: State, tokens: Sequence[int]) -> State:
        for begin, end in itertools.pairwise(self._ends(len(tokens), len(tokens))):
            state = self._append(np.array(tokens[begin:end], np.int32), state)
        return state

    def _likeliest(self) -> int:
        """The token the library goes on with; it counts as cached until the next step goes back to before it.

        In a full cache there is no place for it: then the logits tell.
        """
        if self._generator.token_count() >= self.n_ctx:
            return int(self._generator.get_logits()[0, -1].argmax())
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        self._append(rows[0].astype(np.int32), state)
        # The last position's logits come alone; all of them are a copy as long as the tokens.
        if start == rows.shape[1] - 1:
            return self._generator.get_logits(), None
        logits = self._generator.get_output(self._logits_name)[:, start:]
        return logits.astype(np.float32, copy=False), None

    def _append(self, tokens: npt.NDArray[np.int32], state: State) -> State:
        """Evaluate tokens after a state, what came after it dropped; the state that follows."""
        self._room_for(tokens.size, state)
        try:
            if self._generator.token_count() != state.n_seen:
                self._generator.rewind_to(state.n_seen)
            self._generator.append_tokens(tokens)
        except RuntimeError as error:
            raise ModelError(
                f"onnxruntime-genai stopped: {first_line(error)}", "--runner onnx may open the same folder"
            ) from error
        return State(None, state.n_seen + tokens.size)


def _check(folder: OnnxFolder, settings: Settings) -> None:
    """ModelError or UsageError for what can be told before the library is asked."""
    if settings.n_gpu_layers:
        raise UsageError("-ngl is llama.cpp's", "--provider cuda, where the library is built for it")
    if not folder.genai:
        raise ModelError(
            f"{folder.path} has no {GENAI_FILE}: it is in the exporter's plain layout",
            "--runner onnx opens it; `quantize --to genai-int4` makes what this runner opens",
        )
    if (named := folder.decoder.get("filename", MODEL_FILE)) != MODEL_FILE:
        raise ModelError(f"{folder.path / GENAI_FILE} names {named!r} as its graph, not {MODEL_FILE}")
    odd = sorted({key for options in _session_options(folder.genai) for key in options} - HARMLESS)
    if odd:
        raise ModelError(
            f"{folder.path / GENAI_FILE} brings session options that a model has no business with:"
            f" {', '.join(odd)}",
            "take them out of the file",
        )


def _session_options(config: object) -> Iterator[Mapping[str, Any]]:
    """Every `session_options` there is, however deep."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "session_options" and isinstance(value, Mapping):
                yield value
            yield from _session_options(value)
    elif isinstance(config, list):
        for value in config:
            yield from _session_options(value)


def _library(settings: Settings) -> Any:
    """The library, its telemetry off; UsageError or MissingDependency for a provider it does not have."""
    if (name := settings.provider or "cpu") not in PROVIDERS:
        raise UsageError(
            f"the onnx_genai runner computes on {' or '.join(PROVIDERS)}, not on {name!r}",
            "--runner onnx knows more execution providers",
        )
    onnxruntime()
    import onnxruntime_genai

    if name == "cuda" and not onnxruntime_genai.is_cuda_available():
        pip = f"{sys.executable} -m pip"
        raise MissingDependency(
            f"onnxruntime-genai {onnxruntime_genai.__version__} was built without cuda: it has cpu only",
            f"{pip} uninstall -y onnxruntime onnxruntime-genai"
            f" && {pip} install onnxruntime-gpu onnxruntime-genai-cuda",
        )
    return onnxruntime_genai


def _placement(folder: OnnxFolder, settings: Settings) -> dict[str, Any]:
    """Who computes the graph.

    The library does not say who got which node, so of another provider than the CPU's onnxruntime is asked,
    with the graph opened once for that.
    """
    provider = provider_of(settings)
    if provider.name == "cpu":
        return {"providers": [provider.full_name], "provider_node_share": 1.0}
    return open_graph(folder.path / MODEL_FILE, settings, provider)[1]


def _open(og: Any, folder: OnnxFolder, settings: Settings) -> Any:
    """The model on the provider asked for, whatever the folder's own configuration names."""
    provider = provider_of(settings)
    decoder = {
        "session_options": {
            "intra_op_num_threads": settings.n_threads,
            "inter_op_num_threads": 1,
            "log_severity_level": 3,
        }
    }
    try:
        config = og.Config(str(folder.path))
        config.clear_providers()
        if provider.name != "cpu":
            config.append_provider(provider.name)
            for key, value in provider.options.items():
                config.set_provider_option(provider.name, key, value)
        config.overlay(json.dumps({"model": {"pad_token_id": NO_TOKEN, "decoder": decoder}}))
        model = og.Model(config)
    except Exception as error:  # the library's errors share no narrower base
        raise ModelError(f"onnxruntime-genai can't open {folder.path}: {first_line(error)}") from error
    if (found := model.device_type) != PROVIDERS[provider.name]:
        raise ModelError(f"{provider.name} was asked for, and onnxruntime-genai computes on {found}")
    return model
