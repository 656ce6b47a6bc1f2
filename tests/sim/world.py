"""A stack in virtual time. Programs use their needs, agents report by the wire's own messages, the manager judges."""

import heapq
import random
from collections import deque
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from dm import wire
from dm.golden import GoldenImage
from dm.policy import Policy
from dm.stack import Spec, Stack
from dm.v1 import agent_pb2, flow_pb2
from dm.vcd import Power, VcdState
from dm.verdict import Judgement, Verdict
from tests.sim.program import (
    CONNECT_TIMEOUT_S,
    FAILURE_KIND_REFUSED,
    Line,
    Need,
    Style,
)

TICK_S = 0.25
REPORT_S = 1.0
LISTENERS_S = 2.0
CALLED_WITHIN_S = 3.0
FALLS_AFTER_S = 1.5
BEGIN_S = 1000.0

TRANSPORTS = {"tcp": flow_pb2.TRANSPORT_TCP, "udp": flow_pb2.TRANSPORT_UDP}

LineKey = tuple[str, str, IPv4Address, int, str]


class World:
    """Programs, their machines and network, and the manager that watches them. All that is random follows ``seed``."""

    def __init__(
        self,
        needs: Iterable[Need],
        *,
        vcds: Iterable[str],
        externals: Mapping[str, IPv4Address],
        seed: int = 0,
        network: str = "198.18.",
        fingerprint: str = "f1",
        starts_s: Mapping[str, float] | None = None,
        policy: Policy | None = None,
        cascade: float = 0.0,
    ) -> None:
        self.random = random.Random(seed)
        self.now_s = self.launch_s = BEGIN_S
        self.needs = list(needs)
        self.policy = policy or Policy()
        self.fingerprint = fingerprint
        self.vcds = sorted(vcds)
        self.externals = dict(externals)
        self.addresses = {
            name: IPv4Address(f"{network}{number // 250}.{number % 250 + 1}")
            for number, name in enumerate(self.vcds)
        }
        self.owner = {address: name for name, address in (self.addresses | self.externals).items()}
        given = starts_s or {}
        self.begins_s = {
            name: self.now_s + given.get(name, self.random.uniform(0.3, 1.5)) for name in self.vcds
        }
        self.fragile = {name for name in self.vcds if self.random.random() < cascade}
        self.broken: set[str] = set()
        self.hung: set[str] = set()
        self.mute: set[str] = set()
        self.cut: set[frozenset[str]] = set()
        self.isolated: set[str] = set()
        self.silent: set[str] = set()
        self.blind: set[str] = set()
        self.lossy: set[str] = set()
        self.lag_s = 0.0
        """Reports are under way for up to so long, each agent's in their order."""
        self._under_way: dict[str, deque[tuple[float, agent_pb2.Edges]]] = {
            name: deque() for name in self.vcds
        }
        self.first_refused_s: float | None = None
        self.pointed: dict[tuple[str, str, int], tuple[IPv4Address, int]] = {}
        self.history: list[tuple[float, Judgement]] = []
        self.stack: Stack
        called = {need.target for need in self.needs}
        self._roots = {need.source for need in self.needs} - called
        self._ports = {(need.target, need.port) for need in self.needs}
        self._said: dict[str, agent_pb2.Presence] = {}
        self._look_due_s: dict[str, float] = {}
        self._doors: dict[str, set[tuple[flow_pb2.Transport.ValueType, int]]] = {}
        for need in self.needs:
            self._doors.setdefault(need.target, set()).add((TRANSPORTS[need.transport], need.port))
        self._lines: dict[LineKey, Line] = {}
        self._lines_of: dict[str, list[Line]] = {name: [] for name in self.vcds}
        self._called_s: dict[str, float] = {}
        self._fails_since_s: dict[str, float] = {}
        self._fallen: set[str] = set()
        self._report_due_s = {name: self.now_s + self.random.uniform(0, REPORT_S) for name in self.vcds}
        self._uses = [
            (self.begins_s.get(need.source, self.now_s) + self.random.uniform(0, 0.3), number)
            for number, need in enumerate(self.needs)
        ]
        heapq.heapify(self._uses)
        self._next_tick_s = self.now_s + TICK_S
        self.new_manager()

    def new_manager(self) -> None:
        """A manager that knows nothing yet; every agent that speaks says hello to it."""
        addresses = {name: (address,) for name, address in self.addresses.items()}
        spec = Spec("world", self.fingerprint, addresses, self.policy, "launch", self.launch_s)
        self.stack = Stack(spec, generations={}, now_s=self.now_s)
        for name in self.vcds:
            if name not in self.silent:
                self.connect(name)

    def guard(self, image: GoldenImage) -> None:
        """Hold the stack against an image."""
        self.stack.use_image(image, now_s=self.now_s)

    def vcd(self, name: str) -> VcdState:
        """The manager's record of a VCD."""
        return self.stack.vcds[name]

    def connect(self, name: str) -> None:
        """The agent's stream opens, and its whole table follows."""
        self.silent.discard(name)
        self._said.pop(name, None)
        self._look_due_s.pop(name, None)
        self.stack.hello(self.vcd(name), session=str(self.random.random()), probes=(), now_s=self.now_s)
        self._say_presence(name)
        self._report(name, self._lines_of[name], complete=True)

    def disconnect(self, name: str) -> None:
        """The agent dies."""
        self.silent.add(name)
        self._under_way[name].clear()
        self.stack.lost(self.vcd(name), now_s=self.now_s)

    def restart(self, name: str, *, down_s: float = 1.0, incarnation: str = "again") -> None:
        """The instance is stopped and started, as by hand."""
        for need in self.needs:
            if need.source == name:
                need.connected = need.pending = None
        self._lines = {key: line for key, line in self._lines.items() if key[0] != name}
        self._lines_of[name] = []
        self.begins_s[name] = self.now_s + down_s
        for one in ("first", incarnation):
            self.stack.instance(self.vcd(name), Power.RUNNING, one, expected=False, now_s=self.now_s)
        self.connect(name)

    def reset(self, name: str, *, incarnation: str = "again") -> None:
        """The machine begins to boot, as when somebody has pressed its button: nobody reaches it, or its agent."""
        self.isolated.add(name)
        self.disconnect(name)
        for one in ("first", incarnation):
            self.stack.instance(self.vcd(name), Power.RUNNING, one, expected=False, now_s=self.now_s)

    def booted(self, name: str) -> None:
        """It is through with that, and its agent speaks."""
        self.isolated.discard(name)
        self.connect(name)

    def hold(self, name: str, how: str, *, incarnation: str = "first") -> None:
        """Somebody takes the machine in hand, so that it does nothing and nobody reaches it."""
        self.isolated.add(name)
        self.silent.add(name)
        held = self.vcd(name)
        self.stack.instance(held, Power.PAUSED, incarnation, expected=False, now_s=self.now_s, held=how)

    def let_go(self, name: str, *, incarnation: str = "first") -> None:
        """He lets it go on: where it was, or as another incarnation."""
        self.isolated.discard(name)
        self.silent.discard(name)
        vcd = self.vcd(name)
        if self.stack.instance(vcd, Power.RUNNING, incarnation, expected=False, now_s=self.now_s):
            self.connect(name)

    def switch_off(self, name: str) -> None:
        """The deployer says that the machine does not run."""
        self.stack.instance(self.vcd(name), Power.STOPPED, "", expected=False, now_s=self.now_s)

    def delay(self, name: str, seconds: float) -> None:
        """Let a program that has not started yet start so much later."""
        self.begins_s[name] += seconds

    def replace_manager(self) -> None:
        """The manager dies, and another one with the same image takes its place."""
        image = self.stack.image
        self.new_manager()
        if image is not None:
            self.guard(image)

    def repair(self, name: str) -> None:
        """Take a machine back to a good snapshot: its program runs again."""
        self.broken.discard(name)
        self._fallen.discard(name)
        self.hung.discard(name)
        self.mute.discard(name)
        self.isolated.discard(name)
        self.pointed = {key: where for key, where in self.pointed.items() if key[0] != name}
        self.restart(name, incarnation=f"repaired at {self.now_s}")

    def run(self, seconds: float) -> Judgement:
        """Let time pass; returns the last judgement."""
        end_s = self.now_s + seconds
        while self._next_tick_s <= end_s:
            while self._uses[0][0] <= self._next_tick_s:
                self.now_s, number = heapq.heappop(self._uses)
                delay_s = self._use(self.needs[number])
                heapq.heappush(self._uses, (self.now_s + delay_s, number))
            self.now_s = self._next_tick_s
            self._next_tick_s += TICK_S
            self._tick()
        self.now_s = max(self.now_s, end_s)
        return self.history[-1][1]

    def until(self, verdict: Verdict, *, within_s: float) -> float | None:
        """Let time pass until the verdict; returns the seconds that it took, None when it does not come."""
        begin_s = self.now_s
        while self.now_s < begin_s + within_s:
            if self.run(TICK_S).verdict is verdict:
                return self.now_s - begin_s
        return None

    def verdicts(self, *, since_s: float = 0.0) -> set[Verdict]:
        """All verdicts given so far."""
        return {judgement.verdict for time_s, judgement in self.history if time_s >= since_s}

    def culprits(self) -> list[str]:
        """Who is blamed now."""
        return [suspect.name for suspect in self.history[-1][1].finding.culprits]

    def listens(self, name: str) -> bool:
        """Whether a program takes connections."""
        if name in self.broken or name in self._fallen:
            return False
        return name in self.externals or self.now_s >= self.begins_s[name]

    def add(self, need: Need) -> None:
        """A program begins to use something more."""
        self.needs.append(need)
        heapq.heappush(self._uses, (self.now_s, len(self.needs) - 1))

    def drop_connections(self, name: str) -> None:
        """Close what a program holds open, without a word from either side."""
        for need in self.needs:
            if need.source == name and need.connected is not None:
                need.connected.close()
                need.connected = None

    def _tick(self) -> None:
        for name in self.vcds:
            if name in self.silent:
                continue
            self._deliver(name)
            lines = [line for line in self._lines_of[name] if line.changed or line.pending]
            if self.now_s >= self._report_due_s[name] or any(line.urgent for line in lines):
                self._report_due_s[name] = self.now_s + REPORT_S
                self._report(name, lines)
                self._say_presence(name)
                self._say_losses(name)
        self.history.append((self.now_s, self.stack.judge(now_s=self.now_s)))

    def _say_presence(self, name: str) -> None:
        """Where the machine can be reached, if that is not what its agent said last."""
        if self.now_s < self._look_due_s.get(name, 0.0):
            return
        presence = agent_pb2.Presence(addresses=[self.addresses[name].packed])
        if self.listens(name):
            for transport, port in sorted(self._doors.get(name, ())):
                presence.listeners.add(transport=transport, port=port)
        moved = self._said.get(name) != presence
        # What has just changed is looked at again by the next report.
        self._look_due_s[name] = self.now_s + (0.0 if moved else LISTENERS_S)
        if moved:
            self._said[name] = presence
            listeners = wire.listeners(presence)
            self.stack.presence(self.vcd(name), [self.addresses[name]], listeners, now_s=self.now_s)

    def _say_losses(self, name: str) -> None:
        if name in self.lossy:
            loss = agent_pb2.Loss(reason=agent_pb2.LOSS_REASON_MAP_FULL, count=int(self.now_s))
            losses = wire.losses(agent_pb2.Coverage(losses=[loss]))
            self.stack.losses(self.vcd(name), losses, now_s=self.now_s)

    def _report(self, name: str, lines: Iterable[Line], *, complete: bool = False) -> None:
        message = agent_pb2.Edges(generation=1, complete=complete)
        for line in lines:
            if name in self.blind and line.first_s > self.now_s - 60:
                continue
            line.changed = line.urgent = False
            external = self.owner.get(line.address, "")
            message.edges.append(line.message(self.now_s, external if external in self.externals else ""))
        sent = self._under_way[name]
        earliest_s = sent[-1][0] if sent else self.now_s
        sent.append((max(earliest_s, self.now_s + self.random.uniform(0, self.lag_s)), message))
        self._deliver(name)

    def _deliver(self, name: str) -> None:
        """What has arrived of an agent's reports by now."""
        vcd, sent = self.vcd(name), self._under_way[name]
        while sent and sent[0][0] <= self.now_s:
            _, message = sent.popleft()
            if message.edges or message.complete:
                flows = wire.flows(message, source=name, now_s=self.now_s)
                self.stack.edges(vcd, flows, complete=message.complete, now_s=self.now_s)
            else:
                self.stack.heard(vcd, now_s=self.now_s)

    def _use(self, need: Need) -> float:
        """Use a need once; returns the seconds until its next use."""
        if need.pending is not None:
            need.pending.give_up(self.now_s)
            need.pending = None
            self._suffer(need.source)
            return need.next_delay_s(self.random, worked=False)
        if not self._runs(need.source):
            return need.retry_s
        if need.source in self.hung:
            return need.period_s
        # One that fell for want of what it needs is started again and again, and tries all of it each time.
        if not need.eager and need.source not in self._fallen and not self._is_called(need.source):
            return min(need.period_s, 0.5)
        worked = self._call(need)
        if need.pending is not None:
            return CONNECT_TIMEOUT_S
        if worked and not (need.transport == "udp" and self._is_cut(need.source, need.target)):
            self._called_s[need.target] = self.now_s
            self._recover(need.source)
        else:
            self._suffer(need.source)
        return need.next_delay_s(self.random, worked=worked)

    def _call(self, need: Need) -> bool:
        address, port = self.pointed.get(
            need.key, ((self.addresses | self.externals)[need.target], need.port)
        )
        peer = self.owner.get(address, "")
        reachable = bool(peer) and not self._is_cut(need.source, peer)
        answers = reachable and self.listens(peer) and (peer, port) in self._ports
        if need.connected is not None:
            stays = answers and need.connected.address == address and need.connected.port == port
            need.uses += 1
            if stays and not (need.fresh_each and need.uses % need.fresh_each == 0):
                return True
            need.connected.close()
            need.connected = None
        if need.source in self.mute:
            return False
        line = self._line(need, address, port)
        line.attempt(self.now_s)
        if need.transport == "udp":
            if reachable and not answers and need.hears_errors:
                line.fail(self.now_s, FAILURE_KIND_REFUSED)
            # Who sends datagrams hardly ever minds what becomes of them.
            return True
        if not reachable:
            line.wait(self.now_s)
            need.pending = line
            return False
        if not answers:
            line.fail(self.now_s, FAILURE_KIND_REFUSED)
            self.first_refused_s = self.first_refused_s or self.now_s
            return False
        line.succeed(self.now_s, hold=need.style is Style.HELD)
        need.connected = line if need.style is Style.HELD else None
        return True

    def _line(self, need: Need, address: IPv4Address, port: int) -> Line:
        key = (need.source, need.transport, address, port, need.command)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(address, port, need.transport, need.command, self.now_s)
            self._lines_of[need.source].append(line)
        return line

    def _runs(self, name: str) -> bool:
        return self.now_s >= self.begins_s[name] and name not in self.broken

    def _is_called(self, name: str) -> bool:
        return name in self._roots or self.now_s - self._called_s.get(name, 0.0) < CALLED_WITHIN_S

    def _is_cut(self, one: str, other: str) -> bool:
        return bool(self.isolated & {one, other}) or frozenset((one, other)) in self.cut

    def _suffer(self, name: str) -> None:
        since_s = self._fails_since_s.setdefault(name, self.now_s)
        if (
            name in self.fragile
            and self.now_s - since_s > FALLS_AFTER_S
            and self.now_s > self.begins_s[name] + 5
        ):
            self._fallen.add(name)

    def _recover(self, name: str) -> None:
        self._fails_since_s.pop(name, None)
        self._fallen.discard(name)
