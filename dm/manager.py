"""All stacks in service: turns what arrives into calls of the pure core, with the clock, the store and the watchers."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

import structlog

from dm import wire
from dm.capture import capture
from dm.golden import GoldenError, GoldenImage
from dm.operations import Operations
from dm.rollback import Limits, Phase
from dm.stack import Spec, Stack
from dm.store.sqlite import Event, Store
from dm.v1 import agent_service_pb2, rollback_service_pb2, stack_pb2
from dm.vcd import Power, VcdState
from dm.verdict import Judgement

TICK_S = 0.25
QUEUE = 64
MAX_STACKS = 1000
_TAKING_BACK = frozenset({Phase.REVERT, Phase.VERIFY})

log = structlog.get_logger()

Item = TypeVar("Item")
AgentQueue = asyncio.Queue[agent_service_pb2.ReportResponse | None]
DeployerQueue = asyncio.Queue[rollback_service_pb2.AttendResponse | None]


class UnknownStackError(Exception):
    """No such stack was declared here."""


def offer(queue: "asyncio.Queue[Item | None]", item: Item | None) -> None:
    """Queue for a peer, None to end its stream. One that is too slow has it ended: it comes back and is told anew."""
    try:
        queue.put_nowait(item)
    except asyncio.QueueFull:
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


class Guarded:
    """One stack in service: its core, and the streams of those who speak for it."""

    def __init__(self, stack: Stack, operations: Operations) -> None:
        self.stack = stack
        self.operations = operations
        self.agents: dict[str, AgentQueue] = {}
        self.deployer: DeployerQueue | None = None
        self.judgement: Judgement | None = None
        self.changed = asyncio.Event()
        self.signature: tuple[object, ...] = ()

    def reconnect_peers(self, vcds: Sequence[str]) -> None:
        """Have every other agent destroy its sockets to VCDs that were taken back."""
        response = agent_service_pb2.ReportResponse()
        for vcd in vcds:
            response.reconnect.addresses.extend(one.packed for one in self.stack.graph.addresses(vcd))
        for vcd, queue in self.agents.items():
            if vcd not in vcds and response.reconnect.addresses:
                offer(queue, response)

    def welcome(self, vcd: VcdState) -> None:
        """Tell a VCD's agent its generation."""
        if queue := self.agents.get(vcd.name):
            response = agent_service_pb2.ReportResponse()
            response.welcome.generation = vcd.generation
            offer(queue, response)


class Manager:
    """Owns all stacks; everything runs in one event loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._stacks: dict[str, Guarded] = {}
        self._readers: set[asyncio.Queue[Event]] = set()
        self._lost: dict[asyncio.Queue[Event], int] = {}

    def stacks(self) -> list[Guarded]:
        """All stacks, by name."""
        return [self._stacks[name] for name in sorted(self._stacks)]

    def stack(self, name: str) -> Guarded:
        """One stack; raises :class:`UnknownStackError`."""
        if name not in self._stacks:
            known = ", ".join(sorted(self._stacks)) or "none"
            raise UnknownStackError(
                f"no stack {name!r} is deployed here (known: {known}): start it with `idm up`"
            )
        return self._stacks[name]

    def apply(self, spec: Spec, limits: Limits) -> Guarded:
        """Take in a stack's declaration."""
        now_s = time.monotonic()
        guarded = self._stacks.get(spec.name)
        if guarded is None:
            if len(self._stacks) >= MAX_STACKS:
                raise wire.WireError(f"{MAX_STACKS} stacks are deployed already: remove one")
            generations = self.store.generations(spec.name)
            stack = Stack(spec, generations=generations, now_s=now_s)
            guarded = Guarded(stack, self._operations(stack, limits))
            self._stacks[spec.name] = guarded
            relaunched = False
        else:
            relaunched = guarded.stack.apply(spec, generations=self.store.generations(spec.name), now_s=now_s)
            guarded.operations.limits = limits
        if relaunched:
            # What they told is forgotten; on another stream they tell all of it anew.
            for queue in guarded.agents.values():
                offer(queue, None)
            guarded.agents.clear()
        operation = guarded.operations.current
        # A manager that was restarted as well knows an earlier launch only by its time.
        began_ms = now_ms() - round((now_s - spec.launch_s) * 1000)
        if operation is not None and (
            relaunched or operation.decided_ms <= began_ms or not set(operation.vcds) <= spec.vcds.keys()
        ):
            guarded.operations.relaunched(now_ms=now_ms())
        guarded.stack.use_image(self.store.current_golden(spec.name), now_s=now_s)
        self.evaluate(guarded)
        return guarded

    def remove(self, name: str) -> None:
        """Forget a stack's live state."""
        guarded = self.stack(name)
        del self._stacks[name]
        for queue in guarded.agents.values():
            offer(queue, None)
        if guarded.deployer is not None:
            offer(guarded.deployer, None)
        guarded.changed.set()

    def golden_changed(self, name: str) -> None:
        """Another image came into force."""
        if guarded := self._stacks.get(name):
            guarded.stack.use_image(self.store.current_golden(name), now_s=time.monotonic())
            self.evaluate(guarded)

    def put_in_force(self, image: GoldenImage) -> None:
        """Keep an image and hold its stack against it; raises GoldenError when that is deployed by another manifest."""
        guarded = self._stacks.get(image.stack)
        if guarded is not None and guarded.stack.spec.fingerprint != image.fingerprint:
            raise GoldenError(
                f"golden image {image.id} is of another manifest than the stack {image.stack} that is deployed: "
                "`idm capture` learns one of this; if it holds all the same, write into it "
                f'"fingerprint": "{guarded.stack.spec.fingerprint}"'
            )
        self.store.put_golden(image, created_ms=now_ms())
        self.golden_changed(image.stack)

    def learn(self, name: str, *, join: bool, smoke: bool) -> GoldenImage:
        """Learn an image from the live stack and put it in force; raises GoldenError when nothing is there to learn."""
        stack, current = self.stack(name).stack, self.store.current_golden(name)
        image = capture(stack, current, join=join, smoke=smoke, now_s=time.monotonic())
        self.store.put_golden(image, created_ms=now_ms())
        message = f"golden image {image.id}: {len(image.edges)} edges, {image.runs} launches"
        self.tell(Event(time_ms=now_ms(), stack=name, kind="golden", message=message))
        self.golden_changed(name)
        return image

    def instance(
        self,
        guarded: Guarded,
        vcd: VcdState,
        power: Power,
        incarnation: str,
        *,
        reverted: bool = False,
        held: str = "",
    ) -> None:
        """A deployer said what an instance does.

        One that is ``reverted`` was taken back by somebody else, one that is ``held`` is still in his hands.
        """
        surprise = reverted and bool(vcd.incarnation) and vcd.reverted != incarnation
        operation = guarded.operations.current
        expected = operation is not None and vcd.name in operation.vcds and operation.phase in _TAKING_BACK
        before = vcd.power, vcd.held
        restarted = guarded.stack.instance(
            vcd,
            power,
            incarnation,
            expected=expected,
            now_s=time.monotonic(),
            held=held,
            reverted=reverted,
        )
        if restarted:
            self.store.put_generation(guarded.stack.spec.name, vcd.name, vcd.generation)
            guarded.welcome(vcd)
        if restarted or (power, held) != before:
            what = f"{vcd.name} is {power}" + (" again, started anew" if restarted else "")
            what += f", and {held}" if held else ""
            self._tell_of(guarded, "instance", what, vcd=vcd.name)
        if surprise:
            what = f"{vcd.name} was taken back to a snapshot by somebody else, and is given time to come up"
            self._tell_of(guarded, "external rollback", what, vcd=vcd.name)
            guarded.reconnect_peers([vcd.name])
        self.evaluate(guarded)

    def result(self, guarded: Guarded, result: rollback_service_pb2.CommandResult) -> None:
        """A deployer answered a command."""
        before = guarded.operations.current
        guarded.operations.result(result, now_ms=now_ms())
        after = guarded.operations.current
        if before and after and before.phase is Phase.REVERT and after.phase is Phase.VERIFY:
            guarded.reconnect_peers(after.vcds)
        self.evaluate(guarded)

    def evaluate(self, guarded: Guarded) -> Judgement:
        """Judge now, act on it and wake the watchers."""
        now_s = time.monotonic()
        before = guarded.judgement
        judgement = guarded.judgement = guarded.stack.judge(now_s=now_s)
        if before is None or before.verdict is not judgement.verdict:
            fields = {"deviation": f"{judgement.deviation:.3f}", "verdict": judgement.verdict.value}
            why = f"{judgement.verdict}: {'; '.join(judgement.reasons[:3])}"
            self._tell_of(guarded, "verdict", why, fields=fields)
        attended = guarded.deployer is not None
        guarded.operations.consider(judgement, attended=attended, now_s=now_s, now_ms=now_ms())
        signature = self._signature(guarded, judgement)
        if signature != guarded.signature:
            guarded.signature = signature
            changed, guarded.changed = guarded.changed, asyncio.Event()
            changed.set()
        return judgement

    def status(self, guarded: Guarded) -> stack_pb2.Status:
        """One stack, judged now."""
        stack, judgement = guarded.stack, self.evaluate(guarded)
        deviation = stack.deviation
        operation = guarded.operations.current
        return wire.status_message(
            stack.spec.name,
            judgement,
            states=deviation.states if deviation else {},
            golden=stack.image.id if deviation and stack.image else "",
            golden_edges=len(deviation.golden) if deviation else 0,
            operation=operation.id if operation else "",
            launch_s=stack.spec.launch_s,
            now_s=time.monotonic(),
        )

    def tell(self, event: Event) -> None:
        """Log, keep and pass on an event."""
        log.info(event.kind, stack=event.stack, vcd=event.vcd, message=event.message, **event.fields)
        self.store.put_event(event)
        for reader in self._readers:
            try:
                reader.put_nowait(event)
            except asyncio.QueueFull:
                self._lost[reader] = self._lost.get(reader, 0) + 1

    async def follow(self, stack: str) -> AsyncIterator[Event | int]:
        """New events, or how many were dropped because this reader was too slow."""
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)
        self._readers.add(queue)
        try:
            while True:
                event = await queue.get()
                if lost := self._lost.pop(queue, 0):
                    yield lost
                if stack in ("", event.stack):
                    yield event
        finally:
            self._readers.discard(queue)
            self._lost.pop(queue, None)

    async def run(self) -> None:
        """Judge all stacks again and again: what changes by time alone has no message to wait for."""
        while True:
            await asyncio.sleep(self._pause_s())
            for guarded in list(self._stacks.values()):
                self.evaluate(guarded)

    def _pause_s(self) -> float:
        """Until the next look; a deviation about to be confirmed is looked at when it is."""
        now_s = time.monotonic()
        due = (guarded.stack.confirmed_in_s(now_s=now_s) for guarded in self._stacks.values())
        return min((TICK_S, *(left_s for left_s in due if left_s is not None)))

    def agent_came(self, guarded: Guarded, vcd: VcdState, queue: AgentQueue) -> None:
        """An agent's stream begins; an older one of the same VCD ends."""
        if older := guarded.agents.get(vcd.name):
            offer(older, None)
        guarded.agents[vcd.name] = queue
        self._tell_of(guarded, "agent", f"the agent of {vcd.name} is here", vcd=vcd.name)

    def agent_went(self, guarded: Guarded, vcd: VcdState, queue: AgentQueue) -> None:
        """An agent's stream ended, unless another has taken its place."""
        if guarded.agents.get(vcd.name) is queue:
            del guarded.agents[vcd.name]
            guarded.stack.lost(vcd, now_s=time.monotonic())
            self._tell_of(guarded, "agent", f"the agent of {vcd.name} is gone", vcd=vcd.name)

    def _operations(self, stack: Stack, limits: Limits) -> Operations:
        def send(command: rollback_service_pb2.Command) -> None:
            guarded = self._stacks.get(stack.spec.name)
            if guarded is not None and guarded.deployer is not None:
                offer(guarded.deployer, rollback_service_pb2.AttendResponse(command=command))

        def tell(event: Event) -> None:
            self.tell(event)
            guarded = self._stacks.get(stack.spec.name)
            operation = next(iter(self.store.operations(stack.spec.name, limit=1)), None)
            if guarded is not None and guarded.deployer is not None and operation is not None:
                message = wire.rollback_message(operation)
                offer(guarded.deployer, rollback_service_pb2.AttendResponse(rollback=message))

        return Operations(stack, limits, self.store, send=send, tell=tell)

    def _signature(self, guarded: Guarded, judgement: Judgement) -> tuple[object, ...]:
        deviation = guarded.stack.deviation
        operation = guarded.operations.current
        return (
            judgement.verdict,
            tuple(suspect.name for suspect in judgement.finding.culprits),
            tuple(symptom.key for symptom in judgement.symptoms),
            tuple(sorted((deviation.states if deviation else {}).items())),
            (operation.id, operation.phase) if operation else (),
        )

    def _tell_of(
        self,
        guarded: Guarded,
        kind: str,
        message: str,
        *,
        vcd: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        name = guarded.stack.spec.name
        self.tell(
            Event(
                time_ms=now_ms(), stack=name, kind=kind, vcd=vcd, message=message, fields=dict(fields or {})
            )
        )


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
