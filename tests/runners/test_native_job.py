"""Job files and what native programs answer: lines that may come from anywhere, and the real program's."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.core.engine import Item
from edgebench.core.errors import DeviceError
from edgebench.core.types import Settings, Workload
from edgebench.runners.llama_cpp import LlamaCpp, LlamaSession
from edgebench.runners.native_build import NATIVE, Built
from edgebench.runners.native_job import FORMAT, SEEDS, JobFile, explain_exit, read_lines
from edgebench.suites.loader import load_suite

Lines = list[dict[str, Any]]
Do = Callable[..., tuple[int, Lines]]
# One thread: llama.cpp's threads wait for each other by spinning, which takes minutes on shared cores.
SETTINGS = Settings(n_threads=1, n_batch=256, n_ubatch=256, flash_attn="on", type_k="f16", type_v="f16")
N_QUESTIONS, N_TOGETHER, N_CELLS = 100, 20, 512
"""Cells for about ten questions: a group takes several batches."""
TRIAL = {
    "type": "trial",
    "test": "pp8",
    "phase": "measured",
    "repetition": 0,
    **dict.fromkeys(("n_prompt", "n_gen", "n_depth", "n_ctx"), 8),
    **dict.fromkeys(("start_s", "end_s", "total_s", "canary_before_s", "canary_after_s"), 1.5),
    **dict.fromkeys(("prefill_s", "decode_s", "ttft_s", "engine_s", "n_major_faults", "swap_bytes")),
    **dict.fromkeys(("kv_cache_bytes", "peak_rss_bytes", "rss_anon_bytes", "rss_file_bytes")),
    "token_times_s": [0.5, 1],
}


def file_of(model: str = "/m/a b.gguf", **settings: Any) -> JobFile:
    return JobFile(model, Settings(n_threads=3, **settings))


# What is asked.


def test_a_job_file_begins_with_its_format_model_and_settings() -> None:
    text = file_of(mmap=False, type_k="q8_0", flash_attn="auto").text()
    lines = text.splitlines()
    assert text.endswith("\n")
    assert lines[0] == FORMAT
    assert bytes.fromhex(lines[1].removeprefix("model ")).decode() == "/m/a b.gguf"
    assert lines[2] == ("settings threads 3 batch 2048 ubatch 512 flash auto type_k q8_0 type_v f16 mmap 0")


def test_speed_is_asked_in_one_line_a_test() -> None:
    file = file_of()
    file.test(Workload(n_prompt=512, n_gen=128, n_depth=64), seed=7, first=1, n_rep=4, min_s=0.25)
    file.chat(Workload(chat=True, n_gen=32), text="Grüße\n", first=0, n_rep=2, min_s=2)
    file.chat(Workload(chat=True, n_gen=1), text="", first=0, n_rep=1, min_s=0)
    file.sustained(Workload(n_gen=64, sustained_s=600), seed=3)
    assert file.text().splitlines()[3:] == [
        "test pp512+tg128@d64 512 128 64 7 1 4 0.250",
        f"chat chat32 32 0 2 2.000 {'Grüße'.encode().hex()}0a",
        "chat chat1 1 0 1 0.000 -",
        "sustained sustained600 64 600 3",
    ]


@pytest.mark.parametrize(
    ("seed", "written"),
    [(0, 0), (2**30, 2**30), (2**30 + 1, 0), (-1, 2**30), (2**63 - 1, 7), (-(2**63), 1073741817)],
)
def test_a_seed_of_any_size_is_one_the_programs_take(seed: int, written: int) -> None:
    file = file_of()
    file.test(Workload(n_prompt=8), seed=seed, first=0, n_rep=1, min_s=0)
    file.sustained(Workload(n_gen=4, sustained_s=1), seed=seed)
    assert file.text().splitlines()[3:] == [
        f"test pp8 8 0 0 {written} 0 1 0.000",
        f"sustained sustained1 4 1 {written}",
    ]


def test_a_group_is_laid_out_batch_by_batch() -> None:
    file = file_of()
    file.context(64, 8)
    items: list[Item] = [([1, 2, 3], [[4], [5, 6]]), ([1, 2, 9], [[4], [5]])]
    file.group(2, items, shared=[1], n_cells=32)
    assert file.text().splitlines()[3:] == [
        "context 64 8",
        "group 2",
        "hold 1 1",
        "tree 4 2 1",
        "r 2 1 0 2 1 2",  # both questions go on with it
        "r 3 2 1 1 1",
        "r 5 3 1 1 1",  # and 6 is read from here
        "r 9 2 1 1 2",
        "i 0 2 1 1 4 2 1 5 2 6",
        "i 1 2 1 3 4 1 3 5",
        "endgroup",
    ]


def test_what_does_not_fit_together_is_another_batch() -> None:
    items: list[Item] = [([1, i, i + 1], [[7], [8]]) for i in range(10, 30)]
    file = file_of()
    file.group(0, items, shared=(), n_cells=12)
    lines = file.text().splitlines()[3:]
    assert lines[1] == "hold 0"
    trees = [line for line in lines if line.startswith("tree ")]
    assert len(trees) > 2
    assert all(int(line.split()[1]) <= 12 for line in trees)
    assert [int(line.split()[1]) for line in lines if line.startswith("i ")] == list(range(20))


def test_alone_every_question_begins_with_an_empty_cache() -> None:
    file = file_of()
    file.group(0, [([1, 2], [[3]]), ([1, 4], [[3]])], shared=(), n_cells=0)
    ops = [line.split()[0] for line in file.text().splitlines()[3:]]
    assert ops == ["group", "clear", "tree", "r", "r", "i", "clear", "tree", "r", "r", "i", "endgroup"]


def test_an_engine_without_shared_beginnings_gets_whole_texts() -> None:
    file = file_of()
    file.plain_group(1, [([1, 2], [[3], [4], [5, 6]])])
    assert file.text().splitlines()[3:] == [
        "group 1",
        "plain 0 2 1 2 2 0 1 3 1 1 4",
        "plain 0 3 1 2 5 2 2 1 5 2 2 6",
        "item 0 3",
        "endgroup",
    ]


# What comes back.


@pytest.mark.parametrize(
    "line",
    [
        "",
        "llama_model_loader: loaded",
        '{"type": "trial", "test": "pp',  # the process was killed
        '{"type": "from the future"}',
        '{"type": ["trial"]}',
        '{"type": null}',
        "{}",
        '["type", "done"]',
        '{"a":' * 5000,
        '{"type": "done"' + " " * 2**24 + "}",
        '{"n": ' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_answer_is_passed_over(line: str) -> None:
    assert list(read_lines([line, '{"type": "done"}'])) == [{"type": "done"}]


def test_answers_have_the_fields_of_their_type_and_no_others() -> None:
    (line,) = read_lines([json.dumps({**TRIAL, "run_id": "mine", "n": 1})])
    assert line == TRIAL


WRONG = ("NaN", "Infinity", "-1", "1e400", "true", "[null]", "[true]", "{}", f'"{"x" * 2**16}"', "9" * 400)


@pytest.mark.parametrize("name", sorted(set(TRIAL) - {"type"}))
@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_figures_that_can_not_be_are_not_believed(name: str, value: str) -> None:
    line = json.dumps({key: content for key, content in TRIAL.items() if key != name})
    with pytest.raises(DeviceError, match=f"in a line of type trial, {name} is") as caught:
        list(read_lines([line[:-1] + f', "{name}": {value}}}']))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", sorted(set(TRIAL) - {"type"}))
def test_what_is_missing_is_missed(name: str) -> None:
    told = {key: content for key, content in TRIAL.items() if key != name}
    if TRIAL[name] is None:
        assert next(read_lines([json.dumps(told)]))[name] is None
    else:
        with pytest.raises(DeviceError, match=name):
            list(read_lines([json.dumps(told)]))


KINDS = (
    "begin",
    "end",
    "wait",
    "hot",
    "idle",
    "loaded",
    "trial",
    "window",
    "answer",
    "group",
    "progress",
    "error",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    sorted({*TRIAL, "group", "item", "logprobs", "message", "share", "facts", "load_s", "rc"})
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(NAMES, VALUES, max_size=8)), max_size=3))
def test_no_line_makes_it_crash(told: list[tuple[str, dict[str, Any]]]) -> None:
    lines = [json.dumps({**fields, "type": kind}) for kind, fields in told]
    try:
        found = list(read_lines(lines))
    except DeviceError:
        return
    assert [one["type"] for one in found] == [kind for kind, _ in told]


@pytest.mark.parametrize(
    ("status", "words"),
    [(132, "SIGILL"), (137, "out of memory"), (126, "another kind of processor"), (3, "ended with status 3")],
)
def test_exits_are_explained(status: int, words: str) -> None:
    assert words in explain_exit(status)


# The real program.


@pytest.fixture
def do(native_program: Built, tmp_path: Path) -> Do:
    """`do(text)`: the program's exit status for a job file, and its lines."""
    return lambda text: done(native_program, tmp_path, text)


def done(program: Built, folder: Path, text: str) -> tuple[int, Lines]:
    job, out = folder / "job.txt", folder / "out.jsonl"
    job.write_text(text, encoding="ascii")
    out.unlink(missing_ok=True)
    ended = subprocess.run(
        [program.files[NATIVE], job, out],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    told = out.read_text(encoding="utf-8")
    assert ended.stdout == told  # whoever watches sees what is written
    return ended.returncode, list(read_lines(told.splitlines()))


def of_type(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if line["type"] == kind]


@pytest.fixture(scope="module")
def session(smollm2: Path) -> Iterator[LlamaSession]:
    with LlamaCpp().load(smollm2, SETTINGS) as opened:
        yield opened


def questions(session: LlamaSession, n: int) -> list[Item]:
    """The shipped suite's questions, and their choices as continuations."""
    items: list[Item] = []
    for question in load_suite("everyday").questions[:n]:
        prompt = f"Question: {question.text}\nAnswer:"
        context = session.tokenize(prompt)
        whole = [session.tokenize(f"{prompt} {choice}") for choice in question.choices]
        assert all(tokens[: len(context)] == context for tokens in whole)
        items.append((context, [tokens[len(context) :] for tokens in whole]))
    return items


def groups(items: Sequence[Item]) -> list[list[Item]]:
    return [list(items[begin : begin + N_TOGETHER]) for begin in range(0, len(items), N_TOGETHER)]


def best(logprobs: Sequence[float]) -> int:
    return max(range(len(logprobs)), key=logprobs.__getitem__)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("beginning", [0, 1])
def test_scores_are_those_of_the_in_process_engine(
    beginning: int, session: LlamaSession, smollm2: Path, do: Do
) -> None:
    """`beginning`: how many tokens all questions of a group share, evaluated once."""
    items = questions(session, N_QUESTIONS)
    shared = items[0][0][:beginning]
    file = JobFile(str(smollm2), SETTINGS)
    file.context(2048, 128)
    session.open(n_ctx=2048, n_seq_max=128)
    expected: list[list[float]] = []
    for index, group in enumerate(groups(items)):
        file.group(index, group, shared=shared, n_cells=N_CELLS)
        scores = session.loglikelihoods(group, n_cells=N_CELLS, shared=shared)
        expected += [[score.logprob for score in row] for row in scores]
    status, lines = do(file.text())
    assert status == 0
    answers = of_type(lines, "answer")
    places = [divmod(i, N_TOGETHER) for i in range(N_QUESTIONS)]
    assert [(line["group"], line["item"]) for line in answers] == places
    assert [line["group"] for line in of_type(lines, "group")] == list(range(N_QUESTIONS // N_TOGETHER))
    for line, row in zip(answers, expected, strict=True):
        assert line["logprobs"] == pytest.approx(row, abs=1e-5)
        assert len(set(row)) == len(row)  # or any answer would do
    same = [best(line["logprobs"]) == best(row) for line, row in zip(answers, expected, strict=True)]
    assert sum(same) >= 0.99 * N_QUESTIONS


@pytest.mark.slow
@pytest.mark.engine
def test_a_job_that_was_broken_off_goes_on_after_the_groups_that_are_whole(
    session: LlamaSession, smollm2: Path, native_program: Built, tmp_path: Path
) -> None:
    file = JobFile(str(smollm2), SETTINGS)
    file.context(512, 16)
    for index, item in enumerate(questions(session, 3)):
        file.group(index, [item], shared=(), n_cells=N_CELLS)
    status, whole = done(native_program, tmp_path, file.text())
    assert status == 0
    job, out = tmp_path / "job.txt", tmp_path / "out.jsonl"
    lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if line.startswith('{"type":"group"')]
    out.write_text("".join(lines[: ends[1] + 1])[:-30], encoding="utf-8")  # in the middle of the second one
    subprocess.run(
        [native_program.files[NATIVE], job, out], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    again = list(read_lines(out.read_text(encoding="utf-8").split("\n")))
    assert [line["group"] for line in of_type(again, "group")] == [0, 1, 2]
    told = {line["group"]: line["logprobs"] for line in of_type(again, "answer")}
    assert told == {line["group"]: line["logprobs"] for line in of_type(whole, "answer")}
    assert [line["group"] for line in of_type(again, "answer")] == [0, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.engine
def test_one_by_one_scores_are_the_in_process_engines_too(
    session: LlamaSession, smollm2: Path, do: Do
) -> None:
    items = questions(session, 10)
    session.open(n_ctx=512, n_seq_max=8)
    expected = session.loglikelihoods(items, n_cells=0)
    file = JobFile(str(smollm2), SETTINGS)
    file.context(512, 8)
    file.group(0, items, shared=(), n_cells=0)
    status, lines = do(file.text())
    assert status == 0
    for line, row in zip(of_type(lines, "answer"), expected, strict=True):
        assert line["logprobs"] == pytest.approx([score.logprob for score in row], abs=1e-5)


@pytest.mark.slow
@pytest.mark.engine
def test_speed_is_told_repetition_by_repetition(session: LlamaSession, smollm2: Path, do: Do) -> None:
    file = JobFile(str(smollm2), SETTINGS)
    tests = [Workload(n_prompt=40), Workload(n_gen=5), Workload(n_prompt=7, n_gen=3, n_depth=20)]
    for workload in tests:
        file.test(workload, seed=1, first=2, n_rep=2, min_s=0)
    status, lines = do(file.text())
    assert status == 0
    (loaded,) = of_type(lines, "loaded")
    assert loaded["facts"]["n_vocab"] == session.n_vocab
    assert loaded["facts"]["model_description"] == session.facts["model_description"]
    assert loaded["load_s"] == pytest.approx(loaded["end_s"] - loaded["start_s"])
    trials = of_type(lines, "trial")
    counted = [("warmup", 0), ("measured", 2), ("measured", 3)]
    told = [(trial["test"], trial["phase"], trial["repetition"]) for trial in trials]
    assert told == [(workload.name, *one) for workload in tests for one in counted]
    for trial, workload in zip(trials, [one for one in tests for _ in counted], strict=True):
        session.open(n_ctx=workload.n_prompt + workload.n_gen + workload.n_depth)
        assert (trial["n_ctx"], trial["kv_cache_bytes"]) == (session.n_ctx, session.kv_cache_bytes)
        assert (trial["n_prompt"], trial["n_gen"], trial["n_depth"]) == (
            *(workload.n_prompt, workload.n_gen),
            workload.n_depth,
        )
        assert (trial["prefill_s"] is None) == (not workload.n_prompt)
        assert (trial["decode_s"] is None) == (not workload.n_gen)
        assert len(trial["token_times_s"]) == workload.n_gen
        assert trial["token_times_s"] == sorted(trial["token_times_s"])
        assert 0 < trial["engine_s"] <= trial["total_s"] <= trial["end_s"] - trial["start_s"]
        assert trial["peak_rss_bytes"] >= trial["rss_anon_bytes"] > 0
    windows = of_type(lines, "window")
    assert [(one["n_requests"], one["n_prompt"], one["n_gen"]) for one in windows] == [
        (2, 80, 0),
        (2, 0, 10),
        (2, 14, 6),
    ]
    for window, workload in zip(windows, tests, strict=True):
        inside = [one for one in trials if (one["test"], one["phase"]) == (workload.name, "measured")]
        assert (window["start_s"], window["end_s"]) == (inside[0]["start_s"], inside[-1]["end_s"])


@pytest.mark.slow
@pytest.mark.engine
def test_a_request_in_text_and_minutes_of_writing(session: LlamaSession, smollm2: Path, do: Do) -> None:
    text, _ = session.chat_prompt("What falls from the sky in winter?")
    file = JobFile(str(smollm2), SETTINGS)
    file.chat(Workload(chat=True, n_gen=6), text=text, first=0, n_rep=1, min_s=0.2)
    file.sustained(Workload(n_gen=4, sustained_s=1), seed=-1)
    status, lines = do(file.text())
    assert status == 0
    chats = [one for one in of_type(lines, "trial") if one["test"] == "chat6"]
    for trial in chats:
        assert (trial["n_prompt"], trial["n_gen"]) == (len(session.tokenize(text)), 6)
        assert trial["prefill_s"] <= trial["ttft_s"] == trial["token_times_s"][0]
        assert trial["total_s"] >= trial["token_times_s"][-1]
    window, long = of_type(lines, "window")
    assert window["end_s"] - window["start_s"] >= 0.2
    assert window["n_requests"] == len(chats) - 1
    last = of_type(lines, "trial")[-1]
    assert (last["test"], last["phase"]) == ("sustained1", "measured")
    assert last["total_s"] >= 1
    assert last["n_gen"] == len(last["token_times_s"]) == long["n_gen"]
    assert last["n_gen"] % 4 == 0


BAD = {
    "another format": ("edgebench-job 2\n", "no job file of this version"),
    "nothing": ("", "no job file of this version"),
    "no model": (f"{FORMAT}\nmodel {b'/nowhere/m.gguf'.hex()}\n", "can't open /nowhere/m.gguf"),
    "no hex": (f"{FORMAT}\nmodel zz\n", "a text that is no hex"),
    "half hex": (f"{FORMAT}\nmodel 2f6\n", "odd number of hex digits"),
    "setting": (f"{FORMAT}\nsettings threads 1 warp 9\n", "setting warp"),
    "type": (f"{FORMAT}\nsettings threads 1 batch 1 ubatch 1 flash on type_k q9\n", "names q9"),
    "number": (f"{FORMAT}\nsettings threads 1e3\n", "1e3 where a number from 1"),
}
WORSE = {
    "op": ("sing 1", "an op sing"),
    "early end": ("test pp8 8 0", "ends early"),
    "negative": ("test pp8 -8 0 0 1 0 1 0", "-8 where a number"),
    "huge": ("context 99999999999999999999 1", "where a number"),
    "seed": (f"test pp8 8 0 0 {SEEDS} 0 1 0", f"{SEEDS} where a number"),
    "time": ("test pp8 8 0 0 1 0 1 nan", "where seconds are due"),
    "token": ("context 64 2\nhold 1 9999999", "where a number"),
    "before": ("tree 1 1 0\nr 1 0 1 1 0\ni 0 1 1 0 5", "before a context is open"),
    "hold before": ("hold 1 1", "before it opens a context"),
    "cut": ("context 64 2\ngroup 0\ntree 2 1 0\nr 1 0 1 1 0", "ends in the middle of a group"),
    "sequence": ("context 64 2\ntree 1 1 0\nr 1 0 1 1 2\ni 0 1 1 0 5", "no place for"),
    "row": ("context 64 2\ntree 1 1 0\nr 1 0 1 1 0\ni 0 1 1 1 5", "where a number"),
    "unwanted": ("context 64 2\ntree 1 1 0\nr 1 0 0 1 0\ni 0 1 1 0 5", "logits are not wanted"),
    "full": ("context 256 1\nhold 300" + " 1" * 300, "llama_decode returned"),
    "backwards": ("context 64 2\ntree 2 1 0\nr 1 5 0 1 0\nr 1 2 1 1 0\ni 0 1 1 1 5", "llama_decode returned"),
}


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD)
def test_what_is_no_job_is_refused_in_words(text: str, why: str, do: Do) -> None:
    status, lines = do(text)
    assert status == 1
    assert why in lines[-1]["message"]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(("text", "why"), WORSE.values(), ids=WORSE)
def test_damage_in_the_middle_is_refused_in_words(text: str, why: str, do: Do, smollm2: Path) -> None:
    status, lines = do(JobFile(str(smollm2), SETTINGS).text() + text + "\n")
    assert (status, lines[0]["type"], lines[-1]["type"]) == (1, "loaded", "error")
    assert why in lines[-1]["message"]


@pytest.mark.engine
@pytest.mark.slow
def test_how_it_is_called_is_told_to_who_calls_it_otherwise(native_program: Built, tmp_path: Path) -> None:
    for words in ([], ["--help"], ["one"], ["one", "two", "three"]):
        ended = subprocess.run(
            [native_program.files[NATIVE], *words], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (ended.returncode, ended.stderr) == (
            2,
            "edgebench-native JOB OUT | --chat MODEL [THREADS] | --version\n",
        )
    nowhere = [native_program.files[NATIVE], "job", "no/such/folder/out"]
    ended = subprocess.run(nowhere, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stderr.startswith("can't write no/such/folder/out: No such file")) == (
        1,
        True,
    )
