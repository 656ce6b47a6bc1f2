"""What can go wrong with a simulated system, and who is responsible then."""

import random
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

from tests.sim.program import Need, Style
from tests.sim.world import World

NOBODY = IPv4Address("198.18.255.254")
LOOP_S = 4.0
VERY_LATE_S = 120.0


class Injected(NamedTuple):
    """A fault in place: any one of ``culprits`` is a right answer, or all of them when ``together``."""

    culprits: frozenset[str]
    together: bool = False


Inject = Callable[[World, str, random.Random], Injected | None]
"""Breaks a victim; None when this victim cannot have this fault in a way that connections show."""


class Fault(NamedTuple):
    """What breaks a victim. ``at_launch``: before anything runs; ``outside``: the victims are external hosts."""

    inject: Inject
    at_launch: bool = False
    outside: bool = False


def crash(world: World, victim: str, _: random.Random) -> Injected | None:
    """The program dies and stays dead; its machine refuses."""
    if not _needed(world, victim):
        return None
    world.broken.add(victim)
    world.drop_connections(victim)
    return Injected(frozenset({victim}))


def crash_loop(world: World, victim: str, _: random.Random) -> Injected:
    """The instance starts anew again and again and never answers."""
    for number in range(5):
        world.restart(victim, down_s=1e6, incarnation=f"loop {number}")
        world.run(LOOP_S)
    return Injected(frozenset({victim}))


def hang(world: World, victim: str, _: random.Random) -> Injected | None:
    """The program takes connections and does nothing more."""
    if not _calls(world, victim):
        return None
    world.hung.add(victim)
    return Injected(frozenset({victim}))


def wrong_address(world: World, victim: str, choose: random.Random) -> Injected | None:
    """The victim calls an address that nobody has."""
    return _point(world, victim, choose, lambda need: (NOBODY, need.port))


def wrong_port(world: World, victim: str, choose: random.Random) -> Injected | None:
    """The victim calls the right machine at a port where nothing listens."""
    return _point(world, victim, choose, lambda need: (world.addresses[need.target], need.port + 1))


def wrong_machine(world: World, victim: str, choose: random.Random) -> Injected | None:
    """The victim calls another machine of the stack.

    One that takes the call counts only where the victim calls nobody else at that port: else it is merely a call more.
    """

    def elsewhere(need: Need) -> tuple[IPv4Address, int] | None:
        called = {one.target for one in world.needs if one.source == victim and one.port == need.port}
        listening = {one.target for one in world.needs if one.port == need.port}
        others = set(world.vcds) - {victim} - called - (listening if len(called) > 1 else set())
        return (world.addresses[choose.choice(sorted(others))], need.port) if others else None

    return _point(world, victim, choose, elsewhere)


def isolation(world: World, victim: str, _: random.Random) -> Injected | None:
    """All of the victim's traffic is dropped."""
    if not _needed(world, victim, transport="tcp"):
        return None
    world.isolated.add(victim)
    return Injected(frozenset({victim}))


def cut(world: World, victim: str, choose: random.Random) -> Injected | None:
    """All traffic between the victim and one that it needs is dropped; either end may be to blame."""
    needs = _tcp_needs(world, victim)
    if not needs:
        return None
    other = choose.choice(needs).target
    world.cut.add(frozenset((victim, other)))
    return Injected(frozenset((victim, other)))


def no_names(world: World, victim: str, _: random.Random) -> Injected | None:
    """The victim can resolve no name any more; what it holds open stays."""
    if not _calls(world, victim):
        return None
    world.mute.add(victim)
    return Injected(frozenset({victim}))


def stopped(world: World, victim: str, _: random.Random) -> Injected | None:
    """The machine is switched off, and its agent with it."""
    if not _needed(world, victim):
        return None
    world.broken.add(victim)
    world.drop_connections(victim)
    world.isolated.add(victim)
    world.disconnect(victim)
    world.switch_off(victim)
    return Injected(frozenset({victim}))


def unseen_crash(world: World, victim: str, choose: random.Random) -> Injected | None:
    """The program dies and the agent beside it too: only who calls on it can tell."""
    if not any(need.target == victim and need.transport == "tcp" for need in world.needs):
        return None
    world.disconnect(victim)
    return crash(world, victim, choose)


def crash_with_losses(world: World, victim: str, choose: random.Random) -> Injected | None:
    """The program dies while the agents of all that call on it cannot count everything."""
    callers = {need.source for need in world.needs if need.target == victim}
    if not callers:
        return None
    world.lossy |= callers
    return crash(world, victim, choose)


def crash_and_new_manager(world: World, victim: str, choose: random.Random) -> Injected | None:
    """The program dies, and a second later the manager is restarted and knows nothing."""
    injected = crash(world, victim, choose)
    if injected is not None:
        world.run(1.0)
        world.replace_manager()
    return injected


def late_start(world: World, victim: str, _: random.Random) -> Injected | None:
    """The launch goes on without the victim, which starts long after it has to."""
    if not _needed(world, victim):
        return None
    world.delay(victim, VERY_LATE_S)
    return Injected(frozenset({victim}))


def outage(world: World, victim: str, _: random.Random) -> Injected:
    """A host outside of the stack is down, and nobody can be reverted for it."""
    world.broken.add(victim)
    return Injected(frozenset({victim}))


def two_crashes(world: World, victim: str, choose: random.Random) -> Injected | None:
    """Two programs die at once."""
    return _two(world, victim, choose, lambda: crash)


def two_faults(world: World, victim: str, choose: random.Random) -> Injected | None:
    """Two machines have faults of any kinds at once."""
    return _two(world, victim, choose, lambda: choose.choice(AT_ONCE))


AT_ONCE = (crash, hang, wrong_address, wrong_port, isolation, no_names, stopped)

SINGLE: dict[str, Fault] = {
    "crash": Fault(crash),
    "crash loop": Fault(crash_loop),
    "crash, its agent lost": Fault(unseen_crash),
    "crash, agents with losses": Fault(crash_with_losses),
    "crash, manager restarted": Fault(crash_and_new_manager),
    "machine stopped": Fault(stopped),
    "start beyond its bound": Fault(late_start, at_launch=True),
    "hang": Fault(hang),
    "wrong address": Fault(wrong_address),
    "wrong port": Fault(wrong_port),
    "wrong machine": Fault(wrong_machine),
    "isolation": Fault(isolation),
    "cut": Fault(cut),
    "no names": Fault(no_names),
}
TOGETHER: dict[str, Fault] = {"two crashes": Fault(two_crashes), "two faults": Fault(two_faults)}
OUTSIDE: dict[str, Fault] = {"outage outside": Fault(outage, outside=True)}
ALL = SINGLE | TOGETHER | OUTSIDE


def _two(world: World, victim: str, choose: random.Random, pick: Callable[[], Inject]) -> Injected | None:
    """None when either victim cannot have its fault; the other is then left without one as well."""
    other = choose.choice([name for name in world.vcds if name != victim])
    injected = [pick()(world, name, choose) for name in (victim, other)]
    if None in injected:
        return None
    return Injected(frozenset((victim, other)), together=True)


def _point(
    world: World, victim: str, choose: random.Random, where: Callable[[Need], tuple[IPv4Address, int] | None]
) -> Injected | None:
    needs = [need for need in _tcp_needs(world, victim) if need.target in world.addresses]
    if not needs:
        return None
    need = choose.choice(needs)
    place = where(need)
    if place is None:
        return None
    world.pointed[need.key] = place
    return Injected(frozenset({victim}))


def _needed(world: World, victim: str, *, transport: str = "") -> bool:
    """Whether anybody calls on the victim, or it on anybody."""
    return any(
        victim in (need.source, need.target) and transport in ("", need.transport) for need in world.needs
    )


def _tcp_needs(world: World, victim: str) -> list[Need]:
    return [need for need in world.needs if need.source == victim and need.transport == "tcp"]


def _calls(world: World, victim: str) -> bool:
    """Whether the victim calls on somebody anew each time, so that its silence shows."""
    return any(need.source == victim and need.style is Style.CALLS for need in world.needs)
