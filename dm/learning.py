"""How golden images come about: from a live launch, and from each other. Pure values."""

from collections.abc import Iterable, Sequence, Set

import msgspec

from dm.edge import EdgeKey, LiveEdge
from dm.golden import GoldenEdge, GoldenError, GoldenImage, Kind
from dm.rules import joined

REOPENS_WITHIN_S = 3.0
_CHANCE_SEEN, _CHANCE_GAP, _CHANCE_LATE_S = 16, 16, 1.0
"""Calls from which the pace of random ones is known, and how many times their mean distance is never reached: by chance
one distance in nine million is longer."""


def learn(
    edges: Iterable[LiveEdge],
    *,
    stack: str,
    fingerprint: str,
    vcds: Sequence[str],
    launch_s: float,
    now_s: float,
    smoke: bool,
) -> GoldenImage:
    """The image of one launch: every edge that worked. ``launch_s`` is when it began, on the edges' clock."""
    worked = [edge for edge in edges if edge.seen_ok]
    before, inside = _Order(worked), frozenset(vcds)
    learned = [_learn_edge(edge, inside, launch_s, now_s, before.of(edge)) for edge in worked]
    return GoldenImage(
        stack=stack,
        fingerprint=fingerprint,
        runs=1,
        smoke=smoke,
        vcds=tuple(sorted(vcds)),
        edges=tuple(sorted(learned, key=lambda edge: edge.key)),
    )


def merge(images: Sequence[GoldenImage]) -> GoldenImage:
    """One image of all the launches.

    Raises :class:`GoldenError` when they are not of one stack and manifest, or a launch would count twice.
    """
    first = images[0]
    learned_from: dict[str, GoldenImage] = {}
    for image in images:
        if (image.stack, image.fingerprint) != (first.stack, first.fingerprint):
            raise GoldenError(
                f"images {first.id} and {image.id} are of different stacks or manifests: capture anew"
            )
        for launch in image.launches:
            other = learned_from.setdefault(launch, image)
            if other is not image:
                raise GoldenError(
                    f"images {other.id} and {image.id} are learned from the same launch, which would count twice: "
                    "merge images of different launches"
                )
    by_key: dict[EdgeKey, list[GoldenEdge]] = {}
    for image in images:
        for edge in image.edges:
            by_key.setdefault(edge.key, []).append(edge)
    return GoldenImage(
        stack=first.stack,
        fingerprint=first.fingerprint,
        runs=sum(image.runs for image in images),
        launches=tuple(sorted(learned_from)),
        smoke=all(image.smoke for image in images),
        vcds=tuple(sorted({vcd for image in images for vcd in image.vcds})),
        edges=tuple(_merge_edges(by_key[key]) for key in sorted(by_key)),
        rules=joined(rule for image in images for rule in image.rules),
    )


def unseen_share(runs: int) -> float:
    """The share of launches that an edge may be part of and still, at 95 % confidence, have been missed by all of them.

    The p for which (1 - p)^runs = 0.05: the exact form of the rule of three (Hanley and Lippman-Hand, "If nothing goes
    wrong, is everything all right?", JAMA 249, 1983), and Clopper's and Pearson's bound for no occurrence. It holds for
    launches that do not depend on each other.
    """
    return float(1 - 0.05 ** (1 / runs))


class _Order:
    """Which edges of a target worked before an edge to it did."""

    def __init__(self, worked: Iterable[LiveEdge]) -> None:
        self._by_source: dict[str, list[LiveEdge]] = {}
        for edge in worked:
            self._by_source.setdefault(edge.key.source, []).append(edge)

    def of(self, edge: LiveEdge) -> tuple[str, ...]:
        """Their texts, sorted."""
        first_s = edge.first_established_s or 0.0
        needed = self._by_source.get(edge.key.target, ())
        return tuple(sorted(str(one.key) for one in needed if (one.first_established_s or first_s) < first_s))


def _learn_edge(
    edge: LiveEdge, inside: Set[str], launch_s: float, now_s: float, after: tuple[str, ...]
) -> GoldenEdge:
    idle_s = now_s - (edge.last_attempt_s or now_s)
    rhythm = _rhythm_s(edge, idle_s)
    if edge.open > 0 and edge.longest_closed_s <= REOPENS_WITHIN_S:
        # Held, though perhaps by one connection after the other.
        kind, rhythm = Kind.HELD, edge.longest_closed_s
    elif rhythm is not None:
        kind = Kind.PERIODIC
    else:
        kind = Kind.ON_DEMAND
    return GoldenEdge(
        source=edge.key.source,
        target=edge.key.target,
        transport=edge.key.transport,
        port=edge.key.port,
        service=edge.key.service,
        external=edge.key.target not in inside,
        kind=kind,
        runs=1,
        established_ms=(round(_took_s(edge, launch_s) * 1000),),
        refresh_ms=() if rhythm is None else (round(rhythm * 1000),),
        after=after,
    )


def _took_s(edge: LiveEdge, launch_s: float) -> float:
    """Seconds until it worked, counted from the launch; and from its source's own start, if that came later.

    Of both the longer: a machine that is started anew finds the others up, and is faster than in a launch.
    """
    took_s = 0.0
    if edge.established_before_s is not None:
        took_s = edge.established_before_s - launch_s
    if edge.first_established_s is not None:
        took_s = max(took_s, edge.first_established_s - max(launch_s, edge.restarted_s or launch_s))
    return took_s


def _rhythm_s(edge: LiveEdge, idle_s: float) -> float | None:
    """The longest quiet time that belongs to the edge's rhythm; None when it has none, or has lost it."""
    longest = max(edge.gaps, default=0.0)
    if edge.ticks:
        return longest if idle_s <= 2 * longest else None
    # Chance brings calls together and apart: what was the longest so far says little about the next.
    chance = max(longest, _CHANCE_GAP * edge.mean_gap_s)
    steady = edge.attempts >= _CHANCE_SEEN and longest <= _CHANCE_GAP * edge.mean_gap_s + _CHANCE_LATE_S
    return chance if steady and idle_s <= chance else None


def _merge_edges(edges: Sequence[GoldenEdge]) -> GoldenEdge:
    kinds = {edge.kind for edge in edges}
    kind = next(kind for kind in (Kind.ON_DEMAND, Kind.PERIODIC, Kind.HELD) if kind in kinds)
    return msgspec.structs.replace(
        edges[0],
        kind=kind,
        external=any(edge.external for edge in edges),
        runs=sum(edge.runs for edge in edges),
        established_ms=tuple(sorted(time for edge in edges for time in edge.established_ms)),
        refresh_ms=tuple(sorted(time for edge in edges for time in edge.refresh_ms)),
        after=tuple(sorted(set.intersection(*(set(edge.after) for edge in edges)))),
    )
