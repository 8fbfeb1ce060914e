"""What the tests of meters share: trees that stand for sysfs, a clock, a pretend NVML."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NOBODY = 65534


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree that stands for /sys: named by a relative path, so that `nobody` can walk to it."""
    tmp_path.chmod(0o755)
    root = Path("sys")
    root.mkdir()
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(root))
    return root


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """`with unprivileged():` the kernel checks file modes, also where the tests run as root."""

    @contextmanager
    def enter() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        try:
            os.seteuid(NOBODY)
        except OSError:
            pytest.skip("this root can't become nobody")
        try:
            yield
        finally:
            os.seteuid(0)

    return enter


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the meters of sysfs see."""
    made = Clock()
    for meter in ("rapl", "hwmon", "battery"):
        monkeypatch.setattr(f"edgebench.devices.meters.{meter}.time", made)
    return made


@pytest.fixture(scope="session")
def fake_nvml() -> ModuleType:
    """The module of the pretend NVML: `Gpu`, `FakeNvml`, `Bare`, `process`."""
    spec = importlib.util.spec_from_file_location("fake_nvml", Path(__file__).with_name("fake_nvml.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu(fake_nvml: Any) -> Any:
    """The one GPU that there is; a test bends what it answers."""
    return fake_nvml.Gpu()


@pytest.fixture
def nvml(fake_nvml: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pretend NVML in the place of NVIDIA's bindings."""
    fake = fake_nvml.FakeNvml(gpu)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    return fake
