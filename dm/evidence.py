"""What blame is asked about: the deviating edges, and what is known of the nodes at their ends. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dm.blame import Facts, Symptom
from dm.contacts import Contact, Contacts
from dm.deviation import Deviation
from dm.edge import EdgeKey, Failure, LiveEdge
from dm.golden import Kind
from dm.graph import LiveGraph
from dm.policy import Policy
from dm.states import EdgeState, Judged
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
    calls = _Calls(view)
    return tuple(_symptom(view, key, judged, calls) for key, judged in sorted(view.deviation.wrong().items()))


def facts(
    view: View, about: Sequence[Symptom], *, now_s: float, reached: Mapping[EdgeKey, Sequence[str]]
) -> Facts:
    """What is known of the nodes at the ends of these symptoms. ``reached`` is what was found at the look before."""
    ends = {end for symptom in about for end in (symptom.key.source, symptom.key.target)}
    vcds = [view.vcds[end] for end in ends if end in view.vcds]
    contacts = Contacts(lambda name: (_contact(view, edge, now_s) for edge in view.graph.touching(name)))
    return Facts(
        vcds=view.vcds.keys(),
        down={vcd.name: why for vcd in vcds if (why := vcd.why_down(now_s))},
        silent=frozenset(vcd.name for vcd in vcds if vcd.seen_since_s is None),
        excused=view.deviation.early,
        contacts=contacts,
        reached={
            symptom.key: names
            for symptom in about
            if (names := _reached(symptom, contacts, reached.get(symptom.key, ())))
        },
    )


def _reached(symptom: Symptom, contacts: Contacts, before: Sequence[str]) -> list[str]:
    """Who got through where calls fail. It counts only while they failed: later, their target may have come back."""
    if symptom.judged.state is not EdgeState.FAILING:
        return []
    now = contacts.reached_by(symptom.key, since_s=symptom.since_s, until_s=symptom.until_s)
    return now or [name for name in before if not contacts.fails(name, symptom.key)]


def _symptom(view: View, key: EdgeKey, judged: Judged, calls: "_Calls") -> Symptom:
    live = view.graph.get(key)
    attempted = live is not None and (live.oldest_pending_s is not None or live.failures_since_ok > 0)
    since_s = judged.since_s
    if live is not None and judged.state is EdgeState.FAILING:
        since_s = min(since_s, live.failing_since_s or live.oldest_pending_s or since_s)
    source, target = view.vcds[key.source].source, view.vcds.get(key.target)
    may_be_idle = judged.state is EdgeState.MISSING and not source.over
    return Symptom(
        key,
        judged,
        kinds=frozenset(live.kinds) if live is not None else frozenset(),
        since_s=max(since_s, view.launch_s),
        until_s=_until_s(live),
        pending=live is not None and live.oldest_pending_s is not None and live.failures_since_ok == 0,
        uncalled=may_be_idle and not calls.ask_for(key),
        attempted=attempted,
        deaf=target is not None and target.seen_since_s is not None and key.door in target.source.deaf,
        untried=may_be_idle and not _has_worked(live) and (source.lives or _calls_any(view, key.source)),
    )


def _calls_any(view: View, name: str) -> bool:
    return any(map(_has_worked, view.graph.outbound(name)))


def _has_worked(live: LiveEdge | None) -> bool:
    return live is not None and live.seen_ok


def _until_s(live: LiveEdge | None) -> float:
    """Until when an edge's calls are known to fail."""
    if live is None or live.oldest_pending_s is not None or live.last_failure_s is None:
        return math.inf
    return live.last_failure_s


class _Calls:
    """Whether anybody calls on a node that should be called on, as far as can be seen."""

    def __init__(self, view: View) -> None:
        self._deviation = view.deviation
        self._graph = view.graph
        self._vcds = view.vcds
        wrong = view.deviation.wrong().items()
        self._idle = {key.source for key, one in wrong if one.state is EdgeState.MISSING}
        self._known: dict[str, bool] = {}

    def ask_for(self, key: EdgeKey) -> bool:
        """Whether an edge should be there, by what calls on its source.

        What is called by chance is called when somebody asks. Through connections that are held nobody sees them ask.
        """
        live, golden = self._graph.get(key), self._deviation.golden[key]
        callers = self._deviation.inbound(key.source)
        if golden.kind is Kind.PERIODIC and live is not None and not live.ticks and callers:
            due_s = (live.active_s() or 0.0) + golden.longest_s
            return any(self._calls_anew(one, since_s=due_s) for one in callers)
        return self.reach(key.source)

    def reach(self, name: str) -> bool:
        """Nobody has to call on a node without callers."""
        if name not in self._known:
            self._known[name] = self._reach(name, set())
        return self._known[name]

    def _reach(self, name: str, seen: set[str]) -> bool:
        callers = self._deviation.inbound(name)
        seen.add(name)
        return not callers or any(self._calls(key, seen) for key in callers)

    def _calls(self, key: EdgeKey, passed: set[str]) -> bool:
        """One merely held open says nothing: then its caller is called on itself, and not idle."""
        if self._calls_anew(key):
            return True
        live = self._graph.get(key)
        if live is None or not live.open or not self._is_ok(key):
            return False
        return key.source not in self._idle and key.source not in passed and self._reach(key.source, passed)

    def _calls_anew(self, key: EdgeKey, *, since_s: float = 0.0) -> bool:
        """Whether it is seen to call again and again, and has called since."""
        kind, live = self._deviation.golden[key].kind, self._graph.get(key)
        if live is None or kind is Kind.HELD or (live.last_attempt_s or 0.0) < since_s:
            return False
        return self._is_ok(key) and self._has_called(key)

    def _is_ok(self, key: EdgeKey) -> bool:
        """Of one that is not seen nobody knows."""
        is_seen = self._vcds[key.source].seen_since_s is not None
        return is_seen and self._deviation.judged()[key].state is EdgeState.OK

    def _has_called(self, key: EdgeKey) -> bool:
        """Whether it called since its target last started; an edge that is not due again says nothing yet."""
        live = self._graph.get(key)
        started_s = self._vcds[key.target].started_s
        return live is not None and (live.open > 0 or (live.last_attempt_s or 0.0) >= started_s)


def _contact(view: View, edge: LiveEdge, now_s: float) -> Contact:
    fails = edge.failing(now_s, patience_s=view.policy.patience_s)
    refused = edge.last_failure_s if Failure.REFUSED in edge.kinds else None
    established = edge.last_established_s if edge.answers else None
    return Contact(
        edge.key,
        -math.inf if established is None or fails else established,
        -math.inf if refused is None else refused,
        edge.answers and edge.open > 0,
        fails,
    )
