"""Random systems as people build them, for trying what was not tuned to: ``python -m tests.sim.generate DIRECTORY``.

Clients call gateways, these call services in tiers, services call each other (now and then in a circle), keep
databases, share caches and a queue with workers behind it, register at launch, count by UDP and call hosts outside.
"""

import itertools
import random
from pathlib import Path

import click
import msgspec

from tests.sim.topology import Dependency, Topology

DATABASES = (3306, 5432, 27017)
OUTSIDE = (("payments.example", 443), ("mail.example", 25), ("login.example", 443), ("maps.example", 443))


class Draft:
    """A system being put together."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.ports: dict[str, int | None] = {}
        self.edges: list[Dependency] = []
        self.launch: list[Dependency] = []
        self.outside: list[Dependency] = []

    def add(self, name: str, port: int | None) -> str:
        """Another service; without a port it serves nobody."""
        self.ports[name] = port
        return name

    def call(self, source: str, target: str, *, eager: bool = False, transport: str = "tcp") -> None:
        """A dependency, once."""
        edge = Dependency(source, target, self.ports[target] or 0, transport)
        if source != target and edge not in self.edges:
            self.edges.append(edge)
            if eager:
                self.launch.append(edge)

    def call_outside(self, source: str) -> None:
        """A dependency on a host that nobody here can mend."""
        edge = Dependency(source, *self.choose.choice(OUTSIDE), "tcp")
        if edge not in self.outside:
            self.outside.append(edge)

    def chance(self, share: float) -> bool:
        """True that often."""
        return self.choose.random() < share


def generate(seed: int, *, services: int) -> Topology:
    """A system of about so many services; the same one for the same seed."""
    draft = Draft(random.Random(f"topology {seed} {services}"))
    tiers = _tiers(draft, count=max(3, services * 11 // 20))
    _call_down(draft, tiers)
    inner = [name for tier in tiers for name in tier]
    _keep_state(draft, inner, count=services - len(inner))
    _circles(draft, tiers)
    return Topology(
        name=f"random {seed} of {services}",
        services=[{"name": name, "port": port} for name, port in draft.ports.items()],
        edges=draft.edges,
        launch_edges=draft.launch,
        optional_edges=[],
        external_edges=draft.outside,
    )


def _tiers(draft: Draft, *, count: int) -> list[list[str]]:
    """Clients, gateways, and two to four tiers of services."""
    clients = [draft.add(f"client-{number}", None) for number in range(1 + draft.chance(0.4))]
    gateways = [draft.add(f"gateway-{number}", 80) for number in range(1 + draft.chance(0.3))]
    depth = draft.choose.randint(2, 4)
    below: list[list[str]] = [[] for _ in range(depth)]
    for number in range(count):
        # Most services stand in the middle.
        tier = min(int(draft.choose.triangular(0, depth, depth / 2)), depth - 1)
        below[tier].append(draft.add(f"service-{number:02}", draft.choose.choice((80, 8080, 8080, 50051))))
    return [clients, gateways, *(tier for tier in below if tier)]


def _call_down(draft: Draft, tiers: list[list[str]]) -> None:
    """Everybody is called by somebody above; some are called by many."""
    for above, tier in itertools.pairwise(tiers):
        weights = [draft.choose.paretovariate(1.2) for _ in tier]
        for target in tier:
            draft.call(draft.choose.choice(above), target, eager=above is tiers[0])
        for source in above:
            for target in draft.choose.choices(tier, weights, k=draft.choose.randint(above is tiers[0], 4)):
                draft.call(source, target, eager=above is tiers[0] or draft.chance(0.1))


def _keep_state(draft: Draft, inner: list[str], *, count: int) -> None:
    """Databases, each mostly of one service, and what many share."""
    shared = [draft.add(name, port) for name, port in (("cache", 6379), ("queue", 5672), ("registry", 8761))]
    metrics = draft.add("metrics", 8125)
    workers = [draft.add(f"worker-{number}", None) for number in range(max(1, count // 8))]
    databases = [
        draft.add(f"db-{number:02}", draft.choose.choice(DATABASES))
        for number in range(max(1, count - len(shared) - len(workers) - 2))
    ]
    callers = [name for name in inner if not name.startswith("client")]
    for number, database in enumerate(databases):
        draft.call(callers[-1 - number % len(callers)], database, eager=draft.chance(0.7))
        if draft.chance(0.15):
            draft.call(draft.choose.choice(callers), database)
    for worker in workers:
        draft.call(worker, "queue", eager=True)
        draft.call(worker, draft.choose.choice(databases), eager=draft.chance(0.5))
    for name in callers:
        for target, share, eager in (("cache", 0.15, 0.3), ("queue", 0.12, 0.6), ("registry", 0.3, 1.0)):
            if draft.chance(share):
                draft.call(name, target, eager=draft.chance(eager))
        if draft.chance(0.2):
            draft.call(name, metrics, transport="udp")
        if draft.chance(0.08):
            draft.call_outside(name)


def _circles(draft: Draft, tiers: list[list[str]]) -> None:
    """A few services call back on one that calls them."""
    inner = {name for tier in tiers[2:] for name in tier}
    down = [edge for edge in draft.edges if edge.source in inner and edge.target in inner]
    for edge in draft.choose.sample(down, min(len(down), max(1, len(inner) // 12))):
        draft.call(edge.target, edge.source)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--services", default=68, show_default=True, type=click.IntRange(12), help="About so many each."
)
@click.option("--seed", default=0, show_default=True, help="Of the first one.")
def main(directory: Path, count: int, services: int, seed: int) -> None:
    """Write random topologies."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(seed, seed + count):
        document = msgspec.json.format(msgspec.json.encode(generate(number, services=services)), indent=1)
        (directory / f"random-{services}-{number}.json").write_bytes(document + b"\n")


if __name__ == "__main__":
    main()
