"""A checkpoint's own tokenizer, for the engines that have none: ids, bytes, chat template, ends of a text."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError

ENDERS = frozenset(
    {
        *("</s>", "<eos>", "<EOT>", "_<EOT>", "[EOS]", "[EOT]", "<|endoftext|>", "<|end_of_text|>"),
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>"),
        *("<|flush|>", "<end_of_turn>", "<turn|>", "<|tool_response>", "<end_of_utterance>"),
        *("<｜end▁of▁sentence｜>", "[e~[", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
        *("<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
    }
)
"""Names of tokens that end a text for llama.cpp: every engine must leave out the same ones."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HfTokenizer:
    """What `transformers` makes of a folder's tokenizer files; no code of the folder is ever run."""

    def __init__(self, folder: Path, more_enders: Sequence[int] = ()) -> None:
        from transformers import AutoTokenizer

        try:
            self._hf: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"{folder} has no tokenizer that can be read: {told[0]}") from error
        vocabulary: dict[str, int] = self._hf.get_vocab()
        added = self._hf.added_tokens_decoder
        self._control = {i for i, token in added.items() if token.special} | set(self._hf.all_special_ids)
        self._literal: dict[int, str] = {i: token.content for i, token in added.items() if not token.special}
        own = self._hf.eos_token_id
        ends = {i for token, i in vocabulary.items() if token in ENDERS}
        self.enders: tuple[int, ...] = tuple(sorted({*ends, *more_enders, *([] if own is None else [own])}))
        """Tokens that end a text."""
        backend = getattr(self._hf, "backend_tokenizer", None)
        self._bytes = byte_alphabet() if backend is not None and "ByteLevel" in str(backend.decoder) else None
        begin = self._hf("a").input_ids[:1]
        self.bos: int | None = begin[0] if begin == [self._hf.bos_token_id] else None
        """The token a text begins with by default, or None."""

    def encode(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""
        ids: list[int] = self._hf(text, verbose=False).input_ids
        return ids

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the chat template; the BOS that `encode` adds is not written twice."""
        if not self._hf.chat_template:
            return text, False
        turns = [{"role": "user", "content": text}]
        made: str = self._hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return (made if self.bos is None else made.removeprefix(self._hf.bos_token)), True

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens and places that the vocabulary leaves empty have none."""
        if token in self._control:
            return b""
        if token in self._literal:
            return self._literal[token].encode()
        name: str | None = self._hf.convert_ids_to_tokens(token)
        if name is None:
            return b""
        return piece_bytes(name, self._bytes)


def piece_bytes(name: str, alphabet: Mapping[str, int] | None) -> bytes:
    """What a vocabulary's name of a token writes: by the byte-level alphabet, or as sentencepiece does."""
    if alphabet is not None:
        return bytes(alphabet[sign] for sign in name if sign in alphabet)
    if match := _BYTE.fullmatch(name):
        return bytes([int(match[1], 16)])
    return name.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def byte_alphabet() -> dict[str, int]:
    """The signs byte-level BPE writes bytes as: printable ones as themselves, the others from 256 up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
