"""The reference engine: a checkpoint in torch, by transformers' own code, in f32 on the CPU.

It is there to be right, not fast: other formats are compared with it. Weights of every type are widened
to f32, attention is written out (`eager`), and nothing but safetensors and JSON is read.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Score, Settings
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


class TorchSession:
    """A loaded checkpoint; see `edgebench.core.engine.Session`."""

    facts: Mapping[str, Any]

    def __init__(self, path: Path, settings: Settings) -> None:
        config = _config(path)
        if settings.n_gpu_layers:
            raise ModelError("the torch runner computes on the CPU only", "leave out -ngl")
        import torch

        self._torch = torch
        self._settings = settings
        torch.set_num_threads(settings.n_threads)
        self._model = _load(path)
        text_config = self._model.config.get_text_config()
        # The output head may have more rows than the tokenizer has tokens: padded vocabularies.
        self.n_vocab: int = int(self._model.get_output_embeddings().weight.shape[0])
        self.n_ctx_train: int = int(getattr(text_config, "max_position_embeddings", 0) or 0)
        self._tokenizer = HfTokenizer(path, _end_ids(self._model))
        self._enders = [token for token in self._tokenizer.enders if token < self.n_vocab]
        self.bos: int | None = self._tokenizer.bos
        self._n_ctx = 0
        self._cache: Any = None
        self._last: npt.NDArray[np.float32] | None = None
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cache = self._last = self._model = None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """An empty cache that may grow to `n_ctx` tokens; questions are scored one after the other."""
        self._n_ctx = n_ctx
        self.reset()

    def reset(self) -> None:
        """Drop every cached token."""
        self._cache, self._last = self._empty_cache(), None

    def tokenize(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""
        return self._tokenizer.encode(text)

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the tokenizer's chat template."""
        return self._tokenizer.chat_prompt(text)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after what is cached, `n_batch` at a time."""
        for part in self._parts(tokens):
            self._last = self._forward(part, self._cache, 1)[-1]

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
        self.reset()
        out = np.empty((len(tokens) - start, self.n_vocab), dtype=np.float32)
        begin = 0
        for part in self._parts(tokens):
            end = begin + len(part)
            n_kept = min(end - start, len(part))
            if n_kept > 0:
                out[end - n_kept - start : end - start] = self._forward(part, self._cache, n_kept)
            else:
                self._forward(part, self._cache, 1)
            begin = end
        self.reset()
        return out

    def loglikelihoods(
        self, group: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, n_cells: int
    ) -> list[list[Score]]:
        """Score a group, one question after the other whatever `n_cells` says.

        A context is evaluated once; each continuation goes on from its cache, which is then cut back.
        """
        scores = []
        for context, continuations in group:
            self.reset()
            self.prefill(context)
            head = self._last
            if head is None:
                raise ModelError("a question without a context can't be scored")
            scores.append([self._score(continuation, head, len(context)) for continuation in continuations])
        self.reset()
        return scores

    def _score(self, continuation: Sequence[int], head: npt.NDArray[np.float32], n_context: int) -> Score:
        rows = [head]
        for part in self._parts(continuation[:-1]):
            rows += list(self._forward(part, self._cache, len(part)))
        self._cache.crop(n_context)
        found = [_log_softmax(row, token) for row, token in zip(rows, continuation, strict=False)]
        return Score(
            logprob=sum(logprob for logprob, _ in found), is_greedy=all(is_best for _, is_best in found)
        )

    def _parts(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in range(0, len(tokens), self._settings.n_batch):
            yield tokens[start : start + self._settings.n_batch]

    def _forward(self, tokens: Sequence[int], cache: Any, n_kept: int) -> npt.NDArray[np.float32]:
        """Evaluate tokens into the cache; the logits of the last `n_kept` of them."""
        torch = self._torch
        n_cells = cache.get_seq_length() + len(tokens)
        if n_cells > self._n_ctx:
            raise ModelError(f"the context of {self._n_ctx} tokens is full ({n_cells} needed)")
        with torch.inference_mode():
            found = self._model(
                input_ids=torch.tensor([list(tokens)]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=n_kept,
            )
        kept: npt.NDArray[np.float32] = found.logits[0].numpy()
        return kept

    def _empty_cache(self) -> Any:
        # Made without the model's config: layers with a sliding window keep everything and mask it, so that
        # a cache can be cut back to any length.
        from transformers import DynamicCache

        return DynamicCache()


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


def _log_softmax(logits: npt.NDArray[np.float32], token: int) -> tuple[float, bool]:
    """Natural-log probability of a token, and whether it is the argmax; summed in double precision."""
    best = int(logits.argmax())
    top = float(logits[best])
    norm = top + float(np.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64)))
    return float(logits[token]) - norm, token == best
