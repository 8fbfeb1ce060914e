"""Files over a link that breaks: whole, right, and on from where they were."""

import random

import pytest

from edgebench.core.errors import DeviceError, HostLost
from edgebench.core.hashing import sha256_file
from edgebench.devices import ssh_files
from edgebench.devices.ssh import SshHost

SIZE_BYTES = 300_000


@pytest.fixture
def host(ssh_server, monkeypatch):
    monkeypatch.setenv("HOME", str(ssh_server.home))
    monkeypatch.setattr(ssh_files, "PIECE_BYTES", 100_000)
    opened = SshHost(ssh_server.device)
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(random.Random(1).randbytes(SIZE_BYTES))
    return path


@pytest.fixture
def target(ssh_server, tmp_path):
    return ssh_server.board / tmp_path.name / "deep er" / "it's.bin"


def push(host, file, target):
    """The numbers of bytes that were told on the way."""
    told = []
    host.push(file, str(target), sha256=sha256_file(file), sent=told.append)
    return told


def test_a_file_is_pushed_once(host, file, target):
    assert push(host, file, target) == [0, 100_000, 200_000, 300_000]
    assert target.read_bytes() == file.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert push(host, file, target) == [SIZE_BYTES]


def test_an_empty_file_is_a_file(host, tmp_path, target):
    empty = tmp_path / "empty"
    empty.touch()
    push(host, empty, target)
    assert target.read_bytes() == b""


def test_a_push_goes_on_where_it_was_broken_off(host, file, target):
    def cut(n_bytes):
        if n_bytes == 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.push(file, str(target), sha256=sha256_file(file), sent=cut)
    assert not target.exists()
    assert push(host, file, target) == [200_000, 300_000]
    assert target.read_bytes() == file.read_bytes()


def test_a_push_may_lose_its_connection_again_and_again(host, file, target, ssh_server):
    told = []

    def drop(n_bytes):
        if n_bytes > max(told, default=-1):
            ssh_server.drop()
        told.append(n_bytes)

    for _ in range(8):
        try:
            host.push(file, str(target), sha256=sha256_file(file), sent=drop)
            break
        except HostLost:
            assert not target.exists()
    assert target.read_bytes() == file.read_bytes()
    assert told == sorted(told)  # never back to the start


@pytest.mark.parametrize("left", [b"x" * 150_000, b"y" * 400_000])
def test_a_part_of_something_else_is_begun_anew(host, file, target, left):
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(left)
    told = push(host, file, target)
    assert told[-4:] == [0, 100_000, 200_000, 300_000]
    assert target.read_bytes() == file.read_bytes()


def test_a_file_that_is_not_the_promised_one_does_not_appear(host, file, target):
    with pytest.raises(DeviceError, match="sha256 differs"):
        host.push(file, str(target), sha256="0" * 64, sent=lambda _: None)
    assert list(target.parent.iterdir()) == []


def test_a_file_is_pulled_on_from_its_part(host, file, tmp_path):
    here = tmp_path / "back"
    here.with_name("back.part").write_bytes(file.read_bytes()[:123_456])
    told = []
    host.pull(str(file), here, sha256=sha256_file(file), sent=told.append)
    assert told == [223_456, SIZE_BYTES]
    assert here.read_bytes() == file.read_bytes()


def test_a_damaged_part_is_pulled_anew_and_a_wrong_file_not_kept(host, file, tmp_path):
    here = tmp_path / "back"
    here.with_name("back.part").write_bytes(b"x" * 1000)
    host.pull(str(file), here, sha256=sha256_file(file), sent=lambda _: None)
    assert here.read_bytes() == file.read_bytes()
    with pytest.raises(DeviceError, match="sha256 differs"):
        host.pull(str(file), tmp_path / "other", sha256="0" * 64, sent=lambda _: None)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "other.part").exists()


def test_a_file_that_is_not_there_is_said_so(host, tmp_path, target):
    with pytest.raises(DeviceError, match="No such file"):
        host.pull(str(target), tmp_path / "back", sha256="0" * 64, sent=lambda _: None)
