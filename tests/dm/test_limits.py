"""An agent that does its worst: it ends its own stream, and everybody else is served as before."""

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm.client import MAX_MESSAGE_BYTES
from dm.service.limits import (
    ADDRESSES,
    BURST,
    EDGES,
    EDGES_PER_MESSAGE,
    GENERATIONS,
    HELLO_COST,
    PER_S,
    PROBES,
    Allowance,
)
from dm.v1 import agent_pb2, agent_service_pb2_grpc, flow_pb2
from dm.v1 import agent_service_pb2 as agent_service
from dm.v1 import stack_service_pb2 as stacks
from tests.dm.peer import DB, DEADLINE_S, Agent, Peer, good, run


def edges(first: int, count: int) -> list[flow_pb2.Edge]:
    """Edges to addresses that are all different."""
    return [
        flow_pb2.Edge(
            transport=flow_pb2.TRANSPORT_TCP,
            address=(0x0A000000 + first + number).to_bytes(4, "big"),
            port=80,
            attempts=1,
        )
        for number in range(count)
    ]


def report(*said: flow_pb2.Edge, complete: bool = False) -> agent_service.ReportRequest:
    """A message with edges."""
    message = agent_pb2.Edges(generation=1, revision=1, edges=said, complete=complete)
    return agent_service.ReportRequest(edges=message)


async def refusal(agent: Agent) -> tuple[grpc.StatusCode, str]:
    """What the manager ended the agent's stream with."""
    async with asyncio.timeout(DEADLINE_S):
        return await agent.call.code(), await agent.call.details()


async def flood(agent: Agent, request: agent_service.ReportRequest, times: int) -> None:
    """Send a message again and again, until the stream ends."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(times):
                await agent.call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return


def hello(**said: object) -> agent_service.ReportRequest:
    """A greeting of web."""
    return agent_service.ReportRequest(hello=agent_pb2.Hello(stack="pair", vcd="web", session="s", **said))  # type: ignore[arg-type]


MANY = [b"\x0a\x00" + number.to_bytes(2, "big") for number in range(ADDRESSES + 1)]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (report(*edges(0, EDGES_PER_MESSAGE + 1)), f"{EDGES_PER_MESSAGE + 1} edges in one message"),
        (
            agent_service.ReportRequest(presence=agent_pb2.Presence(addresses=MANY)),
            f"{ADDRESSES + 1} addresses",
        ),
        (hello(presence=agent_pb2.Presence(addresses=MANY)), f"{ADDRESSES + 1} addresses"),
        (hello(probes=[agent_pb2.Probe(name="p")] * (PROBES + 1)), f"{PROBES + 1} probes"),
        (hello(generation=GENERATIONS + 1), "was never given"),
    ],
    ids=["edges", "presence", "hello", "probes", "generation"],
)
def test_a_message_that_is_too_large_ends_its_own_stream(
    tmp_path: Path, request_: agent_service.ReportRequest, says: str
) -> None:
    """The stream ends with the reason; another agent's goes on."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("db") as db, peer.agent("web") as web:
            await flood(web, request_, 1)
            code, details = await refusal(web)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert says in details
            await db.report()
            assert peer.manager.stack("pair").stack.vcds["db"].connected

    run(tmp_path, story)


def test_a_message_of_many_bytes_ends_its_own_stream(tmp_path: Path) -> None:
    """More than 4 MiB at once are not even taken in, from a client that knows no limit of its own."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("db") as db, grpc.aio.insecure_channel(f"unix:{tmp_path}/dm.sock") as channel:
            web = Agent(agent_service_pb2_grpc.AgentServiceStub(channel).Report(), "web", 0)
            await web.hello()
            await flood(web, report(flow_pb2.Edge(command="x" * (MAX_MESSAGE_BYTES + 1))), 1)
            code, details = await refusal(web)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in details
            await db.report()

    run(tmp_path, story)


def test_an_agent_has_room_for_so_many_edges_over_all_its_sessions(tmp_path: Path) -> None:
    """One that calls ever other addresses is cut off at the limit, time after time, and never takes up more."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        graph = peer.manager.stack("pair").stack.graph
        for session in range(3):
            async with peer.agent("web") as web:
                first = session * 2 * EDGES
                for number in range(EDGES // EDGES_PER_MESSAGE):
                    await web.report(*edges(first + number * EDGES_PER_MESSAGE, EDGES_PER_MESSAGE))
                    assert graph.size("web") <= EDGES
                assert graph.size("web") == EDGES
                await flood(web, report(*edges(first + EDGES, 1)), 1)
                code, details = await refusal(web)
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert f"more than {EDGES} destinations" in details
            assert len(graph) == len(list(graph.outbound("web"))) == EDGES
            peer.manager.stack("pair").stack.judge(now_s=time.monotonic())
        async with peer.agent("web") as web:
            await web.report(good())
            assert graph.size("web") <= EDGES

    run(tmp_path, story)


@pytest.mark.parametrize(
    "request_",
    [
        agent_service.ReportRequest(heartbeat=agent_pb2.Heartbeat()),
        hello(),
        agent_service.ReportRequest(presence=agent_pb2.Presence(addresses=[DB])),
        report(*edges(0, EDGES_PER_MESSAGE)),
    ],
    ids=["heartbeats", "hellos", "presences", "edges"],
)
def test_a_flood_is_cut_off_and_others_are_served(
    tmp_path: Path, request_: agent_service.ReportRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is sent without end is ended by the manager, and meanwhile another agent is answered in time."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("db") as db, peer.agent("web") as web:
            flooding = asyncio.create_task(flood(web, request_, 100_000))
            slowest_s = 0.0
            while not flooding.done():
                begin_s = time.monotonic()
                await db.report()
                slowest_s = max(slowest_s, time.monotonic() - begin_s)
            await flooding
            # gRPC's client forgets the reason when it was just writing.
            code, details = await refusal(web)
            assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
            assert "too often" in details or details == "Internal error from Core"
            assert capsys.readouterr().out.count("too often") == 1
            assert slowest_s < 2.0
            await db.report()

    run(tmp_path, story)


def test_an_agent_that_keeps_coming_back_is_kept_outside(tmp_path: Path) -> None:
    """Streams cost, too: after some in a row the next is refused before it becomes an event, and others are not."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        times = round(BURST / HELLO_COST) * 2
        codes = [await self_introduction(peer) for _ in range(times)]
        refused = codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert refused + codes.count(grpc.StatusCode.OK) == times
        assert refused
        watch = peer.stacks.WatchEvents(stacks.WatchEventsRequest(past=1000), timeout=DEADLINE_S)
        told = [response.event async for response in watch if response.event.kind == "agent"]
        assert sum("is here" in event.message for event in told) == times - refused
        async with peer.agent("db") as db:
            await db.report()

    run(tmp_path, story)


async def self_introduction(peer: Peer) -> grpc.StatusCode:
    """Come, say hello and go; OK, or what the manager refused it with."""
    agent = Agent(peer.agents.Report(), "web", 0)
    try:
        await agent.hello()
    except grpc.aio.AioRpcError as error:
        return error.code()
    agent.call.cancel()
    return grpc.StatusCode.OK


def test_an_address_of_another_machine_is_not_taken(tmp_path: Path) -> None:
    """A guest that says it has db's address gets none of db's edges."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        async with peer.agent("web") as web:
            claim = agent_pb2.Presence(addresses=[DB, b"\x0a\x00\x00\x07"])
            await web.call.write(agent_service.ReportRequest(presence=claim))
            await web.report(good())
            graph = peer.manager.stack("pair").stack.graph
            assert [edge.key.target for edge in graph] == ["db"]
            assert [str(address) for address in graph.addresses("web")] == ["10.0.0.7"]

    run(tmp_path, story)


def test_wild_words_and_figures_do_no_harm(tmp_path: Path) -> None:
    """Names that are long or would steer a terminal, figures and kinds beyond all sense: answers stay readable."""

    async def story(peer: Peer) -> None:
        await peer.apply()
        most = (1 << 64) - 1
        name = flow_pb2.Name(name="\x1b[2Jevil\n" + "x" * 1000, source=99, confidence=1)  # type: ignore[arg-type]
        wild = [
            flow_pb2.Edge(
                transport=flow_pb2.TRANSPORT_TCP,
                address=b"\x0a\x00\x00\x09",
                port=80,
                command=command,
                names=[name],
                attempts=most,
                established=most,
                open=most,
                pending=most,
                failures=[flow_pb2.FailureCount(kind=77, count=most)] * 3,  # type: ignore[arg-type]
                first_seen_age_ms=most,
                last_attempt_age_ms=most,
                last_failure_age_ms=most,
                oldest_pending_age_ms=most,
            )
            for command in ("\x1b]0;a\x07", "b" * 5000)
        ]
        async with peer.agent("web") as web:
            loss = agent_pb2.Loss(reason=55, count=most)  # type: ignore[arg-type]
            await web.call.write(agent_service.ReportRequest(coverage=agent_pb2.Coverage(losses=[loss])))
            await web.report(*wild)
            graph = await peer.stacks.GetGraph(stacks.GetGraphRequest(stack="pair"), timeout=DEADLINE_S)
            (edge,) = graph.edges
            assert edge.target.startswith("?[2Jevil?x")
            assert len(edge.target) == 255
            assert edge.target.isprintable()
            assert (await peer.status()).stack == "pair"

    run(tmp_path, story)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, BURST * 2)), max_size=50))
def test_an_allowance_is_never_overdrawn(spent: list[tuple[float, float]]) -> None:
    """What was taken is at most what was there at first and what has come since."""
    allowance, now_s, taken = Allowance(), 0.0, 0.0
    for pause_s, cost in spent:
        now_s += pause_s
        if allowance.take(cost, now_s=now_s):
            taken += cost
        assert taken <= BURST + now_s * PER_S + 1e-3
