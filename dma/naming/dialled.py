"""Under which names destinations were called: a name expires, what was called by it keeps it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dma.flow import Address, Destination, Flow
from dma.naming.cache import LIMIT, NAMES_KEPT
from dma.naming.name import REGISTRIES, Name
from dma.naming.names import Names


class _Call(NamedTuple):
    attempted_ns: int
    names: tuple[Name, ...]
    """Of methods whose names expire."""
    registered: tuple[Name, ...] = ()
    """Of registries, at the latest attempt."""


class Dialled:
    """Remembers at most ``LIMIT`` destinations, the latest called.

    A connection outlives the answer that it was made by, and its edge must not change its name for that. So an expired
    name stays with the destinations that were called while it was valid, until they are called by another while newer
    answers say that this one has gone elsewhere. What a registry called it at the latest attempt stays when it is taken
    out there, until the next attempt or another entry.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._calls: dict[Destination, _Call] = {}

    def note(self, flow: Flow) -> None:
        """Take in a destination's newest counters, while the names that it was called by are valid."""
        known = self._calls.get(flow.destination, _Call(-1, ()))
        if (known.names or known.registered) and flow.last_attempt_ns == known.attempted_ns:
            return
        self._calls.pop(flow.destination, None)
        told = self._names.lookup(flow.destination)
        valid = [name for name in told if name.expires_s is not None]
        names = [*valid, *self._kept(known.names, flow.destination.address, valid)]
        registered = tuple(name for name in told if name.source in REGISTRIES)
        if names or registered:
            if len(self._calls) >= LIMIT:
                del self._calls[next(iter(self._calls))]
            call = _Call(flow.last_attempt_ns, tuple(names[:NAMES_KEPT]), registered)
            self._calls[flow.destination] = call

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The names of a destination, the most trusted first; of those that expire the ones that it was called by."""
        valid = self._names.lookup(destination)
        call = self._calls.get(destination)
        if call is None:
            return valid
        fresh = {(name.source, name.name): name for name in valid}
        called = [fresh.get((name.source, name.name), name) for name in call.names]
        lasting = [name for name in valid if name.expires_s is None]
        if not any(name.source in REGISTRIES for name in lasting):
            lasting += call.registered
        others = _of_other_sources([name for name in valid if name.expires_s is not None], call.names)
        return tuple(sorted([*called, *lasting, *others], key=lambda name: name.rank))

    def _kept(self, names: Sequence[Name], address: Address, valid: Sequence[Name]) -> list[Name]:
        """Earlier names that still stand beside those that are valid at a new attempt."""
        told = {(name.source, name.name) for name in valid}
        sources = {name.source for name in valid}
        return [
            name
            for name in names
            if (name.source, name.name) not in told
            and not (name.source in sources and self._names.superseded(name, address))
        ]


def _of_other_sources(names: Iterable[Name], known: Iterable[Name]) -> list[Name]:
    sources = {name.source for name in known}
    return [name for name in names if name.source not in sources]
