"""Where the packet filter sends connections on: what was dialled is in the flow's destination, who answered here."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Self

from dma.flow import Address, Backend, Flow, Transport
from dma.logs import log
from dma.netlink import Netlink, NetlinkError, attribute, attributes

PRESENT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
"""There while the kernel tracks connections at all; asking it to when it is not would load its modules."""

# linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h and nf_conntrack_common.h
NETLINK_NETFILTER = 12
CT_GET = 1 << 8 | 1
NFGENMSG = Struct("=BBH")
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_STATUS_MASK = 1, 2, 3, 59
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
IPS_DST_NAT = 1 << 5

_DIGITS = 20
_TRANSPORTS = {transport.value: transport for transport in Transport}

Place = tuple[Transport, Address, int]


class Translation(NamedTuple):
    """One connection or exchange whose destination was replaced on its way."""

    source: Address
    dialled: Place
    backend: Backend


class Conntrack:
    """The table of connections of the network namespace in which it was made; a context manager."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)
        # A path below /proc/sys/net means the namespace in which it is opened, and goes on to mean it.
        self._count = PRESENT.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._count.close()
        self._netlink.__exit__(*exc)

    def translations(self) -> Iterator[Translation]:
        """What is in the table now; raises :class:`NetlinkError`.

        The kernel takes 15 ms to look through a table of the usual size, however little is in it.
        """
        if not int(os.pread(self._count.fileno(), _DIGITS, 0)):
            return
        wanted = IPS_DST_NAT.to_bytes(4, "big")
        # Older kernels know of no such filter, and tell of everything.
        request = NFGENMSG.pack(0, 0, 0) + attribute(CTA_STATUS, wanted) + attribute(CTA_STATUS_MASK, wanted)
        for message in self._netlink.dump(CT_GET, request):
            entry = dict(attributes(message[NFGENMSG.size :]))
            status = int.from_bytes(entry.get(CTA_STATUS, b""), "big")
            if status & IPS_DST_NAT and (found := _translation(entry)):
                yield found


class Backends:
    """Which destinations were translated, asked for when a destination is new, never for each connection.

    The current namespace's table is asked, and ``around``, that of the host which the machine's packets come through;
    there, only what comes from the machine's own addresses counts.
    """

    def __init__(self, around: Conntrack | None = None) -> None:
        self._around = around
        self._asked_once: set[Place] = set()
        self._asked: set[Place] = set()
        self._found: dict[Place, tuple[Backend, ...]] = {}
        self._complaint = ""

    def known(self, flows: Sequence[Flow], *, sources: Collection[Address]) -> Sequence[Flow]:
        """The flows with their backends; ``sources`` are the machine's own addresses."""
        places: set[Place] = {flow.destination[:3] for flow in flows}
        if places <= self._asked or self._ask(places, sources):
            # Twice for each: a call is seen before its first packet leaves, and only that makes an entry.
            self._asked, self._asked_once = places & self._asked_once, places
        if not self._found:
            return flows
        return [flow._replace(backends=self._found.get(flow.destination[:3], ())) for flow in flows]

    def refresh(self) -> None:
        """Ask once more, if anything is translated here: who is behind an address may have changed."""
        if self._found:
            self._asked.clear()

    def _ask(self, places: Collection[Place], sources: Collection[Address]) -> bool:
        """Whether all of the table was read: half of it might tell of one backend where there are two."""
        found = defaultdict[Place, set[Backend]](set)
        try:
            for one in self._translations(sources):
                if one.dialled in places:
                    found[one.dialled].add(one.backend)
        except NetlinkError as e:
            if str(e) != self._complaint:
                log.warning("translated destinations unknown", reason=str(e))
            self._complaint = str(e)
            return False
        # An entry lives little longer than its connection, so none is no news.
        self._found = {place: backends for place, backends in self._found.items() if place in places}
        self._found |= {place: tuple(sorted(backends, key=_order)) for place, backends in found.items()}
        return True

    def _translations(self, sources: Collection[Address]) -> Iterator[Translation]:
        if not PRESENT.exists():
            return
        with Conntrack() as inside:
            yield from inside.translations()
        if self._around:
            yield from (one for one in self._around.translations() if one.source in sources)


@contextmanager
def conntrack_around(netns: Path | None) -> Iterator[Conntrack | None]:
    """The current namespace's table, to be opened before another one is entered; none where there is none to enter.

    Raises :class:`NetlinkError`.
    """
    if netns is None or not PRESENT.exists():
        yield None
    else:
        with Conntrack() as opened:
            yield opened


def _translation(entry: dict[int, bytes]) -> Translation | None:
    there, back = _tuple(entry.get(CTA_TUPLE_ORIG, b"")), _tuple(entry.get(CTA_TUPLE_REPLY, b""))
    if there is None or back is None:
        return None
    dialled = there.transport, there.target, there.target_port
    return Translation(there.source, dialled, Backend(back.source, back.source_port))


class _Tuple(NamedTuple):
    transport: Transport
    source: Address
    source_port: int
    target: Address
    target_port: int


def _tuple(data: bytes) -> _Tuple | None:
    """One direction of an entry; None for what is neither TCP nor UDP."""
    parts = dict(attributes(data))
    ip = dict(attributes(parts.get(CTA_TUPLE_IP, b"")))
    proto = dict(attributes(parts.get(CTA_TUPLE_PROTO, b"")))
    transport = _TRANSPORTS.get(int.from_bytes(proto.get(CTA_PROTO_NUM, b""), "big"))
    source = ip.get(CTA_IP_V4_SRC) or ip.get(CTA_IP_V6_SRC)
    target = ip.get(CTA_IP_V4_DST) or ip.get(CTA_IP_V6_DST)
    if transport is None or source is None or target is None:
        return None
    source_port = int.from_bytes(proto.get(CTA_PROTO_SRC_PORT, b""), "big")
    target_port = int.from_bytes(proto.get(CTA_PROTO_DST_PORT, b""), "big")
    return _Tuple(transport, ip_address(source), source_port, ip_address(target), target_port)


def _order(backend: Backend) -> tuple[int, bytes, int]:
    return backend.address.version, backend.address.packed, backend.port
