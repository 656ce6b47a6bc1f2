"""One stack as the manager knows it: what its agents and its deployer said, judged. Pure: the clock is passed in."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dm.deviation import Deviation
from dm.edge import Address, Door, EdgeKey, Flow, FlowKey, LiveEdge
from dm.evidence import View
from dm.golden import GoldenError, GoldenImage
from dm.graph import LiveGraph
from dm.learning import learn
from dm.policy import Policy
from dm.states import EdgeState, Source
from dm.vcd import BOOT_S, SILENT_AFTER_S, Power, VcdState
from dm.verdict import Judge, Judgement, inconclusive

SURVIVES_S = 3.0


class Spec(NamedTuple):
    """A stack as its deployer declares it; ``launch_s`` is when its launch began, on the manager's clock.

    ``replicas`` names the service of each VCD that is a replica of one.
    """

    name: str
    fingerprint: str
    vcds: Mapping[str, tuple[Address, ...]]
    policy: Policy
    launch: str
    launch_s: float
    replicas: Mapping[str, str] = MappingProxyType({})


class Stack:
    """Takes in reports and answers with a judgement."""

    def __init__(self, spec: Spec, *, generations: Mapping[str, int], now_s: float) -> None:
        self.vcds: dict[str, VcdState] = {}
        # No plain dict: it would be looked through with the places of all that were ever in it.
        self._doubtful: OrderedDict[str, VcdState] = OrderedDict()
        self._by_hearing: OrderedDict[str, VcdState] = OrderedDict()
        self._touched: set[EdgeKey] = set()
        self.graph = LiveGraph(changed=self._note)
        self.deviation: Deviation | None = None
        self.image: GoldenImage | None = None
        self._judge = Judge()
        self._sources: dict[str, Source] = {}
        self.spec = spec
        self.apply(spec, generations=generations, now_s=now_s)

    def apply(self, spec: Spec, *, generations: Mapping[str, int], now_s: float) -> bool:
        """Take in a declaration; true for a launch of another name, which starts everything anew."""
        relaunched = spec.launch != self.spec.launch or spec.fingerprint != self.spec.fingerprint
        if relaunched:
            self.vcds.clear()
            self._doubtful.clear()
            self._by_hearing.clear()
            self.graph = LiveGraph(changed=self._note)
        self.spec = spec
        for name, addresses in spec.vcds.items():
            if name not in self.vcds:
                generation = max(1, generations.get(name, 1))
                vcd = self.vcds[name] = VcdState(name, generation=generation, started_s=spec.launch_s)
                self._doubtful[name] = vcd
                self.graph.own(name, addresses, now_s=now_s)
        self._sources = {name: vcd.source for name, vcd in self.vcds.items()}
        self.use_image(self.image, now_s=now_s)
        return relaunched

    def use_image(self, image: GoldenImage | None, *, now_s: float) -> None:
        """Hold the graph against another image, or none."""
        self.image = image
        self._judge.acquit()
        self.deviation = None
        if (
            image is not None
            and image.fingerprint == self.spec.fingerprint
            and set(image.vcds) <= set(self.vcds)
        ):
            self.deviation = Deviation(
                image, self.graph, self.spec.policy, launch_s=self.spec.launch_s, replicas=self.spec.replicas
            )
        self.graph.fold(self.deviation.expected.fixed_ports if self.deviation else {}, now_s=now_s)
        if self.deviation is not None:
            for key in {*self.deviation.golden, *(edge.key for edge in self.graph)}:
                self.deviation.touch(key, self._sources, now_s)

    def hello(self, vcd: VcdState, *, session: str, probes: Iterable[str], now_s: float) -> None:
        """An agent opened its stream; until its table is complete it has seen nothing."""
        vcd.connected = True
        vcd.begin(session)
        vcd.missing_probes = tuple(probes)
        vcd.adopt()
        vcd.pending_table = set()
        self._see(vcd, None, now_s)
        self.heard(vcd, now_s=now_s)

    def presence(
        self, vcd: VcdState, addresses: Sequence[Address], listeners: frozenset[Door], *, now_s: float
    ) -> None:
        """An agent said which addresses its machine has and where it listens; without any it could not look."""
        self.heard(vcd, now_s=now_s)
        if addresses:
            self.graph.own(vcd.name, addresses, now_s=now_s)
            doors = vcd.listen(listeners, now_s=now_s)
            self.graph.forgive(vcd.name, doors.opened)
            self._note_program(vcd, doors.reopened, now_s=now_s)
            if doors.changed:
                self._changed(vcd)
        self._judge_touched(now_s)

    def _note_program(self, vcd: VcdState, reopened: frozenset[Door], *, now_s: float) -> None:
        """A program that others need listens again: it has been started anew, and may be quiet as after a launch.

        One that keeps restarting is forgiven a few times only, like a machine.
        """
        needed = {key.door for key in self.deviation.inbound(vcd.name)} if self.deviation else set()
        if (doors := reopened & needed) and vcd.is_program_forgiven(doors, now_s=now_s):
            vcd.begun_s = now_s

    def edges(
        self, vcd: VcdState, flows: Iterable[tuple[FlowKey, Flow]], *, complete: bool, now_s: float
    ) -> None:
        """An agent reported flows; ``complete`` ends the table that follows its hello."""
        self.heard(vcd, now_s=now_s)
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
        self.heard(vcd, now_s=now_s)
        vcd.lose(losses, now_s=now_s)

    def heard(self, vcd: VcdState, *, now_s: float) -> None:
        """An agent has nothing new, but it is there."""
        vcd.last_heard_s = now_s
        # The one not heard for longest stands first.
        self._by_hearing[vcd.name] = vcd
        self._by_hearing.move_to_end(vcd.name)
        if vcd.connected and vcd.seen_since_s is None and vcd.pending_table is None:
            self._see(vcd, now_s, now_s)

    def lost(self, vcd: VcdState, *, now_s: float) -> None:
        """An agent's stream ended: from here on nothing is known of what its machine calls."""
        vcd.connected = False
        self._see(vcd, None, now_s)

    def instance(
        self,
        vcd: VcdState,
        power: Power,
        incarnation: str,
        *,
        expected: bool,
        now_s: float,
        held: str = "",
        reverted: bool = False,
    ) -> bool:
        """A deployer said what an instance does; true when it started anew.

        A restart begins the VCD's launch again, once its agent speaks: its own edges and those to it are due as they
        were after the launch. One that keeps restarting is forgiven a few times only; ``expected`` ones, our own doing,
        always, and those that somebody else has ``reverted``. One that goes on out of somebody's hands as it was is
        spared for as long as it was held: so long its peers may wait until they try again.
        """
        before = vcd.power, vcd.held
        if held and not vcd.held:
            vcd.held_since_s, vcd.held_as = now_s, vcd.incarnation
        back = reverted and bool(vcd.incarnation) and incarnation != vcd.reverted
        restarted = vcd.instance(power, incarnation, held=held, reverted=reverted)
        if before != (power, held):
            self._changed(vcd)
        let_go = bool(before[1]) and not held
        begun = bool(vcd.held_as) and not vcd.loops(now_s)
        anew = let_go and vcd.incarnation != vcd.held_as and (reverted or begun)
        if restarted:
            vcd.pending_table = set()
            forgiven = reverted or expected or vcd.is_forgiven(now_s)
            vcd.boots = forgiven and not expected
            until_s = now_s + BOOT_S if vcd.boots else now_s
            vcd.spare(until_s, "has started anew, and its agent has not spoken since")
            if forgiven:
                vcd.started_s = now_s
                self.graph.restart(vcd.name, now_s=now_s)
            self._see(vcd, None, now_s)
        elif back or anew:
            vcd.started_s = now_s
            self.graph.pardon(vcd.name)
            self._changed(vcd)
        elif let_go:
            vcd.spare(now_s + (now_s - vcd.held_since_s), "goes on only now")
            self.graph.pardon(vcd.name)
        self._judge_touched(now_s)
        return restarted

    def judge(self, *, now_s: float) -> Judgement:
        """The verdict now."""
        self._note_silence(now_s)
        if self.deviation is None:
            return inconclusive(None, [self._why_no_image()])
        self.deviation.advance(self._sources, now_s)
        view = View(
            self.vcds, self._doubtful, self.graph, self.deviation, self.spec.policy, self.spec.launch_s
        )
        return self._judge.judge(view, now_s=now_s)

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
            now_s=max(vcd.last_heard_s for vcd in self.vcds.values()),
            smoke=smoke,
        )
        if not image.edges:
            raise GoldenError("no dependency has been seen yet: is there traffic in the stack?")
        return image

    @property
    def wrong(self) -> int:
        """How many golden edges deviate now."""
        return self.deviation.wrong_edges if self.deviation else 0

    def confirmed_in_s(self, *, now_s: float) -> float | None:
        """Seconds until a deviation that is not confirmed yet may be; None when there is none."""
        return self._judge.confirmed_in_s(self.spec.policy.confirm_s, now_s=now_s)

    def unproved(
        self, symptoms: Iterable[str], vcds: Iterable[str], *, since_s: float, now_s: float
    ) -> list[EdgeKey]:
        """Golden edges that have not yet shown that they work since ``since_s``.

        Asked for are those that deviated, by their text, and all that touch the VCDs unless only traffic brings them.
        """
        if self.deviation is None:
            return []
        deviation, judged = self.deviation, self.deviation.judged()
        asked = dict.fromkeys(key for text in symptoms if (key := deviation.named(text)) is not None)
        asked |= dict.fromkeys(
            key for vcd in vcds for key in deviation.touching(vcd) if deviation.has_to_be(key)
        )
        return [
            key
            for key in asked
            if judged[key].state is not EdgeState.OK or not self._proved_since(key, since_s, now_s)
        ]

    def _proved_since(self, key: EdgeKey, since_s: float, now_s: float) -> bool:
        live = self.graph.get(key)
        if live is None:
            return False
        if not live.answers and (live.last_attempt_s or 0.0) >= since_s:
            return True
        if (live.last_established_s or 0.0) >= since_s:
            return live.pending == 0 or live.open > 0
        # A connection that outlived the revert proves as much, once the dead ones among them have been destroyed; and a
        # held datagram socket as much as can be known of it.
        return live.open > 0 and now_s - since_s >= SURVIVES_S

    def settle_s(self, vcds: Iterable[str]) -> float:
        """Seconds that these VCDs may take after a start until their edges are back, by what was learned."""
        if self.deviation is None:
            return self.spec.policy.slack_s
        slack_s, golden = self.spec.policy.slack_s, self.deviation.golden
        touched = (golden[key] for vcd in vcds for key in self.deviation.touching(vcd))
        return max((edge.deadline_s(slack_s) for edge in touched), default=slack_s)

    def _why_no_image(self) -> str:
        if self.image is None:
            return "there is no golden image yet: capture one with `idm capture` when the stack is good"
        return f"golden image {self.image.id} was learned from another manifest: capture a new one with `idm capture`"

    def _note(self, edge: LiveEdge) -> None:
        self._touched.add(edge.key)

    def _judge_touched(self, now_s: float) -> None:
        touched, self._touched = self._touched, set()
        if self.deviation is not None:
            for key in touched:
                self.deviation.touch(key, self._sources, now_s)

    def _note_silence(self, now_s: float) -> None:
        while self._by_hearing:
            vcd = next(iter(self._by_hearing.values()))
            if now_s - vcd.last_heard_s <= SILENT_AFTER_S:
                break
            del self._by_hearing[vcd.name]
            if vcd.connected and vcd.seen_since_s is not None:
                self._see(vcd, None, now_s)

    def _note_vcd(self, vcd: VcdState) -> None:
        if vcd.doubtful:
            self._doubtful[vcd.name] = vcd
        else:
            self._doubtful.pop(vcd.name, None)

    def _see(self, vcd: VcdState, since_s: float | None, now_s: float) -> None:
        """Whether a VCD is seen changes what its edges mean; one that has booted is launched from then on."""
        vcd.seen_since_s = since_s
        if since_s is not None and vcd.boots:
            vcd.boots = False
            vcd.spare(now_s, "")
            vcd.started_s = now_s
            self.graph.pardon(vcd.name)
        self._changed(vcd)
        self._judge_touched(now_s)

    def _changed(self, vcd: VcdState) -> None:
        self._sources[vcd.name] = vcd.source
        self._note_vcd(vcd)
        if self.deviation is not None:
            self._touched.update(self.deviation.touching(vcd.name))
