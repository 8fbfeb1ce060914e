"""Files to and from a phone over a link that breaks: whole, right, once, and on from where they were."""

import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.core.errors import DeviceError, HostLost
from edgebench.core.hashing import sha256_file
from edgebench.devices import adb_files, ssh_files
from edgebench.devices.adb import AdbHost

SIZE_BYTES = 300_000
ADDRESS = "192.168.1.20:41567"

pytestmark = pytest.mark.skipif(
    shutil.which("flock") is None or shutil.which("sha256sum") is None,
    reason="these tests need flock and sha256sum, which every phone has and this computer has not",
)


def _fake_adb():
    spec = importlib.util.spec_from_file_location("fake_adb", Path(__file__).with_name("fake_adb.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_adb"] = module
    spec.loader.exec_module(module)
    return module


fake_adb = _fake_adb()


@pytest.fixture
def phone(monkeypatch):
    """A phone on the network."""
    server = fake_adb.FakeAdb()
    server.reachable[ADDRESS] = server.phones[ADDRESS] = fake_adb.FakePhone()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
    yield server.phones[ADDRESS]
    server.close()


@pytest.fixture
def host(phone, monkeypatch):
    monkeypatch.setattr(adb_files, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(ssh_files, "PIECE_BYTES", 100_000)
    return AdbHost(f"adb:{ADDRESS}")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(random.Random(1).randbytes(SIZE_BYTES))
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "phone" / "deep er" / "it's.bin"


def push(host, file, target):
    """The numbers of bytes that were told on the way."""
    told = []
    host.push(file, str(target), sha256=sha256_file(file), sent=told.append)
    return told


def write(target, piece, offset, length):
    """One piece, as it comes to the phone."""
    words = ["sh", "-c", adb_files._WRITE, "sh", str(target), "name", str(offset), str(length)]
    return subprocess.run(words, input=piece, capture_output=True, check=True).stdout.decode().strip()


def test_a_file_is_pushed_once(host, file, target):
    assert push(host, file, target) == [0, 100_000, 200_000, 300_000]
    assert target.read_bytes() == file.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert push(host, file, target) == [SIZE_BYTES]


@pytest.mark.parametrize(("here", "there"), [(0o700, 0o755), (0o600, 0o644), (0o666, 0o644)])
def test_what_may_be_run_here_may_be_run_there_and_nothing_is_written_by_others(
    host, file, target, here, there
):
    file.chmod(here)
    push(host, file, target)
    assert target.stat().st_mode & 0o777 == there
    assert target.parent.stat().st_mode & 0o777 == 0o755


def test_an_empty_file_is_a_file(host, tmp_path, target):
    empty = tmp_path / "empty"
    empty.touch()
    push(host, empty, target)
    assert target.read_bytes() == b""
    assert len(list(target.parent.iterdir())) == 1


def test_a_push_goes_on_where_it_was_broken_off(host, file, target):
    def cut(n_bytes):
        if n_bytes == 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.push(file, str(target), sha256=sha256_file(file), sent=cut)
    assert not target.exists()
    assert push(host, file, target) == [200_000, 300_000]
    assert target.read_bytes() == file.read_bytes()


def test_a_push_may_lose_its_link_within_each_piece(host, phone, file, target):
    told, n_lost = [], 0

    def sent(n_bytes):
        phone.drops_after = 1 if n_bytes not in told else None  # half of the next piece is across then
        told.append(n_bytes)

    for _ in range(5):
        try:
            host.push(file, str(target), sha256=sha256_file(file), sent=sent)
            break
        except HostLost:
            n_lost += 1
            assert not target.exists()
            phone.drops_after = None
    assert n_lost == 3
    assert told == sorted(told)  # never back to the start
    assert target.read_bytes() == file.read_bytes()
    assert len(list(target.parent.iterdir())) == 1  # nothing of the broken tries is left


@pytest.mark.parametrize("left", [b"x" * 150_000, b"y" * 400_000])
def test_a_part_of_something_else_is_begun_anew(host, file, target, left):
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(left)
    assert push(host, file, target)[-4:] == [0, 100_000, 200_000, 300_000]
    assert target.read_bytes() == file.read_bytes()


def test_a_part_that_ends_anywhere_is_gone_on_with(host, file, target):
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(file.read_bytes()[:123_457])
    assert push(host, file, target) == [123_457, 223_457, SIZE_BYTES]
    assert target.read_bytes() == file.read_bytes()


def test_a_file_that_is_not_the_promised_one_does_not_appear(host, file, target):
    with pytest.raises(DeviceError, match="sha256 differs"):
        host.push(file, str(target), sha256="0" * 64, sent=lambda _: None)
    assert list(target.parent.iterdir()) == []


def test_pieces_that_are_late_twice_or_cut_are_dropped(target):
    target.parent.mkdir(parents=True)
    assert write(target, b"abc", 0, 3) == "3"
    assert write(target, b"abc", 0, 3) == "3"  # a second time
    assert write(target, b"d", 3, 3) == "3"  # its sender was cut off
    assert write(target, b"ghi", 6, 3) == "3"  # out of turn
    assert write(target, b"def", 3, 3) == "6"
    assert [path.name for path in target.parent.iterdir()] == [f"{target.name}.part"]
    assert target.with_name(f"{target.name}.part").read_bytes() == b"abcdef"
    target.write_bytes(b"whole")
    assert write(target, b"ghi", 6, 3) == "whole"  # another one was quicker
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_that_does_not_grow_is_given_up(host, file, target, monkeypatch):
    monkeypatch.setattr(adb_files, "_WRITE", "cat >/dev/null; echo 0")
    with pytest.raises(DeviceError, match="does not grow"):
        push(host, file, target)


def test_a_folder_that_can_not_be_made_is_said(host, file, tmp_path):
    (tmp_path / "phone").touch()
    with pytest.raises(DeviceError, match=r"sh: mkdir: .*phone"):
        push(host, file, tmp_path / "phone" / "x" / "file")


def test_a_file_is_pulled_on_from_its_part(host, file, tmp_path):
    here = tmp_path / "back"
    here.with_name("back.part").write_bytes(file.read_bytes()[:123_456])
    told = []
    host.pull(str(file), here, sha256=sha256_file(file), sent=told.append)
    assert told == [223_456, SIZE_BYTES]
    assert here.read_bytes() == file.read_bytes()


def test_a_wrong_file_is_not_kept_and_one_that_is_not_there_said_so(host, file, tmp_path):
    with pytest.raises(DeviceError, match="sha256 differs"):
        host.pull(str(file), tmp_path / "other", sha256="0" * 64, sent=lambda _: None)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "other.part").exists()
    with pytest.raises(DeviceError, match="No such file"):
        host.pull(str(tmp_path / "nothing"), tmp_path / "back", sha256="0" * 64, sent=lambda _: None)
