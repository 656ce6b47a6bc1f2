"""How far the live graph is from the golden image, kept up to date edge by edge. Pure: the clock is passed in.

deviation = (missing + incorrect) / golden edges, for the stack and for each VCD over its outbound and its expected
inbound edges. An edge that is not due yet is neither. An update costs the edge it touches; what changes by the mere
passing of time stands in a heap of deadlines.
"""

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from dm.edge import EdgeKey, Failure, LiveEdge
from dm.expected import expect
from dm.golden import GoldenEdge, GoldenImage, Kind
from dm.graph import LiveGraph
from dm.instead import KEPT_S, Instead
from dm.pace import Pace
from dm.policy import Policy
from dm.rules import Action
from dm.states import WRONG, EdgeState, Judged, Source, failure_sentence

REFUSED_KEPT_S = 6.0
"""An agent says within that time where its machine listens."""
BACKS_OFF_S = 60.0
"""Whose last call failed may wait so long until it tries again, whatever its rhythm is."""


class Deviation:
    """The states of all edges, and their counts by VCD."""

    def __init__(
        self,
        image: GoldenImage,
        graph: LiveGraph,
        policy: Policy,
        *,
        launch_s: float = 0.0,
        replicas: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``launch_s`` is when the launch began, on the clock that is passed in.

        ``replicas`` says of VCDs which service they are a replica of: another one of it may answer in their stead.
        """
        self.image = image
        self.policy = policy
        self.pace = Pace()
        self._launch_s = launch_s
        self._paced: set[EdgeKey] = set()
        self._graph = graph
        self.expected = expect(image)
        self._golden = self.expected.edges
        self._inbound: dict[str, list[EdgeKey]] = {}
        self._outbound: dict[str, list[EdgeKey]] = {}
        for key in self._golden:
            self._inbound.setdefault(key.target, []).append(key)
            self._outbound.setdefault(key.source, []).append(key)
        self._judged: dict[EdgeKey, Judged] = {}
        self._deadlines: list[tuple[float, EdgeKey]] = []
        self._scheduled: dict[EdgeKey, float] = {}
        self._wrong: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        # A plain dict is looked through with the places of all that were ever in it, be it empty by now.
        self._keys = {state: OrderedDict[EdgeKey, None]() for state in EdgeState}
        self._awaited: OrderedDict[EdgeKey, None] = OrderedDict()
        self._early: OrderedDict[EdgeKey, None] = OrderedDict()
        self._vcds = frozenset(image.vcds)
        self._instead = Instead(
            self._golden, graph, vcds=self._vcds, replicas=replicas, patience_s=policy.patience_s
        )
        self._by_text: dict[str, EdgeKey] = {}
        for key in self._golden:
            self._total.update(self._touches(key))

    @property
    def golden(self) -> Mapping[EdgeKey, GoldenEdge]:
        """The expected edges."""
        return self._golden

    def inbound(self, name: str) -> Sequence[EdgeKey]:
        """The golden edges that lead to a node."""
        return self._inbound.get(name, ())

    def named(self, text: str) -> EdgeKey | None:
        """The golden edge that reads so."""
        if not self._by_text:
            self._by_text = {str(key): key for key in self._golden}
        return self._by_text.get(text)

    def has_to_be(self, key: EdgeKey) -> bool:
        """Whether a golden edge is there in every good launch without anybody asking for it."""
        golden = self._golden[key]
        return golden.kind is not Kind.ON_DEMAND and self.image.required(golden)

    def touching(self, name: str) -> list[EdgeKey]:
        """The golden edges that begin or end at a node."""
        return [*self._outbound.get(name, ()), *self._inbound.get(name, ())]

    @property
    def states(self) -> Mapping[EdgeState, int]:
        """How many edges are in each state."""
        return {state: len(keys) for state, keys in self._keys.items() if keys}

    @property
    def awaited(self) -> Collection[EdgeKey]:
        """The edges without which the launch is not complete, and which have not been seen to work yet."""
        return self._awaited.keys()

    @property
    def early(self) -> Collection[EdgeKey]:
        """The edges that are not due and fail, or have not been called anew since their target was started anew."""
        return self._early.keys()

    @property
    def unexpected(self) -> Collection[EdgeKey]:
        """The live edges that are not in the image."""
        return self._keys[EdgeState.UNEXPECTED].keys()

    @property
    def wrong_edges(self) -> int:
        """How many golden edges deviate."""
        return sum(len(self._keys[state]) for state in WRONG)

    def judged(self) -> Mapping[EdgeKey, Judged]:
        """Every golden edge, and every live one outside the image."""
        return self._judged

    def wrong(self) -> dict[EdgeKey, Judged]:
        """The golden edges that deviate."""
        return {key: self._judged[key] for state in WRONG for key in self._keys[state]}

    def stack(self) -> float:
        """The whole stack's deviation."""
        return min(1.0, self._wrong[""] / max(self._total[""], 1))

    def vcds(self) -> dict[str, float]:
        """The deviation of each VCD that deviates at all."""
        return {
            vcd: min(1.0, wrong / max(self._total[vcd], 1))
            for vcd, wrong in self._wrong.items()
            if vcd in self._vcds
        }

    def advance(self, sources: Mapping[str, Source], now_s: float) -> None:
        """Judge again what is due by now."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            due_s, key = heapq.heappop(self._deadlines)
            if self._scheduled.get(key) == due_s:
                del self._scheduled[key]
            self.touch(key, sources, now_s)

    def touch(self, key: EdgeKey, sources: Mapping[str, Source], now_s: float) -> None:
        """Judge one edge again after it, its source or its target changed."""
        golden, live = self._golden.get(key), self._graph.get(key)
        if golden is not None:
            state, reason, next_s = self._judge(golden, live, sources, now_s)
            if state in WRONG and self.image.action(key) is Action.TOLERATE:
                state, reason = EdgeState.TOLERATED, f"{state}, which a rule tolerates: {reason}"
            self._set(key, state, reason, next_s, now_s)
            if state is EdgeState.OK:
                missing = self._keys[EdgeState.MISSING]
                for other in [one for one in self._instead.alike(key) if one in missing]:
                    self.touch(other, sources, now_s)
        elif live is not None:
            self._touch_unexpected(live, sources, now_s)

    def _touch_unexpected(self, live: LiveEdge, sources: Mapping[str, Source], now_s: float) -> None:
        """An edge outside the image may stand for those near it that are in it."""
        quiet_s = (live.last_attempt_s or now_s) + KEPT_S
        counts = bool(live.flows) and (live.open > 0 or live.pending > 0 or quiet_s > now_s)
        self._instead.note(live.key, counts=counts)
        for other in self._instead.near(live.key):
            self.touch(other, sources, now_s)
        action = self.image.action(live.key)
        if counts and action is Action.TOLERATE:
            reason = "not in the golden image, which a rule tolerates"
            self._set(live.key, EdgeState.TOLERATED, reason, quiet_s, now_s)
        elif counts and action is not Action.IGNORE and not self._instead.alike(live.key):
            self._set(live.key, EdgeState.UNEXPECTED, "not in the golden image", quiet_s, now_s)
        else:
            self._clear(live.key)

    def _judge(
        self, golden: GoldenEdge, live: LiveEdge | None, sources: Mapping[str, Source], now_s: float
    ) -> tuple[EdgeState, str, float | None]:
        """State, reason, and when time alone may change it."""
        due_s = self._due_s(golden, live, sources)
        self._early.pop(golden.key, None)
        if now_s < due_s and self._has_to_return(golden, sources):
            self._early[golden.key] = None
        if live is not None and live.failing(now_s, patience_s=self.policy.patience_s):
            if now_s < due_s:
                self._early[golden.key] = None
                return EdgeState.WAITING, f"failing, but due only {_in(due_s - now_s)}", due_s
            over_s = _refusals_over_s(live, sources.get(golden.target))
            if over_s is None or now_s < over_s:
                return EdgeState.FAILING, failure_sentence(live, now_s), over_s or live.calm_from_s()
        if self.has_to_be(golden.key) and (known := _known(golden, live, sources)):
            state, reason = known
            # A caller that never tried there, but elsewhere and in vain, is wrong by itself.
            if not sources[golden.source].over and (
                other := self._instead.replacement(golden.key, now_s, overdue=False)
            ):
                state, reason = EdgeState.RETARGETED, other
            return (state, reason, None) if now_s >= due_s else (EdgeState.WAITING, reason, due_s)
        stuck_s = None
        if live is not None and live.oldest_pending_s is not None:
            stuck_s = live.oldest_pending_s + self.policy.patience_s
        state, reason, next_s = self._judge_quiet(golden, live, sources[golden.source], due_s, now_s)
        return state, reason, min((at for at in (next_s, stuck_s) if at is not None), default=None)

    def _has_to_return(self, golden: GoldenEdge, sources: Mapping[str, Source]) -> bool:
        """Whether the target was started anew: its caller may have fallen for want of it, and takes time to return."""
        target = sources.get(golden.target)
        return target is not None and target.started_s > self._launch_s and self.has_to_be(golden.key)

    def _due_s(self, golden: GoldenEdge, live: LiveEdge | None, sources: Mapping[str, Source]) -> float:
        """When the edge has to be there: counted from the later start of its two ends, unless it has worked since."""
        started_s = sources[golden.source].started_s
        if golden.target in sources:
            started_s = max(started_s, sources[golden.target].started_s)
        if live is not None and live.seen_ok and (live.last_established_s or 0.0) >= started_s:
            if started_s == self._launch_s and golden.key not in self._paced:
                self._paced.add(golden.key)
                self.pace.note(golden, (live.first_established_s or started_s) - started_s)
            return started_s
        pace = self.pace.factor if started_s == self._launch_s else 1.0
        return started_s + golden.deadline_s(self.policy.slack_s, pace=pace)

    def _judge_quiet(
        self, golden: GoldenEdge, live: LiveEdge | None, source: Source, due_s: float, now_s: float
    ) -> tuple[EdgeState, str, float | None]:
        """Judge an edge on which nothing fails."""
        if live is not None and live.open > 0:
            return EdgeState.OK, f"{live.open} open", None
        seen_ok = live is not None and live.seen_ok
        settled = EdgeState.OK if seen_ok else EdgeState.WAITING
        if now_s < due_s:
            return settled, f"due {_in(due_s - now_s)}", due_s
        if source.seen_since_s is None:
            return settled, f"the agent of {golden.source} is silent", None
        if other := self._instead.replacement(golden.key, now_s, overdue=False):
            return EdgeState.RETARGETED, other, None
        if not self.has_to_be(golden.key):
            return settled, "worked when last called on" if seen_ok else "nothing has called on it yet", None
        active_s = max(due_s if seen_ok else 0.0, source.seen_since_s)
        if live is not None:
            active_s = max(active_s, live.active_s() or 0.0)
        gone_s = active_s + golden.rhythm_s(self.policy.quiet_s) if seen_ok or active_s > due_s else due_s
        gone_s = max(gone_s, source.begun_s + golden.deadline_s(self.policy.slack_s))
        if live is not None and live.last_failed:
            gone_s = max(gone_s, active_s + BACKS_OFF_S)
        if now_s < gone_s:
            return (
                settled,
                "refreshed in its rhythm" if seen_ok else "its agent has only just begun to look",
                gone_s,
            )
        if other := self._instead.replacement(golden.key, now_s, overdue=True):
            return EdgeState.RETARGETED, other, None
        if other := self._instead.stand_in(golden.key, now_s):
            return EdgeState.OK, other, now_s + KEPT_S
        if not seen_ok:
            return EdgeState.MISSING, f"overdue by {now_s - due_s:.1f} s and never attempted", None
        if live is not None and (why := self._does_without(golden, live, source, active_s)):
            return EdgeState.OK, why, now_s + golden.rhythm_s(self.policy.quiet_s)
        return EdgeState.MISSING, f"no open connection and no attempt for {now_s - active_s:.1f} s", None

    def _does_without(self, golden: GoldenEdge, live: LiveEdge, source: Source, active_s: float) -> str:
        """Why an edge that is gone is no fault of its source, which is up and does without; empty when it may be one.

        A program that listens as before, or holds others, lives, and has closed itself what it held; one that calls
        others does not hang. But what a timer calls does not depend on anybody's asking.
        """
        held, since_s = golden.kind is Kind.HELD, active_s + golden.longest_s
        others = (one for one in self._graph.outbound(golden.source) if one is not live)
        lives = held and source.lives
        if lives or ((held or not live.ticks) and any(_in_use(one, since_s, held=held) for one in others)):
            return f"{golden.source} lives, and has no use for it now"
        return ""

    def _touches(self, key: EdgeKey) -> tuple[str, ...]:
        """Whose counts an edge belongs to: the stack's ("") and each of its ends'."""
        return ("", key.source) if key.source == key.target else ("", key.source, key.target)

    def _counts(self, key: EdgeKey, state: EdgeState) -> bool:
        if state is not EdgeState.UNEXPECTED:
            return state in WRONG
        return key.target in self._vcds or self.policy.count_external

    def _set(
        self, key: EdgeKey, state: EdgeState, reason: str, deadline_s: float | None, now_s: float
    ) -> None:
        before = self._judged.get(key)
        if deadline_s is not None and now_s < deadline_s < self._scheduled.get(key, math.inf):
            heapq.heappush(self._deadlines, (deadline_s, key))
            self._scheduled[key] = deadline_s
        counted = self._counts(key, state)
        since_s = before.since_s if before is not None and before.state is state else now_s
        self._clear(key)
        self._judged[key] = Judged(state, reason, since_s, counted)
        self._keys[state][key] = None
        if state is EdgeState.WAITING and self.has_to_be(key):
            self._awaited[key] = None
        if counted:
            self._wrong.update(self._touches(key))

    def _clear(self, key: EdgeKey) -> None:
        before = self._judged.pop(key, None)
        if before is None:
            return
        del self._keys[before.state][key]
        self._awaited.pop(key, None)
        if before.counted:
            for name in self._touches(key):
                self._wrong[name] -= 1
                if not self._wrong[name]:
                    del self._wrong[name]


def _refusals_over_s(live: LiveEdge, target: Source | None) -> float | None:
    """When calls that were refused are no news any more, since their target says that it listens there; None if never.

    Its agent looks every few seconds: what was refused before that is over, though nobody may call again soon.
    """
    listens = target is not None and target.seen_since_s is not None and live.key.door in target.doors
    if (
        not listens
        or not live.answers
        or live.oldest_pending_s is not None
        or live.kinds != {Failure.REFUSED}
    ):
        return None
    return (live.last_failure_s or 0.0) + REFUSED_KEPT_S


def _in_use(live: LiveEdge, since_s: float, *, held: bool) -> bool:
    """Whether an edge shows that its source is up: by a call since then, and if ``held`` counts, by a connection."""
    return (held and live.open > 0) or (live.last_attempt_s or 0.0) > since_s


def _in(seconds: float) -> str:
    return f"in {seconds:.1f} s"


def _known(
    golden: GoldenEdge, live: LiveEdge | None, sources: Mapping[str, Source]
) -> tuple[EdgeState, str] | None:
    """What is known to be wrong though nothing is seen to fail: somebody does not run, or listens no longer."""
    source, target = sources[golden.source], sources.get(golden.target)
    if source.over:
        return EdgeState.MISSING, source.over
    if target is not None and target.over:
        return EdgeState.FAILING, target.over
    deaf_s = None
    if target is not None and target.seen_since_s is not None:
        deaf_s = target.deaf.get(golden.key.door)
    if deaf_s is not None and (live is None or not _answered(live, since_s=deaf_s)):
        return EdgeState.FAILING, f"{golden.target} no longer listens there"
    return None


def _answered(live: LiveEdge, *, since_s: float) -> bool:
    """Whether its target has answered since, or holds a connection open: it may listen again, and not have said so."""
    return live.answers and (live.open > 0 or (live.last_established_s or 0.0) > since_s)
