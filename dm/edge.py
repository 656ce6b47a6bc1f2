"""The manager's view of one dependency: its identity, and what its calling machine's agent says of it."""

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from statistics import median
from typing import NamedTuple, Self

Address = IPv4Address | IPv6Address

_GAPS_KEPT = 32
_CLOCK_SEEN, _CLOCK_SPREAD = 5, 1.5
"""Gaps from which a timer is known, and how much longer than usual its longest may be."""
_REPORTED_S = 1.0
"""Calls that are closer together are not told apart: an agent tells the latest of those in an interval."""
_CALM_PROVES = 3
_CALM_S = 3.0
_HELD_CALM_S = 30.0


class Transport(StrEnum):
    """The transport protocol of an edge."""

    TCP = "tcp"
    UDP = "udp"


class Failure(StrEnum):
    """Why attempts did not succeed."""

    REFUSED = "refused"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    OTHER = "failed otherwise"


ANY_PORT = 0
"""Stands for the ports of a dependency whose ports differ from launch to launch."""

Door = tuple[Transport, int]
"""Where a machine takes calls: a transport and a port."""


class EdgeKey(NamedTuple):
    """An edge's identity: names, never addresses, so that a stack with other addresses has the same edges."""

    source: str
    target: str
    transport: Transport
    port: int
    service: str = ""
    """Named by a registry, wherever it listens: then ``port`` is ``ANY_PORT``."""

    @property
    def called(self) -> str:
        """The target and what is called there, for a person."""
        port = "*" if self.port == ANY_PORT else self.port
        return f"{self.target}:{self.service or port}"

    @property
    def door(self) -> Door:
        """Where its target is called."""
        return self.transport, self.port

    def __str__(self) -> str:
        suffix = "/udp" if self.transport is Transport.UDP else ""
        return f"{self.source} → {self.called}{suffix}"


class Pair(NamedTuple):
    """Two nodes that talk by one transport."""

    source: str
    target: str
    transport: Transport

    @classmethod
    def of(cls, key: EdgeKey) -> Self:
        """That of an edge."""
        return cls(key.source, key.target, key.transport)


class NameClaim(NamedTuple):
    """One name for an address, as an agent found it; ``hint`` marks names of a service or program, not of a host.

    ``at_port`` marks a registry's name for the service at the port.
    """

    name: str
    source: str
    confidence: int
    hint: bool
    at_port: bool = False


class FlowKey(NamedTuple):
    """What one agent counts separately."""

    source: str
    transport: Transport
    address: Address
    port: int
    command: str


class Backend(NamedTuple):
    """Where a packet filter sent what was meant for another address (DNAT)."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class Flow(NamedTuple):
    """Counters of one flow since its agent's session began. Times are seconds of the manager's own clock."""

    names: tuple[NameClaim, ...]
    attempts: int
    established: int
    open: int
    pending: int
    failures: dict[Failure, int]
    first_seen_s: float
    last_attempt_s: float
    last_established_s: float | None
    last_failure_s: float | None
    oldest_pending_s: float | None
    backends: tuple[Backend, ...] = ()

    @property
    def failed(self) -> int:
        """Failures of every kind."""
        return sum(self.failures.values())


class LiveEdge:
    """All flows between two nodes on one port, and what is remembered of flows that are gone."""

    __slots__ = (
        "attempts",
        "established",
        "established_before_s",
        "failed",
        "failing_since_s",
        "failures_since_ok",
        "first_established_s",
        "first_seen_s",
        "flows",
        "gaps",
        "key",
        "kinds",
        "last_attempt_s",
        "last_established_s",
        "last_failure_s",
        "last_open_s",
        "longest_closed_s",
        "oldest_pending_s",
        "open",
        "pending",
        "refused",
        "restarted_s",
    )  # fmt: skip

    def __init__(self, key: EdgeKey) -> None:
        self.key = key
        self.flows: dict[FlowKey, Flow] = {}
        self.attempts = self.established = self.failed = self.open = self.pending = 0
        self.refused: dict[FlowKey, int] = {}
        self.kinds: set[Failure] = set()
        self.failures_since_ok = 0
        self.failing_since_s: float | None = None
        # When its source last started anew, and when it first worked before that.
        self.restarted_s: float | None = None
        self.established_before_s: float | None = None
        self.first_seen_s: float | None = None
        self.first_established_s: float | None = None
        self.last_attempt_s: float | None = None
        self.last_established_s: float | None = None
        self.last_failure_s: float | None = None
        self.last_open_s: float | None = None
        self.longest_closed_s = 0.0
        self.oldest_pending_s: float | None = None
        self.gaps: deque[float] = deque(maxlen=_GAPS_KEPT)

    @property
    def answers(self) -> bool:
        """Whether success can be seen at all: a datagram is sent or not, its answer belongs to nobody."""
        return self.key.transport is Transport.TCP

    @property
    def seen_ok(self) -> bool:
        """Whether it worked at least once since its source last started."""
        return self.first_established_s is not None

    @property
    def commands(self) -> set[str]:
        """The programs that call, those whose names are known."""
        return {flow_key.command for flow_key in self.flows if flow_key.command}

    def failing(self, now_s: float, *, patience_s: float) -> bool:
        """Whether attempts fail now: the latest outcome is a failure, or an attempt has waited too long."""
        stuck = self.oldest_pending_s is not None and now_s - self.oldest_pending_s >= patience_s
        calm_s = self.calm_from_s()
        return stuck or (self.failures_since_ok > 0 and (calm_s is None or now_s < calm_s))

    @property
    def last_failed(self) -> bool:
        """Whether the latest call that was answered or failed did not get through."""
        return self.answers and (self.last_failure_s or 0.0) > (self.last_established_s or 0.0)

    def failing_for_s(self) -> float:
        """Seconds from the first to the last failure since it worked."""
        if self.failing_since_s is None or self.last_failure_s is None:
            return 0.0
        return self.last_failure_s - self.failing_since_s

    def calm_from_s(self) -> float | None:
        """When a failure is over by the passing of time alone, if it ever is.

        Of a datagram socket that is held only errors are told; where no other follows, what it sends arrives.
        """
        if self.answers or not self.open or self.last_failure_s is None:
            return None
        return self.last_failure_s + _HELD_CALM_S

    @property
    def ticks(self) -> bool:
        """Whether it is called on by a timer, as far as can be seen, and not by chance or when somebody asks."""
        if len(self.gaps) < _CLOCK_SEEN:
            return False
        gaps = sorted(self.gaps)
        usual_s = median(gaps)
        if usual_s < 2 * _REPORTED_S:
            return gaps[-1] <= _CLOCK_SPREAD * self.mean_gap_s + _REPORTED_S
        # Shorter ones may be second tries.
        return gaps[-1] <= _CLOCK_SPREAD * usual_s and usual_s <= _CLOCK_SPREAD * gaps[len(gaps) // 4]

    @property
    def mean_gap_s(self) -> float:
        """Seconds between two attempts on average, by all of them."""
        return ((self.last_attempt_s or 0.0) - (self.first_seen_s or 0.0)) / max(self.attempts, 1)

    def active_s(self) -> float | None:
        """When it was last called on, or last had an open connection."""
        times = (self.last_attempt_s, self.last_established_s, self.last_open_s)
        return max((time for time in times if time is not None), default=None)

    def put(self, flow_key: FlowKey, flow: Flow, *, now_s: float) -> None:
        """Take in a flow's newest counters."""
        before = self.flows.get(flow_key)
        if (calm_s := self.calm_from_s()) is not None and now_s >= calm_s:
            self.forgive()
        if flow.open and not self.open and self.last_open_s is not None:
            self.longest_closed_s = max(self.longest_closed_s, now_s - self.last_open_s)
        if flow.open or (before is not None and before.open):
            self.last_open_s = now_s
        self.flows[flow_key] = flow
        earlier = before if before is not None and flow.attempts >= before.attempts else None
        established = flow.established - (earlier.established if earlier else 0)
        failures = dict(flow.failures)
        for kind, count in earlier.failures.items() if earlier else ():
            failures[kind] = failures.get(kind, 0) - count
        self._note_attempt(flow, before)
        if not self.answers:
            self._note_datagrams(flow_key, flow, earlier)
        succeeded = established > 0 if self.answers else flow_key not in self.refused
        waited_s = earlier.oldest_pending_s if earlier else None
        self._note_outcome(flow, before, failures, succeeded=succeeded, waited_s=waited_s)
        self._total()

    def drop(self, flow_key: FlowKey, *, now_s: float) -> None:
        """Forget a flow whose agent no longer reports it; what it proved stays."""
        flow = self.flows.pop(flow_key, None)
        self.refused.pop(flow_key, None)
        if flow is not None:
            self.last_open_s = now_s if flow.open else self.last_open_s
            self._total()

    def restart(self) -> None:
        """The source has started anew: nothing is proved any more, what was learned of its rhythm stays."""
        self.flows.clear()
        self.refused.clear()
        self._total()
        self.failures_since_ok = 0
        self.failing_since_s = self.first_established_s = self.first_seen_s = None
        self.last_established_s = self.last_failure_s = self.last_attempt_s = self.last_open_s = None
        self.kinds.clear()

    def forgive(self) -> None:
        """The target has started anew: earlier failures say nothing about it."""
        self.refused.clear()
        self.failures_since_ok = 0
        self.failing_since_s = None
        self.kinds.clear()

    def _note_attempt(self, flow: Flow, before: Flow | None) -> None:
        if self.first_seen_s is None or flow.first_seen_s < self.first_seen_s:
            self.first_seen_s = flow.first_seen_s
        told_s = before.last_attempt_s if before is not None else None
        latest_s = _latest(self.last_attempt_s, told_s, flow.last_attempt_s)
        is_new = before is None or flow.attempts != before.attempts
        if is_new and self.last_attempt_s is not None and flow.last_attempt_s > self.last_attempt_s + 1e-3:
            self.gaps.append(flow.last_attempt_s - self.last_attempt_s)
        self.last_attempt_s = latest_s

    def _note_datagrams(self, flow_key: FlowKey, flow: Flow, earlier: Flow | None) -> None:
        """No answer tells that a datagram arrived; no error ever, or several in a row without one, have to do.

        ``refused`` counts for each flow how many went out since the last error.
        """
        if earlier is None:
            # What a new manager hears first: how many went out since the error it can only guess.
            if flow.last_failure_s is not None and flow.last_attempt_s - flow.last_failure_s < _CALM_S:
                self.refused[flow_key] = 0
        elif flow.failed > earlier.failed:
            self.refused[flow_key] = 0
        elif flow_key in self.refused:
            self.refused[flow_key] += flow.attempts - earlier.attempts
            if self.refused[flow_key] >= _CALM_PROVES:
                del self.refused[flow_key]

    def _note_outcome(
        self,
        flow: Flow,
        before: Flow | None,
        failures: Mapping[Failure, int],
        *,
        succeeded: bool,
        waited_s: float | None,
    ) -> None:
        """``waited_s`` is since when an attempt had waited for its outcome: one that failed did so from then on."""
        last_ok = _ok_s(flow, answers=self.answers)
        if (succeeded or (flow.open > 0 and self.answers)) and last_ok is not None:
            # Where nothing ever failed the first attempt worked, though a new manager hears of it only now.
            first_ok = last_ok if flow.failed else flow.first_seen_s
            self.first_established_s = min(first_ok, self.first_established_s or first_ok)
            told_s = _ok_s(before, answers=self.answers) if before is not None else None
            self.last_established_s = _latest(self.last_established_s, told_s, last_ok)
        if flow.last_failure_s is not None:
            told_s = before.last_failure_s if before is not None else None
            self.last_failure_s = _latest(self.last_failure_s, told_s, flow.last_failure_s)
        # Flows are told of in any order: what failed before another one of them got through is over.
        over = (flow.last_failure_s or 0.0) <= (self.last_established_s or 0.0) if self.answers else succeeded
        if (
            succeeded
            and not self.refused
            and (self.last_failure_s or 0.0) <= (self.last_established_s or 0.0)
        ):
            self.forgive()
        elif (failed := sum(failures.values())) > 0 and not over:
            self.failures_since_ok += failed
            self.kinds |= {kind for kind, count in failures.items() if count > 0}
            if self.failing_since_s is None:
                times = (time_s for time_s in (waited_s, flow.last_failure_s) if time_s is not None)
                self.failing_since_s = min(times, default=None)

    def _total(self) -> None:
        flows = self.flows.values()
        self.attempts = sum(flow.attempts for flow in flows)
        self.established = sum(flow.established for flow in flows)
        self.failed = sum(flow.failed for flow in flows)
        self.open = sum(flow.open for flow in flows)
        self.pending = sum(flow.pending for flow in flows)
        self.oldest_pending_s = min(
            (flow.oldest_pending_s for flow in flows if flow.oldest_pending_s is not None), default=None
        )


def _ok_s(flow: Flow, *, answers: bool) -> float | None:
    """When a flow last worked, as far as it tells."""
    last_ok = flow.last_established_s if answers else flow.last_attempt_s
    return flow.first_seen_s if last_ok is None and flow.open else last_ok


def _latest(known_s: float | None, told_s: float | None, now_s: float) -> float:
    """The later of what is known and what a flow says now, which corrects what it told before.

    A report may have been under way for seconds, and all in it seems as much later; only what is told together can be
    put in order.
    """
    return now_s if known_s is None or known_s == told_s else max(known_s, now_s)
