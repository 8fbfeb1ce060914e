"""Texts for the native ONNX program, and the in-process engine's scores. Run by the tool's interpreter:

python probe_native_onnx.py FOLDER      prints one JSON object
"""

import json
import sys
from pathlib import Path

from edgebench.core.types import Settings
from edgebench.runners.onnx import Onnx

TOPICS = ("the heart", "a nerve", "the left kidney", "bone", "an artery of the arm", "skin", "the liver")
OPTIONS = (" blood and air", " blood and bile", " bile", " none of the other three answers")
N_UBATCH = 16
"""Less than a text has tokens: they are evaluated in pieces."""


def main() -> None:
    folder = Path(sys.argv[1])
    with Onnx().load(folder, Settings(n_threads=1, n_ubatch=N_UBATCH)) as session:
        encode = session.tokenize
        items = []
        for topic in TOPICS:
            question = f"Question: what flows through {topic} of a man, and where from?\nAnswer:"
            items.append((encode(question), [encode(option) for option in OPTIONS]))  # several tokens each
            items.append((encode(question), [encode(f" {letter}")[:1] for letter in "ABCD"]))  # one each
        session.open(n_ctx=128)
        scores = session.loglikelihoods(items, n_cells=0)
        enders = [token for token in session._tokenizer.enders if token < session.n_vocab]
    print(
        json.dumps(
            {
                "items": items,
                "logprobs": [[score.logprob for score in row] for row in scores],
                "enders": enders,
            }
        )
    )


if __name__ == "__main__":
    main()
