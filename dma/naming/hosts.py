"""Names from the watched machine's hosts file."""

from ipaddress import ip_address
from pathlib import Path

from dma.flow import Address, Destination
from dma.naming.method import Counters
from dma.naming.name import CONFIDENCE, Name, Source
from dma.rooted import RootedError, read_rooted

PATH = Path("etc/hosts")
CANONICAL = CONFIDENCE[Source.HOSTS_FILE]
ALIAS = CANONICAL - 5


class HostsFile:
    """``/etc/hosts`` below ``root``, read again when it changes. See ``dma.naming.method.Method``."""

    source = Source.HOSTS_FILE

    def __init__(self, root: Path) -> None:
        self.counters = Counters()
        self._root = root
        self._text = ""
        self._names: dict[Address, tuple[Name, ...]] = {}
        self.changed()

    def changed(self) -> set[Address]:
        """Look at the file again; returns the addresses whose names changed. One that cannot be read says nothing."""
        try:
            text = read_rooted(self._root, PATH)
            self.counters.problem = ""
        except RootedError as e:
            self.counters.failures += 1
            self.counters.problem = str(e)
            text = ""
        if text == self._text:
            return set()
        self.counters.answers += 1
        before, self._text, self._names = self._names, text, parse_hosts(text)
        either = before.keys() | self._names.keys()
        return {address for address in either if before.get(address) != self._names.get(address)}

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The names on the address's lines, the canonical one first."""
        return self._names.get(destination.address, ())

    def close(self) -> None:
        """Nothing is held."""


def parse_hosts(text: str) -> dict[Address, tuple[Name, ...]]:
    """Names by address; lines that make no sense are skipped, as the C library does."""
    names: dict[Address, dict[str, Name]] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        try:
            address = ip_address(fields[0]) if fields else None
        except ValueError:
            continue
        if address is None or address.is_loopback:
            continue
        known = names.setdefault(address, {})
        for position, name in enumerate(fields[1:]):
            known.setdefault(name, Name(name, Source.HOSTS_FILE, ALIAS if position else CANONICAL))
    return {address: tuple(known.values()) for address, known in names.items()}
