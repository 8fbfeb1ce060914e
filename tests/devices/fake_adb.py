"""An adb server for tests that speaks the real protocol, with phones that are this computer's own shell."""

import contextlib
import os
import signal
import socket
import socketserver
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from typing import IO

HEADER = struct.Struct("<BI")
FEATURES = "shell_v2,cmd,stat_v2"


@dataclass
class FakePhone:
    """A phone, as a test bends it."""

    state: str = "device"
    model: str = "Pixel_8"
    features: str = FEATURES
    is_cut: bool = False
    """The link is dead, and nobody has noticed: what is asked hangs."""
    drops_after: int | None = None
    """The link breaks after so many packets of input."""
    answers: list[bytes] = field(default_factory=list)
    """Raw answers to the next commands, instead of running them; each is followed by the end."""


class FakeAdb:
    """The server. `asked` has every request but those for a transport, in order."""

    def __init__(self) -> None:
        self.phones: dict[str, FakePhone] = {}
        self.reachable: dict[str, FakePhone] = {}
        """Phones on the network, that `connect` finds."""
        self.asked: list[str] = []
        self.mdns: str | None = ""
        """None: it is too old to know of mdns and pairing."""
        self.code = "123456"
        self.noise = b""
        """What it says to everything, instead of what it should."""
        self.over = threading.Event()
        fake = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, EOFError):
                    fake.serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            block_on_close = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02))
        self._thread.start()
        self._forwards: dict[int, socket.socket] = {}

    def close(self) -> None:
        """End it, and whatever hangs in it."""
        self.over.set()
        for listener in self._forwards.values():
            listener.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # ------------------------------------------------------------------------------------------ protocol

    def serve(self, wire: socket.socket) -> None:
        """One connection."""
        request = self._request(wire)
        if self.noise:
            wire.sendall(self.noise)
            return
        if request.startswith("host:transport:"):
            serial = request.removeprefix("host:transport:")
            if not self._is_there(serial, wire):
                return
            wire.sendall(b"OKAY")
            self._service(self.phones[serial], wire)
            return
        self.asked.append(request)
        self._host(request, wire)

    def _host(self, request: str, wire: socket.socket) -> None:
        kind, _, rest = request.removeprefix("host:").partition(":")
        if request.startswith("host-serial:"):
            serial = next(s for s in [*self.phones, rest] if request.startswith(f"host-serial:{s}"))
            if self._is_there(serial, wire):
                self._of_phone(request.removeprefix(f"host-serial:{serial}:"), self.phones[serial], wire)
        elif kind == "devices":
            _answer(wire, "".join(f"{serial}\t{phone.state}\n" for serial, phone in self.phones.items()))
        elif kind == "devices-l":
            _answer(wire, "".join(_line(serial, phone) for serial, phone in self.phones.items()))
        elif kind == "connect":
            self._connect(rest, wire)
        elif kind == "disconnect":
            found = self.phones.pop(rest, None)
            if found is None:
                _fail(wire, f"no such device '{rest}'")
            else:
                _answer(wire, f"disconnected {rest}")
        elif kind == "mdns" and self.mdns is not None:
            _answer(wire, self.mdns)
        elif kind == "pair" and self.mdns is not None:
            code, _, address = rest.partition(":")
            wire.sendall(b"OKAY")
            if code == self.code:
                _text(wire, f"Successfully paired to {address} [guid=adb-X]")
            else:
                _fail(wire, "Failed: Wrong password or connection was dropped.")
        else:
            _fail(wire, f"unknown host service '{kind}'")

    def _connect(self, address: str, wire: socket.socket) -> None:
        if address in self.phones:
            _answer(wire, f"already connected to {address}")
        elif address in self.reachable and not self.reachable[address].is_cut:
            phone = self.phones[address] = self.reachable[address]
            bad = phone.state == "unauthorized"
            _answer(wire, f"failed to authenticate to {address}" if bad else f"connected to {address}")
        else:
            _answer(wire, f"failed to connect to '{address}': Connection refused")

    def _of_phone(self, request: str, phone: FakePhone, wire: socket.socket) -> None:
        if request == "features":
            _answer(wire, phone.features)
        elif request.startswith("forward:tcp:0;tcp:"):
            near = socket.create_server(("127.0.0.1", 0))
            port = near.getsockname()[1]
            self._forwards[port] = near
            threading.Thread(target=_relay, args=(near, int(request.rpartition(":")[2])), daemon=True).start()
            wire.sendall(b"OKAY")
            _answer(wire, str(port))
        elif request.startswith("killforward:tcp:"):
            near = self._forwards.pop(int(request.rpartition(":")[2]))
            near.shutdown(socket.SHUT_RDWR)
            near.close()
            wire.sendall(b"OKAYOKAY")

    def _is_there(self, serial: str, wire: socket.socket) -> bool:
        phone = self.phones.get(serial)
        if phone is None:
            _fail(wire, f"device '{serial}' not found")
        elif phone.state == "unauthorized":
            _fail(wire, "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set")
        elif phone.state.startswith("no permissions"):
            _fail(wire, "insufficient permissions for device: missing udev rules?\nSee [http://x]")
        elif phone.state != "device":
            _fail(wire, f"device {phone.state}")
        else:
            return True
        return False

    def _service(self, phone: FakePhone, wire: socket.socket) -> None:
        service = self._request(wire)
        if phone.is_cut:
            self.over.wait()  # as adb does: for ever
            return
        kind, _, command = service.partition(":")
        if kind != "shell,v2,raw":
            _fail(wire, "closed")
            return
        wire.sendall(b"OKAY")
        if phone.answers:
            wire.sendall(phone.answers.pop(0))
            return
        self._shell(phone, command, wire)

    def _shell(self, phone: FakePhone, command: str, wire: socket.socket) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        lock = threading.Lock()
        pumps = [
            threading.Thread(target=_pump, args=(stream, kind, wire, lock))
            for kind, stream in ((1, process.stdout), (2, process.stderr))
        ]
        feeder = threading.Thread(target=self._feed, args=(phone, process, wire))
        for thread in [*pumps, feeder]:
            thread.start()
        process.wait()
        for pump in pumps:
            pump.join()
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        with contextlib.suppress(OSError), lock:
            wire.sendall(HEADER.pack(3, 1) + bytes([status]))
        with contextlib.suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)
        feeder.join()

    def _feed(self, phone: FakePhone, process: "subprocess.Popen[bytes]", wire: socket.socket) -> None:
        """Hand on what comes in; when the client goes, its command goes, too."""
        assert process.stdin is not None
        n_packets = 0
        try:
            while True:
                kind, size_bytes = HEADER.unpack(_exactly(wire, HEADER.size))
                told = _exactly(wire, size_bytes)
                n_packets += 1
                if phone.drops_after is not None and n_packets > phone.drops_after:
                    raise EOFError
                with contextlib.suppress(OSError, ValueError):
                    if kind == 4:
                        process.stdin.close()
                    elif kind == 0:
                        process.stdin.write(told)
                        process.stdin.flush()
        except (OSError, EOFError):
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _request(self, wire: socket.socket) -> str:
        return _exactly(wire, int(_exactly(wire, 4), 16)).decode("utf-8", "surrogateescape")


def packets(*told: tuple[int, bytes]) -> bytes:
    """Packets of the shell protocol."""
    return b"".join(HEADER.pack(kind, len(text)) + text for kind, text in told)


def _line(serial: str, phone: FakePhone) -> str:
    model = f" product:x model:{phone.model} device:y" if phone.state == "device" else ""
    return f"{serial:<22} {phone.state}{model} transport_id:1\n"


def _pump(stream: IO[bytes], kind: int, wire: socket.socket, lock: threading.Lock) -> None:
    with stream:
        while piece := stream.read1(5000):
            with contextlib.suppress(OSError), lock:
                wire.sendall(HEADER.pack(kind, len(piece)) + piece)


def _relay(near: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = near.accept()
            with client, socket.create_connection(("127.0.0.1", port), timeout=10) as far:
                while piece := far.recv(1000):
                    client.sendall(piece)


def _exactly(wire: socket.socket, n_bytes: int) -> bytes:
    got = b""
    while len(got) < n_bytes:
        piece = wire.recv(n_bytes - len(got))
        if not piece:
            raise EOFError
        got += piece
    return got


def _text(wire: socket.socket, told: str) -> None:
    wire.sendall(f"{len(told.encode()):04x}".encode() + told.encode())


def _answer(wire: socket.socket, told: str) -> None:
    wire.sendall(b"OKAY")
    _text(wire, told)


def _fail(wire: socket.socket, told: str) -> None:
    wire.sendall(b"FAIL")
    _text(wire, told)
