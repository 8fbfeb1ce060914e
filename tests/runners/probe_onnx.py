"""What the ONNX runners say, and what a graph says of a whole text. Run by the tool's interpreter:

python probe_onnx.py CHECKPOINT FOLDER RUNNER:LEVEL…      prints one JSON object, told by RUNNER:LEVEL
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.core.errors import ModelError
from edgebench.core.types import Settings
from edgebench.runners.onnx import Onnx
from edgebench.runners.onnx_genai import OnnxGenai
from edgebench.runners.torch_runner import Torch

TEXT = "The capital of France is 1234, naïve 日本語 \t x\n\n  <|im_start|>user I'll"
QUESTIONS = {
    "Question: which is the capital city of France?\nAnswer:": [" Paris", " the city of London", " B or C"],
    "Question: which is the capital city of Italy?\nAnswer:": [" Rome", " five of them, I think"],
}


def main() -> None:
    from transformers import AutoTokenizer

    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    checkpoint, folder, *cases = sys.argv[1:]
    hf: Any = AutoTokenizer.from_pretrained(checkpoint)
    turns = [{"role": "user", "content": "Hello?"}]
    found: dict[str, Any] = {case: probed(case, Path(folder)) for case in cases}
    found["hf_tokens"] = hf(TEXT).input_ids
    found["hf_chat"] = hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    with Torch().load(Path(checkpoint), Settings(n_threads=1, flash_attn="off")) as reference:
        reference.open(n_ctx=128)
        found["torch"] = scores(reference, questions(reference), 512)
    found["telemetry"] = sorted(p.name for p in Path(os.environ["XDG_CACHE_HOME"]).rglob("*onnxruntime*"))
    print(json.dumps(found))


def probed(case: str, folder: Path) -> dict[str, Any]:
    """One runner on one level."""
    kind, level = case.split(":")
    found: dict[str, Any] = {}
    runner: Any = {"onnx": Onnx, "onnx_genai": OnnxGenai}[kind]()
    with runner.load(folder / level, Settings(n_threads=1, n_ubatch=16)) as session:
        session.open(n_ctx=128)
        group = questions(session)
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
        found["kv_cache_bytes"] = session.kv_cache_bytes
        found["split_difference"] = float(np.abs(last_logits(session) - whole[-1]).max())
        found["greedy_ends"] = session.greedy() in session._enders
        found["part_is_equal"] = bool((part == whole[5:]).all())
        found["repeat_is_equal"] = bool((session.logits(tokens, 0) == whole).all())
        found["text"] = b"".join(session.piece(token) for token in tokens).decode()
        found["chat"] = session.chat_prompt("Hello?")
        session.open(n_ctx=8)
        try:
            session.prefill(tokens)
        except ModelError as error:
            found["overflow"] = error.message
        found |= {"facts": dict(session.facts), "bos": session.bos, "version": runner.version()}
        np.save(folder / f"{kind}-{level}.npy", whole)
    found["available"] = runner.available()
    found["more_threads"] = n_os_threads(runner, folder / level, 3) - n_os_threads(runner, folder / level, 1)
    return found


def questions(session: Any) -> list[Any]:
    """Each context's tokens, and its options'."""
    return [(session.tokenize(c), [session.tokenize(option) for option in o]) for c, o in QUESTIONS.items()]


def last_logits(session: Any) -> Any:
    """Of the last token; one engine leaves them in its library."""
    return session._generator.get_logits()[0, -1] if session._last is None else session._last


def n_os_threads(runner: Any, folder: Path, n: int) -> int:
    """What an open model adds to this process."""
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    with runner.load(folder, Settings(n_threads=n)):
        return len(list(tasks.iterdir())) - before


def scores(session: Any, group: Any, n_cells: int) -> list[list[Any]]:
    return [[[s.logprob, s.is_greedy] for s in row] for row in session.loglikelihoods(group, n_cells=n_cells)]


def oracle(session: Any, context: list[int], option: list[int]) -> list[Any]:
    rows = session.logits([*context, *option], len(context) - 1)[:-1].astype(np.float64)
    table = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    picked = [float(row[token]) for row, token in zip(table, option, strict=True)]
    return [sum(picked), [int(row.argmax()) for row in rows] == option]


if __name__ == "__main__":
    main()
