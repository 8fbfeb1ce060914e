"""What the onnx runner says, and what its graph says of a whole text. Run by the tool's interpreter:

python probe_onnx.py FOLDER CHECKPOINT      prints one JSON object
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.core.errors import ModelError
from edgebench.core.types import Settings
from edgebench.runners.onnx import Onnx

TEXT = "The capital of France is 1234, naïve 日本語 \t x\n\n  <|im_start|>user I'll"
QUESTIONS = {
    "Question: which is the capital city of France?\nAnswer:": [" Paris", " the city of London", " B or C"],
    "Question: which is the capital city of Italy?\nAnswer:": [" Rome", " five of them, I think"],
}


def main() -> None:
    from transformers import AutoTokenizer

    folder, checkpoint = Path(sys.argv[1]), sys.argv[2]
    runner, found = Onnx(), {}
    with runner.load(folder, Settings(n_threads=1, n_ubatch=16)) as session:
        session.open(n_ctx=128)
        group = [
            (session.tokenize(context), [session.tokenize(option) for option in options])
            for context, options in QUESTIONS.items()
        ]
        found["grouped"] = scores(session, group, 512)
        found["alone"] = scores(session, group, 0)
        found["oracle"] = [[oracle(session, c, o) for o in options] for c, options in group]
        tokens = session.tokenize(TEXT)
        found["tokens"] = tokens
        whole = session.logits(tokens, 0)
        part = session.logits(tokens, 5)
        session.reset()
        session.prefill(tokens[:7])
        session.prefill(tokens[7:])
        found["split_difference"] = float(np.abs(session._last - whole[-1]).max())
        found["greedy_ends"] = session.greedy() in session._enders
        found["part_is_equal"] = bool((part == whole[5:]).all())
        found["repeat_is_equal"] = bool((session.logits(tokens, 0) == whole).all())
        found["text"] = b"".join(session.piece(token) for token in tokens).decode()
        found["chat"] = session.chat_prompt("Hello?")
        hf: Any = AutoTokenizer.from_pretrained(checkpoint)
        found["hf_tokens"] = hf(TEXT).input_ids
        turns = [{"role": "user", "content": "Hello?"}]
        found["hf_chat"] = hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        session.open(n_ctx=8)
        try:
            session.prefill(tokens)
        except ModelError as error:
            found["overflow"] = error.message
        found |= {"facts": dict(session.facts), "bos": session.bos, "version": runner.version()}
        np.save(folder / "logits.npy", whole)
    print(json.dumps({**found, "available": runner.available()}))


def scores(session: Any, group: Any, n_cells: int) -> list[list[Any]]:
    return [[[s.logprob, s.is_greedy] for s in row] for row in session.loglikelihoods(group, n_cells=n_cells)]


def oracle(session: Any, context: list[int], option: list[int]) -> list[Any]:
    rows = session.logits([*context, *option], len(context) - 1)[:-1].astype(np.float64)
    table = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    picked = [float(row[token]) for row, token in zip(table, option, strict=True)]
    return [sum(picked), [int(row.argmax()) for row in rows] == option]


if __name__ == "__main__":
    main()
