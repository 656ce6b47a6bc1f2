"""One stack as the manager knows it: what its agents and its deployer said, judged. Pure: the clock is passed in."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from dm.blame import Contact, Facts, Finding, Symptom, blame
from dm.deviation import WRONG, Deviation, EdgeState, Judged, Policy, Source
from dm.edge import Address, EdgeKey, Failure, Flow, FlowKey, LiveEdge
from dm.golden import GoldenError, GoldenImage, Kind, learn
from dm.graph import LiveGraph

SILENT_AFTER_S = 5.0
LOSS_REMEMBERED_S = 30.0
RESTART_WINDOW_S = 60.0
RESTARTS_FORGIVEN = 2
FAILURES_PROVE = 2
SURVIVES_S = 3.0
LOSSES_TOLERATED = {"LOSS_REASON_MAP_FULL": 0, "LOSS_REASON_TABLE_FULL": 0, "LOSS_REASON_MISSED_PROBE": 10}
"""How many losses between two reports leave what is missing believable. A full ring costs a wake-up, never a count."""


class Verdict(StrEnum):
    """The judgement of a stack."""

    LAUNCHING = "launching"
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Power(StrEnum):
    """What a VCD's instance does."""

    UNKNOWN = "unknown"
    ABSENT = "absent"
    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


DOWN = frozenset({Power.ABSENT, Power.STOPPED, Power.PAUSED, Power.CRASHED})


class Spec(NamedTuple):
    """A stack as its deployer declares it; ``launch_s`` is when its launch began, on the manager's clock."""

    name: str
    fingerprint: str
    vcds: Mapping[str, tuple[Address, ...]]
    policy: Policy
    launch: str
    launch_s: float


class Judgement(NamedTuple):
    """The verdict and everything that led to it. ``fault_s`` is when the first deviating edge went wrong."""

    verdict: Verdict
    reasons: tuple[str, ...]
    deviation: float
    vcd_deviation: Mapping[str, float]
    finding: Finding
    symptoms: tuple[Symptom, ...]
    fault_s: float | None


class VcdState:
    """What is known of one VCD beside its edges."""

    def __init__(self, name: str, *, generation: int, started_s: float) -> None:
        self.name = name
        self.generation = generation
        self.started_s = started_s
        self.session = ""
        self.connected = False
        self.last_heard_s = 0.0
        self.seen_since_s: float | None = None
        self.pending_table: set[FlowKey] | None = None
        self.missing_probes: tuple[str, ...] = ()
        self.losses: dict[str, int] = {}
        self.last_loss_s: float | None = None
        self.power = Power.UNKNOWN
        self.incarnation = ""
        self.restarts: deque[float] = deque(maxlen=RESTARTS_FORGIVEN + 1)
        self._adopted = 0

    def adopt(self) -> None:
        """The agent now on the stream is of the present generation, though it may not know it yet."""
        self._adopted = self.generation

    def speaks(self, generation: int) -> bool:
        """Whether a report of that generation (0: the agent was told none yet) is about the present instance."""
        return generation == self.generation or (generation == 0 and self._adopted == self.generation)


class Stack:
    """Takes in reports and answers with a judgement."""

    def __init__(self, spec: Spec, *, generations: Mapping[str, int], now_s: float) -> None:
        self.vcds: dict[str, VcdState] = {}
        self._touched: set[EdgeKey] = set()
        self.graph = LiveGraph(changed=self._note)
        self.deviation: Deviation | None = None
        self.image: GoldenImage | None = None
        self._over_since_s: float | None = None
        self._accused_s: dict[str, float] = {}
        self._fault_s: float | None = None
        self._sources: dict[str, Source] = {}
        self.spec = spec
        self.apply(spec, generations=generations, now_s=now_s)

    def apply(self, spec: Spec, *, generations: Mapping[str, int], now_s: float) -> None:
        """Take in a declaration; a launch of another name starts everything anew."""
        relaunched = spec.launch != self.spec.launch or spec.fingerprint != self.spec.fingerprint
        if relaunched:
            self.vcds.clear()
            self.graph = LiveGraph(changed=self._note)
        self.spec = spec
        for name, addresses in spec.vcds.items():
            if name not in self.vcds:
                generation = max(1, generations.get(name, 1))
                self.vcds[name] = VcdState(name, generation=generation, started_s=spec.launch_s)
                self.graph.own(name, addresses, now_s=now_s)
        self._sources = {name: self._source(vcd) for name, vcd in self.vcds.items()}
        self.use_image(self.image, now_s=now_s)

    def use_image(self, image: GoldenImage | None, *, now_s: float) -> None:
        """Hold the graph against another image, or none."""
        self.image = image
        self._over_since_s = self._fault_s = None
        self._accused_s = {}
        self.deviation = None
        if (
            image is not None
            and image.fingerprint == self.spec.fingerprint
            and set(image.vcds) <= set(self.vcds)
        ):
            self.deviation = Deviation(image, self.graph, self.spec.policy)
            for key in {*self.deviation.golden, *(edge.key for edge in self.graph)}:
                self.deviation.touch(key, self._sources, now_s)

    def hello(self, vcd: VcdState, *, session: str, probes: Iterable[str], now_s: float) -> None:
        """An agent opened its stream; until its table is complete it has seen nothing."""
        vcd.session, vcd.connected, vcd.last_heard_s = session, True, now_s
        vcd.missing_probes = tuple(probes)
        vcd.adopt()
        vcd.pending_table = set()
        self._see(vcd, None, now_s)

    def presence(self, vcd: VcdState, addresses: Sequence[Address], *, now_s: float) -> None:
        """An agent said which addresses its machine has."""
        vcd.last_heard_s = now_s
        if addresses:
            self.graph.own(vcd.name, addresses, now_s=now_s)
        self._judge_touched(now_s)

    def edges(
        self, vcd: VcdState, flows: Iterable[tuple[FlowKey, Flow]], *, complete: bool, now_s: float
    ) -> None:
        """An agent reported flows; ``complete`` ends the table that follows its hello."""
        vcd.last_heard_s = now_s
        for key, flow in flows:
            if vcd.pending_table is not None:
                vcd.pending_table.add(key)
            self.graph.put(key, flow, now_s=now_s)
        if complete and vcd.pending_table is not None:
            self.graph.keep_only(vcd.name, vcd.pending_table, now_s=now_s)
            vcd.pending_table = None
            self._see(vcd, now_s, now_s)
        self._judge_touched(now_s)

    def forget(self, vcd: VcdState, *, now_s: float) -> None:
        """Let go of what an agent reported in an earlier session, and of edges that are neither live nor golden."""
        if vcd.pending_table is not None:
            self.graph.keep_only(vcd.name, vcd.pending_table, now_s=now_s)
            self._judge_touched(now_s)
        self.graph.forget(vcd.name, kept=self.deviation.golden if self.deviation else ())

    def losses(self, vcd: VcdState, losses: Mapping[str, int], *, now_s: float) -> None:
        """An agent said what it could not count, cumulatively by reason."""
        vcd.last_heard_s = now_s
        for reason, tolerated in LOSSES_TOLERATED.items():
            if losses.get(reason, 0) - vcd.losses.get(reason, 0) > tolerated:
                vcd.last_loss_s = now_s
        vcd.losses = dict(losses)

    def heard(self, vcd: VcdState, *, now_s: float) -> None:
        """An agent has nothing new."""
        vcd.last_heard_s = now_s

    def lost(self, vcd: VcdState, *, now_s: float) -> None:
        """An agent's stream ended: from here on nothing is known of what its machine calls."""
        vcd.connected = False
        self._see(vcd, None, now_s)

    def instance(
        self, vcd: VcdState, power: Power, incarnation: str, *, expected: bool, now_s: float
    ) -> bool:
        """A deployer said what an instance does; true when it started anew.

        A restart begins the VCD's launch again: its own edges and those to it are due as they were after the launch.
        One that keeps restarting is forgiven a few times only; ``expected`` ones, our own doing, always.
        """
        vcd.power = power
        restarted = bool(vcd.incarnation and incarnation and incarnation != vcd.incarnation)
        vcd.incarnation = incarnation or vcd.incarnation
        if not restarted:
            return False
        vcd.restarts.append(now_s)
        crowded = len(vcd.restarts) > RESTARTS_FORGIVEN and now_s - vcd.restarts[0] < RESTART_WINDOW_S
        vcd.generation += 1
        vcd.pending_table = set()
        if expected or not crowded:
            vcd.started_s = now_s
            self.graph.restart(vcd.name, now_s=now_s)
        self._see(vcd, None, now_s)
        return True

    def judge(self, *, now_s: float) -> Judgement:
        """The verdict now."""
        for vcd in self.vcds.values():
            if vcd.connected and now_s - vcd.last_heard_s > SILENT_AFTER_S and vcd.seen_since_s is not None:
                self._see(vcd, None, now_s)
            elif vcd.connected and vcd.seen_since_s is None and vcd.pending_table is None:
                self._see_again(vcd, now_s)
        if self.deviation is None:
            return self._inconclusive([self._why_no_image()])
        self.deviation.advance(self._sources, now_s)
        if not self.wrong:
            self._over_since_s = self._fault_s = None
            self._accused_s = {}
            return self._judge_whole(self.deviation)
        return self._judge_wrong(self.deviation, now_s)

    def learn(self, *, smoke: bool) -> GoldenImage:
        """A golden image of this launch as it is now; raises GoldenError while something stands in the way."""
        silent = [vcd.name for vcd in self.vcds.values() if vcd.seen_since_s is None]
        if silent:
            raise GoldenError(f"the agent of {', '.join(silent)} is silent: nothing is learned half blind")
        image = learn(
            self.graph,
            stack=self.spec.name,
            fingerprint=self.spec.fingerprint,
            vcds=sorted(self.vcds),
            launch_s=self.spec.launch_s,
            smoke=smoke,
        )
        if not image.edges:
            raise GoldenError("no dependency has been seen yet: is there traffic in the stack?")
        return image

    @property
    def wrong(self) -> int:
        """How many golden edges deviate now."""
        return sum(self.deviation.states.get(state, 0) for state in WRONG) if self.deviation else 0

    def confirmed_in_s(self, *, now_s: float) -> float | None:
        """Seconds until a deviation that is not confirmed yet may be; None when there is none."""
        if self._over_since_s is None:
            return None
        since_s = max((self._over_since_s, *self._accused_s.values()))
        left_s = since_s + self.spec.policy.confirm_s - now_s
        return left_s if left_s > 0 else None

    def unproved(
        self, symptoms: Iterable[str], vcds: Iterable[str], *, since_s: float, now_s: float
    ) -> list[EdgeKey]:
        """Golden edges that have not yet shown that they work since ``since_s``.

        Asked for are those that deviated, by their text, and all that touch the VCDs unless only traffic brings them.
        """
        if self.deviation is None:
            return []
        texts, ends, judged = set(symptoms), set(vcds), self.deviation.judged()
        asked = (
            edge
            for key, edge in self.deviation.golden.items()
            if str(key) in texts
            or (
                ends & {key.source, key.target}
                and edge.kind is not Kind.ON_DEMAND
                and self.deviation.image.required(edge)
            )
        )
        return [
            edge.key
            for edge in asked
            if judged[edge.key].state is not EdgeState.OK or not self._proved_since(edge.key, since_s, now_s)
        ]

    def _proved_since(self, key: EdgeKey, since_s: float, now_s: float) -> bool:
        live = self.graph.get(key)
        if live is None:
            return False
        if not live.answers:
            return (live.last_attempt_s or 0.0) >= since_s
        if (live.last_established_s or 0.0) >= since_s:
            return live.pending == 0 or live.open > 0
        # A connection that outlived the revert proves as much, once the dead ones among them have been destroyed.
        return live.open > 0 and now_s - since_s >= SURVIVES_S

    def settle_s(self, vcds: Iterable[str]) -> float:
        """Seconds that these VCDs may take after a start until their edges are back, by what was learned."""
        if self.deviation is None:
            return self.spec.policy.slack_s
        ends = set(vcds)
        return max(
            (
                edge.deadline_s(self.spec.policy.slack_s)
                for edge in self.deviation.golden.values()
                if edge.source in ends or edge.target in ends
            ),
            default=self.spec.policy.slack_s,
        )

    def _judge_whole(self, deviation: Deviation) -> Judgement:
        if doubts := self._doubts():
            return self._inconclusive(doubts)
        waiting = [
            (key, judged)
            for key, judged in deviation.judged().items()
            if judged.state is EdgeState.WAITING and deviation.golden[key].kind is not Kind.ON_DEMAND
            and deviation.image.required(deviation.golden[key])
        ] if deviation.states.get(EdgeState.WAITING, 0) else []  # fmt: skip
        over = deviation.stack(), deviation.vcds()
        if waiting:
            reasons = [f"{key} is {judged.reason}" for key, judged in itertools.islice(waiting, 5)]
            return self._judgement(Verdict.LAUNCHING, reasons, over)
        if deviation.states.get(EdgeState.UNEXPECTED, 0) and over[0] > 0:
            unexpected = [
                f"{key} is not in the golden image" for key, j in deviation.judged().items() if j.counted
            ]
            return self._judgement(Verdict.DEGRADED, unexpected, over)
        return self._judgement(Verdict.OK, ["every golden edge is as it should be"], over)

    def _judge_wrong(self, deviation: Deviation, now_s: float) -> Judgement:
        share, shares = deviation.stack(), deviation.vcds()
        symptoms = self._symptoms(deviation.wrong())
        reasons = [f"{symptom.key}: {symptom.judged.reason}" for symptom in symptoms]
        since_s = min(symptom.since_s for symptom in symptoms)
        self._fault_s = since_s if self._fault_s is None else min(self._fault_s, since_s)
        finding = blame(symptoms, self._facts(symptoms, now_s))
        policy = self.spec.policy
        over = share > policy.stack_threshold or any(
            value > policy.vcd_threshold for value in shares.values()
        )
        self._over_since_s = (self._over_since_s or now_s) if over else None
        # Each culprit has a window of its own: another one found in the meantime is confirmed anew.
        culprits = [suspect.name for suspect in finding.culprits] if over else []
        self._accused_s = {name: self._accused_s.get(name, now_s) for name in culprits}

        def judgement(verdict: Verdict, *because: str) -> Judgement:
            return Judgement(verdict, (*because, *reasons), share, shares, finding, symptoms, self._fault_s)

        if self._over_since_s is None:
            return judgement(Verdict.DEGRADED, "the deviation is below the thresholds")
        if self.confirmed_in_s(now_s=now_s) is not None:
            return judgement(Verdict.DEGRADED, f"not confirmed yet: it has to last {policy.confirm_s:.1f} s")
        if doubt := self._doubt_of(symptoms, now_s):
            return judgement(Verdict.INCONCLUSIVE, doubt)
        direct = {end for symptom in symptoms for end in (symptom.key.source, symptom.key.target)}
        if waited := [suspect.name for suspect in finding.culprits if suspect.name not in direct]:
            return judgement(Verdict.DEGRADED, f"{', '.join(waited)} started anew and is waited for")
        if all(suspect.external for suspect in finding.culprits):
            names = ", ".join(suspect.name for suspect in finding.culprits) or "whoever is responsible"
            return judgement(Verdict.INCONCLUSIVE, f"{names} is outside the stack")
        if not finding.confident:
            names = ", ".join(suspect.name for suspect in (*finding.culprits, *finding.others)[:3])
            return judgement(Verdict.INCONCLUSIVE, f"the evidence does not tell {names} apart: please look")
        return judgement(Verdict.FAILED)

    def _doubt_of(self, symptoms: Sequence[Symptom], now_s: float) -> str:
        """Why the symptoms do not suffice for an action, if they do not: one that is solid is enough."""
        doubts = [self._doubt_of_one(symptom, now_s) for symptom in symptoms]
        return doubts[0] if all(doubts) else ""

    def _doubt_of_one(self, symptom: Symptom, now_s: float) -> str:
        if symptom.uncalled:
            return f"{symptom.key.source} is not called on itself"
        live = self.graph.get(symptom.key)
        if symptom.judged.state is not EdgeState.FAILING or live is None:
            return self._loss_doubt(symptom.key.source, now_s)
        stuck = (
            live.oldest_pending_s is not None and now_s - live.oldest_pending_s >= self.spec.policy.confirm_s
        )
        proved = stuck or live.failures_since_ok >= FAILURES_PROVE
        return "" if proved else f"{symptom.key}: a single failed attempt is no proof yet"

    def _loss_doubt(self, vcd: str, now_s: float) -> str:
        state = self.vcds[vcd]
        if state.last_loss_s is not None and now_s - state.last_loss_s < LOSS_REMEMBERED_S:
            return f"the agent of {vcd} lost events lately: what is missing may only be unseen"
        return ""

    def _doubts(self) -> list[str]:
        doubts = [
            f"the agent of {vcd.name} is silent" for vcd in self.vcds.values() if vcd.seen_since_s is None
        ]
        for vcd in self.vcds.values():
            if vcd.missing_probes:
                doubts.append(f"the agent of {vcd.name} lacks {', '.join(vcd.missing_probes)}")
            if vcd.power in DOWN:
                doubts.append(f"{vcd.name} is {vcd.power}, and nothing calls on it")
        return doubts

    def _symptoms(self, wrong: Mapping[EdgeKey, Judged]) -> tuple[Symptom, ...]:
        symptoms = []
        for key, judged in sorted(wrong.items()):
            live = self.graph.get(key)
            kinds = frozenset(live.kinds) if live is not None else frozenset()
            pending = live is not None and live.oldest_pending_s is not None and live.failures_since_ok == 0
            since_s = judged.since_s
            if live is not None and judged.state is EdgeState.FAILING:
                since_s = min(since_s, live.failing_since_s or live.oldest_pending_s or since_s)
            uncalled = judged.state is EdgeState.MISSING and self._is_uncalled(key.source)
            symptoms.append(Symptom(key, judged, kinds, max(since_s, self.spec.launch_s), pending, uncalled))
        return tuple(symptoms)

    def _is_uncalled(self, name: str) -> bool:
        """Whether others should call on a node, and none does as far as can be seen."""
        return self.deviation is not None and not self._is_called(self.deviation, name, set())

    def _is_called(self, deviation: Deviation, name: str, seen: set[str]) -> bool:
        """A connection that is merely held open says nothing of calls: then its caller has to be called on itself."""
        callers = deviation.inbound(name)
        if not callers:
            return True
        seen.add(name)
        judged = deviation.judged()
        for key in callers:
            if judged[key].state is EdgeState.OK and (
                deviation.golden[key].kind is not Kind.HELD
                or (key.source not in seen and self._is_called(deviation, key.source, seen))
            ):
                return True
        return False

    def _facts(self, symptoms: Iterable[Symptom], now_s: float) -> Facts:
        ends = {end for symptom in symptoms for end in (symptom.key.source, symptom.key.target)}
        return Facts(
            vcds=frozenset(self.vcds),
            down={vcd.name: why for vcd in self.vcds.values() if (why := self._why_down(vcd, now_s))},
            silent=frozenset(vcd.name for vcd in self.vcds.values() if vcd.seen_since_s is None),
            excused=self._excused(now_s),
            contacts={end: [self._contact(edge, now_s) for edge in self.graph.touching(end)] for end in ends},
        )

    def _why_down(self, vcd: VcdState, now_s: float) -> str:
        """Why a VCD cannot be all right, whatever its connections say; empty when it can."""
        if vcd.power in DOWN:
            return f"is {vcd.power}"
        recent = [restart_s for restart_s in vcd.restarts if now_s - restart_s < RESTART_WINDOW_S]
        return (
            f"was started anew {len(recent)} times within a minute" if len(recent) > RESTARTS_FORGIVEN else ""
        )

    def _excused(self, now_s: float) -> list[EdgeKey]:
        """Edges that fail while they are not due."""
        if self.deviation is None or not self.deviation.states.get(EdgeState.WAITING, 0):
            return []
        waiting = (
            key for key, judged in self.deviation.judged().items() if judged.state is EdgeState.WAITING
        )
        patience_s = self.spec.policy.patience_s
        live = ((key, self.graph.get(key)) for key in waiting)
        return [key for key, edge in live if edge is not None and edge.failing(now_s, patience_s=patience_s)]

    def _contact(self, edge: LiveEdge, now_s: float) -> Contact:
        fails = edge.failing(now_s, patience_s=self.spec.policy.patience_s)
        refused = edge.last_failure_s if Failure.REFUSED in edge.kinds else None
        established = edge.last_established_s if edge.answers else None
        return Contact(
            edge.key,
            -math.inf if established is None or fails else established,
            -math.inf if refused is None else refused,
            edge.open > 0 and not fails,
        )

    def _why_no_image(self) -> str:
        if self.image is None:
            return "there is no golden image yet: capture one with `idm capture` when the stack is good"
        return f"golden image {self.image.id} was learned from another manifest: capture a new one with `idm capture`"

    def _inconclusive(self, reasons: Sequence[str]) -> Judgement:
        figures = (self.deviation.stack(), self.deviation.vcds()) if self.deviation else (0.0, {})
        return self._judgement(Verdict.INCONCLUSIVE, reasons, figures)

    def _judgement(
        self, verdict: Verdict, reasons: Sequence[str], figures: tuple[float, Mapping[str, float]]
    ) -> Judgement:
        return Judgement(verdict, tuple(reasons), *figures, Finding((), (), confident=True), (), None)

    def _note(self, edge: LiveEdge) -> None:
        self._touched.add(edge.key)

    def _judge_touched(self, now_s: float) -> None:
        touched, self._touched = self._touched, set()
        if self.deviation is not None:
            for key in touched:
                self.deviation.touch(key, self._sources, now_s)

    def _source(self, vcd: VcdState) -> Source:
        return Source(vcd.started_s, vcd.seen_since_s)

    def _see_again(self, vcd: VcdState, now_s: float) -> None:
        if now_s - vcd.last_heard_s <= SILENT_AFTER_S:
            self._see(vcd, now_s, now_s)

    def _see(self, vcd: VcdState, since_s: float | None, now_s: float) -> None:
        """Whether a VCD is seen changes what its edges mean."""
        vcd.seen_since_s = since_s
        self._sources[vcd.name] = self._source(vcd)
        if self.deviation is not None:
            self._touched |= {key for key in self.deviation.golden if vcd.name in (key.source, key.target)}
        self._judge_touched(now_s)
