"""Names by place, each until it expires."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from dma.flow import Address
from dma.naming.method import Place
from dma.naming.name import Name

LIMIT = 10_000
NAMES_KEPT = 8
"""Of one place; those that last longest stay."""
SWEEP_S = 1.0


class _Entry(NamedTuple):
    names: tuple[Name, ...]
    until_s: float
    """How long there are no others; 0 where nobody has said so."""


class Cache:
    """At most ``limit`` places, for one method; threads may share it.

    ``grace_s`` is how long a name stays valid after its time. ``clock`` is the one of :attr:`Name.expires_s`.
    """

    def __init__(
        self, *, limit: int = LIMIT, grace_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.evicted = 0
        """Places that had to make room."""
        self._limit = limit
        self._grace_s = grace_s
        self._clock = clock
        self._entries: dict[Place, _Entry] = {}  # the latest written last
        self._changed: set[Address] = set()
        self._swept_s = clock()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, place: Place, names: Iterable[Name]) -> None:
        """Take in more names of a place; of one that is known already only its expiry changes."""
        with self._lock:
            now_s = self._clock()
            entry = self._entries.get(place)
            known = {name.name: name for name in entry.names if self._valid(name, now_s)} if entry else {}
            known |= {name.name: name for name in names}
            self._put(place, tuple(sorted(known.values(), key=_longest)[:NAMES_KEPT]), until_s=0.0)

    def settle(self, place: Place, names: Iterable[Name], *, until_s: float = math.inf) -> None:
        """These are all names of a place, if only none; until then it need not be asked for again."""
        with self._lock:
            self._put(place, tuple(names), until_s=until_s)

    def forget(self, place: Place) -> None:
        """Nothing is known of a place any more."""
        with self._lock:
            if place in self._entries:
                self._drop(place)

    def lookup(self, address: Address, port: int) -> tuple[Name, ...]:
        """The valid names of the port, then those of all the address."""
        if not self._entries:
            return ()
        with self._lock:
            now_s = self._clock()
            entries = (self._entries.get(Place(address, port)), self._entries.get(Place(address)))
            return tuple(
                name for entry in entries if entry for name in entry.names if self._valid(name, now_s)
            )

    def knows(self, place: Place) -> bool:
        """Whether the place need not be asked for: its names are fresh, or it is known that there are none."""
        with self._lock:
            entry = self._entries.get(place)
            return entry is not None and self._clock() < entry.until_s

    def changed(self) -> set[Address]:
        """The addresses whose names came, went or expired since the last call."""
        with self._lock:
            self._sweep()
            changed, self._changed = self._changed, set()
            return changed

    def _put(self, place: Place, names: tuple[Name, ...], *, until_s: float) -> None:
        before = self._entries.pop(place, None)
        if len(self._entries) >= self._limit:
            self._drop(next(iter(self._entries)))
            self.evicted += 1
        self._entries[place] = _Entry(names, until_s)
        if _texts(names) != _texts(before.names if before else ()):
            self._changed.add(place.address)

    def _drop(self, place: Place) -> None:
        if self._entries.pop(place).names:
            self._changed.add(place.address)

    def _valid(self, name: Name, now_s: float) -> bool:
        return name.expires_s is None or now_s < name.expires_s + self._grace_s

    def _sweep(self) -> None:
        """Forget what has expired, at most once in ``SWEEP_S``."""
        now_s = self._clock()
        if now_s - self._swept_s < SWEEP_S:
            return
        self._swept_s = now_s
        for place, entry in list(self._entries.items()):
            valid = tuple(name for name in entry.names if self._valid(name, now_s))
            if not valid and entry.until_s <= now_s:
                self._drop(place)
            elif len(valid) < len(entry.names):
                self._entries[place] = entry._replace(names=valid)
                self._changed.add(place.address)


def _longest(name: Name) -> tuple[float, str]:
    return -math.inf if name.expires_s is None else -name.expires_s, name.name


def _texts(names: Iterable[Name]) -> set[tuple[str, int]]:
    return {(name.name, name.confidence) for name in names}
