"""All that is known of a destination's name, from every method, in one order."""

from pathlib import Path
from typing import Self

from dma.flow import Address, Destination
from dma.naming.hosts import HostsFile
from dma.naming.name import Name
from dma.naming.reverse import ReverseDns
from dma.naming.services import ServicesDatabase


class Names:
    """The naming methods of one machine; a context manager.

    ``root`` is the root directory of the machine that is watched; whose files these are is not trusted.
    """

    def __init__(self, root: Path = Path("/"), *, reverse_dns: bool = True) -> None:
        self._hosts = HostsFile(root)
        self._services = ServicesDatabase(root)
        self._reverse = ReverseDns(root) if reverse_dns else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._reverse:
            self._reverse.close()

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The names known now, the most trusted first; what takes time is asked for, and told by ``changed``."""
        address = destination.address
        names = [
            *self._hosts.lookup(address),
            *self._services.lookup(destination.transport, destination.port),
        ]
        if self._reverse:
            names += self._reverse.lookup(address)
        return tuple(sorted(names, key=lambda name: (-name.confidence, name.source.value, name.name)))

    def changed(self) -> set[Address]:
        """The addresses whose names changed since the last call; reads the hosts file again when it is another."""
        return self._hosts.refresh() | (self._reverse.changed() if self._reverse else set())

    @property
    def failures(self) -> int:
        """Look-ups and readings that failed."""
        return (
            self._hosts.failures + self._services.failures + (self._reverse.failures if self._reverse else 0)
        )
