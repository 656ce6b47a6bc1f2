"""What blame is asked about: the deviating edges, and what is known of the nodes at their ends. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dm.blame import Facts, Symptom
from dm.contacts import Contact, Contacts
from dm.deviation import Deviation, EdgeState, Judged, Policy
from dm.edge import EdgeKey, Failure, LiveEdge
from dm.golden import Kind
from dm.graph import LiveGraph
from dm.vcd import VcdState


class View(NamedTuple):
    """A stack as it is now. ``doubtful`` are the VCDs that are not wholly seen or not up.

    ``launch_s`` is when its launch began, on the manager's clock.
    """

    vcds: Mapping[str, VcdState]
    doubtful: Mapping[str, VcdState]
    graph: LiveGraph
    deviation: Deviation
    policy: Policy
    launch_s: float


def symptoms(view: View) -> tuple[Symptom, ...]:
    """The golden edges that deviate, each with what is known beside its state."""
    called: dict[str, bool] = {}
    return tuple(
        _symptom(view, key, judged, called) for key, judged in sorted(view.deviation.wrong().items())
    )


def facts(view: View, about: Iterable[Symptom], *, now_s: float) -> Facts:
    """What is known of the nodes at the ends of these symptoms."""
    ends = {end for symptom in about for end in (symptom.key.source, symptom.key.target)}
    vcds = [view.vcds[end] for end in ends if end in view.vcds]
    return Facts(
        vcds=view.vcds.keys(),
        down={vcd.name: why for vcd in vcds if (why := vcd.why_down(now_s))},
        silent=frozenset(vcd.name for vcd in vcds if vcd.seen_since_s is None),
        excused=view.deviation.early,
        contacts=Contacts(
            lambda name: (_contact(edge, now_s, view.policy) for edge in view.graph.touching(name))
        ),
    )


def _symptom(view: View, key: EdgeKey, judged: Judged, called: dict[str, bool]) -> Symptom:
    live = view.graph.get(key)
    kinds = frozenset(live.kinds) if live is not None else frozenset()
    pending = live is not None and live.oldest_pending_s is not None and live.failures_since_ok == 0
    since_s = judged.since_s
    if live is not None and judged.state is EdgeState.FAILING:
        since_s = min(since_s, live.failing_since_s or live.oldest_pending_s or since_s)
    if judged.state is EdgeState.MISSING and key.source not in called:
        called[key.source] = _is_called(view.deviation, key.source, set())
    uncalled = judged.state is EdgeState.MISSING and not called[key.source]
    return Symptom(key, judged, kinds, max(since_s, view.launch_s), pending, uncalled)


def _is_called(deviation: Deviation, name: str, seen: set[str]) -> bool:
    """Whether anybody that should call on a node does, as far as can be seen.

    A connection that is merely held open says nothing of calls: then its caller has to be called on itself.
    """
    callers = deviation.inbound(name)
    if not callers:
        return True
    seen.add(name)
    judged = deviation.judged()
    for key in callers:
        if judged[key].state is EdgeState.OK and (
            deviation.golden[key].kind is not Kind.HELD
            or (key.source not in seen and _is_called(deviation, key.source, seen))
        ):
            return True
    return False


def _contact(edge: LiveEdge, now_s: float, policy: Policy) -> Contact:
    fails = edge.failing(now_s, patience_s=policy.patience_s)
    refused = edge.last_failure_s if Failure.REFUSED in edge.kinds else None
    established = edge.last_established_s if edge.answers else None
    return Contact(
        edge.key,
        -math.inf if established is None or fails else established,
        -math.inf if refused is None else refused,
        edge.open > 0 and not fails,
    )
