"""The layout of ``bpf/flows.h`` in Python; a test holds the two against each other."""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from dma.flow import Destination, Failure, Loss, Transport

DESTINATION = struct.Struct("=16s16sHB5x")
COUNTERS = struct.Struct("=13Q3I4x")
DIGEST_BYTES = 8
ENTRY = struct.Struct("=40s13Q3I4x")
TALK = struct.Struct("=40sI4xQ")
CONNECTION = struct.Struct("=QIIQ")  # its size alone matters, and that of the next
CALL = struct.Struct("=QQ")
KNOBS = struct.Struct("=QQIII?????7x")
FAILURES = tuple(Failure)  # in the order of enum failure
LOSSES = (Loss.MAP_FULL, Loss.RING_FULL)  # in the order of enum loss

_MAPPED = bytes(10) + b"\xff\xff"


class Counters(NamedTuple):
    """struct counters, its array of failures spread out."""

    attempts: int
    established: int
    cancelled: int
    refused: int
    timed_out: int
    unreachable: int
    reset: int
    other: int
    first_ns: int
    last_attempt_ns: int
    last_established_ns: int
    last_failure_ns: int
    oldest_pending_ns: int
    open: int
    pending: int
    last_errno: int


class Talk(NamedTuple):
    """struct talk, its key undecoded."""

    key: bytes
    counted: int
    begun_ns: int


class Knobs(NamedTuple):
    """struct knobs."""

    patience_ns: int
    talk_ns: int
    netns: int
    ephemeral_low: int
    kept: int
    keep_loopback: bool
    every_socket: bool
    count_udp_connects: bool
    peers_by_address: bool
    trusted_task: bool

    def pack(self) -> bytes:
        """The bytes that the programs read as constants."""
        return KNOBS.pack(*self)


def entries(chunk: bytes) -> Iterator[tuple[bytes, Counters]]:
    """The values of the table, one by one: destinations, undecoded, and their counters."""
    return ((key, Counters._make(counters)) for key, *counters in ENTRY.iter_unpack(chunk))


def digests(chunk: bytes) -> Iterator[bytes]:
    """The keys of the table, one by one."""
    return (chunk[at : at + DIGEST_BYTES] for at in range(0, len(chunk), DIGEST_BYTES))


def talks(chunk: bytes) -> Iterator[Talk]:
    """The values of the map of connected UDP sockets, one by one."""
    return map(Talk._make, TALK.iter_unpack(chunk))


def destination(key: bytes) -> Destination:
    """Decode one key."""
    daddr, command, dport, transport = DESTINATION.unpack(key)
    address = IPv4Address(daddr[12:]) if daddr.startswith(_MAPPED) else IPv6Address(daddr)
    return Destination(
        Transport(transport), address, dport, command.partition(b"\0")[0].decode(errors="replace")
    )
