"""Many runs at once: every combination of a plan file's flags, or of settings with several values."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.core.setting_flags import as_flags

MAX_COMBINATIONS = 1000
WHOLE_TYPES = ("f32", "f16", "bf16")
"""Cache types that are not quantized."""


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
    return [raw | one for one in _product(matrix, f"{path}: ")]


def combinations(values: Mapping[str, Sequence[Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every combination of settings an engine can be told, and remarks on those that are left out.

    `values`: field of `Settings` -> its values. What llama.cpp refuses (a quantized V cache without flash
    attention) is left out; a physical batch above the logical one is the logical one, and is made once. A
    single combination stays as it was asked for: the engine says what it thinks of it.
    """
    every = _product(values, "")
    if len(every) <= 1:
        return every, []
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    cut, refused = set(), False
    for one in every:
        if one.get("flash_attn") == "off" and one.get("type_v", "f16") not in WHOLE_TYPES:
            refused = True
            continue
        if one.get("n_ubatch", 0) > one.get("n_batch", one.get("n_ubatch", 0)):
            cut.add(as_flags(one, ("n_batch", "n_ubatch")))
            one = {**one, "n_ubatch": one["n_batch"]}
        kept.setdefault(tuple(one.values()), one)
    remarks = [f"{flags}: a physical batch is at most the logical one" for flags in sorted(cut)]
    if refused:
        remarks.append("-fa off with a quantized -ctv is left out: llama.cpp refuses it")
    return list(kept.values()), remarks


def _product(values: Mapping[str, Sequence[Any]], where: str) -> list[dict[str, Any]]:
    """UsageError where there are too many."""
    n = 1
    for several in values.values():
        n *= len(several)
    if n > MAX_COMBINATIONS:
        raise UsageError(f"{where}{n} combinations", f"at most {MAX_COMBINATIONS} in one plan")
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]
