"""The stream to the manager, against a real server on a unix socket."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import dma.stream
from dm.v1 import agent_pb2
from dma.flow import Failure, Loss
from dma.naming.methods import Naming, open_names
from dma.observation import Observation
from dma.report import CHUNK, Identity, Report
from dma.stream import Reporter
from dma.urgency import Urgency
from tests.dma.recorder import Recorder, served, welcome
from tests.dma.scripted import ScriptedCapture, flow

INTERVAL_S = 0.5


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """Where the manager answers."""
    return tmp_path / "dm.sock"


@asynccontextmanager
async def reporting(capture: ScriptedCapture, target: str, **how: int) -> AsyncIterator[Reporter]:
    """An agent at work."""
    identity = Identity(stack="shop", vcd="web", version="1", interval_s=INTERVAL_S)
    naming = Naming(reverse_dns=False, traffic_names=False)
    with capture, open_names(naming=naming) as names, Urgency(capture) as urgency:
        report = Report(identity, Observation(capture, names), **how)
        reporter = Reporter(report, urgency, target=target)
        task = asyncio.create_task(reporter.run())
        try:
            yield reporter
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def test_greets_and_sends_its_table(socket_path: Path) -> None:
    """The first message is a Hello that names everything; then the whole table follows, complete."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder(generation=4)
        capture.see(flow(port=5432, attempts=2, failures={Failure.REFUSED: 2}, last_errno=111))
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=4):
            await recorder.until(recorder.complete)
            hello = recorder.streams[0][0].hello
            assert (hello.stack, hello.vcd, hello.generation, hello.plan) == ("shop", "web", 4, "scripted")
            assert [(probe.name, probe.problem) for probe in hello.probes] == [
                ("connect4", ""),
                ("connect6", "no such hook"),
            ]
            edge = recorder.known()[5432]
            assert (edge.attempts, edge.failures[0].count, edge.last_errno) == (2, 2, 111)
            assert recorder.edges()[-1].generation == 4

    asyncio.run(scene())


def test_sends_only_what_changed(socket_path: Path) -> None:
    """After the table only changed edges are sent, and a heartbeat when there are none."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        capture.see(flow(port=1, attempts=1), flow(port=2, attempts=1))
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=1):
            await recorder.until(lambda: recorder.complete() and recorder.said("heartbeat"))
            capture.see(flow(port=2, attempts=2), urgent=False)
            await recorder.until(lambda: recorder.known()[2].attempts == 2)
            assert [edge.port for edge in recorder.edges()[-1].edges] == [2]
            assert not recorder.edges()[-1].complete
            revisions = [message.revision for message in recorder.edges()]
            assert revisions == sorted(set(revisions))

    asyncio.run(scene())


def test_a_large_table_comes_in_chunks(socket_path: Path) -> None:
    """No message holds more edges than a chunk, and only the last one of the table is marked complete."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        capture.see(*(flow(port=port, attempts=1) for port in range(1, 2 * CHUNK + 204)))
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=1):
            await recorder.until(recorder.complete)
            assert [len(message.edges) for message in recorder.edges()] == [CHUNK, CHUNK, 203]
            assert [message.complete for message in recorder.edges()] == [False, False, True]

    asyncio.run(scene())


def test_urgent_news_are_soon_and_few(socket_path: Path) -> None:
    """A first sighting is told within a fraction of the interval, a storm of them in ten messages a second."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=1):
            await recorder.until(lambda: recorder.said("heartbeat"))
            begin_s, before = time.monotonic(), len(recorder.edges())
            capture.see(flow(port=1, attempts=1))
            await recorder.until(lambda: 1 in recorder.known())
            assert time.monotonic() - begin_s < INTERVAL_S / 2
            for port in range(2, 400):
                capture.see(flow(port=port, attempts=1))
                await asyncio.sleep(0)
                if port % 40 == 0:
                    await recorder.until(lambda port=port: port in recorder.known())  # type: ignore[misc]
            await recorder.until(lambda: 399 in recorder.known())
            lasted_s = time.monotonic() - begin_s
            assert len(recorder.edges()) - before <= 10 * lasted_s + lasted_s / INTERVAL_S + 2

    asyncio.run(scene())


def test_who_doubts_the_stream_says_something_at_once(socket_path: Path) -> None:
    """An agent with nothing to say finds out within a fraction of the interval whether the manager still knows it."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        async with (
            served(recorder, socket_path) as target,
            reporting(capture, target, generation=1) as reporter,
        ):
            await recorder.until(lambda: recorder.said("heartbeat"))
            begin_s, before = time.monotonic(), len(recorder.said("heartbeat"))
            reporter.doubt()
            await recorder.until(lambda: len(recorder.said("heartbeat")) > before)
            assert time.monotonic() - begin_s < INTERVAL_S / 2
            await recorder.until(lambda: len(recorder.said("heartbeat")) > before + 1)
            assert time.monotonic() - begin_s < 3 * INTERVAL_S

    asyncio.run(scene())


def test_a_manager_that_returns_knows_all_within_an_interval(socket_path: Path) -> None:
    """A manager killed and started again on the same path has the whole table one interval later."""

    async def scene() -> None:
        capture, first, second = ScriptedCapture(), Recorder(), Recorder()
        capture.see(flow(port=1, attempts=1), flow(port=2, attempts=1))
        target = f"unix:{socket_path}"
        async with reporting(capture, target, generation=1):
            async with served(first, socket_path):
                await first.until(first.complete)
            capture.see(flow(port=2, attempts=7))
            await asyncio.sleep(
                3 * INTERVAL_S
            )  # the time that the manager is away: the back-off reaches its end
            async with served(second, socket_path):
                begin_s = time.monotonic()
                await second.until(second.complete)
                assert time.monotonic() - begin_s < INTERVAL_S + 0.2
                assert {port: edge.attempts for port, edge in second.known().items()} == {1: 1, 2: 7}
                assert second.said("hello")[0].hello.session == first.said("hello")[0].hello.session

    asyncio.run(scene())


def test_a_newer_generation_starts_anew(socket_path: Path) -> None:
    """On a newer generation the agent clears, greets again under a new session, and sends its table whole."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder(generation=1)
        capture.see(flow(port=1, attempts=5), flow(port=2, attempts=5, open=1))
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=1):
            await recorder.until(recorder.complete)
            await recorder.tell(welcome(2))
            await recorder.until(lambda: any(edges.complete for edges in recorder.edges()[1:]))
            before, after = (request.hello for request in recorder.said("hello"))
            assert after.generation == 2
            assert after.session != before.session
            table = next(message for message in recorder.edges() if message.generation == 2)
            assert [(edge.port, edge.attempts, edge.open) for edge in table.edges] == [(2, 0, 1)]
            assert len(recorder.streams) == 1

    asyncio.run(scene())


def test_the_first_generation_forgets_nothing(socket_path: Path) -> None:
    """An agent that knew no generation takes on the manager's and keeps what it saw before."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder(generation=3)
        capture.see(flow(port=1, attempts=5))
        async with served(recorder, socket_path) as target, reporting(capture, target):
            await recorder.until(recorder.complete)
            assert [request.hello.generation for request in recorder.said("hello")] == [0, 3]
            assert recorder.edges()[0].generation == 3
            assert recorder.known()[1].attempts == 5

    asyncio.run(scene())


def test_a_pending_attempt_grows_old(socket_path: Path) -> None:
    """An attempt without an answer is reported every interval, with its age."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        since_ns = time.monotonic_ns() - 2_000_000_000
        capture.see(flow(port=1, attempts=1, pending=1, oldest_pending_ns=since_ns))
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=1):
            await recorder.until(lambda: len(recorder.edges()) >= 3)
            ages = [message.edges[0].oldest_pending_age_ms for message in recorder.edges()[:3]]
            assert ages[0] >= 2000
            assert ages == sorted(set(ages))

    asyncio.run(scene())


def test_losses_are_told(socket_path: Path) -> None:
    """Losses are sent when they change, counted from the beginning of the session."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        capture.lost = {Loss.MAP_FULL: 3}
        async with served(recorder, socket_path) as target, reporting(capture, target, generation=1):
            await recorder.until(lambda: recorder.said("heartbeat"))
            assert not recorder.said("coverage")
            capture.lost = {Loss.MAP_FULL: 5}
            await recorder.until(lambda: recorder.said("coverage"))
            assert list(recorder.said("coverage")[0].coverage.losses) == [
                agent_pb2.Loss(reason=agent_pb2.LOSS_REASON_MAP_FULL, count=2)
            ]

    asyncio.run(scene())


def test_leaves_a_manager_that_says_nothing(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that does not answer the greeting in time is called anew."""
    monkeypatch.setattr(dma.stream, "PEER_TIMEOUT_S", 0.3)

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder(answers=False)
        async with served(recorder, socket_path) as target, reporting(capture, target) as reporter:
            await recorder.until(lambda: len(recorder.streams) >= 2 and recorder.streams[1])
            assert reporter.greeted.is_set()
            recorder.answers = True
            await recorder.until(recorder.complete)

    asyncio.run(scene())


def test_a_refusal_is_asked_again(socket_path: Path) -> None:
    """An agent that is refused, as by a manager that knows no such stack yet, comes back until it is not."""

    async def scene() -> None:
        capture, recorder = ScriptedCapture(), Recorder()
        recorder.refusal = "no stack is deployed here"
        async with served(recorder, socket_path) as target, reporting(capture, target):
            await recorder.until(lambda: len(recorder.streams) >= 4)
            recorder.refusal = ""
            await recorder.until(recorder.complete)

    asyncio.run(scene())
