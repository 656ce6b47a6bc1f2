"""The agent's values as messages."""

import time
from ipaddress import ip_address

from dm.service.limits import ADDRESSES, LISTENERS
from dm.v1 import agent_pb2, flow_pb2
from dma import wire
from dma.flow import Backend, Failure, Loss, Transport
from dma.naming.name import Name, Source
from dma.presence import Presence
from dma.sockets import Listener
from tests.dma.scripted import flow

SECOND_NS = 1_000_000_000


def test_times_become_ages() -> None:
    """Ages count back from the moment of sending, and what never happened is absent."""
    seen = flow(
        attempts=1, first_ns=1 * SECOND_NS, last_attempt_ns=2 * SECOND_NS, last_failure_ns=3 * SECOND_NS
    )
    edge = wire.edge(seen, (), now_ns=5 * SECOND_NS)
    assert (edge.first_seen_age_ms, edge.last_attempt_age_ms, edge.last_failure_age_ms) == (4000, 3000, 2000)
    assert not edge.HasField("last_established_age_ms")
    assert not edge.HasField("oldest_pending_age_ms")


def test_an_older_connection_has_no_attempt_but_an_age() -> None:
    """An edge known only from before the capture counts its latest attempt from when it was found."""
    edge = wire.edge(flow(open=1, first_ns=2 * SECOND_NS), (), now_ns=5 * SECOND_NS)
    assert (edge.attempts, edge.open, edge.last_attempt_age_ms) == (0, 1, 3000)


def test_what_was_dialled_and_who_answered_are_both_told() -> None:
    """A translated destination keeps its address, with its backends beside it."""
    behind = Backend(ip_address("198.18.0.2"), 8080)
    edge = wire.edge(flow("198.18.9.9", backends=(behind,)), (), now_ns=2)
    assert (edge.address, edge.port) == (ip_address("198.18.9.9").packed, 80)
    assert [(one.address, one.port) for one in edge.backends] == [(behind.address.packed, 8080)]


def test_names_carry_what_is_left_of_their_life() -> None:
    """A name's expiry becomes milliseconds left, never negative; one that does not expire has none."""
    now_ns = time.monotonic_ns()
    now_s = now_ns / SECOND_NS
    names = (
        Name("db", Source.HOSTS_FILE, 90),
        Name("db.test", Source.REVERSE_DNS, 60, now_s + 9),
        Name("old.test", Source.REVERSE_DNS, 60, now_s - 9),
    )
    first, second, third = wire.edge(flow(), names, now_ns=now_ns).names
    assert not first.HasField("ttl_ms")
    assert 8990 <= second.ttl_ms <= 9010
    assert third.ttl_ms == 0


def test_every_kind_has_its_number() -> None:
    """No failure, loss or source of a name is without a counterpart in the contract."""
    counts = dict.fromkeys(Failure, 1)
    edge = wire.edge(flow(failures=counts), [Name("x", source, 1) for source in Source], now_ns=2)
    assert len({count.kind for count in edge.failures} - {flow_pb2.FAILURE_KIND_UNSPECIFIED}) == len(Failure)
    assert len({name.source for name in edge.names} - {flow_pb2.NAME_SOURCE_UNSPECIFIED}) == len(Source)
    losses = wire.coverage(dict.fromkeys(Loss, 1), overflow=1).losses
    assert len({loss.reason for loss in losses} - {agent_pb2.LOSS_REASON_UNSPECIFIED}) == len(Loss) + 1


def test_no_more_is_told_than_the_manager_takes() -> None:
    """A machine with thousands of addresses and listeners tells the same first ones each time."""
    addresses = tuple(ip_address(f"198.18.{number // 250}.{1 + number % 250}") for number in range(300))
    listeners = tuple(Listener(Transport.TCP, addresses[0], port) for port in range(1, 5001))
    told = wire.presence(Presence(addresses, listeners))
    assert (len(told.addresses), len(told.listeners)) == (ADDRESSES, LISTENERS)
    assert told == wire.presence(Presence(addresses[::-1], listeners[::-1]))
