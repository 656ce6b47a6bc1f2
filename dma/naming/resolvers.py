"""The name servers that the watched machine is configured to ask: wherever they are, they are its resolver."""

from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from dma.flow import Address, Destination
from dma.naming.method import Counters
from dma.naming.name import CONFIDENCE, Name, Source
from dma.rooted import RootedError, read_rooted

PATHS = (Path("etc/resolv.conf"), Path("run/systemd/resolve/resolv.conf"))
"""Where systemd's stub resolver stands in the first, the second tells whom it asks."""
PORT = 53
NAME = "resolver"
_SERVERS_LIMIT = 3


class Resolvers:
    """``resolv.conf`` below ``root``, read again when it changes. See ``dma.naming.method.Method``.

    Without it the edge to a name server, which is nearly always called by its address, would have none but that.
    """

    source = Source.RESOLV_CONF

    def __init__(self, root: Path) -> None:
        self.counters = Counters()
        self._root = root
        self._names = (Name(NAME, self.source, CONFIDENCE[self.source]),)
        self._servers: frozenset[Address] = frozenset()
        self.changed()

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The one name, for a name server's own port."""
        asked = destination.port == PORT and destination.address in self._servers
        return self._names if asked else ()

    def changed(self) -> set[Address]:
        """Look at the files again; returns the name servers that came or went."""
        before, self._servers = self._servers, frozenset(configured(self._root))
        return set(before ^ self._servers)

    def close(self) -> None:
        """Nothing is held."""


def configured(root: Path) -> list[Address]:
    """The name servers of a machine; none when its files cannot be read."""
    servers: list[Address] = []
    for path in PATHS:
        with suppress(RootedError):
            servers += name_servers(read_rooted(root, path))
    return servers


def name_servers(text: str) -> list[Address]:
    """The first three name servers of a resolv.conf, as the C library takes them."""
    servers = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                with suppress(ValueError):
                    servers.append(ip_address(server))
    return servers[:_SERVERS_LIMIT]
