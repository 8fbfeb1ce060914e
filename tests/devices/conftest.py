"""What the tests of meters that read sysfs share."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

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
