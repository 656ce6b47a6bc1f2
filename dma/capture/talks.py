"""Connected UDP sockets that last: the kernel counts them when they end, or when an error tells of a datagram."""

import time
from typing import NamedTuple

from dma.capture import layout
from dma.capture.layout import Talk
from dma.capture.libbpf import Map


class Held(NamedTuple):
    """The talks of one destination that are open."""

    open: int = 0
    uncounted: int = 0
    """How many of them the kernel has not counted as attempts yet."""
    first_ns: int = 0
    last_ns: int = 0

    def joined(self, talk: Talk) -> "Held":
        """With another one, or with what became of it."""
        first_ns = min(self.first_ns, talk.begun_ns) if self.open else talk.begun_ns
        uncounted = self.uncounted + (not talk.counted)
        return Held(self.open + 1, uncounted, first_ns, max(self.last_ns, talk.begun_ns))


NONE = Held()


class Talks:
    """The map of connected UDP sockets; those count that have lasted for ``lasting_ns`` or met an error."""

    def __init__(self, source: Map, *, lasting_ns: int) -> None:
        self._source = source
        self._lasting_ns = lasting_ns

    def held(self) -> dict[bytes, Held]:
        """What they hold open now, by the keys of their destinations."""
        before_ns = time.monotonic_ns() - self._lasting_ns
        held: dict[bytes, Held] = {}
        for _addresses, values in self._source.items():
            for talk in layout.talks(values):
                if talk.counted or talk.begun_ns <= before_ns:
                    held[talk.key] = held.get(talk.key, NONE).joined(talk)
        return held
