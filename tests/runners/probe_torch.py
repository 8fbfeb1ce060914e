"""What the torch runner says, and what transformers says when asked plainly. Run by the tool's interpreter:

python probe_torch.py CHECKPOINT TINY      prints one JSON object; TINY: a small checkpoint, for all the rest
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Settings
from edgebench.runners.torch_model import QUANTIZED
from edgebench.runners.torch_runner import Torch
from edgebench.runners.torch_text import FixedText, GrowingText, why_not_fixed

TEXT = "The capital of France is 1234, naïve 日本語 \t x\n\n  <|im_start|>user I'll"
QUESTIONS = {
    "Question: What is the capital of France?\nAnswer:": [" Paris", " the city of London", " A", " B or C"],
    "Two and two make": [" four", " five of them, I think", ""],
}
PARTS = ([5, 9, 4, 8, 12, 7, 3], [11], [2], [6, 6, 1, 30, 31, 32], [9], *([token] for token in range(40, 55)))
"""A text of 31 tokens as it comes: longer than the sliding window below."""
N_CTX = 40
STEPS = (4, 16, 1, 1)
"""Tokens of prefills; `n_batch` splits one of them."""


def main() -> None:
    checkpoint, tiny = sys.argv[1:3]
    yardstick = Settings(n_threads=1, n_batch=16, flash_attn="off")
    found = {"yardstick": yardstick_of(checkpoint, yardstick), "levels": {}, "texts": texts(tiny)}
    levels = ["f32", "bf16", "f16", *(level for level in QUANTIZED if runs_here(level))]
    for level in levels:
        found["levels"][level] = level_of(tiny, Settings(n_threads=1, dtype=level))
    found["fixed"], found["growing"] = (session_of(tiny, fixed=fixed) for fixed in (True, False))
    found["refused"] = {
        name: refusal(lambda settings=settings: Torch().load(Path(tiny), settings))
        for name, settings in {
            "dtype": Settings(n_threads=1, dtype="fp8"),
            "provider": Settings(n_threads=1, provider="coreml"),
            "layers": Settings(n_threads=1, n_gpu_layers=99),
        }.items()
    }
    print(json.dumps(found))


def yardstick_of(path: str, settings: Settings) -> dict[str, Any]:
    """The checkpoint as other formats are compared with it, and plain transformers beside it."""
    runner = Torch()
    plain: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with runner.load(Path(path), settings) as session, torch.inference_mode():
        session.open(n_ctx=128)
        group = grouped(session)
        scores = session.loglikelihoods(group, n_cells=0)
        oracle = []
        for context, options in group:
            oracle.append([])
            for option in options:
                whole = torch.tensor([[*context, *option]])
                table = torch.log_softmax(plain(input_ids=whole).logits[0].double(), dim=-1)
                rows = [table[len(context) - 1 + i] for i in range(len(option))]
                oracle[-1].append(
                    {
                        "logprob": sum(float(row[t]) for row, t in zip(rows, option, strict=True)),
                        "is_greedy": all(int(row.argmax()) == t for row, t in zip(rows, option, strict=True)),
                    }
                )
        prompt = group[0][0]
        session.reset()
        session.prefill(prompt)
        said: list[int] = []
        for _ in range(12):
            said.append(session.greedy())
            session.prefill(said[-1:])
        enders = session._enders
        expected = plain.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, suppress_tokens=enders
        )[0][len(prompt) :].tolist()
        tokens = session.tokenize(TEXT)
        table = plain(input_ids=torch.tensor([tokens])).logits[0].numpy()
        first = session.logits(tokens, 5)
        again = session.logits(tokens, 5)
        return {
            "available": runner.available(),
            "version": runner.version(),
            "facts": dict(session.facts),
            "bos": session.bos,
            "scores": as_rows(scores),
            "oracle": oracle,
            "group": group,
            "said": said,
            "expected": expected,
            "enders": enders,
            "tokens": tokens,
            "pieces": [session.piece(token).hex() for token in tokens],
            "shape": list(first.shape),
            "same_bits": bool((first == again).all()),
            "difference": float(np.abs(first - table[5:]).max()),
            "chat": session.chat_prompt("Hi"),
            "refused": refusal(lambda: session.logits([1] * 129, 0)),
        }


def level_of(path: str, settings: Settings) -> dict[str, Any]:
    """What is loaded at a level, and how it scores."""
    with Torch().load(Path(path), settings) as session:
        session.open(n_ctx=128)
        scores = session.loglikelihoods(grouped(session), n_cells=512)
        session.prefill([7, 8, 9])
        return {
            "facts": dict(session.facts),
            "scores": as_rows(scores),
            "said": session.greedy(),
            "kv_cache_bytes": session.kv_cache_bytes,
        }


def runs_here(level: str) -> bool:
    return importlib.util.find_spec(QUANTIZED[level][0]) is not None and level != "torchao-int4"


def session_of(path: str, *, fixed: bool) -> dict[str, Any]:
    """What a session writes after a text in parts, and after a second one that begins anew."""
    with Torch().load(Path(path), Settings(n_threads=1, n_batch=8)) as session:
        session._fixed = fixed
        session.open(n_ctx=N_CTX)
        said = []
        for _ in range(2):
            session.reset()
            tokens = iter(range(100, 200))
            for n in STEPS:
                session.prefill([next(tokens) for _ in range(n)])
            for _ in range(6):
                said.append(session.greedy())
                session.prefill(said[-1:])
        return {
            "said": said,
            "kv_cache_bytes": session.kv_cache_bytes,
            "full": refusal(lambda: session.prefill([1] * 20)),
            "empty": refusal(lambda: (session.reset(), session.greedy())),
        }


def texts(path: str) -> dict[str, Any]:
    """For models with masks of every kind, how far a fixed cache's logits are from a growing one's."""
    torch.manual_seed(0)
    narrow = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=7,  # the sixth sees everything
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=6,
    )
    models: dict[str, Any] = {
        name: AutoModelForCausalLM.from_pretrained(path, attn_implementation=name).eval()
        for name in ("sdpa", "eager")
    }
    models["window"] = Gemma3ForCausalLM(narrow).eval()
    found: dict[str, Any] = {name: apart(model) for name, model in models.items()}
    found["why_not"] = {
        "none": why_not_fixed(models["sdpa"]),
        "raises": why_not_fixed(Broken(models["sdpa"], refuse)),
        "other": why_not_fixed(Broken(models["sdpa"], lambda logits: logits.roll(1, dims=-1))),
    }
    return found


def apart(model: Any) -> dict[str, Any]:
    growing, fixed, replayed = GrowingText(model), FixedText(model, N_CTX), FixedText(model, N_CTX)
    replayed._step = as_recorded(replayed._step)
    for text in (fixed, replayed):
        text.go_on([200] * N_CTX)  # nothing of it may be seen by the next text
        text.clear()
    largest, spread = 0.0, 0.0
    for part in PARTS:
        usual, *others = (text.go_on(part).numpy().copy() for text in (growing, fixed, replayed))
        largest = max(largest, *(float(np.abs(usual - other).max()) for other in others))
        spread = max(spread, float(np.ptp(usual)))
    return {"largest": largest, "spread": spread, "n_bytes": [growing.n_bytes, fixed.n_bytes]}


def as_recorded(step: Callable[[], Any]) -> Callable[[], Any]:
    """As a graph does it: each replay overwrites the logits of the first time."""
    with torch.inference_mode():
        first = step()
    return lambda: first.copy_(step())


class Broken:
    """A model that does something to the logits when its cache is fixed."""

    def __init__(self, model: Any, harm: Callable[[Any], Any]) -> None:
        self.device = model.device
        self._model, self._harm = model, harm

    def __call__(self, **inputs: Any) -> Any:
        found = self._model(**inputs)
        if inputs["past_key_values"].is_compileable:
            found.logits = self._harm(found.logits)
        return found


def refuse(_logits: Any) -> Any:
    raise NotImplementedError("no such kernel\nand a long story")


def grouped(session: Any) -> list[tuple[list[int], list[list[int]]]]:
    return [
        (session.tokenize(context), [session.tokenize(option) for option in options])
        for context, options in QUESTIONS.items()
    ]


def as_rows(scores: Sequence[Sequence[Any]]) -> list[list[dict[str, Any]]]:
    return [[{"logprob": s.logprob, "is_greedy": s.is_greedy} for s in row] for row in scores]


def refusal(call: Callable[[], object]) -> dict[str, Any]:
    """What a call is refused with."""
    try:
        call()
    except EdgebenchError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    return {}


if __name__ == "__main__":
    main()
