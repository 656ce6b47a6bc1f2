"""The live graph."""

import pickle
from ipaddress import IPv4Address
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dm.edge import (
    ANY_PORT,
    Backend,
    EdgeKey,
    Failure,
    Flow,
    FlowKey,
    LiveEdge,
    NameClaim,
    Pair,
    Transport,
)
from dm.graph import LiveGraph


def flow(
    *, attempts: int = 1, established: int = 1, refused: int = 0, open_: int = 0, at_s: float = 1.0
) -> Flow:
    """A flow with the counters that matter here."""
    return Flow(
        names=(),
        attempts=attempts,
        established=established,
        open=open_,
        pending=0,
        failures={Failure.REFUSED: refused} if refused else {},
        first_seen_s=0.5,
        last_attempt_s=at_s,
        last_established_s=at_s if established else None,
        last_failure_s=at_s if refused else None,
        oldest_pending_s=None,
    )


def key(source: str, address: str, *, port: int = 80, command: str = "c") -> FlowKey:
    """A TCP flow."""
    return FlowKey(source, Transport.TCP, IPv4Address(address), port, command)


def unheard(_: LiveEdge) -> None:
    """Nobody wants to know what changed."""


def graph() -> LiveGraph:
    """An empty graph."""
    return LiveGraph(changed=unheard)


def test_an_address_inside_the_stack_is_its_machine() -> None:
    """A flow to a known address is an edge to the VCD that has it."""
    live = graph()
    live.own("db", [IPv4Address("198.18.0.2")], now_s=9.0)
    live.put(key("api", "198.18.0.2"), flow(), now_s=9.0)
    assert [edge.key for edge in live] == [EdgeKey("api", "db", Transport.TCP, 80)]


def test_an_address_that_changes_its_owner_moves_the_edge() -> None:
    """When an address is known only later, or moves, the flow's counters move with it."""
    live = graph()
    live.put(key("api", "198.18.0.2"), flow(attempts=3), now_s=9.0)
    live.own("db", [IPv4Address("198.18.0.2")], now_s=9.0)
    edge = live.get(EdgeKey("api", "db", Transport.TCP, 80))
    assert edge is not None
    assert edge.attempts == 3
    unnamed = live.get(EdgeKey("api", "198.18.0.2", Transport.TCP, 80))
    assert unnamed is not None
    assert not unnamed.flows


def behind(*places: tuple[str, int]) -> Flow:
    """A flow whose destination was translated to these."""
    return flow()._replace(backends=tuple(Backend(IPv4Address(address), port) for address, port in places))


def test_a_translated_address_is_the_machine_behind_it() -> None:
    """The VCD that answers for a dialled address is called on, at the port where it listens, known before or after."""
    live = graph()
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.2", 8080)), now_s=9.0)
    live.own("db", [IPv4Address("198.18.0.2")], now_s=9.0)
    live.put(key("web", "198.18.9.9"), behind(("198.18.0.2", 8080)), now_s=9.0)
    assert {edge.key for edge in live if edge.flows} == {
        EdgeKey("api", "db", Transport.TCP, 8080),
        EdgeKey("web", "db", Transport.TCP, 8080),
    }


def test_calls_spread_over_several_machines_are_calls_of_what_was_dialled() -> None:
    """Who of several answered a call is not known, so that none of them is blamed for it."""
    live = graph()
    live.own("one", [IPv4Address("198.18.0.2")], now_s=9.0)
    live.own("two", [IPv4Address("198.18.0.3")], now_s=9.0)
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.2", 8080)), now_s=9.0)
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.2", 8080), ("198.18.0.3", 8080)), now_s=9.0)
    assert [edge.key.target for edge in live if edge.flows] == ["198.18.9.9"]


def test_an_address_that_was_behind_another_is_no_more() -> None:
    """Once others are behind a dialled address, who gets the earlier one's address does not get its flows."""
    live = graph()
    live.own("db", [IPv4Address("198.18.0.3")], now_s=9.0)
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.2", 8080)), now_s=9.0)
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.3", 8080)), now_s=9.0)
    live.own("old", [IPv4Address("198.18.0.2")], now_s=9.0)
    assert [edge.key.target for edge in live if edge.flows] == ["db"]


def test_an_own_address_that_leads_to_another_machine_is_a_dependency() -> None:
    """A published port of the caller's own machine may be another machine's; one that is its own is no dependency."""
    live = graph()
    live.own("api", [IPv4Address("198.18.0.1")], now_s=9.0)
    live.own("db", [IPv4Address("198.18.0.2")], now_s=9.0)
    live.put(key("api", "198.18.0.1"), behind(("198.18.0.2", 5432)), now_s=9.0)
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.1", 80)), now_s=9.0)
    assert [edge.key.target for edge in live] == ["db"]


def test_a_host_name_names_the_node_and_a_hint_does_not() -> None:
    """An external node is called by its name; a service's or a program's name is no host's."""
    live = graph()
    hint = NameClaim("http", "NAME_SOURCE_WELL_KNOWN_PORT", 20, hint=True)
    name = NameClaim("pay.example", "NAME_SOURCE_HOSTS_FILE", 90, hint=False)
    live.put(key("api", "198.18.9.1"), flow()._replace(names=(hint, name)), now_s=9.0)
    live.put(key("api", "198.18.9.2"), flow()._replace(names=(hint,)), now_s=9.0)
    assert {edge.key.target for edge in live} == {"pay.example", "198.18.9.2"}


def test_a_proxy_is_not_called_by_one_of_its_sites() -> None:
    """What clients ask for at a place names it while it is one; of several none is the place's, now or later."""
    live = graph()
    one = NameClaim("a.example", "NAME_SOURCE_TLS_SNI", 70, hint=False)
    other = NameClaim("b.example", "NAME_SOURCE_TLS_SNI", 70, hint=False)
    host = NameClaim("proxy.example", "NAME_SOURCE_REVERSE_DNS", 60, hint=False)
    live.put(key("api", "198.18.9.1"), flow()._replace(names=(one,)), now_s=9.0)
    live.put(key("api", "198.18.9.2"), flow()._replace(names=(one, other)), now_s=9.0)
    live.put(key("api", "198.18.9.3"), flow()._replace(names=(other, one, host)), now_s=9.0)
    assert {edge.key.target for edge in live} == {"a.example", "198.18.9.2", "proxy.example"}


def registered(service: str) -> Flow:
    """A flow whose destination a registry knows."""
    claims = (
        NameClaim(service, "NAME_SOURCE_CONSUL", 96, False, True),
        NameClaim("h", "NAME_SOURCE_HOSTS_FILE", 90, False),
    )
    return flow()._replace(names=claims)


def test_a_registered_service_is_itself_at_any_port() -> None:
    """Two instances of a service at two ports are one edge, and another service of the machine is another."""
    live = graph()
    live.own("apps", [IPv4Address("198.18.0.2")], now_s=9.0)
    for port, service in ((20001, "api"), (20002, "api"), (20003, "mail")):
        live.put(key("web", "198.18.0.2", port=port), registered(service), now_s=9.0)
    assert {str(edge.key): edge.attempts for edge in live} == {"web → apps:api": 2, "web → apps:mail": 1}
    live.put(key("web", "198.18.0.9", port=20001), registered("outside"), now_s=9.0)
    assert live.get(EdgeKey("web", "outside", Transport.TCP, 0, "outside")) is not None


def test_a_service_that_is_known_only_later_takes_over_what_its_port_proved() -> None:
    """When the registry is read after the call, the edge of the port has never been."""
    live = graph()
    live.put(key("web", "198.18.0.2", port=20001), flow(), now_s=9.0)
    live.put(key("web", "198.18.0.2", port=20001), registered("api"), now_s=10.0)
    (proved,) = (edge for edge in live if edge.seen_ok)
    assert str(proved.key) == "web → api:api"


def test_a_machine_does_not_depend_on_itself() -> None:
    """A flow to one's own address is no edge."""
    live = graph()
    live.own("api", [IPv4Address("198.18.0.1")], now_s=9.0)
    live.put(key("api", "198.18.0.1"), flow(), now_s=9.0)
    assert len(live) == 0


def test_a_call_that_turns_out_to_be_of_itself_is_no_dependency() -> None:
    """Neither a machine that takes over what it called depends on itself, nor one that is behind what it dialled."""
    live = graph()
    for dialled in ("198.18.9.8", "198.18.9.9"):
        live.put(key("api", dialled), flow(open_=1), now_s=9.0)
    live.own("api", [IPv4Address("198.18.0.1"), IPv4Address("198.18.9.8")], now_s=9.0)
    live.put(key("api", "198.18.9.9"), behind(("198.18.0.1", 80)), now_s=9.0)
    assert not [edge.key for edge in live if edge.flows]


def test_what_is_forgotten_takes_no_room() -> None:
    """However many addresses a machine has called, nothing is kept of those that it calls no longer."""
    live, sizes = graph(), []
    for count in (1, 100):
        for number in range(count):
            live.put(key("api", f"198.18.1.{number}"), flow(), now_s=9.0)
        live.keep_only("api", set(), now_s=9.0)
        live.forget("api", kept=())
        sizes.append(len(pickle.dumps(live)))
    assert sizes[0] == sizes[1]


def test_what_a_new_table_lacks_is_gone() -> None:
    """After an agent's whole table only its flows count; what they proved is remembered."""
    live = graph()
    old, new = key("api", "198.18.0.2"), key("api", "198.18.0.3")
    live.put(old, flow(open_=1), now_s=9.0)
    live.put(new, flow(), now_s=9.0)
    live.keep_only("api", {new}, now_s=9.0)
    edge = live.get(EdgeKey("api", "198.18.0.2", Transport.TCP, 80))
    assert edge is not None
    assert (edge.open, edge.seen_ok) == (0, True)


def test_a_success_ends_a_failure() -> None:
    """An edge fails from its first failure after a success until the next success."""
    edge = LiveEdge(EdgeKey("a", "b", Transport.TCP, 80))
    one = key("a", "198.18.0.2")
    edge.put(one, flow(at_s=1.0), now_s=9.0)
    edge.put(one, flow(attempts=2, refused=1, at_s=2.0)._replace(last_established_s=1.0), now_s=9.0)
    assert edge.failing(3.0, patience_s=1.0)
    assert edge.failing_since_s == 2.0
    edge.put(
        one, flow(attempts=3, established=2, refused=1, at_s=4.0)._replace(last_failure_s=2.0), now_s=9.0
    )
    assert not edge.failing(5.0, patience_s=1.0)


def test_an_attempt_that_waited_in_vain_failed_from_its_beginning() -> None:
    """Whoever was reached by others while it waited was reached while it failed."""
    edge = LiveEdge(EdgeKey("a", "b", Transport.TCP, 80))
    one = key("a", "198.18.0.2")
    edge.put(one, flow(at_s=1.0), now_s=1.0)
    waits = flow(attempts=2, at_s=5.0)._replace(pending=1, oldest_pending_s=5.0, last_established_s=1.0)
    edge.put(one, waits, now_s=6.0)
    gave_up = flow(attempts=2, at_s=5.0)._replace(
        failures={Failure.TIMED_OUT: 1}, last_established_s=1.0, last_failure_s=8.0
    )
    edge.put(one, gave_up, now_s=8.0)
    assert edge.failing_since_s == 5.0
    assert edge.failing_for_s() == 3.0


def test_how_it_failed_before_a_success_says_nothing_of_how_it_fails_now() -> None:
    """Failures are cumulative; only those since the latest success are evidence."""
    edge = LiveEdge(EdgeKey("a", "b", Transport.TCP, 80))
    one = key("a", "198.18.0.2")
    edge.put(one, flow(established=0, refused=2, at_s=1.0), now_s=1.0)
    edge.put(one, flow(attempts=3, refused=2, at_s=2.0)._replace(last_failure_s=1.0), now_s=2.0)
    late = flow(attempts=4, refused=2, at_s=5.0)._replace(
        failures={Failure.REFUSED: 2, Failure.TIMED_OUT: 1}, last_established_s=2.0, last_failure_s=5.0
    )
    edge.put(one, late, now_s=5.0)
    assert edge.kinds == {Failure.TIMED_OUT}
    assert edge.failures_since_ok == 1


def test_calm_ends_the_failure_of_a_datagram_socket_that_is_held() -> None:
    """Of such a socket only errors are told: half a minute without another ends a failure for good."""
    edge = LiveEdge(EdgeKey("a", "b", Transport.UDP, 8125))
    one, refused = key("a", "198.18.0.2"), flow(established=0, refused=1, open_=1, at_s=1.0)
    edge.put(one, refused, now_s=1.0)
    assert not edge.seen_ok
    assert edge.failing(30.0, patience_s=1.0)
    assert not edge.failing(edge.calm_from_s() or 0.0, patience_s=1.0)
    edge.put(one, refused._replace(open=0), now_s=40.0)
    assert not edge.failing(41.0, patience_s=1.0)
    assert edge.seen_ok
    edge.put(one, flow(attempts=2, established=0, refused=2, open_=1, at_s=42.0), now_s=42.0)
    assert edge.failing(43.0, patience_s=1.0)


def test_datagrams_without_an_error_end_a_failure() -> None:
    """No answer tells that a datagram arrived: an error is over when several went out without another."""
    edge = LiveEdge(EdgeKey("a", "b", Transport.UDP, 53))
    one = key("a", "198.18.0.2")
    edge.put(one, flow(attempts=1, established=0, refused=1, at_s=1.0), now_s=1.0)
    assert not edge.seen_ok
    for attempts in (2, 3):
        edge.put(one, flow(attempts=attempts, established=0, refused=1, at_s=attempts), now_s=attempts)
        assert edge.failing(attempts, patience_s=1.0)
    edge.put(
        one, flow(attempts=4, established=0, refused=1, at_s=4.0)._replace(last_failure_s=1.0), now_s=4.0
    )
    assert not edge.failing(4.0, patience_s=1.0)
    assert edge.seen_ok


def test_an_attempt_that_waits_too_long_fails() -> None:
    """A SYN without an answer is a failure long before the kernel gives up."""
    edge = LiveEdge(EdgeKey("a", "b", Transport.TCP, 80))
    edge.put(key("a", "198.18.0.2"), flow(established=0)._replace(pending=1, oldest_pending_s=1.0), now_s=9.0)
    assert not edge.failing(1.9, patience_s=1.0)
    assert edge.failing(2.0, patience_s=1.0)


@st.composite
def reports(draw: st.DrawFn) -> list[tuple[FlowKey, Flow]]:
    """Final counters of several flows."""
    keys = draw(
        st.lists(
            st.builds(
                key, st.sampled_from("abc"), st.sampled_from(["198.18.0.8", "198.18.0.9"]), command=st.text()
            ),
            unique=True,
            max_size=8,
        )
    )
    counts = st.builds(flow, attempts=st.integers(1, 9), open_=st.integers(0, 3))
    return [(one, draw(counts)) for one in keys]


def totals(live: LiveGraph) -> dict[EdgeKey, tuple[int, int]]:
    """What the edges add up to."""
    return {edge.key: (edge.attempts, edge.open) for edge in live}


@given(reports(), st.randoms())
def test_order_and_repetition_change_nothing(final: list[tuple[FlowKey, Flow]], random: Random) -> None:
    """Cumulative reports may come twice and in any order of flows."""
    straight, mixed = graph(), graph()
    for one, counters in final:
        straight.put(one, counters, now_s=9.0)
    twice = final * 2
    random.shuffle(twice)
    for one, counters in twice:
        mixed.put(one, counters, now_s=9.0)
    assert totals(straight) == totals(mixed)


@given(reports())
def test_edges_are_found_by_their_ends(final: list[tuple[FlowKey, Flow]]) -> None:
    """By their ends exactly the edges of the table are found."""
    live = graph()
    for one, counters in final:
        live.put(one, counters, now_s=9.0)
    ends = {end for edge in live for end in (edge.key.source, edge.key.target)}
    assert {edge.key for name in ends for edge in live.outbound(name)} == {edge.key for edge in live}
    assert {edge.key for name in ends for edge in live.touching(name)} == {edge.key for edge in live}


def test_changing_ports_are_one_edge_once_they_are_known() -> None:
    """Folding moves what was counted by port to one edge, leaves fixed ports alone, and can be undone."""
    live, pair = graph(), Pair("api", "db", Transport.TCP)
    live.own("db", [IPv4Address("198.18.0.2")], now_s=9.0)
    for port in (21, 40001, 40002):
        live.put(key("api", "198.18.0.2", port=port), flow(attempts=port), now_s=9.0)
    live.fold({pair: frozenset({21})}, now_s=9.0)
    live.put(key("api", "198.18.0.2", port=40003), flow(attempts=1), now_s=9.0)
    assert {edge.key.port: edge.attempts for edge in live if edge.flows} == {21: 21, ANY_PORT: 80004}
    live.fold({}, now_s=9.0)
    assert sorted(edge.key.port for edge in live if edge.flows) == [21, 40001, 40002, 40003]


def test_a_door_that_opens_ends_what_datagrams_found_closed() -> None:
    """Refused datagrams are forgotten when the target listens there, calls and other doors are not."""
    live = graph()
    live.own("metrics", [IPv4Address("198.18.0.2")], now_s=9.0)
    datagrams = key("api", "198.18.0.2", port=8125)._replace(transport=Transport.UDP)
    for flow_key in (datagrams, datagrams._replace(port=53), key("api", "198.18.0.2", port=8125)):
        live.put(flow_key, flow(attempts=2, established=0, refused=2), now_s=9.0)
    live.forgive("metrics", {(Transport.UDP, 8125), (Transport.TCP, 8125)})
    failing = [str(edge.key) for edge in live if edge.failures_since_ok]
    assert sorted(failing) == ["api → metrics:53/udp", "api → metrics:8125"]
