"""The states of edges on which nothing fails."""

from ipaddress import IPv4Address

import pytest

from dm.deviation import BACKS_OFF_S, Deviation
from dm.edge import EdgeKey, Failure, Transport
from dm.golden import GoldenEdge, GoldenImage, Kind
from dm.graph import LiveGraph
from dm.policy import Policy
from dm.states import EdgeState, Source
from tests.dm.test_graph import flow, graph, key

ADDRESSES = {"b": "198.18.0.2", "c": "198.18.0.3"}
LATE_S = 90.0


def stack(kind: Kind, *, refresh_ms: int = 0, targets: str = "bc") -> tuple[Deviation, LiveGraph]:
    """An image in which a calls b and c, or one of them, and the live graph."""
    live = graph()
    for name, address in ADDRESSES.items():
        live.own(name, [IPv4Address(address)], now_s=0.0)
    edges = tuple(
        GoldenEdge(
            source="a",
            target=target,
            transport=Transport.TCP,
            port=80,
            kind=kind,
            runs=1,
            established_ms=(500,),
            refresh_ms=(refresh_ms,),
        )
        for target in targets
    )
    image = GoldenImage(
        stack="s", fingerprint="f", runs=1, smoke=True, vcds=("a", "b", "c", "d"), edges=edges
    )
    return Deviation(image, live, Policy()), live


def state_of(deviation: Deviation, target: str, *, now_s: float, listening: str = "") -> EdgeState:
    """The state of a's call of a target."""
    doors = frozenset({(Transport.TCP, 80)})
    sources = {name: Source(0.0, 0.0, doors=doors if name in listening else frozenset()) for name in "abc"}
    edge = EdgeKey("a", target, Transport.TCP, 80)
    deviation.touch(edge, sources, now_s)
    return deviation.judged()[edge].state


@pytest.mark.parametrize(("listening", "state"), [("a", EdgeState.OK), ("b", EdgeState.MISSING)])
def test_who_still_listens_has_closed_a_connection_itself(listening: str, state: EdgeState) -> None:
    """HTTP clients close what is idle: no fault of a program that lives; one that is nowhere seen may have died."""
    deviation, live = stack(Kind.HELD)
    live.put(key("a", ADDRESSES["b"]), flow(open_=1), now_s=1.0)
    live.put(key("a", ADDRESSES["b"]), flow(), now_s=20.0)
    assert state_of(deviation, "b", now_s=LATE_S, listening=listening) is state


@pytest.mark.parametrize(("other_s", "state"), [(60.0, EdgeState.OK), (10.0, EdgeState.MISSING)])
def test_who_calls_others_does_not_hang(other_s: float, state: EdgeState) -> None:
    """What only requests bring may stay away while its source calls others; if that is silent, too, it is gone."""
    deviation, live = stack(Kind.PERIODIC, refresh_ms=20_000)
    live.put(key("a", ADDRESSES["b"]), flow(at_s=5.0), now_s=5.0)
    live.put(key("a", ADDRESSES["c"]), flow(at_s=other_s), now_s=other_s)
    assert state_of(deviation, "b", now_s=LATE_S) is state


def test_what_a_timer_calls_is_missed_though_others_are_called() -> None:
    """A job that was done every two seconds and is no more is gone, whatever else its machine does."""
    deviation, live = stack(Kind.PERIODIC, refresh_ms=2_000)
    for second in range(2, 20, 2):
        live.put(key("a", ADDRESSES["b"]), flow(attempts=second, at_s=second), now_s=second)
    live.put(key("a", ADDRESSES["c"]), flow(at_s=60.0), now_s=60.0)
    assert state_of(deviation, "b", now_s=LATE_S) is EdgeState.MISSING


@pytest.mark.parametrize(("listening", "state"), [("b", EdgeState.OK), ("", EdgeState.FAILING)])
def test_a_refusal_is_over_when_its_target_listens(listening: str, state: EdgeState) -> None:
    """Who was called too early and takes calls now does not fail, though nobody may call again for long."""
    deviation, live = stack(Kind.ON_DEMAND)
    live.put(key("a", ADDRESSES["b"]), flow(attempts=9, established=7, refused=2, at_s=50.0), now_s=50.0)
    live.put(
        key("a", ADDRESSES["b"]),
        flow(attempts=11, established=7, refused=4, at_s=70.0)._replace(last_established_s=50.0),
        now_s=70.0,
    )
    assert state_of(deviation, "b", now_s=71.0, listening=listening) is EdgeState.FAILING
    assert state_of(deviation, "b", now_s=LATE_S, listening=listening) is state


def test_who_failed_last_is_waited_for() -> None:
    """A client whose last call failed backs off, longer than its rhythm, before it is missed."""
    deviation, live = stack(Kind.PERIODIC, refresh_ms=1_000)
    refused = flow(attempts=9, established=8, refused=1, at_s=10.0)._replace(last_established_s=9.0)
    live.put(key("a", ADDRESSES["b"]), refused, now_s=10.0)
    assert state_of(deviation, "b", now_s=10.0 + BACKS_OFF_S - 1, listening="b") is EdgeState.OK
    assert state_of(deviation, "b", now_s=10.0 + BACKS_OFF_S + 1, listening="b") is EdgeState.MISSING


@pytest.mark.parametrize(("expected", "state"), [("bc", EdgeState.OK), ("b", EdgeState.RETARGETED)])
def test_one_target_more_at_a_port_that_all_use_replaces_nobody(expected: str, state: EdgeState) -> None:
    """Where several are called at one port, a call that no launch had is not made instead of another."""
    deviation, live = stack(Kind.HELD, targets=expected)
    live.put(key("a", ADDRESSES["b"]), flow(), now_s=20.0)
    stranger = EdgeKey("a", "198.18.0.9", Transport.TCP, 80)
    live.put(key("a", "198.18.0.9"), flow(open_=1, at_s=80.0), now_s=80.0)
    deviation.touch(stranger, {name: Source(0.0, 0.0) for name in "abc"}, 80.0)
    assert state_of(deviation, "b", now_s=LATE_S, listening="a") is state


@pytest.mark.parametrize(("target", "state"), [("d", EdgeState.OK), ("198.18.0.9", EdgeState.RETARGETED)])
def test_a_dead_machine_that_is_called_as_well_accuses_nobody(target: str, state: EdgeState) -> None:
    """A call of another machine of the stack fails because that is dead; one of an address of nobody is a mistake."""
    deviation, live = stack(Kind.HELD)
    live.own("d", [IPv4Address("198.18.0.4")], now_s=0.0)
    live.put(key("a", ADDRESSES["b"]), flow(), now_s=20.0)
    lost = flow(attempts=3, established=0, at_s=80.0)
    lost = lost._replace(failures={Failure.TIMED_OUT: 3}, last_failure_s=80.0)
    live.put(key("a", "198.18.0.4" if target == "d" else target), lost, now_s=80.0)
    deviation.touch(
        EdgeKey("a", target, Transport.TCP, 80), {name: Source(0.0, 0.0) for name in "abcd"}, 80.0
    )
    assert state_of(deviation, "b", now_s=LATE_S, listening="a") is state
