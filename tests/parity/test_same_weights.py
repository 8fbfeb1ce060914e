"""lm-eval on a checkpoint, edgebench on the same weights in GGUF and ONNX, on real questions of MMLU.

All 1,089 are asked by `benchmarks/lm_eval_parity.py`; here it is a small stratified sample.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.types import Scorer
from edgebench.suites.fewshot import Shots
from edgebench.suites.loader import load_pool, load_suite
from edgebench.suites.prompts import build_prompt

pytestmark = pytest.mark.slow

SAMPLES = {0: 24, 5: 8}
"""Worked examples -> questions asked with as many."""


@pytest.fixture(scope="module")
def weights(lm_eval: Any, lm_eval_env: Any, smollm2: Path) -> dict[str, Path]:
    return lm_eval.same_weights(lambda line: print(line, file=sys.stderr), n_threads=1)


@pytest.mark.engine
@pytest.mark.parametrize("num_fewshot", SAMPLES)
def test_answers_agree(
    lm_eval: Any, lm_eval_env: Any, weights: dict[str, Path], shared_data: Path, num_fewshot: int
) -> None:
    how = {"num_fewshot": num_fewshot, "n_threads": 1}
    limit = SAMPLES[num_fewshot]
    ours = {
        engine: lm_eval.ask_edgebench(weights[engine], shared_data, limit=limit, **how)
        for engine in ("gguf", "onnx")
    }
    ids = ours["gguf"].keys()
    [theirs] = lm_eval.ask_mmlu(lm_eval_env, weights["checkpoint"], shared_data, ids, **how)
    for answers in ours.values():
        found = lm_eval.agreement(answers, theirs["questions"], num_fewshot=num_fewshot)
        assert found.n + found.n_leaking == len(ids) >= limit
        assert found.n_leaking <= 1
        assert found.unexplained == []
        assert len(found.gaps) <= 1
        # Two f32 computations in other orders of summation; a wrong prompt or split is off by tenths.
        assert found.largest_difference < 1e-3


@pytest.mark.parametrize("num_fewshot", SAMPLES)
def test_prompts_of_all_questions_are_the_same_bytes(
    lm_eval: Any, lm_eval_env: Any, shared_data: Path, num_fewshot: int
) -> None:
    suite = load_suite("mmlu-medical", shared_data)
    shots = Shots(suite, load_pool("mmlu-medical", shared_data), num_fewshot)
    prompts = {q.id: build_prompt(suite, q, Scorer.LETTER, shots=shots.of(q)) for q in suite.questions}
    [found] = lm_eval.ask_mmlu(lm_eval_env, None, shared_data, prompts.keys(), num_fewshot=num_fewshot)
    theirs = found["questions"]
    assert prompts.keys() == theirs.keys()
    assert len(prompts) == 1_089
    compared = [id_ for id_, prompt in prompts.items() if prompt.n_shots == num_fewshot]
    assert len(prompts) - len(compared) <= 3  # questions that are worked examples as well
    for id_ in compared:
        assert list(prompts[id_].continuations) == theirs[id_]["continuations"]
        assert {prompts[id_].context} == set(theirs[id_]["contexts"])
