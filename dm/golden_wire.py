"""Golden images between the contract's messages and the core's values."""

from dm.difference import Change, Difference
from dm.edge import EdgeKey, Transport
from dm.expected import expect
from dm.golden import GoldenImage
from dm.learning import unseen_share
from dm.rules import ANY, LAST_PORT, Action, Rule
from dm.v1 import golden_service_pb2 as pb
from dm.wire import WireError, text

_CHANGES = {
    Change.GONE: pb.DIFFERENCE_KIND_GONE,
    Change.NEW: pb.DIFFERENCE_KIND_NEW,
    Change.OTHER: pb.DIFFERENCE_KIND_OTHER,
    Change.WRONG: pb.DIFFERENCE_KIND_WRONG,
}
_ACTIONS = {
    pb.RULE_ACTION_PIN: Action.PIN,
    pb.RULE_ACTION_TOLERATE: Action.TOLERATE,
    pb.RULE_ACTION_IGNORE: Action.IGNORE,
}


def summary_message(image: GoldenImage, *, created_ms: int, current: bool) -> pb.GoldenSummary:
    """An image's line in a listing; its edges are counted as they are expected."""
    edges = expect(image).edges.values()
    return pb.GoldenSummary(
        id=image.id,
        stack=image.stack,
        fingerprint=image.fingerprint,
        runs=image.runs,
        edges=len(edges),
        created_ms=created_ms,
        current=current,
        smoke=image.smoke,
        required=sum(image.required(edge) for edge in edges),
        unseen_share=unseen_share(image.runs),
    )


def difference_message(one: Difference) -> pb.GoldenDifference:
    """How an edge, a rule or an image's stack differs, for the wire."""
    message = pb.GoldenDifference(
        kind=_CHANGES[one.change], subject=str(one.subject), was=one.was, now=one.now
    )
    if isinstance(one.subject, EdgeKey):
        message.edge.CopyFrom(pb.GoldenEdgeKey(**one.subject._asdict()))
    return message


def rule_of(request: pb.SetGoldenRuleRequest) -> tuple[Rule, Action | None]:
    """A rule, and what it is to do; None takes the one on its pattern away. Raises :class:`WireError`."""
    if request.transport not in ("", *Transport):
        raise WireError(f"{text(request.transport)!r} is no transport: write tcp, udp or nothing")
    if request.port > LAST_PORT:
        raise WireError(f"{request.port} is no port: write one from 0 to {LAST_PORT}, or nothing")
    action = _ACTIONS.get(request.action)
    rule = Rule(
        action=action or Action.IGNORE,
        source=text(request.source) or ANY,
        target=text(request.target) or ANY,
        transport=Transport(request.transport) if request.transport else None,
        port=request.port if request.HasField("port") else None,
        note=text(request.note),
    )
    return rule, action
