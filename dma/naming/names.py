"""All that is known of a destination's name, from every method, in one order."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from dma.flow import Address, Destination
from dma.naming.method import Method
from dma.naming.name import Name


class Names:
    """The naming methods of one machine; a context manager that closes them.

    ``superseded`` tells of an expired name of an address whether it has gone to others.
    """

    def __init__(
        self, methods: Sequence[Method], *, superseded: Callable[[Name, Address], bool] | None = None
    ) -> None:
        self.methods = tuple(methods)
        self._superseded = superseded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as stack:
            for method in self.methods:
                stack.callback(method.close)

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The names known now, the most trusted first; what takes time is asked for, and told by ``changed``."""
        found = [name for method in self.methods for name in method.lookup(destination)]
        return tuple(sorted(found, key=lambda name: name.rank))

    def changed(self) -> set[Address]:
        """The addresses whose names changed since the last call."""
        return set().union(*(method.changed() for method in self.methods))

    def superseded(self, name: Name, address: Address) -> bool:
        """Whether an expired name was asked for again, and is at other addresses only."""
        return self._superseded is not None and self._superseded(name, address)
