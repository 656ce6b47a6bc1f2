"""Rollbacks: the deployer's stream, and what people ask."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from dm import wire
from dm.manager import QUEUE, DeployerQueue, Guarded, Manager, now_ms, offer
from dm.operations import OperationError
from dm.service import Context
from dm.v1 import rollback_service_pb2 as pb
from dm.v1 import rollback_service_pb2_grpc

ATTACH_S = 10.0
LISTED = 50
LISTED_AT_MOST = 1000


class RollbackService(rollback_service_pb2_grpc.RollbackServiceServicer):
    """Spoken by deployers and command lines."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def Attend(
        self, requests: AsyncIterator[pb.AttendRequest], context: Context
    ) -> AsyncIterator[pb.AttendResponse]:
        """Serve one deployer; a later one takes its place."""
        try:
            async with asyncio.timeout(ATTACH_S):
                first = await anext(aiter(requests))
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message has to be an attach")
        guarded = self._manager.stack(first.attach.stack)
        queue: DeployerQueue = asyncio.Queue(QUEUE)
        if guarded.deployer is not None:
            offer(guarded.deployer, None)
        guarded.deployer = queue
        reading = asyncio.create_task(self._read(guarded, requests, queue))
        try:
            guarded.operations.attached()
            while (response := await queue.get()) is not None:
                yield response
        finally:
            reading.cancel()
            if guarded.deployer is queue:
                guarded.deployer = None

    async def RequestRollback(
        self, request: pb.RequestRollbackRequest, context: Context
    ) -> pb.RequestRollbackResponse:
        """Roll back by hand."""
        operations = self._manager.stack(request.stack).operations
        operation = operations.request(request.vcds, now_ms=now_ms())
        return pb.RequestRollbackResponse(rollback=wire.rollback_message(operation))

    async def ResolveRollback(
        self, request: pb.ResolveRollbackRequest, context: Context
    ) -> pb.ResolveRollbackResponse:
        """Approve or refuse."""
        for guarded in self._manager.stacks():
            current = guarded.operations.current
            if current is not None and current.id == request.operation:
                operation = guarded.operations.resolve(
                    request.operation, approve=request.approve, now_ms=now_ms()
                )
                return pb.ResolveRollbackResponse(rollback=wire.rollback_message(operation))
        raise OperationError(f"operation {request.operation!r} is not under way: `idm history` shows all")

    async def SetGuard(self, request: pb.SetGuardRequest, context: Context) -> pb.SetGuardResponse:
        """The kill switch."""
        self._manager.stack(request.stack)
        chosen = "" if request.mode == 0 else wire.mode(request.mode).value
        self._manager.store.put_guard(request.stack, chosen)
        return pb.SetGuardResponse()

    async def ListRollbacks(
        self, request: pb.ListRollbacksRequest, context: Context
    ) -> pb.ListRollbacksResponse:
        """Operations."""
        limit = min(request.limit or LISTED, LISTED_AT_MOST)
        operations = self._manager.store.operations(request.stack, limit=limit)
        return pb.ListRollbacksResponse(
            rollbacks=[wire.rollback_message(operation) for operation in operations]
        )

    async def _read(
        self, guarded: Guarded, requests: AsyncIterator[pb.AttendRequest], queue: DeployerQueue
    ) -> None:
        try:
            async for request in requests:
                if guarded.deployer is not queue:
                    break
                match request.WhichOneof("item"):
                    case "instance" if request.instance.vcd in guarded.stack.vcds:
                        report = request.instance
                        vcd = guarded.stack.vcds[report.vcd]
                        vcd.unrevertible = report.unrevertible
                        self._manager.instance(
                            guarded,
                            vcd,
                            wire.power(report.power),
                            report.incarnation,
                            reverted=report.reverted,
                            held=wire.text(report.held),
                        )
                    case "result":
                        self._manager.result(guarded, request.result)
        finally:
            offer(queue, None)
