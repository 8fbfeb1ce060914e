"""The llama_cpp runner on the embedded model, against oracles that share none of its code."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgebench.core.errors import ModelError
from edgebench.core.types import Scorer, Settings, Shape, Workload
from edgebench.quantize.gguf_quantize import GgufQuantizer
from edgebench.runners.llama_cpp import FLASH_ATTN, KV_TYPES, LlamaCpp, LlamaSession
from edgebench.runners.prefix_tree import trees
from edgebench.session_accuracy import score_groups
from edgebench.session_child import Child
from edgebench.session_job import as_job
from edgebench.session_models import DEFAULT_MODEL, make_level, resolve
from edgebench.session_performance import CHAT_TEXT, Canary, measure
from edgebench.suites.loader import load_suite
from edgebench.suites.prompts import build_prompt

pytestmark = pytest.mark.engine

# One thread: llama.cpp's threads wait for each other by spinning, which takes minutes on shared cores.
SHIPPED = Settings(n_threads=1)
PARITY = Settings(n_threads=1, flash_attn="off", type_k="f32", type_v="f32")
"""Cross-engine parity is measured with an f32 cache and flash attention off."""

F32_TOLERANCE = 1e-3
"""Largest difference of two log-likelihoods with f32 weights; about 2e-5 was seen."""
F16_TOLERANCE = 0.1
"""The same with f16 weights, which round activations to 11 bits; about 0.03 was seen."""

N_CELLS = 512
Asked = list[dict[str, Any]]
Group = Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]


@pytest.fixture(scope="module")
def f16(smollm2: Path) -> Path:
    """The f16 level, from the cache once it was made."""
    assert smollm2.is_file()
    return make_level(resolve(DEFAULT_MODEL, print), "f16", n_threads=1, progress=lambda *_: None).path


@pytest.fixture(scope="module")
def f32(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """540 MB in which nothing is rounded but f32 itself: what differs here is not rounding."""
    path = tmp_path_factory.mktemp("levels") / "f32.gguf"
    job = {"source": str(smollm2), "target": str(path), "level": "f32", "n_threads": 2}
    GgufQuantizer().make(job, lambda _: None)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def session(smollm2: Path) -> Iterator[LlamaSession]:
    """The embedded file with the settings a user would ship."""
    with LlamaCpp().load(smollm2, SHIPPED) as opened:
        yield opened


@pytest.fixture(scope="module")
def exact(f32: Path) -> Iterator[LlamaSession]:
    with LlamaCpp().load(f32, PARITY) as opened:
        yield opened


def asked(scorer: Scorer, n: int, subject: str = "weather") -> Asked:
    """The first questions of a subject of the built-in suite, as a group for the measuring process."""
    suite = load_suite("everyday")
    questions = [question for question in suite.questions if question.subject == subject][:n]
    return [dict(as_job(build_prompt(suite, question, scorer))) for question in questions]


def work(groups: Sequence[Asked], wanted: Sequence[int] = (0,), **more: Any) -> dict[str, Any]:
    """A job of the measuring process."""
    return {"groups": groups, "wanted": wanted, "shape": "grouped", "n_cells": N_CELLS, **more}


def scored(
    session: LlamaSession, group: Asked, shape: Shape = Shape.GROUPED, n_cells: int = N_CELLS
) -> list[list[float]]:
    (result,) = score_groups(session, work([group], shape=shape, n_cells=n_cells))
    return [answer["logprobs"] for answer in result["answers"]]


def distance(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The largest difference; the shapes must be equal."""
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# What the runner says of itself -------------------------------------------------------------------


def test_runner_is_available_and_of_the_installed_version() -> None:
    assert LlamaCpp().available() is None
    assert LlamaCpp().version().startswith("0.3.")


def test_constants_are_llama_cpps() -> None:
    assert {name: gguf.GGMLQuantizationType[name.upper()].value for name in KV_TYPES} == KV_TYPES
    from edgebench.core.lean import import_submodule

    lib = import_submodule("llama_cpp", "llama_cpp")
    assert FLASH_ATTN == {
        "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
        "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
        "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    }


def test_session_tells_facts_of_the_model(session: LlamaSession) -> None:
    assert session.facts["n_params"] == 134_515_008
    assert session.n_vocab == session.facts["n_vocab"] == 49_152
    assert session.n_ctx_train == 8192
    assert session.bos is None
    assert "CPU" in session.facts["system_info"]
    json.dumps(dict(session.facts))


# Text ---------------------------------------------------------------------------------------------


def test_tokenizer_gives_the_known_ids(session: LlamaSession) -> None:
    ids = [504, 3575, 282, 4649, 314, 216, 33, 34, 35, 36]
    assert session.tokenize("The capital of France is 1234") == ids
    assert b"".join(map(session.piece, ids)) == b"The capital of France is 1234"
    assert session.tokenize("") == []


def test_special_tokens_in_a_text_are_recognised(session: LlamaSession) -> None:
    (token,) = session.tokenize("<|im_start|>")
    assert session.piece(token) == b""


@pytest.mark.parametrize("text", ["Grüße, 世界! 👩\u200d⚕️", "a" * 3000, "\n\n \t", "null \x01 byte"])
def test_text_survives_its_tokens(session: LlamaSession, text: str) -> None:
    assert b"".join(map(session.piece, session.tokenize(text))).decode() == text


def generated(session: LlamaSession, text: str, n: int) -> str:
    session.reset()
    session.prefill(session.tokenize(text))
    said = b""
    for _ in range(n):
        token = session.greedy()
        said += session.piece(token)
        session.prefill([token])
    return said.decode()


def test_greedy_text_knows_the_capital_of_france(session: LlamaSession) -> None:
    session.open(n_ctx=256)
    assert "Paris" in generated(session, "The capital of France is", 12)


def test_greedy_never_ends_the_text(session: LlamaSession) -> None:
    session.open(n_ctx=256)
    text, _ = session.chat_prompt("Say yes.")
    said = generated(session, text, 40)  # far beyond the end of the answer
    assert len(said) > 40
    assert "<|im_end|>" not in said


def test_chat_template_is_the_models(session: LlamaSession) -> None:
    assert session.chat_prompt("Hi {x}") == (
        "<|im_start|>user\nHi {x}<|im_end|>\n<|im_start|>assistant\n",
        True,
    )


# The cache ----------------------------------------------------------------------------------------


def test_reset_drops_every_cached_token(session: LlamaSession) -> None:
    session.open(n_ctx=256)
    tokens = session.tokenize("The weather in the garden is")

    def logits() -> np.ndarray[Any, Any]:
        session.prefill(tokens)
        return session._logits(-1).copy()

    first = logits()
    continued = logits()  # after the first six: another text
    session.reset()
    again = logits()
    assert (again == first).all()
    assert not np.allclose(continued, first, atol=0.1)


def test_prompt_longer_than_a_batch_is_evaluated_whole(f32: Path) -> None:
    tokens = [100 + 7 * i for i in range(150)]
    found = []
    for n_batch in (2048, 64):
        settings = dataclasses.replace(PARITY, n_batch=n_batch, n_ubatch=min(n_batch, 32))
        with LlamaCpp().load(f32, settings) as opened:
            opened.open(n_ctx=256)
            opened.prefill(tokens)
            found.append(opened._logits(-1).copy())
    assert np.abs(found[0] - found[1]).max() < F32_TOLERANCE


def test_more_than_the_cache_holds_is_refused(session: LlamaSession) -> None:
    session.open(n_ctx=256)
    with pytest.raises(ModelError, match="llama_decode returned"):
        session.prefill([5] * 600)


@pytest.mark.parametrize(
    "settings", [{"type_k": "q8_0", "type_v": "q8_0"}, {"mmap": False}, {"flash_attn": "auto"}]
)
def test_other_settings_give_a_sane_model(smollm2: Path, settings: dict[str, Any]) -> None:
    with LlamaCpp().load(smollm2, dataclasses.replace(SHIPPED, **settings)) as opened:
        opened.open(n_ctx=256)
        assert "Paris" in generated(opened, "The capital of France is", 12)


# Log-likelihoods ------------------------------------------------------------------------------------

ORACLE = """
import json, sys
import numpy as np
from llama_cpp import Llama

job = json.load(sys.stdin)
llm = Llama(job["path"], n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, flash_attn=False,
            type_k=0, type_v=0, verbose=False)
rows = []
for question in job["questions"]:
    n_context = len(llm.tokenize(question["context"].encode(), add_bos=False, special=True))
    rows.append([])
    for continuation in question["continuations"]:
        whole = llm.tokenize((question["context"] + continuation).encode(), add_bos=False, special=True)
        llm.reset()
        llm.eval(whole)
        total, greedy = 0.0, True
        for i in range(n_context, len(whole)):
            logits = np.asarray(llm.scores[i - 1], dtype=np.float64)
            total += logits[whole[i]] - np.logaddexp.reduce(logits)
            greedy &= bool(logits.argmax() == whole[i])
        rows[-1].append([total, greedy])
json.dump(rows, sys.stdout)
"""


def oracle(path: Path, questions: Asked) -> list[list[tuple[float, bool]]]:
    """Every choice on its own, by llama-cpp-python's high-level class, in another process."""
    done = subprocess.run(
        [sys.executable, "-c", ORACLE],
        input=json.dumps({"path": str(path), "questions": questions}),
        capture_output=True,
        text=True,
        check=True,
    )
    return [[(total, greedy) for total, greedy in row] for row in json.loads(done.stdout)]


def tokens_of(session: LlamaSession, questions: Asked) -> Group:
    """lm-eval's split, written down once more."""
    group = []
    for question in questions:
        context = session.tokenize(question["context"])
        wholes = [session.tokenize(question["context"] + text) for text in question["continuations"]]
        assert all(whole[: len(context)] == context for whole in wholes)
        group.append((context, [whole[len(context) :] for whole in wholes]))
    return group


@pytest.mark.parametrize(("level", "tolerance"), [("f32", F32_TOLERANCE), ("f16", F16_TOLERANCE)])
def test_grouped_scores_are_those_of_every_choice_alone(
    level: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(level)
    letters, cloze = asked(Scorer.LETTER, 2), asked(Scorer.CLOZE, 3)
    cloze.append({"context": "The capital of France is", "continuations": [" Paris", " Rome", " Paris."]})
    expected = oracle(path, letters + cloze)
    assert any(greedy for row in expected for _, greedy in row)
    with LlamaCpp().load(path, PARITY) as opened:
        opened.open(n_ctx=2048, n_seq_max=32)
        found = [
            score
            for part in (letters, cloze)
            for score in opened.loglikelihoods(tokens_of(opened, part), n_cells=N_CELLS)
        ]
    logprobs = [[score.logprob for score in row] for row in found]
    assert distance(logprobs, [[total for total, _ in row] for row in expected]) < tolerance
    if level == "f32":
        assert [[s.is_greedy for s in row] for row in found] == [[g for _, g in row] for row in expected]


@pytest.mark.parametrize("scorer", [Scorer.LETTER, Scorer.CLOZE])
def test_company_and_batch_size_change_only_the_rounding(exact: LlamaSession, scorer: Scorer) -> None:
    group = asked(scorer, 6)
    alone = scored(exact, group, Shape.ALONE, 0)
    for n_cells in (64, 512, 2048):
        assert distance(scored(exact, group, n_cells=n_cells), alone) < F32_TOLERANCE
    # One group of a deck on its own shares its beginning with nothing but itself: held in sequence 0.
    (result,) = score_groups(exact, work([group], decks=["weather"]))
    assert distance([answer["logprobs"] for answer in result["answers"]], alone) < F32_TOLERANCE


def test_f16_stays_within_its_tolerance_in_other_company(f16: Path) -> None:
    group = asked(Scorer.CLOZE, 6)
    with LlamaCpp().load(f16, PARITY) as opened:
        alone = scored(opened, group, Shape.ALONE, 0)
        assert distance(scored(opened, group, n_cells=64), alone) < F16_TOLERANCE
        assert distance(scored(opened, group, n_cells=512), alone) < F16_TOLERANCE


def one_by_one(session: LlamaSession, context: Sequence[int], continuation: Sequence[int]) -> float:
    """A log-likelihood by prefill alone: token after token."""
    session.reset()
    session.prefill(context)
    total = 0.0
    for token in continuation:
        logits = session._logits(-1).astype(np.float64)
        total += float(logits[token] - np.logaddexp.reduce(logits))
        session.prefill([token])
    return total


def test_short_and_long_continuations_mix(exact: LlamaSession) -> None:
    shared = exact.tokenize("This is a long beginning that every question of the group has:")
    group: Group = [
        ([*shared, 500, 600], [[33], [34, 35, 36], [37], [38, 39]]),
        ([*shared, 700], [[40], [41]]),
        ([*shared, 500, 601, 602], [[42, 43, 44, 45, 46]]),
        ([*shared, 500, 600], [[33], [33], [33, 34]]),  # the same context once more
    ]
    exact.open(n_ctx=1024, n_seq_max=32)
    for n_cells in (16, 512):
        found = exact.loglikelihoods(group, n_cells=n_cells)
        for (context, continuations), row in zip(group, found, strict=True):
            expected = [one_by_one(exact, context, continuation) for continuation in continuations]
            assert [score.logprob for score in row] == pytest.approx(expected, abs=F32_TOLERANCE)
        assert found[3][0] == found[3][1]


def test_question_that_is_the_beginning_of_another(exact: LlamaSession) -> None:
    short = exact.tokenize("The sky over the sea on a clear day is of a")
    group: Group = [(short, [[33, 34]]), ([*short, 500, 501], [[35]]), (short, [[36]])]
    exact.open(n_ctx=512, n_seq_max=8)
    found = exact.loglikelihoods(group, n_cells=N_CELLS)
    expected = [one_by_one(exact, context, continuations[0]) for context, continuations in group]
    assert [row[0].logprob for row in found] == pytest.approx(expected, abs=F32_TOLERANCE)


def test_likeliest_tokens_are_greedy_and_others_are_not(exact: LlamaSession) -> None:
    exact.open(n_ctx=256, n_seq_max=4)
    context = exact.tokenize("The capital of France is")
    exact.prefill(context)
    first = exact.greedy()
    exact.prefill([first])
    second = exact.greedy()
    group = [(context, [[first, second], [first], [first, second + 1], [second]])]
    (row,) = exact.loglikelihoods(group, n_cells=N_CELLS)
    assert [score.is_greedy for score in row] == [True, True, False, False]
    assert row[0].logprob < row[1].logprob < 0


def test_group_longer_than_a_batch(exact: LlamaSession, f32: Path) -> None:
    group = asked(Scorer.LETTER, 4)
    settings = dataclasses.replace(PARITY, n_batch=64, n_ubatch=32)
    with LlamaCpp().load(f32, settings) as opened:
        assert distance(scored(opened, group), scored(exact, group)) < F32_TOLERANCE


SCORE = """
import json, sys
from pathlib import Path
from edgebench.core.types import Settings
from edgebench.runners.llama_cpp import LlamaCpp
from edgebench.runners.prefix_tree import trees
from edgebench.session_accuracy import score_groups

job = json.load(sys.stdin)
with LlamaCpp().load(Path(job["path"]), Settings(n_threads=2)) as session:
    job |= {"wanted": [1], "shape": "grouped", "n_cells": 512, "decks": ["a", "a", "b"]}
    results = score_groups(session, job)
    print(json.dumps([answer["logprobs"] for result in results for answer in result["answers"]]))
"""


def test_same_group_repeats_to_the_bit(smollm2: Path) -> None:
    groups = [asked(Scorer.LETTER, 3), asked(Scorer.LETTER, 3, "cooking"), asked(Scorer.CLOZE, 1)]

    def second(session: LlamaSession, wanted: list[int]) -> list[list[float]]:
        results = score_groups(session, work(groups, wanted, decks=["a", "a", "b"]))
        return [answer["logprobs"] for answer in list(results)[-1]["answers"]]

    with LlamaCpp().load(smollm2, Settings(n_threads=2)) as opened:  # which thread was first must not show
        first = second(opened, [0, 1])
        assert second(opened, [0, 1]) == first
        assert second(opened, [0, 2, 1]) == first  # another deck in between: the beginning is made anew
        assert second(opened, [1]) == first  # as after an interruption: the group before it was not asked
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCORE],
        input=json.dumps({"path": str(smollm2), "groups": groups}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == first


def test_long_context_is_cut_from_the_left(exact: LlamaSession, monkeypatch: pytest.MonkeyPatch) -> None:
    (question,) = asked(Scorer.LETTER, 1)
    question = question | {"continuations": [" A", " snow and ice"]}
    ((context, continuations),) = tokens_of(exact, [question])
    longest = max(map(len, continuations))
    monkeypatch.setattr(exact, "n_ctx_train", 40)
    assert len(context) > 40
    (result,) = score_groups(exact, work([[question]]))
    (answer,) = result["answers"]
    # lm-eval feeds (context + continuation)[-(40 + 1):][:-1]: 40 tokens for the longest choice.
    assert answer["n_prompt"] + longest - 1 == 40
    assert answer["n_cut"] == len(context) - answer["n_prompt"]
    kept = context[-answer["n_prompt"] :]
    expected = [one_by_one(exact, kept, continuation) for continuation in continuations]
    assert answer["logprobs"] == pytest.approx(expected, abs=F32_TOLERANCE)
    with pytest.raises(ModelError, match="more than fit the model's context"):
        list(score_groups(exact, work([[question]], truncate=False)))


def test_beginning_of_a_deck_is_evaluated_once(exact: LlamaSession, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [asked(Scorer.LETTER, 2), asked(Scorer.LETTER, 4)[2:], asked(Scorer.LETTER, 2, "cooking")]
    evaluated: list[int] = []
    decode = LlamaSession._decode
    monkeypatch.setattr(
        LlamaSession,
        "_decode",
        lambda self, batch: (evaluated.append(batch.n_tokens), decode(self, batch))[1],
    )
    found = list(score_groups(exact, work(groups, [0, 1, 2], decks=["w", "w", ""])))
    beginning = evaluated[0]
    told = exact.tokenize(groups[0][0]["context"])[:beginning]
    assert b"".join(map(exact.piece, told)).decode() == groups[0][0]["context"].partition("\n\n")[0] + "\n\n"
    assert evaluated.count(beginning) == 1
    contexts = [[exact.tokenize(p["context"]) for p in group] for group in groups]
    own = [len({tuple(c[:n]) for c in group for n in range(1, len(c) + 1)}) for group in contexts]
    assert sum(evaluated) == sum(own) - beginning  # the second group began where the first had
    alone = [scored(exact, group, Shape.ALONE, 0) for group in groups]
    for result, expected in zip(found, alone, strict=True):
        assert distance([a["logprobs"] for a in result["answers"]], expected) < F32_TOLERANCE


def test_a_deck_with_a_prompt_that_was_cut_still_scores_right(
    exact: LlamaSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = asked(Scorer.LETTER, 2)
    long = long | {"context": "Word after word. " * 30 + long["context"]}
    monkeypatch.setattr(exact, "n_ctx_train", 120)
    results = list(score_groups(exact, work([[long], [short], [short]], [0, 1, 2], decks=["d"] * 3)))
    assert results[0]["answers"][0]["n_cut"] > 0
    assert results[1]["answers"][0]["n_cut"] == 0
    assert distance([results[1]["answers"][0]["logprobs"]], scored(exact, [short])) < F32_TOLERANCE


# Texts ----------------------------------------------------------------------------------------------


def written(session: LlamaSession, context: Sequence[int], n: int) -> list[int]:
    """A greedy text by prefill alone."""
    session.reset()
    session.prefill(context)
    made: list[int] = []
    while len(made) < n:
        best = int(session._logits(-1).argmax())
        if best in session._enders:
            break
        made.append(best)
        session.prefill([best])
    return made


def test_texts_are_greedy_whoever_keeps_company(exact: LlamaSession) -> None:
    beginning = exact.tokenize("Here is a list of countries and their capitals, one on each line.\n")
    asked_for = ["France:", "Germany: Berlin\nFrance:", "Japan:", exact.chat_prompt("Say yes.")[0]]
    contexts = [[*beginning, *exact.tokenize(text)] for text in asked_for]
    expected = [written(exact, context, 12) for context in contexts]
    exact.open(n_ctx=1024, n_seq_max=8)
    for n_cells in (32, 512):
        found = exact.generate(contexts, n_gen=12, n_cells=n_cells, shared=beginning)
        assert found == expected
    assert len(expected[3]) < 12, "an end-of-text token ends a text"


def test_text_ends_where_it_is_told_to(exact: LlamaSession) -> None:
    groups = [
        [
            {"id": str(i), "context": text, "continuations": [], "rotation": 0, "n_shots": 0}
            for i, text in enumerate(["One, two, three, four,", "Monday, Tuesday, Wednesday, Thursday,"])
        ]
    ]
    (free,) = score_groups(exact, work(groups, n_gen=8))
    (stopped,) = score_groups(exact, work(groups, n_gen=8, stop=[","]))
    for whole, cut in zip(free["answers"], stopped["answers"], strict=True):
        assert "," in whole["text"]
        assert cut["text"] == whole["text"].partition(",")[0]
        assert cut["n_gen"] < whole["n_gen"] == 8


def test_size_of_the_cache_moves_no_score(smollm2: Path) -> None:
    items = []
    with LlamaCpp().load(smollm2, SHIPPED) as opened:
        group = tokens_of(opened, asked(Scorer.LETTER, 4))
        for n_ctx in (1024, 1280, 4096):
            opened.open(n_ctx=n_ctx, n_seq_max=8)
            items.append(opened.loglikelihoods(group, n_cells=N_CELLS))
    assert items[0] == items[1] == items[2]


def test_rotations_of_a_question_share_its_text(exact: LlamaSession) -> None:
    suite = load_suite("everyday")
    question = suite.questions[0]
    prompts = [build_prompt(suite, question, Scorer.LETTER, rotation=r) for r in range(4)]
    group = [dict(as_job(prompt)) for prompt in prompts]
    items = tokens_of(exact, group)
    (tree,) = trees(items, 0, 512)
    assert len(tree.rows) < 0.8 * sum(len(context) for context, _ in items)
    assert distance(scored(exact, group), scored(exact, group, Shape.ALONE, 0)) < F32_TOLERANCE


def test_group_is_known_by_what_is_asked_and_how(session: LlamaSession) -> None:
    def scheme(n: int, n_cells: int, shape: Shape = Shape.GROUPED) -> str:
        group = asked(Scorer.CLOZE, n)
        (result,) = score_groups(session, work([group], shape=shape, n_cells=n_cells))
        return str(result["group_sha256"])

    assert scheme(2, 512) == scheme(2, 512)
    assert len({scheme(2, 512), scheme(3, 512), scheme(2, 64), scheme(2, 0, Shape.ALONE)}) == 4


# Files that are not whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [5000, 3_000_000, 60_000_000])
def test_file_cut_short_is_refused_by_the_measuring_process(
    smollm2: Path, tmp_path: Path, n_bytes: int
) -> None:
    path = tmp_path / "cut.gguf"
    with smollm2.open("rb") as whole:
        path.write_bytes(whole.read(n_bytes))
    job = {
        "kind": "performance",
        "runner": "llama_cpp",
        "path": str(path),
        "settings": dataclasses.asdict(SHIPPED),
        "workloads": [],
    }
    with Child(job) as child, pytest.raises(ModelError, match=rf"llama\.cpp can't open {path}: ") as caught:
        list(child.messages())
    assert "\n" not in caught.value.message


def test_refusal_of_one_file_does_not_disturb_an_open_one(session: LlamaSession, tmp_path: Path) -> None:
    session.open(n_ctx=256)
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError):
        LlamaCpp().load(tmp_path / "none.gguf", SHIPPED)
    session.open(n_ctx=256)  # llama.cpp logs here
    assert "Paris" in generated(session, "The capital of France is", 12)


# Speed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials(session: LlamaSession) -> Callable[[Workload], list[dict[str, Any]]]:
    canary = Canary.calibrated()

    def run(workload: Workload) -> list[dict[str, Any]]:
        told = measure(session, workload, canary, seed=3, repetitions=[0, 1])
        return [dict(message) for message in told if message["type"] == "trial"]

    return run


Trials = Callable[[Workload], list[dict[str, Any]]]


@pytest.mark.parametrize(
    "workload",
    [
        Workload(n_prompt=64),
        Workload(n_gen=8),
        Workload(n_prompt=32, n_gen=4, n_depth=16),
        Workload(n_gen=6, chat=True),
    ],
    ids=lambda workload: workload.name,
)
def test_one_warm_up_and_the_repetitions(trials: Trials, workload: Workload) -> None:
    done = trials(workload)
    assert [(t["phase"], t["repetition"]) for t in done] == [("warmup", 0), ("measured", 0), ("measured", 1)]
    for trial in done:
        assert trial["test"] == workload.name
        assert (trial["n_gen"], trial["n_depth"]) == (workload.n_gen, workload.n_depth)
        parts = [trial["prefill_s"], trial["decode_s"]]
        assert trial["total_s"] == pytest.approx(sum(part or 0 for part in parts), abs=1e-4)
        assert all(part is None or part > 0 for part in parts)
        times = trial["token_times_s"]
        assert len(times) == workload.n_gen
        assert times == sorted(times)
        assert not times or times[-1] == pytest.approx(trial["total_s"])
        assert trial["canary_before_s"] > 0
        assert trial["foreign_cpu_s"] is None or trial["foreign_cpu_s"] >= 0
        assert set(trial["flags"]) <= {"noisy_neighbour", "unstable_host", "paging"}
        assert all(math.isfinite(v) for v in trial.values() if isinstance(v, float))
    starts = [trial["start_s"] for trial in done]
    assert starts == sorted(starts)


def test_prompt_and_generation_fill_their_own_fields(trials: Trials) -> None:
    prompt, generation = trials(Workload(n_prompt=64))[-1], trials(Workload(n_gen=8))[-1]
    assert (prompt["decode_s"], prompt["n_prompt"], prompt["ttft_s"]) == (None, 64, None)
    assert (generation["prefill_s"], generation["n_prompt"], generation["ttft_s"]) == (None, 0, None)


def test_only_a_text_request_has_a_first_token(trials: Trials, session: LlamaSession) -> None:
    trial = trials(Workload(n_gen=6, chat=True))[-1]
    assert trial["n_prompt"] == len(session.tokenize(session.chat_prompt(CHAT_TEXT)[0]))
    assert trial["prefill_s"] < trial["ttft_s"] <= trial["total_s"]
    assert trial["ttft_s"] in trial["token_times_s"]
