"""The golden image: which dependencies a good launch has, learned from one or more launches. Pure values.

A document is readable, diffable JSON. Times are milliseconds after the launch began.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from statistics import median

import msgspec

from dm.edge import EdgeKey, LiveEdge, Transport

FORMAT = 1
REOPENS_WITHIN_S = 3.0
_RHYTHM_SEEN = 4
_RHYTHM_SPREAD = 3.0


class GoldenError(Exception):
    """A document or a combination of images cannot be used; the message says why."""


class Kind(StrEnum):
    """How a dependency lives after the launch."""

    HELD = "held"
    PERIODIC = "periodic"
    ON_DEMAND = "on demand"


class GoldenEdge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One expected dependency.

    ``runs`` says in how many of the image's launches it appeared; ``established_ms`` holds one time after the launch
    for each of them; ``refresh_ms`` is the longest quiet time seen between two attempts, absent without a rhythm.
    """

    source: str
    target: str
    transport: Transport
    port: int
    external: bool = False
    kind: Kind
    runs: int
    established_ms: tuple[int, ...]
    refresh_ms: int | None = None

    @property
    def key(self) -> EdgeKey:
        """Its identity."""
        return EdgeKey(self.source, self.target, self.transport, self.port)

    def deadline_s(self, slack_s: float) -> float:
        """Seconds after the launch when it is overdue: the latest seen, times 1 + 1/runs, plus the slack."""
        latest = max(self.established_ms, default=0) / 1000
        return latest * (1 + 1 / max(len(self.established_ms), 1)) + slack_s

    def rhythm_s(self, slack_s: float) -> float:
        """Seconds of quiet after which it is gone: the longest quiet time seen, times 1 + 1/runs, plus the slack."""
        return (self.refresh_ms or 0) / 1000 * (1 + 1 / max(self.runs, 1)) + slack_s


class GoldenImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All expected dependencies of one stack, and the manifest's fingerprint for which they hold."""

    format: int = FORMAT
    stack: str
    fingerprint: str
    runs: int
    smoke: bool
    vcds: tuple[str, ...]
    edges: tuple[GoldenEdge, ...]

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the document's SHA-256."""
        return hashlib.sha256(encode(self).encode()).hexdigest()[:12]

    def required(self, edge: GoldenEdge) -> bool:
        """Whether every launch had this edge."""
        return edge.runs == self.runs


def encode(image: GoldenImage) -> str:
    """The image as a JSON document, the same text for equal images."""
    return msgspec.json.format(msgspec.json.encode(image), indent=2).decode() + "\n"


def decode(document: str) -> GoldenImage:
    """Read a document; raises :class:`GoldenError` naming the place that is wrong."""
    try:
        image = msgspec.json.decode(document, type=GoldenImage)
    except msgspec.DecodeError as error:
        raise GoldenError(f"not a golden image: {error}") from error
    if image.format != FORMAT:
        raise GoldenError(
            f"golden image format {image.format} is not known here: this version reads format {FORMAT}"
        )
    if image.runs < 1:
        raise GoldenError("not a golden image: `runs` must be 1 or more")
    keys = [edge.key for edge in image.edges]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise GoldenError(f"not a golden image: the edge {twice} stands in it twice")
    for edge in image.edges:
        if edge.source not in image.vcds:
            raise GoldenError(
                f"not a golden image: {edge.source} calls {edge.target} but is not among its `vcds`"
            )
        if not 1 <= edge.runs <= image.runs:
            raise GoldenError(f"not a golden image: {edge.key} has {edge.runs} runs, the image {image.runs}")
    return image


def learn(
    edges: Iterable[LiveEdge],
    *,
    stack: str,
    fingerprint: str,
    vcds: Sequence[str],
    launch_s: float,
    smoke: bool,
) -> GoldenImage:
    """The image of one launch: every edge that worked. ``launch_s`` is when it began, on the edges' clock."""
    learned = [_learn_edge(edge, vcds, launch_s) for edge in edges if edge.seen_ok]
    return GoldenImage(
        stack=stack,
        fingerprint=fingerprint,
        runs=1,
        smoke=smoke,
        vcds=tuple(sorted(vcds)),
        edges=tuple(sorted(learned, key=lambda edge: edge.key)),
    )


def merge(images: Sequence[GoldenImage]) -> GoldenImage:
    """One image of all the launches; raises :class:`GoldenError` when they are not of one stack and manifest."""
    first = images[0]
    for image in images[1:]:
        if (image.stack, image.fingerprint) != (first.stack, first.fingerprint):
            raise GoldenError(
                f"images {first.id} and {image.id} are of different stacks or manifests: capture anew"
            )
    by_key: dict[EdgeKey, list[GoldenEdge]] = {}
    for image in images:
        for edge in image.edges:
            by_key.setdefault(edge.key, []).append(edge)
    return GoldenImage(
        stack=first.stack,
        fingerprint=first.fingerprint,
        runs=sum(image.runs for image in images),
        smoke=all(image.smoke for image in images),
        vcds=tuple(sorted({vcd for image in images for vcd in image.vcds})),
        edges=tuple(_merge_edges(by_key[key]) for key in sorted(by_key)),
    )


def diff(old: Mapping[EdgeKey, GoldenEdge], new: Mapping[EdgeKey, GoldenEdge]) -> list[str]:
    """What changed, a line an edge: ``-`` gone, ``+`` new, ``~`` of another kind."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if after is None:
            lines.append(f"- {key}")
        elif before is None:
            lines.append(f"+ {key}")
        elif before.kind is not after.kind:
            lines.append(f"~ {key}: {before.kind}, now {after.kind}")
    return lines


def _learn_edge(edge: LiveEdge, vcds: Sequence[str], launch_s: float) -> GoldenEdge:
    rhythm = _rhythm_s(edge)
    if edge.open > 0 and edge.longest_closed_s <= REOPENS_WITHIN_S:
        # Held, though perhaps by one connection after the other.
        kind, rhythm = Kind.HELD, edge.longest_closed_s
    elif rhythm is not None:
        kind = Kind.PERIODIC
    else:
        kind = Kind.ON_DEMAND
    after_s = max(0.0, (edge.first_established_s or launch_s) - launch_s)
    return GoldenEdge(
        source=edge.key.source,
        target=edge.key.target,
        transport=edge.key.transport,
        port=edge.key.port,
        external=edge.key.target not in vcds,
        kind=kind,
        runs=1,
        established_ms=(round(after_s * 1000),),
        refresh_ms=None if rhythm is None else round(rhythm * 1000),
    )


def _rhythm_s(edge: LiveEdge) -> float | None:
    if len(edge.gaps) < _RHYTHM_SEEN:
        return None
    longest = max(edge.gaps)
    return longest if longest <= _RHYTHM_SPREAD * max(median(edge.gaps), 1.0) else None


def _merge_edges(edges: Sequence[GoldenEdge]) -> GoldenEdge:
    kinds = {edge.kind for edge in edges}
    refreshes = [edge.refresh_ms for edge in edges if edge.refresh_ms is not None]
    kind = next(kind for kind in (Kind.ON_DEMAND, Kind.PERIODIC, Kind.HELD) if kind in kinds)
    return msgspec.structs.replace(
        edges[0],
        kind=kind,
        external=any(edge.external for edge in edges),
        runs=sum(edge.runs for edge in edges),
        established_ms=tuple(sorted(time for edge in edges for time in edge.established_ms)),
        refresh_ms=max(refreshes, default=None),
    )
