"""All families together: their order, the one that breaks, and which meter is the headline."""

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core import registry
from edgebench.core.energy import (
    Absence,
    Meter,
    MeterFacts,
    MeterSource,
    Method,
    Sample,
    Scope,
    SourceStatus,
)
from edgebench.core.errors import MissingDependency
from edgebench.devices.meters.catalog import PREFERENCE, headline, open_all, probe_all

GPU_SCOPES = {Scope.GPU_BOARD, Scope.GPU_MODULE}


def facts(scope: Scope, method: Method = Method.COUNTER, source: str = "") -> MeterFacts:
    return MeterFacts(
        source=source or f"x:{scope}", scope=scope, method=method, step=1e-3, update_s=0.1, minimum_s=5.0
    )


class Still:
    """A meter that stands still."""

    def __init__(self, own: MeterFacts) -> None:
        self.facts = own

    def read(self) -> Sample:
        return Sample(0.0, 0.0)

    def close(self) -> None:
        """Nothing to do."""


class Family:
    """A family with a usable source of each scope told."""

    def __init__(self, name: str, *scopes: Scope) -> None:
        self.name = name
        self._facts = [facts(scope, source=f"{name}:{scope}") for scope in scopes]

    def probe(self) -> list[SourceStatus]:
        told = [SourceStatus(source=f.source, title="t", scope=f.scope, facts=f) for f in self._facts]
        return told or [
            SourceStatus(source=self.name, title="t", scope=None, reason=Absence.NO_SENSOR, why="w")
        ]

    def open(self) -> list[Meter]:
        return [Still(own) for own in self._facts]


class Broken(Family):
    def probe(self) -> list[SourceStatus]:
        raise ZeroDivisionError("a plug-in's\nmistake")

    def open(self) -> list[Meter]:
        raise ZeroDivisionError("again")


def not_importable() -> MeterSource:
    raise MissingDependency("meter 'gone' can't be imported: no module of that name")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Callable[[], Any]]], None]:
    """Makes these the only families."""

    def put(families: Mapping[str, Callable[[], Any]]) -> None:
        monkeypatch.setattr(registry, "names", lambda kind: sorted(families) if kind == "meters" else [])
        monkeypatch.setattr(registry, "load", lambda kind, name: families[name]())

    return put


def test_widest_scope_comes_first_and_what_has_none_last(install: Callable[[Any], None]) -> None:
    install(
        {
            "a": lambda: Family("a"),
            "b": lambda: Family("b", Scope.PACKAGE, Scope.PLATFORM),
            "c": lambda: Family("c", Scope.GPU_BOARD, Scope.BATTERY),
        }
    )
    expected = ["c:battery", "c:gpu_board", "b:platform", "b:package"]
    assert [status.source for status in probe_all()] == [*expected, "a"]
    assert [meter.facts.source for meter in open_all()] == expected


def test_family_that_breaks_is_a_line_and_the_others_stay(install: Callable[[Any], None]) -> None:
    install(
        {
            "bad": lambda: Broken("bad"),
            "gone": not_importable,
            "good": lambda: Family("good", Scope.PACKAGE),
            "odd": lambda: object(),
        }
    )
    usable, *lines = probe_all()
    assert usable.source == "good:package"
    assert [line.source for line in lines] == ["bad", "gone", "odd"]
    assert {line.reason for line in lines} == {Absence.UNREADABLE}
    assert "a plug-in's mistake" in lines[0].why
    assert "can't be imported" in lines[1].why
    assert [meter.facts.source for meter in open_all()] == ["good:package"]


def test_families_of_the_package_are_all_found_by_their_names() -> None:
    assert {"amdsmi", "apple", "nvml", "pi"} <= set(registry.names("meters"))
    for name in ("amdsmi", "apple", "nvml", "pi"):
        assert registry.load("meters", name).name == name


def test_every_scope_has_its_place() -> None:
    assert sorted(PREFERENCE) == sorted(Scope)


@pytest.mark.parametrize(
    ("scopes", "on_gpu", "chosen"),
    [
        ((Scope.PACKAGE, Scope.WALL, Scope.BATTERY, Scope.PLATFORM), False, Scope.WALL),
        ((Scope.PACKAGE, Scope.BATTERY, Scope.PLATFORM), False, Scope.BATTERY),
        ((Scope.PACKAGE, Scope.PLATFORM, Scope.GPU_BOARD), False, Scope.PLATFORM),
        ((Scope.PACKAGE, Scope.GPU_BOARD), False, Scope.PACKAGE),
        ((Scope.PACKAGE, Scope.GPU_BOARD, Scope.PLATFORM), True, Scope.GPU_BOARD),
        ((Scope.BATTERY, Scope.GPU_BOARD), True, Scope.BATTERY),
        ((Scope.PACKAGE, Scope.SOC_MODEL), True, Scope.PACKAGE),
        ((Scope.GPU_BOARD,), False, None),
        ((), True, None),
    ],
)
def test_headline_is_the_widest_that_says_something(
    scopes: tuple[Scope, ...], on_gpu: bool, chosen: Scope | None
) -> None:
    for order in permutations(map(facts, scopes)):
        found = headline(order, on_gpu=on_gpu)
        assert (found.scope if found else None) == chosen


def test_of_one_scope_the_counter_is_taken_and_then_the_first() -> None:
    sampled = facts(Scope.GPU_BOARD, Method.SAMPLED, "nvml:0:power")
    first, second = (facts(Scope.GPU_BOARD, source=f"nvml:{i}") for i in range(2))
    assert headline([sampled, first, second], on_gpu=True) is first


@given(st.lists(st.builds(facts, st.sampled_from(Scope), st.sampled_from(Method)), max_size=8), st.booleans())
def test_headline_is_one_of_those_given_or_none(known: list[MeterFacts], on_gpu: bool) -> None:
    found = headline(known, on_gpu=on_gpu)
    fitting = [f for f in known if on_gpu or f.scope not in GPU_SCOPES]
    assert (found is None) == (not fitting)
    if found is not None:
        assert found in fitting
        assert PREFERENCE.index(found.scope) == min(PREFERENCE.index(f.scope) for f in fitting)
