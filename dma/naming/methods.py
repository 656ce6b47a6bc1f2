"""The naming methods that a machine's settings ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dma.naming.hosts import HostsFile
from dma.naming.method import Method
from dma.naming.names import Names
from dma.naming.reverse import ReverseDns
from dma.naming.services import ServicesDatabase


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What an operator may choose about names."""

    reverse_dns: bool = True
    """Whether to ask for the names of addresses."""


def open_names(root: Path = Path("/"), naming: Naming | None = None) -> Names:
    """Begin to find names, in the network namespace of the calling thread.

    ``root`` is the root directory of the machine that is watched; whose files these are is not trusted.
    """
    return Names(list(_methods(root, naming or Naming())))


def _methods(root: Path, naming: Naming) -> Iterator[Method]:
    yield HostsFile(root)
    if naming.reverse_dns:
        yield ReverseDns(root)
    yield ServicesDatabase(root)
