"""Connections older than the capture, which no probe saw begin."""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from dma import sockets
from dma.capture.hooks import CGROUP
from dma.capture.target import cgroup_inodes
from dma.flow import Address, Capture, Destination, Flow, Transport
from dma.netlink import Netlink
from dma.sockets import NETLINK_SOCK_DIAG, Connection

_STABLE_TRIES = 5

Place = tuple[Transport, Address, int]


class ExistingConnections:
    """The connections that were open before the capture was, for as long as they last.

    Their program is not known, so they are flows of an unnamed one, with ``open`` counts and no attempts.
    """

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections
        self._open: Counter[Destination] = Counter(map(_destination, connections))
        self._found_ns = time.monotonic_ns()

    def refresh(self) -> None:
        """Drop those that have ended; free once none is left. Raises ``NetlinkError``."""
        if not self._connections:
            return
        with Netlink(NETLINK_SOCK_DIAG) as netlink:
            self._connections = [one for one in self._connections if sockets.is_open(netlink, one)]
        now = Counter(map(_destination, self._connections))
        self._open = Counter({destination: now[destination] for destination in self._open})

    def flows(self) -> Iterator[Flow]:
        """One flow per destination; those whose last connection has ended stay, with nothing open."""
        for destination, count in self._open.items():
            yield Flow(
                destination=destination,
                attempts=0,
                established=0,
                open=count,
                pending=0,
                cancelled=0,
                failures={},
                last_errno=0,
                first_ns=self._found_ns,
                last_attempt_ns=0,
                last_established_ns=0,
                last_failure_ns=0,
                oldest_pending_ns=0,
            )


def find_existing(capture: Capture, *, cgroup: Path | None = None) -> ExistingConnections:
    """What is open now, less what ``capture`` saw begin; raises ``NetlinkError``.

    A connection through a local port on which something listens was accepted, and is no dependency; nor are those of
    this process, which the capture leaves out, too. With ``cgroup`` only the sockets made in it or below it count.
    """
    # Other plans see the next datagram of a UDP socket, however old it is.
    transports = tuple(Transport) if capture.plan == CGROUP.name else (Transport.TCP,)
    for _ in range(_STABLE_TRIES):
        seen = _seen(capture)
        outbound = list(_outbound(transports, cgroup))
        if _seen(capture) == seen:
            break
    opened = Counter({place: count for place, (count, _established) in seen.items()})
    return ExistingConnections(list(_surplus(outbound, opened)))


def _outbound(transports: Collection[Transport], cgroup: Path | None) -> Iterator[Connection]:
    accepting = {(one.transport, one.port) for one in sockets.listeners()}
    inside = cgroup_inodes(cgroup) if cgroup else None
    connections = [one for transport in transports for one in sockets.connections(transport)]
    own = sockets.own_inodes()
    for connection in connections:
        if (connection.transport, connection.local_port) in accepting or connection.inode in own:
            continue
        if inside is None or connection.cgroup in inside:
            yield connection


def _seen(capture: Capture) -> dict[Place, tuple[int, int]]:
    """Open and ever established connections by their places, as the capture counts them."""
    seen: dict[Place, tuple[int, int]] = {}
    for flow in capture.flows():
        place = flow.destination[:3]
        count, established = seen.get(place, (0, 0))
        seen[place] = count + flow.open, established + flow.established
    return seen


def _surplus(outbound: list[Connection], opened: Counter[Place]) -> Iterator[Connection]:
    for connection in outbound:
        place = connection.transport, connection.address, connection.port
        if opened[place]:
            opened[place] -= 1
        else:
            yield connection


def _destination(connection: Connection) -> Destination:
    return Destination(connection.transport, connection.address, connection.port, "")
