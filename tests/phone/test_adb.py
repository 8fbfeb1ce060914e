"""adb for real: Google's daemon, Android's shell and toybox, a cable that can be pulled."""

import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from edgebench.core.errors import DeviceError, HostLost
from edgebench.core.hashing import sha256_file
from edgebench.core.host import JobState
from edgebench.devices import adb_files, adb_server
from edgebench.devices.adb import AdbHost, attached, connect, find_phone

ROOT = "/data/local/tmp/edgebench-adb"
SIZE_BYTES = 2_500_000


@pytest.fixture
def host(phone, monkeypatch):
    monkeypatch.setattr(adb_files, "PIECE_BYTES", 500_000)
    opened = AdbHost(f"adb:{phone.serial}")
    yield opened
    for job in ("one", "two"):
        opened.stop(root=ROOT, job=job)
    opened.run(["rm", "-rf", ROOT])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(random.Random(1).randbytes(SIZE_BYTES))
    return path


def push(host, file, target, sent=lambda _: None, **more):
    host.push(file, target, sha256=sha256_file(file), sent=sent, **more)


def test_arguments_and_bytes_pass_through_as_they_are(host):
    words = ["a b", "'", '"', "$HOME `id` $(id)", "*", "\\n", "zwölf", "", "-n", ";"]
    told = host.run(["sh", "-c", 'for w; do printf "%s|" "$w"; done', "sh", *words])
    assert told == "".join(f"{word}|" for word in words)
    data = bytes(range(256)) * 20_000
    assert host._bytes(["cat"], given=data) == data
    assert host.run(["true"], given=bytes(5_000_000)) == ""
    assert host.run(["cat"]) == ""


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["nosuchcommand"], "nosuchcommand: inaccessible or not found"),
        (["sh", "-c", "exit 7"], "ended with 7 and gave no reason"),
        (["cat", "/no/such"], "No such file"),
        (["sh", "-c", "echo x >/dev/full"], "the storage is full"),
    ],
)
def test_a_command_that_fails_is_told_in_a_line(host, argv, told):
    with pytest.raises(DeviceError, match=told) as caught:
        host.run(argv)
    assert not isinstance(caught.value, HostLost)


def test_the_phone_tells_what_it_is(host, phone):
    assert host.getprop()["ro.product.model"] == "Pixel 8"
    assert [(one.state, one.model) for one in attached() if one.serial == phone.serial] == [
        ("device", "Pixel 8")
    ]
    assert find_phone(phone.serial).name == host.name


def test_a_job_runs_alone_under_androids_shell_and_is_stopped(host, wait_until):
    assert host.look(root=ROOT, job="one", offset=0).state is JobState.ABSENT
    assert host.start(["sh", "-c", r"printf 'a\000\377\r\n'; sleep 60"], root=ROOT, job="one") is None
    look = wait_until(lambda: (seen := host.look(root=ROOT, job="one", offset=0)).output and seen)
    assert (look.state, look.output) == (JobState.RUNNING, b"a\x00\xff\r\n")
    assert host.start(["true"], root=ROOT, job="two") == "one"
    host.stop(root=ROOT, job="two")  # has no say
    assert host.look(root=ROOT, job="one", offset=3).output == b"\r\n"
    host.stop(root=ROOT, job="one")
    assert wait_until(lambda: _over(host, "one")).exit_status == "143"
    assert host.start(["sh", "-c", "exit 3"], root=ROOT, job="two") is None
    assert wait_until(lambda: _over(host, "two")).exit_status == "3"


def test_a_job_that_was_killed_outright_is_dead(host, wait_until):
    host.start(["sh", "-c", "echo began; sleep 60"], root=ROOT, job="one")
    wait_until(lambda: host.look(root=ROOT, job="one", offset=0).output)
    group = host.run(["cat", f"{ROOT}/runs/one/pid"]).strip()
    host.run(["sh", "-c", 'kill -s KILL -- "-$1"', "sh", group])
    look = wait_until(
        lambda: (found := host.look(root=ROOT, job="one", offset=0)).state is not JobState.RUNNING and found
    )
    assert (look.state, look.output) == (JobState.DEAD, b"began\n")


def test_a_pulled_cable_is_noticed_and_the_job_goes_on(host, phone, wait_until):
    assert host.start(["sh", "-c", "sleep 2; echo done"], root=ROOT, job="one") is None
    phone.cut()
    with pytest.raises(HostLost, match="no answer in 1 s"):
        host.look(root=ROOT, job="one", offset=0, deadline_s=1)
    with pytest.raises(HostLost, match="can't be reached"):
        host.look(root=ROOT, job="one", offset=0, deadline_s=1)
    phone.mend()
    look = wait_until(lambda: _found(lambda: _over(host, "one")))
    assert (look.exit_status, look.output) == ("0", b"done\n")


def test_an_adb_daemon_that_was_killed_is_found_again_and_the_job_goes_on(host, phone, wait_until):
    host.start(["sleep", "60"], root=ROOT, job="one")
    _kill_adbd(phone)
    assert wait_until(lambda: _found(lambda: host.run(["echo", "back"], deadline_s=5))) == "back\n"
    assert host.look(root=ROOT, job="one", offset=0).state is JobState.RUNNING


def test_a_phone_that_is_switched_off_and_on_has_a_dead_job(host, phone, wait_until):
    host.start(["sleep", "60"], root=ROOT, job="one")
    phone.stop()
    with pytest.raises(HostLost):
        host.run(["true"], deadline_s=2)
    phone.start()
    assert (
        wait_until(lambda: _found(lambda: host.look(root=ROOT, job="one", offset=0))).state is JobState.DEAD
    )


def test_a_push_is_resumed_after_a_cut_in_the_middle(host, phone, file, wait_until):
    told, target = [], f"{ROOT}/models/it's a/file.gguf"

    def sent(n_bytes):
        told.append(n_bytes)
        if n_bytes == 1_000_000 and len(told) == 3:
            phone.cut()

    with pytest.raises(HostLost):
        push(host, file, target, sent, deadline_s=2)
    phone.mend()
    wait_until(lambda: _found(lambda: push(host, file, target, sent, deadline_s=5) or True))
    assert told == sorted(told)
    assert host.run(["ls", f"{ROOT}/models/it's a"]) == "file.gguf\n"
    assert host.run(["sha256sum", target]).split()[0] == sha256_file(file)
    assert host.run(["stat", "-c", "%a", target, f"{ROOT}/models"]).split() == ["644", "755"]


def test_a_program_can_be_run_and_a_file_comes_back(host, tmp_path, file):
    program = tmp_path / "program"
    program.write_text("#!/system/bin/sh\necho ran\n")
    program.chmod(0o755)
    push(host, program, f"{ROOT}/bin/program")
    assert host.run([f"{ROOT}/bin/program"]) == "ran\n"
    push(host, file, f"{ROOT}/file")
    host.pull(f"{ROOT}/file", tmp_path / "back", sha256=sha256_file(file), sent=lambda _: None)
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_a_full_disk_is_one_clear_error_and_no_file(make_phone, file):
    small = make_phone(disk_bytes=2 * 2**20)
    host = AdbHost(f"adb:{small.serial}")
    with pytest.raises(DeviceError, match="the storage is full") as caught:
        push(host, file, f"{ROOT}/file")
    assert not isinstance(caught.value, HostLost)
    assert f"edgebench devices clean {host.name}" in caught.value.hint
    assert "file\n" not in host.run(["ls", ROOT])
    assert not any("piece" in name for name in host.run(["ls", ROOT]).split())


def test_a_port_there_is_reached_by_one_here(host, wait_until):
    script = "while :; do echo hello | nc -s 127.0.0.1 -p 4711 -l; done"
    host.start(["sh", "-c", script], root=ROOT, job="one")

    def greeting(near):
        with socket.create_connection(("127.0.0.1", near), timeout=10) as client:
            return client.recv(100)

    with host.forward(4711) as near:
        assert wait_until(lambda: greeting(near)) == b"hello\n"
    assert adb_server.answer("host:list-forward") == ""


def test_a_phone_that_does_not_know_this_computer_says_what_to_tap(make_phone):
    shy = make_phone(secure=True)
    host = AdbHost(f"adb:{shy.serial}")
    with pytest.raises(DeviceError, match="unauthorized") as caught:
        host.run(["true"])
    assert not isinstance(caught.value, HostLost)
    for ask in (lambda: find_phone(shy.serial), lambda: connect(shy.serial)):
        with pytest.raises(DeviceError) as caught:
            ask()
        assert "tap Allow" in caught.value.hint
    shy.trust()
    assert find_phone(shy.serial).run(["echo", "in"]) == "in\n"


def test_two_phones_are_told_apart(phone, make_phone):
    other = make_phone(properties={"ro.product.model": "Galaxy S24"})
    with pytest.raises(DeviceError, match="2 phones are attached") as caught:
        find_phone(None)
    for said in (f"--device adb:{phone.serial} (Pixel 8)", f"--device adb:{other.serial} (Galaxy S24)"):
        assert said in caught.value.hint
    assert find_phone(other.serial).getprop()["ro.product.model"] == "Galaxy S24"


def test_a_phone_that_is_on_the_network_is_connected_by_its_address(phone):
    adb_server.answer(f"host:disconnect:{phone.serial}")
    with pytest.raises(DeviceError, match="none is attached"):
        find_phone(None)
    assert find_phone(phone.serial).run(["echo", "there"]) == "there\n"
    assert find_phone(None).name == f"adb:{phone.serial}"


def _over(host, job):
    look = host.look(root=ROOT, job=job, offset=0, deadline_s=5)
    return look if look.state is JobState.OVER else None


def _found(action):
    """What it yields; None while the phone is lost."""
    try:
        return action()
    except HostLost:
        return None


def _kill_adbd(phone):
    inside = subprocess.run(
        ["ip", "netns", "pids", phone.name], capture_output=True, text=True, check=True
    ).stdout.split()
    found = [pid for pid in inside if b"bin/adbd" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert found
    for pid in found:
        os.kill(int(pid), signal.SIGKILL)
