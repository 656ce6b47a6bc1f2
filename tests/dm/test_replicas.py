"""Replicas of one service: whoever calls one of them may as well call another."""

from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from dm.deviation import Deviation
from dm.edge import EdgeKey, FlowKey, Transport
from dm.golden import GoldenEdge, GoldenImage, Kind
from dm.graph import LiveGraph
from dm.policy import Policy
from dm.states import EdgeState, Source
from tests.dm.test_graph import flow, key

ADDRESSES = {"lb": "198.18.0.1", "web-1": "198.18.0.11", "web-2": "198.18.0.12"}
SOURCES = {name: Source(0.0, 0.0) for name in ADDRESSES}
ROLES = {"web-1": "web", "web-2": "web"}
OVERDUE_S = 60.0


def edge(target: str) -> EdgeKey:
    """lb's call of a replica."""
    return EdgeKey("lb", target, Transport.TCP, 80)


def judged(*expected: str, called: str, replicas: Mapping[str, str] = ROLES) -> tuple[Deviation, LiveGraph]:
    """An image in which lb holds connections to ``expected``, long after a launch in which it called one of them."""
    graph = LiveGraph(changed=lambda _: None)
    for name, address in ADDRESSES.items():
        graph.own(name, [ip_address(address)], now_s=0.0)
    edges = tuple(
        GoldenEdge(
            source="lb",
            target=target,
            transport=Transport.TCP,
            port=80,
            kind=Kind.HELD,
            runs=1,
            established_ms=(500,),
        )
        for target in expected
    )
    image = GoldenImage(
        stack="s", fingerprint="f", runs=1, smoke=True, vcds=tuple(sorted(ADDRESSES)), edges=edges
    )
    deviation = Deviation(image, graph, Policy(), replicas=replicas)
    call(graph, called, at_s=1.0)
    for one in graph:
        deviation.touch(one.key, SOURCES, OVERDUE_S)
    for target in expected:
        deviation.touch(edge(target), SOURCES, OVERDUE_S)
    return deviation, graph


def call(graph: LiveGraph, target: str, *, at_s: float) -> None:
    """lb has a connection to this replica."""
    graph.put(key("lb", ADDRESSES[target]), flow(open_=1, at_s=at_s), now_s=at_s)


def test_another_replica_stands_in() -> None:
    """That lb uses one of two replicas only is no missing edge; without roles it is."""
    deviation, _ = judged("web-1", "web-2", called="web-1")
    assert deviation.judged()[edge("web-2")].state is EdgeState.OK
    assert deviation.judged()[edge("web-2")].reason == "web-1 answers in its stead"
    alone, _ = judged("web-1", "web-2", called="web-1", replicas={})
    assert alone.judged()[edge("web-2")].state is EdgeState.MISSING


def test_a_replica_that_was_never_called_before_is_expected() -> None:
    """lb calls the other replica than when the image was learned: neither retargeted nor unexpected."""
    deviation, _ = judged("web-1", called="web-2")
    assert deviation.stack() == 0.0
    assert deviation.judged()[edge("web-1")].state is EdgeState.OK
    assert edge("web-2") not in deviation.judged()
    other, _ = judged("web-1", called="web-2", replicas={})
    assert other.stack() > 0.0


def test_a_missing_edge_is_made_good_when_a_replica_is_called() -> None:
    """An edge that was missed is judged again as soon as another replica answers."""
    deviation, graph = judged("web-1", "web-2", called="web-1")
    graph.keep_only("lb", set(), now_s=OVERDUE_S)
    late_s = OVERDUE_S + 200.0
    for target in ("web-1", "web-2"):
        deviation.touch(edge(target), SOURCES, late_s)
    assert {deviation.judged()[edge(target)].state for target in ("web-1", "web-2")} == {EdgeState.MISSING}
    call(graph, "web-2", at_s=late_s)
    deviation.touch(edge("web-2"), SOURCES, late_s)
    assert {deviation.judged()[edge(target)].state for target in ("web-1", "web-2")} == {EdgeState.OK}


def test_a_replica_that_is_not_called_any_more_need_not_call_others() -> None:
    """lb goes over to the other replica, which calls the store instead of the first: nobody is missing."""
    store, name = ip_address("198.18.0.20"), "store"
    expected = (edge("web-1"), EdgeKey("web-1", name, Transport.TCP, 6379))
    graph = LiveGraph(changed=lambda _: None)
    for vcd, address in ADDRESSES.items():
        graph.own(vcd, [ip_address(address)], now_s=0.0)
    graph.own(name, [store], now_s=0.0)
    kinds = (Kind.PERIODIC, Kind.PERIODIC)
    edges = tuple(
        GoldenEdge(
            source=one.source,
            target=one.target,
            transport=one.transport,
            port=one.port,
            kind=kind,
            runs=1,
            established_ms=(500,),
            refresh_ms=(1000,),
        )
        for one, kind in zip(expected, kinds, strict=True)
    )
    image = GoldenImage(
        stack="s", fingerprint="f", runs=1, smoke=True, vcds=(*sorted(ADDRESSES), name), edges=edges
    )
    sources = {vcd: Source(0.0, 0.0) for vcd in image.vcds}
    for replicas, state in ((ROLES, EdgeState.OK), ({}, EdgeState.MISSING)):
        deviation = Deviation(image, graph, Policy(), replicas=replicas)
        calls = [("lb", "web-1", 80, 20.0), ("web-1", name, 6379, 20.0)]
        calls += [("lb", "web-2", 80, OVERDUE_S), ("web-2", name, 6379, OVERDUE_S)]
        for source, target, port, at_s in calls:
            address = str(store) if target == name else ADDRESSES[target]
            graph.put(
                FlowKey(source, Transport.TCP, ip_address(address), port, ""), flow(at_s=at_s), now_s=at_s
            )
        for one in [*graph, *graph]:
            deviation.touch(one.key, sources, OVERDUE_S)
        assert deviation.judged()[expected[1]].state is state
        assert (expected[1]._replace(source="web-2") in deviation.judged()) is (state is EdgeState.MISSING)


@pytest.mark.parametrize("victim", ["web-1", "web-2"])
def test_a_replica_that_refuses_still_fails(victim: str) -> None:
    """That another one answers does not make a refused call good."""
    deviation, graph = judged("web-1", "web-2", called="web-1")
    graph.put(
        key("lb", ADDRESSES[victim]),
        flow(attempts=3, established=0, refused=3, at_s=OVERDUE_S),
        now_s=OVERDUE_S,
    )
    deviation.touch(edge(victim), SOURCES, OVERDUE_S)
    assert deviation.judged()[edge(victim)].state is EdgeState.FAILING
