"""What every way of finding names has in common."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dma.flow import Address, Destination
from dma.naming.name import Name, Source


class Place(NamedTuple):
    """What a name belongs to; without a port, to all of an address."""

    address: Address
    port: int | None = None


@dataclass
class Counters:
    """What a method has done since it began."""

    answers: int = 0
    """Answers, lists and readings that were taken in."""
    failures: int = 0
    """Those that came to nothing."""
    dropped: int = 0
    """What found no room, or was too much at a time."""
    unnamed: int = 0
    """How often it was found that what is called may have names here that are not known, nor were before."""
    problem: str = ""
    """The latest failure; empty again when all is well."""


class Method(Protocol):
    """One way: a feed that is told of names, or one that asks for them behind the back of whoever looks them up.

    Nothing here waits, raises, or costs more than a look at what is known; threads of its own do the rest.
    """

    source: Source
    counters: Counters

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """What is known and valid now; what is not known may be asked for."""

    def changed(self) -> set[Address]:
        """The addresses whose names changed since the last call."""

    def close(self) -> None:
        """Give back what it holds; a question on its way is not waited for."""
