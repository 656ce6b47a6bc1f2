"""A small stack in virtual time: programs that connect, pool, retry and call, and agents that report what they see."""

import math
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from dm.deviation import Policy
from dm.edge import Address, Failure, Flow, FlowKey, NameClaim, Transport
from dm.stack import Judgement, Power, Spec, Stack, VcdState, Verdict

STEP_S = 0.05
REPORT_S = 1.0
RETRY_S = 0.5


@dataclass
class Need:
    """One dependency of a program: held open, or called once in ``period_s``."""

    source: str
    target: str
    port: int
    period_s: float | None = None
    transport: Transport = Transport.TCP
    next_s: float = 0.0
    connected_to: Address | None = None
    pending_since_s: float | None = None


@dataclass
class Counters:
    """What an agent counts of one flow."""

    first_s: float
    attempts: int = 0
    established: int = 0
    open: int = 0
    refused: int = 0
    last_attempt_s: float = 0.0
    last_established_s: float | None = None
    last_failure_s: float | None = None
    pending_since_s: float | None = None
    dirty: bool = True

    def flow(self, names: tuple[NameClaim, ...]) -> Flow:
        """As the manager gets it."""
        return Flow(
            names=names,
            attempts=self.attempts,
            established=self.established,
            open=self.open,
            pending=0 if self.pending_since_s is None else 1,
            failures={Failure.REFUSED: self.refused} if self.refused else {},
            first_seen_s=self.first_s,
            last_attempt_s=self.last_attempt_s,
            last_established_s=self.last_established_s,
            last_failure_s=self.last_failure_s,
            oldest_pending_s=self.pending_since_s,
        )


@dataclass
class World:
    """Programs listed in ``needs`` and their machines; ``starts_s`` is when a program begins after its launch."""

    needs: list[Need]
    externals: dict[str, Address] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    network: str = "198.18.0."
    policy: Policy = field(default_factory=Policy)
    fingerprint: str = "f1"
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        names = sorted({need.source for need in self.needs} | {need.target for need in self.needs})
        vcds = [name for name in names if name not in self.externals]
        self.addresses: dict[str, Address] = {
            n: IPv4Address(f"{self.network}{i}") for i, n in enumerate(vcds, 1)
        }
        self.owner = {address: name for name, address in (self.addresses | self.externals).items()}
        self.launch_s = self.now_s
        self.begins_s = {name: self.launch_s + self.starts_s.get(name, 0.5) for name in vcds}
        self.broken: set[str] = set()
        self.cut: set[str] = set()
        self.idle: set[str] = set()
        self.silent: set[str] = set()
        self.pointed: dict[tuple[str, str], Address] = {}
        self.counters: dict[FlowKey, Counters] = {}
        self.history: list[tuple[float, Judgement]] = []
        self.stack = self.new_manager()

    def new_manager(self) -> Stack:
        """A manager that knows nothing yet; every agent says hello to it."""
        spec = Spec(
            "world",
            self.fingerprint,
            {n: (a,) for n, a in self.addresses.items()},
            self.policy,
            "l1",
            self.launch_s,
        )
        self.stack = Stack(spec, generations={}, now_s=self.now_s)
        for name in self.addresses:
            self.connect(name)
        return self.stack

    def vcd(self, name: str) -> VcdState:
        """The manager's record of a VCD."""
        return self.stack.vcds[name]

    def connect(self, name: str) -> None:
        """The agent's stream opens and its whole table follows."""
        self.silent.discard(name)
        self.stack.hello(self.vcd(name), session="s", probes=(), now_s=self.now_s)
        self._report(name, whole=True)

    def disconnect(self, name: str) -> None:
        """The agent dies."""
        self.silent.add(name)
        self.stack.lost(self.vcd(name), now_s=self.now_s)

    def restart(self, name: str, *, down_s: float = 1.0, incarnation: str = "again") -> None:
        """The instance is stopped and started, as by hand."""
        self._reset(name)
        self.begins_s[name] = self.now_s + down_s
        self.stack.instance(self.vcd(name), Power.RUNNING, "first", expected=False, now_s=self.now_s)
        self.stack.instance(self.vcd(name), Power.RUNNING, incarnation, expected=False, now_s=self.now_s)
        self.connect(name)

    def listens(self, name: str) -> bool:
        """Whether the program answers."""
        if name in self.broken:
            return False
        return name in self.externals or self.now_s >= self.begins_s.get(name, math.inf)

    def run(self, seconds: float) -> Judgement:
        """Let time pass; returns the last judgement."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += STEP_S
            for need in self.needs:
                self._live(need)
            judgement = self._judge()
        return judgement

    def until(self, verdict: Verdict, *, within_s: float) -> float:
        """Let time pass until the verdict; returns the seconds it took, fails when it does not come."""
        begin_s = self.now_s
        while self.now_s < begin_s + within_s:
            if self.run(STEP_S).verdict is verdict:
                return self.now_s - begin_s
        raise AssertionError(f"no {verdict} within {within_s} s: {self.history[-1][1]}")

    def verdicts(self, *, since_s: float = 0.0) -> set[Verdict]:
        """All verdicts given so far."""
        return {judgement.verdict for time_s, judgement in self.history if time_s >= since_s}

    def culprits(self) -> list[str]:
        """Who is blamed now."""
        return [suspect.name for suspect in self.history[-1][1].finding.culprits]

    def _judge(self) -> Judgement:
        for name in self.addresses:
            if name not in self.silent:
                self._report(name)
        judgement = self.stack.judge(now_s=self.now_s)
        self.history.append((self.now_s, judgement))
        return judgement

    def _live(self, need: Need) -> None:
        if not self.listens(need.source) or need.source in self.idle:
            return
        address = self.pointed.get((need.source, need.target), (self.addresses | self.externals)[need.target])
        key = FlowKey(need.source, need.transport, address, need.port, "program")
        if need.transport is Transport.UDP:
            if self.now_s >= need.next_s:
                self._attempt(key).last_established_s = None
                need.next_s = self.now_s + (need.period_s or 1.0)
            return
        reachable = not self.cut & {need.source, self.owner.get(address, "")} and address in self.owner
        peer = self.owner.get(address, "")
        if need.connected_to is not None:
            if need.connected_to == address and self.listens(peer) and reachable:
                return
            self._close(need)
        if self.now_s < need.next_s:
            return
        self._call(need, key, reachable=reachable, listens=self.listens(peer))

    def _call(self, need: Need, key: FlowKey, *, reachable: bool, listens: bool) -> None:
        need.next_s = self.now_s + (need.period_s or RETRY_S)
        counters = self._attempt(key)
        if not reachable:
            counters.pending_since_s = counters.pending_since_s or self.now_s
        elif not listens:
            counters.pending_since_s = None
            counters.refused += 1
            counters.last_failure_s = self.now_s
        else:
            counters.pending_since_s = None
            counters.established += 1
            counters.last_established_s = self.now_s
            if need.period_s is None:
                counters.open += 1
                need.connected_to = key.address

    def _close(self, need: Need) -> None:
        assert need.connected_to is not None
        counters = self.counters[
            FlowKey(need.source, need.transport, need.connected_to, need.port, "program")
        ]
        counters.open -= 1
        counters.dirty = True
        need.connected_to = None
        need.next_s = self.now_s + 0.1

    def _attempt(self, key: FlowKey) -> Counters:
        counters = self.counters.setdefault(key, Counters(self.now_s))
        counters.attempts += 1
        counters.last_attempt_s = self.now_s
        counters.dirty = True
        return counters

    def _reset(self, name: str) -> None:
        for need in self.needs:
            if need.source == name:
                need.connected_to = None
        self.counters = {key: value for key, value in self.counters.items() if key.source != name}

    def _report(self, name: str, *, whole: bool = False) -> None:
        due = [(k, c) for k, c in self.counters.items() if k.source == name and (whole or c.dirty)]
        claims = {
            address: (NameClaim(n, "NAME_SOURCE_HOSTS_FILE", 90, False),)
            for n, address in self.externals.items()
        }
        flows = [(key, counters.flow(claims.get(key.address, ()))) for key, counters in due]
        for _, counters in due:
            counters.dirty = False
        if flows or whole:
            self.stack.edges(self.vcd(name), flows, complete=whole, now_s=self.now_s)
        else:
            self.stack.heard(self.vcd(name), now_s=self.now_s)


def shop(**changes: object) -> World:
    """The sample shop: a client, a web server, an api with three needs, a worker with four, one name outside."""
    needs = [
        Need("client", "web", 80, 0.5),
        Need("web", "api", 8000, 0.5),
        Need("api", "cache", 6379),
        Need("api", "db", 5432),
        Need("api", "queue", 7000, 5.0),
        Need("api", "metrics", 8125, 1.0, Transport.UDP),
        Need("worker", "queue", 7000),
        Need("worker", "db", 5432),
        Need("worker", "cache", 6379),
        Need("worker", "metrics", 8125, 1.0, Transport.UDP),
        Need("worker", "payments.example", 80, 3.0),
    ]
    return World(needs, externals={"payments.example": IPv4Address("198.18.20.5")}, **changes)  # type: ignore[arg-type]
