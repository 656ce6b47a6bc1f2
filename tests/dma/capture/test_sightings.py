"""What is told of connections from looks at the sockets, in virtual time."""

from ipaddress import ip_address

import pytest

from dma.capture.settings import Settings
from dma.capture.sightings import Sighting, Sightings
from dma.flow import Failure, Flow
from dma.sockets import ESTABLISHED, LISTEN, SYN_SENT

CLOSE_WAIT = 8
MS = 1_000_000


class Looks:
    """Looks one after another, 200 ms apart."""

    def __init__(self, *first: Sighting, **settings: int) -> None:
        self.now_ns = 0
        self.sightings = Sightings(Settings(**settings))  # type: ignore[arg-type]  # all that are set here are numbers
        self.look(*first)

    def look(self, *sockets: Sighting, later_ms: int = 200) -> bool:
        """The sockets that are there now; returns whether that is urgent."""
        self.now_ns += later_ms * MS
        return self.sightings.look(sockets, self.now_ns, is_watched=lambda one: one.inode != 13)

    @property
    def only(self) -> Flow:
        """The only destination there is."""
        (flow,) = self.sightings.flows()
        return flow


def seen(cookie: int, state: int, *, local: int = 40000, to: str = "198.18.5.2", inode: int = 1) -> Sighting:
    """A socket."""
    return Sighting(cookie, state, local, ip_address(to), 80, inode, 1)


def test_an_attempt_becomes_a_connection_and_ends() -> None:
    """A new socket in SYN_SENT is an urgent attempt; it is pending, then open, then neither."""
    looks = Looks()
    assert looks.look(seen(1, SYN_SENT))
    begun_ns = looks.now_ns
    assert (looks.only.attempts, looks.only.pending, looks.only.oldest_pending_ns) == (1, 1, begun_ns)
    assert not looks.look(seen(1, ESTABLISHED))
    assert (looks.only.attempts, looks.only.established, looks.only.open, looks.only.pending) == (1, 1, 1, 0)
    assert (looks.only.last_attempt_ns, looks.only.last_established_ns) == (begun_ns, looks.now_ns)
    assert not looks.look()
    assert (looks.only.attempts, looks.only.established, looks.only.open) == (1, 1, 0)


def test_what_is_first_seen_later_in_its_life_counts_in_full() -> None:
    """A connection first seen established, and one whose peer has hung up already, were attempts that succeeded."""
    looks = Looks()
    looks.look(seen(1, ESTABLISHED), seen(2, CLOSE_WAIT))
    assert (looks.only.attempts, looks.only.established, looks.only.open) == (2, 2, 1)
    looks.look(seen(1, CLOSE_WAIT), seen(2, CLOSE_WAIT))
    assert looks.only.open == 0


@pytest.mark.parametrize(
    ("later_ms", "failures", "cancelled"), [(800, {}, 1), (1000, {Failure.TIMED_OUT: 1}, 0)]
)
def test_an_attempt_that_vanishes(later_ms: int, failures: dict[Failure, int], cancelled: int) -> None:
    """Nobody saw why it ended: it has timed out if it waited for long, which is urgent, else is cancelled."""
    looks = Looks(patience_ms=1000)
    looks.look(seen(1, SYN_SENT))
    assert looks.look(later_ms=later_ms) == bool(failures)
    flow = looks.only
    assert (flow.failures, flow.cancelled, flow.pending, flow.oldest_pending_ns) == (
        failures,
        cancelled,
        0,
        0,
    )
    assert bool(flow.last_failure_ns) == bool(failures)


def test_an_answer_renews_the_hope_of_others() -> None:
    """Attempts at the same place wait since the last answer to any of them."""
    looks = Looks()
    looks.look(seen(1, SYN_SENT), seen(2, SYN_SENT))
    looks.look(seen(1, SYN_SENT), seen(2, ESTABLISHED))
    assert (looks.only.pending, looks.only.oldest_pending_ns) == (1, looks.now_ns)


def test_older_connections_are_not_counted_but_older_attempts_are() -> None:
    """Of what the first look finds only an attempt without an answer counts, and what comes of it."""
    looks = Looks(seen(1, ESTABLISHED), seen(2, SYN_SENT))
    assert (looks.only.attempts, looks.only.open, looks.only.pending) == (1, 0, 1)
    looks.look(seen(2, ESTABLISHED))
    assert (looks.only.attempts, looks.only.open, looks.only.pending) == (1, 1, 0)


def test_accepted_connections_are_no_dependency() -> None:
    """What comes in by a listening port was accepted, even when the listener has gone since the last look."""
    looks = Looks(seen(9, LISTEN, local=80))
    assert not looks.look(seen(9, LISTEN, local=80), seen(1, ESTABLISHED, local=80))
    assert not looks.look(seen(1, ESTABLISHED, local=80), seen(2, ESTABLISHED, local=80))
    assert not looks.sightings.flows()


@pytest.mark.parametrize("to", ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "224.0.0.1"])
def test_noise_is_left_out(to: str) -> None:
    """Loopback and link-local addresses, and multicast, are no dependencies."""
    looks = Looks()
    assert not looks.look(seen(1, ESTABLISHED, to=to))
    assert not looks.sightings.flows()


def test_the_agents_own_sockets_are_left_out() -> None:
    """A socket that is not watched when it is first seen never is."""
    looks = Looks()
    looks.look(seen(1, SYN_SENT, inode=13))
    looks.look(seen(1, ESTABLISHED, inode=0))
    assert not looks.sightings.flows()


def test_clearing_keeps_what_is_open_or_waiting() -> None:
    """After a clearing only gauges are left, and what becomes of them is counted from there."""
    looks = Looks()
    looks.look(seen(1, ESTABLISHED), seen(2, SYN_SENT), seen(3, CLOSE_WAIT, to="198.18.5.3"))
    looks.sightings.clear(looks.now_ns)
    assert (looks.only.attempts, looks.only.established, looks.only.open, looks.only.pending) == (0, 0, 1, 1)
    looks.look(seen(1, CLOSE_WAIT), seen(2, ESTABLISHED))
    assert (looks.only.attempts, looks.only.established, looks.only.open, looks.only.pending) == (0, 1, 1, 0)


def test_a_full_table_loses_the_idle_then_the_new() -> None:
    """A destination that finds no room is a loss, until another has been idle for ten minutes."""
    looks = Looks(max_entries=1)
    looks.look(seen(1, ESTABLISHED))
    looks.look(seen(2, ESTABLISHED, to="198.18.5.3"))
    assert looks.sightings.lost == 1
    looks.look(seen(3, ESTABLISHED, to="198.18.5.4"), later_ms=601_000)
    assert (str(looks.only.destination.address), looks.sightings.lost) == ("198.18.5.4", 1)
