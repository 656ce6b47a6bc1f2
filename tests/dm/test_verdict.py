"""Verdicts on stacks in which little is wrong, or two things at once."""

from ipaddress import IPv4Address

from dm.verdict import Verdict
from tests.sim.program import Need, Style
from tests.sim.systems import System, shop
from tests.sim.world import World

NOBODY = IPv4Address("198.18.255.254")


def healthy(system: System) -> World:
    """A system in its steady state, guarded by an image of earlier launches."""
    world = system.launch()
    world.guard(system.learn())
    world.run(25.0)
    assert world.history[-1][1].verdict is Verdict.OK
    return world


def test_one_wrong_port_among_many_calls_is_found_in_time() -> None:
    """What is called instead is as wrong as what is not called any more; together they cross the threshold in 5 s."""
    needs = [Need("app", f"s{number}", 80) for number in range(6)]
    needs += [Need(f"other{number}", "s0", 80) for number in range(5)]
    world = healthy(
        System(needs, vcds=sorted({n for e in needs for n in (e.source, e.target)}), externals={})
    )
    world.pointed["app", "s0", 80] = (world.addresses["s0"], 81)
    decided_s = world.until(Verdict.FAILED, within_s=15.0)
    assert decided_s is not None
    assert decided_s <= 5.0
    assert world.culprits() == ["app"]


def test_a_connection_that_a_hung_caller_holds_does_not_clear_who_is_cut_off() -> None:
    """While two callers cannot reach db, a third that merely holds a connection to it proves nothing."""
    needs = [Need(name, "db", 5432, style=Style.CALLS) for name in ("one", "two")]
    needs += [Need("three", "db", 5432), Need("three", "log", 514, style=Style.CALLS)]
    needs += [Need(name, "log", 514) for name in ("one", "two")]
    world = healthy(System(needs, vcds=["db", "log", "one", "three", "two"], externals={}))
    world.hung.add("three")
    world.isolated.add("db")
    assert world.until(Verdict.FAILED, within_s=15.0) is not None
    world.run(5.0)
    assert set(world.culprits()) == {"db", "three"}


def test_a_caller_that_is_wrong_by_itself_is_found_beside_the_dead_target_it_should_call() -> None:
    """The api calls an address that nobody has instead of the cache, and the cache dies: both are named at once."""
    world = healthy(shop())
    world.pointed["api", "cache", 6379] = (NOBODY, 6379)
    world.drop_connections("api")
    world.broken.add("cache")
    assert world.until(Verdict.FAILED, within_s=15.0) is not None
    assert set(world.culprits()) == {"api", "cache"}


def test_a_service_that_came_back_is_not_taken_back_because_its_client_waits_to_try_again() -> None:
    """The client tried a few times while the service was away for a second, and tries again only after ten."""
    needs = [Need("app", "db", 5432, style=Style.CALLS, period_s=0.4, retry_s=0.2)]
    world = healthy(System(needs, vcds=["app", "db"], externals={}))
    world.broken.add("db")
    world.run(1.0)
    world.needs[0].retry_s = 10.0
    world.run(0.3)
    world.broken.discard("db")
    world.run(15.0)
    assert Verdict.FAILED not in world.verdicts()
