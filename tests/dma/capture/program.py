"""What a ``Caller`` runs: evaluates one line of Python after another, and answers each with one line.

``x`` keeps what should stay open.
"""

import ctypes
import mmap
import os
import select
import socket
import struct
import sys
import threading
from socket import socket as new

# For the lines to evaluate.
__all__ = ["select", "threading"]
v4, v6, udp, tcp = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM, socket.SOCK_STREAM

LIBC = ctypes.CDLL(None, use_errno=True)
MPTCP = 262
UDP_CORK, UDP_SEGMENT = 1, 103
SO_TIMESTAMP = 29
IO_URING_SETUP, IO_URING_ENTER, IORING_OP_CONNECT = 425, 426, 16
RINGS, ENTRIES = 0, 0x10000000  # what is mapped where in a ring's descriptor

x: dict[object, socket.socket] = {}


def call(family: int, host: str, port: int, protocol: int = 0) -> int:
    """Connect and close; the errno."""
    with new(family, tcp, protocol) as s:
        s.settimeout(3)
        return s.connect_ex((host, port))


def start(key: object, family: int, host: str, port: int) -> int:
    """Begin to connect, and keep the socket; the errno."""
    x[key] = s = new(family, tcp)
    s.setblocking(False)
    return s.connect_ex((host, port))


def end(key: object) -> None:
    """Close a kept socket."""
    return x.pop(key).close()


def resolve(name: str) -> list[str]:
    """A host's addresses, as the C library finds them."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, type=tcp)})
    except socket.gaierror:
        return []


def option(key: object, level: int, name: int, value: int) -> None:
    """Set an option of a kept socket."""
    x[key].setsockopt(level, name, value)


def dissolve(key: object) -> int:
    """Undo a socket's connect()."""
    return int(LIBC.connect(x[key].fileno(), bytes(16), 16))


def send_many(key: object, host: str, port: int, count: int) -> int:
    """Have sendmmsg() send datagrams of one byte to a place; how many it did."""
    data, place = ctypes.create_string_buffer(b"x"), ctypes.create_string_buffer(_place(host, port))
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), 1))
    message = struct.pack(
        "QIxxxxQQQQixxxxIxxxx", ctypes.addressof(place), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0
    )
    messages = ctypes.create_string_buffer(message * count)
    return int(LIBC.sendmmsg(x[key].fileno(), messages, count, 0))


def sort_address(family: int, host: str, port: int) -> None:
    """Learn by which own address a place would be reached, and send nothing; as the C library's resolver does."""
    with new(family, udp) as s:
        s.connect((host, port))
        s.getsockname()
        LIBC.connect(s.fileno(), bytes(16), 16)
        s.connect((host, port))


def _place(host: str, port: int) -> bytes:
    """A struct sockaddr_in."""
    return struct.pack("=H2s4s8x", v4, port.to_bytes(2, "big"), socket.inet_aton(host))


def connect_by_ring(key: object, host: str, port: int) -> int:
    """Have io_uring connect a new socket; the errno."""
    x[key] = s = new(v4, tcp)
    parameters = ctypes.create_string_buffer(120)
    ring = LIBC.syscall(IO_URING_SETUP, 1, parameters)
    # struct io_uring_params: the offsets of the submission queue begin at 40, of the completion queue at 80
    tail, array, entries = (struct.unpack_from("I", parameters, at)[0] for at in (44, 64, 100))
    with mmap.mmap(ring, 4096, offset=RINGS) as queues, mmap.mmap(ring, 4096, offset=ENTRIES) as requests:
        address = ctypes.create_string_buffer(_place(host, port))
        request = struct.pack("=BBHiQQ", IORING_OP_CONNECT, 0, 0, s.fileno(), 16, ctypes.addressof(address))
        requests[: len(request)] = request
        struct.pack_into("I", queues, array, 0)
        struct.pack_into("I", queues, tail, 1)
        LIBC.syscall(IO_URING_ENTER, ring, 1, 1, 1, None, 0)
        (result,) = struct.unpack_from("i", queues, entries + 8)
    os.close(ring)
    return -int(result)


def serve() -> None:
    """Until the end of the standard input."""
    for line in sys.stdin:
        # The lines are the test's own calls of this module's functions; their results go back by the same pipe.
        print(repr(eval(line)), flush=True)  # noqa: T201 it is a program


if __name__ == "__main__":
    serve()
