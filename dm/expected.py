"""A golden image as it is judged: rules applied, and edges on changing ports taken together.

Ports may differ from launch to launch, as those of FTP's data connections or a portmapper's services. Images keep every
port as it was seen, and what is changing follows from them: so merging stays a mere union, and one launch more may
still turn a port out to be fixed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from dm.edge import ANY_PORT, EdgeKey, Pair
from dm.golden import GoldenEdge, GoldenImage, Kind
from dm.rules import Action

FIRST_REGISTERED = 1024
"""Ports below it are the system's, and nobody is given them by chance."""
FIRST_EPHEMERAL = 32768
"""Where Linux begins to give out ports: several of them in a single launch are no services of their own."""
SEVERAL = 3


class Expected(NamedTuple):
    """The edges that are judged, and for pairs whose ports change those of their ports that do not."""

    edges: Mapping[EdgeKey, GoldenEdge]
    fixed_ports: Mapping[Pair, frozenset[int]]


def expect(image: GoldenImage) -> Expected:
    """What an image expects. An edge that a rule ignores is left out."""
    # A service that a registry names is itself at any port.
    edges, fixed = [edge for edge in image.edges if edge.service], {}
    numbered = [edge for edge in image.edges if not edge.service]
    changing = _changing(numbered, runs=image.runs)
    by_pair: dict[Pair, list[GoldenEdge]] = {}
    for edge in numbered:
        by_pair.setdefault(Pair.of(edge.key), []).append(edge)
    for pair, members in by_pair.items():
        moving = [edge for edge in members if edge.port in changing.get(pair, ())]
        staying = [edge for edge in members if edge.port not in changing.get(pair, ())]
        edges += staying
        if moving:
            edges.append(_folded(moving, runs=image.runs))
            fixed[pair] = frozenset(edge.port for edge in staying)
    judged = {edge.key: edge for edge in edges if image.action(edge.key) is not Action.IGNORE}
    return Expected(judged, fixed)


def _changing(edges: Iterable[GoldenEdge], *, runs: int) -> dict[Pair, frozenset[int]]:
    """The pairs that talk on changing ports, with these ports.

    A port is changing when just one launch had it and the others had some other such port of the same pair; or, within
    a single launch, when it is one of several that the kernel gave out. Where any port is expected, as later launches
    are seen once the ports were found to be changing, one more of them changes nothing.
    """
    lowest, least = (FIRST_REGISTERED, runs) if runs > 1 else (FIRST_EPHEMERAL, SEVERAL)
    once: dict[Pair, set[int]] = {}
    for edge in edges:
        if edge.port == ANY_PORT or (edge.runs == 1 and edge.port >= lowest):
            once.setdefault(Pair.of(edge.key), set()).add(edge.port)
    return {
        pair: frozenset(ports) for pair, ports in once.items() if ANY_PORT in ports or len(ports) >= least
    }


def _folded(edges: Sequence[GoldenEdge], *, runs: int) -> GoldenEdge:
    """One edge on any port. Nobody can say which of its ports comes next, so only failures and absence tell."""
    return msgspec.structs.replace(
        edges[0],
        port=ANY_PORT,
        kind=Kind.ON_DEMAND if any(edge.kind is Kind.ON_DEMAND for edge in edges) else edges[0].kind,
        external=any(edge.external for edge in edges),
        runs=min(runs, sum(edge.runs for edge in edges)),
        established_ms=tuple(sorted(time for edge in edges for time in edge.established_ms)),
        refresh_ms=tuple(sorted(time for edge in edges for time in edge.refresh_ms)),
        after=tuple(sorted(set.intersection(*(set(edge.after) for edge in edges)))),
    )
