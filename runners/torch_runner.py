"""The reference engine: a checkpoint in torch, by transformers' own code, in f32 on the CPU.

It is there to be right, not fast: other formats are compared with it. Weights of every type are widened
to f32, attention is written out (`eager`), and nothing but safetensors and JSON is read.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.cached_session import CachedSession, State
from edgebench.runners.hf_tokenizer import HfTokenizer


class Torch:
    """The `torch` runner."""

    name: ClassVar[str] = "torch"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.SAFETENSORS,)
    install: ClassVar[str] = "edgebench cache prefetch export"
    tool: ClassVar[str] = "export"

    def available(self) -> str | None:
        """None, or why the engine can't be used in this environment."""
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed" if missing else None

    def version(self) -> str:
        """Both versions: transformers holds the model's code, torch does the sums."""
        return ", ".join(f"{name} {pinned(self.tool, name)}" for name in ("torch", "transformers"))

    def load(self, path: Path, settings: Settings) -> "TorchSession":
        """Open a checkpoint folder; raises ModelError when it can't."""
        return TorchSession(path, settings)


class TorchSession(CachedSession):
    """A loaded checkpoint; see `edgebench.core.engine.Session`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        config = _config(path)
        if settings.n_gpu_layers:
            raise ModelError("the torch runner computes on the CPU only", "leave out -ngl")
        import torch

        self._torch = torch
        torch.set_num_threads(settings.n_threads)
        self._model = _load(path)
        super().__init__(
            HfTokenizer(path, _end_ids(self._model)),
            # The output head may have more rows than the tokenizer has tokens: padded vocabularies.
            n_vocab=int(self._model.get_output_embeddings().weight.shape[0]),
            n_step=settings.n_batch,
        )
        text_config = self._model.config.get_text_config()
        self.n_ctx_train = int(getattr(text_config, "max_position_embeddings", 0) or 0)
        self.facts = {
            "model_description": f"{config.get('model_type', '?')} ({type(self._model).__name__})",
            "n_params": sum(weight.numel() for weight in self._model.parameters()),
            "n_vocab": self.n_vocab,
            "n_ctx_train": self.n_ctx_train,
            "add_bos": self.bos is not None,
            "chat_template": self.chat_prompt("?")[1],
            "weights_dtype": config.get("dtype") or config.get("torch_dtype"),
            "compute_dtype": "float32",
            "cache_dtype": "float32",
            "attention": "eager",
            "n_threads": torch.get_num_threads(),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        }

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._model = None

    def _empty(self) -> State:
        return State((), 0)

    def _n_bytes(self, cache: Any) -> int:
        return sum(part.nbytes for layer in cache for part in layer)

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        from transformers import DynamicCache

        self._room_for(rows.shape[1], state)
        # Made without the model's config: layers with a sliding window keep everything and mask it, so that
        # every token of a text is there to go on from.
        cache = DynamicCache()
        with self._torch.inference_mode():
            for i, (keys, values) in enumerate(state.cache):
                cache.update(*(part.expand(len(rows), -1, -1, -1) for part in (keys, values)), i)
            found = self._model(
                input_ids=self._torch.from_numpy(rows),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=rows.shape[1] - start,
            )
        logits: npt.NDArray[np.float32] = found.logits.numpy()
        return logits, [(layer.keys, layer.values) for layer in cache.layers]


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is no checkpoint: its config.json can't be read",
            "a checkpoint is a folder with config.json, safetensors and a tokenizer",
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'} is damaged: it is not a JSON object", "fetch it again")
    return config


def _load(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    with contextlib.suppress(RuntimeError):  # only before the first parallel work of the process
        torch.set_num_interop_threads(1)
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"transformers can't open {path}: {lines[0]}") from error
    if missing := sorted(told["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"{path} lacks {len(missing)} of the model's tensors: {missing[0]}, …", "fetch it again"
        )
    return model.eval()


def _end_ids(model: Any) -> list[int]:
    """What the checkpoint's own configurations name as ends of a text."""
    found: list[int] = []
    for config in (model.config, model.generation_config):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return found
