"""A small manager on a unix socket: speaks what a deployer needs of the contract, and does what a test tells it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from dm.v1.rollback_service_pb2 import (
    AttendRequest,
    AttendResponse,
    Command,
    ListRollbacksRequest,
    ListRollbacksResponse,
    Rollback,
)
from dm.v1.stack_pb2 import StackSpec
from dm.v1.stack_service_pb2 import (
    ApplyStackRequest,
    ApplyStackResponse,
    GetGraphRequest,
    GetGraphResponse,
)


class SmallManager:
    """Records what a deployer says, and sends what is put into ``commands``."""

    def __init__(self, generations: dict[str, int] | None = None) -> None:
        self.applied: list[StackSpec] = []
        self.heard: list[AttendRequest] = []
        self.rollbacks: list[Rollback] = []
        self.commands: asyncio.Queue[Command] = asyncio.Queue()
        self.ports: Iterator[int] = iter(())
        """Each look at the graph finds one edge more, as long as there are ports."""
        self._graph = GetGraphResponse()
        self._generations = generations or {}

    def items(self, kind: str) -> list[AttendRequest]:
        """What was said of one kind."""
        return [request for request in self.heard if request.WhichOneof("item") == kind]

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[None]:
        """Serve until the context ends; streams are cut then, as when a manager is killed."""
        server = grpc.aio.server()
        attend = grpc.stream_stream_rpc_method_handler(
            self._attend, AttendRequest.FromString, AttendResponse.SerializeToString
        )
        apply = grpc.unary_unary_rpc_method_handler(
            self._apply, ApplyStackRequest.FromString, ApplyStackResponse.SerializeToString
        )
        history = grpc.unary_unary_rpc_method_handler(
            self._history, ListRollbacksRequest.FromString, ListRollbacksResponse.SerializeToString
        )
        graph = grpc.unary_unary_rpc_method_handler(
            self._look, GetGraphRequest.FromString, GetGraphResponse.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "dm.v1.RollbackService", {"Attend": attend, "ListRollbacks": history}
                ),
                grpc.method_handlers_generic_handler(
                    "dm.v1.StackService", {"ApplyStack": apply, "GetGraph": graph}
                ),
            )
        )
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    async def _apply(self, request: ApplyStackRequest, _context: object) -> ApplyStackResponse:
        self.applied.append(request.stack)
        return ApplyStackResponse(golden="g1", generations=self._generations)

    async def _look(self, _request: GetGraphRequest, _context: object) -> GetGraphResponse:
        for port in itertools.islice(self.ports, 1):
            self._graph.edges.add(source="web", target="db", port=port)
        return self._graph

    async def _history(self, _request: ListRollbacksRequest, _context: object) -> ListRollbacksResponse:
        return ListRollbacksResponse(rollbacks=self.rollbacks)

    async def _attend(
        self, requests: AsyncIterator[AttendRequest], _context: object
    ) -> AsyncIterator[AttendResponse]:
        listening = asyncio.create_task(self._listen(requests))
        try:
            while True:
                yield AttendResponse(command=await self.commands.get())
        finally:
            listening.cancel()

    async def _listen(self, requests: AsyncIterator[AttendRequest]) -> None:
        async for request in requests:
            self.heard.append(request)
