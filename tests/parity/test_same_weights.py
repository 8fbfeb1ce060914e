"""lm-eval on a checkpoint, edgebench on the same weights in GGUF and ONNX, on real questions of MMLU.

All 1,089 are asked by `benchmarks/lm_eval_parity.py`; here it is a small stratified sample.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SAMPLES = {0: 16, 5: 8}
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
        assert found.n == len(ids) >= limit
        assert found.unexplained == []
        assert len(found.gaps) <= 1
        # Two f32 computations in other orders of summation; a wrong prompt or split is off by tenths.
        assert found.largest_difference < 1e-3
