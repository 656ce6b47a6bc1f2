"""The agent's soft state: every outbound edge with its counters, and which of them changed since when."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from dma.flow import Address, Destination, Flow

DEFAULT_LIMIT = 10_000
# An attempt that waits longer than this is reported again as its age grows.
PENDING_NS = 1_000_000_000


class _Entry(NamedTuple):
    revision: int
    flow: Flow


class Table:
    """At most ``limit`` edges, each the newest :class:`Flow` of its destination. Pure: the clock is passed in.

    ``revision`` rises with everything that changes something.
    """

    def __init__(self, *, limit: int = DEFAULT_LIMIT) -> None:
        self.revision = 0
        self.overflow = 0
        """Destinations that found no room, each counted once for as long as it is refused."""
        self._limit = limit
        self._entries: dict[Destination, _Entry] = {}  # in the order of their revisions
        self._refused: set[Destination] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def merge(self, flows: Iterable[Flow], *, own: Collection[Address] = ()) -> None:
        """Take in all flows that there are; edges of which none is left are dropped.

        Calls to ``own`` addresses and to no single machine are no dependencies. Of two flows of one destination the
        second adds only what it holds open.
        """
        newest: dict[Destination, Flow] = {}
        for flow in flows:
            if not _is_own(flow, own):
                twin = newest.get(flow.destination)
                newest[flow.destination] = twin._replace(open=twin.open + flow.open) if twin else flow
        for destination in self._entries.keys() - newest.keys():
            del self._entries[destination]
        revision, refused = self.revision + 1, set()
        for destination, flow in newest.items():
            known = self._entries.get(destination)
            if known is None and not is_dependency(destination.address):
                continue
            if known is None and len(self._entries) >= self._limit:
                refused.add(destination)
            elif known is None or known.flow != flow:
                self._put(destination, _Entry(revision, flow))
        self.overflow += len(refused - self._refused)
        self._refused = refused

    def touch(self, addresses: Collection[Address]) -> None:
        """Count the edges to these addresses as changed: their names did."""
        self._renew([flow for _, flow in self._entries.values() if flow.destination.address in addresses])

    def age(self, now_ns: int) -> None:
        """Count the edges with an attempt that has waited for long as changed: its age did."""
        since_ns = now_ns - PENDING_NS
        waiting = (flow for _, flow in self._entries.values() if flow.pending)
        self._renew([flow for flow in waiting if flow.oldest_pending_ns <= since_ns])

    def changed_since(self, revision: int) -> list[Flow]:
        """The edges changed after ``revision``, the latest first; all of them after 0. Costs what it returns."""
        return list(self._newer(revision))

    def _newer(self, revision: int) -> Iterator[Flow]:
        for entry in reversed(self._entries.values()):
            if entry.revision <= revision:
                return
            yield entry.flow

    def _renew(self, flows: Iterable[Flow]) -> None:
        revision = self.revision + 1
        for flow in flows:
            self._put(flow.destination, _Entry(revision, flow))

    def _put(self, destination: Destination, entry: _Entry) -> None:
        self._entries.pop(destination, None)
        self._entries[destination] = entry
        self.revision = entry.revision


def is_dependency(address: Address) -> bool:
    """Whether an address is another machine's: not loopback, link-local, multicast, broadcast or unspecified."""
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.packed == b"\xff\xff\xff\xff"
    )


def _is_own(flow: Flow, own: Collection[Address]) -> bool:
    """Whether it ends where it began: at an own address, unless a packet filter sends on what comes for that."""
    if flow.backends:
        return all(backend.address in own for backend in flow.backends)
    return flow.destination.address in own
