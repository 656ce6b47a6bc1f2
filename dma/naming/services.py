"""Names by port, from the services database: what is likely spoken there, not who speaks it."""

from pathlib import Path

from dma.flow import Transport
from dma.naming.name import Name, Source
from dma.rooted import RootedError, read_rooted

PATH = Path("etc/services")
CONFIDENCE = 20

_TRANSPORTS = {"tcp": Transport.TCP, "udp": Transport.UDP}


class ServicesDatabase:
    """``/etc/services`` below ``root``, or this machine's own where there is none, as in most container images."""

    def __init__(self, root: Path) -> None:
        self.failures = 0
        self._names: dict[tuple[Transport, int], tuple[Name, ...]] = {}
        for place in (root, Path("/")):
            try:
                self._names = parse_services(read_rooted(place, PATH))
                return
            except RootedError:
                self.failures += 1

    def lookup(self, transport: Transport, port: int) -> tuple[Name, ...]:
        """The official name of the port."""
        return self._names.get((transport, port), ())


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
            names.setdefault(key, (Name(fields[0], Source.WELL_KNOWN_PORT, CONFIDENCE),))
    return names
