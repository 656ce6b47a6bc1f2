"""What a registry lists, and what it costs."""

import tracemalloc
from ipaddress import ip_address

from dma.naming.cache import Cache
from dma.naming.method import Counters, Place
from dma.naming.name import CONFIDENCE, Name, Source
from dma.naming.registry.register import Register

PLACES = 10_000
LIMIT_BYTES = 20 << 20
WEB = Place(ip_address("198.18.7.1"), 8080)


def register() -> tuple[Register, Cache]:
    """An empty one, and what others look up."""
    cache = Cache()
    return Register(Source.CONSUL, cache, Counters()), cache


def named(made: Register, service: str, place: Place = WEB, *, doubt: int = 0) -> Name:
    """A service's name at a place."""
    name = made.name(service, place, doubt=doubt)
    assert name
    return name


def texts(cache: Cache, place: Place = WEB) -> list[str]:
    """What is looked up at a place."""
    return [name.name for name in cache.lookup(place.address, place.port or 1)]


def test_two_keys_may_claim_a_place() -> None:
    """Both names are known, the more trusted first, until one of the keys is gone."""
    made, cache = register()
    made.put("a", {WEB: named(made, "web", doubt=1)})
    made.put("b", {WEB: named(made, "www")})
    assert texts(cache) == ["www", "web"]
    made.keep({"a"})
    assert texts(cache) == ["web"]
    made.put("a", {})
    assert texts(cache) == []
    assert len(cache) == 0


def test_what_finds_no_room_is_told_with_every_answer() -> None:
    """Whether the feed left services out or the cache did: what is called may have a name that is not known."""
    made, _ = register()
    made.heard()
    assert made.counters.unnamed == 0
    made.counters.dropped = 1
    made.heard()
    assert made.counters.unnamed == 1
    small = Register(Source.CONSUL, Cache(limit=1), Counters())
    for number in range(2):
        place = Place(WEB.address + number, WEB.port)
        small.put(f"{number}", {place: named(small, "web", place)})
    small.heard()
    small.heard()
    assert small.counters.unnamed == 2


def test_only_what_changes_is_told() -> None:
    """Putting down the same again changes nothing."""
    made, cache = register()
    made.put("a", {WEB: named(made, "web")})
    assert cache.changed() == {WEB.address}
    made.put("a", {WEB: named(made, "web")})
    assert cache.changed() == set()


def test_what_is_no_name_is_none() -> None:
    """Nothing that a terminal would obey, and nothing endless, becomes a name."""
    made, _ = register()
    for text in ("", " ", "a\nb", "\x1b[2J", "x" * 256):
        assert made.name(text, WEB) is None
    assert named(made, "web").confidence == CONFIDENCE[Source.CONSUL]


def test_ten_thousand_names_fit() -> None:
    """All of them, with the registry's keys, take less than 20 MB."""
    tracemalloc.start()
    made, cache = register()
    for number in range(PLACES):
        place = Place(ip_address(f"198.18.{number >> 8}.{number & 255}"), 20_000 + number)
        made.put(
            f"/services/service-{number}/instance-{number}", {place: named(made, f"service-{number}", place)}
        )
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cache) == PLACES
    assert taken < LIMIT_BYTES, f"{taken / (1 << 20):.1f} MiB"
