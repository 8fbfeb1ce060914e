"""The reference program, for the tests that hold edgebench against it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def lm_eval() -> Any:
    """`benchmarks/lm_eval_tool.py` as a module."""
    path = BENCHMARKS / "lm_eval_tool.py"
    spec = importlib.util.spec_from_file_location("lm_eval_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def lm_eval_env(lm_eval: Any, export_tool: Any) -> Any:
    """lm-eval's environment: made once into the developer's cache, as the exporters' is."""
    from edgebench.core.errors import EdgebenchError

    try:
        return lm_eval.lm_eval_tool(lambda line: print(line, file=sys.stderr))
    except EdgebenchError as error:
        pytest.skip(f"lm-eval's environment is not there and can't be made: {error.message}")
