"""What the torch runner says, and what transformers says when asked plainly. Run by the tool's interpreter:

python probe_torch.py CHECKPOINT      prints one JSON object
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.core.errors import ModelError
from edgebench.core.types import Settings
from edgebench.runners.torch_runner import Torch

TEXT = "The capital of France is 1234, naïve 日本語 \t x\n\n  <|im_start|>user I'll"
QUESTIONS = {
    "Question: What is the capital of France?\nAnswer:": [" Paris", " the city of London", " A", " B or C"],
    "Two and two make": [" four", " five of them, I think", ""],
}


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = sys.argv[1]
    runner = Torch()
    plain: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with runner.load(Path(path), Settings(n_threads=1, n_batch=16)) as session, torch.inference_mode():
        session.open(n_ctx=128)
        group = [
            (session.tokenize(context), [session.tokenize(option) for option in options])
            for context, options in QUESTIONS.items()
        ]
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
        try:
            session.logits([1] * 129, 0)
            refused = ""
        except ModelError as error:
            refused = error.message
        print(
            json.dumps(
                {
                    "available": runner.available(),
                    "version": runner.version(),
                    "facts": dict(session.facts),
                    "bos": session.bos,
                    "scores": [
                        [{"logprob": s.logprob, "is_greedy": s.is_greedy} for s in row] for row in scores
                    ],
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
                    "refused": refused,
                }
            )
        )


if __name__ == "__main__":
    main()
