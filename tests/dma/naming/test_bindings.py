"""What a series of answers adds up to."""

from ipaddress import ip_address

from dma.naming.bindings import GRACE_S, Bindings
from dma.naming.dns_answer import Answer, Binding, Service
from dma.naming.name import Name
from tests.dma.naming.test_cache import Clock

ADDRESS, OTHER = ip_address("198.18.0.5"), ip_address("198.18.0.6")


def bound(name: str, *addresses: str, ttl_s: int = 30) -> Answer:
    """An answer with addresses."""
    return Answer(name, tuple(Binding(name, ip_address(one), None, ttl_s) for one in addresses), ())


def found(bindings: Bindings, address: str = str(ADDRESS), port: int = 80) -> list[Name]:
    """What an address and port is called now."""
    return list(bindings.cache.lookup(ip_address(address), port))


def test_a_service_waits_for_its_hosts_address() -> None:
    """An address that is asked for after its service has the service's name on the service's port, while that lasts."""
    clock = Clock()
    bindings = Bindings(clock=clock)
    bindings.learn(Answer("_web._tcp.shop", (), (Service("_web._tcp.shop", "h1.shop", 8080, 20),)))
    bindings.learn(bound("h1.shop", str(ADDRESS)))
    assert [one.name for one in found(bindings, port=8080)] == ["_web._tcp.shop", "h1.shop"]
    assert [one.name for one in found(bindings, port=80)] == ["h1.shop"]
    clock.now_s += 20 + GRACE_S
    assert [one.name for one in found(bindings, port=8080)] == ["h1.shop"]
    bindings.learn(bound("h1.shop", str(OTHER)))
    assert [one.name for one in found(bindings, str(OTHER), port=8080)] == ["h1.shop"]


def test_a_name_that_has_moved_is_superseded_where_it_was() -> None:
    """A newer answer without an address supersedes the name there, whatever the other family's answers say."""
    clock = Clock()
    bindings = Bindings(clock=clock)
    bindings.learn(bound("db.shop", str(ADDRESS)))
    before = found(bindings)[0]
    clock.now_s += 1
    bindings.learn(bound("db.shop", "fd00::5"))
    assert not bindings.superseded(before, ADDRESS)
    bindings.learn(bound("db.shop", str(OTHER)))
    assert bindings.superseded(before, ADDRESS)
    assert not bindings.superseded(found(bindings, str(OTHER))[0], OTHER)
