"""Tiny models of random weights, one of each family, as checkpoints; run by a tool environment's Python.

    python tiny_models.py FAMILY FOLDER [FOLDER_WITH_A_BYTE_LEVEL_TOKENIZER]

FOLDER/checkpoint is the model, FOLDER/ids.json some random tokens, FOLDER/logprobs.npy what torch says
of each next token after every one of them.
"""

import io
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GemmaTokenizerFast, LlamaTokenizerFast

N_IDS = 96
"""More than the sliding windows below."""
BYTE_LEVEL_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)

_SHAPE = {"intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}
_SHAPE |= {"max_position_embeddings": 512, "dtype": "float32"}
_WIDE = {**_SHAPE, "hidden_size": 256, "intermediate_size": 512}
_BYTE_LEVEL = {**_SHAPE, "hidden_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_GEMMA = {**_WIDE, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_BYTE_LEVEL, "num_hidden_layers": 3, "rope_theta": 100000.0, "tie_word_embeddings": True},
    "qwen2": {**_BYTE_LEVEL, "num_hidden_layers": 3, "rope_theta": 1000000.0, "tie_word_embeddings": False},
    "qwen3": {**_BYTE_LEVEL, "num_hidden_layers": 3, "head_dim": 32, "tie_word_embeddings": True},
    "granite": {
        **_BYTE_LEVEL,
        "num_hidden_layers": 3,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0442,
        "residual_multiplier": 0.22,
        "logits_scaling": 0.5,
        "tie_word_embeddings": True,
    },
    "phi3": {
        **_WIDE,
        "num_hidden_layers": 3,
        "original_max_position_embeddings": 512,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    },
    "gemma2": {
        **_GEMMA,
        "num_hidden_layers": 4,
        "head_dim": 96,
        "query_pre_attn_scalar": 96,
        "sliding_window": 24,
        "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 15.0,
        "attn_implementation": "eager",
    },
    "gemma3_text": {
        **_GEMMA,
        "num_hidden_layers": 7,  # the sixth sees everything
        "head_dim": 96,
        "query_pre_attn_scalar": 96,
        "sliding_window": 24,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
    },
}


def invented_text(seed: int = 3) -> list[str]:
    """Sentences of no language, always the same."""
    rng = random.Random(seed)
    syllables = [c + v for c in ("b", "d", "k", "l", "m", "n", "r", "s", "t", "sh", "é") for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=rng.randint(4, 12))) + rng.choice(".!?") for _ in range(500)]


def sentencepiece_file(path: Path, **special: Any) -> None:
    """Train a small sentencepiece model on the invented text."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(invented_text()),
        model_writer=model,
        model_type="bpe",
        vocab_size=512,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=special["unk_id"] == 0,
        **special,
    )
    path.write_bytes(model.getvalue())


def write_tokenizer(family: str, folder: Path, byte_level: Path | None) -> int:
    """A tokenizer the converter takes for this family; the size of its vocabulary."""
    if family.startswith("gemma"):
        pieces = {f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos")}
        ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
        sentencepiece_file(folder / "tokenizer.model", **ids, **pieces)
        own = GemmaTokenizerFast(vocab_file=str(folder / "tokenizer.model"))
        own.save_pretrained(folder)
        return len(own)
    if family == "phi3":
        sentencepiece_file(folder / "tokenizer.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
        own = LlamaTokenizerFast(vocab_file=str(folder / "tokenizer.model"), legacy=False)
        own.save_pretrained(folder)
        return len(own)
    assert byte_level is not None
    for name in BYTE_LEVEL_FILES:
        shutil.copyfile(byte_level / name, folder / name)
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


def randomize(model: Any, *, norms_at: float) -> None:
    """Weights that let something through: matrices keep a vector's length, and no norm or bias is idle."""
    generator = torch.Generator().manual_seed(11)
    for name, weights in model.named_parameters():
        noise = torch.randn(weights.shape, generator=generator)
        if "norm" in name:
            weights.data = norms_at + 0.3 * noise.clamp(-2, 2)
        elif weights.dim() == 1:
            weights.data = 0.5 * noise
        else:
            weights.data = noise * weights.shape[-1] ** -0.5 * (1.0 if "embed" in name else 1.4)
    model.tie_weights()


def main(family: str, folder: Path, byte_level: Path | None) -> None:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    n_vocab = write_tokenizer(family, checkpoint, byte_level)
    config = AutoConfig.for_model(family, vocab_size=n_vocab, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model, norms_at=-0.4 if family.startswith("gemma") else 1.0)
    model.save_pretrained(checkpoint)
    ids = random.Random(5).choices(range(4, n_vocab), k=N_IDS)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    np.save(folder / "logprobs.npy", torch.log_softmax(logits.double(), -1).numpy())
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
