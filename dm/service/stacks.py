"""Declaring, reading and watching stacks."""

import asyncio
import time
from collections.abc import AsyncIterator

from dm import wire
from dm.explain import explain
from dm.knobs import knobs
from dm.manager import Guarded, Manager
from dm.service import Context
from dm.stack import Stack
from dm.v1 import stack_pb2, stack_service_pb2, stack_service_pb2_grpc

STATUS_AT_LEAST_S = 1.0
PAST_EVENTS_LIMIT = 10_000


class StackService(stack_service_pb2_grpc.StackServiceServicer):
    """Spoken by deployers and command lines. Unknown stacks and wrong messages end a call through the interceptor."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def ApplyStack(
        self, request: stack_service_pb2.ApplyStackRequest, context: Context
    ) -> stack_service_pb2.ApplyStackResponse:
        """Take in a declaration."""
        spec, limits = wire.spec(request.stack, now_s=time.monotonic())
        guarded = self._manager.apply(spec, limits)
        stack = guarded.stack
        return stack_service_pb2.ApplyStackResponse(
            golden=stack.image.id if stack.deviation and stack.image else "",
            generations={vcd.name: vcd.generation for vcd in stack.vcds.values()},
        )

    async def RemoveStack(
        self, request: stack_service_pb2.RemoveStackRequest, context: Context
    ) -> stack_service_pb2.RemoveStackResponse:
        """Forget the live state."""
        self._manager.remove(request.stack)
        return stack_service_pb2.RemoveStackResponse()

    async def ListStacks(
        self, request: stack_service_pb2.ListStacksRequest, context: Context
    ) -> stack_service_pb2.ListStacksResponse:
        """All stacks."""
        stacks = [self._manager.status(guarded) for guarded in self._manager.stacks()]
        return stack_service_pb2.ListStacksResponse(stacks=stacks)

    async def GetStatus(
        self, request: stack_service_pb2.GetStatusRequest, context: Context
    ) -> stack_service_pb2.GetStatusResponse:
        """One stack."""
        status = self._manager.status(self._manager.stack(request.stack))
        return stack_service_pb2.GetStatusResponse(status=status)

    async def Explain(
        self, request: stack_service_pb2.ExplainRequest, context: Context
    ) -> stack_service_pb2.ExplainResponse:
        """Why the stack is judged as it is."""
        guarded = self._manager.stack(request.stack)
        vcd = wire.text(request.vcd)
        if vcd and vcd not in guarded.stack.vcds:
            known = ", ".join(sorted(guarded.stack.vcds))
            raise wire.WireError(f"the stack {request.stack} has no VCD {vcd!r}: choose from {known}")
        judgement, operations = self._manager.evaluate(guarded), guarded.operations
        outlook = operations.outlook(judgement)
        return wire.explanation(
            explain(guarded.stack, judgement, now_s=time.monotonic(), outlook=outlook, about=vcd),
            knobs(guarded.stack.spec.policy, operations.limits, mode=operations.mode),
        )

    async def GetGraph(
        self, request: stack_service_pb2.GetGraphRequest, context: Context
    ) -> stack_service_pb2.GetGraphResponse:
        """The live graph."""
        guarded = self._manager.stack(request.stack)
        self._manager.evaluate(guarded)
        return graph_message(guarded.stack)

    async def WatchStatus(
        self, request: stack_service_pb2.WatchStatusRequest, context: Context
    ) -> AsyncIterator[stack_service_pb2.WatchStatusResponse]:
        """The status at each change, and once a second so that its ages go on."""
        while True:
            guarded: Guarded = self._manager.stack(request.stack)
            changed = guarded.changed
            yield stack_service_pb2.WatchStatusResponse(status=self._manager.status(guarded))
            try:
                async with asyncio.timeout(STATUS_AT_LEAST_S):
                    await changed.wait()
            except TimeoutError:
                continue

    async def WatchEvents(
        self, request: stack_service_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[stack_service_pb2.WatchEventsResponse]:
        """Past events, then new ones."""
        news = self._manager.follow(request.stack)
        for event in self._manager.store.events(request.stack, limit=min(request.past, PAST_EVENTS_LIMIT)):
            yield stack_service_pb2.WatchEventsResponse(event=wire.event_message(event))
        if not request.follow:
            return
        async for item in news:
            if isinstance(item, int):
                yield stack_service_pb2.WatchEventsResponse(lost=item)
            else:
                yield stack_service_pb2.WatchEventsResponse(event=wire.event_message(item))


def graph_message(stack: Stack) -> stack_service_pb2.GetGraphResponse:
    """The live graph held against the image, sorted."""
    judged = stack.deviation.judged() if stack.deviation else {}
    shares = stack.deviation.vcds() if stack.deviation else {}
    keys = sorted({*judged, *(edge.key for edge in stack.graph if edge.flows)})
    response = stack_service_pb2.GetGraphResponse(
        edges=[
            wire.edge_message(key, judged.get(key), stack.graph.get(key), launch_s=stack.spec.launch_s)
            for key in keys
        ]
    )
    for name in sorted({*stack.vcds, *(key.target for key in keys)}):
        vcd = stack.vcds.get(name)
        response.nodes.append(
            stack_pb2.GraphNode(
                name=name,
                external=vcd is None,
                power=wire.power_message(vcd.power) if vcd else stack_pb2.POWER_UNSPECIFIED,
                agent_connected=vcd.connected if vcd else False,
                deviation=shares.get(name, 0.0),
            )
        )
    return response
