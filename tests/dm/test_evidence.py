"""What is known beside the state of an edge that is missing."""

from collections.abc import Iterable
from ipaddress import IPv4Address

import pytest

from dm.edge import EdgeKey, Flow, Transport
from dm.golden import GoldenEdge, GoldenImage, Kind
from dm.policy import Policy
from dm.stack import Spec, Stack
from dm.vcd import VcdState
from dm.verdict import Judgement, Verdict
from tests.dm.test_graph import flow, key

ADDRESSES = {name: IPv4Address(f"198.18.0.{number}") for number, name in enumerate("abc", 1)}
A_B, B_C = EdgeKey("a", "b", Transport.TCP, 80), EdgeKey("b", "c", Transport.TCP, 80)
HEARD_S = 2.0


def guarded(*edges: GoldenEdge) -> Stack:
    """A stack of which all agents speak, and its image."""
    spec = Spec("s", "f", {name: (address,) for name, address in ADDRESSES.items()}, Policy(), "1", 0.0)
    stack = Stack(spec, generations={}, now_s=0.0)
    image = GoldenImage(stack="s", fingerprint="f", runs=1, smoke=True, vcds=tuple(ADDRESSES), edges=edges)
    stack.use_image(image, now_s=0.0)
    for vcd in stack.vcds.values():
        stack.hello(vcd, session="1", probes=[], now_s=0.0)
        stack.edges(vcd, [], complete=True, now_s=0.0)
    return stack


def expected(edge: EdgeKey, kind: Kind, *, refresh_s: float = 0.0) -> GoldenEdge:
    """An edge of every launch."""
    return GoldenEdge(
        source=edge.source,
        target=edge.target,
        transport=edge.transport,
        port=edge.port,
        kind=kind,
        runs=1,
        established_ms=(500,),
        refresh_ms=(round(1000 * refresh_s),),
    )


def tell(stack: Stack, edge: EdgeKey, told: Flow, *, now_s: float) -> None:
    """The agent of its source reports an edge."""
    flow_key = key(edge.source, str(ADDRESSES[edge.target]), port=edge.port)
    stack.edges(stack.vcds[edge.source], [(flow_key, told)], complete=False, now_s=now_s)


def judged(stack: Stack, *, from_s: float, until_s: float) -> Judgement:
    """The judgement after a time in which all agents were heard, and nothing new was."""
    judgement = stack.judge(now_s=from_s)
    for step in range(round((until_s - from_s) / HEARD_S)):
        now_s = from_s + (step + 1) * HEARD_S
        hear(stack.vcds.values(), stack, now_s)
        judgement = stack.judge(now_s=now_s)
    return judgement


def hear(vcds: Iterable[VcdState], stack: Stack, now_s: float) -> None:
    """All agents are there."""
    for vcd in vcds:
        stack.heard(vcd, now_s=now_s)


@pytest.mark.parametrize(
    ("kind", "verdict"), [(Kind.HELD, Verdict.INCONCLUSIVE), (Kind.PERIODIC, Verdict.FAILED)]
)
def test_who_is_seen_to_be_asked_has_to_ask_others(kind: Kind, verdict: Verdict) -> None:
    """b calls c when a asks it to: through a held connection nobody sees that, and b's silence proves nothing."""
    stack = guarded(expected(A_B, kind, refresh_s=1.0), expected(B_C, Kind.PERIODIC, refresh_s=4.0))
    for second, count in ((1.0, 1), (2.0, 9), (9.0, 12), (10.0, 20)):
        tell(stack, B_C, flow(attempts=count, established=count, at_s=second), now_s=second)
    for second in range(1, 61):
        held = kind is Kind.HELD
        told = flow(
            attempts=1 if held else second, established=1 if held else second, open_=held, at_s=second
        )
        tell(stack, A_B, told._replace(first_seen_s=0.0), now_s=float(second))
        hear(stack.vcds.values(), stack, float(second))
        judgement = stack.judge(now_s=float(second))
    assert judgement.verdict is verdict


def test_what_was_never_tried_is_no_proof_while_others_are_called() -> None:
    """In this launch nobody has asked b for what it needs c for: a person may look, and nobody is taken back."""
    b_a = EdgeKey("b", "a", Transport.TCP, 80)
    stack = guarded(expected(B_C, Kind.HELD), expected(b_a, Kind.HELD))
    tell(stack, b_a, flow(open_=1), now_s=1.0)
    judgement = judged(stack, from_s=2.0, until_s=30.0)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "never tried" in judgement.reasons[0]


def test_who_listens_may_not_have_been_asked_yet() -> None:
    """A program that takes calls is up, though it has not called anybody in this launch."""
    stack = guarded(expected(B_C, Kind.HELD))
    doors = frozenset({(Transport.TCP, 80)})
    stack.presence(stack.vcds["b"], [ADDRESSES["b"]], doors, now_s=1.0)
    assert judged(stack, from_s=1.0, until_s=30.0).verdict is Verdict.INCONCLUSIVE


def test_who_calls_nobody_and_listens_nowhere_is_blamed() -> None:
    """A program that has not called anybody when it had to, and takes no calls, is not up."""
    stack = guarded(expected(B_C, Kind.HELD))
    judgement = judged(stack, from_s=1.0, until_s=30.0)
    assert judgement.verdict is Verdict.FAILED
    assert [suspect.name for suspect in judgement.finding.culprits] == ["b"]


@pytest.mark.parametrize(("gone_s", "verdict"), [(8.0, Verdict.INCONCLUSIVE), (14.0, Verdict.FAILED)])
def test_a_lost_connection_may_come_back(gone_s: float, verdict: Verdict) -> None:
    """A client that nobody calls on waits a few seconds before it connects again, and is not taken back for that."""
    stack = guarded(expected(A_B, Kind.HELD))
    tell(stack, A_B, flow(open_=1), now_s=1.0)
    tell(stack, A_B, flow(), now_s=30.0)
    judgement = judged(stack, from_s=30.0, until_s=30.0 + gone_s)
    assert judgement.verdict is verdict


def test_what_is_asked_for_no_more_is_no_proof() -> None:
    """b calls c by chance when a calls b; once a has ceased to, b's silence follows from that."""
    rhythm = expected(B_C, Kind.PERIODIC, refresh_s=4.0)
    stack = guarded(expected(A_B, Kind.ON_DEMAND), rhythm)
    for second, count in ((1.0, 1), (2.0, 9), (9.0, 12), (10.0, 20)):
        tell(stack, B_C, flow(attempts=count, established=count, at_s=second), now_s=second)
        tell(stack, A_B, flow(attempts=count, established=count, at_s=second), now_s=second)
    judgement = judged(stack, from_s=11.0, until_s=60.0)
    assert judgement.verdict is Verdict.INCONCLUSIVE
