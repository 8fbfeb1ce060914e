"""Tokenizers: a nasty set of texts, a checkpoint's own ids for them, and one rebuilt from a GGUF's metadata.

transformers' own way from GGUF to a tokenizer is not used: for byte-level BPE it gives a tokenizer of
another kind, which begins every text with a token that does not belong there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError

Progress = Callable[[float], None]

NASTY_TEXTS = (
    "The capital of France is 1234",
    "",
    " ",
    "  two before, two after  ",
    "a" + " " * 7 + "b" + " " * 33 + "c",
    "\tone\t\ttwo\t\t\tthree \t four",
    "line\n\nline\n\n\n\nline\r\nline \n \n end\n",
    "Crème brûlée, naïve façade, Ærø, Łódź, İstanbul, ß and ẞ",
    "cafe\u0301 and re\u0301sume\u0301, a\u0323\u0302\u0301 and z\u0351\u032b\u0343\u036a\u0302",
    "漢字とかなカナ、한국어와 中文混排。１２３ ｱｲｳ",
    "مرحبا بالعالم ١٢٣ — שלום עולם \u200fRTL\u200e and back",
    "नमस्ते दुनिया, สวัสดีชาวโลก, Здравствуй, мир, Γειά σου",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇫🇷🇯🇵 😶‍🌫️ ✅❤️",
    "3.14159 1,000,000 0x1F 007 2024-02-29 12:34:56 1e-9 ½ ² ₃ Ⅷ",
    "I'm you're he'll we've they'd it's DON'T can't O'Neil 'tis rock'n'roll I’m",
    "ALLCAPS camelCase snake_case kebab-case SCREAMING_CASE x1y2z3",
    "def f(x):\n    return {k: v ** 2 for k, v in x.items() if v != 0}  # odd\n\tassert f'{x!r}'\n",
    '<div class="a">&nbsp;&lt;3</div><!-- c --> {"key": [1, 2.5, null]} \\n \\u00e9 C:\\dir\\',
    "?!... --- *** ### === ~~~ $$$ %% @@ ^^ && || ;; :: \"\"'' `` ((())) [[]] {{}}",
    "zero\u200bwidth \u00a0nbsp\u00a0 \u2003em\u2003 \u3000ideographic\u3000 \ufeffbom soft\u00adhyphen",
    "\x01\x02\x7f control, \ufffd replacement, \U0001f9ff\U00020000\U0010fffd odd planes",
    "<s>not special?</s> <|im_start|>user\nhi<|im_end|>\n<|endoftext|> <bos><eos><pad><unk> <unused7>",
    "before <|im_start|> between <|im_end|>after <start_of_turn>model\nok<end_of_turn>",
    "▁underline ĠG Ċ <0x0A> <0xE2> token lookalikes",
    "mg/dL µg 5 °C ±0.5 ≥ 3 × 10⁹/L β-blocker, α₁-antitrypsin, H₂O, CO₂, Na⁺",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahahahahahahaha",
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
)
"""What tokenizers disagree about. Invented for this purpose."""


def tokenize(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """`{checkpoint, texts}` -> `{ids}`: each text's ids by the checkpoint's own tokenizer.

    The tokens it adds by default are added, and special tokens in a text are recognised.
    """
    from transformers import AutoTokenizer

    folder = job["checkpoint"]
    try:
        own = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust underneath raises nothing narrower
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"the tokenizer of {folder} can't be opened: {reason[0]}") from error
    ids = [own(text)["input_ids"] for text in job["texts"]]
    progress(1.0)
    return {"ids": ids}


# From a GGUF -------------------------------------------------------------------------------------

_CONTROL, _USER_DEFINED = 3, 4
"""GGUF's token types; the other four are sentencepiece's own numbers."""

KNOWN_TOKENIZERS = "gpt2 with pre-tokenizer smollm, llama (sentencepiece) of Gemma"


def rebuild(fields: Mapping[str, Any], folder: Path, *, n_ctx: int) -> None:
    """Write a tokenizer into `folder` from a GGUF's metadata; ModelError when that can't be done right."""
    kind = fields.get("tokenizer.ggml.model")
    pre = fields.get("tokenizer.ggml.pre", "default")
    gemma = str(fields.get("general.architecture")).startswith("gemma")
    if kind == "gpt2" and pre == "smollm":
        tokenizer = _byte_level(fields, n_ctx)
    elif kind == "llama" and pre == "default" and gemma and not fields.get("tokenizer.ggml.add_space_prefix"):
        tokenizer = _gemma(fields, folder, n_ctx)
    else:
        raise ModelError(
            f"the tokenizer {kind!r} with pre-tokenizer {pre!r} can't be rebuilt from a GGUF",
            f"give the original checkpoint; known are: {KNOWN_TOKENIZERS}",
        )
    tokenizer.chat_template = fields.get("tokenizer.chat_template")
    tokenizer.save_pretrained(folder)


def _special(fields: Mapping[str, Any]) -> dict[str, str]:
    """transformers' names of the special tokens the file names."""
    tokens = fields["tokenizer.ggml.tokens"]
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {ours: fields.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in named.items()}
    return {f"{ours}_token": tokens[i] for ours, i in ids.items() if i is not None}


def _byte_level(fields: Mapping[str, Any], n_ctx: int) -> Any:
    """Byte-level BPE whose digits stand alone: what llama.cpp calls `smollm`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2TokenizerFast

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL
        ]
    )
    if fields.get("tokenizer.ggml.add_bos_token"):
        raise ModelError("a smollm tokenizer that begins every text with a token is not known")
    return GPT2TokenizerFast(
        tokenizer_object=inner,
        **_special(fields),
        clean_up_tokenization_spaces=False,
        model_max_length=n_ctx,
    )


def _gemma(fields: Mapping[str, Any], folder: Path, n_ctx: int) -> Any:
    """Sentencepiece's BPE: its own file first, which the converter needs, then transformers' form of it."""
    from sentencepiece import sentencepiece_model_pb2 as pb
    from transformers import GemmaTokenizerFast

    proto = pb.ModelProto()
    kinds = fields["tokenizer.ggml.token_type"]
    for token, score, kind in zip(
        fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"], kinds, strict=True
    ):
        # The converter gave every added piece the score -1000; as parts of words they come first, not last.
        first = kind == _USER_DEFINED
        proto.pieces.add(piece=token.replace(" ", "▁"), score=0.0 if first else score, type=kind)
    special = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("unknown", "bos", "eos")}
    trainer = proto.trainer_spec
    trainer.model_type = pb.TrainerSpec.BPE
    trainer.byte_fallback = True
    trainer.vocab_size = len(proto.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id = special.values()
    trainer.pad_id = fields.get("tokenizer.ggml.padding_token_id", -1)
    for name in ("unk", "bos", "eos", "pad"):
        if (i := getattr(trainer, f"{name}_id")) >= 0:
            setattr(trainer, f"{name}_piece", proto.pieces[i].piece)
    proto.pieces[trainer.unk_id].type = pb.ModelProto.SentencePiece.UNKNOWN
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString(deterministic=True))
    return GemmaTokenizerFast(
        vocab_file=str(folder / "tokenizer.model"),
        **_special(fields),
        add_bos_token=bool(fields.get("tokenizer.ggml.add_bos_token")),
        add_eos_token=bool(fields.get("tokenizer.ggml.add_eos_token")),
        clean_up_tokenization_spaces=False,
        model_max_length=n_ctx,
    )
