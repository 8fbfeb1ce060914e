"""Commands on a phone by adb's shell protocol, version 2: input, output, errors and the exit status.

Every packet is a byte that says what it is, four bytes of length, and that many bytes.
"""

import select
import struct
from dataclasses import dataclass

from edgebench.core.errors import DeviceError
from edgebench.devices.adb_server import Wire

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
PACKET_BYTES = 2**16
"""Of input, in one packet."""
OUTPUT_BYTES = 2**28
"""More than any command of ours says: a phone that goes on is not listened to."""

_HEADER = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    exit_status: str
    """`0`, `1`, …"""
    output: bytes
    errors: bytes


def run(wire: Wire, command: str, given: bytes) -> Done:
    """Run a command line on the phone that `wire` leads to.

    Raises TimeoutError when it does not end in time, ConnectionError when the link breaks first.
    """
    wire.ask(f"shell,v2,raw:{command}")
    outgoing = memoryview(_packets(given))
    incoming = bytearray()
    said: dict[int, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
    while True:
        # Both ways at once: a command that says much while it is fed would wait for us, and we for it.
        readable, writable, _ = select.select(
            [wire.socket], [wire.socket] if outgoing else [], [], wire.left_s()
        )
        if writable:
            try:
                outgoing = outgoing[wire.socket.send(outgoing[:PACKET_BYTES]) :]
            except ConnectionError:
                outgoing = outgoing[:0]  # it ended before it had read all
        if not readable:
            continue
        piece = wire.socket.recv(PACKET_BYTES)
        if not piece:
            raise ConnectionError("the link broke while a command ran")
        incoming += piece
        while (packet := _packet(incoming)) is not None:
            kind, told = packet
            if kind == EXIT:
                status = told[0] if told else 255
                return Done(str(status), bytes(said[STDOUT]), bytes(said[STDERR]))
            if kind in said:
                said[kind] += told
        if sum(map(len, said.values())) + len(incoming) > OUTPUT_BYTES:
            raise DeviceError(f"a command there says more than {OUTPUT_BYTES} bytes")


def _packets(given: bytes) -> bytes:
    pieces = []
    for start in range(0, len(given), PACKET_BYTES):
        piece = given[start : start + PACKET_BYTES]
        pieces += [_HEADER.pack(STDIN, len(piece)), piece]
    return b"".join([*pieces, _HEADER.pack(CLOSE_STDIN, 0)])


def _packet(incoming: bytearray) -> tuple[int, bytes] | None:
    """Take the first packet off; None when it is not all there yet."""
    if len(incoming) < _HEADER.size:
        return None
    kind, n_bytes = _HEADER.unpack_from(incoming)
    end = _HEADER.size + n_bytes
    if len(incoming) < end:
        return None
    told = bytes(incoming[_HEADER.size : end])
    del incoming[:end]
    return kind, told
