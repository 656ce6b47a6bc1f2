"""The live graph of one stack, built from agents' reports one flow at a time.

Plain dictionaries, by identity, by either end and by address: an update costs the edges that it touches.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from dm.edge import ANY_PORT, Address, Door, EdgeKey, Flow, FlowKey, LiveEdge, NameClaim, Pair

SITES = frozenset({"NAME_SOURCE_TLS_SNI", "NAME_SOURCE_HTTP_HOST"})
"""Where names come from that a client asks for, whoever answers."""

Changed = Callable[[LiveEdge], None]


class LiveGraph:
    """Edges by identity, kept right while addresses change owners and agents start anew."""

    def __init__(self, *, changed: Changed) -> None:
        self._changed = changed
        self._edges: dict[EdgeKey, LiveEdge] = {}
        self._edge_of: dict[FlowKey, EdgeKey] = {}
        self._flows_at: dict[Address, set[FlowKey]] = {}
        self._flows_of: dict[str, set[FlowKey]] = {}
        self._owner: dict[Address, str] = {}
        self._addresses: dict[str, set[Address]] = {}
        self._outbound: dict[str, dict[EdgeKey, LiveEdge]] = {}
        self._inbound: dict[str, dict[EdgeKey, LiveEdge]] = {}
        self._fixed_ports: Mapping[Pair, frozenset[int]] = {}

    def __iter__(self) -> Iterator[LiveEdge]:
        return iter(self._edges.values())

    def __len__(self) -> int:
        return len(self._edges)

    def get(self, key: EdgeKey) -> LiveEdge | None:
        """The edge of that identity, if it was ever seen."""
        return self._edges.get(key)

    def outbound(self, source: str) -> list[LiveEdge]:
        """The edges that a node calls on."""
        return list(self._outbound.get(source, {}).values())

    def touching(self, name: str) -> list[LiveEdge]:
        """The edges that begin or end at a node."""
        return [*self._outbound.get(name, {}).values(), *self._inbound.get(name, {}).values()]

    def size(self, source: str) -> int:
        """How much a node's agent takes up: its flows, or its edges if there are more."""
        return max(len(self._flows_of.get(source, ())), len(self._outbound.get(source, ())))

    def forget(self, source: str, *, kept: Container[EdgeKey]) -> None:
        """Forget a node's edges that no flow stands for any more, but those to be kept."""
        for edge in self.outbound(source):
            if not edge.flows and edge.key not in kept:
                del self._edges[edge.key]
                _discard(self._outbound, source, edge.key)
                _discard(self._inbound, edge.key.target, edge.key)

    def owner(self, address: Address) -> str | None:
        """The VCD that has an address now."""
        return self._owner.get(address)

    def addresses(self, vcd: str) -> list[Address]:
        """The addresses that a VCD has now."""
        return list(self._addresses.get(vcd, ()))

    def own(self, vcd: str, addresses: Iterable[Address], *, now_s: float) -> None:
        """Say which addresses a VCD has now; flows to them become edges to it."""
        wanted, had = set(addresses), self._addresses.get(vcd, set())
        gone, gained = had - wanted, wanted - had
        for address in gone:
            del self._owner[address]
        for address in gained:
            if (other := self._owner.get(address)) is not None:
                self._addresses[other].discard(address)
            self._owner[address] = vcd
        self._addresses[vcd] = wanted
        for address in gone | gained:
            for flow_key in list(self._flows_at.get(address, ())):
                flow = self._edges[self._edge_of[flow_key]].flows[flow_key]
                self._place(flow_key, flow, now_s=now_s)

    def fold(self, fixed_ports: Mapping[Pair, frozenset[int]], *, now_s: float) -> None:
        """Take the edges of these pairs together, whatever their ports, but for the ports that are fixed."""
        before, self._fixed_ports = self._fixed_ports, fixed_ports
        if before == fixed_ports:
            return
        for source in {pair.source for pair in (*before, *fixed_ports)}:
            for flow_key in list(self._flows_of.get(source, ())):
                flow = self._edges[self._edge_of[flow_key]].flows[flow_key]
                self._place(flow_key, flow, now_s=now_s)

    def put(self, flow_key: FlowKey, flow: Flow, *, now_s: float) -> None:
        """Take in one flow's newest counters. A flow of a machine to itself is no dependency."""
        before = self._edge_of.get(flow_key)
        self._place(flow_key, flow, now_s=now_s)
        now = self._edge_of.get(flow_key)
        if before is not None and now is not None and now.service and not before.service:
            self._disown(self._edges[before])

    def keep_only(self, source: str, flow_keys: set[FlowKey], *, now_s: float) -> None:
        """An agent has sent its whole table: forget its flows that are not in it."""
        for flow_key in self._flows_of.get(source, set()) - flow_keys:
            edge = self._unplace(flow_key, now_s=now_s)
            self._changed(edge)

    def restart(self, vcd: str, *, now_s: float) -> None:
        """A VCD started anew: its own edges prove nothing yet, failures towards it are forgiven."""
        for flow_key in list(self._flows_of.get(vcd, ())):
            self._unplace(flow_key, now_s=now_s)
        for edge in self._outbound.get(vcd, {}).values():
            if edge.established_before_s is None:
                edge.established_before_s = edge.first_established_s
            edge.restart()
            edge.restarted_s = now_s
            self._changed(edge)
        self.pardon(vcd)

    def pardon(self, vcd: str) -> None:
        """Failures of calls to a VCD until now say nothing about it."""
        for edge in self._inbound.get(vcd, {}).values():
            edge.forgive()
            self._changed(edge)

    def forgive(self, vcd: str, opened: Container[Door]) -> None:
        """A VCD listens where it did not: datagrams that were refused there say nothing about it any more.

        A call that is refused is tried again, and shows by itself that it is taken now; a datagram never does.
        """
        for edge in self._inbound.get(vcd, {}).values():
            if edge.failures_since_ok and not edge.answers and edge.key.door in opened:
                edge.forgive()
                self._changed(edge)

    def _place(self, flow_key: FlowKey, flow: Flow, *, now_s: float) -> None:
        key = self._key(flow_key, flow)
        if self._edge_of.get(flow_key, key) != key:
            self._changed(self._unplace(flow_key, now_s=now_s))
        if key.source == key.target:
            return
        edge = self._edges.get(key)
        if edge is None:
            edge = self._edges[key] = LiveEdge(key)
            self._outbound.setdefault(key.source, {})[key] = edge
            self._inbound.setdefault(key.target, {})[key] = edge
        self._edge_of[flow_key] = key
        self._locate(flow_key, edge.flows.get(flow_key), flow)
        self._flows_of.setdefault(flow_key.source, set()).add(flow_key)
        edge.put(flow_key, flow, now_s=now_s)
        self._changed(edge)

    def _unplace(self, flow_key: FlowKey, *, now_s: float) -> LiveEdge:
        edge = self._edges[self._edge_of.pop(flow_key)]
        self._locate(flow_key, edge.flows[flow_key], None)
        self._flows_of[flow_key.source].discard(flow_key)
        edge.drop(flow_key, now_s=now_s)
        return edge

    def _disown(self, edge: LiveEdge) -> None:
        """A registry was read only after the call: what the port's edge proved is the service's."""
        if not edge.flows:
            edge.restart()
            self._changed(edge)

    def _locate(self, flow_key: FlowKey, before: Flow | None, now: Flow | None) -> None:
        """Keep the index by address right: a flow is found by what was dialled, and by who is behind it."""
        if before and now and before.backends == now.backends:
            return
        for address in _addresses(flow_key, before):
            self._flows_at[address].discard(flow_key)
            if not self._flows_at[address]:
                del self._flows_at[address]
        for address in _addresses(flow_key, now):
            self._flows_at.setdefault(address, set()).add(flow_key)

    def _key(self, flow_key: FlowKey, flow: Flow) -> EdgeKey:
        target, port = self._end(flow_key, flow)
        key = EdgeKey(flow_key.source, target, flow_key.transport, port)
        if service := next((claim.name for claim in flow.names if claim.at_port), ""):
            return key._replace(port=ANY_PORT, service=service)
        return key if port in self._fixed_ports.get(Pair.of(key), (port,)) else key._replace(port=ANY_PORT)

    def _end(self, flow_key: FlowKey, flow: Flow) -> tuple[str, int]:
        """The node and port that a flow comes to.

        Behind a translated address is a VCD if only one is; calls spread over several are calls of what was dialled.
        """
        behind = {(self._owner.get(one.address), one.port) for one in flow.backends}
        if len(behind) == 1:
            owner, port = behind.pop()
            if owner is not None:
                return owner, port
        return self._target(flow_key, flow), flow_key.port

    def _target(self, flow_key: FlowKey, flow: Flow) -> str:
        owner = self._owner.get(flow_key.address)
        if owner is not None:
            return owner
        return _host(flow.names) or str(flow_key.address)


def _host(names: Sequence[NameClaim]) -> str:
    """The host that names speak of; empty when they speak of none.

    What clients ask a place for says who it is only while all ask for the same: a proxy answers for many sites.
    """
    sites = [claim.name for claim in names if claim.source in SITES] if len(names) > 1 else []
    hosts = (claim for claim in names if not claim.hint and not (len(sites) > 1 and claim.source in SITES))
    return next((claim.name for claim in hosts), "")


def _discard(edges: dict[str, dict[EdgeKey, LiveEdge]], name: str, key: EdgeKey) -> None:
    del edges[name][key]
    if not edges[name]:
        del edges[name]


def _addresses(flow_key: FlowKey, flow: Flow | None) -> set[Address]:
    return {flow_key.address, *(one.address for one in flow.backends)} if flow else set()
