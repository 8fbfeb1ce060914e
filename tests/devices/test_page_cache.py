"""What is in the page cache: real files, read and dropped."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgebench.devices.page_cache import evict, resident_share

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page cache is asked for on Linux only")

SIZE = 8 * 2**20


def write(path: Path, size: int = SIZE) -> Path:
    path.write_bytes(os.urandom(size))
    return path


@pytest.fixture
def droppable(tmp_path: Path) -> Path:
    """A file on a file system that can forget its pages."""
    path = write(tmp_path / "weights")
    if not evict(path):
        pytest.skip("the test's folder is on a file system that keeps everything in memory")
    return path


def test_written_file_is_there_until_it_is_dropped(tmp_path: Path, droppable: Path) -> None:
    fresh = write(tmp_path / "fresh")
    assert resident_share(fresh) == 1.0
    assert evict(fresh)
    left = resident_share(fresh)
    assert left is not None
    assert left < 0.01


def test_asking_brings_nothing_in(droppable: Path) -> None:
    assert [resident_share(droppable) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_reading_half_of_it_brings_in_half(droppable: Path) -> None:
    with droppable.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead past the half
        for _ in range(SIZE // 2 // 4096):
            file.read(4096)
    assert resident_share(droppable) == pytest.approx(0.5, abs=0.02)
    assert droppable.read_bytes()
    assert resident_share(droppable) == 1.0


def test_mapped_pages_stay(droppable: Path) -> None:
    import mmap

    with droppable.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert sum(view[i] for i in range(0, SIZE, 4096)) > 0
        assert not evict(droppable)
        assert resident_share(droppable) == 1.0
    assert evict(droppable)


def test_folder_counts_its_files_by_size(tmp_path: Path, droppable: Path) -> None:
    folder = tmp_path / "export"
    (folder / "inside").mkdir(parents=True)
    small, large = write(folder / "model.onnx", SIZE // 4), write(folder / "inside" / "data", 3 * SIZE // 4)
    (folder / "empty").touch()
    assert resident_share(folder) == 1.0
    assert evict(large)
    assert resident_share(folder) == pytest.approx(0.25, abs=0.01)
    assert evict(folder)
    assert resident_share(small) == 0.0


def test_links_lead_to_their_files(tmp_path: Path, droppable: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(droppable)
    assert resident_share(folder) == 0.0
    droppable.read_bytes()
    assert resident_share(folder) == 1.0


def test_nothing_to_ask_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name in ("empty", "folder", "absent"):
        assert resident_share(tmp_path / name) is None
        assert not evict(tmp_path / name)


def test_file_of_somebody_else_is_not_known() -> None:
    """The kernel would say that all of it is there; one such file leaves a whole folder unknown."""
    theirs = Path("/etc/passwd")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        with nobody():
            check_unknown(folder, theirs)


def check_unknown(folder: Path, theirs: Path) -> None:
    write(folder / "weights")
    assert resident_share(folder) == 1.0
    assert resident_share(theirs) is None
    (folder / "config").symlink_to(theirs)
    assert resident_share(folder) is None
    assert not evict(folder)


@contextmanager
def nobody() -> Iterator[None]:
    """As a user without rights, where the test's own has them all."""
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
