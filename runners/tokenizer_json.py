"""A model folder's `tokenizer.json` and chat template, with `tokenizers` and `jinja2` alone.

`transformers` would do the same and bring torch along: a measuring process should hold the engine and
little else, so that its memory is the model's.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from edgebench.core.errors import ModelError
from edgebench.core.json_file import read_object
from edgebench.runners.hf_tokenizer import ENDERS, byte_alphabet, piece_bytes


class JsonTokenizer:
    """Text to ids and back; no code of the folder is run but its template, in jinja2's sandbox."""

    def __init__(self, folder: Path, more_enders: Sequence[int] = ()) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json", "export the model again: it travels along")
        try:
            self._own: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust underneath raises nothing narrower
            raise ModelError(f"{path} can't be read: {str(error).splitlines()[0]}") from error
        self._own.no_truncation()
        self._own.no_padding()
        self._config = read_object(folder / "tokenizer_config.json", missing_ok=True)
        self._template = _template(folder, self._config)
        added = self._own.get_added_tokens_decoder()
        self._control = {i for i, token in added.items() if token.special}
        self._literal = {i: token.content for i, token in added.items() if not token.special}
        ends = {i for name in ENDERS if (i := self._own.token_to_id(name)) is not None}
        eos = self._own.token_to_id(self._special("eos_token"))
        self.enders: tuple[int, ...] = tuple(sorted({*ends, *more_enders, *([] if eos is None else [eos])}))
        """Tokens that end a text."""
        decoder = json.loads(path.read_text(encoding="utf-8")).get("decoder")
        self._bytes = byte_alphabet() if "ByteLevel" in json.dumps(decoder) else None
        begin, plain = self.encode("a"), self._own.encode("a", add_special_tokens=False).ids
        self.bos: int | None = begin[0] if begin[: len(plain)] != plain else None
        """The token a text begins with by default, or None."""

    def encode(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""
        ids: list[int] = self._own.encode(text).ids
        return ids

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the chat template; the BOS that `encode` adds is not written twice."""
        if self._template is None:
            return text, False
        from jinja2 import TemplateError

        turns = [{"role": "user", "content": text}]
        tokens = {name: self._special(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        try:
            made = (
                _environment()
                .from_string(self._template)
                .render(messages=turns, add_generation_prompt=True, **tokens)
            )
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise ModelError(f"the model's chat template can't be used: {error}") from error
        return (made if self.bos is None else made.removeprefix(tokens["bos_token"])), True

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens and places that the vocabulary leaves empty have none."""
        if token in self._control:
            return b""
        if token in self._literal:
            return str(self._literal[token]).encode()
        name: str | None = self._own.id_to_token(token)
        if name is None:
            return b""
        return piece_bytes(name, self._bytes)

    def _special(self, name: str) -> str:
        """A special token's text; "" where the tokenizer has none."""
        value = self._config.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        return value if isinstance(value, str) else ""


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    named = read_object(folder / "chat_template.json", missing_ok=True).get("chat_template") or config.get(
        "chat_template"
    )
    if isinstance(named, list):  # several, each with a name
        named = next((one.get("template") for one in named if one.get("name") == "default"), None)
    return named if isinstance(named, str) else None


def _environment() -> Any:
    """What chat templates are written for: transformers' own settings and helpers."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    return environment
