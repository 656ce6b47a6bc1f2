"""What capture hands to the rest of the agent: one cumulative record per outbound destination."""

import enum
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol, Self

Address = IPv4Address | IPv6Address


class CaptureError(Exception):
    """The kernel does not give what was asked for; the message says why and what to try."""


class Transport(enum.Enum):
    """The transport protocol, by its IP protocol number."""

    TCP = 6
    UDP = 17


class Failure(enum.Enum):
    """Why an attempt did not succeed.

    A TCP attempt that its caller gave up has timed out when it had waited for a second or longer (its SYN had been
    repeated), else it is cancelled and no failure. UDP fails only where ICMP answered a connected socket.
    """

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
    NAMES = "names of a registry"


class Destination(NamedTuple):
    """Who was called, and by which program. IPv4-mapped IPv6 addresses appear as IPv4."""

    transport: Transport
    address: Address
    port: int
    command: str


class Backend(NamedTuple):
    """Where a packet filter sent what was meant for another address (DNAT)."""

    address: Address
    port: int


class Flow(NamedTuple):
    """Counters of one destination since the capture was opened or last cleared.

    Times are nanoseconds of CLOCK_MONOTONIC in this machine; 0 means never. For TCP an attempt is a ``connect``, and
    attempts = established + pending + cancelled + the sum of failures; ``open`` counts connections in ESTABLISHED, so
    that one whose peer has hung up holds no longer. For UDP an attempt is a datagram handed to the kernel; where those
    of connected sockets are not looked at, each such socket is one attempt instead, and open until it is closed.
    ``oldest_pending_ns`` is since when attempts have been waiting with no answer to any of them.
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
    backends: tuple[Backend, ...] = ()
    """Who was behind the destination when it was last looked at; none where it was reached itself."""


class Probe(NamedTuple):
    """One hook of a plan; ``problem`` is empty when it is attached, else says why it is not.

    A ``detail`` can be done without: what decides about a dependency is seen by the others as well.
    """

    name: str
    problem: str
    detail: bool = False


class Capture(Protocol):
    """An opened capture: a context manager that detaches everything on exit, even by the process's death.

    Every method may raise ``CaptureError``.
    """

    plan: str
    loader: str
    probes: tuple[Probe, ...]

    def fileno(self) -> int:
        """A descriptor that polls readable when something urgent is there: a first sighting or a failure."""

    def drain(self) -> int:
        """Consume what made ``fileno`` readable, without blocking; returns the number of events."""

    def flows(self) -> list[Flow]:
        """All destinations seen, with their counters now.

        When the kernel's table fills up, destinations idle for long are forgotten; seen again, they start anew.
        """

    def losses(self) -> Mapping[Loss, int]:
        """Cumulative losses by reason; a reason that never happened is absent."""

    def clear(self) -> None:
        """Forget everything counted so far, as after a reverted snapshot; connections still open stay ``open``."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
