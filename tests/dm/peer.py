"""A real manager on a unix socket, and small clients that play agents, deployers and people."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio

from dm.client import connect
from dm.manager import Manager
from dm.service.server import serving
from dm.store.sqlite import Store
from dm.v1 import (
    agent_pb2,
    agent_service_pb2_grpc,
    flow_pb2,
    golden_service_pb2_grpc,
    rollback_service_pb2_grpc,
    stack_pb2,
    stack_service_pb2_grpc,
)
from dm.v1 import agent_service_pb2 as agent_service
from dm.v1 import rollback_service_pb2 as rollback
from dm.v1 import stack_service_pb2 as stacks

DEADLINE_S = 10.0
DB = ip_address("198.18.0.2").packed


class Peer:
    """Everything a test needs to speak to one manager."""

    def __init__(self, channel: grpc.aio.Channel, manager: Manager) -> None:
        self.manager = manager
        self.stacks = stack_service_pb2_grpc.StackServiceStub(channel)
        self.golden = golden_service_pb2_grpc.GoldenServiceStub(channel)
        self.rollbacks = rollback_service_pb2_grpc.RollbackServiceStub(channel)
        self.agents = agent_service_pb2_grpc.AgentServiceStub(channel)

    async def apply(self, *, mode: "stack_pb2.RollbackMode.ValueType" = stack_pb2.ROLLBACK_MODE_AUTO) -> None:
        """Declare a stack of two."""
        vcds = [
            stack_pb2.VcdSpec(name=name, addresses=[ip_address(f"198.18.0.{number}").packed])
            for number, name in enumerate(("web", "db"), 1)
        ]
        spec = stack_pb2.StackSpec(
            name="pair",
            fingerprint="f",
            vcds=vcds,
            launch="l",
            judge=stack_pb2.JudgePolicy(
                stack_threshold=0.2, vcd_threshold=0.2, confirm_ms=500, launch_slack_ms=1000
            ),
            rollback=stack_pb2.RollbackPolicy(
                mode=mode, attempts_per_vcd=2, attempts_per_stack=2, at_once=1, cooldown_ms=1000
            ),
        )
        await self.stacks.ApplyStack(stacks.ApplyStackRequest(stack=spec), timeout=DEADLINE_S)

    @asynccontextmanager
    async def agent(
        self, vcd: str, *, generation: int = 0, probes: Sequence[agent_pb2.Probe] = ()
    ) -> AsyncIterator["Agent"]:
        """An agent that has said hello and was welcomed."""
        call = self.agents.Report()
        agent = Agent(call, vcd, generation)
        await agent.hello(probes)
        try:
            yield agent
        finally:
            call.cancel()

    async def status(self) -> stack_pb2.Status:
        """The stack's status now."""
        reply = await self.stacks.GetStatus(stacks.GetStatusRequest(stack="pair"), timeout=DEADLINE_S)
        return reply.status

    async def until(self, met: Callable[[stack_pb2.Status], bool]) -> stack_pb2.Status:
        """Watch the status until a condition is met."""
        async with asyncio.timeout(DEADLINE_S):
            async for response in self.stacks.WatchStatus(stacks.WatchStatusRequest(stack="pair")):
                if met(response.status):
                    return response.status
        raise AssertionError("the watch ended")

    async def break_db(self, web: "Agent") -> stack_pb2.Status:
        """web is refused by db, and goes on being refused until that is failed."""
        await web.report(refused(3))
        await self.until(lambda status: status.verdict == stack_pb2.VERDICT_INCONCLUSIVE)
        await web.report(refused(4))
        return await self.until(lambda status: status.verdict == stack_pb2.VERDICT_FAILED)


class Agent:
    """One agent's side of the stream."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[agent_service.ReportRequest, agent_service.ReportResponse]",
        vcd: str,
        generation: int,
    ) -> None:
        self.call = call
        self.vcd = vcd
        self.generation = generation
        self.revision = 0

    async def hello(self, probes: Sequence[agent_pb2.Probe] = ()) -> None:
        """Say hello and take the generation from the welcome."""
        hello = agent_pb2.Hello(
            stack="pair", vcd=self.vcd, session="s", generation=self.generation, probes=probes
        )
        await self.call.write(agent_service.ReportRequest(hello=hello))
        response = await self.read()
        assert response.WhichOneof("item") == "welcome"
        self.generation = response.welcome.generation

    async def read(self) -> agent_service.ReportResponse:
        """The manager's next word."""
        async with asyncio.timeout(DEADLINE_S):
            response = await self.call.read()
        assert isinstance(response, agent_service.ReportResponse)
        return response

    async def report(self, *edges: flow_pb2.Edge) -> None:
        """Send a whole table and wait until it is acknowledged."""
        self.revision += 1
        message = agent_pb2.Edges(
            generation=self.generation, revision=self.revision, complete=True, edges=edges
        )
        await self.call.write(agent_service.ReportRequest(edges=message))
        while (response := await self.read()).WhichOneof("item") != "acknowledgement":
            pass
        assert response.acknowledgement.revision == self.revision


def good() -> flow_pb2.Edge:
    """web holds a connection to db."""
    return flow_pb2.Edge(
        transport=flow_pb2.TRANSPORT_TCP,
        address=DB,
        port=5432,
        attempts=1,
        established=1,
        open=1,
        last_established_age_ms=0,
    )


def refused(times: int) -> flow_pb2.Edge:
    """web is refused by db."""
    edge = good()
    edge.open, edge.attempts = 0, 1 + times
    edge.failures.add(kind=flow_pb2.FAILURE_KIND_REFUSED, count=times)
    edge.last_established_age_ms = 60_000
    edge.last_failure_age_ms = 0
    return edge


@asynccontextmanager
async def manager(folder: Path) -> AsyncIterator[Peer]:
    """A real manager on a unix socket, and a client of it."""
    with Store(folder / "dm.sqlite") as store:
        async with serving(store, f"unix:{folder}/dm.sock") as served:
            judging = asyncio.create_task(served.run())
            async with connect(f"unix:{folder}/dm.sock") as channel:
                yield Peer(channel, served)
            judging.cancel()


def run(folder: Path, test: Callable[[Peer], Awaitable[None]]) -> None:
    """Run a test against a fresh manager."""

    async def whole() -> None:
        async with manager(folder) as peer:
            await test(peer)

    asyncio.run(whole())


async def next_command(
    call: "grpc.aio.StreamStreamCall[rollback.AttendRequest, rollback.AttendResponse]",
) -> rollback.Command:
    """The next command, past the news."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            response = await call.read()
            assert isinstance(response, rollback.AttendResponse)
            if response.WhichOneof("item") == "command":
                return response.command


async def answer(
    call: "grpc.aio.StreamStreamCall[rollback.AttendRequest, rollback.AttendResponse]",
    command: rollback.Command,
    *,
    evidence: str = "",
    snapshot: str = "",
) -> None:
    """Say that a command was carried out."""
    result = rollback.CommandResult(
        operation=command.operation, token=command.token, evidence=evidence, snapshot=snapshot
    )
    await call.write(rollback.AttendRequest(result=result))
