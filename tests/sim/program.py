"""What programs do: hold connections open or call again and again, retry, and stop when nobody calls on them."""

import random
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

from dm.v1 import flow_pb2
from dm.v1.flow_pb2 import FAILURE_KIND_REFUSED, FAILURE_KIND_TIMED_OUT, FAILURE_KIND_UNREACHABLE

CONNECT_TIMEOUT_S = 1.0
LONGEST_RETRY_S = 30.0


class Style(Enum):
    """How a dependency is used."""

    HELD = "held"
    CALLS = "calls"


@dataclass
class Need:
    """One dependency of a program. ``eager`` ones begin with the program, the others with the first call on it.

    ``hears_errors``: its datagrams leave through a connected socket, which ICMP answers when nobody listens.
    ``backs_off``: it waits twice as long after each failure that follows another. ``by_chance``: its calls come as
    those of people do, at random with ``period_s`` between them on average.
    """

    source: str
    target: str
    port: int
    transport: str = "tcp"
    style: Style = Style.HELD
    period_s: float = 1.0
    eager: bool = True
    retry_s: float = 0.5
    fresh_each: int = 0
    hears_errors: bool = True
    backs_off: bool = False
    by_chance: bool = False
    command: str = "program"
    failures: int = 0
    connected: "Line | None" = None
    pending: "Line | None" = None
    pending_since_s: float = 0.0
    uses: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """Who, whom, where."""
        return self.source, self.target, self.port

    def next_delay_s(self, random_: random.Random, *, worked: bool) -> float:
        """How long until it is used again."""
        self.failures = 0 if worked else self.failures + 1
        if worked and self.by_chance:
            return random_.expovariate(1 / self.period_s)
        retry_s = self.retry_s * 2 ** (self.failures - 1) if self.backs_off else self.retry_s
        return (self.period_s if worked else min(retry_s, LONGEST_RETRY_S)) * random_.uniform(0.8, 1.2)


@dataclass
class Line:
    """What one agent counts of one destination, in the manager's seconds."""

    address: IPv4Address
    port: int
    transport: str
    command: str
    first_s: float
    attempts: int = 0
    established: int = 0
    open: int = 0
    pending: int = 0
    failures: dict["flow_pb2.FailureKind.ValueType", int] = field(default_factory=dict)
    last_attempt_s: float = 0.0
    last_established_s: float | None = None
    last_failure_s: float | None = None
    pending_since_s: float | None = None
    changed: bool = True
    urgent: bool = True

    def attempt(self, now_s: float) -> None:
        """A connect, or a datagram."""
        self.attempts += 1
        self.last_attempt_s = now_s
        self.changed = True

    def succeed(self, now_s: float, *, hold: bool) -> None:
        """The peer answered."""
        self.established += 1
        self.open += hold
        self.last_established_s = now_s
        self.changed = True

    def fail(self, now_s: float, kind: "flow_pb2.FailureKind.ValueType") -> None:
        """The attempt failed."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.last_failure_s = now_s
        self.changed = self.urgent = True

    def wait(self, now_s: float) -> None:
        """The attempt has no answer yet."""
        self.pending += 1
        self.pending_since_s = self.pending_since_s or now_s
        self.changed = True

    def give_up(self, now_s: float) -> None:
        """The caller does not wait any longer."""
        self.pending -= 1
        self.pending_since_s = None if self.pending == 0 else self.pending_since_s
        self.fail(now_s, FAILURE_KIND_TIMED_OUT)

    def close(self) -> None:
        """A held connection ended."""
        self.open -= 1
        self.changed = True

    def message(self, now_s: float, name: str) -> flow_pb2.Edge:
        """As the agent reports it."""
        edge = flow_pb2.Edge(
            transport=flow_pb2.TRANSPORT_UDP if self.transport == "udp" else flow_pb2.TRANSPORT_TCP,
            address=self.address.packed,
            port=self.port,
            command=self.command,
            attempts=self.attempts,
            established=self.established,
            open=self.open,
            pending=self.pending,
            first_seen_age_ms=_age(now_s, self.first_s),
            last_attempt_age_ms=_age(now_s, self.last_attempt_s),
        )
        if name:
            edge.names.add(name=name, source=flow_pb2.NAME_SOURCE_HOSTS_FILE, confidence=90)
        for kind, count in self.failures.items():
            edge.failures.add(kind=kind, count=count)
        if self.last_established_s is not None:
            edge.last_established_age_ms = _age(now_s, self.last_established_s)
        if self.last_failure_s is not None:
            edge.last_failure_age_ms = _age(now_s, self.last_failure_s)
        if self.pending_since_s is not None:
            edge.oldest_pending_age_ms = _age(now_s, self.pending_since_s)
        return edge


def _age(now_s: float, then_s: float) -> int:
    return max(0, round((now_s - then_s) * 1000))


__all__ = [
    "CONNECT_TIMEOUT_S",
    "FAILURE_KIND_REFUSED",
    "FAILURE_KIND_UNREACHABLE",
    "Line",
    "Need",
    "Style",
]
