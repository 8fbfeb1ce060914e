"""A sweep plan: fixed flags and a matrix of lists, every combination of which is one run."""

import itertools
import tomllib
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError

MAX_COMBINATIONS = 1000


def read_sweep(path: Path) -> list[dict[str, Any]]:
    """Every combination a plan file stands for, as flag -> value, in the file's order."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no sweep plan at {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    matrix = raw.pop("matrix", {})
    if not isinstance(matrix, dict):
        raise UsageError(f"{path}: matrix must be a table", "[matrix] on a line of its own begins it")
    for key, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: matrix.{key} must be a list with something in it")
    if nested := [key for key, value in raw.items() if isinstance(value, dict)]:
        raise UsageError(
            f"{path}: unknown table [{nested[0]}]", "only [matrix] is a table; flags stand above it"
        )
    combinations = [
        raw | dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())
    ]
    if len(combinations) > MAX_COMBINATIONS:
        raise UsageError(
            f"{path}: {len(combinations)} combinations", f"at most {MAX_COMBINATIONS} in one plan"
        )
    return combinations
