"""The agents' stream."""

import asyncio
import time
from collections.abc import AsyncIterator
from weakref import WeakKeyDictionary

import grpc
import structlog

from dm import wire
from dm.manager import QUEUE, AgentQueue, Guarded, Manager, UnknownStackError, offer
from dm.service import Context
from dm.service.limits import Allowance, LimitError, admit
from dm.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from dm.vcd import VcdState

HELLO_S = 10.0

log = structlog.get_logger()


class AgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """Takes in what agents see."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._allowances: WeakKeyDictionary[VcdState, Allowance] = WeakKeyDictionary()

    async def Report(
        self, requests: AsyncIterator[agent_service_pb2.ReportRequest], context: Context
    ) -> AsyncIterator[agent_service_pb2.ReportResponse]:
        """Serve one agent until either side ends."""
        try:
            async with asyncio.timeout(HELLO_S):
                first = await anext(aiter(requests))
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message has to be a hello")
        guarded, vcd = await self._find(first, context)
        try:
            self._admit(guarded, vcd, first)
        except LimitError as error:
            # Not a line in the log: one that comes too often would fill it.
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        queue: AgentQueue = asyncio.Queue(QUEUE)
        self._manager.agent_came(guarded, vcd, queue)
        try:
            self._hello(guarded, vcd, first.hello)
            reading = asyncio.create_task(self._read(guarded, vcd, requests, queue))
            try:
                while (response := await queue.get()) is not None:
                    yield response
                if reading.done():
                    reading.result()
            finally:
                reading.cancel()
        except (wire.WireError, LimitError) as error:
            log.warning("agent refused", vcd=vcd.name, reason=str(error))
            limited = isinstance(error, LimitError)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if limited else grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(code, str(error))
        finally:
            self._manager.agent_went(guarded, vcd, queue)

    async def _find(
        self, first: agent_service_pb2.ReportRequest, context: Context
    ) -> tuple[Guarded, VcdState]:
        if first.WhichOneof("item") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message has to be a hello")
        try:
            guarded = self._manager.stack(first.hello.stack)
        except UnknownStackError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        vcd = guarded.stack.vcds.get(first.hello.vcd)
        if vcd is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"the stack {first.hello.stack} has no VCD {first.hello.vcd[:64]!r}",
            )
        return guarded, vcd

    def _admit(self, guarded: Guarded, vcd: VcdState, request: agent_service_pb2.ReportRequest) -> None:
        """What an agent may cost is counted over all its streams. Raises :class:`LimitError`."""
        allowance = self._allowances.setdefault(vcd, Allowance())
        admit(request, guarded.stack, vcd, allowance, now_s=time.monotonic())

    def _hello(self, guarded: Guarded, vcd: VcdState, hello: agent_pb2.Hello) -> None:
        """An agent of an older generation is told the new one and says hello again; until then it is not heard."""
        now_s = time.monotonic()
        if hello.generation > vcd.generation:
            # Only a manager that lost its state file can be behind an agent: what the agent was told once holds.
            vcd.generation = hello.generation
            self._manager.store.put_generation(guarded.stack.spec.name, vcd.name, vcd.generation)
        guarded.welcome(vcd)
        if hello.generation not in (0, vcd.generation):
            return
        missing = [
            f"{wire.text(probe.name)} ({wire.text(probe.problem)})"
            for probe in hello.probes
            if probe.problem and not probe.detail
        ]
        guarded.stack.hello(vcd, session=wire.text(hello.session), probes=missing, now_s=now_s)
        self._presence(guarded, vcd, hello.presence, now_s=now_s)

    def _presence(
        self, guarded: Guarded, vcd: VcdState, presence: agent_pb2.Presence, *, now_s: float
    ) -> None:
        """An address that is declared for another VCD is not taken from it, whatever an agent says."""
        declared = guarded.stack.spec.vcds.items()
        others = {address for name, addresses in declared if name != vcd.name for address in addresses}
        own = [address for address in wire.addresses(presence.addresses) if address not in others]
        guarded.stack.presence(vcd, own, wire.listeners(presence), now_s=now_s)

    async def _read(
        self,
        guarded: Guarded,
        vcd: VcdState,
        requests: AsyncIterator[agent_service_pb2.ReportRequest],
        queue: AgentQueue,
    ) -> None:
        try:
            async for request in requests:
                if guarded.agents.get(vcd.name) is not queue:
                    break
                self._admit(guarded, vcd, request)
                self._take(guarded, vcd, request, queue)
        finally:
            offer(queue, None)

    def _take(
        self, guarded: Guarded, vcd: VcdState, request: agent_service_pb2.ReportRequest, queue: AgentQueue
    ) -> None:
        now_s = time.monotonic()
        stack = guarded.stack
        match request.WhichOneof("item"):
            case "hello":
                self._hello(guarded, vcd, request.hello)
            case "edges" if vcd.speaks(request.edges.generation):
                wrong = stack.wrong
                flows = wire.flows(request.edges, source=vcd.name, now_s=now_s)
                stack.edges(vcd, flows, complete=request.edges.complete, now_s=now_s)
                if stack.wrong != wrong:
                    # The confirmation window begins with the report, not with the next look.
                    self._manager.evaluate(guarded)
                response = agent_service_pb2.ReportResponse()
                response.acknowledgement.revision = request.edges.revision
                offer(queue, response)
            case "coverage":
                stack.losses(vcd, wire.losses(request.coverage), now_s=now_s)
            case "presence":
                self._presence(guarded, vcd, request.presence, now_s=now_s)
            case "heartbeat":
                stack.heard(vcd, now_s=now_s)
