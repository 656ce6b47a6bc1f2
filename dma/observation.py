"""What the agent knows of its machine: the capture, older connections, names and presence, joined in one table."""

import time
from collections.abc import Mapping
from pathlib import Path

from dma import presence
from dma.conntrack import Backends
from dma.existing import ExistingConnections, find_existing
from dma.flow import Capture, Flow, Loss
from dma.logs import log
from dma.naming.dialled import Dialled
from dma.naming.name import Name
from dma.naming.names import Names
from dma.netlink import NetlinkError
from dma.presence import Presence
from dma.table import DEFAULT_LIMIT, Table

# Listeners and backends change rarely, and reading them costs in proportion to how many there are. The manager takes a
# port on which nothing listens any more as evidence, so that after a change they are read again: it may be a restart.
LISTENERS_EVERY = 2
SELDOM = 5


class Observation:
    """Reads everything when asked, and owns none of what it reads; make one when the capture is attached."""

    def __init__(
        self,
        capture: Capture,
        names: Names,
        *,
        cgroup: Path | None = None,
        backends: Backends | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        self.capture = capture
        self.presence = Presence()
        self._names = names
        self._cgroup = cgroup
        self._backends = backends or Backends()
        self._limit = limit
        self._surveys = 0
        self._moved = False
        self._noted = 0  # revision of the table
        self._begin()
        self.survey()

    def restart(self) -> None:
        """Forget all that was seen, and begin anew with what is open now; raises ``CaptureError``."""
        self.capture.clear()
        self._begin()
        self.look()

    def look(self) -> None:
        """Read the counters; raises ``CaptureError``."""
        own = frozenset(self.presence.addresses)
        flows = [*self.capture.flows(), *self._existing.flows()]
        self.table.merge(self._backends.known(flows, sources=own), own=own)
        for flow in self.table.changed_since(self._noted):
            self._dialled.note(flow)
        self._noted = self.table.revision

    def survey(self) -> None:
        """Read the counters and all that changes more slowly: once an interval. Raises ``CaptureError``."""
        try:
            self._existing.refresh()
            addresses = presence.addresses()
            look = self._moved or self._surveys % LISTENERS_EVERY == 0
            listeners = presence.listeners() if look else self.presence.listeners
            self._moved = listeners != self.presence.listeners
            self.presence = Presence(addresses, listeners)
        except NetlinkError as e:
            log.warning("sockets and addresses unknown", reason=str(e))
        if self._surveys % SELDOM == 0:
            self._backends.refresh()
        self._surveys += 1
        self.look()
        self.table.age(time.monotonic_ns())
        if renamed := self._names.changed():
            self.table.touch(renamed)

    def names(self, flow: Flow) -> tuple[Name, ...]:
        """What the flow's destination is called, as far as it is known now."""
        return self._dialled.lookup(flow.destination)

    def losses(self) -> Mapping[Loss, int]:
        """What the capture lost since the beginning or the last restart; raises ``CaptureError``."""
        return {loss: count - self._lost.get(loss, 0) for loss, count in self._losses().items()}

    def _losses(self) -> dict[Loss, int]:
        unnamed = sum(method.counters.unnamed for method in self._names.methods)
        return {**self.capture.losses(), **({Loss.NAMES: unnamed} if unnamed else {})}

    def _begin(self) -> None:
        self.table = Table(limit=self._limit)
        self._dialled = Dialled(self._names)
        self._noted = 0
        self._lost = self._losses()
        try:
            self._existing = find_existing(self.capture, cgroup=self._cgroup)
        except NetlinkError as e:
            self._existing = ExistingConnections([])
            log.warning("older connections unknown", reason=str(e))
