"""A small measured database for the verbs that read one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def _measured(
    tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], write_toy: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    models = ",".join(write_toy(folder, level, seed=i).name for i, level in enumerate(("q8_0", "q4_0")))
    flags = ("-p", "8", "-n", "4", "--chat", "4", "-r", "3", "--limit", "24", "--noise-floor")
    done = edgebench_in(folder)("run", "-m", models, *flags)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def measured(_measured: Path, tmp_path: Path) -> Path:
    """Two levels, measured with the pretend engine, in the test's own folder: free to be changed."""
    for path in _measured.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path / "edgebench.sqlite"
