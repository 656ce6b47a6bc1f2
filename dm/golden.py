"""The golden image: which dependencies a good launch has, learned from one or more launches. Pure values.

A document is readable, diffable JSON; ``dm golden schema`` prints its schema. Times are milliseconds after the launch
began.
"""

import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dm.edge import EdgeKey, Transport
from dm.rules import Action, Rule, rule_for

FORMAT = 4
"""Format 2 added rules, ``after`` and edges on any port; format 3 keeps a quiet time for each launch, of which earlier
ones kept the longest; format 4 names the launches. All are read."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Name = Annotated[str, Meta(min_length=1)]
Milliseconds = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]

_OMITTED_WHEN_EMPTY = {"after", "launches", "rules", "service"}
_PLACE = re.compile(r"(.*) - at `\$\.?(.*)`")
_EDGE = re.compile(r"edges\[(\d+)\]")


class GoldenError(Exception):
    """A document or a combination of images cannot be used; the message says why."""


class Kind(StrEnum):
    """How a dependency lives after the launch.

    held: a connection stays open. periodic: attempts come in a rhythm. on demand: only traffic brings them, so that it
    can fail or lead elsewhere, but not be missing.
    """

    HELD = "held"
    PERIODIC = "periodic"
    ON_DEMAND = "on demand"


class GoldenEdge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One expected dependency.

    ``runs`` says in how many of the image's launches it appeared; ``established_ms`` holds one time after the launch
    for each of them; ``refresh_ms`` the longest quiet time between two attempts, for each of those with a rhythm (of
    random calls what their mean makes of it, and of connections that are held how long they did without a new one).
    ``after`` are the target's own edges that always worked before this one. Port 0 is any port of the two, or of the
    ``service`` that a registry names.
    """

    source: Annotated[Name, Meta(description="the VCD that calls")]
    target: Annotated[Name, Meta(description="the VCD that is called, or an external host's name or address")]
    transport: Transport
    port: Annotated[int, Meta(ge=0, le=65535, description="0: any port, because it differs in every launch")]
    external: Annotated[bool, Meta(description="whether the target is outside the stack")] = False
    kind: Kind
    runs: Annotated[Count, Meta(description="in how many of the image's launches it appeared")]
    established_ms: Annotated[
        tuple[Milliseconds, ...],
        Meta(description="when it first worked, in milliseconds after the launch, once for each of them"),
    ]
    refresh_ms: Annotated[
        tuple[Milliseconds, ...],
        Meta(description="the longest quiet time between two attempts, once for each launch with a rhythm"),
    ] = ()
    after: Annotated[
        tuple[str, ...], Meta(description="edges of the target that always worked before this one")
    ] = ()
    service: Annotated[str, Meta(description="the service that a registry named, at whatever port")] = ""

    @property
    def key(self) -> EdgeKey:
        """Its identity."""
        return EdgeKey(self.source, self.target, self.transport, self.port, self.service)

    def deadline_s(self, slack_s: float, *, pace: float = 1.0) -> float:
        """Seconds after the launch when it is overdue: the latest seen, times 1 + 1/runs and pace, plus slack."""
        latest = max(self.established_ms, default=0) / 1000
        return latest * (1 + 1 / max(len(self.established_ms), 1)) * pace + slack_s

    @property
    def longest_s(self) -> float:
        """The longest quiet time that belongs to its rhythm, in seconds; 0 without one."""
        return max(self.refresh_ms, default=0) / 1000

    def rhythm_s(self, slack_s: float) -> float:
        """Seconds of quiet after which it is gone: the longest quiet time, times 1 + 1/runs, plus the slack."""
        return self.longest_s * (1 + 1 / max(len(self.refresh_ms), 1)) + slack_s


class GoldenImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All expected dependencies of one stack, and the manifest's fingerprint for which they hold.

    ``launches`` names those that it was learned from, so that none counts twice; earlier formats did not keep them.
    """

    format: Annotated[
        int, Meta(ge=1, le=FORMAT, description=f"{FORMAT}; earlier ones are read, and written as this one")
    ] = FORMAT
    stack: Annotated[Name, Meta(description="the stack's name")]
    fingerprint: Annotated[str, Meta(description="digest of the manifest for which it holds")]
    runs: Annotated[Count, Meta(description="launches that it was learned from")]
    launches: Annotated[
        tuple[str, ...], Meta(description="their names, as far as known: none may count twice")
    ] = ()
    smoke: Annotated[bool, Meta(description="whether a smoke workload ran in all of them")]
    vcds: Annotated[tuple[Name, ...], Meta(description="the stack's machines")]
    edges: Annotated[tuple[GoldenEdge, ...], Meta(description="one for each dependency that ever worked")]
    rules: Annotated[tuple[Rule, ...], Meta(description="what people say of edges; captures keep them")] = ()

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of a SHA-256 of what was learned.

        Rules are no part of it: snapshots belong to an image, and are still of use when somebody has added a rule. It
        is that of format 1, so that a later version finds the snapshots of an earlier one.
        """
        document = _document(msgspec.structs.replace(self, rules=(), launches=(), format=1))
        for edge in document["edges"]:
            edge["refresh_ms"] = max(edge["refresh_ms"], default=None)
        return hashlib.sha256(_text(document).encode()).hexdigest()[:12]

    def required(self, edge: GoldenEdge) -> bool:
        """Whether every launch had this edge, or a rule says that it has to be there."""
        return edge.runs == self.runs or self.action(edge.key) is Action.PIN

    def class_of(self, edge: GoldenEdge) -> str:
        """How an edge is expected to be: required or optional, and its kind."""
        return f"{'required' if self.required(edge) else 'optional'}, {edge.kind}"

    def action(self, key: EdgeKey) -> Action | None:
        """What a rule says of an edge, golden or not."""
        rule = rule_for(self.rules, key)
        return None if rule is None else rule.action


def encode(image: GoldenImage) -> str:
    """The image as a JSON document, the same text for equal images."""
    return _text(_document(image))


def _document(image: GoldenImage) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(image)
    for optional in (document, *document["edges"]):
        for key in _OMITTED_WHEN_EMPTY & optional.keys():
            if not optional[key]:
                del optional[key]
    return document


def _text(document: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def schema() -> str:
    """The JSON Schema of a document, as this version writes it."""
    document = msgspec.json.schema(GoldenImage)
    # Values are made without, but no document is.
    document["$defs"][GoldenImage.__name__]["required"].insert(0, "format")
    return json.dumps({"$schema": DIALECT, **document}, indent=2) + "\n"


def decode(document: str) -> GoldenImage:
    """Read a document; raises :class:`GoldenError` naming the place that is wrong."""
    try:
        plain = msgspec.json.decode(document)
    except msgspec.DecodeError as error:
        raise GoldenError(f"not a golden image: {_syntax(document, error)}") from error
    match plain:
        case dict() if "format" not in plain:
            raise GoldenError(f"not a golden image: `format` is missing: this version writes {FORMAT}")
        case {"format": int(number)} if not 1 <= number <= FORMAT:
            raise GoldenError(
                f"golden image format {number} is not known here: this version reads formats 1 to {FORMAT}"
            )
    try:
        image = msgspec.convert(_upgraded(plain), type=GoldenImage)
    except msgspec.ValidationError as error:
        problem = _problem(plain, str(error))
        raise GoldenError(
            f"not a golden image: {problem}: `dm golden schema` prints what is expected"
        ) from error
    if problem := _contradiction(image):
        raise GoldenError(f"not a golden image: {problem}")
    return image


def _syntax(document: str, error: msgspec.DecodeError) -> str:
    """What is wrong with the JSON and in which line, for who edits it by hand."""
    if "truncated" in str(error):
        return f"it ends too early, in line {len(document.splitlines()) or 1}: export it again"
    try:
        json.loads(document)
    except json.JSONDecodeError as found:
        what = found.msg[:1].lower() + found.msg[1:]
        return f"line {found.lineno}, column {found.colno}: {what}: correct the JSON there"
    return f"{error}: correct the JSON there"


def _problem(plain: Any, words: str) -> str:
    """A validator's words with the place first, and the edge that they are about by its ends."""
    if (found := _PLACE.fullmatch(words)) is None:
        return words[:1].lower() + words[1:]
    problem, place = found.groups()
    edge = ""
    if number := _EDGE.match(place):
        match plain["edges"][int(number[1])]:
            case {"source": str(source), "target": str(target)}:
                edge = f" ({source} → {target})"
    return f"{place}{edge}: {problem[:1].lower()}{problem[1:]}"


def _contradiction(image: GoldenImage) -> str:
    """What no schema can tell is wrong, and what to do about it; empty when nothing is."""
    if len(set(image.launches)) != len(image.launches) or len(image.launches) > image.runs:
        return f"`launches` names one twice, or more than its {image.runs} `runs`: take some out"
    vcds, seen = frozenset(image.vcds), set[EdgeKey]()
    for edge in image.edges:
        if edge.key in seen:
            return f"the edge {edge.key} stands in it twice: take one out"
        seen.add(edge.key)
        if edge.source not in vcds:
            return f"{edge.source} calls {edge.target} but is not among its `vcds`: add it there"
        if edge.runs > image.runs:
            return f"{edge.key} has {edge.runs} runs, the image {image.runs}: correct one"
    return ""


def _upgraded(document: Any) -> Any:
    """A document of an earlier format as one of this; anything else as it is."""
    match document:
        case {"format": 1 | 2 | 3, "edges": [*edges]}:
            return document | {"format": FORMAT, "edges": [_upgraded_edge(edge) for edge in edges]}
        case _:
            return document


def _upgraded_edge(edge: Any) -> Any:
    match edge:
        case {"refresh_ms": int(longest)}:
            return edge | {"refresh_ms": [longest]}
        case {"refresh_ms": None}:
            return edge | {"refresh_ms": []}
        case _:
            return edge
