"""The kernel's table read back: cumulative counters become flows, and idle destinations make room."""

import time
from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType

from dma.capture import layout
from dma.capture.layout import FAILURES, Counters
from dma.capture.libbpf import Map
from dma.capture.talks import NONE, Held, Talks
from dma.flow import Destination, Failure, Flow

# A table filled to three quarters loses what nobody has called for ten minutes and nothing holds open.
CROWDED = 0.75
IDLE_NS = 600 * 10**9

# How often to look again when sockets end while the tables are read, one after the other.
_STEADY_TRIES = 5

_NONE = Counters(*(0,) * len(Counters._fields))
_NO_FAILURES: Mapping[Failure, int] = MappingProxyType({})


class FlowTable:
    """The map of destinations, less what it held when it was last cleared, and what ``talks`` hold open."""

    def __init__(self, source: Map, talks: Talks | None = None) -> None:
        self._source = source
        self._talks = talks
        self._decoded: dict[bytes, Destination] = {}
        self._cleared: dict[bytes, Counters] = {}
        self._cleared_ns = 0

    def flows(self) -> list[Flow]:
        """All destinations with something to say since the last ``clear``."""
        entries, held = self._read()
        if len(entries) > CROWDED * self._source.max_entries:
            self._forget_idle(entries, held)
        entries = dict.fromkeys(held, _NONE) | entries if held else entries
        known = self._decoded
        self._decoded = {key: known.get(key) or layout.destination(key) for key in entries}
        flows = (self._flow(key, counters, held.get(key, NONE)) for key, counters in entries.items())
        return [flow for flow in flows if flow.attempts or flow.open or flow.pending]

    def clear(self) -> None:
        """Count from here; the kernel's own counters stay, since it goes on adding to them meanwhile."""
        self._cleared_ns = time.monotonic_ns()
        self._cleared = dict(self._entries())

    def _read(self) -> tuple[dict[bytes, Counters], dict[bytes, Held]]:
        """Both tables, as of a moment at which no talk moved from the one to the other."""
        if self._talks is None:
            return dict(self._entries()), {}
        held = self._talks.held()
        for _ in range(_STEADY_TRIES):
            before, entries = held, dict(self._entries())
            if not before or (held := self._talks.held()) == before:
                break
        return entries, before

    def _entries(self) -> Iterator[tuple[bytes, Counters]]:
        for _digests, values in self._source.items():
            yield from layout.entries(values)

    def _forget_idle(self, entries: dict[bytes, Counters], held: Container[bytes]) -> None:
        before = time.monotonic_ns() - IDLE_NS
        idle = {
            key: digest
            for digests, values in self._source.items()
            for digest, (key, c) in zip(layout.digests(digests), layout.entries(values), strict=True)
            if not (c.open or c.pending or key in held) and c.last_attempt_ns < before
        }
        for key, digest in idle.items():
            self._source.delete(digest)
            entries.pop(key, None)
            self._cleared.pop(key, None)

    def _flow(self, key: bytes, now: Counters, held: Held) -> Flow:
        then = self._cleared.get(key, _NONE)
        failed = now[3:8] != then[3:8]
        return Flow(
            destination=self._decoded[key],
            attempts=now.attempts - then.attempts + held.uncounted,
            established=now.established - then.established,
            open=now.open + held.open,
            pending=now.pending,
            cancelled=now.cancelled - then.cancelled,
            failures={kind: n - m for kind, n, m in zip(FAILURES, now[3:8], then[3:8], strict=True) if n > m}
            if failed
            else _NO_FAILURES,
            last_errno=now.last_errno if failed else 0,
            first_ns=max(now.first_ns or held.first_ns, self._cleared_ns),
            last_attempt_ns=self._since_cleared(max(now.last_attempt_ns, held.last_ns)),
            last_established_ns=self._since_cleared(now.last_established_ns),
            last_failure_ns=self._since_cleared(now.last_failure_ns),
            oldest_pending_ns=now.oldest_pending_ns if now.pending else 0,
        )

    def _since_cleared(self, ns: int) -> int:
        return ns if ns >= self._cleared_ns else 0
