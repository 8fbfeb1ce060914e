"""Accuracy: the groups a run lacks, scored in a fresh process, graded and stored group by group."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.core.errors import InvalidRun
from edgebench.core.sequential import narrow_enough, share_sequence
from edgebench.core.types import Question, Scorer, Status
from edgebench.results.store import Store
from edgebench.session_cell import Cell, Outcome, Watcher, close, engine_of, recorded, start
from edgebench.session_plan import Plan
from edgebench.session_recorder import Clock, Recorder
from edgebench.session_submission import write_submission
from edgebench.session_visit import Sensors, flush_readings
from edgebench.suites.extraction import extract
from edgebench.suites.scoring import Graded, grade, in_stored_order, is_right

LOOK_EVERY = 8
"""Groups between two looks at an interval: within them, those of one subject stand together."""


def measure_accuracy(
    cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher, outcome: Outcome, sensors: Sensors
) -> None:
    """Every group the runs lack, run by run."""
    todo = []
    for cell in cells:
        if missing := missing_groups(cell, store):
            todo.append((cell, missing))
        else:
            finish(cell, store, watcher)
    if not todo:
        return
    n_answers = sum(cell.job.n_answers(cell.job.groups[i]) for cell, missing in todo for i in missing)
    n_units = sum(_n_units(cell, i) for cell, missing in todo for i in missing)
    watcher.stage(f"asking for {n_answers} answers", n_answers, n_units)
    for cell, missing in todo:
        with recorded(cell, store, watcher, outcome, set()):
            _score(cell, missing, plan, store, watcher, sensors)
            finish(cell, store, watcher)


def finish(cell: Cell, store: Store, watcher: Watcher) -> None:
    """Close a run whose answers are all there."""
    close(cell, store)
    suite = cell.job.suite
    if suite is not None and suite.asks_for_submission:
        path = write_submission(store, store.run(cell.run_id), store.path.parent / "submissions")
        watcher.say(f"answers to hand in: {path}")


def missing_groups(cell: Cell, store: Store) -> list[int]:
    """Groups asked for and not stored; a group is stored whole or not at all."""
    answered = store.answered(cell.run_id)
    asked = cell.job.groups[: cell.job.n_groups]
    return [i for i, group in enumerate(asked) if any(q.id not in answered for q in group)]


def _n_units(cell: Cell, index: int) -> int:
    """How much work a group is, for the time left: characters, worked examples left out."""
    group = cell.job.groups[index]
    return sum(
        cell.job.n_rotations(q) * (50 + len(q.text) + len(q.passage) + sum(map(len, q.choices)))
        for q in group
    )


def _score(
    cell: Cell, missing: Sequence[int], plan: Plan, store: Store, watcher: Watcher, sensors: Sensors
) -> None:
    store.set_status(cell.run_id, Status.RUNNING)
    store.set_meters(cell.run_id, sensors.metering.facts())
    target = plan.request.target_ci
    enough = _interval_watch(cell, store, target) if target is not None else None
    if enough is not None and enough([]):
        return
    job = {
        "kind": "accuracy",
        **engine_of(cell, plan),
        **cell.job.as_work(),
        "wanted": in_order(cell, missing, LOOK_EVERY if target is not None else len(missing)),
    }
    clock = Clock.of_run(cell.started_unix_s)
    flushed: dict[str, int] = {}
    with Recorder(sensors.metering.meters, sensors.state) as recorder, start(job, plan, watcher) as child:
        recorder.follow(child.pid)
        asked = Asked()
        try:
            for message in child.messages():
                now_s = recorder.look()
                at_s = clock.run_s(now_s)
                recorder.follow(child.engine_pid)
                if message["type"] == "loaded":
                    asked.start_s = now_s
                    store.set_engine(cell.run_id, message["facts"])
                    store.set_baseline(cell.run_id, message["baseline_rss_bytes"])
                    store.add_readings(cell.run_id, "load", "s", [(at_s, message["load_s"])])
                    continue
                rows = graded_rows(message, cell)
                store.add_answers(cell.run_id, rows)
                asked.count(rows, now_s)
                store.add_readings(cell.run_id, "scoring_group", "s", [(at_s, message["group_s"])])
                flush_readings(recorder, sensors.metering, clock, cell.run_id, store, flushed)
                note = f"{cell.artifact.quant.name} {cell.job.title}"
                watcher.step(note, len(rows), _n_units(cell, message["group"]))
                if enough is not None and enough(rows):
                    watcher.say(f"{note}: the interval is ± {target:g} or narrower, whenever it is looked at")
                    return
        finally:
            _store_window(asked, cell, store, recorder, clock, sensors)


@dataclass(slots=True)
class Asked:
    """What one process answered, and when: the window of its energy."""

    start_s: float = 0.0
    end_s: float = 0.0
    n_questions: int = 0
    n_prompt: int = 0
    n_gen: int = 0

    def count(self, rows: Sequence[Mapping[str, Any]], now_s: float) -> None:
        """Take note of a group's answers."""
        self.end_s = now_s
        self.n_questions += len({row["question_id"] for row in rows})
        self.n_prompt += sum(row["n_prompt"] or 0 for row in rows)
        self.n_gen += sum(row.get("n_gen") or 0 for row in rows)


def _store_window(
    asked: Asked, cell: Cell, store: Store, recorder: Recorder, clock: Clock, sensors: Sensors
) -> None:
    """The energy of everything that was answered, also when it was cut short."""
    if not asked.n_questions:
        return
    columns = {
        "kind": "answers",
        "test": "*",
        "n_requests": asked.n_questions,
        "n_questions": asked.n_questions,
        "n_prompt": asked.n_prompt,
        "n_gen": asked.n_gen,
        "busy_s": asked.end_s - asked.start_s,
    }
    rows = sensors.metering.windows(recorder, clock, asked.start_s, asked.end_s, columns)
    store.add_windows(cell.run_id, rows)


def in_order(cell: Cell, missing: Sequence[int], n_block: int) -> list[int]:
    """Groups that begin alike one after the other, within blocks of `n_block` of the stratified order."""
    order: list[int] = []
    for begin in range(0, len(missing), n_block):
        block = missing[begin : begin + n_block]
        order += sorted(block, key=lambda i: (cell.job.deck(cell.job.groups[i]), i))
    return order


def _interval_watch(cell: Cell, store: Store, target: float) -> Callable[[Sequence[Mapping[str, Any]]], bool]:
    """Whether the accuracy's interval is within `target` on each side; told of every group as it comes.

    It looks after whole blocks only, each of which is a stratified sample.
    """
    sql = "SELECT count(correct) AS n, total(correct) AS n_hits FROM answer WHERE run_id = ?"
    stored = store.rows(sql, (cell.run_id,))[0]
    n, n_hits, n_groups = int(stored["n"]), int(stored["n_hits"]), 0

    def enough(rows: Sequence[Mapping[str, Any]]) -> bool:
        nonlocal n, n_hits, n_groups
        graded = [row["correct"] for row in rows if row["correct"] is not None]
        n, n_hits, n_groups = n + len(graded), n_hits + sum(graded), n_groups + bool(rows)
        if n_groups % LOOK_EVERY:
            return False
        return narrow_enough(share_sequence(n_hits, n), target)

    return enough


def graded_rows(message: Mapping[str, Any], cell: Cell) -> list[dict[str, Any]]:
    """A group's answers as rows of the database; InvalidRun for figures that are none."""
    questions = {q.id: q for q in cell.job.groups[message["group"]]}
    rows = []
    for answer in message["answers"]:
        question, rotation = questions[answer["question_id"]], answer["rotation"]
        told: dict[str, Any]
        if cell.job.scorer is Scorer.GENERATE:
            graded, told = _read(question, answer)
        else:
            graded, told = _preferred(question, answer, letters=cell.job.scorer is Scorer.LETTER)
        rows.append(
            {
                "question_id": question.id,
                "repeat": rotation,
                "choice_index": graded.choice_index,
                "choice_norm_index": graded.choice_norm_index,
                "choice_bytes_index": graded.choice_bytes_index,
                "correct": _flag(graded.correct),
                "correct_norm": _flag(graded.correct_norm),
                "correct_bytes": _flag(graded.correct_bytes),
                "n_prompt": answer["n_prompt"],
                "n_cut": answer["n_cut"],
                "n_shots": answer["n_shots"],
                "group_sha256": message["group_sha256"],
                **told,
            }
        )
    return rows


def _preferred(
    question: Question, answer: Mapping[str, Any], *, letters: bool
) -> tuple[Graded, dict[str, Any]]:
    rotation = answer["rotation"]
    try:
        graded = grade(question, answer["logprobs"], letters=letters, rotation=rotation)
    except ValueError as error:
        raise InvalidRun(str(error), "the weights are damaged, or the engine overflowed") from error
    return graded, {"logprobs_json": json.dumps(in_stored_order(answer["logprobs"], rotation))}


def _read(question: Question, answer: Mapping[str, Any]) -> tuple[Graded, dict[str, Any]]:
    found = extract(answer["text"], question, rotation=answer["rotation"])
    graded = Graded(choice_index=found.choice_index, correct=is_right(question, found.choice_index))
    return graded, {
        "output_text": answer["text"],
        "extraction_rule": found.rule,
        "n_gen": answer["n_gen"],
    }


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)
