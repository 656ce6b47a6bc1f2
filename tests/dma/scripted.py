"""A capture that says what a test tells it to, and the flows that it says."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Self

from dma.flow import Destination, Flow, Loss, Probe, Transport

FIRST_NS = 1


def flow(address: str = "198.18.0.9", port: int = 80, *, command: str = "web", **counters: Any) -> Flow:
    """A flow with every counter zero but those given."""
    destination = Destination(Transport.TCP, ip_address(address), port, command)
    nothing = Flow(destination, 0, 0, 0, 0, 0, {}, 0, FIRST_NS, 0, 0, 0, 0)
    return nothing._replace(**counters)


class ScriptedCapture:
    """See ``dma.flow.Capture``; what it sees is set by ``see``."""

    plan = "scripted"
    loader = "none"
    probes: tuple[Probe, ...] = (Probe("connect4", ""), Probe("connect6", "no such hook"))

    def __init__(self) -> None:
        self.seen: dict[Destination, Flow] = {}
        self.lost: dict[Loss, int] = {}
        self.drained = 0
        self._event = os.eventfd(0, os.EFD_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._event)

    def see(self, *flows: Flow, urgent: bool = True) -> None:
        """These are the newest counters of their destinations."""
        self.seen.update({one.destination: one for one in flows})
        if urgent:
            os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        """Readable after something urgent was seen."""
        return self._event

    def drain(self) -> int:
        """Count how often the agent was woken."""
        self.drained += 1
        return os.eventfd_read(self._event)

    def flows(self) -> list[Flow]:
        """All that was seen."""
        return list(self.seen.values())

    def losses(self) -> Mapping[Loss, int]:
        """What the test says was lost."""
        return self.lost

    def clear(self) -> None:
        """Keep only what is open."""
        self.seen = {key: one._replace(attempts=0) for key, one in self.seen.items() if one.open}
