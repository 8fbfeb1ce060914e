"""Which phone a name stands for, and which of its processors a request may ask for."""

from types import SimpleNamespace
from typing import Any

import pytest

from edgebench import session_phone
from edgebench.core.errors import DeviceError, UsageError
from edgebench.devices import adb
from edgebench.devices.adb import Attached
from edgebench.session_plan import Request


class Ear:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Any:
    def attach(*there: Attached) -> None:
        for module in (session_phone, adb):
            monkeypatch.setattr(module, "attached", lambda: list(there))
        monkeypatch.setattr(adb, "_on_network", list)

    return attach


def reach(name: str) -> None:
    with session_phone.reach_phone(name, Ear()):  # type: ignore[arg-type]
        raise AssertionError("there is none")


@pytest.mark.parametrize("name", ["pixel8", "auto"])
def test_a_phone_that_asks_to_be_allowed_is_to_be_tapped_not_named_otherwise(attach: Any, name: str) -> None:
    attach(Attached("R3X", "unauthorized", None))
    with pytest.raises(DeviceError) as caught:
        reach(name)
    assert "tap Allow" in str(caught.value.hint)
    assert "R3X: unauthorized" in str(caught.value.hint)
    assert "--device" not in str(caught.value.hint)


@pytest.mark.parametrize("name", ["adb:", "local", "nokia", "ssh:board"])
def test_what_is_no_phone_s_name_is_told_before_any_phone_is_asked(attach: Any, name: str) -> None:
    attach(Attached("R3X", "device", "Pixel 8"))
    with pytest.raises(UsageError, match="phone") as caught:
        reach(name)
    assert "adb:SERIAL" in str(caught.value.hint)


def place(*cpus: int) -> Any:
    device = SimpleNamespace(name="Pixel 8", facts={"clusters": [{"cpus": list(cpus)}] if cpus else []})
    return SimpleNamespace(site=SimpleNamespace(device=device))


def check(request: Request, *cpus: int) -> list[str]:
    ear = Ear()
    session_phone._check_processors(request, place(*cpus), ear)  # type: ignore[arg-type]
    return ear.said


def test_processors_that_a_phone_has_not_are_refused() -> None:
    with pytest.raises(UsageError, match="-C 0xf0: Pixel 8 has processors 0 to 3 only"):
        check(Request(n_threads=2, cpu_mask="0xf0"), 0, 1, 2, 3)


@pytest.mark.parametrize(
    ("request_", "n_allowed"),
    [
        (Request(n_threads=64), 4),
        (Request(n_threads=2, cpu_mask="0x8"), 1),
        (Request(n_threads=4, cpu_mask="f6"), 2),
    ],
)
def test_threads_that_outnumber_their_processors_are_told(request_: Request, n_allowed: int) -> None:
    (line,) = check(request_, 0, 1, 2, 3)
    assert line.startswith(f"-t {request_.n_threads} on {n_allowed} processors: ")


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(n_threads=4),
        Request(n_threads=2, cpu_mask="c"),
        Request(n_threads=1, cpu_mask="ff"),
    ],
)
def test_what_fits_is_let_pass_without_a_word(request_: Request) -> None:
    assert check(request_, 0, 1, 2, 3) == []


def test_of_a_phone_that_does_not_tell_its_processors_nothing_is_said() -> None:
    assert check(Request(n_threads=64, cpu_mask="f0")) == []
