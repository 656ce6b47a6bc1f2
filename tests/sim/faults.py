"""What can go wrong with a simulated system, and who is responsible then."""

import random
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

from tests.sim.program import Need, Style
from tests.sim.world import World

NOBODY = IPv4Address("198.18.255.254")
LOOP_S = 4.0


class Injected(NamedTuple):
    """A fault in place: any one of ``culprits`` is a right answer, or all of them when ``together``."""

    culprits: frozenset[str]
    together: bool = False


Inject = Callable[[World, str, random.Random], Injected | None]
"""Breaks a victim; None when this victim cannot have this fault in a way that connections show."""


def crash(world: World, victim: str, _: random.Random) -> Injected:
    """The program dies and stays dead; its machine refuses."""
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
    """The victim calls another machine of the stack."""
    others = sorted(set(world.vcds) - {victim})
    return _point(
        world,
        victim,
        choose,
        lambda need: (
            world.addresses[choose.choice([name for name in others if name != need.target])],
            need.port,
        ),
    )


def isolation(world: World, victim: str, _: random.Random) -> Injected:
    """All of the victim's traffic is dropped."""
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


def two_crashes(world: World, victim: str, choose: random.Random) -> Injected:
    """Two programs die at once."""
    other = choose.choice([name for name in world.vcds if name != victim])
    for name in (victim, other):
        crash(world, name, choose)
    return Injected(frozenset((victim, other)), together=True)


SINGLE: dict[str, Inject] = {
    "crash": crash,
    "crash loop": crash_loop,
    "hang": hang,
    "wrong address": wrong_address,
    "wrong port": wrong_port,
    "wrong machine": wrong_machine,
    "isolation": isolation,
    "cut": cut,
    "no names": no_names,
}


def _point(
    world: World, victim: str, choose: random.Random, where: Callable[[Need], tuple[IPv4Address, int]]
) -> Injected | None:
    needs = [need for need in _tcp_needs(world, victim) if need.target in world.addresses]
    if not needs:
        return None
    need = choose.choice(needs)
    world.pointed[need.key] = where(need)
    return Injected(frozenset({victim}))


def _tcp_needs(world: World, victim: str) -> list[Need]:
    return [need for need in world.needs if need.source == victim and need.transport == "tcp"]


def _calls(world: World, victim: str) -> bool:
    """Whether the victim calls on somebody anew each time, so that its silence shows."""
    return any(need.source == victim and need.style is Style.CALLS for need in world.needs)
