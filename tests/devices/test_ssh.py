"""A host over a real ssh server: commands, refusals, jobs that outlive the link, a port."""

import contextlib
import socket
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.errors import DeviceError, HostLost, MissingDependency, UsageError
from edgebench.core.host import JobState
from edgebench.devices import ssh
from edgebench.devices.ssh import Address, SshHost, read_address

NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True)


@given(user=st.none() | NAMES, host=NAMES | st.just("::1"), port=st.none() | st.integers(1, 65535))
def test_an_address_is_read_as_it_is_written(user, host, port):
    written = f"[{host}]" if ":" in host else host
    name = "ssh:" + (f"{user}@" if user else "") + written + (f":{port}" if port else "")
    assert read_address(name) == Address(host, user, port)


@pytest.mark.parametrize(
    "name",
    ["ssh:", "ssh:user@", "ssh:a b", "ssh:-oProxyCommand=x", "ssh:h:0", "ssh:h:99999", "ssh:u@h:x", "h"],
)
def test_what_is_no_address_is_refused(name):
    with pytest.raises(UsageError, match="names no host"):
        read_address(name)


@pytest.fixture
def home(ssh_server, monkeypatch):
    monkeypatch.setenv("HOME", str(ssh_server.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return ssh_server.home


@pytest.fixture
def host(ssh_server, home):
    opened = SshHost(ssh_server.device)
    yield opened
    opened.close()


@pytest.fixture
def root(ssh_server, tmp_path):
    return str(ssh_server.board / tmp_path.name)


def test_arguments_arrive_as_they_are(host):
    words = ["a b", "'", '"', "$HOME `id` $(id)", "*", "\\n", "zwölf", "", "-n", ";"]
    told = host.run(["sh", "-c", 'for w; do printf "%s|" "$w"; done', "sh", *words])
    assert told == "".join(f"{word}|" for word in words)


def test_what_is_given_comes_in(host):
    assert host.run(["wc", "-c"], given=bytes(range(256)) * 1000).strip() == "256000"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo one >&2; echo the reason >&2; exit 3", "the reason"),
        ("exit 1", "gave no reason"),
        ("nosuchcommand", "not found"),
        ("printf 'x\\033[2Jy' >&2; exit 1", r"x\[2Jy$"),
    ],
)
def test_a_command_that_fails_is_told_in_a_line(host, script, told):
    with pytest.raises(DeviceError, match=told) as caught:
        host.run(["sh", "-c", script])
    assert not isinstance(caught.value, HostLost)


def test_a_full_disk_is_told_as_that(host, ssh_server):
    with pytest.raises(DeviceError, match="the disk is full") as caught:
        host.run(["sh", "-c", "cat /etc/passwd >/dev/full"])
    assert f"edgebench devices clean {ssh_server.device}" in caught.value.hint


def test_a_command_without_an_end_is_given_up(host):
    with pytest.raises(HostLost, match="no answer in 1 s"):
        host.run(["sleep", "20"], deadline_s=1)
    assert host.run(["echo", "there"]) == "there\n"


def test_an_unknown_key_of_a_host_is_refused_with_what_to_do(host, ssh_server, home):
    (home / ".ssh" / "known_hosts").write_text("")
    try:
        with pytest.raises(DeviceError, match="not in known_hosts") as caught:
            host.run(["true"])
    finally:
        ssh_server.trust()
    assert f"ssh-keyscan -p {ssh_server.port} {ssh_server.host} >> ~/.ssh/known_hosts" in caught.value.hint
    assert host.run(["echo", "there"]) == "there\n"


def test_another_key_than_the_known_one_is_refused(host, ssh_server, home):
    other = (ssh_server.folder / "user_key.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[{ssh_server.host}]:{ssh_server.port} {other}")
    try:
        with pytest.raises(DeviceError, match="has changed"):
            host.run(["true"])
    finally:
        ssh_server.trust()


def test_a_user_without_a_key_is_told_how_to_bring_one(host, home, ssh_server):
    key = home / ".ssh" / "id_ed25519"
    key.rename(key.with_name("away"))
    try:
        with pytest.raises(DeviceError, match="does not let this user in") as caught:
            host.run(["true"])
    finally:
        key.with_name("away").rename(key)
    assert f"ssh-copy-id -p {ssh_server.port} {ssh_server.host}" in caught.value.hint


def test_the_users_own_ssh_config_is_followed(ssh_server, home):
    config = home / ".ssh" / "config"
    config.write_text(f"Host board\n  HostName {ssh_server.host}\n  Port {ssh_server.port}\n  User root\n")
    opened = SshHost("ssh:board")
    try:
        if ssh_server.cable:
            assert opened.run(["id", "-un"]) == "root\n"
        else:
            with contextlib.suppress(DeviceError):
                opened.run(["id", "-un"])
    finally:
        opened.close()
        config.unlink()


def test_nobody_at_home_is_a_lost_host(home):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        name = f"ssh:127.0.0.1:{probe.getsockname()[1]}"
    opened = SshHost(name)
    with pytest.raises(HostLost, match="can't be reached"):
        opened.run(["true"])
    opened.close()
    opened.close()  # twice is once


def test_without_asyncssh_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(MissingDependency, match="asyncssh") as caught:
        SshHost("ssh:board")
    assert caught.value.hint == 'pip install "edgebench[ssh]"'


def test_a_job_tells_its_output_and_its_end(host, root, wait_until):
    assert host.look(root=root, job="one", offset=0).state is JobState.ABSENT
    argv = ["sh", "-c", 'echo "first $1"; cat; echo hidden >&2; exit 3', "sh", "a 'b'"]
    assert host.start(argv, root=root, job="one") is None
    look = wait_until(lambda: _over(host, root, "one"))
    assert (look.exit_status, look.output) == ("3", b"first a 'b'\n")
    assert host.look(root=root, job="one", offset=6).output == b"a 'b'\n"
    assert host.start(["true"], root=root, job="one") is None  # begins anew
    look = wait_until(lambda: _over(host, root, "one"))
    assert (look.exit_status, look.output) == ("0", b"")


def test_a_job_outlives_the_server_and_runs_alone(host, root, ssh_server, wait_until):
    assert host.start(["sleep", "60"], root=root, job="long") is None
    ssh_server.kill()
    with pytest.raises(HostLost):
        host.run(["true"])
    ssh_server.start()
    assert host.look(root=root, job="long", offset=0).state is JobState.RUNNING
    assert host.start(["true"], root=root, job="long") == "long"
    assert host.start(["true"], root=root, job="other") == "long"
    assert host.look(root=root, job="other", offset=0).state is JobState.ABSENT
    host.stop(root=root, job="other")  # has no say
    assert host.look(root=root, job="long", offset=0).state is JobState.RUNNING
    host.stop(root=root, job="long")
    assert wait_until(lambda: _over(host, root, "long")).exit_status == "143"
    host.stop(root=root, job="long")  # nothing to stop


def test_a_job_that_was_killed_outright_is_dead(host, root, wait_until):
    host.start(["sh", "-c", "echo began; sleep 60"], root=root, job="one")
    wait_until(lambda: host.look(root=root, job="one", offset=0).output)
    group = int(host.run(["cat", f"{root}/runs/one/pid"]))
    for process in [psutil.Process(group), *psutil.Process(group).children(recursive=True)]:
        process.kill()
    look = wait_until(
        lambda: (found := host.look(root=root, job="one", offset=0)).state is not JobState.RUNNING and found
    )
    assert (look.state, look.exit_status, look.output) == (JobState.DEAD, None, b"began\n")


def test_a_port_there_is_reached_by_one_here(host, root, wait_until):
    server = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        "c, _ = s.accept(); c.sendall(b'hello')"
    )
    host.start(["python3", "-c", server], root=root, job="server")
    port = int(wait_until(lambda: host.look(root=root, job="server", offset=0).output))
    with host.forward(port) as near, socket.create_connection(("127.0.0.1", near), timeout=10) as there:
        assert there.recv(100) == b"hello"


def test_a_pulled_cable_is_noticed(ssh_server, home, monkeypatch):
    if not ssh_server.cable:
        pytest.skip("no network namespace here: a cable needs root and ip")
    monkeypatch.setattr(ssh, "KEEPALIVE_S", 0.3)
    opened = SshHost(ssh_server.device)
    try:
        opened.run(["true"])
        ssh_server.cut()
        with pytest.raises(HostLost):
            opened.run(["true"])
    finally:
        ssh_server.mend()
    assert opened.run(["echo", "back"]) == "back\n"
    opened.close()


def _over(host, root, job):
    look = host.look(root=root, job=job, offset=0)
    return look if look.state is JobState.OVER else None
