"""What capture hands to the rest of the agent: one cumulative record per outbound destination."""

import enum
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol, Self

Address = IPv4Address | IPv6Address


class Transport(enum.Enum):
    """The transport protocol, by its IP protocol number."""

    TCP = 6
    UDP = 17


class Failure(enum.Enum):
    """Why an attempt did not succeed. A connect that the caller itself gave up (cancelled) is no failure."""

    REFUSED = "refused"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    OTHER = "other"


class Loss(enum.Enum):
    """Why something that happened was not counted."""

    MAP_FULL = "map full"
    RING_FULL = "ring full"
    MISSED_PROBE = "missed probe"


class Destination(NamedTuple):
    """Who was called, and by which program. IPv4-mapped IPv6 addresses appear as IPv4."""

    transport: Transport
    address: Address
    port: int
    command: str


class Flow(NamedTuple):
    """Counters of one destination since the capture was opened or last cleared.

    Times are nanoseconds of CLOCK_MONOTONIC in this machine; 0 means never. For TCP an attempt is a ``connect``;
    for UDP it is a datagram handed to the kernel (or a ``connect``, where the plan sees only that).
    """

    destination: Destination
    attempts: int
    established: int
    open: int
    pending: int
    cancelled: int
    failures: Mapping[Failure, int]
    last_errno: int
    first_ns: int
    last_attempt_ns: int
    last_established_ns: int
    last_failure_ns: int
    oldest_pending_ns: int


class Probe(NamedTuple):
    """One hook of a plan; ``problem`` is empty when it is attached, else says why it is not."""

    name: str
    problem: str


class Capture(Protocol):
    """An opened capture: a context manager that detaches everything on exit, even by the process's death."""

    plan: str
    loader: str
    probes: tuple[Probe, ...]

    def fileno(self) -> int:
        """A descriptor that polls readable when something urgent is there: a first sighting or a failure."""

    def drain(self) -> int:
        """Consume what made ``fileno`` readable, without blocking; returns the number of events."""

    def flows(self) -> list[Flow]:
        """All destinations seen, with their counters now."""

    def losses(self) -> Mapping[Loss, int]:
        """Cumulative losses by reason; a reason that never happened is absent."""

    def clear(self) -> None:
        """Forget everything counted so far, as after a reverted snapshot; connections still open stay counted as open."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
