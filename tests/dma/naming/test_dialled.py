"""Names that stay with what was called by them."""

import tracemalloc

from dma.flow import Address, Destination
from dma.naming.bindings import GRACE_S, Bindings
from dma.naming.cache import LIMIT
from dma.naming.dialled import Dialled
from dma.naming.method import Counters
from dma.naming.name import Name, Source
from dma.naming.names import Names
from tests.dma.naming.test_bindings import ADDRESS, OTHER, bound
from tests.dma.naming.test_cache import Clock
from tests.dma.scripted import flow

TTL_S = 30


class Answers:
    """Names from answers that the test gives, by a clock that it sets."""

    source = Source.PASSIVE_DNS

    def __init__(self) -> None:
        self.counters = Counters()
        self.clock = Clock()
        self.bindings = Bindings(clock=self.clock)
        self.dialled = Dialled(Names([self], superseded=self.bindings.superseded))

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """What is valid."""
        return self.bindings.cache.lookup(destination.address, destination.port)

    def changed(self) -> set[Address]:
        """Nobody asks."""
        return set()

    def close(self) -> None:
        """Nothing is held."""

    def call(self, address: Address, *, times: int) -> list[str]:
        """A destination was called so often by now; returns its names."""
        called = flow(str(address), attempts=times, last_attempt_ns=times)
        self.dialled.note(called)
        return [one.name for one in self.dialled.lookup(called.destination)]

    def expire(self) -> None:
        """Let all answers so far expire."""
        self.clock.now_s += TTL_S + GRACE_S


def test_an_expired_name_stays_with_what_was_called_by_it() -> None:
    """An edge keeps its name when the answer expires, called again or not; another edge to the address has none."""
    answers = Answers()
    answers.bindings.learn(bound("db.shop", str(ADDRESS), ttl_s=TTL_S))
    assert answers.call(ADDRESS, times=1) == ["db.shop"]
    answers.expire()
    assert answers.call(ADDRESS, times=1) == ["db.shop"]
    assert answers.call(ADDRESS, times=2) == ["db.shop"]
    other = flow(str(ADDRESS), command="other")
    answers.dialled.note(other)
    assert answers.dialled.lookup(other.destination) == ()


def test_an_address_that_was_given_to_another_name_is_called_by_that() -> None:
    """Called again after its old name has gone elsewhere and another has come, an edge has the new name only."""
    answers = Answers()
    answers.bindings.learn(bound("db.shop", str(ADDRESS), ttl_s=TTL_S))
    answers.call(ADDRESS, times=1)
    answers.expire()
    answers.bindings.learn(bound("db.shop", str(OTHER), ttl_s=TTL_S))
    answers.bindings.learn(bound("cache.shop", str(ADDRESS), ttl_s=TTL_S))
    assert answers.call(ADDRESS, times=1) == ["db.shop"]
    assert answers.call(ADDRESS, times=2) == ["cache.shop"]
    assert answers.call(OTHER, times=1) == ["db.shop"]


def test_names_of_one_address_that_expire_in_turn_are_a_stable_set() -> None:
    """Two names of one address stay both, in one order, whichever of them is valid at the moment."""
    answers = Answers()
    answers.bindings.learn(bound("b.shop", str(ADDRESS), ttl_s=TTL_S))
    assert answers.call(ADDRESS, times=1) == ["b.shop"]
    answers.bindings.learn(bound("a.shop", str(ADDRESS), ttl_s=TTL_S))
    assert answers.call(ADDRESS, times=2) == ["a.shop", "b.shop"]
    answers.expire()
    answers.bindings.learn(bound("b.shop", str(ADDRESS), ttl_s=TTL_S))
    assert answers.call(ADDRESS, times=3) == ["a.shop", "b.shop"]


def test_a_name_that_comes_late_is_taken() -> None:
    """What was called before its name was known has the name as soon as it is, and keeps it."""
    answers = Answers()
    assert answers.call(ADDRESS, times=1) == []
    answers.bindings.learn(bound("db.shop", str(ADDRESS), ttl_s=TTL_S))
    assert answers.call(ADDRESS, times=1) == ["db.shop"]
    answers.expire()
    assert answers.call(ADDRESS, times=1) == ["db.shop"]


def test_ten_thousand_names_are_small() -> None:
    """What was answered and what was called by it, ten thousand of each, is less than 20 MB; more never is kept."""
    tracemalloc.start()
    try:
        answers = Answers()
        for number in range(LIMIT + 1000):
            answers.bindings.learn(
                bound(f"host-{number:05}.long-zone-name.example.org", str(ADDRESS + number))
            )
            answers.call(ADDRESS + number, times=1)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(answers.bindings.cache) == LIMIT
    assert held < 20e6


class Registry:
    """A registry in which the test writes."""

    source = Source.CONSUL

    def __init__(self) -> None:
        self.counters = Counters()
        self.listed: tuple[Name, ...] = ()
        self.dialled = Dialled(Names([self]))

    def lookup(self, _: Destination) -> tuple[Name, ...]:
        """What is listed."""
        return self.listed

    def changed(self) -> set[Address]:
        """Nobody asks."""
        return set()

    def close(self) -> None:
        """Nothing is held."""

    def enter(self, *services: str) -> None:
        """From now on these are at the place."""
        self.listed = tuple(Name(service, self.source, 96, at_port=True) for service in services)

    def call(self, *, times: int) -> list[str]:
        """A destination was called so often by now; returns its names."""
        called = flow(str(ADDRESS), attempts=times, last_attempt_ns=times)
        self.dialled.note(called)
        return [one.name for one in self.dialled.lookup(called.destination)]


def test_what_was_registered_when_it_was_called_stays_what_it_was() -> None:
    """A service that is taken out keeps the calls that were made of it; the next call is of nobody that is known."""
    registry = Registry()
    registry.enter("api")
    assert registry.call(times=1) == ["api"]
    registry.enter()
    assert registry.call(times=1) == ["api"]
    assert registry.call(times=2) == []


def test_the_newest_entry_of_a_registry_counts() -> None:
    """What is listed now goes before what was when it was called, for then the registry may not have been read."""
    registry = Registry()
    assert registry.call(times=1) == []
    registry.enter("api")
    assert registry.call(times=1) == ["api"]
    registry.enter("mail")
    assert registry.call(times=1) == ["mail"]
