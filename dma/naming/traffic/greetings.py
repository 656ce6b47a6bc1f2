"""Names from the first bytes of new connections; see ``bpf/greeting.bpf.c``."""

import struct
import threading
import time
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from dma.capture.libbpf import Object, Ring
from dma.capture.target import Target, cgroup2_root, netns_inode, opened_cgroup
from dma.flow import Address, CaptureError, Destination
from dma.naming.cache import Cache
from dma.naming.dns_answer import is_host_name
from dma.naming.method import Counters, Place
from dma.naming.name import CONFIDENCE, Name, Source
from dma.naming.traffic import http, protocol, tls

OBJECT = Path(__file__).parents[2] / "capture" / "greeting.bpf.o"
PROGRAMS = ("packet_sent", "packet_received")
AGAIN_S = 60
"""A destination is not looked at again for so long."""
KEEP_S = 300.0
"""What was said is believed for so long; a destination that is called all the time says it again before."""
FRESH_S = 0.001
"""Many look-ups in a row need not read each time."""

GREETING = struct.Struct("=16sHxxHBx")  # of bpf/greeting.h, the bytes follow
KNOBS = struct.Struct("=QI4x")
_BY_SERVER = 1
_MAPPED = bytes(10) + b"\xff\xff"


class Said(NamedTuple):
    """One thing that first bytes tell."""

    name: str
    source: Source


class Greetings:
    """A hook on every packet of the watched machine that hands over the first data of new connections only.

    Read whenever names are looked up. See ``dma.naming.method.Method``; where the kernel does not allow it,
    ``counters.problem`` says so.
    """

    source = Source.GREETING

    def __init__(self, target: Target) -> None:
        self.counters = Counters()
        self._cache = Cache()
        self._taken: list[bytes] = []
        self._lock = threading.Lock()
        self._read_s = 0.0
        self._ring: Ring | None = None
        self._stack = ExitStack()
        try:
            self._attach(target)
        except CaptureError as e:
            self._stack.close()
            self._ring = None
            self.counters.problem = str(e)

    def close(self) -> None:
        """Detach the hooks."""
        self._ring = None
        self._stack.close()

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """What connections to the place began with lately."""
        self._read()
        return self._cache.lookup(destination.address, destination.port)

    def changed(self) -> set[Address]:
        """The addresses of which something new was said, or something is no longer believed."""
        self._read()
        return self._cache.changed()

    def _attach(self, target: Target) -> None:
        cgroup = target.cgroup or cgroup2_root()
        if cgroup is None:
            raise CaptureError("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")
        cgroup_fd = self._stack.enter_context(opened_cgroup(cgroup))
        netns = self._stack.enter_context(netns_inode(target.netns)) if target.netns else 0
        loaded = self._stack.enter_context(Object(OBJECT))
        knobs = KNOBS.pack(AGAIN_S * 1_000_000_000, netns)
        loaded.load(programs=PROGRAMS, rodata=knobs, max_entries={})
        self._ring = Ring(loaded.map("greetings"), keep=self._taken.append)
        self._stack.callback(self._ring.close)
        for program in PROGRAMS:
            loaded.attach(program, cgroup_fd)

    def _read(self) -> None:
        if time.monotonic() - self._read_s < FRESH_S:
            return
        with self._lock:
            self._read_s = time.monotonic()
            if self._ring is None or not self._ring.consume():
                return
            for greeting in self._taken:
                self._take(greeting)
            self._taken.clear()

    def _take(self, greeting: bytes) -> None:
        daddr, dport, length, sender = GREETING.unpack_from(greeting)
        data = greeting[GREETING.size : GREETING.size + length]
        address = IPv4Address(daddr[12:]) if daddr.startswith(_MAPPED) else IPv6Address(daddr)
        said = said_by_server(data) if sender == _BY_SERVER else said_by_client(data)
        if not said:
            self.counters.failures += 1
            return
        self.counters.answers += 1
        expires_s = time.monotonic() + KEEP_S
        names = [Name(one.name, one.source, CONFIDENCE[one.source], expires_s) for one in said]
        self._cache.add(Place(address, dport), names)


def said_by_client(data: bytes) -> list[Said]:
    """What a client's first bytes tell: the host that they name, and the protocol that they speak."""
    named = ((tls.server_name(data), Source.TLS_SNI), (http.host(data), Source.HTTP_HOST))
    said = [Said(name.lower(), source) for name, source in named if name and is_host_name(name.lower())]
    spoken = protocol.spoken_by_client(data)
    return [*said, Said(spoken, Source.GREETING)] if spoken else said


def said_by_server(data: bytes) -> list[Said]:
    """What the first bytes of a server that begins tell: the protocol."""
    spoken = protocol.spoken_by_server(data)
    return [Said(spoken, Source.GREETING)] if spoken else []
