"""What lies in an ONNX model's folder beside the graph: the configurations that both ONNX engines read.

All of it is untrusted: what is missing or of another shape than expected counts as absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgebench.core.errors import ModelError
from edgebench.core.json_file import read_object
from edgebench.runners.cached_session import CachedSession
from edgebench.runners.tokenizer_json import JsonTokenizer

MODEL_FILE = "model.onnx"
GENAI_FILE = "genai_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFolder:
    """A graph's folder and its configurations; `genai` is empty in the exporter's plain layout."""

    path: Path
    config: Mapping[str, Any]
    genai: Mapping[str, Any]
    generation: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Of a folder, or of the graph in it. ModelError when there is none, or a file is no JSON object."""
        folder = path if path.is_dir() else path.parent
        if not (folder / MODEL_FILE).is_file():
            raise ModelError(
                f"{folder} holds no {MODEL_FILE}", "an ONNX model is a folder made by `quantize`"
            )
        config, genai, generation = (
            read_object(folder / name, missing_ok=True)
            for name in ("config.json", GENAI_FILE, "generation_config.json")
        )
        return cls(path=folder, config=config, genai=genai, generation=generation)

    @property
    def model(self) -> Mapping[str, Any]:
        """genai's description of the model."""
        return part(self.genai, "model")

    @property
    def decoder(self) -> Mapping[str, Any]:
        """genai's description of the graph."""
        return part(self.model, "decoder")

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language model's own part of a configuration that describes more."""
        return part(self.config, "text_config") or self.config

    @property
    def shares_buffer(self) -> bool:
        """Whether past and present are one buffer, whose length is the context's."""
        return part(self.genai, "search").get("past_present_share_buffer") is True

    @property
    def n_vocab(self) -> int | None:
        """Tokens that have logits, as the configurations tell."""
        return whole(self.text_config.get("vocab_size"), self.model.get("vocab_size"))

    @property
    def n_ctx_train(self) -> int:
        """The longest text the model was made for; ModelError where nobody tells."""
        asked = self.text_config.get("max_position_embeddings"), self.model.get("context_length")
        told = [n for one in asked if (n := whole(one)) is not None]
        return known(min(told, default=None), f"{self.path} does not tell the model's context length")

    def tokenizer(self) -> JsonTokenizer:
        """The tokenizer that travels with the graph, and every token the configurations end texts with."""
        ends: list[int] = []
        for config in (self.config, self.text_config, self.generation, self.model):
            told = config.get("eos_token_id")
            ends += [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, int)]
        return JsonTokenizer(self.path, ends)

    def facts(self, session: CachedSession) -> dict[str, Any]:
        """What both engines say of a model."""
        kind = self.config.get("model_type") or self.model.get("type") or "?"
        return {
            "model_description": f"{kind} (ONNX)",
            "n_vocab": session.n_vocab,
            "n_ctx_train": session.n_ctx_train,
            "add_bos": session.bos is not None,
            "chat_template": session.chat_prompt("?")[1],
            "layout": "genai" if self.genai else "plain",
            "shared_buffer": self.shares_buffer,
        }


def part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in an object; empty where it is none."""
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def whole(*values: object) -> int | None:
    """The first positive whole number; None where there is none."""
    return next((one for one in values if isinstance(one, int) and one > 0), None)


def known(value: int | None, message: str) -> int:
    """The value; ModelError with the message where there is none."""
    if value is None:
        raise ModelError(message, "export the model again: its configuration travels along")
    return value
