"""What every test may use. The programs, processes and databases are real; only the engine may pretend."""

import importlib.util
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
from types import ModuleType
from typing import Any, Protocol

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Two workers share the cores: a library that takes them all waits, spinning, for threads that don't run.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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


def _module(name: str) -> ModuleType:
    """A module beside the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/devices/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_sysfs() -> ModuleType:
    """The builder of trees; it also runs by itself, hence no package."""
    return _module("fake_sysfs")


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real sshd whose cable can be pulled: `.device`, `.home`, `.board`, `.cut()`, `.kill()`, …"""
    module = _module("ssh_server")
    if module.SSHD is None:
        pytest.skip("no OpenSSH server here: apt install openssh-server")
    pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install -e '.[ssh]'")
    server = module.SshServer(tmp_path_factory.mktemp("ssh"))
    yield server
    server.close()


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
def export_tool() -> Any:
    """The tool environment of the exporters: made once into the developer's cache, like the engine."""
    from edgebench.core.errors import EdgebenchError
    from edgebench.core.tool_env import ensure_tool

    try:
        return ensure_tool("export", lambda line: print(line, file=sys.stderr))
    except EdgebenchError as error:
        pytest.skip(f"the tool environment `export` is not there and can't be made: {error.message}")


@pytest.fixture(scope="session")
def run_in_tool(export_tool: Any) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    """`run_in_tool(kind, job)`: the result of one of the worker's calls, in its tool environment."""
    from edgebench.core import registry
    from edgebench.session_tools import call_tool, make_with

    def call(kind: str, job: Mapping[str, Any]) -> dict[str, Any]:
        def say(line: str) -> None:
            print(line, file=sys.stderr)

        if kind in ("onnx", "genai"):
            return make_with(registry.load("quantizers", kind), job, say, lambda _: None)
        return call_tool(kind, job, say)

    return call


@pytest.fixture(scope="session")
def run_python_in_tool(export_tool: Any) -> Callable[..., str]:
    """`run_python_in_tool(script, *args)`: what a test's own script prints under the tool's interpreter."""

    def call(script: Path, *args: object) -> str:
        done = subprocess.run(
            [str(export_tool.python), "-P", str(script), *map(str, args)],
            env=export_tool.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return call


@pytest.fixture(scope="session")
def smollm2_checkpoint(
    smollm2: Path,
    run_in_tool: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The embedded model as a checkpoint folder: f32 safetensors, its tokenizer rebuilt."""
    folder = tmp_path_factory.mktemp("checkpoint") / "smollm2-135m"
    run_in_tool("dequantize", {"source": str(smollm2), "target": str(folder)})
    return folder


@pytest.fixture(scope="session")
def genai_tool() -> Any:
    """The tool environment of onnxruntime-genai's model builder."""
    from edgebench.core.errors import EdgebenchError
    from edgebench.core.tool_env import ensure_tool

    try:
        return ensure_tool("genai", lambda line: print(line, file=sys.stderr))
    except EdgebenchError as error:
        pytest.skip(f"the tool environment `genai` is not there and can't be made: {error.message}")


@pytest.fixture(scope="session")
def tiny_checkpoint(
    smollm2_checkpoint: Path,
    run_python_in_tool: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A Llama of two small layers and random weights with SmolLM2's tokenizer, in a folder `tiny`."""
    folder = tmp_path_factory.mktemp("tiny_checkpoint") / "tiny"
    script = ROOT / "tests" / "quantize" / "make_adapter.py"
    run_python_in_tool(script, smollm2_checkpoint, folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def native_program() -> Any:
    """`edgebench-native` for this computer, a `Built`: made once (minutes) into the developer's cache."""
    from edgebench.core.errors import EdgebenchError
    from edgebench.runners.native_build import build_here

    try:
        return build_here(lambda line: print(line, file=sys.stderr))
    except EdgebenchError as error:
        pytest.skip(f"the native program is not there and can't be built: {error.message} ({error.hint})")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark questions, which lies beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real benchmark data is not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def model_server() -> ModuleType:
    """The builder of model servers: `with model_server.serve() as server`."""
    spec = importlib.util.spec_from_file_location("model_server", ROOT / "tests/runners/model_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
