"""Names by place."""

import math
import tracemalloc
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from dma.naming.cache import LIMIT, NAMES_KEPT, SWEEP_S, Cache
from dma.naming.method import Place
from dma.naming.name import Name, Source

ADDRESS = ip_address("198.18.0.5")
EVERY_PORT, DATABASE = Place(ADDRESS), Place(ADDRESS, 5432)


class Clock:
    """A clock that is set by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def named(name: str, *, expires_s: float | None = None) -> Name:
    """A name from the application's own look-up."""
    return Name(name, Source.PASSIVE_DNS, 92, expires_s)


def test_names_of_the_port_come_before_those_of_the_address() -> None:
    """A place without a port stands for all ports of the address."""
    cache = Cache()
    cache.add(EVERY_PORT, [named("host.shop")])
    cache.add(DATABASE, [named("db.shop")])
    assert [one.name for one in cache.lookup(ADDRESS, 5432)] == ["db.shop", "host.shop"]
    assert [one.name for one in cache.lookup(ADDRESS, 80)] == ["host.shop"]
    assert cache.changed() == {ADDRESS}
    assert cache.changed() == set()


def test_several_names_of_a_place_are_kept_for_their_own_time() -> None:
    """Names are added to each other; one that is heard again only lives longer, and each goes at its time and grace."""
    clock = Clock()
    cache = Cache(grace_s=2.0, clock=clock)
    cache.add(DATABASE, [named("a.shop", expires_s=1010)])
    cache.add(DATABASE, [named("b.shop", expires_s=1030)])
    assert cache.changed() == {ADDRESS}
    cache.add(DATABASE, [named("a.shop", expires_s=1020)])
    assert cache.changed() == set()
    clock.now_s = 1021.9
    assert {one.name for one in cache.lookup(ADDRESS, 5432)} == {"a.shop", "b.shop"}
    clock.now_s = 1022.0
    assert {one.name for one in cache.lookup(ADDRESS, 5432)} == {"b.shop"}
    assert cache.changed() == {ADDRESS}
    clock.now_s = 1032.0
    assert (cache.changed(), len(cache)) == ({ADDRESS}, 0)


def test_that_there_is_no_name_is_remembered() -> None:
    """A settled place need not be asked for until its time has come, names or none."""
    clock = Clock()
    cache = Cache(clock=clock)
    assert not cache.knows(DATABASE)
    cache.settle(DATABASE, [], until_s=1060)
    assert (cache.knows(DATABASE), cache.lookup(ADDRESS, 5432), cache.changed()) == (True, (), set())
    clock.now_s = 1060.0
    assert not cache.knows(DATABASE)
    assert (cache.changed(), len(cache)) == (set(), 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20), st.integers(0, 5)), max_size=60))
def test_it_never_outgrows_its_bounds(events: list[tuple[int, int, int]]) -> None:
    """Whatever comes in what order, there are no more places and names than allowed, and none that has expired."""
    clock = Clock()
    cache = Cache(limit=4, clock=clock)
    for host, number, ttl_s in events:
        cache.add(Place(ADDRESS + host), [named(f"n{number}", expires_s=clock.now_s + ttl_s)])
        clock.now_s += SWEEP_S / 2
        cache.changed()
        assert len(cache) <= 4
        for place in range(10):
            found = cache.lookup(ADDRESS + place, 80)
            assert len(found) <= NAMES_KEPT
            assert all((one.expires_s or math.inf) > clock.now_s for one in found)


def test_ten_thousand_names_are_small() -> None:
    """A full cache holds ten thousand names in less than 20 MB."""
    cache = Cache()
    tracemalloc.start()
    try:
        for number in range(LIMIT):
            name = named(f"host-{number:05}.long-zone-name.example.org", expires_s=float(number))
            cache.settle(Place(ADDRESS + number, number), [name], until_s=float(number))
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(cache), cache.evicted) == (LIMIT, 0)
    assert held < 20e6
