"""Stacks behind a service registry, and registries that are dead, slow or lying."""

import asyncio
import os
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from dm.v1 import agent_pb2, stack_pb2
from dm.v1 import golden_service_pb2 as golden
from dm.v1 import stack_service_pb2 as stacks
from dm.v1.agent_service_pb2 import ReportRequest
from tests.dm.peer import Peer, manager
from tests.dma.capture.lab import SERVER_V4, Cable, Caller, cable
from tests.dma.recorder import Recorder, served
from tests.dma.test_run import agent
from tests.lab.consul import Consul
from tests.lab.namespace import Namespace

pytestmark = pytest.mark.kernel

DEADLINE_S = 15.0
ONE_LAUNCH, ANOTHER = "198.18.66", "198.18.67"
CALLS = 20
SLOW_S = 5.0


@pytest.fixture
def network() -> Iterator[Cable]:
    """A client's namespace, and a server's that answers at every address of two networks."""
    with cable(f"registry{os.getpid()}") as made:
        for prefix in (ONE_LAUNCH, ANOTHER):
            made.in_server("ip", "route", "add", "local", f"{prefix}.0/24", "dev", "lo")
            made.in_client("ip", "route", "add", f"{prefix}.0/24", "via", SERVER_V4)
        yield made


@asynccontextmanager
async def watched(network: Cable, directory: Path, target: str, *arguments: str) -> AsyncIterator[None]:
    """An agent of the client's machine that has attached and greeted."""
    await asyncio.to_thread(directory.mkdir)
    options = ("--dm", target, "--netns", str(network.client_netns), "--no-reverse-dns", *arguments)
    with agent(directory, *options) as running:
        assert await asyncio.to_thread(running.told) == "READY=1"
        yield


async def declare(peer: Peer, prefix: str) -> None:
    """Declare a stack in which web calls on two others, launched at these addresses."""
    places = {"web": "1", "api": "10", "db": "11"}
    vcds = [
        stack_pb2.VcdSpec(name=name, addresses=[ip_address(f"{prefix}.{host}").packed])
        for name, host in places.items()
    ]
    spec = stack_pb2.StackSpec(name="pair", fingerprint="f", vcds=vcds, launch=prefix)
    await peer.stacks.ApplyStack(stacks.ApplyStackRequest(stack=spec), timeout=DEADLINE_S)


async def depends(peer: Peer, wanted: set[str]) -> None:
    """Wait until web calls on this and nothing else."""
    found: set[str] = set()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while found != wanted:
                graph = await peer.stacks.GetGraph(stacks.GetGraphRequest(stack="pair"))
                live = [edge for edge in graph.edges if edge.addresses]
                found = {f"{edge.target}:{edge.service or edge.port}" for edge in live}
                await asyncio.sleep(0.05)
    except TimeoutError as e:
        raise AssertionError(f"the edges are {found}") from e


async def differences(peer: Peer) -> list[str]:
    """What tells the live stack from its golden image."""
    asked = golden.DiffGoldenRequest(id="pair")
    return list((await peer.golden.DiffGolden(asked, timeout=DEADLINE_S)).lines)


def test_a_stack_on_random_ports_equals_its_golden_image(network: Cable, tmp_path: Path) -> None:
    """Launched at other addresses and other ports, services that Consul knows are the same dependencies."""

    async def launch(peer: Peer, consul: Consul, application: Caller, prefix: str) -> None:
        await declare(peer, prefix)
        places = {"orders": f"{prefix}.10", "metrics": f"{prefix}.10", "rows": f"{prefix}.11"}
        with ExitStack() as stack:
            ports = {}
            for service, address in places.items():
                listener = stack.enter_context(network.server_socket(socket.SOCK_STREAM))
                ports[service] = listener.getsockname()[1]
                await asyncio.to_thread(consul.register, service, address, ports[service])
            target = f"unix:{tmp_path}/dm.sock"
            options = ("--stack", "pair", "--consul", consul.url)
            async with (
                peer.agent("api") as api,
                peer.agent("db") as db,
                watched(network, tmp_path / prefix, target, *options),
            ):
                for service, address in places.items():
                    call = f"start('{prefix} {service}', v4, '{address}', {ports[service]})"
                    await asyncio.to_thread(application, call)
                await depends(peer, {"api:orders", "api:metrics", "db:rows"})
                await api.report()
                await db.report()
                if prefix == ONE_LAUNCH:
                    request = golden.CaptureGoldenRequest(stack="pair")
                    await peer.golden.CaptureGolden(request, timeout=DEADLINE_S)
                assert await differences(peer) == []
            for service, address in places.items():
                await asyncio.to_thread(application, f"end('{prefix} {service}')")
                await asyncio.to_thread(consul.deregister, address, ports[service])

    async def story(consul: Consul, application: Caller) -> None:
        async with manager(tmp_path) as peer:
            for prefix in (ONE_LAUNCH, ANOTHER):
                await launch(peer, consul, application, prefix)

    with (
        Consul(Namespace(network.server), SERVER_V4, tmp_path / "consul") as consul,
        Caller(network.client) as application,
    ):
        asyncio.run(story(consul, application))


class Stopwatch(Recorder):
    """A manager that notes when it was first told of an edge to a port."""

    def __init__(self) -> None:
        super().__init__()
        self.told_s: dict[int, float] = {}

    async def _read(self, requests: AsyncIterator[ReportRequest], said: list[ReportRequest]) -> None:
        async def noting() -> AsyncIterator[ReportRequest]:
            async for request in requests:
                for edge in request.edges.edges:
                    self.told_s.setdefault(edge.port, time.monotonic())
                yield request

        await super()._read(noting(), said)


@contextmanager
def answering(network: Cable, port: int, *, after_s: float, body: bytes) -> Iterator[None]:
    """A server that answers whatever it is asked, but late, or with this over and over."""
    stopped, listener = threading.Event(), network.server_socket(socket.SOCK_STREAM, port)
    head = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Type: application/json\r\n\r\n"

    def answer(taken: socket.socket) -> None:
        with taken, suppress(OSError):
            taken.recv(1 << 16)
            if stopped.wait(after_s):
                return
            taken.sendall(head)
            while body and not stopped.is_set():
                taken.sendall(body)

    def accept() -> None:
        threads = []
        with suppress(OSError):  # shut down
            while True:
                threads.append(threading.Thread(target=answer, args=(listener.accept()[0],)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()


async def latencies(network: Cable, directory: Path, *arguments: str) -> tuple[list[float], set[int]]:
    """Seconds from each call of an application to its being told to the manager, and what was told to be lost."""
    recorder = Stopwatch()
    with Caller(network.client) as application:
        async with (
            served(recorder, directory.with_suffix(".sock")) as target,
            watched(network, directory, target, *arguments),
        ):
            called_s = {}
            for port in range(30001, 30001 + CALLS):
                called_s[port] = time.monotonic()
                await asyncio.to_thread(application, f"call(v4, '{SERVER_V4}', {port})")
                await recorder.until(partial(recorder.told_s.__contains__, port))
            lost = {loss.reason for one in recorder.said("coverage") for loss in one.coverage.losses}
            return [recorder.told_s[port] - called_s[port] for port in called_s], set(map(int, lost))


def test_edges_wait_for_no_registry(network: Cable, tmp_path: Path) -> None:
    """With one registry dead, one slow and one that never stops talking, edges arrive as fast as without naming.

    That names may be missing is told.
    """
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[consul]\nurl = "http://{SERVER_V4}:9001"\n'
        f'[etcd]\nurls = ["http://{SERVER_V4}:9002"]\n'
        f'[registry]\nlocation = "http://{SERVER_V4}:9003/"\ninterval_s = 0.2\n'
    )

    async def both() -> tuple[list[float], list[float]]:
        without, lost = await latencies(network, tmp_path / "without", "--no-passive-dns")
        assert agent_pb2.LOSS_REASON_NAMES not in lost
        with_all, lost = await latencies(network, tmp_path / "with", "--config", str(config))
        assert agent_pb2.LOSS_REASON_NAMES in lost
        return without, with_all

    with (
        answering(network, 9002, after_s=SLOW_S, body=b""),
        answering(network, 9003, after_s=0.0, body=b'[{"service": "liar", "ip": "198.18.5.2"},' * 1000),
    ):
        without, with_all = asyncio.run(both())
    assert statistics.median(with_all) <= statistics.median(without) + 0.1, (without, with_all)
