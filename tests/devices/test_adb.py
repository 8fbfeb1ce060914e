"""A phone over adb's real protocol: commands, refusals, lost links, and what a user is told to do."""

import importlib.util
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.errors import DeviceError, HostLost, MissingDependency, UsageError
from edgebench.core.host import JobState
from edgebench.devices import adb_server, adb_shell
from edgebench.devices.adb import AdbHost, Attached, attached, connect, find_phone, pair
from edgebench.devices.adb_states import read_attached

SERIAL = "0A1B2C"
ADDRESS = "192.168.1.20:41567"


def _fake_adb():
    spec = importlib.util.spec_from_file_location("fake_adb", Path(__file__).with_name("fake_adb.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_adb"] = module
    spec.loader.exec_module(module)
    return module


fake_adb = _fake_adb()


@pytest.fixture
def server(monkeypatch):
    """An adb server that knows no phone yet."""
    fake = fake_adb.FakeAdb()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(fake.port))
    monkeypatch.delenv("ANDROID_ADB_SERVER_ADDRESS", raising=False)
    yield fake
    fake.close()


@pytest.fixture
def phone(server):
    """A phone on a cable."""
    server.phones[SERIAL] = fake_adb.FakePhone()
    return server.phones[SERIAL]


@pytest.fixture
def host(phone):
    return AdbHost(f"adb:{SERIAL}")


@pytest.fixture
def wifi_phone(server):
    """A phone on the network, connected."""
    server.reachable[ADDRESS] = server.phones[ADDRESS] = fake_adb.FakePhone()
    return server.phones[ADDRESS]


@pytest.fixture
def wifi_host(wifi_phone):
    return AdbHost(f"adb:{ADDRESS}")


# ------------------------------------------------------------------------------ commands


def test_arguments_arrive_as_they_are(host):
    words = ["a b", "'", '"', "$HOME `id` $(id)", "*", "\\n", "zwölf", "", "-n", ";", "\udcff"]
    told = host._bytes(["sh", "-c", 'for w; do printf "%s|" "$w"; done', "sh", *words])
    assert told.decode("utf-8", "surrogateescape") == "".join(f"{word}|" for word in words)


def test_what_is_given_comes_in_while_the_output_goes_out(host):
    data = bytes(range(256)) * 12_000  # more than both ways hold
    assert host._bytes(["cat"], given=data) == data


def test_a_command_need_not_read_what_it_is_given(host):
    assert host.run(["true"], given=bytes(5_000_000)) == ""
    assert host.run(["cat"]) == ""  # and without, it is at the end at once


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo one >&2; echo the reason >&2; exit 3", "adb:0A1B2C: sh: the reason$"),
        ("exit 7", "ended with 7 and gave no reason"),
        ("exec nosuchcommand", "not found"),
        ("printf 'x\\033[2Jy' >&2; exit 1", r"x\[2Jy$"),
        ("exit 137", "ended with 137"),
    ],
)
def test_a_command_that_fails_is_told_in_a_line(host, script, told):
    with pytest.raises(DeviceError, match=told) as caught:
        host.run(["sh", "-c", script])
    assert not isinstance(caught.value, HostLost)


def test_full_storage_is_told_as_that(host):
    with pytest.raises(DeviceError, match="the storage is full") as caught:
        host.run(["sh", "-c", "echo 'cat: xwrite: No space left on device' >&2; exit 1"])
    assert f"edgebench devices clean adb:{SERIAL}" in caught.value.hint


def test_a_command_too_long_for_adb_is_refused_before_it_is_sent(host):
    with pytest.raises(DeviceError, match="too long for adb"):
        host.run(["echo", "x" * 70_000])


def test_properties_are_read_with_their_line_breaks(host, phone):
    text = "[ro.product.model]: [Pixel 8]\n[a.long]: [one\ntwo]\ngarbage\n[empty]: []\r\n"
    phone.answers.append(fake_adb.packets((1, text.encode()), (3, b"\0")))
    assert host.getprop() == {"ro.product.model": "Pixel 8", "a.long": "one\ntwo", "empty": ""}


@given(data=st.data())
def test_packets_are_read_however_they_are_cut(data):
    said = data.draw(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40)), max_size=6))
    raw, incoming, got = fake_adb.packets(*said), bytearray(), []
    while raw:
        n = data.draw(st.integers(1, len(raw)))
        incoming += raw[:n]
        raw = raw[n:]
        while (packet := adb_shell._packet(incoming)) is not None:
            got.append(packet)
    assert got == said


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "the link broke"),
        (b"\x01\xff\xff\xff\xff" + b"x" * 100, "the link broke"),  # says it is 4 GiB, and is not
        (fake_adb.packets((1, b"half of it")), "the link broke"),
        (fake_adb.packets((3, b"")), "ended with 255"),
        (fake_adb.packets((9, b"?"), (3, b"\2")), "ended with 2"),
    ],
)
def test_garbage_from_a_phone_is_an_error_and_no_crash(host, phone, raw, told):
    phone.answers.append(raw)
    with pytest.raises(DeviceError, match=told):
        host.run(["true"])
    assert host.run(["echo", "there"]) == "there\n"


def test_a_phone_that_talks_without_end_is_not_listened_to(host, monkeypatch):
    monkeypatch.setattr(adb_shell, "OUTPUT_BYTES", 100_000)
    with pytest.raises(DeviceError, match="says more than 100000 bytes"):
        host.run(["sh", "-c", "while :; do echo more; done"])


def test_a_phone_without_exit_codes_is_too_old(host, phone):
    phone.features = "cmd"
    with pytest.raises(DeviceError, match="too old") as caught:
        host.run(["true"])
    assert caught.value.hint == "Android 7 or later"


@pytest.mark.parametrize("name", ["adb:", "pixel8", "ssh:board", "adb:a\nb"])
def test_what_names_no_phone_is_refused(name):
    with pytest.raises(UsageError, match="names no phone"):
        AdbHost(name)


# ------------------------------------------------------------------------------ the link


def test_a_command_without_an_end_is_given_up_and_the_phone_connected_anew(wifi_host, server):
    wifi_host.run(["true"])
    server.asked.clear()
    with pytest.raises(HostLost, match="no answer in 0 s"):
        wifi_host.run(["sleep", "60"], deadline_s=0.3)
    assert server.asked == []
    assert wifi_host.run(["echo", "there"]) == "there\n"
    assert server.asked == [f"host:disconnect:{ADDRESS}", f"host:connect:{ADDRESS}"]
    wifi_host.run(["true"])
    assert len(server.asked) == 2


def test_a_phone_on_a_cable_is_not_connected(host, server):
    with pytest.raises(HostLost, match="no answer") as caught:
        host.run(["sleep", "60"], deadline_s=0.3)
    assert "is the cable in" in caught.value.hint
    assert host.run(["echo", "there"]) == "there\n"
    assert not [request for request in server.asked if "connect" in request]


def test_a_cut_link_is_given_up_at_every_call_until_it_is_mended(wifi_host, wifi_phone, server):
    wifi_phone.is_cut = True
    assert [one.state for one in attached()] == ["device"]  # adb has not noticed
    with pytest.raises(HostLost, match="no answer"):
        wifi_host.run(["true"], deadline_s=0.3)
    for _ in range(2):
        with pytest.raises(HostLost, match="Connection refused") as caught:
            wifi_host.look(root="/nowhere", job="x", offset=0)
        assert f"edgebench devices connect {ADDRESS}" in caught.value.hint
    wifi_phone.is_cut = False
    assert wifi_host.run(["echo", "back"]) == "back\n"


def test_a_link_that_breaks_while_a_command_is_fed_is_lost(wifi_host, wifi_phone):
    wifi_phone.drops_after = 1
    with pytest.raises(HostLost, match="can't be reached"):
        wifi_host.run(["cat"], given=bytes(1_000_000))
    wifi_phone.drops_after = None
    assert wifi_host.run(["echo", "back"]) == "back\n"


@pytest.mark.parametrize("state", ["offline", None])
def test_a_phone_on_the_network_that_was_away_is_connected_by_itself(wifi_host, wifi_phone, server, state):
    if state is None:
        del server.phones[ADDRESS]  # the adb server was started anew
    else:
        server.phones[ADDRESS] = fake_adb.FakePhone(state=state)
    assert wifi_host.run(["echo", "there"]) == "there\n"


@pytest.mark.parametrize(
    ("state", "told", "is_lost"),
    [
        ("unauthorized", "does not let this computer in", False),
        ("no permissions (user x is not in the plugdev group)", "no permissions", False),
        ("offline", "device offline", True),
        ("still authorizing", "still authorizing", True),
    ],
)
def test_a_state_that_keeps_commands_out_is_told(host, phone, state, told, is_lost):
    phone.state = state
    with pytest.raises(DeviceError, match=told) as caught:
        host.run(["true"])
    assert isinstance(caught.value, HostLost) is is_lost
    assert caught.value.hint


def test_a_phone_that_is_gone_is_lost(host, server):
    server.phones.clear()
    with pytest.raises(HostLost, match="not found"):
        host.run(["true"])


def test_a_server_that_is_not_adbs_is_said_so(server, host):
    server.noise = b"HTTP/1.0 400 Bad Request\r\n\r\n"
    with pytest.raises(HostLost, match="does not speak adb's language"):
        host.run(["true"])
    with pytest.raises(HostLost, match="does not speak adb's language"):
        attached()


# ------------------------------------------------------------------------------ jobs, and a port


def test_a_job_tells_its_bytes_and_its_end(host, tmp_path, wait_until, needs_flock):
    root = str(tmp_path / "root")
    assert host.look(root=root, job="one", offset=0).state is JobState.ABSENT
    argv = ["sh", "-c", r"printf 'a\000\377\r\n'; cat; exit 3"]
    assert host.start(argv, root=root, job="one") is None
    look = wait_until(lambda: _over(host, root))
    assert (look.exit_status, look.output) == ("3", b"a\x00\xff\r\n")
    assert host.look(root=root, job="one", offset=3).output == b"\r\n"


def test_a_job_outlives_the_link_and_runs_alone(wifi_host, server, tmp_path, wait_until, needs_flock):
    root = str(tmp_path / "root")
    assert wifi_host.start(["sleep", "60"], root=root, job="one") is None
    server.phones.clear()
    assert wifi_host.look(root=root, job="one", offset=0).state is JobState.RUNNING
    assert wifi_host.start(["true"], root=root, job="other") == "one"
    wifi_host.stop(root=root, job="other")  # has no say
    assert wifi_host.look(root=root, job="one", offset=0).state is JobState.RUNNING
    wifi_host.stop(root=root, job="one")
    assert wait_until(lambda: _over(wifi_host, root)).exit_status == "143"


def test_a_port_there_is_reached_by_one_here(host, server):
    with socket.create_server(("127.0.0.1", 0)) as there:

        def greet():
            client, _ = there.accept()
            with client:
                client.sendall(b"hello")

        greeter = threading.Thread(target=greet)
        greeter.start()
        with (
            host.forward(there.getsockname()[1]) as near,
            socket.create_connection(("127.0.0.1", near), timeout=10) as client,
        ):
            assert client.recv(100) == b"hello"
        greeter.join()
    assert server.asked[-1] == f"host-serial:{SERIAL}:killforward:tcp:{near}"


def test_the_end_of_a_forward_is_no_error_when_the_phone_is_gone(host, server):
    with host.forward(9) as near:
        server.phones.clear()
    assert near
    host.close()


# ------------------------------------------------------------------------------ which phones there are


def test_phones_are_listed_with_state_and_model(server, phone):
    server.phones["emulator-5554"] = fake_adb.FakePhone(state="offline")
    server.phones["XYZ"] = fake_adb.FakePhone(state="no permissions (missing udev rules?); see [http://x]")
    assert attached() == [
        Attached(SERIAL, "device", "Pixel 8"),
        Attached("emulator-5554", "offline", None),
        Attached("XYZ", "no permissions", None),
    ]


@given(devices=st.text(max_size=80), more=st.text(max_size=80))
def test_no_list_of_the_servers_is_a_crash(devices, more):
    for one in read_attached(devices, more):
        assert one.serial.isprintable()
        assert one.state.isprintable()


def test_the_only_phone_that_can_be_used_is_found(server, phone):
    server.phones["OTHER"] = fake_adb.FakePhone(state="unauthorized")
    assert find_phone(None).name == f"adb:{SERIAL}"
    assert find_phone(SERIAL).name == f"adb:{SERIAL}"


def test_of_several_phones_one_has_to_be_named(server, phone):
    server.phones["OTHER"] = fake_adb.FakePhone(model="SM_S921B")
    with pytest.raises(DeviceError, match="2 phones are attached") as caught:
        find_phone(None)
    assert f"--device adb:{SERIAL} (Pixel 8)" in caught.value.hint
    assert "--device adb:OTHER (SM S921B)" in caught.value.hint


def test_without_a_phone_the_user_is_told_what_was_looked_for_and_what_to_do(server):
    server.mdns = (
        "adb-X1\t_adb-tls-connect._tcp\t10.0.0.7:40001\nadb-X2\t_adb-tls-pairing._tcp\t10.0.0.8:40002\n"
    )
    with pytest.raises(DeviceError, match="none is attached") as caught:
        find_phone(None)
    hint = caught.value.hint
    for said in ("USB", "emulators", f"127.0.0.1:{server.port}", "Build number", "USB debugging", "Allow"):
        assert said in hint
    assert "adb-X1 (edgebench devices connect 10.0.0.7:40001)" in hint
    assert "adb-X2 (edgebench devices pair 10.0.0.8:40002)" in hint
    assert len(hint.splitlines()) < 24  # one screen


def test_an_adb_without_mdns_is_no_obstacle(server):
    server.mdns = None
    with pytest.raises(DeviceError, match="none is attached") as caught:
        find_phone(None)
    assert "on this network" not in caught.value.hint


@pytest.mark.parametrize(
    ("state", "way"),
    [
        ("unauthorized", "tick 'Always allow'"),
        ("no permissions (x)", "/etc/udev/rules.d"),
        ("offline", "pull the cable"),
        ("recovery", "power button"),
        ("an odd one", "'an odd one'"),
    ],
)
def test_every_state_has_a_way_out(server, phone, state, way):
    phone.state = state
    with pytest.raises(DeviceError, match="1 seen, none of them ready") as caught:
        find_phone(None)
    assert way in caught.value.hint
    with pytest.raises(DeviceError, match="can't be used") as caught:
        find_phone(SERIAL)
    assert way in caught.value.hint


def test_a_phone_that_is_not_there_is_said_beside_those_that_are(phone):
    with pytest.raises(DeviceError, match="no phone ZZZ") as caught:
        find_phone("ZZZ")
    assert f"{SERIAL} (Pixel 8)" in caught.value.hint


def test_a_named_address_is_connected(server, wifi_phone):
    server.phones.clear()
    assert find_phone(ADDRESS).run(["echo", "there"]) == "there\n"
    server.asked.clear()
    find_phone(ADDRESS)
    assert not [request for request in server.asked if "connect" in request]


# ------------------------------------------------------------------------------ pairing, connecting


def test_pairing_tells_the_next_step(server):
    assert "edgebench devices connect" in pair("192.168.1.20:37123", "123456")


def test_pairing_that_fails_says_why(server):
    with pytest.raises(DeviceError, match="Wrong password") as caught:
        pair("192.168.1.20:37123", "654321")
    assert "new each time" in caught.value.hint


def test_an_adb_too_old_for_pairing_is_named(server):
    server.mdns = None
    with pytest.raises(DeviceError, match="too old for pairing") as caught:
        pair("192.168.1.20:37123", "123456")
    assert "adb kill-server" in caught.value.hint


@pytest.mark.parametrize(
    ("address", "code"), [("phone", "1"), ("a b:1", "1"), (ADDRESS, "1:2"), (ADDRESS, "")]
)
def test_what_is_no_address_and_code_is_refused(address, code):
    with pytest.raises(UsageError):
        pair(address, code)


def test_connecting_names_the_device(server, wifi_phone):
    server.phones.clear()
    assert connect(ADDRESS) == f"connected: edgebench run --device adb:{ADDRESS}"
    assert connect(ADDRESS).startswith("connected")


def test_a_connection_that_adb_only_believes_in_is_made_anew(server, wifi_phone):
    server.phones[ADDRESS] = fake_adb.FakePhone(state="offline")
    connect(ADDRESS)
    assert server.phones[ADDRESS] is wifi_phone


def test_connecting_that_fails_says_why_and_leaves_nothing(server):
    with pytest.raises(DeviceError, match="Connection refused") as caught:
        connect("192.168.1.21:5555")
    assert "was it paired?" in caught.value.hint
    assert server.asked[-1] == "host:disconnect:192.168.1.21:5555"
    with pytest.raises(UsageError):
        connect("192.168.1.21")


def test_a_phone_that_has_yet_to_allow_this_computer_is_left_to_its_owner(server):
    server.reachable[ADDRESS] = fake_adb.FakePhone(state="unauthorized")
    with pytest.raises(DeviceError, match="authenticate") as caught:
        connect(ADDRESS)
    assert "Allow USB debugging" in caught.value.hint
    assert ADDRESS in server.phones  # its question stays on its screen


# ------------------------------------------------------------------------------ adb's server


def test_a_port_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "many")
    with pytest.raises(UsageError, match="not a port"):
        attached()


def test_without_adb_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(_free_port()))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(MissingDependency, match="adb") as caught:
        attached()
    assert caught.value.hint == 'pip install "edgebench[android]"'


def test_a_server_elsewhere_is_not_started_here(monkeypatch):
    monkeypatch.setattr(adb_server, "LOOPBACK", ())
    monkeypatch.setattr(adb_server, "address", lambda: ("127.0.0.1", _free_port()))
    with pytest.raises(DeviceError, match="no adb server answers"):
        attached()


def test_an_adb_that_can_not_serve_is_told_with_its_reason(monkeypatch, tmp_path):
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\necho 'adb: error: no room' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(adb_server, "find_adb", lambda: str(program))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(_free_port()))
    with pytest.raises(DeviceError, match="error: no room"):
        attached()


def test_the_real_server_is_started_without_a_word(monkeypatch, tmp_path, capfd):
    if adb_server.find_adb() is None:
        pytest.skip("no adb here: pip install adbutils, or apt install adb")
    for name, value in {"HOME": str(tmp_path), "ADB_USB": "0", "ADB_EMU": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(_free_port()))
    try:
        assert isinstance(attached(), list)
        with pytest.raises(HostLost, match="not found"):
            AdbHost("adb:no-such-phone").run(["true"])
        assert capfd.readouterr() == ("", "")
    finally:
        subprocess.run([adb_server.find_adb(), "kill-server"], capture_output=True, check=False)


@pytest.fixture
def needs_flock():
    """A phone has it, and Linux; a Mac does not."""
    if shutil.which("flock") is None:
        pytest.skip("no flock here")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _over(host, root):
    look = host.look(root=root, job="one", offset=0)
    return look if look.state is JobState.OVER else None
