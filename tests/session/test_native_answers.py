"""Answers that a phone's program gave: groups whole or not at all, each once, graded here."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgebench.core.types import Permutation, Scorer, Status
from edgebench.session_cell import Cell, Outcome
from edgebench.session_native_jobs import NativeJob, accuracy_job
from edgebench.session_native_work import Work
from edgebench.session_score import missing_groups

Lines = list[dict[str, Any]]
BEGIN_S = 5000.0
LOADED = {"type": "loaded", "load_s": 0.5, "start_s": BEGIN_S, "end_s": BEGIN_S + 0.5}
LOADED |= {"baseline_rss_bytes": 9, "facts": {}}


class Asked:
    """A run's questions, all sent as one job, and answered by the key."""

    def __init__(self, bare: Any, laid: Any, as_lines: Any, **asked: Any) -> None:
        self.bare, self.as_lines = bare, as_lines
        self.plan = bare.plan(mode="accuracy", suites=("everyday",), limit=16, **asked)
        (self.cell,) = bare.cells(self.plan)
        self.groups = missing_groups(self.cell, bare.store)
        told = [laid(self.cell, group) for group in self.groups]
        self.job: NativeJob = accuracy_job(self.cell, told, model_there="m.gguf", whole=True)

    def lines(self, groups: Sequence[int] | None = None, at_s: float = 1.0) -> Lines:
        """What the program says of groups: the options it likes, then that the group is done."""
        found: Lines = [LOADED]
        for number, group in enumerate(self.groups if groups is None else groups):
            for item, logprobs in enumerate(self.logprobs(group)):
                found.append({"type": "answer", "group": group, "item": item, "logprobs": logprobs})
            found.append(
                {"type": "group", "group": group, "start_s": BEGIN_S + at_s + number, "group_s": 0.5}
            )
        return found

    def logprobs(self, group: int) -> list[list[float]]:
        """Of each question in each rotation, by the place an option stands at: the key is likeliest."""
        cell = self.cell
        return [
            [
                -1.0 if (j + rotation) % len(q.choices) == q.answer_index else -9.0
                for j in range(len(q.choices))
            ]
            for q in cell.job.groups[group]
            for rotation in range(cell.job.n_rotations(q))
        ]

    def collect(self, lines: Lines, rc: str = "0") -> Outcome:
        outcome: Outcome = self.bare.collect(self.job, {"out.jsonl": self.as_lines(lines), "rc": rc})
        return outcome

    def stored(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.bare.store.rows("SELECT * FROM answer ORDER BY question_id, repeat")
        return rows

    def n_answers(self, groups: Sequence[int]) -> int:
        return sum(self.cell.job.n_answers(self.cell.job.groups[i]) for i in groups)

    def close(self) -> Status:
        Work(self.plan, [self.cell]).close(self.bare.store, self.bare.ear, Outcome(), set())
        status: Status = self.bare.store.run(self.cell.run_id).status
        return status


@pytest.fixture
def ask(bare: Any, laid: Any, as_lines: Any) -> Callable[..., Asked]:
    """`ask(scorer=…)`: an accuracy run of at least two groups."""

    def make(**asked: Any) -> Asked:
        found = Asked(bare, laid, as_lines, **({"scorer": Scorer.LETTER} | asked))
        assert len(found.groups) >= 2
        return found

    return make


@pytest.mark.parametrize("asked", [{}, {"scorer": Scorer.CLOZE}, {"permutation": Permutation.CYCLIC}])
def test_answers_are_graded_and_stored_once(ask: Callable[..., Asked], asked: dict[str, Any]) -> None:
    run = ask(**asked)
    for _ in range(2):
        assert run.collect(run.lines()).failures == []
        assert len(run.stored()) == run.n_answers(run.groups)
    assert {row["correct"] for row in run.stored()} == {1}
    assert {row["n_prompt"] for row in run.stored()} == {5}
    keys = {q.id: q.answer_index for group in run.cell.job.groups for q in group}
    for row in run.stored():
        assert row["choice_index"] == keys[row["question_id"]]
        logprobs = json.loads(row["logprobs_json"])  # as the suite stores the options, not as they were shown
        assert logprobs.index(-1.0) == keys[row["question_id"]]
    windows = run.bare.store.windows(run.cell.run_id)
    assert [(w["kind"], w["energy_j"], w["energy_reason"]) for w in windows] == [
        ("answers", None, "unreadable")
    ]
    assert run.close() is Status.COMPLETE


def test_a_group_that_was_not_finished_is_not_stored(ask: Callable[..., Asked]) -> None:
    run = ask()
    whole = run.lines(run.groups[:1])
    half = run.lines(run.groups[1:2])[:-2]  # an answer and the group's end are not there
    outcome = run.collect(whole + half[1:], rc="137")
    assert "out of memory" in outcome.failures[0]
    assert len(run.stored()) == run.n_answers(run.groups[:1])
    assert run.bare.store.run(run.cell.run_id).status is Status.FAILED
    assert missing_groups(run.cell, run.bare.store) == run.groups[1:]
    assert run.close() is Status.FAILED  # there is more to ask
    run.collect(run.lines(run.groups[1:], at_s=60.0))
    assert len(run.stored()) == run.n_answers(run.groups)
    assert run.close() is Status.COMPLETE
    questions = {row["question_id"] for row in run.stored()}
    asked = [w["n_questions"] for w in run.bare.store.windows(run.cell.run_id)]
    assert sum(asked) == len(questions)


def test_a_group_that_is_told_twice_counts_once(ask: Callable[..., Asked]) -> None:
    run = ask()
    run.collect(run.lines([run.groups[0], run.groups[0], run.groups[1]]))
    assert len(run.stored()) == run.n_answers(run.groups[:2])
    (window,) = run.bare.store.windows(run.cell.run_id)
    assert window["n_questions"] == len({row["question_id"] for row in run.stored()})


def test_a_group_that_nobody_asked_for_is_passed_over(ask: Callable[..., Asked]) -> None:
    run = ask()
    stray = {"type": "group", "group": 10_000, "start_s": BEGIN_S, "group_s": 1.0}
    assert run.collect([LOADED, stray]).failures == []
    assert run.stored() == []


@pytest.mark.parametrize(
    "how",
    [
        lambda lines: lines.pop(1),
        lambda lines: lines[1]["logprobs"].pop(),
        lambda lines: lines[1]["logprobs"].append(-1.0),
        lambda lines: lines[1].update(logprobs=[]),
    ],
    ids=["no answer", "one option less", "one more", "none"],
)
def test_an_answer_that_is_not_whole_fails_the_run(
    ask: Callable[..., Asked], how: Callable[[Lines], object]
) -> None:
    run = ask()
    lines = run.lines()
    how(lines)
    (failure,) = run.collect(lines).failures
    first = run.cell.job.groups[run.groups[0]][0]
    assert f"question {first.id}: the device answered" in failure
    assert f"of {len(first.choices)} options" in failure
    assert run.stored() == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "-1", None, True])
def test_a_log_likelihood_that_is_no_number_fails_the_run(ask: Callable[..., Asked], value: object) -> None:
    run = ask()
    lines = run.lines()
    lines[-2]["logprobs"][0] = value
    (failure,) = run.collect(lines).failures
    assert "answers nonsense: in a line of type answer, logprobs" in failure
    assert run.bare.store.run(run.cell.run_id).status is Status.FAILED


def test_no_text_of_a_question_reaches_the_database(ask: Callable[..., Asked]) -> None:
    run = ask()
    run.collect(run.lines())
    run.bare.store.close()
    content = run.bare.store.path.read_bytes()
    cell: Cell = run.cell
    assert cell.job.groups[0][0].id.encode() in content
    assert not any(q.text.encode() in content for group in cell.job.groups for q in group)
