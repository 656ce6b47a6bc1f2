"""Whole systems to simulate: a topology's, with realistic ways of using each dependency, and the sample shop."""

import random
from collections.abc import Mapping
from copy import deepcopy
from ipaddress import IPv4Address

from dm.golden import GoldenImage
from dm.learning import merge
from tests.sim.program import Need, Style
from tests.sim.topology import Dependency, Topology
from tests.sim.world import World

LAUNCH_S = 30.0
LAUNCHES = 3


class System:
    """A system whose programs always use their dependencies in the same way; each launch of it is another world."""

    def __init__(self, needs: list[Need], *, vcds: list[str], externals: Mapping[str, IPv4Address]) -> None:
        self.needs = needs
        self.vcds = vcds
        self.externals = externals

    def launch(self, *, seed: int = 0, cascade: float = 0.0, **changes: object) -> World:
        """One launch."""
        needs = deepcopy(self.needs)
        # World's own signature says what may be changed; a wrong name fails at once.
        return World(needs, vcds=self.vcds, externals=self.externals, seed=seed, cascade=cascade, **changes)  # type: ignore[arg-type]

    def learn(self, *, launches: int = LAUNCHES, seed: int = 1_000_000) -> GoldenImage:
        """The image of several good launches."""
        images = []
        for number in range(launches):
            world = self.launch(seed=seed + number)
            world.run(LAUNCH_S)
            images.append(world.stack.learn(smoke=True))
        return merge(images)


def from_topology(topology: Topology, *, seed: int, chance: float = 0.0) -> System:
    """Give every dependency a way of being used. Launch edges are eager pools; of the others some are kept open.

    ``chance`` is the share of the rest that is called at random, as by people, and not in a rhythm.
    """
    choose = random.Random(f"{topology.name} {seed}")
    eager = set(topology.launch_edges)
    skipped = set(topology.optional_edges)
    names = set(topology.names)
    edges = [edge for edge in topology.edges if edge not in skipped and edge.source != edge.target]
    needs = [_need(edge, choose, eager=edge in eager, chance=chance) for edge in edges]
    outside = [edge for edge in topology.external_edges if edge.source in names]
    needs += [_need(edge, choose, eager=False, chance=chance) for edge in outside]
    targets = sorted({edge.target for edge in outside} | {need.target for need in needs} - names)
    externals = {name: IPv4Address(f"198.19.255.{number}") for number, name in enumerate(targets, 1)}
    return System(needs, vcds=sorted(names), externals=externals)


def _need(edge: Dependency, choose: random.Random, *, eager: bool, chance: float) -> Need:
    held = eager or choose.random() < 0.6
    return Need(
        edge.source,
        edge.target,
        edge.port,
        transport=edge.transport,
        style=Style.HELD if held and edge.transport == "tcp" else Style.CALLS,
        period_s=choose.choice((0.5, 1.0, 1.0, 2.0)),
        eager=eager,
        retry_s=choose.choice((0.3, 0.5, 1.0)),
        fresh_each=choose.choice((0, 0, 0, 5)),
        hears_errors=choose.random() < 0.7,
        backs_off=choose.random() < 0.4,
        by_chance=not held and choose.random() < chance,
    )


def shop() -> System:
    """The sample shop: a client, a web server, an api with four needs, a worker with five, one name outside."""
    needs = [
        Need("client", "web", 80, style=Style.CALLS, period_s=0.5),
        Need("web", "api", 8000, style=Style.CALLS, period_s=0.5, eager=False),
        Need("api", "cache", 6379),
        Need("api", "db", 5432),
        Need("api", "queue", 7000, fresh_each=5),
        Need("api", "metrics", 8125, transport="udp", style=Style.CALLS),
        Need("worker", "queue", 7000),
        Need("worker", "db", 5432),
        Need("worker", "cache", 6379),
        Need("worker", "metrics", 8125, transport="udp", style=Style.CALLS),
        Need("worker", "payments.example", 80, style=Style.CALLS, period_s=3.0),
    ]
    vcds = sorted({name for need in needs for name in (need.source, need.target)} - {"payments.example"})
    return System(needs, vcds=vcds, externals={"payments.example": IPv4Address("198.19.255.1")})
