"""The naming methods that a machine's settings ask for."""

from dataclasses import dataclass
from pathlib import Path

from dma.naming.hosts import HostsFile
from dma.naming.method import Method
from dma.naming.names import Names
from dma.naming.passive import PORTS, PassiveDns
from dma.naming.resolvers import Resolvers
from dma.naming.reverse import ReverseDns
from dma.naming.services import ServicesDatabase


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What an operator may choose about names."""

    passive_dns: bool = True
    """Whether to read the answers that applications get."""
    dns_ports: tuple[int, ...] = PORTS
    """Where their name servers listen."""
    reverse_dns: bool = True
    """Whether to ask for the names of addresses."""


def open_names(root: Path = Path("/"), naming: Naming | None = None) -> Names:
    """Begin to find names, in the network namespace of the calling thread.

    ``root`` is the root directory of the machine that is watched; whose files these are is not trusted.
    """
    chosen = naming or Naming()
    methods: list[Method] = [HostsFile(root), Resolvers(root), ServicesDatabase(root)]
    passive = PassiveDns(chosen.dns_ports) if chosen.passive_dns else None
    if passive:
        methods.append(passive)
    if chosen.reverse_dns:
        methods.append(ReverseDns(root))
    return Names(methods, superseded=passive.superseded if passive else None)
