"""The sockets of this network namespace, by the kernel's socket diagnostics."""

import errno
import math
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from dma.flow import Address, Transport
from dma.netlink import Netlink, NetlinkError, attributes

# linux/sock_diag.h and linux/inet_diag.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
INET_DIAG_INFO, INET_DIAG_CGROUP_ID = 2, 21
REQUEST = struct.Struct("=BBBxI48s")  # family, protocol, extensions, states, socket identity
MESSAGE = struct.Struct("=BBxx48s16xI")  # family, state, socket identity, inode
IDENTITY = struct.Struct("!HH16s16s12x")  # local port, remote port, local address, remote address
CGROUP = struct.Struct("=Q")
LAST_ACK_MS = struct.Struct("=56xI")  # struct tcp_info up to tcpi_last_ack_recv

# include/net/tcp_states.h; a UDP socket that is not connected is in CLOSE.
ESTABLISHED, SYN_SENT, CLOSE, LISTEN = 1, 2, 7, 10

PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
OWN_FILES = Path("/proc/self/fd")


class Connection(NamedTuple):
    """An established TCP connection, or a UDP socket that is connected."""

    transport: Transport
    local_port: int
    address: Address
    port: int
    family: int
    identity: bytes
    """How the kernel knows the socket, cookie included: no other socket ever has the same."""
    cgroup: int
    """The inode of its cgroup; 0 where the kernel does not say."""
    inode: int
    """The number by which processes' descriptors name the socket."""


class Listener(NamedTuple):
    """A port that others can call; the unspecified address means any."""

    transport: Transport
    address: Address
    port: int


def connections(transport: Transport = Transport.TCP) -> Iterator[Connection]:
    """Every one of a transport; raises :class:`NetlinkError`."""
    for family, identity, inode, rest in _dump(transport, ESTABLISHED):
        yield _connection(transport, family, identity, inode, dict(attributes(rest)))


def unanswered() -> Iterator[tuple[Connection, float]]:
    """Every TCP connection, and since how many milliseconds its other end has acknowledged nothing.

    Infinite where the kernel does not say. Raises :class:`NetlinkError`.
    """
    for family, identity, inode, rest in _dump(Transport.TCP, ESTABLISHED, extension=INET_DIAG_INFO):
        said = dict(attributes(rest))
        info = said.get(INET_DIAG_INFO, b"")
        known = len(info) >= LAST_ACK_MS.size
        silent_ms = LAST_ACK_MS.unpack_from(info)[0] if known else math.inf
        yield _connection(Transport.TCP, family, identity, inode, said), silent_ms


def _connection(
    transport: Transport, family: int, identity: bytes, inode: int, said: Mapping[int, bytes]
) -> Connection:
    local_port, port, _local, remote = IDENTITY.unpack(identity)
    (cgroup,) = CGROUP.unpack(said.get(INET_DIAG_CGROUP_ID, bytes(8)))
    return Connection(transport, local_port, _address(family, remote), port, family, identity, cgroup, inode)


def own_inodes() -> frozenset[int]:
    """The sockets of this process: what the agent itself calls is no dependency of the machine."""
    return frozenset(_own_inodes())


def _own_inodes() -> Iterator[int]:
    for file in OWN_FILES.iterdir():
        with suppress(OSError):  # closed meanwhile
            kind, _, inode = os.readlink(file).rstrip("]").partition(":[")
            if kind == "socket":
                yield int(inode)


def listeners() -> set[Listener]:
    """TCP sockets that listen and UDP sockets bound to a port that the kernel did not choose."""
    first, last = map(int, PORT_RANGE.read_text().split())
    found = set()
    for transport, state in ((Transport.TCP, LISTEN), (Transport.UDP, CLOSE)):
        for family, identity, _inode, _rest in _dump(transport, state):
            port, _port, local, _remote = IDENTITY.unpack(identity)
            if transport is Transport.TCP or not first <= port <= last:
                found.add(Listener(transport, _address(family, local), port))
    return found


def is_open(netlink: Netlink, connection: Connection) -> bool:
    """Whether a connection is still established: one look-up in the kernel's hash table, however many there are."""
    try:
        answer = netlink.get(SOCK_DIAG_BY_FAMILY, _request(connection))
    except NetlinkError as e:
        if e.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise
    _family, state, _identity, _inode = MESSAGE.unpack_from(answer)
    return bool(state == ESTABLISHED)


def destroy(netlink: Netlink, connection: Connection) -> bool:
    """Reset a connection at both ends; False when it was gone already. Raises :class:`NetlinkError`."""
    try:
        netlink.do(SOCK_DESTROY, _request(connection))
    except NetlinkError as e:
        if e.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise
    return True


def _request(connection: Connection) -> bytes:
    transport, family = connection.transport.value, connection.family
    return REQUEST.pack(family, transport, 0, 1 << ESTABLISHED, connection.identity)


def _dump(transport: Transport, state: int, *, extension: int = 0) -> Iterator[tuple[int, bytes, int, bytes]]:
    """Family, identity, inode and attributes of the sockets in a state; IPv6 sockets hold IPv4-mapped addresses too."""
    extensions = 1 << (extension - 1) if extension else 0
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        for wanted in (socket.AF_INET, socket.AF_INET6):
            request = REQUEST.pack(wanted, transport.value, extensions, 1 << state, bytes(48))
            for message in netlink.dump(SOCK_DIAG_BY_FAMILY, request):
                family, _state, identity, inode = MESSAGE.unpack_from(message)
                yield family, identity, inode, message[MESSAGE.size :]


def _address(family: int, packed: bytes) -> Address:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
