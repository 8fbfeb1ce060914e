"""What a device without edgebench is given to do, and what is remembered of it meanwhile."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgebench.core.errors import DeviceError, UsageError
from edgebench.core.types import Permutation, Scorer
from edgebench.session_cell import Cell, Outcome
from edgebench.session_native import batch_job
from edgebench.session_native_batch import batch_name
from edgebench.session_native_jobs import (
    NativeJob,
    accuracy_job,
    as_plan,
    check_native,
    check_scorers,
    from_plan,
    idle_job,
    is_speed,
    speed_job,
)
from edgebench.session_native_store import mean_speed
from edgebench.session_native_work import Terms, Work
from edgebench.session_plan import Request

CYCLIC = {"scorer": Scorer.LETTER, "permutation": Permutation.CYCLIC}
THERE = "/data/local/tmp/edgebench/models/x/a b.gguf"
Laid = Callable[..., dict[str, Any]]


# What native programs don't do


@pytest.mark.parametrize(
    ("asked", "flag"),
    [
        ({"provider": "cuda"}, "--provider"),
        ({"dtype": "f32"}, "--dtype"),
        ({"gpu": "0"}, "--main-gpu"),
        ({"server": "http://127.0.0.1:1"}, "--server"),
        ({"n_gpu_layers": 99}, "-ngl"),
        ({"n_gpu_layers": -1}, "-ngl"),
        ({"target_ci": 0.02}, "--target-ci"),
        ({"cold_load": True}, "--cold-load"),
        ({"marker": True}, "--marker"),
        ({"tdp_w": 5.0}, "--tdp"),
        ({"meter": "rapl:package"}, "--energy rapl:package"),
        ({"cpu_mask": "f0"}, "-C without -t"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_what_they_don_t_do_is_named_by_its_flag(asked: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_native(Request(**asked))
    assert caught.value.message == f"{flag}: not on a device that runs native programs"


def test_a_mask_without_threads_is_told_to_name_both() -> None:
    with pytest.raises(UsageError) as caught:
        check_native(Request(cpu_mask="f0"))
    assert caught.value.hint == "name both: -t 4 -C 0xf0"


def test_several_flags_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="--provider, -ngl, --cold-load: not on a device"):
        check_native(Request(provider="cuda", n_gpu_layers=1, cold_load=True))


def test_what_they_do_is_let_pass() -> None:
    check_native(Request())
    check_native(Request(rigorous=True, sustained_s=60, noise_floor=True, num_fewshot=5))


@pytest.mark.parametrize("mask", ["f0", "0xf0", "0XF0", "F", "1" * 32])
def test_a_mask_of_processors_is_hexadecimal(mask: str) -> None:
    check_native(Request(cpu_mask=mask, n_threads=4))


@pytest.mark.parametrize(
    "mask", ["", "0x", "4-7", "f0; reboot", "$(id)", "-1", " f0", "f0\n", "0", "0x0", "1" * 33]
)
def test_a_mask_that_is_none_never_gets_there(mask: str) -> None:
    with pytest.raises(UsageError, match="--cpu-mask"):
        check_native(Request(cpu_mask=mask, n_threads=4))


def test_answers_in_words_need_the_whole_of_edgebench(bare: Any) -> None:
    with pytest.raises(UsageError, match="--scorer generate"):
        check_native(Request(scorer=Scorer.GENERATE))
    check_native(Request(scorer=Scorer.GENERATE, mode="performance"))  # it asks nothing
    plan = bare.plan(mode="accuracy", suites=("everyday",))
    check_scorers(plan)
    writing = replace(plan, jobs=(replace(plan.jobs[0], scorer=Scorer.GENERATE),))
    with pytest.raises(UsageError, match="--scorer generate"):
        Work.of(writing, bare.store, bare.ear, Outcome())  # a suite may ask so of itself


# Jobs


def ops(job: NativeJob, *names: str) -> list[list[str]]:
    """The job file's lines of these ops, in words."""
    lines = [line.split(" ") for line in job.text.splitlines()]
    return [words for words in lines if words[0] in names]


def speed(cell: Cell, missing: Sequence[tuple[int, list[int]]], round_index: int = 0) -> NativeJob:
    return speed_job(cell, round_index, missing, model_there=THERE, chat={}, minimum_s=2.0)


def test_a_visit_asks_for_the_repetitions_that_are_missing(bare: Any) -> None:
    cell = bare.speed_cell()
    job = speed(cell, [(0, [0, 1, 2]), (1, [2])])
    assert job.text.splitlines()[:2] == ["edgebench-job 1", f"model {THERE.encode().hex()}"]
    assert ops(job, "test") == [
        ["test", "pp8", "8", "0", "0", "0", "0", "3", "2.000"],
        ["test", "tg4", "0", "4", "0", "0", "2", "1", "2.000"],
    ]
    assert is_speed(job)
    assert (job.groups, job.idle_kind) == ({}, "")


def test_each_round_draws_its_own_tokens_and_has_its_own_name(bare: Any) -> None:
    cell = bare.speed_cell(rounds=2, seed=7)
    first, second = (speed(cell, [(0, [0, 1, 2])], round_index) for round_index in (0, 1))
    assert [ops(job, "test")[0][5] for job in (first, second)] == ["7", "8"]
    assert len({first.name, second.name, speed(cell, [(0, [1, 2])]).name}) == 3
    assert speed(cell, [(0, [0, 1, 2])]).name == first.name
    assert batch_name([first, second]) == batch_name([speed(cell, [(0, [0, 1, 2])]), second])
    assert batch_name([first]) != batch_name([first, second])


def test_minutes_of_writing_are_one_op(bare: Any) -> None:
    _, cell = bare.cells(bare.plan(sustained_s=600))
    job = speed(cell, [(0, [0])])
    assert ops(job, "test", "sustained") == [["sustained", "sustained600", "4", "600", "0"]]


def test_a_chat_goes_there_as_text_in_the_models_template(bare: Any) -> None:
    cell = bare.speed_cell(n_prompt=(0,), n_gen=(0,), n_chat=16)
    job = speed_job(cell, 0, [(0, [0, 1])], model_there=THERE, chat={"text": "<u>Hi</u>"}, minimum_s=0.0)
    assert ops(job, "chat") == [["chat", "chat16", "16", "0", "2", "0.000", b"<u>Hi</u>".hex()]]


def test_a_job_is_told_its_processors_as_taskset_wants_them(bare: Any) -> None:
    masked = batch_job(speed(bare.speed_cell(cpu_mask="0XF0"), [(0, [0])]))
    assert masked.cpu_mask == "f0"
    assert batch_job(speed(bare.speed_cell(), [(0, [0])])).cpu_mask is None


def test_a_baseline_has_no_job_file(bare: Any) -> None:
    job = idle_job(bare.speed_cell(), 1, "idle_before", 30)
    there = batch_job(job)
    assert (there.text, there.idle_s) == (None, 30)
    assert job.name.startswith("idle-before-q4_0-r1-")


def test_rigorous_visits_have_a_baseline_on_each_side_and_levels_take_turns(bare: Any) -> None:
    plan = bare.plan(rigorous=True, n_gen=(0,))
    work = Work(plan, [cell for level in ("q8_0", "q4_0") for cell in bare.cells(plan, level)])
    jobs = list(work.jobs(Terms(model_path=lambda _: THERE), bare.store, bare.ear, None, set()))  # type: ignore[arg-type]
    assert [job.idle_kind for job in jobs[:4]] == ["idle_before", "", "idle_after", "idle_before"]
    visits = [job.cell.artifact.quant.name for job in jobs if not job.idle_kind]
    assert visits == ["q8_0", "q4_0"] * 5 + ["q8_0"]  # anchored: the first between all others
    assert len({job.name for job in jobs}) == len(jobs)


def test_what_is_stored_is_not_asked_for_again(bare: Any) -> None:
    plan = bare.plan(n_gen=(0,))
    cell = bare.cells(plan)[0]
    trial = {"test": "pp8", "phase": "measured", "n_prompt": 8, "n_gen": 0, "started_s": 0.0, "total_s": 1.0}
    for repetition in (0, 1):
        bare.store.add_trial(cell.run_id, {**trial, "repetition": repetition})
    work = Work(plan, [cell])
    (job,) = work.jobs(Terms(model_path=lambda _: THERE), bare.store, bare.ear, None, set())  # type: ignore[arg-type]
    assert ops(job, "test")[0][6:8] == ["2", "1"]
    bare.store.add_trial(cell.run_id, {**trial, "repetition": 2})
    assert list(work.jobs(Terms(model_path=lambda _: THERE), bare.store, bare.ear, None, set())) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("whole", [True, False])
def test_questions_go_there_as_tokens_in_their_groups(bare: Any, laid: Laid, *, whole: bool) -> None:
    cell = bare.accuracy_cell()
    groups = [laid(cell, 0), laid(cell, 1, n_ctx=512), laid(cell, 2)]
    job = accuracy_job(cell, groups, model_there=THERE, whole=whole)
    assert ops(job, "group") == [["group", "0"], ["group", "1"], ["group", "2"]]
    assert ops(job, "context") == [["context", "256", "40"], ["context", "512", "40"]]  # it only grows
    assert bool(ops(job, "tree")) is whole
    assert bool(ops(job, "plain")) is not whole
    assert list(job.groups) == [0, 1, 2]
    assert not is_speed(job)


# What is remembered


def no_text_of(cell: Cell, told: str) -> None:
    """Nothing of the questions stands there."""
    for group in cell.job.groups:
        for question in group:
            assert question.text not in told
            assert question.text.encode().hex() not in told
            assert not any(len(choice) > 5 and choice in told for choice in question.choices)


@pytest.mark.parametrize("asked", [{"scorer": Scorer.LETTER}, {"scorer": Scorer.CLOZE}, CYCLIC])
def test_a_job_comes_back_as_it_was_and_no_question_stands_in_it(
    bare: Any, laid: Laid, asked: dict[str, Any]
) -> None:
    cell = bare.accuracy_cell(**asked)
    job = accuracy_job(cell, [laid(cell, 1), laid(cell, 0)], model_there=THERE, whole=True)
    told = json.dumps(as_plan(job))
    no_text_of(cell, told)
    no_text_of(cell, job.text)
    assert len(told) > 1000
    back = from_plan(json.loads(told), [*bare.cells(bare.plan()), cell])
    assert back is not None
    assert (back.name, back.cell, back.groups) == (job.name, job.cell, job.groups)
    assert as_plan(back) == as_plan(job)


def test_a_baseline_comes_back_too(bare: Any) -> None:
    cell = bare.speed_cell()
    job = idle_job(cell, 3, "idle_after", 30)
    back = from_plan(json.loads(json.dumps(as_plan(job))), [cell])
    assert back is not None
    assert (back.name, back.idle_kind, back.round_index) == (job.name, "idle_after", 3)


def test_a_job_of_another_plan_or_file_is_not_taken_for_one_of_these(bare: Any) -> None:
    cell = bare.speed_cell()
    told = as_plan(speed(cell, [(0, [0])]))
    assert from_plan(told, [bare.speed_cell(repetitions=4)]) is None
    assert from_plan(told, bare.cells(bare.plan(), "q8_0")) is None
    assert from_plan(told, []) is None
    assert from_plan(told, [cell]) is not None


def changed(told: Mapping[str, Any], how: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(told))
    how(copy)
    return copy


@pytest.mark.parametrize(
    "how",
    [
        lambda told: told.pop("name"),
        lambda told: told.pop("groups"),
        lambda told: told.update(round_index="first"),
        lambda told: told.update(groups=[3]),
        lambda told: told["groups"][0].update(group=10_000),
        lambda told: told["groups"][0].update(group="0"),
        lambda told: told["groups"][0].pop("answers"),
        lambda told: told["groups"][0]["answers"].pop(),
        lambda told: told["groups"][0]["answers"].reverse(),
        lambda told: told["groups"][0]["answers"][0].update(question_id="none"),
        lambda told: told["groups"][0]["answers"][0].update(n_prompt=[1]),
        lambda told: told["groups"][0]["answers"][0].pop("n_cut"),
    ],
)
def test_what_was_changed_on_the_way_is_refused(
    bare: Any, laid: Laid, how: Callable[[dict[str, Any]], object]
) -> None:
    cell = bare.accuracy_cell()
    told = as_plan(accuracy_job(cell, [laid(cell, 0)], model_there=THERE, whole=True))
    assert from_plan(told, [cell]) is not None
    with pytest.raises(DeviceError, match="not as it was written"):
        from_plan(changed(told, how), [cell])


def test_speed_is_the_middle_of_some_repetitions() -> None:
    told = [{"n_gen": 10, "decode_s": s} for s in (1.0, 2.0, 5.0, None)]
    assert mean_speed(told) == 5.0
    assert mean_speed([{"n_gen": 10, "decode_s": None}]) is None
