"""How onnx and torch share and batch, on a real model. Run by the tool's interpreter:

python probe_groups.py onnx|onnx_genai|torch FOLDER      prints one JSON object
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.core.types import Score, Settings
from edgebench.runners import cached_session

DESCRIPTION = "The following are multiple choice questions (with answers) about anatomy.\n\n"
SHOTS = "".join(f"Which number comes after {i}?\nA. {i}\nB. {i + 1}\nAnswer: B\n\n" for i in range(4))
TOPICS = ("the heart", "a nerve", "the left kidney", "bone", "an artery of the arm", "skin", "the liver")
OPTIONS = ("blood and air", "blood and bile", "bile", "none of the other three answers")
N_CELLS = 512


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    with load(kind, folder) as session:
        encode = session.tokenize
        shared = encode(DESCRIPTION + SHOTS)[:-1]
        groups = {
            "letter": [item(encode, lettered(topic), " A| B| C| D") for topic in TOPICS],
            "rotated": [
                item(encode, lettered(topic, r), " A| B| C| D") for topic in TOPICS[:2] for r in range(4)
            ],
            "cloze": [item(encode, plain(topic), "".join(f"| {o}" for o in OPTIONS)[1:]) for topic in TOPICS],
        }
        found: dict[str, Any] = {"difference": {}, "n_rows": {}, "kept_is_fresh": {}}
        for name, group in groups.items():
            passes = watched(session)
            scores = session.loglikelihoods(group, n_cells=N_CELLS, shared=shared)
            found["n_rows"][name] = max(rows for rows, _ in passes)
            assert all(rows * width <= N_CELLS for rows, width in passes)
            found["difference"][name] = apart(scores, session.loglikelihoods(group, n_cells=0))
        # The same after other groups, other beginnings and other calls as in a session that did nothing.
        for name, group in groups.items():
            for before, begin in (("cloze", shared), ("rotated", shared[:20]), ("letter", shared)):
                session.loglikelihoods(groups[before], n_cells=N_CELLS, shared=begin)
            session.generate([c for c, _ in group], n_gen=3, n_cells=N_CELLS, shared=shared)
            kept = session.loglikelihoods(group, n_cells=N_CELLS, shared=shared)
            session.logits(shared, 0)
            after = session.loglikelihoods(group, n_cells=N_CELLS, shared=shared)
            with load(kind, folder) as other:
                fresh = other.loglikelihoods(group, n_cells=N_CELLS, shared=shared)
            found["kept_is_fresh"][name] = kept == fresh == after
        contexts = [context for context, _ in groups["letter"]]
        made = session.generate(contexts, n_gen=6, n_cells=N_CELLS, shared=shared)
        found["generate_is_argmax"] = all(
            agrees(session.logits([*context, *text], len(context) - 1)[:-1], text)
            for context, text in zip(contexts, made, strict=True)
        )
        found["n_written"] = [len(text) for text in made]
        session._enders = [made[0][2]]
        found["ended_by_token"] = session.generate(contexts[:1], n_gen=6, n_cells=0) == [cut(made[0])]
        session._enders = []
        stop = made[1][:2]
        stopped = session.generate(
            contexts[1:2], n_gen=6, n_cells=N_CELLS, shared=shared, ended=lambda text: list(text) == stop
        )
        found["ended_by_caller"] = stopped == [stop]
        cached_session.MAX_WIDENED_BYTES = 3 * session._n_bytes(session._begun(shared).cache)
        passes = watched(session)
        scores = session.loglikelihoods(groups["letter"], n_cells=N_CELLS, shared=shared)
        found["n_rows"]["held_down"] = max(rows for rows, _ in passes)
    print(json.dumps(found))


def load(kind: str, folder: Path) -> Any:
    if kind == "onnx":
        from edgebench.runners.onnx import Onnx

        session: Any = Onnx().load(folder, Settings(n_threads=1))
    elif kind == "onnx_genai":
        from edgebench.runners.onnx_genai import OnnxGenai

        session = OnnxGenai().load(folder, Settings(n_threads=1))
    else:
        from edgebench.runners.torch_runner import Torch

        session = Torch().load(folder, Settings(n_threads=1))
    session.open(n_ctx=768, n_seq_max=8)
    return session


def lettered(topic: str, rotation: int = 0) -> str:
    listed = [OPTIONS[(j + rotation) % 4] for j in range(4)]
    rows = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", listed, strict=True))
    return f"{DESCRIPTION}{SHOTS}What is found in {topic} of a healthy adult?\n{rows}Answer:"


def plain(topic: str) -> str:
    return f"{DESCRIPTION}{SHOTS}Question: What is found in {topic}?\nAnswer:"


def item(encode: Any, context: str, options: str) -> tuple[list[int], list[list[int]]]:
    return encode(context), [encode(option) for option in options.split("|")]


def watched(session: Any) -> list[tuple[int, int]]:
    """(rows, width) of each pass from now on."""
    passes: list[tuple[int, int]] = []
    inner = type(session)._pass

    def counted(rows: Any, state: Any, start: int) -> Any:
        passes.append(rows.shape)
        return inner(session, rows, state, start)

    session._pass = counted
    return passes


def apart(a: list[list[Score]], b: list[list[Score]]) -> float:
    ours, theirs = ([score.logprob for row in rows for score in row] for rows in (a, b))
    assert len(set(ours)) > len(a), "options differ"
    return float(np.abs(np.subtract(ours, theirs)).max())  # NaN if any is


def agrees(rows: Any, text: list[int]) -> bool:
    """Whether each token is the likeliest one, or as likely as that to within rounding."""
    picked = rows[np.arange(len(text)), text]
    return bool((rows.max(axis=1) - picked < 1e-3).all())


def cut(text: list[int]) -> list[int]:
    return text[: text.index(text[2])]


if __name__ == "__main__":
    main()
