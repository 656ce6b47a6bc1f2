"""A manager that keeps what agents tell it: a real server on a unix socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from dm.v1 import agent_pb2, agent_service_pb2_grpc, flow_pb2
from dm.v1.agent_service_pb2 import ReportRequest, ReportResponse

DEADLINE_S = 5.0


class Recorder(agent_service_pb2_grpc.AgentServiceServicer):
    """Welcomes every stream with ``generation``, and answers nothing else by itself."""

    def __init__(self, *, generation: int = 1, answers: bool = True) -> None:
        self.generation = generation
        self.answers = answers
        self.refusal = ""
        self.streams: list[list[ReportRequest]] = []
        self._outgoing: asyncio.Queue[ReportResponse] = asyncio.Queue(16)
        self._changed = asyncio.Condition()

    async def Report(  # noqa: N802 - the name is gRPC's
        self, requests: AsyncIterator[ReportRequest], context: Any
    ) -> AsyncIterator[ReportResponse]:
        """Keep what is said on one stream."""
        said: list[ReportRequest] = []
        async with self._changed:
            self.streams.append(said)
            self._changed.notify_all()
        reading = asyncio.create_task(self._read(requests, said))
        try:
            if self.refusal:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
            if self.answers:
                yield welcome(self.generation)
            while True:
                yield await self._outgoing.get()
        finally:
            reading.cancel()

    async def tell(self, response: ReportResponse) -> None:
        """Say something on the newest stream."""
        await self._outgoing.put(response)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that is said makes the condition true."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))

    def said(self, item: str) -> list[ReportRequest]:
        """The requests of one kind on the newest stream."""
        return [one for one in self.streams[-1] if one.WhichOneof("item") == item] if self.streams else []

    def edges(self) -> list[agent_pb2.Edges]:
        """The messages with edges on the newest stream."""
        return [request.edges for request in self.said("edges")]

    def known(self) -> dict[int, flow_pb2.Edge]:
        """The newest edge for each port on the newest stream."""
        return {edge.port: edge for message in self.edges() for edge in message.edges}

    def complete(self) -> bool:
        """Whether the newest stream's table is whole."""
        return any(message.complete for message in self.edges())

    async def _read(self, requests: AsyncIterator[ReportRequest], said: list[ReportRequest]) -> None:
        async for request in requests:
            async with self._changed:
                said.append(request)
                self._changed.notify_all()


@asynccontextmanager
async def served(recorder: Recorder, path: Path) -> AsyncIterator[str]:
    """Serve on a unix socket; gives the target, and ends as abruptly as a process that is killed."""
    server = grpc.aio.server()
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(recorder, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield f"unix:{path}"
    finally:
        await server.stop(None)


def welcome(generation: int) -> ReportResponse:
    """Tell a generation."""
    return ReportResponse(welcome=agent_pb2.Welcome(generation=generation))
