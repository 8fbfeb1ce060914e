"""Accuracy: the groups a run lacks, scored in a fresh process, graded and stored group by group."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.core.errors import InvalidRun
from edgebench.core.types import Status
from edgebench.results.store import Store
from edgebench.session_cell import Cell, Outcome, Watcher, close, engine_of, recorded, start, store_readings
from edgebench.session_plan import Plan
from edgebench.suites.scoring import grade


def measure_accuracy(
    cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher, outcome: Outcome
) -> None:
    """Every group the runs lack, run by run."""
    todo = []
    for cell in cells:
        if missing := _missing_groups(cell, store):
            todo.append((cell, missing))
        else:
            close(cell, store)
    if not todo:
        return
    n_steps = sum(len(cell.job.groups[i]) for cell, missing in todo for i in missing)
    watcher.stage(f"scoring {n_steps} answers", n_steps)
    for cell, missing in todo:
        with recorded(cell, store, watcher, outcome, set()):
            _score(cell, missing, plan, store, watcher)
            close(cell, store)


def _missing_groups(cell: Cell, store: Store) -> list[int]:
    """Groups asked for and not stored; a group is stored whole or not at all."""
    answered = store.answered(cell.run_id)
    asked = cell.job.groups[: cell.job.n_groups]
    return [i for i, group in enumerate(asked) if any(q.id not in answered for q in group)]


def _score(cell: Cell, missing: Sequence[int], plan: Plan, store: Store, watcher: Watcher) -> None:
    store.set_status(cell.run_id, Status.RUNNING)
    job = {
        "kind": "accuracy",
        **engine_of(cell, plan),
        "groups": [
            [{"id": p.question_id, "context": p.context, "continuations": p.continuations} for p in group]
            for group in cell.job.prompts()
        ],
        "wanted": list(missing),
        "shape": cell.job.shape.value,
        "n_cells": cell.job.config["n_cells"],
    }
    with start(job, plan, watcher) as child:
        for message in child.messages():
            if message["type"] == "loaded":
                store.set_engine(cell.run_id, message["facts"])
                at_s = time.time() - cell.started_unix_s
                store.add_readings(cell.run_id, "load", "s", [(at_s, message["load_s"])])
                continue
            store.add_answers(cell.run_id, _graded(message, cell))
            at_s = time.time() - cell.started_unix_s
            store.add_readings(cell.run_id, "scoring_group", "s", [(at_s, message["group_s"])])
            store_readings(child, cell, store)
            watcher.step(f"{cell.artifact.quant.name} {cell.job.title}", len(message["answers"]))


def _graded(message: Mapping[str, Any], cell: Cell) -> list[dict[str, Any]]:
    questions = {q.id: q for q in cell.job.groups[message["group"]]}
    rows = []
    for answer in message["answers"]:
        question = questions[answer["question_id"]]
        try:
            graded = grade(question, answer["logprobs"], letters=cell.job.config["scorer"] == "letter")
        except ValueError as error:
            raise InvalidRun(str(error), "the weights are damaged, or the engine overflowed") from error
        rows.append(
            {
                "question_id": question.id,
                "choice_index": graded.choice_index,
                "choice_norm_index": graded.choice_norm_index,
                "correct": int(graded.correct),
                "correct_norm": int(graded.correct_norm),
                "logprobs_json": json.dumps(answer["logprobs"]),
                "n_prompt": answer["n_prompt"],
                "group_sha256": message["group_sha256"],
            }
        )
    return rows
