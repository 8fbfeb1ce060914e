"""The reference engine: a checkpoint in torch, by transformers' own code.

In f32 on the CPU with attention written out (`-fa off`) it is the yardstick that other formats are
compared with. Otherwise it is an engine like the others: narrower or quantized weights (`--dtype`),
transformers' fast attention, a GPU (`--provider cuda`).
"""

import contextlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.lean import not_installed
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.cached_session import CachedSession, State
from edgebench.runners.hf_tokenizer import HfTokenizer
from edgebench.runners.torch_device import device_of, gpu_facts
from edgebench.runners.torch_model import QUANTIZED, by_type, config_of, load, weights_of
from edgebench.runners.torch_text import FixedText, GrowingText, Text, continued, why_not_fixed


class Torch:
    """The `torch` runner."""

    name: ClassVar[str] = "torch"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.SAFETENSORS,)
    install: ClassVar[str] = "edgebench cache prefetch export"
    tool: ClassVar[str] = "export"

    def available(self) -> str | None:
        """None, or why the engine can't be used in this environment."""
        return not_installed("torch", "transformers")

    def version(self) -> str:
        """Both versions: transformers holds the model's code, torch does the sums."""
        return ", ".join(f"{name} {pinned(self.tool, name)}" for name in ("torch", "transformers"))

    def load(self, path: Path, settings: Settings) -> "TorchSession":
        """Open a checkpoint folder; raises EdgebenchError when it can't, or not as the settings ask."""
        return TorchSession(path, settings)


class TorchSession(CachedSession):
    """A loaded checkpoint; see `edgebench.core.engine.Session`.

    What is prefilled is one text with a cache of its own; what is scored goes on from caches that stay.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        config, level = config_of(path), settings.dtype or "f32"
        self._device = device_of(settings)
        import torch

        self._torch = torch
        torch.set_num_threads(settings.n_threads)
        with contextlib.suppress(RuntimeError):  # only before the first parallel work of the process
            torch.set_num_interop_threads(1)
        self._model = load(path, level, self._device, eager=settings.flash_attn == "off")
        super().__init__(
            HfTokenizer(path, _end_ids(self._model)),
            # The output head may have more rows than the tokenizer has tokens: padded vocabularies.
            n_vocab=int(self._model.get_output_embeddings().weight.shape[0]),
            n_step=settings.n_batch,
        )
        text_config = self._model.config.get_text_config()
        self.n_ctx_train = int(getattr(text_config, "max_position_embeddings", 0) or 0)
        on_cuda = self._device.type == "cuda"
        why_not = why_not_fixed(self._model) if on_cuda else "only on NVIDIA GPUs"
        self._fixed = why_not is None
        self._text: Text = GrowingText(self._model)
        self._next: Any = None
        """Logits after the text, where they were made."""
        weights = weights_of(self._model)
        self.facts = {
            "model_description": f"{config.get('model_type', '?')} ({type(self._model).__name__})",
            "n_params": sum(weight.n for weight in weights),
            "n_params_by_type": by_type(weights),
            "n_vocab": self.n_vocab,
            "n_ctx_train": self.n_ctx_train,
            "add_bos": self.bos is not None,
            "chat_template": self.chat_prompt("?")[1],
            "checkpoint_dtype": config.get("dtype") or config.get("torch_dtype"),
            "dtype": level,
            "compute_dtype": str(self._model.dtype).removeprefix("torch."),
            "cache_dtype": str(self._model.dtype).removeprefix("torch."),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "attention": text_config._attn_implementation,
            "device": str(self._device),
            **gpu_facts(self._device),
            "cuda_graph": self._fixed,
            "why_no_cuda_graph": why_not,
            "n_threads": torch.get_num_threads(),
            "n_interop_threads": torch.get_num_interop_threads(),
            "versions": {name: importlib.metadata.version(name) for name in _libraries(level)},
        }

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._model = self._next = None
        self._text = GrowingText(None)

    @property
    def kv_cache_bytes(self) -> int | None:
        """What keys and values of the prefilled text take."""
        return self._text.n_bytes or None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """An empty cache for `n_ctx` tokens; on a GPU, the recording of a step in it."""
        self._text = GrowingText(self._model)  # the last one's memory is free before more is taken
        if self._fixed:
            self._text = FixedText(self._model, n_ctx)
        super().open(n_ctx=n_ctx, n_seq_max=n_seq_max)

    def reset(self) -> None:
        """Drop every cached token."""
        super().reset()
        self._text.clear()
        self._next = None

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after what is cached; the logits stay where they were made."""
        self._room_for(len(tokens), State(None, self._text.n_seen))
        for begin in range(0, len(tokens), self._n_step):
            self._next = self._text.go_on(tokens[begin : begin + self._n_step])
        if self._device.type != "cpu":
            getattr(self._torch, self._device.type).synchronize()

    def greedy(self) -> int:
        """Argmax of the last logits, tokens that end a text excluded."""
        if self._next is None:
            raise ModelError("nothing was evaluated yet: there is no next token")
        logits = self._next.clone()
        logits[self._enders] = -self._torch.inf
        return int(logits.argmax())

    def _empty(self) -> State:
        return State((), 0)

    def _n_bytes(self, cache: Any) -> int:
        return sum(part.nbytes for layer in cache for part in layer)

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        self._room_for(rows.shape[1], state)
        cache = continued(state.cache, len(rows))
        with self._torch.inference_mode():
            found = self._model(
                input_ids=self._torch.from_numpy(rows).to(self._device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=rows.shape[1] - start,
            )
            logits: npt.NDArray[np.float32] = found.logits.float().cpu().numpy()
        return logits, [(layer.keys, layer.values) for layer in cache.layers]


def _end_ids(model: Any) -> list[int]:
    """What the checkpoint's own configurations name as ends of a text."""
    found: list[int] = []
    for config in (model.config, model.generation_config):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return found


def _libraries(level: str) -> list[str]:
    return ["torch", "transformers", *([QUANTIZED[level][0]] if level in QUANTIZED else [])]
