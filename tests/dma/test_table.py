"""The agent's table of edges."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma.flow import Backend, Destination, Flow
from dma.table import PENDING_NS, Table
from tests.dma.scripted import flow


def by_destination(flows: list[Flow]) -> dict[Destination, Flow]:
    return {one.destination: one for one in flows}


def test_only_what_changed_is_new() -> None:
    """After a merge, only the edges whose counters differ from the last ones count as changed."""
    table = Table()
    table.merge([flow(port=1, attempts=1), flow(port=2, attempts=1)])
    before = table.revision
    table.merge([flow(port=1, attempts=1), flow(port=2, attempts=2)])
    assert table.changed_since(before) == [flow(port=2, attempts=2)]
    assert len(table.changed_since(0)) == 2


def test_nothing_new_leaves_the_revision() -> None:
    """A merge that changes nothing does not raise the revision."""
    table = Table()
    table.merge([flow(attempts=1)])
    before = table.revision
    table.merge([flow(attempts=1)])
    assert table.revision == before


def test_a_long_pending_attempt_is_news() -> None:
    """An edge whose attempt has waited for a second changes each time that the table ages."""
    table, waiting = Table(), flow(attempts=1, pending=1, oldest_pending_ns=5)
    table.merge([waiting, flow(port=2, attempts=1)])
    before = table.revision
    table.age(4 + PENDING_NS)
    assert table.changed_since(before) == []
    table.age(5 + PENDING_NS)
    assert table.changed_since(before) == [waiting]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "fe80::1"]
)
def test_noise_is_no_dependency(address: str) -> None:
    """Loopback, link-local, multicast and broadcast addresses enter no table."""
    table = Table()
    table.merge([flow(address, attempts=1)])
    assert not len(table)


def test_own_addresses_are_no_dependency() -> None:
    """A machine's calls to itself are left out, also when an address becomes its own later."""
    table, own = Table(), ip_address("198.18.0.1")
    table.merge([flow("198.18.0.1", attempts=1)], own={own})
    assert not len(table)
    table.merge([flow("198.18.0.1", attempts=1)])
    assert len(table) == 1
    table.merge([flow("198.18.0.1", attempts=1)], own={own})
    assert not len(table)


def test_an_own_address_that_is_sent_on_is_a_dependency() -> None:
    """What ends at an own address is none, whatever was dialled; what a packet filter sends on from one is."""
    own, other = ip_address("198.18.0.1"), ip_address("198.18.0.2")
    table = Table()
    sent_on = flow("198.18.0.1", backends=(Backend(other, 80),))
    table.merge([sent_on, flow("198.18.9.9", backends=(Backend(own, 80),))], own={own})
    assert table.changed_since(0) == [sent_on]


def test_overflow_is_counted_once() -> None:
    """Each destination that finds no room counts once, and gets in when another one leaves."""
    table = Table(limit=2)
    flows = [flow(port=port, attempts=1) for port in (1, 2, 3, 4)]
    table.merge(flows)
    table.merge(flows)
    assert (len(table), table.overflow) == (2, 2)
    table.merge(flows[1:])
    assert {one.destination.port for one in table.changed_since(0)} == {2, 3}
    assert table.overflow == 2


def test_older_connections_add_to_what_is_open() -> None:
    """Two flows of one destination become one edge: the first's counters, and what both hold open."""
    table = Table()
    table.merge([flow(attempts=3, open=1), flow(open=2)])
    assert table.changed_since(0) == [flow(attempts=3, open=3)]


def test_touched_edges_are_news() -> None:
    """Edges to a touched address count as changed, others do not."""
    table = Table()
    table.merge([flow("198.18.0.1", attempts=1), flow("198.18.0.2", attempts=1)])
    before = table.revision
    table.touch({ip_address("198.18.0.2")})
    assert table.changed_since(before) == [flow("198.18.0.2", attempts=1)]


states = st.dictionaries(st.integers(1, 6), st.integers(0, 3), max_size=6)


@given(st.lists(st.tuples(states, st.booleans())), st.integers(1, 6))
def test_news_add_up_to_the_table(steps: list[tuple[dict[int, int], bool]], limit: int) -> None:
    """Whoever takes in what changed, at any moments, ends with the same counters as the table."""
    table, known, said = Table(limit=limit), dict[Destination, Flow](), 0
    for counters, ask in steps:
        table.merge([flow(port=port, attempts=count) for port, count in counters.items()])
        assert len(table) <= limit
        if ask:
            known |= by_destination(table.changed_since(said))
            said = table.revision
    known |= by_destination(table.changed_since(said))
    whole = by_destination(table.changed_since(0))
    assert {destination: known[destination] for destination in whole} == whole
