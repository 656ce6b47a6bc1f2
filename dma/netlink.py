"""Netlink requests, as few as the agent makes.

pyroute2 is not used here: the agent, idle, would hold 62 MB instead of 53, of 60 allowed, and start 0.1 s later; any of
its modules imports all, its sockets refuse a running event loop, and its diagnostics hear no refusal of the kernel.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK = 0x3FFF  # the other bits tell of nesting and byte order
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ERROR = struct.Struct("=i")
ATTRIBUTE = struct.Struct("=HH")  # length, type

_BUFFER_BYTES = 64 * 1024
_DEADLINE_S = 1.0


class NetlinkError(Exception):
    """The kernel refused a request, or did not answer in time; ``errno`` says how."""

    def __init__(self, message: str, *, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class Netlink:
    """One netlink socket in the network namespace of the calling thread; a context manager.

    The kernel prepares its answers within the system call, so that nothing here waits for anybody else.
    """

    def __init__(self, protocol: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        except OSError as e:
            raise NetlinkError(f"netlink: {e.strerror}", errno=e.errno or 0) from e
        self._socket.settimeout(_DEADLINE_S)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The bodies of all messages of a dump; raises :class:`NetlinkError`."""
        self._send(kind, NLM_F_DUMP, body)
        while True:
            for answer, flags, payload in self._receive():
                if flags & NLM_F_DUMP_INTR:
                    raise NetlinkError("the table changed while it was read: read it again", errno=0)
                if answer == NLMSG_DONE:
                    return
                yield payload

    def get(self, kind: int, body: bytes) -> bytes:
        """The body of a single answer; raises :class:`NetlinkError`."""
        self._send(kind, 0, body)
        return self._answer()

    def do(self, kind: int, body: bytes) -> None:
        """Have something done; raises :class:`NetlinkError`."""
        self._send(kind, NLM_F_ACK, body)
        self._answer()

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)

    def _answer(self) -> bytes:
        while True:
            for _kind, _flags, payload in self._receive():
                return payload

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of one datagram: type, flags and body."""
        try:
            data = self._socket.recv(_BUFFER_BYTES)
        except OSError as e:
            raise NetlinkError(f"netlink: {e.strerror or e}", errno=e.errno or 0) from e
        at = 0
        while at < len(data):
            length, kind, flags, sequence, _port = HEADER.unpack_from(data, at)
            payload = data[at + HEADER.size : at + length]
            at += _aligned(length)
            if sequence != self._sequence:
                continue
            if kind == NLMSG_ERROR and (errno := -ERROR.unpack_from(payload)[0]):
                raise NetlinkError(f"netlink: {os.strerror(errno).lower()}", errno=errno)
            yield kind, flags, payload


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes that follow a message's fixed part: type and value."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, data[at + ATTRIBUTE.size : at + length]
        at += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a request."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value.ljust(_aligned(len(value)), b"\0")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
