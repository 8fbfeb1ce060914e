"""A number's name ends in its unit; counts begin with `n_`; nothing is kept in ms, MB or percent."""

import dataclasses
import re
import sqlite3
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgebench.results.store import Store

UNITS = (
    *(
        "_s",
        "_ns",
        "_j",
        "_w",
        "_c",
        "_hz",
        "_bytes",
        "_bytes_per_token",
        "_tokens_per_s",
        "_j_per_token",
        "_index",
    ),
    *("_rate", "_share", "_acc", "_id", "_nats"),
)
COUNTED = re.compile(r"n_\w+")
KNOWN = {
    *("n", "i", "id", "seed", "limit", "repetition", "repetitions", "repeat", "rounds"),  # counts and keys
    *("rotation", "token", "position", "start", "num_fewshot"),
    *("on_battery", "medical", "git_dirty", "throttled", "same_top"),  # 0 or 1
    *("headline", "step", "accuracy", "correlation"),  # 0 or 1; in the meter's unit; shares
    *("correct", "correct_norm", "correct_a", "correct_b", "correct_bytes", "acc", "target_ci", "macro_f1"),
    *("value", "ci_low", "ci_high"),  # the unit stands beside them: in `unit`, or in `metric`
    *(
        "logprob",
        "bits_per_weight",
        "p_holm",
        "scale",
        "ppl",
        "greedy_same",
    ),  # nats, bits, plain numbers, tokens
}
FORBIDDEN = re.compile(
    r"(^|_)(ms|us|min|kb|mb|gb|kib|mib|gib|wh|mwh|kwh|mj|mw|pct|percent)(_|$)"
    r"|^(time|latency|memory|size|energy|power|duration|temperature|frequency|speed)$"
)


def is_number(hint: object) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(is_number(choice) for choice in typing.get_args(hint))
    return hint in (int, float)


def fields(modules: list[ModuleType]) -> Iterator[tuple[str, str, bool]]:
    """(where, name, is a number) of every field of every dataclass of the package."""
    for module in modules:
        for thing in vars(module).values():
            own = isinstance(thing, type) and thing.__module__ == module.__name__
            if own and dataclasses.is_dataclass(thing):
                hints = typing.get_type_hints(thing)
                for field in dataclasses.fields(thing):
                    yield f"{module.__name__}.{thing.__name__}", field.name, is_number(hints[field.name])


def columns(path: Path) -> Iterator[tuple[str, str, bool]]:
    """(table, name, is a number) of every column of the database."""
    Store.open(path).close()
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        for (table,) in tables.fetchall():
            for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})"):
                yield table, name, kind in ("INTEGER", "REAL")
    finally:
        connection.close()


def has_unit(name: str) -> bool:
    return name in KNOWN or name.endswith(UNITS) or COUNTED.fullmatch(name) is not None


def check(named: list[tuple[str, str, bool]]) -> None:
    assert len(named) > 50
    assert [f"{where}.{name}" for where, name, number in named if number and not has_unit(name)] == []
    assert [f"{where}.{name}" for where, name, _ in named if FORBIDDEN.search(name)] == []


def test_fields_end_in_their_unit(modules: list[ModuleType]) -> None:
    check(list(fields(modules)))


def test_columns_end_in_their_unit(tmp_path: Path) -> None:
    check(list(columns(tmp_path / "edgebench.sqlite")))


@pytest.mark.parametrize("name", ["ttft_ms", "size_mb", "latency", "energy_kwh", "drop_pct", "wait", "t_min"])
def test_the_guard_sees_a_wrong_name(name: str) -> None:
    assert FORBIDDEN.search(name) or not has_unit(name)
