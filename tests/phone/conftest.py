"""Phones for tests: stand-ins behind a real adb. Where there can be none, tests are skipped and say why."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from stand_in.adb_server import MISLEADING, AdbServer
from stand_in.packages import NotHere
from stand_in.phone import Phone


@contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except NotHere as reason:
        pytest.skip(f"stand-in phone: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test asks for more than this machine can do: the limits of a cgroup, say."""
    with _or_skip():
        yield


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """An adb server of these tests' own; adb, adbutils and edgebench find it by the environment."""
    with _or_skip():
        server = AdbServer(tmp_path_factory.mktemp("adb"))
    with pytest.MonkeyPatch.context() as patch:
        for name in MISLEADING:
            patch.delenv(name, raising=False)
        for name, value in server.variables.items():
            patch.setenv(name, value)
        yield server
    server.close()


@pytest.fixture(scope="module")
def phone(adb_server: AdbServer) -> Iterator[Phone]:
    """A Pixel 8 at this machine's speed (x86_64), reset after each test: `Phone.reset` says what that is."""
    with _or_skip():
        phone = Phone(adb_server)
    yield phone
    phone.close()


@pytest.fixture(autouse=True)
def _phone_as_new(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "phone" in request.fixturenames:
        request.getfixturevalue("phone").reset()


@pytest.fixture
def make_phone(adb_server: AdbServer) -> Iterator[Callable[..., Phone]]:
    """`make_phone(abi="arm64-v8a", …)`: another phone, for one test; see `Phone` for what it may be."""
    made: list[Phone] = []

    def make(**kwargs: Any) -> Phone:
        with _or_skip():
            made.append(Phone(adb_server, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()
