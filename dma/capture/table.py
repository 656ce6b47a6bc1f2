"""The kernel's table read back: cumulative counters become flows, and idle destinations make room."""

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from dma.capture import layout
from dma.capture.layout import FAILURES, Counters
from dma.capture.libbpf import Map
from dma.flow import Destination, Failure, Flow

# A table filled to three quarters loses what nobody has called for ten minutes and nothing holds open.
CROWDED = 0.75
IDLE_NS = 600 * 10**9

_NONE = Counters(*(0,) * len(Counters._fields))
_NO_FAILURES: Mapping[Failure, int] = MappingProxyType({})


class FlowTable:
    """The map of destinations, less what it held when it was last cleared."""

    def __init__(self, source: Map) -> None:
        self._source = source
        self._decoded: dict[bytes, Destination] = {}
        self._cleared: dict[bytes, Counters] = {}
        self._cleared_ns = 0

    def flows(self) -> list[Flow]:
        """All destinations with something to say since the last ``clear``."""
        entries = dict(self._entries())
        if len(entries) > CROWDED * self._source.max_entries:
            self._forget_idle(entries)
        known = self._decoded
        self._decoded = {key: known.get(key) or layout.destination(key) for key in entries}
        flows = (self._flow(key, counters) for key, counters in entries.items())
        return [flow for flow in flows if flow.attempts or flow.open or flow.pending]

    def clear(self) -> None:
        """Count from here; the kernel's own counters stay, since it goes on adding to them meanwhile."""
        self._cleared_ns = time.monotonic_ns()
        self._cleared = dict(self._entries())

    def _entries(self) -> Iterator[tuple[bytes, Counters]]:
        for keys, values in self._source.items():
            yield from zip(layout.keys(keys), layout.counters(values), strict=True)

    def _forget_idle(self, entries: dict[bytes, Counters]) -> None:
        before = time.monotonic_ns() - IDLE_NS
        for key in [
            key for key, c in entries.items() if not (c.open or c.pending) and c.last_attempt_ns < before
        ]:
            self._source.delete(key)
            del entries[key]
            self._cleared.pop(key, None)

    def _flow(self, key: bytes, now: Counters) -> Flow:
        then = self._cleared.get(key, _NONE)
        failed = now[3:8] != then[3:8]
        return Flow(
            destination=self._decoded[key],
            attempts=now.attempts - then.attempts,
            established=now.established - then.established,
            open=now.open,
            pending=now.pending,
            cancelled=now.cancelled - then.cancelled,
            failures={kind: n - m for kind, n, m in zip(FAILURES, now[3:8], then[3:8], strict=True) if n > m}
            if failed
            else _NO_FAILURES,
            last_errno=now.last_errno if failed else 0,
            first_ns=max(now.first_ns, self._cleared_ns),
            last_attempt_ns=self._since_cleared(now.last_attempt_ns),
            last_established_ns=self._since_cleared(now.last_established_ns),
            last_failure_ns=self._since_cleared(now.last_failure_ns),
            oldest_pending_ns=now.oldest_pending_ns if now.pending else 0,
        )

    def _since_cleared(self, ns: int) -> int:
        return ns if ns >= self._cleared_ns else 0
