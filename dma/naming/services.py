"""Names by port, from the services database: what is likely spoken there, not who speaks it."""

from pathlib import Path

from dma.flow import Address, Destination, Transport
from dma.naming.method import Counters
from dma.naming.name import CONFIDENCE, Name, Source
from dma.rooted import RootedError, read_rooted

PATH = Path("etc/services")
_TRANSPORTS = {"tcp": Transport.TCP, "udp": Transport.UDP}


class ServicesDatabase:
    """``/etc/services`` below ``root``, or this machine's own where there is none, as in most container images.

    See ``dma.naming.method.Method``.
    """

    source = Source.WELL_KNOWN_PORT

    def __init__(self, root: Path) -> None:
        self.counters = Counters()
        self._names: dict[tuple[Transport, int], tuple[Name, ...]] = {}
        for place in (root, Path("/")):
            try:
                self._names = parse_services(read_rooted(place, PATH))
                self.counters.answers += 1
                self.counters.problem = ""
                return
            except RootedError as e:
                self.counters.failures += 1
                self.counters.problem = str(e)

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The official name of the port."""
        return self._names.get((destination.transport, destination.port), ())

    def changed(self) -> set[Address]:
        """None: the file is read once."""
        return set()

    def close(self) -> None:
        """Nothing is held."""


def parse_services(text: str) -> dict[tuple[Transport, int], tuple[Name, ...]]:
    """Official names by transport and port; the first line for a port wins, as in ``getservbyport``."""
    names: dict[tuple[Transport, int], tuple[Name, ...]] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) < 2:
            continue
        port, _, protocol = fields[1].partition("/")
        if protocol in _TRANSPORTS and port.isdecimal():
            key = _TRANSPORTS[protocol], int(port)
            names.setdefault(
                key, (Name(fields[0], Source.WELL_KNOWN_PORT, CONFIDENCE[Source.WELL_KNOWN_PORT]),)
            )
    return names
