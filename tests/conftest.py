"""What every test may use. The programs, processes and databases are real; only the engine may pretend."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


class Edgebench(Protocol):
    """Runs `edgebench ARGS` for real and waits for it."""

    def __call__(
        self, *args: object, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]": ...


class Toy(Protocol):
    """Writes a model of the pretend engine."""

    def __call__(self, level: str = "q8_0", **script: Any) -> Path: ...


class Start(Protocol):
    """Starts `edgebench ARGS` and does not wait for it."""

    def __call__(self, *args: object) -> "subprocess.Popen[str]": ...


Rows = Callable[..., list[dict[str, Any]]]


def _environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the developer's own edgebench settings; the cache stays."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EDGEBENCH_") or k == "EDGEBENCH_CACHE"}
    return {**kept, "XDG_CONFIG_HOME": str(folder / ".config"), **(more or {})}


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's configuration, or writes where they work."""
    for name in os.environ:
        if name.startswith("EDGEBENCH_") and name != "EDGEBENCH_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def edgebench_in() -> Callable[[Path], Edgebench]:
    """`edgebench_in(folder)(…)`: for fixtures that live longer than one test."""

    def at(folder: Path) -> Edgebench:
        def call(
            *args: object, env: Mapping[str, str] | None = None, timeout: float = 120
        ) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [sys.executable, "-m", "edgebench", *map(str, args)],
                cwd=folder,
                env=_environment(folder, env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=timeout,
                check=False,
            )

        return call

    return at


@pytest.fixture
def edgebench(tmp_path: Path, edgebench_in: Callable[[Path], Edgebench]) -> Edgebench:
    """`edgebench ARGS` in the test's own folder, for real."""
    return edgebench_in(tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`edgebench ARGS` in the background; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def call(*args: object) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "edgebench", *map(str, args)],
                cwd=tmp_path,
                env=_environment(tmp_path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                # Where pytest runs in the background, Ctrl-C is ignored, and that would be inherited.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def write_toy() -> Callable[..., Path]:
    """`write_toy(folder, level, **script)`."""

    def write(folder: Path, level: str = "q8_0", *, name: str = "toy", **script: Any) -> Path:
        path = folder / f"{name}-{level}.synthetic.json"
        path.write_text(json.dumps({"edgebench": "synthetic", "level": level, **script}), encoding="utf-8")
        return path

    return write


@pytest.fixture
def toy(tmp_path: Path, write_toy: Callable[..., Path]) -> Toy:
    """A model of the pretend engine in the test's folder: `toy("q4_0", seed=2, dies_after=10)`."""

    def write(level: str = "q8_0", **script: Any) -> Path:
        return write_toy(tmp_path, level, **script)

    return write


@pytest.fixture(scope="session")
def rows() -> Rows:
    """`rows(database, sql, *params)`: what a query yields, as dicts."""

    def query(database: Path, sql: str, *params: object) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, params)]

    return query


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """`wait_until(condition)`: its first true value; fails after a minute."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.02)
        pytest.fail("waited a minute in vain")

    return wait


@pytest.fixture(scope="session")
def workers() -> Callable[[int], list[psutil.Process]]:
    """`workers(pid)`: the measuring processes a running edgebench has right now."""

    def find(pid: int) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(pid).children(recursive=True):
            try:
                if "edgebench.session_worker" in child.cmdline():
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    return find


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded model's file, fetched once."""
    pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: edgebench runners build llama_cpp"
    )
    from edgebench.core.errors import EdgebenchError
    from edgebench.session_models import DEFAULT_MODEL, resolve

    try:
        return resolve(DEFAULT_MODEL, lambda line: print(line, file=sys.stderr)).path
    except EdgebenchError as error:
        pytest.skip(f"the embedded model is not in the cache and can't be fetched: {error.message}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark questions, which lies beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real benchmark data is not there: {folder}")
    return folder
