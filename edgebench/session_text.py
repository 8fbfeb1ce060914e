"""Scoring with an engine that takes texts only: each question is a request, and the server tokenizes."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from edgebench.core.engine import TextSession
from edgebench.core.hashing import sha256_json


def score_texts(session: TextSession, job: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Score the job's `wanted` groups, one result a group, as `session_accuracy.score_groups` does.

    No question shares anything with another; the count of its tokens is the server's, None where it does
    not tell.
    """
    n_gen, chat = int(job.get("n_gen", 0)), bool(job.get("chat"))
    for index in job["wanted"]:
        group = job["groups"][index]
        start = time.perf_counter_ns()
        found = [_answer(session, prompt, n_gen, job.get("stop", ()), chat) for prompt in group]
        asked = [[prompt["context"], prompt["continuations"]] for prompt in group]
        yield {
            "group": index,
            "group_s": (time.perf_counter_ns() - start) * 1e-9,
            "group_sha256": sha256_json(["texts", n_gen, chat, asked]),
            "answers": [
                {
                    "question_id": prompt["id"],
                    "rotation": prompt["rotation"],
                    "n_shots": prompt["n_shots"],
                    "n_cut": 0,
                    **answer,
                }
                for prompt, answer in zip(group, found, strict=True)
            ],
        }


def _answer(
    session: TextSession, prompt: Mapping[str, Any], n_gen: int, stops: list[str], chat: bool
) -> dict[str, Any]:
    if not n_gen:
        scores, n_prompt = session.score_text(prompt["context"], prompt["continuations"], chat=chat)
        return {"logprobs": [score.logprob for score in scores], "n_prompt": n_prompt}
    text, usage = session.write_text(prompt["context"], n_gen=n_gen, stop=stops, chat=chat)
    cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    return {"text": text[:cut], "n_gen": usage.n_gen, "n_prompt": usage.n_prompt}
