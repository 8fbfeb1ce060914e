"""lm-eval and edgebench on the same questions and the same logits, in one process of lm-eval's environment.

    python ask_both.py JOB.json OUT.json

JOB: `script` (the adapter's file) and `cases`, each with `tasks`, `rows` and `shots` (subject -> questions),
`prompt` (a template), `scorer`, `num_fewshot`, `chat`, `n_ctx_train`. Both programs run here because two
versions of numpy may round an exponential differently.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.core.types import Mode, PromptTemplate, Question, Scorer, Suite
from edgebench.session_accuracy import score_groups
from edgebench.session_job import Job
from edgebench.suites.fewshot import Shots
from edgebench.suites.groups import ordered_groups


def module(path: str | Path) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def questions(rows: dict[str, list[Any]]) -> list[Question]:
    return [
        Question(
            id=row["id"],
            text=row["question"],
            choices=tuple(row["choices"]),
            answer_index=row["answer"],
            subject=subject,
        )
        for subject, found in rows.items()
        for row in found
    ]


def edgebench(session: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Every question as `edgebench run` asks it: groups, a shared beginning, many to a batch."""
    scorer = Scorer(told["scorer"])
    suite = Suite(
        name="invented",
        version="1",
        title="",
        sha256="",
        questions=tuple(questions(told["rows"])),
        default_scorer=scorer,
        prompts={scorer: PromptTemplate(**told["prompt"])},
        license="",
        citation="",
        source="",
    )
    n_shots = told["num_fewshot"]
    groups = tuple(ordered_groups(suite, by_subject=n_shots > 0))
    job = Job(
        mode=Mode.ACCURACY,
        config={"n_cells": 512, "apply_chat_template": told["chat"], "truncate": True},
        suite=suite,
        scorer=scorer,
        shots=Shots(suite, questions(told["shots"]), n_shots) if n_shots else None,
        groups=groups,
        n_groups=len(groups),
    )
    prompts = {prompt.question_id: prompt for group in groups for prompt in job.prompts(group)}
    found = {}
    for result in score_groups(session, {**job.as_work(), "wanted": list(range(len(groups)))}):
        for answer in result["answers"]:
            prompt = prompts[answer["question_id"]]
            context = session.chat_prompt(prompt.context)[0] if told["chat"] else prompt.context
            found[prompt.question_id] = {
                "context": context,
                "continuations": prompt.continuations,
                **{name: answer[name] for name in ("logprobs", "n_shots", "n_cut")},
            }
    return found


def exact(session: Any, context: str, continuation: str) -> float:
    """A log-likelihood in double precision, straight from the logits."""
    stripped = context.rstrip()
    context_ids = session.tokenize(stripped)
    own = session.tokenize(context + continuation)[len(context_ids) :]
    table = session.logits([*context_ids, *own[:-1]], len(context_ids) - 1).astype(np.float64)
    return float(sum(row[t] - np.log(np.exp(row).sum()) for row, t in zip(table, own, strict=True)))


def both(script: Any, told: dict[str, Any]) -> dict[str, Any]:
    session = module(Path(__file__).with_name("fake_engine.py")).FakeSession(n_ctx_train=told["n_ctx_train"])
    theirs = script.evaluate(script.SessionLM(session), told)
    first = next(iter(theirs["questions"].values()))
    asked = zip(first["contexts"], first["continuations"], strict=True)
    return {
        "theirs": theirs,
        "ours": edgebench(session, told),
        "first": first["logprobs"],
        "first_exact": [exact(session, *pair) for pair in asked],
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    script = module(job["script"])
    found = [both(script, told) for told in job["cases"]]
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
