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


def test_who_fell_for_want_of_a_machine_may_return_after_it() -> None:
    """The cart died because its store was away; once the store has been started anew, the cart is waited for."""
    needs = [Need("web", "cart", 80, style=Style.CALLS, period_s=0.5), Need("cart", "store", 6379)]
    world = healthy(System(needs, vcds=["cart", "store", "web"], externals={}))
    for name in ("store", "cart"):
        world.broken.add(name)
        world.drop_connections(name)
    world.run(1.0)
    world.repair("store")
    world.run(5.0)
    world.repair("cart")
    world.run(10.0)
    assert Verdict.FAILED not in world.verdicts()
    assert world.history[-1][1].verdict is Verdict.OK


def test_nobody_is_blamed_for_calling_nobody_until_it_is_called_again() -> None:
    """The orders died and were started anew, but the front end cannot find them: it is the one, and they are not."""
    needs = [
        Need("front", "orders", 80, style=Style.CALLS),
        Need("front", "log", 514, style=Style.CALLS, period_s=0.5),
    ]
    needs += [Need("orders", name, 80, style=Style.CALLS, eager=False) for name in ("carts", "payment")]
    world = healthy(
        System(needs, vcds=["carts", "front", "log", "orders", "payment"], externals={}),
    )
    world.restart("orders")
    world.mute.add("front")
    world.run(40.0)
    failed = [one for _, one in world.history if one.verdict is Verdict.FAILED]
    assert {suspect.name for one in failed for suspect in one.finding.culprits} == {"front"}


def test_a_held_connection_does_not_speak_for_whom_many_calls_go_unanswered() -> None:
    """The front end is cut off, though it still holds a connection; its only client is not blamed beside it."""
    needs = [Need("load", "front", 80), Need("front", "catalog", 3550, period_s=30.0)]
    needs += [Need("front", f"s{number}", 80, style=Style.CALLS, eager=False) for number in range(4)]
    needs += [Need("other", f"s{number}", 80, style=Style.CALLS) for number in range(3)]
    names = {name for need in needs for name in (need.source, need.target)}
    world = healthy(System(needs, vcds=sorted(names), externals={}))
    world.isolated.add("front")
    world.run(20.0)
    failed = [one for _, one in world.history if one.verdict is Verdict.FAILED]
    assert {suspect.name for one in failed for suspect in one.finding.culprits} == {"front"}


def test_who_has_not_tried_again_is_not_blamed_because_others_get_through_again() -> None:
    """The store was away; one of its callers is back in touch with it, the other waits before it tries again."""
    needs = [
        Need(name, "store", 6379, style=Style.CALLS, period_s=0.5, retry_s=0.5) for name in ("one", "two")
    ]
    world = healthy(System(needs, vcds=["one", "store", "two"], externals={}))
    world.broken.add("store")
    world.run(1.5)
    world.needs[0].retry_s = 12.0
    world.run(0.5)
    world.broken.discard("store")
    world.run(20.0)
    assert Verdict.FAILED not in world.verdicts()
    assert world.history[-1][1].verdict is Verdict.OK


def test_connections_that_are_merely_held_do_not_speak_for_a_machine_that_nobody_reaches() -> None:
    """The queue's machine is stuck, its consumers wait on connections that seem open, and its only caller is not it."""
    needs = [Need(name, "queue", 9092, period_s=60.0) for name in ("mail", "audit")]
    needs += [Need("shop", "queue", 9092, style=Style.CALLS), Need("shop", "db", 5432, style=Style.CALLS)]
    world = healthy(System(needs, vcds=["audit", "db", "mail", "queue", "shop"], externals={}))
    world.isolated.add("queue")
    world.disconnect("queue")
    assert world.until(Verdict.FAILED, within_s=15.0) is not None
    assert world.culprits() == ["queue"]
